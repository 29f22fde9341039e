//! What changed between two plans.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use model::{IpFamily, NamespacedName, Protocol};

use crate::{Endpoint, HealthCheck, NodeFacts, Plan, PortKey, PortPlan};

/// What changed in both families since the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanDiff {
    /// IPv4.
    pub v4: FamilyDiff,
    /// IPv6.
    pub v6: FamilyDiff,
}

/// What changed in one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FamilyDiff {
    /// Service ports that are new, gone or different, sorted by key.
    pub ports: Vec<PortChange>,
    /// The new node facts, where they differ.
    pub node: Option<Arc<NodeFacts>>,
    /// The new [`Plan::endpoint_count`], where it differs.
    pub endpoint_count: Option<usize>,
    /// Health check ports that are new, gone or report another count, sorted by Service.
    pub health: Vec<HealthChange>,
    /// Connection-tracking entries that must go once the change is in the kernel. Not part of the
    /// plan: what to do about flows that a former plan let in.
    pub stale_flows: Vec<StaleFlows>,
    /// `last_change_trigger` of the EndpointSlices behind this diff, seconds since the epoch: what
    /// `network_programming_duration_seconds` counts from. Not part of the plan either.
    pub triggers: Vec<i64>,
}

/// One Service port before and after; at least one is there, and they differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortChange {
    /// As it was.
    pub before: Option<Arc<PortPlan>>,
    /// As it is now.
    pub after: Option<Arc<PortPlan>>,
}

/// The health check port of one Service before and after; at least one is there, and they differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthChange {
    /// The Service.
    pub service: NamespacedName,
    /// As it was.
    pub before: Option<HealthCheck>,
    /// As it is now.
    pub after: Option<HealthCheck>,
}

/// Connection-tracking entries that would keep sending a client where nobody answers.
///
/// UDP and SCTP clients reuse their ports, so an entry made for a former endpoint, or one made
/// without NAT while the Service had none, would live on for as long as the client keeps trying.
/// To go: every entry of `protocol` whose original destination is one of `frontends` and whose
/// reply source is not in `keep`. Flows to endpoints that still serve are never named, so a
/// restart breaks none of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleFlows {
    /// Which Service port they belong to.
    pub port: PortKey,
    /// UDP or SCTP.
    pub protocol: Protocol,
    /// Where the flows were sent to.
    pub frontends: Vec<FlowFrontend>,
    /// Flows to these stay, sorted. Empty: none stay, for the Service has lost its last endpoint.
    pub keep: Arc<[Endpoint]>,
}

/// The original destination of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlowFrontend {
    /// This address and port.
    Address(IpAddr, NonZeroU16),
    /// This port on any of the node's addresses that answer for NodePorts.
    NodePort(NonZeroU16),
}

impl PlanDiff {
    /// Nothing changed.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// The change of one family.
    pub fn family(&self, family: IpFamily) -> &FamilyDiff {
        match family {
            IpFamily::V4 => &self.v4,
            IpFamily::V6 => &self.v6,
        }
    }

    pub(crate) fn family_mut(&mut self, family: IpFamily) -> &mut FamilyDiff {
        match family {
            IpFamily::V4 => &mut self.v4,
            IpFamily::V6 => &mut self.v6,
        }
    }
}

impl FamilyDiff {
    /// Nothing about the plan changed. (`triggers` do not count.)
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
            && self.node.is_none()
            && self.endpoint_count.is_none()
            && self.health.is_empty()
            && self.stale_flows.is_empty()
    }
}

impl PortChange {
    /// Which port changed; `None` only for a change without either side, which the planner never
    /// makes.
    pub fn key(&self) -> Option<PortKey> {
        self.after
            .as_ref()
            .or(self.before.as_ref())
            .map(|port| port.key())
    }
}

impl Plan {
    /// Brings a copy of the plan that the diff started from to where the planner's own now is.
    pub fn apply(&mut self, diff: &FamilyDiff) {
        for change in &diff.ports {
            match (&change.before, &change.after) {
                (_, Some(after)) => {
                    self.ports.insert(after.key(), after.clone());
                }
                (Some(before), None) => {
                    self.ports.remove(&before.key());
                }
                (None, None) => {}
            }
        }
        for change in &diff.health {
            match change.after {
                Some(check) => self.health_checks.insert(change.service.clone(), check),
                None => self.health_checks.remove(&change.service),
            };
        }
        if let Some(count) = diff.endpoint_count {
            self.endpoint_count = count;
        }
        if let Some(node) = &diff.node {
            self.node = node.clone();
        }
    }

    /// What turns `before` into `self`, by comparing them whole: for a consumer that held on to an
    /// old plan. Without [`StaleFlows`] and triggers, which only the planner knows.
    pub fn diff_from(&self, before: &Plan) -> FamilyDiff {
        let mut diff = FamilyDiff::default();
        let keys: BTreeSet<_> = before.ports.keys().chain(self.ports.keys()).collect();
        for key in keys {
            let (before, after) = (before.ports.get(key), self.ports.get(key));
            if before != after {
                let (before, after) = (before.cloned(), after.cloned());
                diff.ports.push(PortChange { before, after });
            }
        }
        let services = before.health_checks.keys().chain(self.health_checks.keys());
        for service in services.collect::<BTreeSet<_>>() {
            let before = before.health_checks.get(service).copied();
            let after = self.health_checks.get(service).copied();
            if before != after {
                let service = service.clone();
                diff.health.push(HealthChange {
                    service,
                    before,
                    after,
                });
            }
        }
        diff.endpoint_count =
            (before.endpoint_count != self.endpoint_count).then_some(self.endpoint_count);
        diff.node = (before.node != self.node).then(|| self.node.clone());
        diff
    }
}
