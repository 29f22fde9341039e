//! The address and ports of `DNAT` and `SNAT`, and the ports of `MASQUERADE` and `REDIRECT`.

use std::net::IpAddr;

use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, needed, value};
use crate::iptables::syntax::text::{address, flags, port_range};
use crate::iptables::syntax::words::Word;
use crate::iptables::syntax::{Fault, Parsed, values};
use crate::iptables::value::PortRange;

/// The new address and port of `DNAT` and `SNAT`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NatTarget {
    /// First and last address; equal for a single address. `None` if only the port changes.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// First and last port; `None` if the port stays.
    pub ports: Option<PortRange>,
    /// `--random`.
    pub random: bool,
    /// `--random-fully` (SNAT only).
    pub random_fully: bool,
    /// `--persistent`.
    pub persistent: bool,
}

impl NatTarget {
    /// Return a single address and port.
    pub fn to(ip: IpAddr, port: u16) -> Self {
        Self {
            addresses: Some((ip, ip)),
            ports: Some(PortRange::single(port)),
            ..Self::default()
        }
    }
}

impl NatTarget {
    /// Append the destination (or source): `10.0.0.1:80`, `[fd00::1]:80`.
    pub fn write_to(&self, out: &mut String) {
        if let Some((first, last)) = self.addresses {
            let brackets = matches!(first, IpAddr::V6(_)) && self.ports.is_some();
            if brackets {
                out.push('[');
            }
            address(out, first);
            if last != first {
                out.push('-');
                address(out, last);
            }
            if brackets {
                out.push(']');
            }
        }
        if let Some(ports) = self.ports {
            out.push(':');
            port_range(out, ports, '-');
        }
    }
}

/// `None` if the target goes beyond the model: a base for shifted ports, or several targets.
pub(crate) fn parse(
    family: Family,
    segment: &Segment<'_>,
    option: &str,
) -> Parsed<Option<NatTarget>> {
    let mut found = NatTarget::default();
    let mut given = false;
    for item in &segment.items {
        match item.option {
            "--random" => found.random = true,
            "--random-fully" => found.random_fully = true,
            "--persistent" => found.persistent = true,
            name if name == option && !given => {
                let word = value(item)?;
                if word
                    .text
                    .rsplit(':')
                    .next()
                    .is_some_and(|p| p.contains('/'))
                {
                    return Ok(None);
                }
                given = true;
                parse_address(family, word, &mut found)?;
            }
            _ => return Ok(None),
        }
    }
    needed(given.then_some(()), segment, option)?;
    Ok(Some(found))
}

/// `addr`, `addr-addr`, `addr:port`, `:port-port`, and in IPv6 `[addr]:port`.
fn parse_address(family: Family, word: &Word<'_>, into: &mut NatTarget) -> Parsed<()> {
    let text = &*word.text;
    let (addresses, ports) = match family {
        Family::Ipv4 => match text.split_once(':') {
            Some((addresses, ports)) => (addresses, Some(ports)),
            None => (text, None),
        },
        Family::Ipv6 => match text.strip_prefix('[') {
            Some(rest) => {
                let (addresses, ports) = rest
                    .split_once(']')
                    .ok_or_else(|| Fault::not_a(word, "an address in brackets"))?;
                (addresses, ports.strip_prefix(':'))
            }
            None => match text.strip_prefix(':') {
                // `:80` is a port, `::1` an address.
                Some(port)
                    if port.starts_with(|c: char| c.is_ascii_digit()) && !port.contains(':') =>
                {
                    ("", Some(port))
                }
                _ => (text, None),
            },
        },
    };
    if !addresses.is_empty() {
        let part = Word {
            text: addresses.into(),
            column: word.column,
        };
        into.addresses = Some(values::address_range(family, &part)?);
    }
    if let Some(ports) = ports {
        into.ports = Some(parse_ports(ports).ok_or_else(|| Fault::not_a(word, "a port"))?);
    }
    if into.addresses.is_none() && into.ports.is_none() {
        return Err(Fault::not_a(word, "an address or port"));
    }
    Ok(())
}

pub(crate) fn parse_ports(text: &str) -> Option<PortRange> {
    let whole = !text.starts_with('-') && !text.ends_with('-');
    values::ports_in(text, '-').filter(|_| whole)
}

pub(crate) fn write(out: &mut String, nat: &NatTarget) {
    nat.write_to(out);
    flags(
        out,
        &[
            (nat.random, "--random"),
            (nat.random_fully, "--random-fully"),
            (nat.persistent, "--persistent"),
        ],
    );
}

pub(crate) fn write_to_ports(out: &mut String, ports: Option<PortRange>) {
    if let Some(ports) = ports {
        out.push_str(" --to-ports ");
        port_range(out, ports, '-');
    }
}
