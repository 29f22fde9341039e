//! iptables rules as nf_tables rules, as iptables-nft writes and reads them.
//!
//! [`encode_rule`] writes the form that every release from 1.8.7 to 1.8.11 lists as the same rule:
//! native expressions for the header (`meta l4proto`, addresses, interfaces) and for `limit`, and
//! nft_compat matches and targets for the rest. [`decode_rule`] also reads the native ports, TCP
//! flags and marks of 1.8.9, the `ip protocol` of 1.8.11, and native `log` and `TRACE`; extensions that only
//! other programs use become words.
//!
//! The structures are those of the kernel's `linux/netfilter/xt_*.h` on a 64-bit little- or
//! big-endian machine, padded to eight bytes (`XT_ALIGN`). Extensions that name an ipset contain its
//! index in the kernel; [`SetIndex`] has the names.

mod chains;
mod decode;
mod encode;
mod foreign;
mod fuzz;
mod info;
pub(crate) mod matches;
mod restore;
mod sets;
mod state;
pub(crate) mod targets;
#[cfg(test)]
mod tests;

pub use chains::{base_chain, table_of};
pub use decode::{decode_rule, decode_rule_keeping, decode_rule_with};
pub use encode::{encode_rule, encode_rule_with};
pub use fuzz::fuzz_one;
pub use restore::{RestoreError, RestoreFault, restore};
pub use sets::SetIndex;
pub use state::{ReadChain, ReadRule, State};

use std::fmt::Write as _;

use crate::iptables::{Extension, Family};
use crate::nft;

/// An extension, or a use of one, without a known nf_tables form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not modelled")]
pub struct Unsupported(pub String);

impl Unsupported {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Unsupported(what.into())
    }
}

/// Return an extension that is not modelled. Its words contain the whole structure, so that the printed
/// rule is never taken for one with fewer conditions.
pub(crate) fn unknown_extension(name: &str, revision: u32, info: &[u8]) -> Extension {
    let hex = info.iter().fold("0x".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    let words = [
        "--revision".into(),
        revision.to_string(),
        "--info".into(),
        hex,
    ];
    Extension {
        name: name.into(),
        words: words.map(String::into_boxed_str).into(),
    }
}

/// Return the family of iptables-nft's tables for a family of rules.
pub fn nft_family(family: Family) -> nft::Family {
    match family {
        Family::Ipv4 => nft::Family::Ip,
        Family::Ipv6 => nft::Family::Ip6,
    }
}
