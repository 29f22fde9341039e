//! The interface between the sync state machine and a proxy mode.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;
use std::time::Instant;

use dataplane::{Found, Refusals};
use kernel::iptables::Backend;
use plan::{Plan, PortKey, StaleFlows};

use super::probe::Needs;

/// One address family of one proxy mode, connected to the kernel. Stores only its knowledge of the
/// kernel's state; the plan is passed with each call.
pub(crate) trait Driver {
    /// Write the Service ports that changed since the last successful sync. Node facts and counts
    /// are compared with those of the last sync by the mode itself.
    fn sync(&mut self, plan: &Plan, changed: &BTreeSet<PortKey>) -> Result<Synced, SyncError>;

    /// Read the kernel's state, compare it with the whole plan and write the difference.
    fn resync(&mut self, plan: &Plan) -> Result<Synced, SyncError>;

    /// Return whether another program changed the rules of this mode. The check is cheap and may miss
    /// changes.
    fn disturbed(&mut self, plan: &Plan) -> bool;

    /// Take note that the host's addresses changed. Return whether that requires a sync although
    /// the plan is unchanged.
    fn host_addresses_changed(&mut self, _plan: &Plan) -> bool {
        false
    }

    /// Translate the flows that connection tracking must forget after a successful sync from the
    /// plan's terms into the mode's: a mode may lead flows elsewhere than to endpoints.
    fn stale_flows(&self, flows: Vec<StaleFlows>) -> Vec<StaleFlows> {
        flows
    }

    /// Return the iptables back end that contains rules of this mode.
    fn iptables_backend(&self) -> Option<Backend> {
        None
    }

    /// The kernel features that this family needs.
    fn needs(&self) -> Vec<Needs> {
        Vec::new()
    }

    /// Return the time of the next call to [`attend`](Self::attend).
    fn due(&self) -> Option<Instant> {
        None
    }

    /// Do the work that is independent of syncs.
    fn attend(&mut self, _plan: &Plan) {}
}

/// The result of a sync that the kernel has committed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Synced {
    /// Service ports that are left out. All others are served.
    pub(crate) quarantined: Refusals,
    /// Rules by table, for the modes that count them.
    pub(crate) rules: Vec<RuleCount>,
    /// How many deletions of unused objects the kernel refused.
    pub(crate) cleanup_failures: u64,
    /// The kernel state that a resync found.
    pub(crate) found: Option<Found>,
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

/// Why a sync did not reach the kernel. The last committed state stays in force.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    /// The kernel's state could not be read, or nothing could be sent.
    #[error("{operation}")]
    Failed {
        /// What failed, as in "cannot read the table kube-proxy".
        operation: &'static str,
        source: Box<dyn Error + Send + Sync>,
    },
    /// The kernel rejects content that belongs to no single Service port; with its message.
    #[error("the kernel rejects {what}: {message}")]
    Rejected { what: &'static str, message: String },
    /// Other programs commit faster than this one can read.
    #[error("another program keeps changing nf_tables; find it with `nft monitor`")]
    Contended,
}

impl SyncError {
    /// Wrap the error of an operation.
    pub(crate) fn failed<E>(operation: &'static str) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        move |error| SyncError::Failed {
            operation,
            source: error.into(),
        }
    }
}

/// Displays an error with all its causes.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}
