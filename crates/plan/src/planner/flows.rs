//! Stale flows of a change.

use crate::{FlowFrontend, FrontendKind, PortChange, PortPlan, StaleFlows};

/// Return the flows that a change of a port makes stale.
///
/// Like kube-proxy 1.37, and unlike 1.36, this includes the flows of a port that loses its last
/// endpoint: they would otherwise go to the dead endpoint for as long as the client retries
/// (kubernetes/kubernetes issue 139629). Like kube-proxy, keep flows of a removed Service or
/// address, and flows to endpoints that still serve but that a policy no longer selects.
pub(super) fn stale(change: &PortChange) -> Option<StaleFlows> {
    let after = change.after.as_ref()?;
    let keep = &after.flow_endpoints;
    let known = frontends(change.before.as_deref());
    let had: &[_] = match &change.before {
        Some(before) => &before.flow_endpoints,
        None => &[],
    };
    let lost = had.iter().any(|e| keep.binary_search(e).is_err());
    // Without endpoints, packets may have passed without NAT.
    let woke = had.is_empty() && !keep.is_empty();
    let mut frontends = frontends(Some(after));
    if !lost && !woke {
        frontends.retain(|frontend| !known.contains(frontend));
        if keep.is_empty() {
            return None;
        }
    }
    if frontends.is_empty() {
        return None;
    }
    Some(StaleFlows {
        port: after.key(),
        protocol: after.protocol,
        frontends,
        keep: keep.clone(),
    })
}

fn frontends(port: Option<&PortPlan>) -> Vec<FlowFrontend> {
    let frontends = port.into_iter().flat_map(PortPlan::frontends);
    let mut targets: Vec<_> = frontends
        .filter_map(|frontend| match (frontend.kind, frontend.ip) {
            (FrontendKind::NodePort, _) => Some(FlowFrontend::NodePort(frontend.port)),
            (_, ip) => Some(FlowFrontend::Address(ip?, frontend.port)),
        })
        .collect();
    targets.sort_unstable();
    targets.dedup();
    targets
}
