//! What the sync machine asks of a proxy mode.

use std::collections::BTreeMap;
use std::time::Instant;

use model::IpFamily;
use plan::{Plan, PortKey, StaleFlows};

use super::pending::Pending;

/// One address family of one proxy mode, at the kernel. Owns what it knows to be applied.
pub(crate) trait Driver {
    /// Writes what changed since the last sync that succeeded.
    fn sync(&mut self, plan: &Plan, pending: &Pending) -> Result<Synced, SyncError>;

    /// Reads the kernel's state back, compares it with the whole plan and writes the difference.
    fn resync(&mut self, plan: &Plan) -> Result<Synced, SyncError>;

    /// Whether somebody else changed what this mode had written. Cheap; finding nothing is no
    /// proof.
    fn disturbed(&mut self) -> bool;

    /// The host's addresses have changed; whether that takes a sync although no plan changed.
    fn host_addresses_changed(&mut self) -> bool {
        false
    }

    /// Flows that connection tracking is to forget now that a sync has succeeded, as the plan has
    /// them; whether a mode's flows lead to endpoints is for the mode to say.
    fn stale_flows(&self, flows: Vec<StaleFlows>) -> Vec<StaleFlows> {
        flows
    }

    /// When [`attend`](Self::attend) should be called next.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// Sees to what goes on beside syncs.
    fn attend(&mut self) {}
}

/// A sync that the kernel has committed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Synced {
    /// Service ports that are left out, with the reason. Everything else is served.
    pub(crate) quarantined: BTreeMap<PortKey, String>,
    /// Rules by table, where the mode has them: in the kernel, and written by this sync.
    pub(crate) rules: Vec<RuleCount>,
}

/// Rules of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuleCount {
    /// The table's name.
    pub(crate) table: &'static str,
    /// In the kernel now.
    pub(crate) total: usize,
    /// Written by the last sync.
    pub(crate) written: usize,
}

/// A sync that did not reach the kernel; what was applied before is in force.
#[derive(Debug, thiserror::Error)]
#[error("{family}: {reason}")]
pub(crate) struct SyncError {
    pub(crate) family: IpFamily,
    pub(crate) reason: String,
}
