//! IPVS: virtual servers and their destinations as typed data, in the text format of
//! `ipvsadm-save -n`.
//!
//! ```
//! use netfilter::ipvs::Services;
//! let save = "-A -t 10.96.0.1:80 -s rr\n-a -t 10.96.0.1:80 -r 10.244.1.11:8080 -m -w 1\n";
//! let services = Services::parse(save).unwrap();
//! assert_eq!(services.to_string(), save);
//! ```

pub mod netlink;
mod parse;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

pub use parse::ParseError;

/// All virtual servers, in the order given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services {
    /// The virtual servers.
    pub services: Vec<Service>,
}

impl Services {
    /// Parse the output of `ipvsadm-save -n`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        parse::parse(text)
    }

    /// Return the virtual server with this identity.
    pub fn get(&self, id: &ServiceId) -> Option<&Service> {
        self.services.iter().find(|s| s.id == *id)
    }
}

/// The identity of a virtual server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceId {
    /// Packets to this address and port (`-t`, `-u`, `--sctp-service`).
    #[allow(missing_docs)]
    Address {
        protocol: Protocol,
        address: SocketAddr,
    },
    /// Packets with this mark (`-f`).
    #[allow(missing_docs)]
    Mark { mark: u32, v6: bool },
}

/// The protocols that IPVS balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// Return the number in the IP header (IANA).
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

/// A virtual server (`struct ip_vs_service_user` of `linux/ip_vs.h`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its identity.
    pub id: ServiceId,
    /// `-s`: `rr`, `wrr`, `lc`, …
    pub scheduler: Box<str>,
    /// `-p`: the seconds for which a client keeps its destination; `None` if every connection is
    /// scheduled.
    pub persistent: Option<u32>,
    /// `-M`: the significant bits of the client's address for `persistent`; `None` for all. A mask in
    /// IPv4, a prefix length in IPv6.
    pub netmask: Option<Netmask>,
    /// `-b`: the scheduler's flags, word for word.
    pub flags: Option<Box<str>>,
    /// `-o`: every UDP packet is scheduled.
    pub one_packet: bool,
    /// `--pe`: the persistence engine.
    pub engine: Option<Box<str>>,
    /// The destinations, in the order given.
    pub destinations: Vec<Destination>,
}

/// The significant bits of a client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Netmask {
    V4(std::net::Ipv4Addr),
    V6(u8),
}

/// A real server (`struct ip_vs_dest_user`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The address and port.
    pub address: SocketAddr,
    /// The forwarding method.
    pub method: Method,
    /// The weight; 0 for no new connections.
    pub weight: u32,
    /// `-x`: the number of connections above which it gets no more; 0 for no limit.
    pub upper: u32,
    /// `-y`: the number of connections below which it gets new ones again.
    pub lower: u32,
    /// Tunnel options, word for word.
    pub tunnel: Vec<Box<str>>,
}

/// The forwarding method of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// `-m`: masquerading.
    Masquerade,
    /// `-g`: direct routing.
    Route,
    /// `-i`: tunneling.
    Tunnel,
}

impl Service {
    /// Return a virtual server without destinations.
    pub fn new(id: ServiceId, scheduler: &str) -> Self {
        Self {
            id,
            scheduler: scheduler.into(),
            persistent: None,
            netmask: None,
            flags: None,
            one_packet: false,
            engine: None,
            destinations: Vec::new(),
        }
    }
}

impl Destination {
    /// Return a masqueraded destination with this weight.
    pub fn new(address: SocketAddr, weight: u32) -> Self {
        Self {
            address,
            method: Method::Masquerade,
            weight,
            upper: 0,
            lower: 0,
            tunnel: Vec::new(),
        }
    }
}

/// The format of `ipvsadm-save -n`.
impl fmt::Display for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.services.iter().try_for_each(|s| s.fmt(f))
    }
}

/// `-t 10.96.0.1:80`.
impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServiceId::Address { protocol, address } => {
                let option = match protocol {
                    Protocol::Tcp => "-t",
                    Protocol::Udp => "-u",
                    Protocol::Sctp => "--sctp-service",
                };
                write!(f, "{option} {address}")
            }
            ServiceId::Mark { mark, v6 } => {
                write!(f, "-f {mark}{}", if *v6 { " -6" } else { "" })
            }
        }
    }
}

/// The lines of `ipvsadm-save -n` for the virtual server and its destinations.
impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "-A {} -s {}", self.id, self.scheduler)?;
        if let Some(seconds) = self.persistent {
            write!(f, " -p {seconds}")?;
        }
        match self.netmask {
            Some(Netmask::V4(mask)) => write!(f, " -M {mask}")?,
            Some(Netmask::V6(len)) => write!(f, " -M {len}")?,
            None => {}
        }
        if let Some(engine) = &self.engine {
            write!(f, " --pe {engine}")?;
        }
        if self.one_packet {
            f.write_str(" -o")?;
        }
        if let Some(flags) = &self.flags {
            write!(f, " -b {flags}")?;
        }
        writeln!(f)?;
        for d in &self.destinations {
            let method = match d.method {
                Method::Masquerade => "-m",
                Method::Route => "-g",
                Method::Tunnel => "-i",
            };
            write!(f, "-a {} -r {} {method}", self.id, d.address)?;
            for word in &d.tunnel {
                write!(f, " {word}")?;
            }
            write!(f, " -w {}", d.weight)?;
            if d.upper != 0 {
                write!(f, " -x {}", d.upper)?;
            }
            if d.lower != 0 {
                write!(f, " -y {}", d.lower)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// `10.96.0.1`, of [`ServiceId::Address`].
impl ServiceId {
    /// Return the virtual server's address; `None` if it is identified by a mark.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            ServiceId::Address { address, .. } => Some(address.ip()),
            ServiceId::Mark { .. } => None,
        }
    }
}

/// One change to IPVS, as a command of its netlink family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Add a virtual server, without its destinations.
    AddService(Service),
    /// Change scheduler, persistence and flags; destinations are ignored.
    SetService(Service),
    /// Delete a virtual server with its destinations.
    DeleteService(ServiceId),
    /// Add a destination.
    AddDestination(ServiceId, Destination),
    /// Change method, weight and limits.
    SetDestination(ServiceId, Destination),
    /// Delete a destination, even if it has connections.
    DeleteDestination(ServiceId, SocketAddr),
}

impl Op {
    /// Return the virtual server.
    pub fn service(&self) -> ServiceId {
        match self {
            Op::AddService(service) | Op::SetService(service) => service.id,
            Op::DeleteService(id)
            | Op::AddDestination(id, _)
            | Op::SetDestination(id, _)
            | Op::DeleteDestination(id, _) => *id,
        }
    }
}

/// The arguments of `ipvsadm`.
impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::AddService(s) => write!(f, "-A {} -s {}", s.id, s.scheduler),
            Op::SetService(s) => write!(f, "-E {} -s {}", s.id, s.scheduler),
            Op::DeleteService(id) => write!(f, "-D {id}"),
            Op::AddDestination(id, d) => write!(f, "-a {id} -r {} -w {}", d.address, d.weight),
            Op::SetDestination(id, d) => write!(f, "-e {id} -r {} -w {}", d.address, d.weight),
            Op::DeleteDestination(id, address) => write!(f, "-d {id} -r {address}"),
        }
    }
}
