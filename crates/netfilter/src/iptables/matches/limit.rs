//! `-m limit`: a token bucket.

use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, plain, value};
use crate::iptables::syntax::text::option_number;
use crate::iptables::syntax::{Fault, Options, Parsed, values};

pub(crate) const NAMES: &[&str] = &["limit"];

pub(crate) const OPTIONS: Options = &[("--limit", 1), ("--limit-burst", 1)];

/// `limit`: the average rate and the burst. Cannot be negated.
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

pub(crate) fn parse(_: Family, segment: &Segment<'_>) -> Parsed<Option<MatchLimit>> {
    // The defaults of iptables (XT_LIMIT_AVG, XT_LIMIT_BURST).
    let mut found = MatchLimit {
        rate: 3,
        per: LimitUnit::Hour,
        burst: 5,
    };
    for item in &segment.items {
        plain(item)?;
        let word = value(item)?;
        if item.option == "--limit-burst" {
            found.burst = values::number(word)?;
            continue;
        }
        let (rate, per) = word.text.split_once('/').unwrap_or((&word.text, "second"));
        let unit = [
            ("second", LimitUnit::Second),
            ("minute", LimitUnit::Minute),
            ("hour", LimitUnit::Hour),
            ("day", LimitUnit::Day),
        ]
        .into_iter()
        .find(|(name, _)| !per.is_empty() && name.starts_with(per));
        let rate = values::number_in(rate).filter(|rate| *rate != 0);
        let (rate, (_, unit)) = rate
            .zip(unit)
            .ok_or_else(|| Fault::not_a(word, "a rate: 5/second, 3/hour"))?;
        found.rate = rate;
        found.per = unit;
    }
    Ok(Some(found))
}

pub(crate) fn write(out: &mut String, limit: &MatchLimit) {
    out.push_str(" -m limit");
    option_number(out, "--limit", limit.rate.into());
    out.push_str(match limit.per {
        LimitUnit::Second => "/sec",
        LimitUnit::Minute => "/min",
        LimitUnit::Hour => "/hour",
        LimitUnit::Day => "/day",
    });
    // XT_LIMIT_BURST, which iptables does not print.
    if limit.burst != 5 {
        option_number(out, "--limit-burst", limit.burst.into());
    }
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &["-m limit --limit 5/min --limit-burst 9"];
