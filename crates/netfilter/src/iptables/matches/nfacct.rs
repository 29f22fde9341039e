//! `-m nfacct`: counts in a named object; true for every packet.

use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, single_text};
use crate::iptables::syntax::text::quoted;
use crate::iptables::syntax::{Options, Parsed};

pub(crate) const NAMES: &[&str] = &["nfacct"];

pub(crate) const OPTIONS: Options = &[("--nfacct-name", 1)];

pub(crate) fn parse(_: Family, segment: &Segment<'_>) -> Parsed<Option<Box<str>>> {
    single_text(segment, "--nfacct-name").map(Some)
}

pub(crate) fn write(out: &mut String, name: &str) {
    // iptables prints two spaces here.
    out.push_str(" -m nfacct --nfacct-name ");
    quoted(out, name);
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &["-m nfacct --nfacct-name  dropped"];
