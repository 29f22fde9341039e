//! iptables without its programs: the nf_tables back end over netlink ([`NftRules`]), the legacy back end
//! through its socket options ([`legacy`]), and the choice between them ([`Choice`]).
//!
//! `netfilter::iptables` defines the rules.

mod choose;
mod extensions;
pub mod legacy;
mod nft_rules;
mod rules;

#[cfg(test)]
mod tests;

use std::fmt;

use crate::{Family, netlink};

pub use netfilter::iptables::Table;

pub use choose::{Choice, Evidence, Reason, choose, kube_chains, legacy_tables};
pub use extensions::{ExtensionKind, Extensions};
pub use nft_rules::{Concerns, NftError, NftRules, Undecoded, is_about_chains};
pub use rules::{Rules, RulesError};

/// The kernel interface of the rules. Each back end's rules are invisible to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// `iptables-nft`: nf_tables.
    Nft,
    /// `iptables-legacy`: `ip_tables` and `ip6_tables`.
    Legacy,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Nft => "nft",
            Backend::Legacy => "legacy",
        })
    }
}

/// Why iptables cannot be used for a family.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This kernel has no IPv6: a single-family node, not a fault.
    #[error("{0} is disabled in this kernel")]
    FamilyDisabled(Family),
    /// The legacy tables cannot be accessed.
    #[error(transparent)]
    Legacy(#[from] legacy::LegacyError),
    /// nf_tables cannot be used.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
}
