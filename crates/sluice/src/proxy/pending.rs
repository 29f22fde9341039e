//! What the kernel of one family does not have yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use plan::{FamilyDiff, NodeFacts, PortChange, PortKey, StaleFlows};

/// All that changed since the last sync that succeeded, as one change: a Service port that came
/// and went meanwhile is not in it.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    ports: BTreeMap<PortKey, PortChange>,
    /// The node's facts, where they changed.
    pub(crate) node: Option<Arc<NodeFacts>>,
    /// The number of endpoints, where it changed.
    pub(crate) endpoint_count: Option<usize>,
    /// Flows to remove once the change is in the kernel.
    pub(crate) stale_flows: Vec<StaleFlows>,
    /// Time stamps of the slices behind the change, seconds since the epoch.
    pub(crate) triggers: Vec<i64>,
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
        self.node = diff.node.or(self.node.take());
        self.endpoint_count = diff.endpoint_count.or(self.endpoint_count);
        self.stale_flows.extend(diff.stale_flows);
        self.triggers.extend(diff.triggers);
    }

    /// The change to the plan, in the form that the modes take.
    pub(crate) fn diff(&self) -> FamilyDiff {
        FamilyDiff {
            ports: self.ports.values().cloned().collect(),
            node: self.node.clone(),
            endpoint_count: self.endpoint_count,
            ..FamilyDiff::default()
        }
    }
}
