//! `-j TCPMSS`.

use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, needed, value};
use crate::iptables::syntax::text::{option, option_number};
use crate::iptables::syntax::{Options, Parsed, values};

pub(crate) const NAMES: &[&str] = &["TCPMSS"];

pub(crate) const OPTIONS: Options = &[("--set-mss", 1), ("--clamp-mss-to-pmtu", 0)];

/// `TCPMSS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TcpmssTarget {
    /// `--set-mss`.
    Set(u16),
    /// `--clamp-mss-to-pmtu`.
    ClampToPmtu,
}

pub(crate) fn parse(_: Family, segment: &Segment<'_>) -> Parsed<Option<TcpmssTarget>> {
    let mut found = None;
    for item in &segment.items {
        found = Some(match item.option {
            "--set-mss" => TcpmssTarget::Set(values::number(value(item)?)?),
            _ => TcpmssTarget::ClampToPmtu,
        });
    }
    needed(found, segment, "--set-mss or --clamp-mss-to-pmtu").map(Some)
}

pub(crate) fn write(out: &mut String, target: &TcpmssTarget) {
    out.push_str(" -j TCPMSS");
    match target {
        TcpmssTarget::Set(mss) => option_number(out, "--set-mss", u64::from(*mss)),
        TcpmssTarget::ClampToPmtu => option(out, "--clamp-mss-to-pmtu"),
    }
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &["-j TCPMSS --set-mss 1400", "-j TCPMSS --clamp-mss-to-pmtu"];
