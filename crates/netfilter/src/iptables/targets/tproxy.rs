//! `-j TPROXY`.

use std::net::IpAddr;

use super::mark::{Xmark, write_xmark};
use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, needed, value};
use crate::iptables::syntax::text::{address, number};
use crate::iptables::syntax::{Options, Parsed, values};

pub(crate) const NAMES: &[&str] = &["TPROXY"];

pub(crate) const OPTIONS: Options = &[("--on-port", 1), ("--on-ip", 1), ("--tproxy-mark", 1)];

/// `TPROXY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TproxyTarget {
    /// `--on-port`.
    pub port: u16,
    /// `--on-ip`.
    pub ip: Option<IpAddr>,
    /// `--tproxy-mark`.
    pub mark: Option<Xmark>,
}

pub(crate) fn parse(family: Family, segment: &Segment<'_>) -> Parsed<Option<TproxyTarget>> {
    let (mut port, mut ip, mut mark) = (None, None, None);
    for item in &segment.items {
        let word = value(item)?;
        match item.option {
            "--on-port" => port = Some(values::number(word)?),
            "--on-ip" => ip = Some(values::address(family, word)?),
            _ => {
                let (value, mask) = values::value_and_mask(word)?;
                mark = Some(Xmark { value, mask });
            }
        }
    }
    Ok(Some(TproxyTarget {
        port: needed(port, segment, "--on-port")?,
        ip,
        mark,
    }))
}

pub(crate) fn write(out: &mut String, tproxy: &TproxyTarget) {
    out.push_str(" -j TPROXY --on-port ");
    number(out, tproxy.port.into());
    if let Some(ip) = tproxy.ip {
        out.push_str(" --on-ip ");
        address(out, ip);
    }
    if let Some(mark) = tproxy.mark {
        out.push_str(" --tproxy-mark ");
        write_xmark(out, mark);
    }
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] =
    &["-j TPROXY --on-port 80 --on-ip 10.0.0.1 --tproxy-mark 0x1/0x1"];
