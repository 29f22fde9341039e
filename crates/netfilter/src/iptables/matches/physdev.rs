//! `-m physdev`: the bridge port.

use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, value, with};
use crate::iptables::syntax::text::{interface_name, negation, switch};
use crate::iptables::syntax::{Options, Parsed, values};
use crate::iptables::value::{Interface, Negatable};

pub(crate) const NAMES: &[&str] = &["physdev"];

pub(crate) const OPTIONS: Options = &[
    ("--physdev-in", 1),
    ("--physdev-out", 1),
    ("--physdev-is-in", 0),
    ("--physdev-is-out", 0),
    ("--physdev-is-bridged", 0),
];

/// `physdev`: all conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MatchPhysdev {
    /// `--physdev-in`.
    pub in_port: Option<Negatable<Interface>>,
    /// `--physdev-out`.
    pub out_port: Option<Negatable<Interface>>,
    /// `--physdev-is-in`: entered through a bridge port; `false` where negated.
    pub is_in: Option<bool>,
    /// `--physdev-is-out`; `false` where negated.
    pub is_out: Option<bool>,
    /// `--physdev-is-bridged`; `false` where negated.
    pub is_bridged: Option<bool>,
}

pub(crate) fn parse(_: Family, segment: &Segment<'_>) -> Parsed<Option<MatchPhysdev>> {
    let mut found = MatchPhysdev::default();
    for item in &segment.items {
        let port = || -> Parsed<_> { Ok(Some(with(item, values::interface(value(item)?)?))) };
        match item.option {
            "--physdev-in" => found.in_port = port()?,
            "--physdev-out" => found.out_port = port()?,
            "--physdev-is-in" => found.is_in = Some(!item.negated),
            "--physdev-is-out" => found.is_out = Some(!item.negated),
            _ => found.is_bridged = Some(!item.negated),
        }
    }
    Ok(Some(found))
}

pub(crate) fn write(out: &mut String, physdev: &MatchPhysdev) {
    out.push_str(" -m physdev");
    switch(out, "--physdev-is-in", physdev.is_in);
    if let Some(port) = &physdev.in_port {
        negation(out, port);
        out.push_str(" --physdev-in ");
        interface_name(out, &port.value);
    }
    switch(out, "--physdev-is-out", physdev.is_out);
    if let Some(port) = &physdev.out_port {
        negation(out, port);
        out.push_str(" --physdev-out ");
        interface_name(out, &port.value);
    }
    switch(out, "--physdev-is-bridged", physdev.is_bridged);
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &[
    "-m physdev --physdev-is-in --physdev-in veth+ ! --physdev-is-out ! --physdev-out eth0 --physdev-is-bridged",
];
