//! The packet in question.

use std::fmt;
use std::net::IpAddr;

/// A packet at the start of its path through this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address; of the same family as `dst`.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Transport protocol.
    pub proto: Proto,
    /// Source port; for ICMP, the type.
    pub sport: u16,
    /// Destination port; for ICMP, the code.
    pub dport: u16,
    /// The interface through which it enters; `None` for the one that leads to `src`. Not used for
    /// packets from the node itself.
    pub in_iface: Option<String>,
    /// Where it starts.
    pub from: Origin,
    /// What connection tracking knows about its connection.
    pub ct: CtState,
    /// Its initial mark (`SO_MARK`, or one set by a device).
    pub mark: u32,
}

impl Packet {
    /// Return the first packet of a connection, from port 50000, without a mark.
    pub fn new(from: Origin, src: IpAddr, dst: IpAddr, proto: Proto, dport: u16) -> Self {
        let icmp = proto.is_icmp();
        Self {
            src,
            dst,
            proto,
            sport: match proto {
                Proto::ICMP => 8,
                Proto::ICMPV6 => 128,
                _ => 50_000,
            },
            dport: if icmp { 0 } else { dport },
            in_iface: None,
            from,
            ct: CtState::New,
            mark: 0,
        }
    }
}

/// Where a packet starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// A pod of this node.
    Pod,
    /// The node itself: a process in its own network namespace.
    Node,
    /// Another node, a pod of another node, or beyond.
    Outside,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Pod => "a pod of this node",
            Origin::Node => "this node",
            Origin::Outside => "outside",
        })
    }
}

/// An IP protocol number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Proto(pub u8);

impl Proto {
    /// 1.
    pub const ICMP: Proto = Proto(1);
    /// 6.
    pub const TCP: Proto = Proto(6);
    /// 17.
    pub const UDP: Proto = Proto(17);
    /// 58.
    pub const ICMPV6: Proto = Proto(58);
    /// 132.
    pub const SCTP: Proto = Proto(132);

    /// Parse a name from `/etc/protocols` (those common in rules) or a number.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "icmp" => Self::ICMP,
            "tcp" => Self::TCP,
            "udp" => Self::UDP,
            "icmpv6" | "ipv6-icmp" => Self::ICMPV6,
            "sctp" => Self::SCTP,
            "igmp" => Proto(2),
            "dccp" => Proto(33),
            "gre" => Proto(47),
            "esp" => Proto(50),
            "ah" => Proto(51),
            "vrrp" => Proto(112),
            "udplite" => Proto(136),
            other => Proto(other.parse().ok()?),
        })
    }

    /// Return whether it is ICMP, of either family.
    pub fn is_icmp(self) -> bool {
        matches!(self, Proto::ICMP | Proto::ICMPV6)
    }

    /// Return whether its header starts with source and destination port.
    pub fn has_ports(self) -> bool {
        matches!(self.0, 6 | 17 | 33 | 132 | 136)
    }
}

/// The name, or the number of protocols without a name here.
impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            1 => "icmp",
            6 => "tcp",
            17 => "udp",
            58 => "ipv6-icmp",
            132 => "sctp",
            other => return write!(f, "{other}"),
        })
    }
}

/// What connection tracking knows about the packet's connection when it arrives.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum CtState {
    /// Nothing: the packet opens the connection.
    #[default]
    New,
    /// It belongs to a known connection.
    Established(Flow),
    /// It belongs to a connection that another connection announced, or is an ICMP error about a
    /// connection and is translated like that connection's packets.
    Related(Flow),
    /// Connection tracking cannot assign it.
    Invalid,
}

/// Connection tracking's entry for an established connection.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Flow {
    /// Whether the packet is in the reply direction.
    pub reply: bool,
    /// The translation of the first packet's destination.
    pub dnat: Option<Rewrite>,
    /// The translation of the first packet's source.
    pub snat: Option<Rewrite>,
    /// The connection's mark.
    pub mark: u32,
}

/// Address and port of the connection's first packet before and after NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rewrite {
    /// Before.
    pub before: Endpoint,
    /// After.
    pub after: Endpoint,
}

/// An address with a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The address.
    pub ip: IpAddr,
    /// The port; 0 for protocols without ports.
    pub port: u16,
}

/// `10.0.0.1:80`, `[fd00::1]:80`; without the port if it is 0.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.ip, self.port) {
            (ip, 0) => write!(f, "{ip}"),
            (IpAddr::V4(ip), port) => write!(f, "{ip}:{port}"),
            (IpAddr::V6(ip), port) => write!(f, "[{ip}]:{port}"),
        }
    }
}
