//! Changes that the kernel of one family has not committed yet.

use std::collections::{BTreeMap, BTreeSet};

use model::NamespacedName;
use plan::{FamilyDiff, HealthCheck, PortChange, PortKey, PortPlan, StaleFlows, Traffic};

/// Everything that changed since the last successful sync. Contains keys only; the values are in the
/// plan.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// Service ports that may differ from what the mode has written.
    pub(crate) ports: BTreeSet<PortKey>,
    /// The new health check of each Service whose health check changed.
    pub(crate) health: BTreeMap<NamespacedName, Option<HealthCheck>>,
    /// By how much the number of ports that drop traffic without a local endpoint changes.
    pub(crate) dropping: Dropping,
    /// Flows that connection tracking must forget once the change is in the kernel.
    pub(crate) stale_flows: Vec<StaleFlows>,
    /// See [`FamilyDiff::triggers`].
    pub(crate) triggers: Vec<i64>,
}

/// Numbers of Service ports that drop traffic because no endpoint is on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dropping {
    /// Traffic to the cluster IP.
    pub(crate) internal: i64,
    /// Traffic from outside.
    pub(crate) external: i64,
}

impl Pending {
    /// Add a later change.
    pub(crate) fn add(&mut self, diff: FamilyDiff) {
        self.ports
            .extend(diff.ports.iter().filter_map(PortChange::key));
        for change in &diff.ports {
            self.dropping.count(change.before.as_deref(), -1);
            self.dropping.count(change.after.as_deref(), 1);
        }
        let health = diff.health.into_iter();
        self.health
            .extend(health.map(|change| (change.service, change.after)));
        self.stale_flows.extend(diff.stale_flows);
        self.triggers.extend(diff.triggers);
    }
}

impl Dropping {
    /// Count a port `by` times.
    pub(crate) fn count(&mut self, port: Option<&PortPlan>, by: i64) {
        let Some(port) = port else { return };
        if port.internal_traffic() == Traffic::Drop {
            self.internal += by;
        }
        if port.externally_accessible() && port.external_traffic() == Traffic::Drop {
            self.external += by;
        }
    }
}
