//! Values as text, by nft's types.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The number of a type (nft's `enum datatypes`), and the byte order of an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Type {
    pub(super) number: u32,
    pub(super) host: bool,
}

macro_rules! types {
    ($($name:ident = $number:literal, $word:literal, $size:literal;)*) => {
        $(pub(super) const $name: u32 = $number;)*
        const WORDS: &[(u32, &str, usize)] = &[$(($number, $word, $size)),*];
    };
}

types! {
    VERDICT = 1, "verdict", 0;
    NFPROTO = 2, "nf_proto", 1;
    INTEGER = 4, "integer", 4;
    STRING = 5, "string", 0;
    IPADDR = 7, "ipv4_addr", 4;
    IP6ADDR = 8, "ipv6_addr", 16;
    ETHERADDR = 9, "ether_addr", 6;
    ETHERTYPE = 10, "ether_type", 2;
    ARPOP = 11, "arp_op", 2;
    PROTOCOL = 12, "inet_proto", 1;
    SERVICE = 13, "inet_service", 2;
    ICMP_TYPE = 14, "icmp_type", 1;
    TCP_FLAG = 15, "tcp_flag", 1;
    TIME = 18, "time", 4;
    MARK = 19, "mark", 4;
    IFINDEX = 20, "iface_index", 4;
    ARPHRD = 21, "iface_type", 2;
    REALM = 22, "realm", 4;
    CLASSID = 23, "classid", 4;
    UID = 24, "uid", 4;
    GID = 25, "gid", 4;
    CT_STATE = 26, "ct_state", 4;
    CT_DIR = 27, "ct_dir", 1;
    CT_STATUS = 28, "ct_status", 4;
    ICMP6_TYPE = 29, "icmpv6_type", 1;
    CT_LABEL = 30, "ct_label", 16;
    PKTTYPE = 31, "pkt_type", 1;
    ICMP_CODE = 32, "icmp_code", 1;
    ICMPV6_CODE = 33, "icmpv6_code", 1;
    ICMPX_CODE = 34, "icmpx_code", 1;
    DEVGROUP = 35, "devgroup", 4;
    DSCP = 36, "dscp", 1;
    ECN = 37, "ecn", 1;
    FIB_ADDR = 38, "fib_addrtype", 4;
    BOOLEAN = 39, "boolean", 1;
    IFNAME = 41, "ifname", 16;
    CGROUP = 46, "cgroupsv2", 8;
}

/// Return nft's word for a type and its size in bytes.
pub(super) fn word(number: u32) -> Option<(&'static str, usize)> {
    let found = WORDS.iter().find(|(n, ..)| *n == number);
    found.map(|(_, word, size)| (*word, *size))
}

/// Split the number of a concatenation: six bits per field.
pub(super) fn fields(number: u32) -> Vec<u32> {
    let shifts = (0..5).rev().map(|field| field * 6);
    let all = shifts.map(|shift| number >> shift & 0x3f);
    all.skip_while(|field| *field == 0).collect()
}

impl Type {
    pub(super) fn of(number: u32) -> Self {
        let host = matches!(
            number,
            TIME | MARK
                | IFINDEX
                | ARPHRD
                | REALM
                | CLASSID
                | UID
                | GID
                | CT_STATE
                | CT_STATUS
                | DEVGROUP
                | FIB_ADDR
                | IFNAME
                | STRING
                | CGROUP
        );
        Self { number, host }
    }

    pub(super) fn host(number: u32) -> Self {
        Self { number, host: true }
    }

    /// Whether values are sets of flags.
    pub(super) fn is_flags(self) -> bool {
        matches!(self.number, CT_STATE | CT_STATUS | TCP_FLAG)
    }

    pub(super) fn is_address(self) -> bool {
        matches!(self.number, IPADDR | IP6ADDR)
    }

    #[expect(clippy::too_many_lines, reason = "tables of names")]
    fn names(self) -> &'static [(u64, &'static str)] {
        match self.number {
            NFPROTO => &[(2, "ipv4"), (10, "ipv6")],
            ETHERTYPE => &[
                (0x0800, "ip"),
                (0x0806, "arp"),
                (0x86dd, "ip6"),
                (0x8100, "8021q"),
                (0x88a8, "8021ad"),
            ],
            PROTOCOL => &[
                (1, "icmp"),
                (2, "igmp"),
                (4, "ipencap"),
                (6, "tcp"),
                (17, "udp"),
                (33, "dccp"),
                (41, "ipv6"),
                (47, "gre"),
                (50, "esp"),
                (51, "ah"),
                (58, "ipv6-icmp"),
                (89, "ospf"),
                (103, "pim"),
                (108, "comp"),
                (112, "vrrp"),
                (115, "l2tp"),
                (132, "sctp"),
                (136, "udplite"),
            ],
            ICMP_TYPE => &[
                (0, "echo-reply"),
                (3, "destination-unreachable"),
                (4, "source-quench"),
                (5, "redirect"),
                (8, "echo-request"),
                (9, "router-advertisement"),
                (10, "router-solicitation"),
                (11, "time-exceeded"),
                (12, "parameter-problem"),
                (13, "timestamp-request"),
                (14, "timestamp-reply"),
                (15, "info-request"),
                (16, "info-reply"),
                (17, "address-mask-request"),
                (18, "address-mask-reply"),
            ],
            ICMP6_TYPE => &[
                (1, "destination-unreachable"),
                (2, "packet-too-big"),
                (3, "time-exceeded"),
                (4, "parameter-problem"),
                (128, "echo-request"),
                (129, "echo-reply"),
                (130, "mld-listener-query"),
                (131, "mld-listener-report"),
                (132, "mld-listener-done"),
                (133, "nd-router-solicit"),
                (134, "nd-router-advert"),
                (135, "nd-neighbor-solicit"),
                (136, "nd-neighbor-advert"),
                (137, "nd-redirect"),
                (138, "router-renumbering"),
                (141, "ind-neighbor-solicit"),
                (142, "ind-neighbor-advert"),
                (143, "mld2-listener-report"),
            ],
            ICMP_CODE => &[
                (0, "net-unreachable"),
                (1, "host-unreachable"),
                (2, "prot-unreachable"),
                (3, "port-unreachable"),
                (4, "frag-needed"),
                (9, "net-prohibited"),
                (10, "host-prohibited"),
                (13, "admin-prohibited"),
            ],
            ICMPV6_CODE => &[
                (0, "no-route"),
                (1, "admin-prohibited"),
                (3, "addr-unreachable"),
                (4, "port-unreachable"),
                (5, "policy-fail"),
                (6, "reject-route"),
            ],
            ICMPX_CODE => &[
                (0, "no-route"),
                (1, "port-unreachable"),
                (2, "host-unreachable"),
                (3, "admin-prohibited"),
            ],
            TCP_FLAG => &[
                (1, "fin"),
                (2, "syn"),
                (4, "rst"),
                (8, "psh"),
                (16, "ack"),
                (32, "urg"),
                (64, "ecn"),
                (128, "cwr"),
            ],
            CT_STATE => &[
                (1, "invalid"),
                (2, "established"),
                (4, "related"),
                (8, "new"),
                (64, "untracked"),
            ],
            CT_STATUS => &[
                (1, "expected"),
                (2, "seen-reply"),
                (4, "assured"),
                (8, "confirmed"),
                (16, "snat"),
                (32, "dnat"),
                (512, "dying"),
            ],
            CT_DIR => &[(0, "original"), (1, "reply")],
            PKTTYPE => &[
                (0, "host"),
                (1, "broadcast"),
                (2, "multicast"),
                (3, "other"),
            ],
            FIB_ADDR => &[
                (0, "unspec"),
                (1, "unicast"),
                (2, "local"),
                (3, "broadcast"),
                (4, "anycast"),
                (5, "multicast"),
                (6, "blackhole"),
                (7, "unreachable"),
                (8, "prohibit"),
            ],
            DSCP => &[
                (0x00, "cs0"),
                (0x08, "cs1"),
                (0x10, "cs2"),
                (0x18, "cs3"),
                (0x20, "cs4"),
                (0x28, "cs5"),
                (0x2e, "ef"),
                (0x30, "cs6"),
                (0x38, "cs7"),
            ],
            BOOLEAN => &[(0, "missing"), (1, "exists")],
            _ => &[],
        }
    }

    /// Return the number in a value of at most eight bytes.
    pub(super) fn number_of(self, bytes: &[u8]) -> u64 {
        let fold = |all: u64, byte: &u8| all << 8 | u64::from(*byte);
        let bytes = bytes.get(..8).unwrap_or(bytes);
        match self.host && cfg!(target_endian = "little") {
            true => bytes.iter().rev().fold(0, fold),
            false => bytes.iter().fold(0, fold),
        }
    }

    /// Return a value in the byte order in which nft sorts it.
    pub(super) fn sorted(self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let is_text = matches!(self.number, IFNAME | STRING);
        if self.host && !is_text && cfg!(target_endian = "little") {
            bytes.reverse();
        }
        bytes
    }

    /// Return the text of a value.
    pub(super) fn text(self, bytes: &[u8]) -> String {
        match (self.number, bytes) {
            (IPADDR, [a, b, c, d]) => Ipv4Addr::new(*a, *b, *c, *d).to_string(),
            (IP6ADDR, bytes) if bytes.len() == 16 => {
                let octets: [u8; 16] = bytes.try_into().unwrap_or_default();
                Ipv6Addr::from(octets).to_string()
            }
            (ETHERADDR, bytes) if bytes.len() == 6 => {
                let parts = bytes.iter().map(|byte| format!("{byte:02x}"));
                parts.collect::<Vec<_>>().join(":")
            }
            (IFNAME | STRING, bytes) => name(bytes),
            (IFINDEX, bytes) => interface(self.number_of(bytes)),
            (MARK | REALM, bytes) => format!("0x{:08x}", self.number_of(bytes)),
            (CT_LABEL, _) => hex(bytes),
            _ if self.is_flags() => self.flags(self.number_of(bytes), ","),
            (_, bytes) if bytes.len() <= 8 => {
                let number = self.number_of(bytes);
                let named = self.names().iter().find(|(known, _)| *known == number);
                match (named, self.number) {
                    (Some((_, name)), _) => (*name).to_owned(),
                    (None, DSCP | ETHERTYPE) => format!("0x{number:02x}"),
                    (None, _) => number.to_string(),
                }
            }
            _ => hex(bytes),
        }
    }

    /// Return the names of flags.
    pub(super) fn flags(self, number: u64, separator: &str) -> String {
        let set = self.names().iter().filter(|(bit, _)| number & bit != 0);
        let names: Vec<&str> = set.clone().map(|(_, name)| *name).collect();
        let known = set.fold(0, |all, (bit, _)| all | bit);
        if known != number || names.is_empty() {
            return format!("0x{number:x}");
        }
        names.join(separator)
    }
}

/// The name of an interface index, resolved by the caller of [`super::Listing::text`].
fn interface(index: u64) -> String {
    format!("{INDEX}{index}{INDEX}")
}

/// Encloses an interface index until its name is known.
pub(super) const INDEX: char = '\u{1}';

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Return a quoted name. A value that fills its field without a NUL is a prefix.
fn name(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    let text = String::from_utf8_lossy(bytes.get(..end.unwrap_or(bytes.len())).unwrap_or(bytes));
    match end.is_none() && bytes.len() < 16 {
        true => format!("\"{text}*\""),
        false => format!("\"{text}\""),
    }
}

/// Return the length of a contiguous mask.
pub(super) fn prefix_length(mask: &[u8]) -> Option<u32> {
    let ones: u32 = mask.iter().map(|byte| byte.leading_ones()).sum();
    let mut rest = mask.iter().skip_while(|byte| **byte == u8::MAX);
    let first = rest.next().copied().unwrap_or(0);
    let is_prefix = first.leading_ones() + first.trailing_zeros() >= 8 || first == 0;
    let contiguous = is_prefix && rest.all(|byte| *byte == 0);
    contiguous.then(|| {
        let whole = mask.iter().take_while(|byte| **byte == u8::MAX).count() as u32 * 8;
        if whole == ones {
            ones
        } else {
            whole + first.leading_ones()
        }
    })
}

/// Return an inclusive range; as a prefix if it is one of addresses.
pub(super) fn range(of: Type, from: &[u8], to: &[u8]) -> String {
    if from == to {
        return of.text(from);
    }
    if of.number == IFNAME {
        let name = of.text(from);
        return format!("{}*\"", name.trim_end_matches('"'));
    }
    let different: Vec<u8> = from.iter().zip(to).map(|(a, b)| a ^ b).collect();
    let mask: Vec<u8> = different.iter().map(|byte| !byte).collect();
    let is_block = from
        .iter()
        .zip(&different)
        .all(|(byte, bits)| byte & bits == 0);
    match prefix_length(&mask) {
        Some(length) if of.is_address() && is_block => format!("{}/{length}", of.text(from)),
        _ => format!("{}-{}", of.text(from), of.text(to)),
    }
}

/// Return a duration in nft's form: `1h30m`.
pub(super) fn duration(ms: u64) -> String {
    let units = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
        ("ms", 1),
    ];
    let mut rest = ms;
    let mut text = String::new();
    for (unit, length) in units {
        if rest >= length {
            let _ = write!(text, "{}{unit}", rest / length);
            rest %= length;
        }
    }
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}
