//! The type condition of `icmp` and `icmp6`.

use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, value, with};
use crate::iptables::syntax::text::{negation, number};
use crate::iptables::syntax::{Options, Parsed, values};
use crate::iptables::value::Negatable;

pub(crate) const NAMES: &[&str] = &["icmp"];

pub(crate) const OPTIONS: Options = &[("--icmp-type", 1)];

/// Type and code of an ICMP or ICMPv6 message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IcmpType {
    /// `icmp6` rather than `icmp`.
    pub v6: bool,
    /// The type; in IPv4, 255 is any.
    pub kind: u8,
    /// The code; `None` is any.
    pub code: Option<u8>,
}

/// Names of common types; others are numbers.
const ICMP_NAMES: &[(&str, u8, Option<u8>)] = &[
    ("any", 255, None),
    ("echo-reply", 0, None),
    ("pong", 0, None),
    ("destination-unreachable", 3, None),
    ("network-unreachable", 3, Some(0)),
    ("host-unreachable", 3, Some(1)),
    ("protocol-unreachable", 3, Some(2)),
    ("port-unreachable", 3, Some(3)),
    ("fragmentation-needed", 3, Some(4)),
    ("source-quench", 4, None),
    ("redirect", 5, None),
    ("echo-request", 8, None),
    ("ping", 8, None),
    ("router-advertisement", 9, None),
    ("router-solicitation", 10, None),
    ("time-exceeded", 11, None),
    ("ttl-exceeded", 11, None),
    ("parameter-problem", 12, None),
    ("timestamp-request", 13, None),
    ("timestamp-reply", 14, None),
];

const ICMPV6_NAMES: &[(&str, u8, Option<u8>)] = &[
    ("destination-unreachable", 1, None),
    ("no-route", 1, Some(0)),
    ("communication-prohibited", 1, Some(1)),
    ("address-unreachable", 1, Some(3)),
    ("port-unreachable", 1, Some(4)),
    ("packet-too-big", 2, None),
    ("time-exceeded", 3, None),
    ("ttl-exceeded", 3, None),
    ("parameter-problem", 4, None),
    ("echo-request", 128, None),
    ("ping", 128, None),
    ("echo-reply", 129, None),
    ("pong", 129, None),
    ("router-solicitation", 133, None),
    ("router-advertisement", 134, None),
    ("neighbour-solicitation", 135, None),
    ("neighbor-solicitation", 135, None),
    ("neighbour-advertisement", 136, None),
    ("neighbor-advertisement", 136, None),
    ("redirect", 137, None),
];

/// `None` if the type is a name that the tables above lack.
pub(crate) fn parse(_: Family, segment: &Segment<'_>) -> Parsed<Option<Negatable<IcmpType>>> {
    let v6 = segment.name != "icmp";
    // Without the option: any type, which only IPv4 can express.
    let mut found = (!v6).then_some(Negatable::is(IcmpType {
        v6,
        kind: 255,
        code: None,
    }));
    for item in &segment.items {
        let word = value(item)?;
        let names = if v6 { ICMPV6_NAMES } else { ICMP_NAMES };
        let named = names.iter().find(|(name, ..)| *name == word.text);
        let (kind, code) = match (named, word.text.split_once('/')) {
            (Some((_, kind, code)), _) => (Some(*kind), *code),
            (None, None) => (values::number_in(&word.text), None),
            (None, Some((kind, code))) => match values::number_in(code) {
                Some(code) => (values::number_in(kind), Some(code)),
                None => (None, None),
            },
        };
        let Some(kind) = kind else {
            return Ok(None);
        };
        // `any` has no code in print.
        let code = code.filter(|_| v6 || kind != 255);
        found = Some(with(item, IcmpType { v6, kind, code }));
    }
    Ok(found)
}

pub(crate) fn write(out: &mut String, icmp: &Negatable<IcmpType>) {
    out.push_str(if icmp.value.v6 {
        " -m icmp6"
    } else {
        " -m icmp"
    });
    negation(out, icmp);
    out.push_str(if icmp.value.v6 {
        " --icmpv6-type "
    } else {
        " --icmp-type "
    });
    if icmp.value.kind == 255 && !icmp.value.v6 {
        out.push_str("any");
        return;
    }
    number(out, icmp.value.kind.into());
    if let Some(code) = icmp.value.code {
        out.push('/');
        number(out, code.into());
    }
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &["-p icmp -m icmp --icmp-type 8"];
