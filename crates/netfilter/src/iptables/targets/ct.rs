//! `-j CT`.

use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, keep, value};
use crate::iptables::syntax::text::{flags, option_number, raw_word, words};
use crate::iptables::syntax::{Options, Parsed, values};

pub(crate) const NAMES: &[&str] = &["CT"];

pub(crate) const OPTIONS: Options = &[
    ("--notrack", 0),
    ("--zone", 1),
    ("--helper", 1),
    ("--ctevents", 1),
    ("--expevents", 1),
    ("--zone-orig", 1),
    ("--zone-reply", 1),
    ("--timeout", 1),
];

/// `CT`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CtTarget {
    /// `--notrack`.
    pub notrack: bool,
    /// `--zone`.
    pub zone: Option<u16>,
    /// `--helper`.
    pub helper: Option<Box<str>>,
    /// The options that are not modelled, word for word.
    pub other: Vec<Box<str>>,
}

pub(crate) fn parse(_: Family, segment: &Segment<'_>) -> Parsed<Option<CtTarget>> {
    let mut found = CtTarget::default();
    for item in &segment.items {
        match item.option {
            "--notrack" => found.notrack = true,
            "--zone" => match values::number_in(&value(item)?.text) {
                Some(zone) => found.zone = Some(zone),
                None => keep(item, &mut found.other),
            },
            "--helper" => found.helper = Some(Box::from(&*value(item)?.text)),
            _ => keep(item, &mut found.other),
        }
    }
    Ok(Some(found))
}

pub(crate) fn write(out: &mut String, ct: &CtTarget) {
    out.push_str(" -j CT");
    flags(out, &[(ct.notrack, "--notrack")]);
    if let Some(helper) = &ct.helper {
        out.push_str(" --helper ");
        raw_word(out, helper);
    }
    words(out, &ct.other);
    if let Some(zone) = ct.zone {
        option_number(out, "--zone", zone.into());
    }
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &[
    "-j CT --helper ftp --timeout t --ctevents new,destroy --expevents new --zone 5",
    "-j CT --notrack --zone-orig 1",
    "-j CT --zone-reply 2",
    "-j CT --zone mark",
];
