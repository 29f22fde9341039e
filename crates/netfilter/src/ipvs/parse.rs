//! Parser of `ipvsadm-save -n`.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::{Destination, Method, Netmask, Protocol, Service, ServiceId, Services};

/// Position and cause of a parse failure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ipvsadm dump, line {line}, column {column}: {message}")]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// The column in bytes, from 1.
    pub column: usize,
    /// The cause.
    pub message: String,
}

struct Line<'a> {
    number: usize,
    text: &'a str,
    at: usize,
}

impl<'a> Line<'a> {
    fn error(&self, column: usize, message: impl Into<String>) -> ParseError {
        ParseError {
            line: self.number,
            column,
            message: message.into(),
        }
    }

    /// Return the next word and its column.
    fn next(&mut self) -> Option<(usize, &'a str)> {
        let rest = self.text.get(self.at..)?;
        let start = self.at + (rest.len() - rest.trim_start().len());
        let rest = self.text.get(start..)?;
        let len = rest.find(|c: char| c.is_whitespace()).unwrap_or(rest.len());
        self.at = start + len;
        (len > 0).then(|| (start + 1, rest.get(..len).unwrap_or_default()))
    }

    fn value(&mut self, what: &str) -> Result<(usize, &'a str), ParseError> {
        let end = self.text.len() + 1;
        self.next()
            .ok_or_else(|| self.error(end, format!("the line ends before {what}")))
    }

    fn number(&mut self, what: &str) -> Result<u32, ParseError> {
        let (column, word) = self.value(what)?;
        word.parse()
            .map_err(|_| self.error(column, format!("{word:?} is not {what}")))
    }

    fn address(&mut self) -> Result<SocketAddr, ParseError> {
        let (column, word) = self.value("an address and port")?;
        word.parse().map_err(|_| {
            self.error(
                column,
                format!("{word:?} is not an address and port: was this `ipvsadm-save -n`?"),
            )
        })
    }
}

pub(super) fn parse(text: &str) -> Result<Services, ParseError> {
    let mut services = Services::default();
    let mut places: HashMap<ServiceId, usize> = HashMap::new();
    for (i, text) in text.lines().enumerate() {
        let mut line = Line {
            number: i + 1,
            text,
            at: 0,
        };
        match line.next() {
            None => {}
            Some((_, w)) if w.starts_with('#') => {}
            Some((column, "-A" | "--add-service")) => {
                let service = service(&mut line)?;
                if places.insert(service.id, services.services.len()).is_some() {
                    return Err(line.error(column, format!("{} already exists", service.id)));
                }
                services.services.push(service);
            }
            Some((column, "-a" | "--add-server")) => {
                let (id, destination) = destination(&mut line, column)?;
                let service = places.get(&id).and_then(|i| services.services.get_mut(*i));
                let Some(service) = service else {
                    return Err(line.error(column, format!("virtual server {id} does not exist")));
                };
                service.destinations.push(destination);
            }
            Some((column, other)) => {
                return Err(line.error(
                    column,
                    format!("{other:?} where -A or -a should be: is this `ipvsadm-save -n`?"),
                ));
            }
        }
    }
    Ok(services)
}

/// Return the identity that an option specifies, if it is one.
fn identity(line: &mut Line<'_>, option: &str) -> Result<Option<ServiceId>, ParseError> {
    let protocol = match option {
        "-t" | "--tcp-service" => Protocol::Tcp,
        "-u" | "--udp-service" => Protocol::Udp,
        "--sctp-service" => Protocol::Sctp,
        "-f" | "--fwmark-service" => {
            let mark = line.number("a mark")?;
            return Ok(Some(ServiceId::Mark { mark, v6: false }));
        }
        _ => return Ok(None),
    };
    let address = line.address()?;
    Ok(Some(ServiceId::Address { protocol, address }))
}

fn to_v6(id: &mut Option<ServiceId>) {
    if let Some(ServiceId::Mark { v6, .. }) = id {
        *v6 = true;
    }
}

fn service(line: &mut Line<'_>) -> Result<Service, ParseError> {
    let mut id = None;
    // The default of ipvsadm.
    let mut service = Service::new(ServiceId::Mark { mark: 0, v6: false }, "wlc");
    while let Some((column, option)) = line.next() {
        if let Some(found) = identity(line, option)? {
            id = Some(found);
            continue;
        }
        match option {
            "-6" | "--ipv6" => to_v6(&mut id),
            "-s" | "--scheduler" => service.scheduler = line.value("a scheduler")?.1.into(),
            "-p" | "--persistent" => service.persistent = Some(line.number("a timeout")?),
            "-M" | "--netmask" => {
                let (column, word) = line.value("a netmask")?;
                let mask = word
                    .parse()
                    .map(Netmask::V4)
                    .or_else(|_| word.parse().map(Netmask::V6));
                let mask =
                    mask.map_err(|_| line.error(column, format!("{word:?} is not a netmask")))?;
                service.netmask = Some(mask);
            }
            "-b" | "--sched-flags" => service.flags = Some(line.value("flags")?.1.into()),
            "-o" | "--ops" => service.one_packet = true,
            "--pe" => service.engine = Some(line.value("a persistence engine")?.1.into()),
            other => {
                return Err(line.error(
                    column,
                    format!("{other:?} is not an option of a virtual server"),
                ));
            }
        }
    }
    let end = line.text.len() + 1;
    service.id = id.ok_or_else(|| {
        line.error(
            end,
            "the line ends without an address (-t, -u, --sctp-service, -f)",
        )
    })?;
    Ok(service)
}

fn destination(line: &mut Line<'_>, start: usize) -> Result<(ServiceId, Destination), ParseError> {
    let mut id = None;
    let mut address = None;
    let mut method = Method::Route;
    let (mut weight, mut upper, mut lower) = (1, 0, 0);
    let mut tunnel: Vec<Box<str>> = Vec::new();
    while let Some((column, option)) = line.next() {
        if let Some(found) = identity(line, option)? {
            id = Some(found);
            continue;
        }
        match option {
            "-6" | "--ipv6" => to_v6(&mut id),
            "-r" | "--real-server" => address = Some(line.address()?),
            "-m" | "--masquerading" => method = Method::Masquerade,
            "-g" | "--gatewaying" => method = Method::Route,
            "-i" | "--ipip" => method = Method::Tunnel,
            "-w" | "--weight" => weight = line.number("a weight")?,
            "-x" | "--u-threshold" => upper = line.number("a number of connections")?,
            "-y" | "--l-threshold" => lower = line.number("a number of connections")?,
            "--tun-type" | "--tun-port" => {
                tunnel.push(option.into());
                tunnel.push(line.value("the option's value")?.1.into());
            }
            "--tun-nocsum" | "--tun-csum" | "--tun-remcsum" => tunnel.push(option.into()),
            other => {
                return Err(line.error(
                    column,
                    format!("{other:?} is not an option of a destination"),
                ));
            }
        }
    }
    let end = line.text.len() + 1;
    let (Some(id), Some(address)) = (id, address) else {
        return Err(line.error(
            if id.is_some() { end } else { start },
            "a destination needs its virtual server (-t, -u, …) and its address (-r)",
        ));
    };
    let destination = Destination {
        method,
        upper,
        lower,
        tunnel,
        ..Destination::new(address, weight)
    };
    Ok((id, destination))
}
