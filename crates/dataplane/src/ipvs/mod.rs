//! The ipvs mode: kube-proxy v1.36's virtual servers, ipsets, addresses and constant chains.
//!
//! [`Mode`] keeps, for one family, what is wanted and what is known to be in the kernel, as
//! counted pieces: an address or a set's member may be there on behalf of several Service ports.
//! Only the pieces of ports that changed are looked at. A [`Transaction`] is what each of the four
//! kernel interfaces (rtnetlink, ipset, iptables, IPVS) is to be told, in an order in which no
//! connection meets half of a Service.
//!
//! Endpoints that go are taken out in two steps, see [`Termination`].

mod cleanup;
mod lower;
mod mode;
mod names;
mod observe;
mod options;
mod render;
mod rules;
mod sets;
mod termination;
#[cfg(test)]
mod tests;
mod transaction;
mod wanted;

pub use cleanup::{Cleanup, cleanup, is_chain, leftovers};
pub use mode::{Lost, Mode, NeedsObservation};
pub use names::DEVICE;
pub use observe::{Observation, Seen};
pub use options::Options;
pub use render::{Rendered, render};
pub use sets::is_ours as is_set_of_ours;
pub use termination::Termination;
pub use transaction::Transaction;
