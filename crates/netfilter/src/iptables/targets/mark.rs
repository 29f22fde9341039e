//! `-j MARK`, and the operation on a mark that `CONNMARK` and `TPROXY` share.

use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, needed, value};
use crate::iptables::syntax::text::hex;
use crate::iptables::syntax::words::Word;
use crate::iptables::syntax::{Options, Parsed, values};

pub(crate) const NAMES: &[&str] = &["MARK"];

pub(crate) const OPTIONS: Options = &[
    ("--set-xmark", 1),
    ("--set-mark", 1),
    ("--and-mark", 1),
    ("--or-mark", 1),
    ("--xor-mark", 1),
];

/// `mark = (mark & !mask) ^ value` (`--set-xmark VALUE/MASK`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Xmark {
    pub value: u32,
    pub mask: u32,
}

impl Xmark {
    /// Return the resulting mark.
    pub fn apply(self, mark: u32) -> u32 {
        (mark & !self.mask) ^ self.value
    }
}

pub(crate) fn parse(_: Family, segment: &Segment<'_>) -> Parsed<Option<Xmark>> {
    let mut found = None;
    for item in &segment.items {
        if let Some(xmark) = parse_xmark(item.option, value(item)?) {
            found = Some(xmark?);
        }
    }
    needed(found, segment, "--set-xmark").map(Some)
}

/// Return the operation of an option of `MARK` or `CONNMARK`; `None` for another option.
pub(crate) fn parse_xmark(option: &str, word: &Word<'_>) -> Option<Parsed<Xmark>> {
    let xmark = |value, mask| Xmark { value, mask };
    Some(match option {
        "--set-xmark" => values::value_and_mask(word).map(|(v, m)| xmark(v, m)),
        // Bits of the value outside the mask are also set.
        "--set-mark" => values::value_and_mask(word).map(|(v, m)| xmark(v, v | m)),
        "--or-mark" => values::number(word).map(|v| xmark(v, v)),
        "--xor-mark" => values::number(word).map(|v| xmark(v, 0)),
        "--and-mark" => values::number(word).map(|v: u32| xmark(0, !v)),
        _ => return None,
    })
}

pub(crate) fn write(out: &mut String, xmark: &Xmark) {
    out.push_str(" -j MARK --set-xmark ");
    write_xmark(out, *xmark);
}

pub(crate) fn write_xmark(out: &mut String, xmark: Xmark) {
    hex(out, xmark.value);
    out.push('/');
    hex(out, xmark.mask);
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &[
    "-j MARK --set-xmark 0x4000",
    "-j MARK --set-mark 0x4000",
    "-j MARK --and-mark 0x4000",
    "-j MARK --or-mark 0x4000",
    "-j MARK --xor-mark 0x4000",
];
