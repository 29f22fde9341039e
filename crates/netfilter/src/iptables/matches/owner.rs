//! `-m owner`: the owner of the local socket.

use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, value, with};
use crate::iptables::syntax::text::{negation, switch, u32_range};
use crate::iptables::syntax::{Options, Parsed, values};
use crate::iptables::value::Negatable;

pub(crate) const NAMES: &[&str] = &["owner"];

pub(crate) const OPTIONS: Options = &[
    ("--uid-owner", 1),
    ("--gid-owner", 1),
    ("--socket-exists", 0),
];

/// `owner`: all conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MatchOwner {
    /// `--uid-owner` (first and last).
    pub uid: Option<Negatable<(u32, u32)>>,
    /// `--gid-owner` (first and last).
    pub gid: Option<Negatable<(u32, u32)>>,
    /// `--socket-exists`; `false` where negated.
    pub socket_exists: Option<bool>,
}

/// `None` if a user or group is a name, which only the host can resolve.
pub(crate) fn parse(_: Family, segment: &Segment<'_>) -> Parsed<Option<MatchOwner>> {
    let mut found = MatchOwner::default();
    for item in &segment.items {
        if item.option == "--socket-exists" {
            found.socket_exists = Some(!item.negated);
            continue;
        }
        let Some(range) = values::u32_range(&value(item)?.text, '-') else {
            return Ok(None);
        };
        match item.option {
            "--uid-owner" => found.uid = Some(with(item, range)),
            _ => found.gid = Some(with(item, range)),
        }
    }
    Ok(Some(found))
}

pub(crate) fn write(out: &mut String, owner: &MatchOwner) {
    out.push_str(" -m owner");
    switch(out, "--socket-exists", owner.socket_exists);
    for (name, range) in [(" --uid-owner ", &owner.uid), (" --gid-owner ", &owner.gid)] {
        if let Some(range) = range {
            negation(out, range);
            out.push_str(name);
            u32_range(out, range.value, '-');
        }
    }
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] =
    &["-m owner ! --socket-exists --uid-owner 0-9 ! --gid-owner 5"];
