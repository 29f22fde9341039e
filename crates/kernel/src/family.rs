//! The address families in the kernel.

pub use netfilter::iptables::Family;

/// Return the other family.
pub(crate) fn other(family: Family) -> Family {
    match family {
        Family::Ipv4 => Family::Ipv6,
        Family::Ipv6 => Family::Ipv4,
    }
}

/// Return whether this kernel supports the family: with `ipv6.disable=1` it lacks IPv6, and nothing can be
/// programmed for it.
pub fn in_kernel(family: Family) -> bool {
    match family {
        Family::Ipv4 => true,
        Family::Ipv6 => std::path::Path::new("/proc/thread-self/net/if_inet6").exists(),
    }
}

/// Return the family's number in netlink messages: `AF_INET` or `AF_INET6`.
pub fn number(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 2,
        Family::Ipv6 => 10,
    }
}
