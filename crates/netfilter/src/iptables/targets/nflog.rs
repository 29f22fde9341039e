//! `-j NFLOG`.

use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, keep, value};
use crate::iptables::syntax::text::{option_number, quoted, words};
use crate::iptables::syntax::{Options, Parsed, values};

pub(crate) const NAMES: &[&str] = &["NFLOG"];

pub(crate) const OPTIONS: Options = &[
    ("--nflog-prefix", 1),
    ("--nflog-group", 1),
    ("--nflog-range", 1),
    ("--nflog-size", 1),
    ("--nflog-threshold", 1),
];

/// `NFLOG`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NflogTarget {
    /// `--nflog-prefix`.
    pub prefix: Option<Box<str>>,
    /// `--nflog-group`; 0 by default.
    pub group: u16,
    /// `--nflog-range` or `--nflog-size`, word for word.
    pub other: Vec<Box<str>>,
}

pub(crate) fn parse(_: Family, segment: &Segment<'_>) -> Parsed<Option<NflogTarget>> {
    let mut found = NflogTarget::default();
    for item in &segment.items {
        match item.option {
            "--nflog-prefix" => found.prefix = Some(Box::from(&*value(item)?.text)),
            "--nflog-group" => found.group = values::number(value(item)?)?,
            _ => keep(item, &mut found.other),
        }
    }
    Ok(Some(found))
}

pub(crate) fn write(out: &mut String, nflog: &NflogTarget) {
    out.push_str(" -j NFLOG");
    if let Some(prefix) = &nflog.prefix {
        out.push_str(" --nflog-prefix");
        quoted(out, prefix);
    }
    if nflog.group != 0 {
        option_number(out, "--nflog-group", nflog.group.into());
    }
    words(out, &nflog.other);
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &[
    "-j NFLOG --nflog-prefix \"a b\" --nflog-group 3 --nflog-range 5 --nflog-threshold 2",
    "-j NFLOG --nflog-size 3",
];
