//! The tables of iptables-legacy: the kernel's blobs as chains of rules, and those as typed rules.
//!
//! The kernel has one blob per table (`struct ipt_entry` and `struct ip6t_entry` of
//! `linux/netfilter_ipv4/ip_tables.h` and `linux/netfilter_ipv6/ip6_tables.h`, one after the other). A
//! jump is the offset of its target in the blob. [`RawTable`] has chains instead of offsets and keeps
//! every rule byte for byte, so that a table can be written back without some of its chains.
//! [`RawTable::table_state`] decodes the rules.

mod apply;
mod blob;
mod fuzz;
mod layout;
mod rules;
#[cfg(test)]
mod tests;
mod write;

use blob::Jump;
pub use blob::{RawChain, RawRule, RawTable};
pub use fuzz::fuzz_one;
use layout::HOOK_NAMES;
pub use layout::{HOOKS, Info};
pub use write::{Blob, Origin};

/// A blob that violates the kernel's rules for tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed table: {0}")]
pub struct Malformed(pub &'static str);
