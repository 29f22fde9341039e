//! IPVS: virtual servers over generic netlink, without the program `ipvsadm`.

use std::net::SocketAddr;

use netfilter::netlink::{Builder, DecodeError, Message, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use netfilter::ipvs::netlink::{self as messages, Connections, Timeouts};
use netfilter::ipvs::{Destination, Op, Protocol, Service, ServiceId, Services};

use crate::genetlink;
use crate::netlink::{self, Refusal, Socket};

/// How many times a list is requested again if it changes meanwhile.
const ATTEMPTS: u32 = 5;

/// A failed operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has no IPVS.
    #[error(
        "this kernel lacks IPVS: load it with `modprobe ip_vs` (and the scheduler's module, such \
         as ip_vs_rr), use a kernel with CONFIG_IP_VS, or choose another --proxy-mode"
    )]
    NotInKernel,
    /// The kernel's IPVS has no such scheduler.
    #[error(
        "the kernel lacks the IPVS scheduler {0:?}: load the module ip_vs_{0} or name another in \
         --ipvs-scheduler"
    )]
    NoScheduler(String),
    /// The exchange with the kernel failed.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
}

/// An operation that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ipvs: {op}: {}", explain(op, refusal))]
pub struct Refused {
    /// The operation.
    pub op: Box<Op>,
    /// The kernel's reason.
    pub refusal: Refusal,
}

fn explain(op: &Op, refusal: &Refusal) -> String {
    match (op, refusal.errno) {
        (Op::AddService(s) | Op::SetService(s), Errno::ENOENT) => {
            Error::NoScheduler(s.scheduler.to_string()).to_string()
        }
        (_, Errno::EAFNOSUPPORT) => "IPVS lacks IPv6 in this kernel".to_owned(),
        (_, Errno::EPROTONOSUPPORT) => "IPVS lacks this protocol in this kernel".to_owned(),
        _ => refusal.to_string(),
    }
}

/// The virtual servers of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Ipvs {
    socket: Socket,
    family: u16,
}

impl Ipvs {
    /// Open a socket, and make the kernel load IPVS if possible.
    ///
    /// # Errors
    /// [`Error::NotInKernel`], or as the socket fails.
    pub fn open() -> Result<Self, Error> {
        let mut socket = Socket::open(SockProtocol::NetlinkGeneric)?;
        match genetlink::family(&mut socket, messages::FAMILY)? {
            Some(family) => Ok(Self { socket, family }),
            None => Err(Error::NotInKernel),
        }
    }

    /// Make the kernel load a scheduler, by adding a virtual server that is removed again. Its address is
    /// reserved for documentation (RFC 5737), and the same as in kube-proxy.
    ///
    /// # Errors
    /// [`Error::NoScheduler`] if it lacks this scheduler.
    pub fn load_scheduler(&mut self, name: &str) -> Result<(), Error> {
        let id = ServiceId::Address {
            protocol: Protocol::Tcp,
            address: SocketAddr::from(([198, 51, 100, 0], 20000)),
        };
        let ops = [
            Op::AddService(Service::new(id, name)),
            Op::DeleteService(id),
        ];
        let refused = self.run(&ops)?;
        // Other refusals will recur, and be reported, with the real virtual servers.
        if refused.iter().any(|r| r.refusal.errno == Errno::ENOENT) {
            return Err(Error::NoScheduler(name.to_owned()));
        }
        Ok(())
    }

    /// Return all virtual servers with their destinations.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn list(&mut self) -> Result<Services, Error> {
        let mut found = self.services()?;
        for service in &mut found {
            service.destinations = self.plain_destinations(&service.id)?;
        }
        Ok(Services { services: found })
    }

    /// Return all virtual servers without their destinations, which need a request for each server.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn services(&mut self) -> Result<Vec<Service>, Error> {
        let what = "listing virtual servers";
        let found = self.dump(what, &messages::list_services(), |message| {
            messages::decode_service(message.payload)
                .map_err(|_| DecodeError::Malformed("a virtual server"))
        })?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Return a virtual server with its destinations, if it exists.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn get(&mut self, id: &ServiceId) -> Result<Option<Service>, Error> {
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        let request = Builder::new(self.family, flags).fixed(&messages::get_service(id));
        let mut found = None;
        let result =
            self.socket
                .exchange("reading a virtual server", request.finish(), |message| {
                    let read = messages::decode_service(message.payload);
                    found = read.map_err(|_| DecodeError::Malformed("a virtual server"))?;
                    Ok(())
                });
        match result {
            Err(error) if error.errno() == Some(Errno::ESRCH) => return Ok(None),
            result => result?,
        }
        if let Some(service) = &mut found {
            service.destinations = self.plain_destinations(id)?;
        }
        Ok(found)
    }

    fn plain_destinations(&mut self, id: &ServiceId) -> Result<Vec<Destination>, Error> {
        let found = self.destinations(id)?.into_iter();
        Ok(found.map(|(destination, _)| destination).collect())
    }

    /// Return the destinations of a virtual server with their connections; none if the virtual server does
    /// not exist.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn destinations(
        &mut self,
        id: &ServiceId,
    ) -> Result<Vec<(Destination, Connections)>, Error> {
        let v6 = id.ip().is_some_and(|ip| ip.is_ipv6());
        let request = messages::list_destinations(id);
        self.dump("listing destinations", &request, |message| {
            let read = messages::decode_destination(message.payload, v6);
            read.map_err(|_| DecodeError::Malformed("a destination"))
        })
    }

    /// Execute operations one after the other, and continue after refusals. Adding an existing object
    /// changes it; removing a missing object succeeds.
    ///
    /// # Errors
    /// The exchange failed: it is not known which operations took effect.
    pub fn run(&mut self, ops: &[Op]) -> Result<Vec<Refused>, Error> {
        let mut refused = Vec::new();
        let mut again = Vec::new();
        for (op, refusal) in self.attempt(ops)? {
            let instead = match (op, refusal.errno) {
                (Op::AddService(s), Errno::EEXIST) => Op::SetService(s.clone()),
                (Op::AddDestination(id, d), Errno::EEXIST) => Op::SetDestination(*id, d.clone()),
                (
                    Op::DeleteService(_) | Op::DeleteDestination(..),
                    Errno::ENOENT | Errno::ESRCH,
                ) => {
                    continue;
                }
                _ => {
                    let op = Box::new(op.clone());
                    refused.push(Refused { op, refusal });
                    continue;
                }
            };
            again.push(instead);
        }
        for (op, refusal) in self.attempt(&again)? {
            let op = Box::new(op.clone());
            refused.push(Refused { op, refusal });
        }
        Ok(refused)
    }

    fn attempt<'a>(&mut self, ops: &'a [Op]) -> Result<Vec<(&'a Op, Refusal)>, Error> {
        let mut requests: Vec<Vec<u8>> = ops
            .iter()
            .map(|op| Builder::new(self.family, 0).fixed(&op.encode()).finish())
            .collect();
        let verdicts = self
            .socket
            .exchange_all("changing virtual servers", &mut requests)?;
        let refused = ops.iter().zip(verdicts);
        Ok(refused.filter_map(|(op, v)| Some((op, v?))).collect())
    }

    /// Return the timeouts of idle connections.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn timeouts(&mut self) -> Result<Timeouts, Error> {
        let what = "reading IPVS' timeouts";
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        let request = Builder::new(self.family, flags).fixed(&messages::get_timeouts());
        let mut found = Timeouts::default();
        self.socket.exchange(what, request.finish(), |message| {
            let read = messages::decode_timeouts(message.payload);
            found = read.map_err(|_| DecodeError::Malformed("timeouts"))?;
            Ok(())
        })?;
        Ok(found)
    }

    /// Set the timeouts that are not 0.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn set_timeouts(&mut self, timeouts: Timeouts) -> Result<(), Error> {
        // In this message, 0 leaves a timeout unchanged.
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        let payload = messages::set_timeouts(timeouts);
        let request = Builder::new(self.family, flags).fixed(&payload).finish();
        let what = "setting IPVS' timeouts";
        Ok(self.socket.exchange(what, request, |_| Ok(()))?)
    }

    fn dump<T>(
        &mut self,
        what: &'static str,
        payload: &[u8],
        read: impl Fn(&Message<'_>) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, Error> {
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut attempt = 1;
        loop {
            let request = Builder::new(self.family, flags).fixed(payload).finish();
            let mut found = Vec::new();
            let result = self.socket.exchange(what, request, |message| {
                found.push(read(message)?);
                Ok(())
            });
            match result {
                Err(netlink::Error::Interrupted { .. }) if attempt < ATTEMPTS => attempt += 1,
                result => return Ok(result.map(|()| found)?),
            }
        }
    }
}
