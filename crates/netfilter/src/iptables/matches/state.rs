//! `-m state`, the older form of `conntrack --ctstate`.

use super::conntrack::{CtStates, parse_states, write_states};
use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, needed, value, with};
use crate::iptables::syntax::text::negation;
use crate::iptables::syntax::{Options, Parsed};
use crate::iptables::value::Negatable;

pub(crate) const NAMES: &[&str] = &["state"];

pub(crate) const OPTIONS: Options = &[("--state", 1)];

pub(crate) fn parse(_: Family, segment: &Segment<'_>) -> Parsed<Option<Negatable<CtStates>>> {
    let mut found = None;
    for item in &segment.items {
        found = Some(with(item, parse_states(value(item)?)?));
    }
    needed(found, segment, "--state").map(Some)
}

pub(crate) fn write(out: &mut String, states: &Negatable<CtStates>) {
    out.push_str(" -m state");
    negation(out, states);
    out.push_str(" --state ");
    write_states(out, states.value);
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &["-m state ! --state RELATED,ESTABLISHED"];
