//! `-j NOTRACK`, which newer releases print as `CT --notrack`.

use super::ct::CtTarget;
use crate::iptables::name::Family;
use crate::iptables::syntax::segment::Segment;
use crate::iptables::syntax::{Options, Parsed};

pub(crate) const NAMES: &[&str] = &["NOTRACK"];

pub(crate) const OPTIONS: Options = &[];

pub(crate) fn parse(_: Family, _: &Segment<'_>) -> Parsed<Option<CtTarget>> {
    Ok(Some(CtTarget {
        notrack: true,
        ..CtTarget::default()
    }))
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &["-j NOTRACK"];
