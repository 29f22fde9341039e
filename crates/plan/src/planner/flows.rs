//! Stale flows of a change.

use crate::{Endpoint, FlowFrontend, PortChange, StaleFlows};

/// Return the flows that a change of a port makes stale.
///
/// Like kube-proxy 1.37, and unlike 1.36, this includes the flows of a port that loses its last
/// endpoint: they would otherwise go to the dead endpoint for as long as the client retries
/// (kubernetes/kubernetes issue 139629). Like kube-proxy, keep flows of a removed Service or
/// address, and flows to endpoints that still serve but that a policy no longer selects.
pub(super) fn stale(change: &PortChange) -> Option<StaleFlows> {
    let after = change.after.as_ref()?;
    let keep = &after.flow_endpoints;
    let had: &[_] = match &change.before {
        Some(before) => &before.flow_endpoints,
        None => &[],
    };
    let lost = !is_subset(had, keep);
    if keep.is_empty() && !lost {
        return None;
    }
    // Without endpoints, packets may have passed without NAT.
    let woke = had.is_empty();
    let current = match &change.before {
        Some(before) if !lost && !woke => before
            .frontends()
            .filter_map(|frontend| FlowFrontend::of(&frontend))
            .collect(),
        _ => Vec::new(),
    };
    let flows = StaleFlows {
        port: after.clone(),
        current,
        keep: keep.clone(),
    };
    flows.frontends().next()?;
    Some(flows)
}

/// Return whether one sorted list contains every element of another.
fn is_subset(part: &[Endpoint], all: &[Endpoint]) -> bool {
    let mut all = all.iter();
    part.iter()
        .all(|endpoint| all.any(|other| other == endpoint))
}
