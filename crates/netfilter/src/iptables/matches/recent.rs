//! `-m recent`.

use std::net::IpAddr;

use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, needed, value, with};
use crate::iptables::syntax::text::{address, negation, option, option_number, raw_word};
use crate::iptables::syntax::{Options, Parsed, values};
use crate::iptables::value::Negatable;

pub(crate) const NAMES: &[&str] = &["recent"];

pub(crate) const OPTIONS: Options = &[
    ("--set", 0),
    ("--rcheck", 0),
    ("--update", 0),
    ("--remove", 0),
    ("--seconds", 1),
    ("--reap", 0),
    ("--hitcount", 1),
    ("--rttl", 0),
    ("--name", 1),
    ("--mask", 1),
    ("--rsource", 0),
    ("--rdest", 0),
];

/// `recent`: a list of addresses with the times of their packets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MatchRecent {
    /// The action, and whether its result is negated.
    pub action: Negatable<RecentAction>,
    /// `--seconds`: only packets within this time.
    pub seconds: Option<u32>,
    /// `--reap`: drop entries older than `seconds`.
    pub reap: bool,
    /// `--hitcount`: the minimum number of packets.
    pub hit_count: Option<u32>,
    /// `--rttl`: the TTL must also be equal.
    pub ttl: bool,
    /// `--name`: the list.
    pub name: Box<str>,
    /// `--mask`: the significant bits of the address.
    pub mask: IpAddr,
    /// `--rdest` rather than `--rsource`.
    pub destination: bool,
}

/// The action of `recent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecentAction {
    /// `--set`: add the address; true.
    Set,
    /// `--rcheck`: true if the address is on the list.
    Check,
    /// `--update`: as `--rcheck`, and update the time.
    Update,
    /// `--remove`: remove the address; true if it was on the list.
    Remove,
}

pub(crate) fn parse(family: Family, segment: &Segment<'_>) -> Parsed<Option<MatchRecent>> {
    let mut action = None;
    let mut found = MatchRecent {
        action: Negatable::is(RecentAction::Set),
        seconds: None,
        reap: false,
        hit_count: None,
        ttl: false,
        name: "DEFAULT".into(),
        mask: family.host_mask(),
        destination: false,
    };
    for item in &segment.items {
        match item.option {
            "--set" => action = Some(with(item, RecentAction::Set)),
            "--rcheck" => action = Some(with(item, RecentAction::Check)),
            "--update" => action = Some(with(item, RecentAction::Update)),
            "--remove" => action = Some(with(item, RecentAction::Remove)),
            "--seconds" => found.seconds = Some(values::number(value(item)?)?),
            "--reap" => found.reap = true,
            "--hitcount" => found.hit_count = Some(values::number(value(item)?)?),
            "--rttl" => found.ttl = true,
            "--name" => found.name = Box::from(&*value(item)?.text),
            "--mask" => found.mask = values::address(family, value(item)?)?,
            "--rsource" => found.destination = false,
            _ => found.destination = true,
        }
    }
    found.action = needed(action, segment, "--set, --rcheck, --update or --remove")?;
    Ok(Some(found))
}

pub(crate) fn write(out: &mut String, recent: &MatchRecent) {
    out.push_str(" -m recent");
    negation(out, &recent.action);
    out.push_str(match recent.action.value {
        RecentAction::Set => " --set",
        RecentAction::Check => " --rcheck",
        RecentAction::Update => " --update",
        RecentAction::Remove => " --remove",
    });
    if let Some(seconds) = recent.seconds {
        option_number(out, "--seconds", seconds.into());
    }
    if recent.reap {
        option(out, "--reap");
    }
    if let Some(hits) = recent.hit_count {
        option_number(out, "--hitcount", hits.into());
    }
    if recent.ttl {
        option(out, "--rttl");
    }
    out.push_str(" --name ");
    raw_word(out, &recent.name);
    out.push_str(" --mask ");
    address(out, recent.mask);
    out.push_str(if recent.destination {
        " --rdest"
    } else {
        " --rsource"
    });
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &[
    "-m recent --rcheck --seconds 10800 --reap --name KUBE-SEP-A --mask 255.255.255.255 --rsource",
    "-m recent ! --update --hitcount 3 --rttl --name a --rdest",
    "-m recent --set",
    "-m recent --remove",
];
