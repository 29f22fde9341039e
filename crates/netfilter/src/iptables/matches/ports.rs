//! The port conditions of `tcp`, `udp` and `sctp`.

use crate::iptables::syntax::segment::{Item, Segment, value, with};
use crate::iptables::syntax::text::{negation, port_range};
use crate::iptables::syntax::{Parsed, values};
use crate::iptables::value::{Negatable, PortRange};

/// Source and destination port. An absent condition is true.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortMatch {
    /// `--sport`.
    pub source: Option<Negatable<PortRange>>,
    /// `--dport`.
    pub destination: Option<Negatable<PortRange>>,
}

impl PortMatch {
    /// `--dport` alone.
    pub fn to(port: u16) -> Self {
        Self {
            source: None,
            destination: Some(Negatable::is(PortRange::single(port))),
        }
    }
}

/// Parse `--sport` or `--dport`; `false` for another option.
pub(crate) fn parse_item(item: &Item<'_>, into: &mut PortMatch) -> Parsed<bool> {
    let side = match item.option {
        "--sport" | "--source-port" => &mut into.source,
        "--dport" | "--destination-port" => &mut into.destination,
        _ => return Ok(false),
    };
    let range = values::ports(value(item)?, ':')?;
    let everything = range
        == PortRange {
            first: 0,
            last: u16::MAX,
        };
    // iptables drops a condition that is always true.
    *side = (!everything || item.negated).then(|| with(item, range));
    Ok(true)
}

pub(crate) fn parse(segment: &Segment<'_>) -> Parsed<PortMatch> {
    let mut found = PortMatch::default();
    for item in &segment.items {
        parse_item(item, &mut found)?;
    }
    Ok(found)
}

pub(crate) fn write(out: &mut String, ports: &PortMatch) {
    for (name, side) in [
        (" --sport ", ports.source),
        (" --dport ", ports.destination),
    ] {
        if let Some(range) = side {
            negation(out, &range);
            out.push_str(name);
            port_range(out, range.value, ':');
        }
    }
}
