//! Targets that change a field, or hand the packet over.

use std::net::IpAddr;

use super::{Read, Words};
use crate::iptables::Family;
use crate::iptables_nft::info::Reader;

/// Return the size of a target's structure and its reader.
pub(super) fn find(name: &str, revision: u32) -> Option<(usize, Read)> {
    Some(match (name, revision) {
        ("DSCP", 0) => (1, dscp),
        ("TOS", 1) => (2, tos),
        ("CHECKSUM", 0) => (1, checksum),
        ("NFQUEUE", 0..=3) => (if revision == 0 { 2 } else { 4 }, queue),
        ("AUDIT", 0) => (1, audit),
        ("CLASSIFY", 0) => (4, classify),
        ("TTL", 0) => (2, |r, _| hop_limit(r, "ttl")),
        ("HL", 0) => (2, |r, _| hop_limit(r, "hl")),
        ("TEE", 1) => (32, tee),
        ("NETMAP", 0) => (20, netmap),
        ("SYNPROXY", 0) => (4, synproxy),
        ("TRACE", 0) => (0, |_, _| Some(Words::default())),
        _ => return None,
    })
}

/// `struct xt_DSCP_info`.
fn dscp(r: Reader<'_>, _: Family) -> Option<Words> {
    let mut words = Words::default();
    words.option("--set-dscp", format!("0x{:02x}", r.u8(0)));
    Some(words)
}

/// `struct xt_tos_target_info`.
fn tos(r: Reader<'_>, _: Family) -> Option<Words> {
    let mut words = Words::default();
    words.option("--set-tos", format!("0x{:02x}/0x{:02x}", r.u8(0), r.u8(1)));
    Some(words)
}

/// `struct xt_CHECKSUM_info` and `XT_CHECKSUM_OP_FILL`.
fn checksum(r: Reader<'_>, _: Family) -> Option<Words> {
    let mut words = Words::default();
    words.flag("--checksum-fill");
    (r.u8(0) == 1).then_some(words)
}

/// `struct xt_NFQ_info` to `xt_NFQ_info_v3`. Revision 2 has only the first flag.
fn queue(r: Reader<'_>, _: Family) -> Option<Words> {
    let (first, count, flags) = (r.u16(0), r.u16(2), r.u16(4));
    let mut words = Words::default();
    match count {
        0 | 1 => words.option("--queue-num", first.to_string()),
        _ => {
            let last = first.checked_add(count - 1)?;
            words.option("--queue-balance", format!("{first}:{last}"))
        }
    };
    for (bit, option) in [(1, "--queue-bypass"), (2, "--queue-cpu-fanout")] {
        if flags & bit != 0 {
            words.flag(option);
        }
    }
    Some(words)
}

/// `struct xt_audit_info`.
fn audit(r: Reader<'_>, _: Family) -> Option<Words> {
    let kind = match r.u8(0) {
        0 => "accept",
        1 => "drop",
        2 => "reject",
        _ => return None,
    };
    let mut words = Words::default();
    words.option("--type", kind);
    Some(words)
}

/// `struct xt_classify_target_info`.
fn classify(r: Reader<'_>, _: Family) -> Option<Words> {
    let class = r.u32(0);
    let mut words = Words::default();
    let value = format!("{:04x}:{:04x}", class >> 16, class & 0xffff);
    words.option("--set-class", value);
    Some(words)
}

/// `struct ipt_TTL_info`, `struct ip6t_HL_info`.
fn hop_limit(r: Reader<'_>, field: &str) -> Option<Words> {
    let change = match r.u8(0) {
        0 => "set",
        1 => "inc",
        2 => "dec",
        _ => return None,
    };
    let mut words = Words::default();
    words.option(&format!("--{field}-{change}"), r.u8(1).to_string());
    Some(words)
}

/// `struct xt_tee_tginfo`.
fn tee(r: Reader<'_>, family: Family) -> Option<Words> {
    let mut words = Words::default();
    words.option("--gateway", r.ip(0, family).to_string());
    match r.text(16, 16).ok()? {
        "" => {}
        interface => {
            words.option("--oif", interface);
        }
    }
    Some(words)
}

/// `struct nf_nat_ipv4_multi_range_compat` or `struct nf_nat_range`: the first and the last address of a
/// network.
fn netmap(r: Reader<'_>, family: Family) -> Option<Words> {
    let (first, last) = match family {
        Family::Ipv4 => (r.ip(8, family), r.ip(12, family)),
        Family::Ipv6 if r.0.len() < 40 => return None,
        Family::Ipv6 => (r.ip(4, family), r.ip(20, family)),
    };
    let (host, bits) = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let host = first.to_bits() ^ last.to_bits();
            (u128::from(host), 32)
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => (first.to_bits() ^ last.to_bits(), 128),
        _ => return None,
    };
    let host_bits = 128 - host.leading_zeros();
    if host.count_ones() != host_bits {
        return None;
    }
    let mut words = Words::default();
    match bits - host_bits {
        len if len == bits => words.option("--to", first.to_string()),
        len => words.option("--to", format!("{first}/{len}")),
    };
    Some(words)
}

/// `struct xt_synproxy_info` and `XT_SYNPROXY_OPT_*`.
fn synproxy(r: Reader<'_>, _: Family) -> Option<Words> {
    let options = r.u8(0);
    let mut words = Words::default();
    if options & 4 != 0 {
        words.flag("--sack-perm");
    }
    if options & 8 != 0 {
        words.flag("--timestamp");
    }
    if options & 2 != 0 {
        words.option("--wscale", r.u8(1).to_string());
    }
    if options & 1 != 0 {
        words.option("--mss", r.u16(2).to_string());
    }
    if options & 16 != 0 {
        words.flag("--ecn");
    }
    Some(words)
}
