//! `-m tcp`.

use super::ports::{self, PortMatch};
use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, value, with};
use crate::iptables::syntax::text::{names, negation, option_number};
use crate::iptables::syntax::words::Word;
use crate::iptables::syntax::{Options, Parsed, values};
use crate::iptables::value::Negatable;

pub(crate) const NAMES: &[&str] = &["tcp"];

pub(crate) const OPTIONS: Options = &[
    ("--dport", 1),
    ("--sport", 1),
    ("--destination-port", 1),
    ("--source-port", 1),
    ("--tcp-flags", 2),
    ("--syn", 0),
    ("--tcp-option", 1),
];

/// `tcp`. An absent condition is true.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MatchTcp {
    /// `--sport`, `--dport`.
    pub ports: PortMatch,
    /// `--tcp-flags`, `--syn`.
    pub flags: Option<Negatable<TcpFlags>>,
    /// `--tcp-option`: the kind of a TCP option that must be present.
    pub option: Option<Negatable<u8>>,
}

impl From<PortMatch> for MatchTcp {
    fn from(ports: PortMatch) -> Self {
        Self {
            ports,
            ..Self::default()
        }
    }
}

/// Exactly the flags in `set` are set among those in `mask`. Bits as in byte 13 of the TCP header:
/// FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct TcpFlags {
    pub mask: u8,
    pub set: u8,
}

impl TcpFlags {
    /// Names and bits in the order of iptables-save.
    pub const NAMES: [(&'static str, u8); 6] = [
        ("FIN", 1),
        ("SYN", 2),
        ("RST", 4),
        ("PSH", 8),
        ("ACK", 16),
        ("URG", 32),
    ];
    /// `--syn`.
    pub const SYN: TcpFlags = TcpFlags {
        mask: 1 | 2 | 4 | 16,
        set: 2,
    };
}

pub(crate) fn parse(_: Family, segment: &Segment<'_>) -> Parsed<Option<MatchTcp>> {
    let mut found = MatchTcp::default();
    for item in &segment.items {
        if ports::parse_item(item, &mut found.ports)? {
            continue;
        }
        match item.option {
            "--syn" => found.flags = Some(with(item, TcpFlags::SYN)),
            "--tcp-flags" => {
                let mut flags = [0u8; 2];
                for (bits, word) in flags.iter_mut().zip(item.values.as_slice()) {
                    *bits = tcp_flags(word)?;
                }
                let [mask, set] = flags;
                found.flags = Some(with(item, TcpFlags { mask, set }));
            }
            "--tcp-option" => found.option = Some(with(item, values::number(value(item)?)?)),
            _ => {}
        }
    }
    Ok(Some(found))
}

fn tcp_flags(word: &Word<'_>) -> Parsed<u8> {
    match &*word.text {
        "NONE" => Ok(0),
        "ALL" => Ok(0x3f),
        _ => {
            let mut bits = 0;
            values::names(word, &TcpFlags::NAMES, "a list of TCP flags", |b| bits |= b)?;
            Ok(bits)
        }
    }
}

pub(crate) fn write(out: &mut String, tcp: &MatchTcp) {
    out.push_str(" -m tcp");
    ports::write(out, &tcp.ports);
    if let Some(kind) = &tcp.option {
        negation(out, kind);
        option_number(out, "--tcp-option", kind.value.into());
    }
    if let Some(flags) = &tcp.flags {
        negation(out, flags);
        out.push_str(" --tcp-flags ");
        names(out, &TcpFlags::NAMES, "NONE", |bit| {
            flags.value.mask & bit != 0
        });
        out.push(' ');
        names(out, &TcpFlags::NAMES, "NONE", |bit| {
            flags.value.set & bit != 0
        });
    }
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &[
    "-p tcp -m tcp --sport 1024:65535 ! --dport 80",
    "-p tcp -m tcp --source-port 1 --destination-port 2 --tcp-option 2 --tcp-flags SYN,ACK SYN",
    "-p tcp -m tcp ! --syn",
];
