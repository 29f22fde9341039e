//! Parts of nf_tables tables that nftables mode and userspace mode share: base chains, rules, the
//! difference between two sets of elements. Each mode has its own chains, sets and elements.

pub(crate) mod base;
pub(crate) mod build;
mod chains;
mod elements;
pub(crate) mod features;
mod ranges;

use model::IpFamily;
use netfilter::nft::{Expr, Family, Reject, consts};

pub(crate) use chains::{Chains, remake, with_rules};
pub(crate) use elements::{add_elements, delete_elements, difference};
pub(crate) use ranges::{enforce_source_ranges, source_range_elements};

/// Return the table family of an address family.
pub fn table_family(family: IpFamily) -> Family {
    match family {
        IpFamily::V4 => Family::Ip,
        IpFamily::V6 => Family::Ip6,
    }
}

/// The name of a set. Sets that refer to others follow them in the order of the type.
pub(crate) trait SetName: Copy + Ord {
    /// Return the name.
    fn set_name(self) -> &'static str;
}

/// Reject with "port unreachable".
pub(crate) fn reject(family: IpFamily) -> Expr {
    Expr::Reject(Reject::Icmp(match family {
        IpFamily::V4 => consts::ICMP_PORT_UNREACH,
        IpFamily::V6 => consts::ICMPV6_PORT_UNREACH,
    }))
}
