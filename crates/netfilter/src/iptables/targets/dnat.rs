//! `-j DNAT`.

use super::nat::{self, NatTarget};
use crate::iptables::name::Family;
use crate::iptables::syntax::segment::Segment;
use crate::iptables::syntax::{Options, Parsed};

pub(crate) const NAMES: &[&str] = &["DNAT"];

pub(crate) const OPTIONS: Options = &[
    ("--to-destination", 1),
    ("--random", 0),
    ("--random-fully", 0),
    ("--persistent", 0),
];

pub(crate) fn parse(family: Family, segment: &Segment<'_>) -> Parsed<Option<NatTarget>> {
    nat::parse(family, segment, "--to-destination")
}

pub(crate) fn write(out: &mut String, target: &NatTarget) {
    out.push_str(" -j DNAT --to-destination ");
    nat::write(out, target);
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] =
    &["-j DNAT --to-destination 10.0.0.1-10.0.0.9:80-90 --random --random-fully --persistent"];
