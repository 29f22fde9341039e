//! Header fields by their place.

use super::value::{
    ARPOP, DSCP, ECN, ETHERADDR, ETHERTYPE, ICMP_CODE, ICMP_TYPE, ICMP6_TYPE, ICMPV6_CODE, INTEGER,
    IP6ADDR, IPADDR, PROTOCOL, SERVICE, TCP_FLAG, Type,
};

/// `enum nft_payload_bases`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    Link,
    Network,
    Transport,
    Inner,
}

impl Base {
    pub(super) fn of(number: u32) -> Option<Self> {
        Some(match number {
            0 => Base::Link,
            1 => Base::Network,
            2 => Base::Transport,
            3 => Base::Inner,
            _ => return None,
        })
    }

    fn raw(self) -> &'static str {
        match self {
            Base::Link => "ll",
            Base::Network => "nh",
            Base::Transport => "th",
            Base::Inner => "ih",
        }
    }
}

/// The protocols that earlier matches of a rule, or its table's family, determine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Context {
    /// 4 or 6.
    pub(super) network: Option<u8>,
    pub(super) arp: bool,
    /// IANA's number.
    pub(super) transport: Option<u8>,
}

/// A header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) text: String,
    pub(super) of: Type,
    /// The bits of the field in its bytes, if it does not fill them.
    pub(super) mask: Option<u64>,
}

type Row = (u32, u32, u64, &'static str, u32);

/// Offset, length in bytes, mask, name and type.
const IP: &[Row] = &[
    (0, 1, 0xf0, "version", INTEGER),
    (0, 1, 0x0f, "hdrlength", INTEGER),
    (1, 1, 0xfc, "dscp", DSCP),
    (1, 1, 0x03, "ecn", ECN),
    (2, 2, 0, "length", INTEGER),
    (4, 2, 0, "id", INTEGER),
    (6, 2, 0, "frag-off", INTEGER),
    (8, 1, 0, "ttl", INTEGER),
    (9, 1, 0, "protocol", PROTOCOL),
    (10, 2, 0, "checksum", INTEGER),
    (12, 4, 0, "saddr", IPADDR),
    (16, 4, 0, "daddr", IPADDR),
];
const IP6: &[Row] = &[
    (0, 1, 0xf0, "version", INTEGER),
    (0, 2, 0x0fc0, "dscp", DSCP),
    (4, 2, 0, "length", INTEGER),
    (6, 1, 0, "nexthdr", PROTOCOL),
    (7, 1, 0, "hoplimit", INTEGER),
    (8, 16, 0, "saddr", IP6ADDR),
    (24, 16, 0, "daddr", IP6ADDR),
];
const ARP: &[Row] = &[
    (0, 2, 0, "htype", INTEGER),
    (2, 2, 0, "ptype", ETHERTYPE),
    (4, 1, 0, "hlen", INTEGER),
    (5, 1, 0, "plen", INTEGER),
    (6, 2, 0, "operation", ARPOP),
    (8, 6, 0, "saddr ether", ETHERADDR),
    (14, 4, 0, "saddr ip", IPADDR),
    (18, 6, 0, "daddr ether", ETHERADDR),
    (24, 4, 0, "daddr ip", IPADDR),
];
const ETHER: &[Row] = &[
    (0, 6, 0, "daddr", ETHERADDR),
    (6, 6, 0, "saddr", ETHERADDR),
    (12, 2, 0, "type", ETHERTYPE),
];
const PORTS: &[Row] = &[(0, 2, 0, "sport", SERVICE), (2, 2, 0, "dport", SERVICE)];
const TCP: &[Row] = &[
    (0, 2, 0, "sport", SERVICE),
    (2, 2, 0, "dport", SERVICE),
    (4, 4, 0, "sequence", INTEGER),
    (8, 4, 0, "ackseq", INTEGER),
    (12, 1, 0xf0, "doff", INTEGER),
    (13, 1, 0, "flags", TCP_FLAG),
    (14, 2, 0, "window", INTEGER),
    (16, 2, 0, "checksum", INTEGER),
    (18, 2, 0, "urgptr", INTEGER),
];
const UDP: &[Row] = &[
    (0, 2, 0, "sport", SERVICE),
    (2, 2, 0, "dport", SERVICE),
    (4, 2, 0, "length", INTEGER),
    (6, 2, 0, "checksum", INTEGER),
];
const ICMP: &[Row] = &[
    (0, 1, 0, "type", ICMP_TYPE),
    (1, 1, 0, "code", ICMP_CODE),
    (2, 2, 0, "checksum", INTEGER),
    (4, 2, 0, "id", INTEGER),
    (6, 2, 0, "sequence", INTEGER),
];
const ICMP6: &[Row] = &[
    (0, 1, 0, "type", ICMP6_TYPE),
    (1, 1, 0, "code", ICMPV6_CODE),
    (2, 2, 0, "checksum", INTEGER),
    (4, 2, 0, "id", INTEGER),
    (6, 2, 0, "sequence", INTEGER),
];

impl Context {
    fn header(self, base: Base) -> Option<(&'static str, &'static [Row])> {
        Some(match base {
            Base::Link => ("ether", ETHER),
            Base::Network if self.arp => ("arp", ARP),
            Base::Network => match self.network? {
                4 => ("ip", IP),
                _ => ("ip6", IP6),
            },
            Base::Transport => match self.transport {
                Some(6) => ("tcp", TCP),
                Some(17) => ("udp", UDP),
                Some(136) => ("udplite", PORTS),
                Some(33) => ("dccp", PORTS),
                Some(132) => ("sctp", PORTS),
                Some(1) => ("icmp", ICMP),
                Some(58) => ("icmpv6", ICMP6),
                _ => ("th", PORTS),
            },
            Base::Inner => return None,
        })
    }

    /// Return the field at a place, in bytes; a masked one if the mask is that of a part.
    pub(super) fn field(
        self,
        base: Base,
        offset: u32,
        len: u32,
        mask: Option<u64>,
    ) -> Option<Field> {
        let (header, rows) = self.header(base)?;
        if mask == Some(0) {
            return None;
        }
        let wanted = mask.unwrap_or(0);
        let found = rows
            .iter()
            .find(|(at, size, bits, ..)| (*at, *size, *bits) == (offset, len, wanted));
        let (.., bits, name, of) = found?;
        Some(Field {
            text: format!("{header} {name}"),
            of: Type::of(*of),
            mask: (*bits != 0).then_some(*bits),
        })
    }

    /// Return the field that begins at a place and is longer than these bytes, with its length.
    pub(super) fn longer(self, base: Base, offset: u32, len: u32) -> Option<(Field, usize)> {
        let (_, rows) = self.header(base)?;
        let found = rows
            .iter()
            .find(|(at, size, bits, ..)| *at == offset && *size > len && *bits == 0);
        let (_, size, ..) = found?;
        Some((self.field(base, offset, *size, None)?, *size as usize))
    }

    /// Return the length of the field that begins at a place and fits in these bytes.
    pub(super) fn first(self, base: Base, offset: u32, len: u32) -> Option<u32> {
        let (_, rows) = self.header(base)?;
        let found = rows
            .iter()
            .find(|(at, size, bits, ..)| *at == offset && *size <= len && *bits == 0);
        found.map(|(_, size, ..)| *size)
    }
}

/// Return the text of a place without a known field.
pub(super) fn raw(base: Base, offset: u32, len: u32) -> Field {
    Field {
        text: format!("@{},{},{}", base.raw(), offset * 8, len * 8),
        of: Type::of(INTEGER),
        mask: None,
    }
}
