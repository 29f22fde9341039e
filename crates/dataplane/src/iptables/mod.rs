//! The iptables mode: kube-proxy v1.36's chains and rules, rule for rule.
//!
//! [`Mode`] keeps, for one family, what is wanted and what is known to be in the kernel: shared
//! [`PortPlan`](plan::PortPlan)s, never rules. Rules are made when they are written, for the
//! Service ports that changed; so memory and the cost of a change do not follow the cluster. A
//! [`Transaction`] is one input for `iptables-restore --noflush`.
//!
//! What is in the kernel is learnt by [`Observation`], from what `iptables-save` prints: on start,
//! after a failure, and when a canary is gone. Chains whose rules are right are left alone.

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
#[cfg(test)]
mod tests;
mod transaction;

pub use cleanup::{cleanup, is_fixed_chain, leftovers};
pub use mode::{Mode, NeedsObservation};
pub use observe::Observation;
pub use options::{Nfacct, Options};
pub use problem::Problem;
pub use render::{Rendered, render};
pub use transaction::{RuleCounts, Transaction};
