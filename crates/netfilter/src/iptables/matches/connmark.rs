//! `-m connmark`.

use super::mark::{MarkMatch, write_value};
use crate::iptables::syntax::Options;
use crate::iptables::value::Negatable;

pub(crate) const NAMES: &[&str] = &["connmark"];

pub(crate) const OPTIONS: Options = &[("--mark", 1)];

pub(crate) use super::mark::parse;

pub(crate) fn write(out: &mut String, mark: &Negatable<MarkMatch>) {
    out.push_str(" -m connmark");
    write_value(out, mark);
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &["-m connmark --mark 0x1"];
