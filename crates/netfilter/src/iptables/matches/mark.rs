//! `-m mark`, and the value that `mark` and `connmark` share.

use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, needed, value, with};
use crate::iptables::syntax::text::{hex, negation};
use crate::iptables::syntax::{Options, Parsed, values};
use crate::iptables::value::Negatable;

pub(crate) const NAMES: &[&str] = &["mark"];

pub(crate) const OPTIONS: Options = &[("--mark", 1)];

/// `mark & mask == value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct MarkMatch {
    pub value: u32,
    pub mask: u32,
}

pub(crate) fn parse(_: Family, segment: &Segment<'_>) -> Parsed<Option<Negatable<MarkMatch>>> {
    let mut found = None;
    for item in &segment.items {
        let (value, mask) = values::value_and_mask(value(item)?)?;
        found = Some(with(item, MarkMatch { value, mask }));
    }
    needed(found, segment, "--mark").map(Some)
}

pub(crate) fn write(out: &mut String, mark: &Negatable<MarkMatch>) {
    out.push_str(" -m mark");
    write_value(out, mark);
}

pub(crate) fn write_value(out: &mut String, mark: &Negatable<MarkMatch>) {
    negation(out, mark);
    out.push_str(" --mark ");
    hex(out, mark.value.value);
    if mark.value.mask != u32::MAX {
        out.push('/');
        hex(out, mark.value.mask);
    }
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &["-m mark ! --mark 0x4000/0x4000"];
