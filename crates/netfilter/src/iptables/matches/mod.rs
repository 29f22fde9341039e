//! Match extensions (`-m`). Names and meanings are those of iptables-extensions(8).

mod conntrack;

use std::net::IpAddr;

use super::{Negatable, Net, PortRange, Protocol};

pub use conntrack::{CtDirection, CtState, CtStates, CtStatus, CtStatuses, MatchConntrack};

/// One match extension of a rule.
///
/// The variants that a rule of kube-proxy's can have are small and in place; the rarer ones are
/// boxed, since a large cluster has 300,000 rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// `comment`: holds for every packet. At most 255 bytes.
    Comment(Box<str>),
    /// `tcp`.
    Tcp(MatchTcp),
    /// `udp`.
    Udp(PortMatch),
    /// `sctp`, ports only; with `--chunk-types` it is an [`Extension`].
    Sctp(PortMatch),
    /// `multiport`.
    Multiport(Box<MatchMultiport>),
    /// `mark`: the packet's mark.
    Mark(Negatable<MarkMatch>),
    /// `connmark`: the connection's mark.
    Connmark(Negatable<MarkMatch>),
    /// `conntrack`.
    Conntrack(Box<MatchConntrack>),
    /// `state`, the older form of `conntrack --ctstate`.
    State(Negatable<CtStates>),
    /// `addrtype`.
    Addrtype(MatchAddrType),
    /// `statistic`.
    Statistic(Negatable<Statistic>),
    /// `recent`.
    Recent(Box<MatchRecent>),
    /// `nfacct`: counts in the object of this name; holds for every packet.
    Nfacct(Box<str>),
    /// `set`: membership in an ipset.
    Set(Box<MatchSet>),
    /// `physdev`: the bridge port.
    Physdev(Box<MatchPhysdev>),
    /// `limit`: a token bucket.
    Limit(MatchLimit),
    /// `icmp` and `icmp6`.
    Icmp(Negatable<IcmpType>),
    /// `rpfilter`: whether a reply would take the interface that the packet came in through.
    Rpfilter(MatchRpfilter),
    /// `owner`: the socket's owner, for locally made packets.
    Owner(Box<MatchOwner>),
    /// `ipvs`: what IPVS knows of the connection.
    Ipvs(Box<MatchIpvs>),
    /// `iprange`.
    IpRange(Box<MatchIpRange>),
    /// Any other extension, word for word.
    Unknown(Box<Extension>),
}

impl Match {
    /// Whether the match holds for every packet and does nothing.
    pub fn is_vacuous(&self) -> bool {
        match self {
            Match::Comment(_) => true,
            Match::Tcp(tcp) => *tcp == MatchTcp::default(),
            // Unlike `-m tcp` these too only exist beside `-p`, which the header holds.
            Match::Udp(ports) | Match::Sctp(ports) => *ports == PortMatch::default(),
            _ => false,
        }
    }

    /// Whether trying the match changes something, so that what stands before it matters.
    pub fn keeps_state(&self) -> bool {
        matches!(
            self,
            Match::Statistic(_)
                | Match::Recent(_)
                | Match::Nfacct(_)
                | Match::Limit(_)
                | Match::Set(_)
                | Match::Unknown(_)
        )
    }
}

/// An extension that is not modelled: its name and its words, without the `-m` or `-j`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Extension {
    /// The extension's name.
    pub name: Box<str>,
    /// Options and values in order, unquoted; `!` is a word of its own.
    pub words: Vec<Box<str>>,
}

/// Source and destination port. An absent condition holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortMatch {
    /// `--sport`.
    pub source: Option<Negatable<PortRange>>,
    /// `--dport`.
    pub destination: Option<Negatable<PortRange>>,
}

impl PortMatch {
    /// `--dport` alone.
    pub fn to(port: u16) -> Self {
        Self {
            source: None,
            destination: Some(Negatable::is(PortRange::single(port))),
        }
    }
}

/// `tcp`. An absent condition holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MatchTcp {
    /// `--sport`, `--dport`.
    pub ports: PortMatch,
    /// `--tcp-flags`, `--syn`.
    pub flags: Option<Negatable<TcpFlags>>,
    /// `--tcp-option`: the kind of an option that is there.
    pub option: Option<Negatable<u8>>,
}

impl From<PortMatch> for MatchTcp {
    fn from(ports: PortMatch) -> Self {
        Self {
            ports,
            ..Self::default()
        }
    }
}

/// Of the flags in `mask` exactly those in `set` are set. Bits as in the TCP header's byte 13:
/// FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct TcpFlags {
    pub mask: u8,
    pub set: u8,
}

impl TcpFlags {
    /// Names and bits, in the order in which iptables prints them.
    pub const NAMES: [(&'static str, u8); 6] = [
        ("FIN", 1),
        ("SYN", 2),
        ("RST", 4),
        ("PSH", 8),
        ("ACK", 16),
        ("URG", 32),
    ];
    /// `--syn`.
    pub const SYN: TcpFlags = TcpFlags {
        mask: 1 | 2 | 4 | 16,
        set: 2,
    };
}

/// `multiport`: one of up to 15 ports or ranges.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MatchMultiport {
    /// Which port is compared.
    pub side: PortSide,
    /// With what.
    pub ports: Negatable<Vec<PortRange>>,
}

/// `--sports`, `--dports`, `--ports`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum PortSide {
    Source,
    Destination,
    Either,
}

/// `mark & mask == value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct MarkMatch {
    pub value: u32,
    pub mask: u32,
}

/// `addrtype`: what the routing tables say an address is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MatchAddrType {
    /// `--src-type`.
    pub source: Option<Negatable<AddrTypes>>,
    /// `--dst-type`.
    pub destination: Option<Negatable<AddrTypes>>,
    /// `--limit-iface-in`: only of the interface that the packet came in through.
    pub limit_in: bool,
    /// `--limit-iface-out`: only of the interface through which the packet leaves.
    pub limit_out: bool,
}

impl MatchAddrType {
    /// `--dst-type LOCAL`.
    pub const DESTINATION_LOCAL: MatchAddrType = MatchAddrType {
        source: None,
        destination: Some(Negatable::is(AddrTypes::of(AddrType::Local))),
        limit_in: false,
        limit_out: false,
    };
    /// `--src-type LOCAL`.
    pub const SOURCE_LOCAL: MatchAddrType = MatchAddrType {
        source: Some(Negatable::is(AddrTypes::of(AddrType::Local))),
        destination: None,
        limit_in: false,
        limit_out: false,
    };
}

/// A type of address (`RTN_*` of `linux/rtnetlink.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
#[repr(u16)]
pub enum AddrType {
    Unspec = 1,
    Unicast = 2,
    Local = 4,
    Broadcast = 8,
    Anycast = 16,
    Multicast = 32,
    Blackhole = 64,
    Unreachable = 128,
    Prohibit = 256,
    Throw = 512,
    Nat = 1024,
    Xresolve = 2048,
}

impl AddrType {
    /// Names, in the order in which iptables prints them.
    pub const NAMES: [(&'static str, AddrType); 12] = [
        ("UNSPEC", AddrType::Unspec),
        ("UNICAST", AddrType::Unicast),
        ("LOCAL", AddrType::Local),
        ("BROADCAST", AddrType::Broadcast),
        ("ANYCAST", AddrType::Anycast),
        ("MULTICAST", AddrType::Multicast),
        ("BLACKHOLE", AddrType::Blackhole),
        ("UNREACHABLE", AddrType::Unreachable),
        ("PROHIBIT", AddrType::Prohibit),
        ("THROW", AddrType::Throw),
        ("NAT", AddrType::Nat),
        ("XRESOLVE", AddrType::Xresolve),
    ];
}

/// A set of address types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AddrTypes(u16);

impl AddrTypes {
    /// The set of this one alone.
    pub const fn of(kind: AddrType) -> Self {
        Self(kind as u16)
    }

    /// Whether the type is in the set.
    pub fn contains(self, kind: AddrType) -> bool {
        self.0 & kind as u16 != 0
    }

    /// The set with this one added.
    #[must_use]
    pub fn with(self, kind: AddrType) -> Self {
        Self(self.0 | kind as u16)
    }

    /// Whether no type is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// `statistic`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Statistic {
    /// `--mode random`.
    Random(Probability),
    /// `--mode nth`: one packet in `every`, the one at `packet` (from 0).
    #[allow(missing_docs)]
    Nth { every: u32, packet: u32 },
}

/// A probability as the kernel keeps it: a fraction of 2³¹ (`xt_statistic.h`). Holds where 31
/// random bits are less than it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Probability(pub u32);

impl Probability {
    /// What stands for 1.
    pub const ONE: Probability = Probability(1 << 31);

    /// As a fraction.
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / f64::from(Self::ONE.0)
    }
}

/// `recent`: a list of addresses with the times at which they were seen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MatchRecent {
    /// What is asked or done, and whether the answer is turned round.
    pub action: Negatable<RecentAction>,
    /// `--seconds`: only seen within this time.
    pub seconds: Option<u32>,
    /// `--reap`: drop what is older than `seconds`.
    pub reap: bool,
    /// `--hitcount`: seen at least so often.
    pub hit_count: Option<u32>,
    /// `--rttl`: the TTL must be the same too.
    pub ttl: bool,
    /// `--name`: which list.
    pub name: Box<str>,
    /// `--mask`: what of the address counts.
    pub mask: IpAddr,
    /// `--rdest` rather than `--rsource`.
    pub destination: bool,
}

/// What `recent` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecentAction {
    /// `--set`: put the address on the list; holds.
    Set,
    /// `--rcheck`: holds where the address is on the list.
    Check,
    /// `--update`: as `--rcheck`, and note the time.
    Update,
    /// `--remove`: take the address off the list; holds where it was on it.
    Remove,
}

/// `set`: whether the packet is in an ipset.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MatchSet {
    /// The set, and whether the packet must not be in it.
    pub name: Negatable<Box<str>>,
    /// What of the packet makes each part of the set's element, up to six.
    pub directions: Vec<SetDirection>,
    /// `--return-nomatch`: a `nomatch` element counts as a hit.
    pub return_nomatch: bool,
}

/// `src` or `dst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum SetDirection {
    Source,
    Destination,
}

/// `physdev`: every given condition must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MatchPhysdev {
    /// `--physdev-in`.
    pub in_port: Option<Negatable<super::Interface>>,
    /// `--physdev-out`.
    pub out_port: Option<Negatable<super::Interface>>,
    /// `--physdev-is-in`: came in through a bridge port; `false` where negated.
    pub is_in: Option<bool>,
    /// `--physdev-is-out`; `false` where negated.
    pub is_out: Option<bool>,
    /// `--physdev-is-bridged`; `false` where negated.
    pub is_bridged: Option<bool>,
}

/// `limit`: holds at most so often on average, with a burst. Not negatable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct MatchLimit {
    pub rate: u32,
    pub per: LimitUnit,
    pub burst: u32,
}

/// The time unit of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum LimitUnit {
    Second,
    Minute,
    Hour,
    Day,
}

/// Type and code of an ICMP or ICMPv6 message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IcmpType {
    /// `icmp6` rather than `icmp`.
    pub v6: bool,
    /// The type; 255 in IPv4 means any.
    pub kind: u8,
    /// The code; `None` means any.
    pub code: Option<u8>,
}

/// `rpfilter`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MatchRpfilter {
    /// `--loose`: any interface will do.
    pub loose: bool,
    /// `--validmark`: look the route up with the packet's mark.
    pub validmark: bool,
    /// `--accept-local`.
    pub accept_local: bool,
    /// `--invert`: holds where the test fails.
    pub invert: bool,
}

/// `owner`: every given condition must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MatchOwner {
    /// `--uid-owner`, from and to.
    pub uid: Option<Negatable<(u32, u32)>>,
    /// `--gid-owner`, from and to.
    pub gid: Option<Negatable<(u32, u32)>>,
    /// `--socket-exists`; `false` where negated.
    pub socket_exists: Option<bool>,
}

/// `ipvs`: every given condition must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MatchIpvs {
    /// `--ipvs`: an IPVS connection at all; `false` where negated.
    pub is_ipvs: Option<bool>,
    /// `--vproto`.
    pub protocol: Option<Negatable<Protocol>>,
    /// `--vaddr`: the virtual server's address.
    pub address: Option<Negatable<Net>>,
    /// `--vport`.
    pub port: Option<Negatable<u16>>,
    /// `--vdir`.
    pub direction: Option<IpvsDirection>,
    /// `--vmethod`: `GATE`, `IPIP` or `MASQ`.
    pub method: Option<Negatable<Box<str>>>,
    /// `--vportctl`.
    pub control_port: Option<Negatable<u16>>,
}

/// `--vdir`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum IpvsDirection {
    Original,
    Reply,
}

/// `iprange`: from and to, both meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MatchIpRange {
    /// `--src-range`.
    pub source: Option<Negatable<(IpAddr, IpAddr)>>,
    /// `--dst-range`.
    pub destination: Option<Negatable<(IpAddr, IpAddr)>>,
}
