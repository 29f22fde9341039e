//! `-m udp`.

use super::ports::{self, PortMatch};
use crate::iptables::name::Family;
use crate::iptables::syntax::segment::Segment;
use crate::iptables::syntax::{Options, Parsed};

pub(crate) const NAMES: &[&str] = &["udp"];

pub(crate) const OPTIONS: Options = &[
    ("--dport", 1),
    ("--sport", 1),
    ("--destination-port", 1),
    ("--source-port", 1),
];

pub(crate) fn parse(_: Family, segment: &Segment<'_>) -> Parsed<Option<PortMatch>> {
    ports::parse(segment).map(Some)
}

pub(crate) fn write(out: &mut String, ports: &PortMatch) {
    out.push_str(" -m udp");
    ports::write(out, ports);
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &[
    "-p udp -m udp --sport 1024:65535 ! --dport 80",
    "-p udp -m udp --source-port 1 --destination-port 2",
];
