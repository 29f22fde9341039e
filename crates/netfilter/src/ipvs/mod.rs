//! IPVS: virtual servers and their destinations as typed data, with the text form of
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
    /// Reads what `ipvsadm-save -n` prints.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        parse::parse(text)
    }

    /// The virtual server of this identity.
    pub fn get(&self, id: &ServiceId) -> Option<&Service> {
        self.services.iter().find(|s| s.id == *id)
    }
}

/// What identifies a virtual server.
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
    /// The number in the IP header (IANA).
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
    /// `-p`: for how many seconds a client keeps to its destination; `None`: every connection is
    /// scheduled on its own.
    pub persistent: Option<u32>,
    /// `-M`: what of the client's address counts for `persistent`; `None` for all of it. A mask
    /// in IPv4, a prefix length in IPv6.
    pub netmask: Option<Netmask>,
    /// `-b`: the scheduler's flags, word for word.
    pub flags: Option<Box<str>>,
    /// `-o`: every UDP packet is scheduled on its own.
    pub one_packet: bool,
    /// `--pe`: the persistence engine.
    pub engine: Option<Box<str>>,
    /// Where connections can be sent, in the order given.
    pub destinations: Vec<Destination>,
}

/// What of a client's address counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Netmask {
    V4(std::net::Ipv4Addr),
    V6(u8),
}

/// A real server (`struct ip_vs_dest_user`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Where it is.
    pub address: SocketAddr,
    /// How packets get there.
    pub method: Method,
    /// Its share; 0 for no new connections.
    pub weight: u32,
    /// `-x`: above this many connections it gets no more; 0 for no limit.
    pub upper: u32,
    /// `-y`: below this many it gets some again.
    pub lower: u32,
    /// Tunnel options, word for word.
    pub tunnel: Vec<Box<str>>,
}

/// How packets get to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// `-m`: with the destination rewritten.
    Masquerade,
    /// `-g`: unchanged, to its hardware address.
    Route,
    /// `-i`: in a tunnel.
    Tunnel,
}

impl Service {
    /// A virtual server without destinations.
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
    /// A masqueraded destination of this weight.
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

/// What `ipvsadm-save -n` prints.
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
    /// The virtual server's address; `None` where it goes by mark.
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
    /// A new virtual server; its destinations do not count.
    AddService(Service),
    /// Another scheduler, persistence or flags; its destinations do not count.
    SetService(Service),
    /// A virtual server goes, with its destinations.
    DeleteService(ServiceId),
    /// A new destination.
    AddDestination(ServiceId, Destination),
    /// Another method, weight or limit.
    SetDestination(ServiceId, Destination),
    /// A destination goes, whether it has connections or not.
    DeleteDestination(ServiceId, SocketAddr),
}

impl Op {
    /// The virtual server that it is about.
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

/// As `ipvsadm` would be told.
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
