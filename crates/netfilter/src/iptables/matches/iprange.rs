//! `-m iprange`.

use std::net::IpAddr;

use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, value, with};
use crate::iptables::syntax::text::{address, negation};
use crate::iptables::syntax::{Options, Parsed, values};
use crate::iptables::value::Negatable;

pub(crate) const NAMES: &[&str] = &["iprange"];

pub(crate) const OPTIONS: Options = &[("--src-range", 1), ("--dst-range", 1)];

/// `iprange`: first and last address, inclusive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MatchIpRange {
    /// `--src-range`.
    pub source: Option<Negatable<(IpAddr, IpAddr)>>,
    /// `--dst-range`.
    pub destination: Option<Negatable<(IpAddr, IpAddr)>>,
}

pub(crate) fn parse(family: Family, segment: &Segment<'_>) -> Parsed<Option<MatchIpRange>> {
    let mut found = MatchIpRange::default();
    for item in &segment.items {
        let range = with(item, values::address_range(family, value(item)?)?);
        match item.option {
            "--src-range" => found.source = Some(range),
            _ => found.destination = Some(range),
        }
    }
    Ok(Some(found))
}

pub(crate) fn write(out: &mut String, range: &MatchIpRange) {
    out.push_str(" -m iprange");
    for (name, side) in [
        (" --src-range ", &range.source),
        (" --dst-range ", &range.destination),
    ] {
        if let Some(side) = side {
            negation(out, side);
            out.push_str(name);
            address(out, side.value.0);
            out.push('-');
            address(out, side.value.1);
        }
    }
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] =
    &["-m iprange --src-range 10.0.0.1-10.0.0.9 ! --dst-range 10.0.0.3-10.0.0.4"];
