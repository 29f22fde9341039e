//! ipvs mode: kube-proxy v1.36's virtual servers, ipsets, addresses and constant chains.
//!
//! [`Sync`] decides for one family what to read and write; the I/O is behind [`Transport`].
//! [`Mode`] stores the desired and the known state as counted pieces, since several Service ports
//! may own the same address or set element. A change updates only the pieces of its ports. A
//! [`Transaction`] contains the operations for each of the four kernel interfaces (rtnetlink,
//! ipset, iptables, IPVS), in an order in which no connection reaches a half-written Service.
//!
//! Removed endpoints terminate in two steps, see [`Termination`].

mod cleanup;
mod lower;
mod mode;
mod names;
mod observe;
mod options;
mod render;
mod rules;
mod sets;
mod sync;
mod termination;
#[cfg(test)]
mod tests;
mod transaction;
mod wanted;

use model::IpFamily;

use crate::Extension;

pub use cleanup::{Cleanup, cleanup, is_chain, leftovers};
pub use mode::{Mode, NeedsObservation, Unprogrammed};
pub use names::DEVICE;
pub use observe::{Observation, Seen};
pub use options::Options;
pub use render::{Rendered, render};
pub use sets::{SetType, is_ours as is_own_set};
pub use sync::{
    Addresses, RefusedAddress, RefusedElement, RefusedServer, RestoreFailure, Sync, SyncError,
    Transport,
};
pub use termination::Termination;
pub use transaction::Transaction;

/// Return the matches and targets that the rules need.
pub fn extensions(family: IpFamily) -> Vec<Extension> {
    crate::feature::of_ipvs(family)
}

/// Return the types of sets that the rules need.
pub fn set_types(family: IpFamily) -> Vec<SetType> {
    sets::types(family)
}
