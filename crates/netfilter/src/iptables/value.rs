//! Values that conditions compare with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::name::Family;

/// A condition that can be negated with `!`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Negatable<T> {
    /// The condition is true if the value does not match.
    pub negated: bool,
    /// The compared value.
    pub value: T,
}

impl<T> Negatable<T> {
    /// Return a condition that is true if the value matches.
    pub const fn is(value: T) -> Self {
        Self {
            negated: false,
            value,
        }
    }

    /// Return a condition that is true if the value does not match.
    pub const fn not(value: T) -> Self {
        Self {
            negated: true,
            value,
        }
    }

    /// Return whether the condition is true, given whether the value matches.
    pub fn holds(&self, matches: impl FnOnce(&T) -> bool) -> bool {
        matches(&self.value) != self.negated
    }
}

/// Addresses that are equal to [`Net::addr`] in the bits of [`Net::mask`]. The mask need not be a
/// prefix. Bits outside the mask are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Net {
    addr: IpAddr,
    mask: IpAddr,
}

impl Net {
    /// Return an address and a mask; `None` if their families differ.
    pub fn new(addr: IpAddr, mask: IpAddr) -> Option<Self> {
        let addr = match (addr, mask) {
            (IpAddr::V4(a), IpAddr::V4(m)) => IpAddr::V4(a & m),
            (IpAddr::V6(a), IpAddr::V6(m)) => IpAddr::V6(a & m),
            _ => return None,
        };
        Some(Self { addr, mask })
    }

    /// Return a single address.
    pub fn host(addr: IpAddr) -> Self {
        Self {
            addr,
            mask: Family::of(addr).host_mask(),
        }
    }

    /// Return the address, bits outside the mask zero.
    pub fn addr(&self) -> IpAddr {
        self.addr
    }

    /// Return the mask.
    pub fn mask(&self) -> IpAddr {
        self.mask
    }

    /// Return the length of the mask, if it is a prefix.
    pub fn prefix_len(&self) -> Option<u8> {
        let (ones, leading) = match self.mask {
            IpAddr::V4(m) => (m.to_bits().count_ones(), m.to_bits().leading_ones()),
            IpAddr::V6(m) => (m.to_bits().count_ones(), m.to_bits().leading_ones()),
        };
        (ones == leading).then_some(leading as u8)
    }

    /// Return whether the address is in the range; false for an address of the other family.
    pub fn contains(&self, addr: IpAddr) -> bool {
        match (addr, self.mask, self.addr) {
            (IpAddr::V4(a), IpAddr::V4(m), IpAddr::V4(n)) => a & m == n,
            (IpAddr::V6(a), IpAddr::V6(m), IpAddr::V6(n)) => a & m == n,
            _ => false,
        }
    }

    /// Return whether every address of the family is in the range.
    pub fn is_everything(&self) -> bool {
        self.mask.is_unspecified()
    }
}

/// Host bits are masked off.
impl From<IpNet> for Net {
    fn from(net: IpNet) -> Self {
        match net {
            IpNet::V4(n) => Self {
                addr: IpAddr::V4(n.network()),
                mask: IpAddr::V4(n.netmask()),
            },
            IpNet::V6(n) => Self {
                addr: IpAddr::V6(n.network()),
                mask: IpAddr::V6(n.netmask()),
            },
        }
    }
}

impl From<IpAddr> for Net {
    fn from(addr: IpAddr) -> Self {
        Self::host(addr)
    }
}

impl From<Ipv4Addr> for Net {
    fn from(addr: Ipv4Addr) -> Self {
        Self::host(addr.into())
    }
}

impl From<Ipv6Addr> for Net {
    fn from(addr: Ipv6Addr) -> Self {
        Self::host(addr.into())
    }
}

/// An interface name, or a prefix of names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Interface {
    /// Exactly this name.
    Name(Box<str>),
    /// A prefix, written with a `+` at its end; empty for every interface.
    Prefix(Box<str>),
}

impl Interface {
    /// Return whether an interface of this name matches.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Interface::Name(n) => **n == *name,
            Interface::Prefix(p) => name.starts_with(&**p),
        }
    }
}

/// The number in the IP header's protocol field, or the last next-header of IPv6 (IANA).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP.
    pub const ICMP: Protocol = Protocol(1);
    /// TCP.
    pub const TCP: Protocol = Protocol(6);
    /// UDP.
    pub const UDP: Protocol = Protocol(17);
    /// ICMPv6.
    pub const ICMPV6: Protocol = Protocol(58);
    /// SCTP.
    pub const SCTP: Protocol = Protocol(132);

    // The names built into iptables 1.8.9, then those of Debian's /etc/protocols.
    const NAMES: &'static [(u8, &'static str)] = &[
        (6, "tcp"),
        (132, "sctp"),
        (17, "udp"),
        (136, "udplite"),
        (1, "icmp"),
        (58, "ipv6-icmp"),
        (50, "esp"),
        (51, "ah"),
        (135, "ipv6-mh"),
        (33, "dccp"),
        (2, "igmp"),
        (4, "ipencap"),
        (41, "ipv6"),
        (47, "gre"),
        (89, "ospf"),
        (103, "pim"),
        (108, "ipcomp"),
        (112, "vrrp"),
        (115, "l2tp"),
    ];

    const ALIASES: &'static [(u8, &'static str)] = &[
        (58, "icmpv6"),
        (58, "icmp6"),
        (135, "mobility-header"),
        (135, "mh"),
        (50, "ipv6-crypt"),
        (51, "ipv6-auth"),
        (4, "ipip"),
        (4, "ipv4"),
    ];

    /// Return the name in the output of iptables-save, if the protocol has one.
    pub fn name(self) -> Option<&'static str> {
        let found = Self::NAMES.iter().find(|(n, _)| *n == self.0);
        found.map(|(_, name)| *name)
    }

    /// Return the protocol of a name (in either case) or number.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(number) = text.parse() {
            return Some(Protocol(number));
        }
        let mut names = Self::NAMES.iter().chain(Self::ALIASES);
        let found = names.find(|(_, name)| name.eq_ignore_ascii_case(text));
        found.map(|(number, _)| Protocol(*number))
    }
}

/// A range of ports, inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl PortRange {
    /// Return a single port.
    pub const fn single(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }

    /// Return whether the port is in the range.
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl From<u16> for PortRange {
    fn from(port: u16) -> Self {
        Self::single(port)
    }
}
