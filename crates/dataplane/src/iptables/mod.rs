//! iptables mode: kube-proxy v1.36's chains and rules, rule for rule.
//!
//! [`Sync`] decides for one family what to read and write; the I/O is behind [`Transport`]. It
//! stores the known state of the kernel as shared [`PortPlan`](plan::PortPlan)s, never as rules.
//! Rules are made when they are written, for the Service ports that changed, so that memory and the
//! cost of a change do not grow with the cluster. A [`Transaction`] is one input for
//! `iptables-restore --noflush`.
//!
//! An [`Observation`] is the state read with `iptables-save`: at start, after a failure, and when a
//! canary is missing. Chains whose rules are correct are left alone.

mod cleanup;
mod jumps;
mod lower;
mod mode;
mod names;
mod observe;
mod options;
mod problem;
mod render;
mod resync;
mod sync;
#[cfg(test)]
mod tests;
mod transaction;

pub use cleanup::{cleanup, is_fixed_chain, leftovers};
pub use mode::{Mode, NeedsObservation};
pub use observe::Observation;
pub use options::{Nfacct, Options};
pub use problem::Problem;
pub use render::{Rendered, render};
pub use sync::{Counts, Failure, Sync, SyncError, Transport, Verified};
pub use transaction::{RuleCounts, Transaction};
