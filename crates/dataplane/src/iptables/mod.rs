//! iptables mode: kube-proxy v1.36's chains and rules, rule for rule.
//!
//! [`Sync`] decides for one family what to read and write; the I/O is behind [`Transport`]. It
//! stores the known state of the kernel as shared [`PortPlan`](plan::PortPlan)s, never as rules.
//! Rules are made when they are written, for the Service ports that changed, so that memory and the
//! cost of a change do not grow with the cluster. They are written to an [`Output`]: one input for
//! `iptables-restore --noflush` ([`RestoreText`]), or nf_tables messages ([`Netlink`]).
//!
//! An [`Observation`] is the state that was read: at start, after a failure, and after another
//! program's change. Chains whose rules are correct are left alone.

mod cleanup;
mod handles;
mod jumps;
mod lower;
mod mode;
mod names;
mod netlink;
mod observe;
mod options;
mod output;
mod problem;
mod render;
mod resync;
mod sync;
#[cfg(test)]
mod tests;
mod transaction;

use model::IpFamily;

use crate::Extension;

pub use cleanup::{cleanup, is_chain, is_fixed_chain, leftovers};
pub use mode::{Mode, NeedsObservation};
pub use netlink::{BatchFailure, Guard, Kernel, Netlink, NetlinkError};
pub use observe::{Observation, Observer};
pub use options::{Nfacct, Options};
pub use output::{Before, Output, RestoreText};
pub use problem::Problem;
pub use render::{Rendered, render};
pub use sync::{Counts, Failure, FailureKind, ReadError, Sync, SyncError, Transport};
pub use transaction::{RuleCounts, Transaction};

/// Return the matches and targets that the rules need.
pub fn extensions(family: IpFamily) -> Vec<Extension> {
    crate::feature::of_iptables(family)
}
