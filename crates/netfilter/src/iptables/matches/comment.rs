//! `-m comment`: true for every packet.

use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, single_text};
use crate::iptables::syntax::text::quoted;
use crate::iptables::syntax::{Options, Parsed};

pub(crate) const NAMES: &[&str] = &["comment"];

pub(crate) const OPTIONS: Options = &[("--comment", 1)];

pub(crate) fn parse(_: Family, segment: &Segment<'_>) -> Parsed<Option<Box<str>>> {
    single_text(segment, "--comment").map(Some)
}

pub(crate) fn write(out: &mut String, text: &str) {
    out.push_str(" -m comment --comment");
    quoted(out, text);
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &["-m comment --comment \"a b\""];
