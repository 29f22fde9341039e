//! Durations in Go's text form.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration in nanoseconds, in the text form of Go's `time.Duration`: `1h2m3.5s`, `-10ms`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(pub i64);

const UNITS: [(&str, i64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000), // U+00B5
    ("μs", 1_000), // U+03BC
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

impl GoDuration {
    /// Return a duration of whole seconds.
    pub const fn from_secs(seconds: i64) -> Self {
        Self(seconds * 1_000_000_000)
    }

    /// Convert to a [`Duration`]; `None` if negative.
    pub fn positive(self) -> Option<Duration> {
        u64::try_from(self.0).ok().map(Duration::from_nanos)
    }

    /// Convert to a [`Duration`]; `None` if negative or zero, which means "unchanged" in many
    /// fields.
    pub fn nonzero(self) -> Option<Duration> {
        self.positive().filter(|d| !d.is_zero())
    }
}

impl FromStr for GoDuration {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let bad = || format!("{s:?} is not a duration such as 30s, 1m30s or 2h");
        let (negative, unsigned) = match s.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, s.strip_prefix('+').unwrap_or(s)),
        };
        if unsigned == "0" {
            return Ok(Self(0));
        }
        let mut rest = unsigned;
        let mut total: i64 = 0;
        while !rest.is_empty() {
            let number_end = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .ok_or_else(bad)?;
            let (number, after) = rest.split_at_checked(number_end).ok_or_else(bad)?;
            let unit_end = after
                .find(|c: char| c.is_ascii_digit() || c == '.')
                .unwrap_or(after.len());
            let (unit, after) = after.split_at_checked(unit_end).ok_or_else(bad)?;
            let (_, unit) = UNITS
                .iter()
                .find(|(name, _)| *name == unit)
                .ok_or_else(bad)?;
            let part = nanoseconds(number, *unit).ok_or_else(bad)?;
            total = total.checked_add(part).ok_or_else(bad)?;
            rest = after;
        }
        if unsigned.is_empty() {
            return Err(bad());
        }
        Ok(Self(if negative { -total } else { total }))
    }
}

/// Parse a decimal number of a unit into nanoseconds; truncate finer fractions.
fn nanoseconds(number: &str, unit: i64) -> Option<i64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: i64 = match whole {
        "" => 0,
        _ => whole.parse().ok()?,
    };
    // At most 18 digits of fraction: finer than a nanosecond of the longest unit.
    let digits = fraction.get(..fraction.len().min(18))?;
    let divisor = 10_i128.pow(u32::try_from(digits.len()).ok()?);
    let fraction: i128 = match digits {
        "" => 0,
        _ => digits.parse().ok()?,
    };
    let unit = i128::from(unit);
    i64::try_from(i128::from(whole) * unit + fraction * unit / divisor).ok()
}

/// Go's form: `24h0m0s`, `1.5s`, `20ms`, `0s`.
impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let below_a_second = [(1_000_000, "ms"), (1_000, "µs"), (1, "ns")];
        if total == 0 {
            return f.write_str("0s");
        }
        if total < 1_000_000_000 {
            let unit = below_a_second.iter().find(|(unit, _)| total >= *unit);
            let (unit, name) = unit.copied().unwrap_or((1, "ns"));
            return write!(f, "{}{name}", decimal(total, unit));
        }
        let (hours, rest) = (total / 3_600_000_000_000, total % 3_600_000_000_000);
        let (minutes, rest) = (rest / 60_000_000_000, rest % 60_000_000_000);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        write!(f, "{}s", decimal(rest, 1_000_000_000))
    }
}

/// Format a number of units without trailing zeros.
fn decimal(value: u64, unit: u64) -> String {
    let width = unit.ilog10() as usize;
    let fraction = format!("{:0width$}", value % unit);
    match fraction.trim_end_matches('0') {
        "" => (value / unit).to_string(),
        fraction => format!("{}.{fraction}", value / unit),
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}
