//! Matches that count connections and packets.

use std::net::IpAddr;

use super::{Read, Words};
use crate::iptables::Family;
use crate::iptables_nft::info::Reader;

/// Return the size of a match's structure and its reader.
pub(super) fn find(name: &str, revision: u32) -> Option<(usize, Read)> {
    Some(match (name, revision) {
        ("connlimit", 1) => (24, connlimit),
        ("hashlimit", 3) => (298, hashlimit),
        _ => return None,
    })
}

/// `struct xt_connlimit_info` and `XT_CONNLIMIT_*`.
fn connlimit(r: Reader<'_>, family: Family) -> Option<Words> {
    const INVERT: u32 = 1;
    const DADDR: u32 = 2;
    let flags = r.u32(20);
    let bits = match r.ip(0, family) {
        IpAddr::V4(mask) => mask.to_bits().count_ones(),
        IpAddr::V6(mask) => mask.to_bits().count_ones(),
    };
    let limit = if flags & INVERT != 0 {
        "--connlimit-upto"
    } else {
        "--connlimit-above"
    };
    let side = if flags & DADDR != 0 {
        "--connlimit-daddr"
    } else {
        "--connlimit-saddr"
    };
    let mut words = Words::default();
    words.option(limit, r.u32(16).to_string());
    words
        .option("--connlimit-mask", bits.to_string())
        .flag(side);
    Some(words)
}

// `struct xt_hashlimit_mtinfo3`: the name, and `struct hashlimit_cfg3`.
const NAME_LEN: usize = 255;
const AVERAGE: usize = 256;
const BURST: usize = 264;
const MODE: usize = 272;
const SIZE: usize = 276;
const MAX: usize = 280;
const GC_INTERVAL: usize = 284;
const EXPIRE: usize = 288;
const SOURCE_MASK: usize = 296;
const DESTINATION_MASK: usize = 297;

/// `XT_HASHLIMIT_SCALE_v2`: the average is the time between two packets, in these parts of a second.
const SCALE: u64 = 1_000_000;
/// The units with their length in seconds.
const UNITS: [(&str, u64); 4] = [
    ("day", 24 * 60 * 60),
    ("hour", 60 * 60),
    ("min", 60),
    ("sec", 1),
];

/// Limits in bytes are not printed in a known form.
fn hashlimit(r: Reader<'_>, family: Family) -> Option<Words> {
    /// `XT_HASHLIMIT_INVERT`, and the flags of limits in bytes and of rates.
    const INVERT: u32 = 16;
    const OTHER: u32 = !31;
    /// `XT_HASHLIMIT_GCINTERVAL`.
    const DEFAULT_GC_INTERVAL: u32 = 1000;
    let (average, mode) = (r.u64(AVERAGE), r.u32(MODE));
    if mode & OTHER != 0 || average == 0 {
        return None;
    }
    let is_exact =
        |unit: u64| average <= unit * SCALE && unit * SCALE / average >= unit * SCALE % average;
    let shorter = UNITS.iter().skip(1).take_while(|(_, unit)| is_exact(*unit));
    let (unit, seconds) = shorter.last().unwrap_or(&UNITS[0]);
    let limit = if mode & INVERT != 0 {
        "--hashlimit-above"
    } else {
        "--hashlimit-upto"
    };
    let mut words = Words::default();
    words.option(limit, format!("{}/{unit}", seconds * SCALE / average));
    words.option("--hashlimit-burst", r.u64(BURST).to_string());
    let fields = [(4, "srcip"), (8, "srcport"), (1, "dstip"), (2, "dstport")];
    let fields = fields.iter().filter(|(bit, _)| mode & bit != 0);
    let fields: Vec<&str> = fields.map(|(_, name)| *name).collect();
    if !fields.is_empty() {
        words.option("--hashlimit-mode", fields.join(","));
    }
    words.option("--hashlimit-name", r.text(0, NAME_LEN).ok()?);
    let expiry = u32::try_from(seconds * 1000).ok()?;
    for (at, default, option) in [
        (SIZE, 0, "--hashlimit-htable-size"),
        (MAX, 0, "--hashlimit-htable-max"),
        (
            GC_INTERVAL,
            DEFAULT_GC_INTERVAL,
            "--hashlimit-htable-gcinterval",
        ),
        (EXPIRE, expiry, "--hashlimit-htable-expire"),
    ] {
        if r.u32(at) != default {
            words.option(option, r.u32(at).to_string());
        }
    }
    let whole = match family {
        Family::Ipv4 => 32,
        Family::Ipv6 => 128,
    };
    for (at, option) in [
        (SOURCE_MASK, "--hashlimit-srcmask"),
        (DESTINATION_MASK, "--hashlimit-dstmask"),
    ] {
        if r.u8(at) != whole {
            words.option(option, r.u8(at).to_string());
        }
    }
    Some(words)
}
