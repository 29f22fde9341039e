//! What the kernel of one family does not have yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::NamespacedName;
use plan::{FamilyDiff, HealthChange, NodeFacts, PortChange, PortKey, StaleFlows};

/// All that changed since the last sync that succeeded, as one change: a Service port that came
/// and went meanwhile is not in it.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    ports: BTreeMap<PortKey, PortChange>,
    health: BTreeMap<NamespacedName, HealthChange>,
    /// The node's facts, where they changed.
    pub(crate) node: Option<Arc<NodeFacts>>,
    endpoint_count: Option<usize>,
    stale_flows: Vec<StaleFlows>,
    triggers: Vec<i64>,
}

impl Pending {
    /// Adds a later change.
    pub(crate) fn add(&mut self, diff: FamilyDiff) {
        for change in diff.ports {
            let Some(key) = change.key() else { continue };
            let before = match self.ports.remove(&key) {
                Some(earlier) => earlier.before,
                None => change.before,
            };
            if before != change.after {
                let after = change.after;
                self.ports.insert(key, PortChange { before, after });
            }
        }
        for mut change in diff.health {
            if let Some(earlier) = self.health.remove(&change.service) {
                change.before = earlier.before;
            }
            if change.before != change.after {
                self.health.insert(change.service.clone(), change);
            }
        }
        self.node = diff.node.or(self.node.take());
        self.endpoint_count = diff.endpoint_count.or(self.endpoint_count);
        self.stale_flows.extend(diff.stale_flows);
        self.triggers.extend(diff.triggers);
    }

    /// The change to the plan, in the form that the modes take.
    pub(crate) fn diff(&self) -> FamilyDiff {
        FamilyDiff {
            ports: self.ports.values().cloned().collect(),
            health: self.health.values().cloned().collect(),
            node: self.node.clone(),
            endpoint_count: self.endpoint_count,
            ..FamilyDiff::default()
        }
    }

    /// Everything, now that the kernel has it: also what is not part of the plan.
    pub(crate) fn into_diff(self) -> FamilyDiff {
        FamilyDiff {
            ports: self.ports.into_values().collect(),
            health: self.health.into_values().collect(),
            node: self.node,
            endpoint_count: self.endpoint_count,
            stale_flows: self.stale_flows,
            triggers: self.triggers,
        }
    }
}
