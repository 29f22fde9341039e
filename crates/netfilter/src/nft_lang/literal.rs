//! Literals, and the types of expressions.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Ct, FibField, FibLookup, Field, Item, Literal, Meta, Term, TermType};

/// IANA protocol numbers.
const PROTOCOLS: &[(&str, u64)] = &[
    ("tcp", 6),
    ("udp", 17),
    ("sctp", 132),
    ("icmp", 1),
    ("ipv6-icmp", 58),
    ("icmpv6", 58),
    ("igmp", 2),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("comp", 108),
    ("dccp", 33),
    ("udplite", 136),
    ("vrrp", 112),
    ("ipencap", 4),
    ("ipip", 4),
    ("ipv6", 41),
    ("l2tp", 115),
    ("ospf", 89),
    ("pim", 103),
];

/// IANA ICMP types.
const ICMP_TYPES: &[(&str, u64)] = &[
    ("echo-reply", 0),
    ("destination-unreachable", 3),
    ("source-quench", 4),
    ("redirect", 5),
    ("echo-request", 8),
    ("router-advertisement", 9),
    ("router-solicitation", 10),
    ("time-exceeded", 11),
    ("parameter-problem", 12),
    ("timestamp-request", 13),
    ("timestamp-reply", 14),
    ("info-request", 15),
    ("info-reply", 16),
    ("address-mask-request", 17),
    ("address-mask-reply", 18),
];

/// Codes of `Destination Unreachable`; nft prints them for every type.
const ICMP_CODES: &[(&str, u64)] = &[
    ("net-unreachable", 0),
    ("host-unreachable", 1),
    ("prot-unreachable", 2),
    ("port-unreachable", 3),
    ("frag-needed", 4),
    ("net-prohibited", 9),
    ("host-prohibited", 10),
    ("admin-prohibited", 13),
];

/// As [`ICMP_CODES`].
const ICMPV6_CODES: &[(&str, u64)] = &[
    ("no-route", 0),
    ("admin-prohibited", 1),
    ("addr-unreachable", 3),
    ("port-unreachable", 4),
    ("policy-fail", 5),
    ("reject-route", 6),
];

/// IANA ICMPv6 types.
const ICMPV6_TYPES: &[(&str, u64)] = &[
    ("destination-unreachable", 1),
    ("packet-too-big", 2),
    ("time-exceeded", 3),
    ("parameter-problem", 4),
    ("echo-request", 128),
    ("echo-reply", 129),
    ("mld-listener-query", 130),
    ("mld-listener-report", 131),
    ("mld-listener-done", 132),
    ("mld-listener-reduction", 132),
    ("nd-router-solicit", 133),
    ("nd-router-advert", 134),
    ("nd-neighbor-solicit", 135),
    ("nd-neighbor-advert", 136),
    ("nd-redirect", 137),
    ("mld2-listener-report", 143),
];

/// Services that `nft -S` prints most often, as old versions always do.
const SERVICES: &[(&str, u64)] = &[
    ("ssh", 22),
    ("domain", 53),
    ("bootps", 67),
    ("bootpc", 68),
    ("http", 80),
    ("ntp", 123),
    ("https", 443),
    ("dhcpv6-client", 546),
    ("dhcpv6-server", 547),
    ("mdns", 5353),
];

impl TermType {
    /// Return the type of a name after `type`.
    pub(super) fn parse(name: &str) -> Self {
        match name {
            "ipv4_addr" => Self::Ipv4Addr,
            "ipv6_addr" => Self::Ipv6Addr,
            "inet_service" => Self::InetService,
            "inet_proto" => Self::InetProto,
            "mark" => Self::Mark,
            "ifname" => Self::Ifname,
            "iface_index" => Self::IfaceIndex,
            "ct_state" => Self::CtState,
            "ct_status" => Self::CtStatus,
            "ct_dir" => Self::CtDir,
            "fib_addrtype" => Self::FibAddrtype,
            "nf_proto" => Self::NfProto,
            "ether_type" => Self::EtherType,
            "tcp_flag" => Self::TcpFlag,
            "icmp_type" => Self::IcmpType,
            "icmp_code" => Self::IcmpCode,
            "icmpv6_type" => Self::Icmpv6Type,
            "icmpv6_code" => Self::Icmpv6Code,
            "pkt_type" => Self::PktType,
            "integer" => Self::Integer,
            "verdict" => Self::Verdict,
            _ => Self::Other,
        }
    }

    /// Return whether values are sets of flags; an implicit comparison then matches any of them.
    pub fn is_flags(self) -> bool {
        matches!(self, Self::CtState | Self::CtStatus | Self::TcpFlag)
    }

    fn names(self) -> &'static [(&'static str, u64)] {
        match self {
            // `enum ip_conntrack_info` made into bits, as `nft_ct.c` does.
            Self::CtState => &[
                ("invalid", 1),
                ("established", 2),
                ("related", 4),
                ("new", 8),
                ("untracked", 64),
            ],
            // `enum ip_conntrack_status`.
            Self::CtStatus => &[
                ("expected", 1),
                ("seen-reply", 2),
                ("assured", 4),
                ("confirmed", 8),
                ("snat", 16),
                ("dnat", 32),
                ("dying", 512),
            ],
            Self::CtDir => &[("original", 0), ("reply", 1)],
            // `RTN_*` of `linux/rtnetlink.h`.
            Self::FibAddrtype => &[
                ("unspec", 0),
                ("unicast", 1),
                ("local", 2),
                ("broadcast", 3),
                ("anycast", 4),
                ("multicast", 5),
                ("blackhole", 6),
                ("unreachable", 7),
                ("prohibit", 8),
            ],
            Self::NfProto => &[("ipv4", 2), ("ipv6", 10)],
            Self::EtherType => &[
                ("ip", 0x0800),
                ("arp", 0x0806),
                ("ip6", 0x86dd),
                ("vlan", 0x8100),
            ],
            Self::TcpFlag => &[
                ("fin", 1),
                ("syn", 2),
                ("rst", 4),
                ("psh", 8),
                ("ack", 16),
                ("urg", 32),
                ("ecn", 64),
                ("cwr", 128),
            ],
            Self::InetProto => PROTOCOLS,
            Self::IcmpType => ICMP_TYPES,
            Self::IcmpCode => ICMP_CODES,
            Self::Icmpv6Type => ICMPV6_TYPES,
            Self::Icmpv6Code => ICMPV6_CODES,
            Self::PktType => &[
                ("host", 0),
                ("unicast", 0),
                ("broadcast", 1),
                ("multicast", 2),
                ("other", 3),
            ],
            Self::InetService => SERVICES,
            _ => &[],
        }
    }
}

impl Term {
    /// Return the types of the value's fields.
    pub fn types(&self) -> Vec<TermType> {
        match self {
            Term::Concat(parts) => parts.iter().flat_map(Term::types).collect(),
            other => vec![other.data_type()],
        }
    }

    /// Return the type of a value that is not a concatenation.
    pub fn data_type(&self) -> TermType {
        match self {
            Term::Field(f) => match f {
                Field::Saddr4 | Field::Daddr4 => TermType::Ipv4Addr,
                Field::Saddr6 | Field::Daddr6 => TermType::Ipv6Addr,
                Field::Protocol4 | Field::Nexthdr6 => TermType::InetProto,
                Field::Sport(_) | Field::Dport(_) => TermType::InetService,
                Field::TcpFlags => TermType::TcpFlag,
                Field::IcmpType => TermType::IcmpType,
                Field::IcmpCode => TermType::IcmpCode,
                Field::Icmpv6Type => TermType::Icmpv6Type,
                Field::Icmpv6Code => TermType::Icmpv6Code,
                Field::Version => TermType::Integer,
            },
            Term::Meta(m) => match m {
                Meta::L4proto => TermType::InetProto,
                Meta::Nfproto => TermType::NfProto,
                Meta::Protocol => TermType::EtherType,
                Meta::Mark => TermType::Mark,
                Meta::Iif | Meta::Oif => TermType::IfaceIndex,
                Meta::Iifname | Meta::Oifname => TermType::Ifname,
                Meta::Pkttype => TermType::PktType,
            },
            Term::Ct(c) => match c {
                Ct::State => TermType::CtState,
                Ct::Status => TermType::CtStatus,
                Ct::Mark => TermType::Mark,
                Ct::Direction => TermType::CtDir,
                Ct::Sport { .. } | Ct::Dport { .. } => TermType::InetService,
                Ct::Protocol => TermType::InetProto,
                Ct::L3proto => TermType::NfProto,
                Ct::Zone => TermType::Integer,
                Ct::Saddr { .. } | Ct::Daddr { .. } => TermType::Other,
            },
            Term::Fib(FibLookup { result, .. }) => match result {
                FibField::Type => TermType::FibAddrtype,
                FibField::Oif => TermType::IfaceIndex,
                FibField::Oifname => TermType::Ifname,
            },
            Term::Numgen { .. } | Term::Hash { .. } => TermType::Integer,
            Term::Binary { left, .. } => left.data_type(),
            _ => TermType::Other,
        }
    }
}

/// Parse a decimal or hexadecimal number.
pub(super) fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Parse a single value of a type.
pub(super) fn value(text: &str, of: TermType) -> Literal {
    if let Some((_, n)) = of.names().iter().find(|(name, _)| *name == text) {
        return Literal::Int(*n);
    }
    match of {
        TermType::Ifname | TermType::IfaceIndex => name(text),
        _ => {
            if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
                Literal::Ip(ip)
            } else if let Some(n) = number(text) {
                Literal::Int(n)
            } else {
                name(text)
            }
        }
    }
}

/// Parse a name; one that ends with `*` is a wildcard.
pub(super) fn name(text: &str) -> Literal {
    match text.strip_suffix('*') {
        Some(prefix) => Literal::Wildcard(prefix.into()),
        None => Literal::Text(text.into()),
    }
}

/// Parse a word that may be a range or a prefix.
pub(super) fn item(text: &str, of: TermType) -> Item {
    if matches!(of, TermType::Ifname | TermType::IfaceIndex) {
        return Item::Value(value(text, of));
    }
    if text.contains('/')
        && let Ok(net) = text.parse::<IpNet>()
    {
        return Item::Prefix(net.trunc());
    }
    // Some names contain a dash (`ipv6-icmp`).
    let named = of.names().iter().any(|(name, _)| *name == text);
    if let Some((a, b)) = text.split_once('-').filter(|_| !named) {
        let (first, last) = (value(a, of), value(b, of));
        let numbers = |v: &Literal| matches!(v, Literal::Int(_));
        let ips = |v: &Literal| matches!(v, Literal::Ip(_));
        if (numbers(&first) && numbers(&last)) || (ips(&first) && ips(&last)) {
            return Item::Range(first, last);
        }
    }
    Item::Value(value(text, of))
}

impl From<Item> for Term {
    fn from(item: Item) -> Self {
        match item {
            Item::Value(v) => Term::Value(v),
            Item::Range(a, b) => Term::Range(a, b),
            Item::Prefix(net) => Term::Prefix(net),
        }
    }
}

/// Return the field of a protocol's header.
pub(super) fn field(protocol: &str, name: &str) -> Option<Term> {
    let port_of = match protocol {
        "th" => Some(None),
        "tcp" => Some(Some(6)),
        "udp" => Some(Some(17)),
        "sctp" => Some(Some(132)),
        "dccp" => Some(Some(33)),
        "udplite" => Some(Some(136)),
        _ => None,
    };
    Some(Term::Field(match (protocol, name, port_of) {
        (_, "sport", Some(p)) => Field::Sport(p),
        (_, "dport", Some(p)) => Field::Dport(p),
        ("ip", "saddr", _) => Field::Saddr4,
        ("ip", "daddr", _) => Field::Daddr4,
        ("ip", "protocol", _) => Field::Protocol4,
        ("ip" | "ip6", "version", _) => Field::Version,
        ("ip6", "saddr", _) => Field::Saddr6,
        ("ip6", "daddr", _) => Field::Daddr6,
        ("ip6", "nexthdr", _) => Field::Nexthdr6,
        ("tcp", "flags", _) => Field::TcpFlags,
        ("icmp", "type", _) => Field::IcmpType,
        ("icmp", "code", _) => Field::IcmpCode,
        ("icmpv6", "type", _) => Field::Icmpv6Type,
        ("icmpv6", "code", _) => Field::Icmpv6Code,
        _ => return None,
    }))
}

/// Return a key of `meta`.
pub(super) fn meta(key: &str) -> Option<Term> {
    Some(Term::Meta(match key {
        "l4proto" => Meta::L4proto,
        "nfproto" => Meta::Nfproto,
        "protocol" => Meta::Protocol,
        "mark" => Meta::Mark,
        "iif" => Meta::Iif,
        "oif" => Meta::Oif,
        "iifname" => Meta::Iifname,
        "oifname" => Meta::Oifname,
        "pkttype" => Meta::Pkttype,
        _ => return None,
    }))
}

/// Return a key of `ct`, with a direction if the key has one.
pub(super) fn ct(key: &str, direction: Option<&str>) -> Option<Term> {
    let reply = match direction {
        None => None,
        Some("original") => Some(false),
        Some("reply") => Some(true),
        Some(_) => return None,
    };
    Some(Term::Ct(match (key, reply) {
        ("state", None) => Ct::State,
        ("status", None) => Ct::Status,
        ("mark", None) => Ct::Mark,
        ("direction", None) => Ct::Direction,
        ("zone", None) => Ct::Zone,
        ("protocol", _) => Ct::Protocol,
        ("l3proto", _) => Ct::L3proto,
        ("saddr" | "ip saddr" | "ip6 saddr", Some(reply)) => Ct::Saddr { reply },
        ("daddr" | "ip daddr" | "ip6 daddr", Some(reply)) => Ct::Daddr { reply },
        ("proto-src", Some(reply)) => Ct::Sport { reply },
        ("proto-dst", Some(reply)) => Ct::Dport { reply },
        _ => return None,
    }))
}
