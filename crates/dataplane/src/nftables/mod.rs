//! nftables mode: one table per family with constant rules, in which Services and endpoints are only
//! elements of sets and maps.
//!
//! A new connection to a cluster IP takes a lookup in the set of cluster IPs, a few to find the number
//! of endpoints (see `pick`), and one in `endpoints`, from (address, protocol, port, random index) to
//! an endpoint:
//!
//! ```text
//! chain services { ip daddr 10.96.0.0/12 goto cluster-ip-services ... }
//! chain cluster-ip-services { ... ip daddr . meta l4proto . th dport @cluster-ip-ports goto pick ... }
//! chain pick     { ... ip daddr . meta l4proto . th dport . 8 @endpoint-counts goto pick-10 ... }
//! chain pick-10  { dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 10 map @endpoints }
//! ```
//!
//! A changed endpoint is one element deleted and one added, whatever the size of the cluster; no rule
//! grows with it. Frontends that need more, masquerading, external policy Local, source ranges or affinity,
//! and those that drop or refuse, are in the verdict map `service-ips`, NodePorts in `service-nodeports`.
//!
//! Base chains are nat chains, so that packets of known connections pass no rule, except for one that refuses
//! NodePorts without endpoints among the packets that the node itself receives.
//!
//! [`State`] is the known state of the table: [`State::change`] returns the operations of a change, and
//! [`State::commit`] applies them after the kernel has committed. [`Sync`] is the state machine around
//! it, which reads, repairs, and finds the Service port that the kernel refuses.

mod anchor;
mod elements;
mod names;
mod pick;
mod readback;
mod skeleton;
mod state;
mod sync;

#[cfg(test)]
mod tests;

use model::IpFamily;
use netfilter::nft::{Op, text};
use plan::Plan;

use crate::Feature;
use crate::nft_table::features;
pub use crate::nft_table::table_family;
pub use anchor::{ANCHOR, ANCHOR_COMMENT, anchor};
pub use names::{LOCAL_INDEX, SetId, TABLE};
pub use pick::{At, Pick, Role};
pub use state::{Change, State, Target};
pub use sync::{Expected, Outcome, Step, Sync, Transport};

/// The operator's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `nftables.masqueradeBit`: the bit of the packet mark, 0 to 31, that asks for masquerading.
    pub masquerade_bit: u8,
}

impl Default for Options {
    fn default() -> Self {
        Self { masquerade_bit: 14 }
    }
}

impl Options {
    /// Return the bit as a mark.
    pub fn masquerade_mark(&self) -> u32 {
        1 << (self.masquerade_bit & 31)
    }
}

/// Return the features of the kernel that the table needs, each with an operation on a new table that
/// the kernel refuses without it. The first is that of the table itself.
pub fn features(family: IpFamily) -> Vec<(Feature, Op)> {
    features::balanced(family)
}

/// Return the table of a plan for `nft -f`. nft syntax cannot express the learning of a client's
/// endpoint, which is a comment; such a Service is balanced without affinity.
pub fn render(plan: &Plan, options: Options) -> String {
    let state = State::lower(plan, options);
    text::table_text(table_family(plan.family), TABLE, &state.contents())
}
