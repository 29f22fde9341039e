//! `-j MASQUERADE`.

use super::nat::{parse_ports, write_to_ports};
use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, value};
use crate::iptables::syntax::text::flags;
use crate::iptables::syntax::{Fault, Options, Parsed};
use crate::iptables::value::PortRange;

pub(crate) const NAMES: &[&str] = &["MASQUERADE"];

pub(crate) const OPTIONS: Options = &[("--to-ports", 1), ("--random", 0), ("--random-fully", 0)];

/// `MASQUERADE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MasqueradeTarget {
    /// `--to-ports`.
    pub ports: Option<PortRange>,
    /// `--random`.
    pub random: bool,
    /// `--random-fully`.
    pub random_fully: bool,
}

pub(crate) fn parse(_: Family, segment: &Segment<'_>) -> Parsed<Option<MasqueradeTarget>> {
    let mut found = MasqueradeTarget::default();
    for item in &segment.items {
        match item.option {
            "--to-ports" => {
                let word = value(item)?;
                let ports = parse_ports(&word.text);
                found.ports = Some(ports.ok_or_else(|| Fault::not_a(word, "a range of ports"))?);
            }
            "--random" => found.random = true,
            _ => found.random_fully = true,
        }
    }
    Ok(Some(found))
}

pub(crate) fn write(out: &mut String, masquerade: &MasqueradeTarget) {
    out.push_str(" -j MASQUERADE");
    write_to_ports(out, masquerade.ports);
    flags(
        out,
        &[
            (masquerade.random, "--random"),
            (masquerade.random_fully, "--random-fully"),
        ],
    );
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] =
    &["-j MASQUERADE --to-ports 1024-65535 --random --random-fully"];
