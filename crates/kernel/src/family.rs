//! What the kernel makes of the address families.

pub use netfilter::iptables::Family;

/// The family that is not this one.
pub(crate) fn other(family: Family) -> Family {
    match family {
        Family::Ipv4 => Family::Ipv6,
        Family::Ipv6 => Family::Ipv4,
    }
}

/// Whether this kernel has the family at all: IPv6 is gone when booted with `ipv6.disable=1`,
/// and then nothing of it can be programmed.
pub fn in_kernel(family: Family) -> bool {
    match family {
        Family::Ipv4 => true,
        Family::Ipv6 => std::path::Path::new("/proc/thread-self/net/if_inet6").exists(),
    }
}

/// The number that netlink messages carry for a family: `AF_INET` or `AF_INET6`.
pub fn number(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 2,
        Family::Ipv6 => 10,
    }
}
