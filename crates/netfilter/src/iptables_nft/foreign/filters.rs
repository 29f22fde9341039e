//! Matches on a packet's fields, its socket and its route.

use std::fmt::Write as _;

use super::{Read, Words, range};
use crate::iptables::Family;
use crate::iptables_nft::info::Reader;

/// Return the size of a match's structure and its reader.
pub(super) fn find(name: &str, revision: u32) -> Option<(usize, Read)> {
    Some(match (name, revision) {
        ("socket", 1..=3) => (1, socket),
        ("pkttype", 0) => (8, pkttype),
        ("length", 0) => (5, |r, _| minimum_and_maximum(r, "--length")),
        ("tcpmss", 0) => (5, |r, _| minimum_and_maximum(r, "--mss")),
        ("mac", 0) => (12, mac),
        ("dscp", 0) => (2, dscp),
        ("tos", 1) => (3, tos),
        ("ttl", 0) => (2, |r, _| hop_limit(r, "ttl")),
        ("hl", 0) => (2, |r, _| hop_limit(r, "hl")),
        ("esp", 0) => (9, esp),
        ("rt", 0) => (18, routing_header),
        ("policy", 0) => (308, policy),
        ("u32", 0) => (1982, u32_tests),
        ("bpf", 0) => (520, |r, _| bytecode(r, r.u16(0), 4)),
        ("bpf", 1) => (520, bpf),
        ("cgroup", 0) => (8, cgroup),
        ("cgroup", 2) => (516, cgroup_path),
        ("helper", 0) => (34, helper),
        _ => return None,
    })
}

/// `struct xt_socket_mtinfo1` to `3`.
fn socket(r: Reader<'_>, _: Family) -> Option<Words> {
    let mut words = Words::default();
    for (bit, option) in [
        (1, "--transparent"),
        (2, "--nowildcard"),
        (4, "--restore-skmark"),
    ] {
        if r.u8(0) & bit != 0 {
            words.flag(option);
        }
    }
    Some(words)
}

/// `struct xt_pkttype_info`, with `PACKET_*` of `linux/if_packet.h`.
fn pkttype(r: Reader<'_>, _: Family) -> Option<Words> {
    let kind = match r.u32(0) {
        0 => "unicast",
        1 => "broadcast",
        2 => "multicast",
        _ => return None,
    };
    let mut words = Words::default();
    words.negatable(r.u32(4) != 0, "--pkt-type", kind);
    Some(words)
}

/// `struct xt_length_info`, `struct xt_tcpmss_match_info`.
fn minimum_and_maximum(r: Reader<'_>, option: &str) -> Option<Words> {
    let mut words = Words::default();
    words.negatable(r.u8(4) != 0, option, range(r.u16(0), r.u16(2)));
    Some(words)
}

/// `struct xt_mac_info`.
fn mac(r: Reader<'_>, _: Family) -> Option<Words> {
    let bytes = (0..6).map(|at| format!("{:02x}", r.u8(at)));
    let address = bytes.collect::<Vec<_>>().join(":");
    let mut words = Words::default();
    words.negatable(r.u32(8) != 0, "--mac-source", address);
    Some(words)
}

/// `struct xt_dscp_info`.
fn dscp(r: Reader<'_>, _: Family) -> Option<Words> {
    let mut words = Words::default();
    words.negatable(r.u8(1) != 0, "--dscp", format!("0x{:02x}", r.u8(0)));
    Some(words)
}

/// `struct xt_tos_match_info`.
fn tos(r: Reader<'_>, _: Family) -> Option<Words> {
    let mut words = Words::default();
    let value = format!("0x{:02x}/0x{:02x}", r.u8(1), r.u8(0));
    words.negatable(r.u8(2) != 0, "--tos", value);
    Some(words)
}

/// `struct ipt_ttl_info`, `struct ip6t_hl_info`.
fn hop_limit(r: Reader<'_>, field: &str) -> Option<Words> {
    let (negated, comparison) = match r.u8(0) {
        0 => (false, "eq"),
        1 => (true, "eq"),
        2 => (false, "lt"),
        3 => (false, "gt"),
        _ => return None,
    };
    let mut words = Words::default();
    words.negatable(
        negated,
        &format!("--{field}-{comparison}"),
        r.u8(1).to_string(),
    );
    Some(words)
}

/// `struct xt_esp`.
fn esp(r: Reader<'_>, _: Family) -> Option<Words> {
    let mut words = Words::default();
    let (min, max) = (r.u32(0), r.u32(4));
    if (min, max) != (0, u32::MAX) {
        words.negatable(r.u8(8) & 1 != 0, "--espspi", range(min, max));
    }
    Some(words)
}

/// `struct ip6t_rt`. Lengths and addresses are not printed in a known form.
fn routing_header(r: Reader<'_>, _: Family) -> Option<Words> {
    const TYPE: u8 = 1;
    const SEGMENTS_LEFT: u8 = 2;
    let (flags, invert) = (r.u8(16), r.u8(17));
    if flags & !(TYPE | SEGMENTS_LEFT) != 0 {
        return None;
    }
    let mut words = Words::default();
    if flags & TYPE != 0 {
        words.negatable(invert & TYPE != 0, "--rt-type", r.u32(0).to_string());
    }
    if flags & SEGMENTS_LEFT != 0 {
        let left = range(r.u32(4), r.u32(8));
        words.negatable(invert & SEGMENTS_LEFT != 0, "--rt-segsleft", left);
    }
    Some(words)
}

/// `struct xt_policy_info`: up to four elements, the flags, and the number of elements.
fn policy(r: Reader<'_>, _: Family) -> Option<Words> {
    const ELEMENTS: usize = 4;
    const SIZE: usize = 76;
    let flags = r.u16(ELEMENTS * SIZE);
    let count = usize::from(r.u16(ELEMENTS * SIZE + 2));
    let mut words = Words::default();
    // `XT_POLICY_MATCH_*`.
    match flags & 3 {
        1 => words.option("--dir", "in"),
        2 => words.option("--dir", "out"),
        _ => return None,
    };
    words.option("--pol", if flags & 4 != 0 { "none" } else { "ipsec" });
    if flags & 8 != 0 {
        words.flag("--strict");
    }
    for element in 0..count.min(ELEMENTS) {
        if element > 0 {
            words.flag("--next");
        }
        policy_element(r, element * SIZE, &mut words)?;
    }
    Some(words)
}

/// `struct xt_policy_elem`: four addresses, `spi`, `reqid`, `proto`, `mode`, and two sets of bits.
fn policy_element(r: Reader<'_>, at: usize, words: &mut Words) -> Option<()> {
    const ADDRESSES: u8 = 1 | 2;
    const PROTOCOL: u8 = 4;
    const MODE: u8 = 8;
    const SPI: u8 = 16;
    const REQID: u8 = 32;
    let (given, invert) = (r.u8(at + 74), r.u8(at + 75));
    if given & ADDRESSES != 0 {
        return None;
    }
    let mut add = |bit: u8, option: &str, value: String| {
        if given & bit != 0 {
            words.negatable(invert & bit != 0, option, value);
        }
    };
    add(REQID, "--reqid", r.u32(at + 68).to_string());
    // `spi` is declared as big-endian, and iptables writes it in host order.
    add(SPI, "--spi", format!("0x{:x}", r.u32(at + 64)));
    let protocol = match r.u8(at + 72) {
        50 => "esp".to_owned(),
        51 => "ah".to_owned(),
        108 => "ipcomp".to_owned(),
        number => number.to_string(),
    };
    add(PROTOCOL, "--proto", protocol);
    let mode = match r.u8(at + 73) {
        0 => "transport",
        1 => "tunnel",
        _ if given & MODE != 0 => return None,
        _ => "",
    };
    add(MODE, "--mode", mode.to_owned());
    Some(())
}

/// `struct xt_u32`: tests of at most ten operators and ten ranges.
fn u32_tests(r: Reader<'_>, _: Family) -> Option<Words> {
    const ENTRIES: usize = 11;
    const TEST: usize = 180;
    const TESTS: usize = 1980;
    let mut text = String::new();
    for test in 0..usize::from(r.u8(TESTS)).min(ENTRIES) {
        let at = test * TEST;
        let (numbers, values) = (usize::from(r.u8(at + 176)), usize::from(r.u8(at + 177)));
        if numbers == 0 || numbers > ENTRIES || values == 0 || values > ENTRIES {
            return None;
        }
        if test > 0 {
            text.push_str("&&");
        }
        for number in 0..numbers {
            let at = at + number * 8;
            if number > 0 {
                // `enum xt_u32_ops`.
                text.push_str(match r.u8(at + 4) {
                    0 => "&",
                    1 => "<<",
                    2 => ">>",
                    3 => "@",
                    _ => return None,
                });
            }
            let _ = write!(text, "0x{:x}", r.u32(at));
        }
        for value in 0..values {
            let at = at + 88 + value * 8;
            let (min, max) = (r.u32(at), r.u32(at + 4));
            text.push(if value == 0 { '=' } else { ',' });
            let _ = write!(text, "0x{min:x}");
            if min != max {
                let _ = write!(text, ":0x{max:x}");
            }
        }
    }
    let mut words = Words::default();
    words.negatable(r.u8(TESTS + 1) != 0, "--u32", text);
    Some(words)
}

/// `struct xt_bpf_info_v1` with the mode `XT_BPF_MODE_BYTECODE` or a pinned object.
fn bpf(r: Reader<'_>, _: Family) -> Option<Words> {
    match r.u16(0) {
        0 => bytecode(r, r.u16(2), 8),
        1 => {
            let mut words = Words::default();
            words.option("--object-pinned", r.text(8, 512).ok()?);
            Some(words)
        }
        _ => None,
    }
}

/// An array of `struct sock_filter`.
fn bytecode(r: Reader<'_>, count: u16, start: usize) -> Option<Words> {
    /// `XT_BPF_MAX_NUM_INSTR`.
    const MAX: u16 = 64;
    if count > MAX {
        return None;
    }
    let mut text = count.to_string();
    for at in (start..).step_by(8).take(count.into()) {
        let (code, jt, jf, k) = (r.u16(at), r.u8(at + 2), r.u8(at + 3), r.u32(at + 4));
        let _ = write!(text, ",{code} {jt} {jf} {k}");
    }
    let mut words = Words::default();
    words.option("--bytecode", text);
    Some(words)
}

/// `struct xt_cgroup_info_v0`.
fn cgroup(r: Reader<'_>, _: Family) -> Option<Words> {
    let mut words = Words::default();
    words.negatable(r.u32(4) != 0, "--cgroup", r.u32(0).to_string());
    Some(words)
}

/// `struct xt_cgroup_info_v2`.
fn cgroup_path(r: Reader<'_>, _: Family) -> Option<Words> {
    let mut words = Words::default();
    if r.u8(0) != 0 {
        words.negatable(r.u8(2) != 0, "--path", r.text(4, 512).ok()?);
    }
    if r.u8(1) != 0 {
        words.negatable(r.u8(3) != 0, "--cgroup", r.u32(4).to_string());
    }
    Some(words)
}

/// `struct xt_helper_info`.
fn helper(r: Reader<'_>, _: Family) -> Option<Words> {
    let mut words = Words::default();
    words.negatable(r.u32(0) != 0, "--helper", r.text(4, 30).ok()?);
    Some(words)
}
