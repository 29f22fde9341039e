//! The nftables mode: one table in each family, in which Services and endpoints are elements of
//! sets and maps and nothing else.
//!
//! A new connection to a cluster IP meets a lookup in the set of these, a few more that tell how many
//! endpoints it has (see `pick`), and one in `endpoints`, from (address, protocol, port, random index)
//! to an endpoint:
//!
//! ```text
//! chain services { ... ip daddr . meta l4proto . th dport @cluster-ip-ports goto pick ... }
//! chain pick     { ... ip daddr . meta l4proto . th dport . 8 @endpoint-counts goto pick-10 ... }
//! chain pick-10  { dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 10 map @endpoints }
//! ```
//!
//! So a changed endpoint is one element deleted and one added, whatever the size of the cluster, and
//! there is no rule that grows with it. Frontends that want more than that, masquerading, external
//! policy Local, affinity, are in the verdict map `service-ips`, NodePorts in `service-nodeports`.
//!
//! [`State`] is what the kernel has; [`State::change`] makes the operations for a change, and
//! [`State::commit`] takes them in once the kernel has. [`Sync`] is the state machine around it: it
//! reads back, repairs, and finds the Service that the kernel refuses.

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

use netfilter::nft::text;
use plan::Plan;

pub use crate::nft_table::table_family;
pub use anchor::{ANCHOR, ANCHOR_COMMENT, anchor};
pub use names::{LOCAL_INDEX, SetId, TABLE};
pub use pick::{At, Pick, Role};
pub use state::{Change, State, Target};
pub use sync::{Expected, Outcome, Step, Sync, Transport};

/// What the operator decides for this mode.
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
    /// The bit as a mark.
    pub fn masquerade_mark(&self) -> u32 {
        1 << (self.masquerade_bit & 31)
    }
}

/// The table of a plan as `nft -f` reads it. What its language has no words for, learning a client's
/// endpoint, stands there as a comment; such a Service is balanced without affinity.
pub fn render(plan: &Plan, options: Options) -> String {
    let state = State::lower(plan, options);
    text::table_text(table_family(plan.family), TABLE, &state.contents())
}
