//! `-m set`: membership in an ipset.

use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, needed, with};
use crate::iptables::syntax::text::{negation, option, raw_word};
use crate::iptables::syntax::words::Word;
use crate::iptables::syntax::{Fault, Options, Parsed};
use crate::iptables::value::Negatable;

pub(crate) const NAMES: &[&str] = &["set"];

pub(crate) const OPTIONS: Options = &[
    ("--match-set", 2),
    ("--set", 2),
    ("--return-nomatch", 0),
    ("--update-counters", 0),
    ("--update-subcounters", 0),
    ("--packets-eq", 1),
    ("--packets-lt", 1),
    ("--packets-gt", 1),
    ("--bytes-eq", 1),
    ("--bytes-lt", 1),
    ("--bytes-gt", 1),
];

/// `set`: membership of the packet in an ipset.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MatchSet {
    /// The set; negated if the packet must not be in it.
    pub name: Negatable<Box<str>>,
    /// The side of the packet for each part of the element, up to six.
    pub directions: Vec<SetDirection>,
    /// `--return-nomatch`: a `nomatch` element counts as a hit.
    pub return_nomatch: bool,
}

/// `src` or `dst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum SetDirection {
    Source,
    Destination,
}

/// `None` if options go beyond the model.
pub(crate) fn parse(_: Family, segment: &Segment<'_>) -> Parsed<Option<MatchSet>> {
    let mut found = None;
    let mut return_nomatch = false;
    for item in &segment.items {
        match (item.option, item.values.as_slice()) {
            ("--match-set" | "--set", [name, directions]) => {
                found = Some((
                    with(item, Box::from(&*name.text)),
                    parse_directions(directions)?,
                ));
            }
            ("--return-nomatch", []) if !item.negated => return_nomatch = true,
            _ => return Ok(None),
        }
    }
    let (name, directions) = needed(found, segment, "--match-set")?;
    Ok(Some(MatchSet {
        name,
        directions,
        return_nomatch,
    }))
}

/// `src,dst`; at most 6 (`IPSET_DIM_MAX`).
pub(crate) fn parse_directions(word: &Word<'_>) -> Parsed<Vec<SetDirection>> {
    let parsed: Option<Vec<_>> = word
        .text
        .split(',')
        .map(|name| match name {
            "src" => Some(SetDirection::Source),
            "dst" => Some(SetDirection::Destination),
            _ => None,
        })
        .collect();
    parsed
        .filter(|all| all.len() <= 6)
        .ok_or_else(|| Fault::not_a(word, "a list of up to six of src and dst"))
}

pub(crate) fn write(out: &mut String, set: &MatchSet) {
    out.push_str(" -m set");
    negation(out, &set.name);
    out.push_str(" --match-set ");
    raw_word(out, &set.name.value);
    out.push(' ');
    write_directions(out, &set.directions);
    if set.return_nomatch {
        option(out, "--return-nomatch");
    }
}

pub(crate) fn write_directions(out: &mut String, directions: &[SetDirection]) {
    for (i, direction) in directions.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(match direction {
            SetDirection::Source => "src",
            SetDirection::Destination => "dst",
        });
    }
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &[
    "-m set --match-set KUBE-CLUSTER-IP src,dst --return-nomatch",
    "-m set ! --set a src",
    "-m set --match-set a src ! --update-counters",
    "-m set --match-set a src ! --update-subcounters",
    "-m set --match-set a src --packets-eq 1",
    "-m set --match-set a src --packets-lt 1",
    "-m set --match-set a src --packets-gt 1",
    "-m set --match-set a src --bytes-eq 1",
    "-m set --match-set a src --bytes-lt 1",
    "-m set --match-set a src --bytes-gt 1",
];
