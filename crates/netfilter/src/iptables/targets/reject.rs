//! `-j REJECT`.

use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, value};
use crate::iptables::syntax::{Fault, Options, Parsed};

pub(crate) const NAMES: &[&str] = &["REJECT"];

pub(crate) const OPTIONS: Options = &[("--reject-with", 1)];

/// The reply of `REJECT`; the first are for IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum RejectWith {
    IcmpNetUnreachable,
    IcmpHostUnreachable,
    IcmpPortUnreachable,
    IcmpProtoUnreachable,
    IcmpNetProhibited,
    IcmpHostProhibited,
    IcmpAdminProhibited,
    TcpReset,
    Icmp6NoRoute,
    Icmp6AdmProhibited,
    Icmp6AddrUnreachable,
    Icmp6PortUnreachable,
    Icmp6PolicyFail,
    Icmp6RejectRoute,
}

impl RejectWith {
    /// Names in the output of iptables-save.
    pub const NAMES: [(&'static str, RejectWith); 14] = [
        ("icmp-net-unreachable", RejectWith::IcmpNetUnreachable),
        ("icmp-host-unreachable", RejectWith::IcmpHostUnreachable),
        ("icmp-port-unreachable", RejectWith::IcmpPortUnreachable),
        ("icmp-proto-unreachable", RejectWith::IcmpProtoUnreachable),
        ("icmp-net-prohibited", RejectWith::IcmpNetProhibited),
        ("icmp-host-prohibited", RejectWith::IcmpHostProhibited),
        ("icmp-admin-prohibited", RejectWith::IcmpAdminProhibited),
        ("tcp-reset", RejectWith::TcpReset),
        ("icmp6-no-route", RejectWith::Icmp6NoRoute),
        ("icmp6-adm-prohibited", RejectWith::Icmp6AdmProhibited),
        ("icmp6-addr-unreachable", RejectWith::Icmp6AddrUnreachable),
        ("icmp6-port-unreachable", RejectWith::Icmp6PortUnreachable),
        ("icmp6-policy-fail", RejectWith::Icmp6PolicyFail),
        ("icmp6-reject-route", RejectWith::Icmp6RejectRoute),
    ];
}

/// Short names that iptables also accepts.
const REJECT_ALIASES: &[(&str, RejectWith)] = &[
    ("net-unreach", RejectWith::IcmpNetUnreachable),
    ("host-unreach", RejectWith::IcmpHostUnreachable),
    ("port-unreach", RejectWith::IcmpPortUnreachable),
    ("proto-unreach", RejectWith::IcmpProtoUnreachable),
    ("net-prohib", RejectWith::IcmpNetProhibited),
    ("host-prohib", RejectWith::IcmpHostProhibited),
    ("admin-prohib", RejectWith::IcmpAdminProhibited),
    ("tcp-rst", RejectWith::TcpReset),
    ("no-route", RejectWith::Icmp6NoRoute),
    ("adm-prohibited", RejectWith::Icmp6AdmProhibited),
    ("addr-unreach", RejectWith::Icmp6AddrUnreachable),
];

pub(crate) fn parse(family: Family, segment: &Segment<'_>) -> Parsed<Option<RejectWith>> {
    let mut found = match family {
        Family::Ipv4 => RejectWith::IcmpPortUnreachable,
        Family::Ipv6 => RejectWith::Icmp6PortUnreachable,
    };
    for item in &segment.items {
        let word = value(item)?;
        let mut names = RejectWith::NAMES.iter().chain(REJECT_ALIASES);
        found = match names.find(|(name, _)| *name == word.text) {
            Some((name, _)) if family == Family::Ipv6 && *name == "port-unreach" => {
                RejectWith::Icmp6PortUnreachable
            }
            Some((_, with)) => *with,
            None => return Err(Fault::not_a(word, "a reply of REJECT")),
        };
    }
    Ok(Some(found))
}

pub(crate) fn write(out: &mut String, with: &RejectWith) {
    let name = RejectWith::NAMES.iter().find(|(_, w)| w == with);
    out.push_str(" -j REJECT --reject-with ");
    out.push_str(name.map_or("", |(name, _)| name));
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &["-j REJECT --reject-with tcp-reset"];
