//! `-m ipvs`: the IPVS connection of a packet.

use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, value, with};
use crate::iptables::syntax::text::{negation, net_short, option_number, raw_word, switch};
use crate::iptables::syntax::{Fault, Options, Parsed, values};
use crate::iptables::value::{Negatable, Net, Protocol};

pub(crate) const NAMES: &[&str] = &["ipvs"];

pub(crate) const OPTIONS: Options = &[
    ("--ipvs", 0),
    ("--vproto", 1),
    ("--vaddr", 1),
    ("--vport", 1),
    ("--vdir", 1),
    ("--vmethod", 1),
    ("--vportctl", 1),
];

/// `ipvs`: all conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MatchIpvs {
    /// `--ipvs`: an IPVS connection at all; `false` where negated.
    pub is_ipvs: Option<bool>,
    /// `--vproto`.
    pub protocol: Option<Negatable<Protocol>>,
    /// `--vaddr`: the virtual server's address.
    pub address: Option<Negatable<Net>>,
    /// `--vport`.
    pub port: Option<Negatable<u16>>,
    /// `--vdir`.
    pub direction: Option<IpvsDirection>,
    /// `--vmethod`: `GATE`, `IPIP` or `MASQ`.
    pub method: Option<Negatable<Box<str>>>,
    /// `--vportctl`.
    pub control_port: Option<Negatable<u16>>,
}

/// `--vdir`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum IpvsDirection {
    Original,
    Reply,
}

pub(crate) fn parse(family: Family, segment: &Segment<'_>) -> Parsed<Option<MatchIpvs>> {
    let mut found = MatchIpvs::default();
    for item in &segment.items {
        match item.option {
            "--ipvs" => found.is_ipvs = Some(!item.negated),
            "--vproto" => {
                found.protocol = values::protocol(value(item)?)?.map(|p| with(item, p));
            }
            "--vaddr" => {
                let net: Net = values::net(family, value(item)?)?;
                found.address = Some(with(item, net));
            }
            "--vport" => found.port = Some(with(item, values::number(value(item)?)?)),
            "--vdir" => {
                let word = value(item)?;
                found.direction = Some(match &*word.text {
                    "ORIGINAL" => IpvsDirection::Original,
                    "REPLY" => IpvsDirection::Reply,
                    _ => return Err(Fault::not_a(word, "ORIGINAL or REPLY")),
                });
            }
            "--vmethod" => {
                found.method = Some(with(item, Box::from(&*value(item)?.text)));
            }
            _ => found.control_port = Some(with(item, values::number(value(item)?)?)),
        }
    }
    // Every other condition implies it, and iptables-save does not print it then.
    let alone = MatchIpvs {
        is_ipvs: found.is_ipvs,
        ..MatchIpvs::default()
    };
    if found != alone {
        found.is_ipvs.take_if(|is_ipvs| *is_ipvs);
    }
    Ok(Some(found))
}

pub(crate) fn write(out: &mut String, ipvs: &MatchIpvs) {
    out.push_str(" -m ipvs");
    switch(out, "--ipvs", ipvs.is_ipvs);
    if let Some(protocol) = &ipvs.protocol {
        negation(out, protocol);
        option_number(out, "--vproto", protocol.value.0.into());
    }
    if let Some(net) = &ipvs.address {
        negation(out, net);
        out.push_str(" --vaddr ");
        net_short(out, &net.value);
    }
    if let Some(port) = &ipvs.port {
        negation(out, port);
        option_number(out, "--vport", port.value.into());
    }
    match ipvs.direction {
        Some(IpvsDirection::Original) => out.push_str(" --vdir ORIGINAL"),
        Some(IpvsDirection::Reply) => out.push_str(" --vdir REPLY"),
        None => {}
    }
    if let Some(method) = &ipvs.method {
        negation(out, method);
        out.push_str(" --vmethod ");
        raw_word(out, &method.value);
    }
    if let Some(port) = &ipvs.control_port {
        negation(out, port);
        option_number(out, "--vportctl", port.value.into());
    }
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &[
    "-m ipvs --ipvs --vproto 6 --vaddr 10.0.0.1 ! --vport 80 --vdir REPLY --vmethod MASQ --vportctl 21",
];
