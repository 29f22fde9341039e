//! Differences between plans.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use model::{IpFamily, NamespacedName, Protocol};

use crate::{Endpoint, Frontend, FrontendKind, HealthCheck, NodeFacts, Plan, PortKey, PortPlan};

/// Changes in both families since the last call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanDiff {
    /// IPv4.
    pub v4: FamilyDiff,
    /// IPv6.
    pub v6: FamilyDiff,
}

/// Changes in one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FamilyDiff {
    /// Added, removed and changed Service ports, sorted by key.
    pub ports: Vec<PortChange>,
    /// The new node facts, if changed.
    pub node: Option<Arc<NodeFacts>>,
    /// The new [`Plan::endpoint_count`], if changed.
    pub endpoint_count: Option<usize>,
    /// Added, removed and changed health checks, sorted by Service.
    pub health: Vec<HealthChange>,
    /// Connection-tracking entries to remove once the kernel has the change. Not part of the plan.
    pub stale_flows: Vec<StaleFlows>,
    /// `last_change_trigger` of the EndpointSlices behind this diff, in seconds since the epoch:
    /// the start of `network_programming_duration_seconds`. Not part of the plan.
    pub triggers: Vec<i64>,
}

/// A Service port before and after a change; at least one is present, and they differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortChange {
    /// Before the change.
    pub before: Option<Arc<PortPlan>>,
    /// After the change.
    pub after: Option<Arc<PortPlan>>,
}

/// A health check before and after a change; at least one is present, and they differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthChange {
    /// The Service.
    pub service: NamespacedName,
    /// Before the change.
    pub before: Option<HealthCheck>,
    /// After the change.
    pub after: Option<HealthCheck>,
}

/// Connection-tracking entries that would keep sending a client to an endpoint that does not answer.
///
/// UDP and SCTP clients reuse their ports, and a TCP client repeats its SYN. An entry made for a
/// removed endpoint, or one made without NAT while the Service had no endpoints, would last for as
/// long as the client keeps trying. To be deleted: every entry of the port's protocol whose original
/// destination is one of [`frontends`](Self::frontends) and whose reply source is not in `keep`. Flows
/// to endpoints that still serve are never named, so a restart breaks none of them.
///
/// Of TCP only half-open entries are stale: in state SYN_SENT, without a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleFlows {
    /// The Service port after the change.
    pub port: Arc<PortPlan>,
    /// Frontends of the port whose flows are not stale.
    pub current: Vec<FlowFrontend>,
    /// Flows to these stay, sorted. Empty if the Service has lost its last endpoint: none stay.
    pub keep: Arc<[Endpoint]>,
}

/// The original destination of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlowFrontend {
    /// This address and port.
    Address(IpAddr, NonZeroU16),
    /// This port on any address that answers for NodePorts.
    NodePort(NonZeroU16),
}

impl StaleFlows {
    /// Return the protocol of the flows.
    pub fn protocol(&self) -> Protocol {
        self.port.protocol
    }

    /// Return the original destinations of the flows.
    pub fn frontends(&self) -> impl Iterator<Item = FlowFrontend> + '_ {
        let frontends = self
            .port
            .frontends()
            .filter_map(|frontend| FlowFrontend::of(&frontend));
        frontends.filter(|frontend| !self.current.contains(frontend))
    }
}

impl FlowFrontend {
    /// Return the destination of flows to a frontend.
    pub(crate) fn of(frontend: &Frontend) -> Option<Self> {
        match frontend.kind {
            FrontendKind::NodePort => Some(Self::NodePort(frontend.port)),
            _ => Some(Self::Address(frontend.ip?, frontend.port)),
        }
    }
}

impl PlanDiff {
    /// Return whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Return the change of one family.
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
    /// Return whether the plan is unchanged. (`triggers` do not count.)
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
            && self.node.is_none()
            && self.endpoint_count.is_none()
            && self.health.is_empty()
            && self.stale_flows.is_empty()
    }
}

impl PortChange {
    /// Return the key of the port; `None` only without either side, which the planner never
    /// produces.
    pub fn key(&self) -> Option<PortKey> {
        self.after
            .as_ref()
            .or(self.before.as_ref())
            .map(|port| port.key())
    }
}

impl Plan {
    /// Apply a diff to a copy of the plan on which it is based.
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

    /// Return the diff from `before` to `self` by a full comparison, for consumers of an old plan.
    /// Without [`StaleFlows`] and triggers, which only the planner knows.
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
