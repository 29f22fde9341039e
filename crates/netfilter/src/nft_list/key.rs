//! Expressions that load a register from something else than a header: keys of `meta` and `ct`, `fib`, `numgen`.

use super::field::Context;
use super::register::Held;
use super::statement::Slots;
use super::value::{
    self, BOOLEAN, CLASSID, CT_DIR, CT_LABEL, CT_STATE, CT_STATUS, DEVGROUP, ETHERTYPE, FIB_ADDR,
    GID, IFINDEX, IFNAME, INTEGER, IP6ADDR, IPADDR, MARK, NFPROTO, PKTTYPE, PROTOCOL, REALM,
    SERVICE, STRING, TIME, Type, UID,
};

/// `NFTA_FIB_*`: result 2, flags 3.
pub(super) fn fib(s: &Slots<'_>) -> Option<Held> {
    let flags = s.number(3)?;
    let words = [
        (1, "saddr"),
        (2, "daddr"),
        (4, "mark"),
        (8, "iif"),
        (16, "oif"),
    ];
    let set = words.iter().filter(|(bit, _)| flags & bit != 0);
    let words: Vec<&str> = set.map(|(_, word)| *word).collect();
    let present = flags & 32 != 0;
    let (result, of, len) = match s.number(2)? {
        1 if present => ("oif", BOOLEAN, 1),
        1 => ("oif", IFINDEX, 4),
        2 if present => ("oifname", BOOLEAN, 1),
        2 => ("oifname", IFNAME, 16),
        3 => ("type", FIB_ADDR, 4),
        _ => return None,
    };
    let text = format!("fib {} {result}", words.join(" . "));
    Some(Held::new(text, Type::of(of), len))
}

/// `NFTA_NG_*`: modulus 2, type 3, offset 4.
pub(super) fn numgen(s: &Slots<'_>) -> Option<Held> {
    let kind = if s.number(3)? == 0 { "inc" } else { "random" };
    let mut text = format!("numgen {kind} mod {}", s.number(2)?);
    if let Some(offset) = s.number(4).filter(|offset| *offset != 0) {
        text.push_str(&format!(" offset {offset}"));
    }
    Some(Held::new(text, Type::host(INTEGER), 4))
}

/// Return text, type and length of a key (`enum nft_meta_keys`).
pub(super) fn meta(key: u32) -> Option<(&'static str, Type, usize)> {
    let (text, of, len) = match key {
        0 => return Some(("meta length", Type::host(INTEGER), 4)),
        1 => ("meta protocol", ETHERTYPE, 2),
        2 => ("meta priority", CLASSID, 4),
        3 => ("meta mark", MARK, 4),
        4 => ("iif", IFINDEX, 4),
        5 => ("oif", IFINDEX, 4),
        6 => ("iifname", IFNAME, 16),
        7 => ("oifname", IFNAME, 16),
        8 => ("iiftype", value::ARPHRD, 2),
        9 => ("oiftype", value::ARPHRD, 2),
        10 => ("meta skuid", UID, 4),
        11 => ("meta skgid", GID, 4),
        12 => return Some(("meta nftrace", Type::host(INTEGER), 1)),
        13 => ("meta rtclassid", REALM, 4),
        15 => ("meta nfproto", NFPROTO, 1),
        16 => ("meta l4proto", PROTOCOL, 1),
        17 => ("ibrname", IFNAME, 16),
        18 => ("obrname", IFNAME, 16),
        19 => ("meta pkttype", PKTTYPE, 1),
        20 => return Some(("meta cpu", Type::host(INTEGER), 4)),
        21 => ("iifgroup", DEVGROUP, 4),
        22 => ("oifgroup", DEVGROUP, 4),
        23 => return Some(("meta cgroup", Type::host(INTEGER), 4)),
        24 => return Some(("meta random", Type::host(INTEGER), 4)),
        25 => ("meta ipsec", BOOLEAN, 1),
        26 => ("meta iifkind", IFNAME, 16),
        27 => ("meta oifkind", IFNAME, 16),
        30 => return Some(("meta time", Type::host(INTEGER), 8)),
        31 => return Some(("meta day", Type::host(INTEGER), 1)),
        32 => return Some(("meta hour", Type::host(INTEGER), 4)),
        _ => return None,
    };
    Some((text, Type::of(of), len))
}

/// Return text, type and length of a key (`enum nft_ct_keys`).
pub(super) fn ct(key: u32, context: Context) -> Option<(&'static str, Type, usize)> {
    let is_v6 = context.network == Some(6);
    let (text, of, len) = match key {
        0 => ("state", CT_STATE, 4),
        1 => ("direction", CT_DIR, 1),
        2 => ("status", CT_STATUS, 4),
        3 => ("mark", MARK, 4),
        5 => ("expiration", TIME, 4),
        6 => ("helper", STRING, 16),
        7 => ("l3proto", NFPROTO, 1),
        8 if is_v6 => ("ip6 saddr", IP6ADDR, 16),
        9 if is_v6 => ("ip6 daddr", IP6ADDR, 16),
        8 | 19 => ("ip saddr", IPADDR, 4),
        9 | 20 => ("ip daddr", IPADDR, 4),
        21 => ("ip6 saddr", IP6ADDR, 16),
        22 => ("ip6 daddr", IP6ADDR, 16),
        10 => ("protocol", PROTOCOL, 1),
        11 => ("proto-src", SERVICE, 2),
        12 => ("proto-dst", SERVICE, 2),
        13 => ("label", CT_LABEL, 16),
        14 => return Some(("packets", Type::host(INTEGER), 8)),
        15 => return Some(("bytes", Type::host(INTEGER), 8)),
        16 => return Some(("avgpkt", Type::host(INTEGER), 8)),
        17 => return Some(("zone", Type::host(INTEGER), 2)),
        18 => ("event", MARK, 4),
        23 => return Some(("id", Type::of(INTEGER), 4)),
        _ => return None,
    };
    Some((text, Type::of(of), len))
}

/// Return the text of a TCP option, or of an extension header of IPv6.
pub(super) fn extension_header(is_tcp: bool, kind: u8, offset: u32) -> Option<String> {
    Some(match (is_tcp, kind, offset) {
        (true, 2, 2) => "tcp option maxseg size".to_owned(),
        (true, 3, 2) => "tcp option window count".to_owned(),
        (true, kind, _) => {
            let name = match kind {
                2 => "maxseg",
                3 => "window",
                4 => "sack-perm",
                5 => "sack",
                8 => "timestamp",
                _ => "",
            };
            match name {
                "" => format!("tcp option {kind}"),
                name => format!("tcp option {name}"),
            }
        }
        (false, 43, _) => "exthdr rt".to_owned(),
        (false, 44, _) => "exthdr frag".to_owned(),
        (false, 0, _) => "exthdr hbh".to_owned(),
        (false, 60, _) => "exthdr dst".to_owned(),
        (false, 135, _) => "exthdr mh".to_owned(),
        _ => return None,
    })
}
