//! `-m sctp`: ports only. With `--chunk-types` it is kept word for word.

use super::ports::{self, PortMatch};
use crate::iptables::name::Family;
use crate::iptables::syntax::segment::Segment;
use crate::iptables::syntax::{Options, Parsed};

pub(crate) const NAMES: &[&str] = &["sctp"];

pub(crate) const OPTIONS: Options = &[
    ("--dport", 1),
    ("--sport", 1),
    ("--destination-port", 1),
    ("--source-port", 1),
    ("--chunk-types", 2),
];

pub(crate) fn parse(_: Family, segment: &Segment<'_>) -> Parsed<Option<PortMatch>> {
    if segment.items.iter().any(|i| i.option == "--chunk-types") {
        return Ok(None);
    }
    ports::parse(segment).map(Some)
}

pub(crate) fn write(out: &mut String, ports: &PortMatch) {
    out.push_str(" -m sctp");
    ports::write(out, ports);
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &[
    "-p sctp -m sctp --sport 1024:65535 ! --dport 80",
    "-p sctp -m sctp --source-port 1 --destination-port 2",
    "-p sctp -m sctp --chunk-types any INIT",
];
