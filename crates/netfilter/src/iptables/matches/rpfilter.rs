//! `-m rpfilter`: the reverse path.

use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, plain};
use crate::iptables::syntax::text::option;
use crate::iptables::syntax::{Options, Parsed};

pub(crate) const NAMES: &[&str] = &["rpfilter"];

pub(crate) const OPTIONS: Options = &[
    ("--loose", 0),
    ("--validmark", 0),
    ("--accept-local", 0),
    ("--invert", 0),
];

/// `rpfilter`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MatchRpfilter {
    /// `--loose`: accept any interface.
    pub loose: bool,
    /// `--validmark`: use the packet's mark in the route lookup.
    pub validmark: bool,
    /// `--accept-local`.
    pub accept_local: bool,
    /// `--invert`: negate the result.
    pub invert: bool,
}

pub(crate) fn parse(_: Family, segment: &Segment<'_>) -> Parsed<Option<MatchRpfilter>> {
    let mut found = MatchRpfilter::default();
    for item in &segment.items {
        plain(item)?;
        match item.option {
            "--loose" => found.loose = true,
            "--validmark" => found.validmark = true,
            "--accept-local" => found.accept_local = true,
            _ => found.invert = true,
        }
    }
    Ok(Some(found))
}

pub(crate) fn write(out: &mut String, rpfilter: &MatchRpfilter) {
    out.push_str(" -m rpfilter");
    for (on, name) in [
        (rpfilter.loose, "--loose"),
        (rpfilter.validmark, "--validmark"),
        (rpfilter.accept_local, "--accept-local"),
        (rpfilter.invert, "--invert"),
    ] {
        if on {
            option(out, name);
        }
    }
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &["-m rpfilter --loose --validmark --accept-local --invert"];
