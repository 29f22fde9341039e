//! `struct xt_rateinfo` (`linux/netfilter/xt_limit.h`).

use crate::iptables::{LimitUnit, MatchLimit};
use crate::iptables_nft::Unsupported;
use crate::iptables_nft::info::{Reader, Writer};

pub(super) const SIZE: usize = 40;

/// `XT_LIMIT_SCALE`: the structure contains the time between two packets, in these parts of a second.
const SCALE: u32 = 10_000;

/// The units in descending order, with their length in parts of a second.
const UNITS: [(LimitUnit, u32); 4] = [
    (LimitUnit::Day, 24 * 60 * 60 * SCALE),
    (LimitUnit::Hour, 60 * 60 * SCALE),
    (LimitUnit::Minute, 60 * SCALE),
    (LimitUnit::Second, SCALE),
];

pub(super) fn put(limit: MatchLimit) -> Result<Writer, Unsupported> {
    let unit = UNITS.iter().find(|(unit, _)| *unit == limit.per);
    let unit = unit.map_or(SCALE, |(_, length)| *length);
    let between = unit.checked_div(limit.rate).unwrap_or_default();
    if between == 0 {
        return Err(Unsupported::new("a limit of this rate"));
    }
    let mut w = Writer::new(SIZE);
    w.u32(0, between);
    w.u32(4, limit.burst);
    Ok(w)
}

/// Return the limit in the unit that iptables prints: the longest one whose rate is nearly exact.
pub(super) fn get(r: Reader<'_>) -> Result<MatchLimit, Unsupported> {
    let between = r.u32(0);
    if between == 0 {
        return Err(Unsupported::new("a limit of this rate"));
    }
    let is_exact = |length: u32| between <= length && length / between >= length % between;
    let shorter = UNITS
        .iter()
        .skip(1)
        .take_while(|(_, length)| is_exact(*length));
    let (per, length) = shorter.last().unwrap_or(&UNITS[0]);
    Ok(MatchLimit {
        rate: length / between,
        per: *per,
        burst: r.u32(4),
    })
}
