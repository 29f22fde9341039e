//! `-m multiport`.

use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, needed, value, with};
use crate::iptables::syntax::text::{negation, port_range};
use crate::iptables::syntax::{Fault, Options, Parsed, values};
use crate::iptables::value::{Negatable, PortRange};

pub(crate) const NAMES: &[&str] = &["multiport"];

pub(crate) const OPTIONS: Options = &[
    ("--dports", 1),
    ("--sports", 1),
    ("--ports", 1),
    ("--destination-ports", 1),
    ("--source-ports", 1),
];

/// `multiport`: one of up to 15 ports or ranges.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MatchMultiport {
    /// The compared port.
    pub side: PortSide,
    /// The accepted ports.
    pub ports: Negatable<Vec<PortRange>>,
}

/// `--sports`, `--dports`, `--ports`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum PortSide {
    Source,
    Destination,
    Either,
}

pub(crate) fn parse(_: Family, segment: &Segment<'_>) -> Parsed<Option<MatchMultiport>> {
    let mut found = None;
    for item in &segment.items {
        let word = value(item)?;
        let side = match item.option {
            "--sports" | "--source-ports" => PortSide::Source,
            "--dports" | "--destination-ports" => PortSide::Destination,
            _ => PortSide::Either,
        };
        let ports: Option<Vec<_>> = word
            .text
            .split(',')
            .map(|p| values::ports_in(p, ':'))
            .collect();
        // XT_MULTI_PORTS; a range counts twice.
        let room = |ports: &Vec<PortRange>| {
            let taken = ports.iter().map(|p| 1 + usize::from(p.first != p.last));
            taken.sum::<usize>() <= 15
        };
        let ports = ports.filter(room);
        let ports = ports.ok_or_else(|| Fault::not_a(word, "a list of up to 15 ports"))?;
        found = Some(MatchMultiport {
            side,
            ports: with(item, ports),
        });
    }
    needed(found, segment, "--sports, --dports or --ports").map(Some)
}

pub(crate) fn write(out: &mut String, multiport: &MatchMultiport) {
    out.push_str(" -m multiport");
    negation(out, &multiport.ports);
    out.push_str(match multiport.side {
        PortSide::Source => " --sports ",
        PortSide::Destination => " --dports ",
        PortSide::Either => " --ports ",
    });
    for (i, range) in multiport.ports.value.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        port_range(out, *range, ':');
    }
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &[
    "-p tcp -m multiport --dports 80,443",
    "-p tcp -m multiport ! --sports 1:9",
    "-p udp -m multiport --ports 53",
    "-p tcp -m multiport --destination-ports 1,2",
    "-p tcp -m multiport --source-ports 3",
];
