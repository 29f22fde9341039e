//! `-j REDIRECT`.

use super::masquerade;
use super::nat::write_to_ports;
use crate::iptables::name::Family;
use crate::iptables::syntax::segment::Segment;
use crate::iptables::syntax::text::flags;
use crate::iptables::syntax::{Options, Parsed};
use crate::iptables::value::PortRange;

pub(crate) const NAMES: &[&str] = &["REDIRECT"];

pub(crate) const OPTIONS: Options = &[("--to-ports", 1), ("--random", 0), ("--random-fully", 0)];

/// `REDIRECT`: DNAT to this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RedirectTarget {
    /// `--to-ports`; without it the port stays.
    pub ports: Option<PortRange>,
    /// `--random`.
    pub random: bool,
}

pub(crate) fn parse(family: Family, segment: &Segment<'_>) -> Parsed<Option<RedirectTarget>> {
    let same = masquerade::parse(family, segment)?;
    Ok(same.map(|m| RedirectTarget {
        ports: m.ports,
        random: m.random,
    }))
}

pub(crate) fn write(out: &mut String, redirect: &RedirectTarget) {
    out.push_str(" -j REDIRECT");
    write_to_ports(out, redirect.ports);
    flags(out, &[(redirect.random, "--random")]);
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &[
    "-j REDIRECT --to-ports 80 --random",
    "-j REDIRECT --random-fully",
];
