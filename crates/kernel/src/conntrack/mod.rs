//! Connection tracking: reading the flow table and deleting stale flows.
//!
//! A flow keeps the endpoint of its first packet. An established TCP connection ends with the endpoint;
//! packets of UDP and SCTP clients, and repeated SYNs, would
//! be sent there as long as the client keeps trying. A table of a
//! million flows is read through one small buffer.

mod flow;
mod half_open;
mod stale;

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use netfilter::netlink::{
    Builder, DecodeError, NFNL_SUBSYS_CTNETLINK, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, Writer,
    nfgenmsg, nfnl_msg_type,
};
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use crate::netlink::{Error, Socket};

use crate::sysctl::{self, Sysctl, SysctlTree};
use crate::{Family, family};

pub use flow::{Flow, IpProtocol, Status, Tuple, Zone};
pub use stale::{Endpoints, StaleFlows};

/// `IPCTNL_MSG_CT_GET`.
const GET: u8 = 1;
/// `IPCTNL_MSG_CT_DELETE`.
const DELETE: u8 = 2;
const CTA_STATUS: u16 = 3;
const CTA_FILTER: u16 = 25;
const CTA_STATUS_MASK: u16 = 26;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
/// `CTA_FILTER_F_CTA_IP_DST` of `net/netfilter/nf_internals.h`, and so on.
const F_DESTINATION: u32 = 1 << 1;
const F_PROTOCOL: u32 = 1 << 3;
const F_DESTINATION_PORT: u32 = 1 << 5;

/// Room for a part of a dump and the acknowledgements of deletions.
const RECEIVE_BUFFER: usize = 1 << 20;
/// How many times a sweep is repeated if the table was resized during it.
const SWEEP_ATTEMPTS: u32 = 5;

/// The flows to read. Kernels before 5.8 do not filter; their answers are filtered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The family.
    pub family: Family,
    /// Only this protocol.
    pub protocol: Option<IpProtocol>,
    /// Only flows that were first sent to this address.
    pub destination: Option<IpAddr>,
    /// Only flows that were first sent to this port; requires a protocol.
    pub destination_port: Option<u16>,
    /// Only flows without a packet in the reply direction. The kernel filters from 5.15 on.
    pub unreplied: bool,
}

impl Filter {
    /// Select all flows of a family.
    pub fn all(family: Family) -> Self {
        Filter {
            family,
            protocol: None,
            destination: None,
            destination_port: None,
            unreplied: false,
        }
    }

    /// Select all flows of a family and protocol.
    pub fn protocol(family: Family, protocol: IpProtocol) -> Self {
        Filter {
            protocol: Some(protocol),
            ..Self::all(family)
        }
    }

    /// Return whether a flow is one of these.
    pub fn matches(&self, flow: &Flow) -> bool {
        let original = &flow.original;
        Family::of(original.destination) == self.family
            && !(self.unreplied && flow.status.seen_reply())
            && self.protocol.is_none_or(|p| p == original.protocol)
            && self.destination.is_none_or(|d| d == original.destination)
            && self
                .destination_port
                .is_none_or(|p| p == original.destination_port)
    }

    fn request(&self) -> Vec<u8> {
        let mut flags = 0;
        // Not for IPv6: on 6.18 the kernel's comparison of IPv6 addresses is inverted
        // (`ctnetlink_filter_match_tuple`) and returns exactly the other flows.
        let destination = self.destination.filter(IpAddr::is_ipv4);
        if destination.is_some() {
            flags |= F_DESTINATION;
        }
        if self.protocol.is_some() {
            flags |= F_PROTOCOL;
            if self.destination_port.is_some() {
                flags |= F_DESTINATION_PORT;
            }
        }
        let request = Builder::new(
            nfnl_msg_type(NFNL_SUBSYS_CTNETLINK, GET),
            NLM_F_REQUEST | NLM_F_DUMP,
        )
        .fixed(&nfgenmsg(family::number(self.family), 0));
        let write = |w: &mut Writer<'_>| {
            if self.unreplied {
                w.be32(CTA_STATUS, 0);
                w.be32(CTA_STATUS_MASK, Status::SEEN_REPLY);
            }
            if flags != 0 {
                flow::write_filter(w, self.protocol, destination, self.destination_port);
                w.nest(CTA_FILTER, |w| w.ne32(CTA_FILTER_ORIG_FLAGS, flags));
            }
        };
        request.attributes(write).finish()
    }
}

/// Fill level of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Flows in this network namespace.
    pub flows: i64,
    /// The limit of each namespace.
    pub max: i64,
}

/// The result of a sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Flows read.
    pub examined: u64,
    /// Flows deleted.
    pub deleted: u64,
}

/// The flow table of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Conntrack {
    reading: Socket,
    // A separate socket: flows are deleted while a dump occupies the other one.
    deleting: Socket,
}

impl Conntrack {
    /// Open the table.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn open() -> Result<Self, Error> {
        let open = || {
            let socket = Socket::open(SockProtocol::NetlinkNetFilter)?;
            socket.set_receive_buffer(RECEIVE_BUFFER)?;
            Ok(socket)
        };
        Ok(Conntrack {
            reading: open()?,
            deleting: open()?,
        })
    }

    /// Pass every flow that the filter matches to `each`.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Interrupted`] if the table was resized meanwhile.
    pub fn dump(&mut self, filter: &Filter, mut each: impl FnMut(&Flow)) -> Result<(), Error> {
        Self::read(&mut self.reading, filter, |flow| {
            each(flow);
            Ok(())
        })
    }

    /// Delete a flow, and return whether it existed. Another flow with the same addresses that has
    /// replaced it stays.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn delete(&mut self, flow: &Flow) -> Result<bool, Error> {
        Self::remove(&mut self.deleting, flow)
    }

    /// Read the flows that the filter matches, and delete those that are `stale`.
    ///
    /// # Errors
    /// See [`Error`]; flows deleted before the error stay deleted.
    pub fn sweep(
        &mut self,
        filter: &Filter,
        mut stale: impl FnMut(&Flow) -> bool,
    ) -> Result<Swept, Error> {
        let mut swept = Swept::default();
        let mut attempt = 1;
        loop {
            let mut failure = None;
            let deleting = &mut self.deleting;
            let result = Self::read(&mut self.reading, filter, |flow| {
                swept.examined += 1;
                if failure.is_none() && stale(flow) {
                    match Self::remove(deleting, flow) {
                        Ok(there) => swept.deleted += u64::from(there),
                        Err(error) => failure = Some(error),
                    }
                }
                Ok(())
            });
            match (failure, result) {
                (Some(error), _) => return Err(error),
                (None, Err(Error::Interrupted { .. })) if attempt < SWEEP_ATTEMPTS => attempt += 1,
                (None, result) => return result.map(|()| swept),
            }
        }
    }

    /// Return the fill level of the table.
    ///
    /// # Errors
    /// As [`SysctlTree::read_number`]; absent without connection tracking in the kernel.
    pub fn usage(sysctls: &SysctlTree) -> Result<Usage, sysctl::Error> {
        Ok(Usage {
            flows: sysctls.read_number(&Sysctl::CONNTRACK_COUNT)?,
            max: sysctls.read_number(&Sysctl::CONNTRACK_MAX)?,
        })
    }

    fn read(
        socket: &mut Socket,
        filter: &Filter,
        mut each: impl FnMut(&Flow) -> Result<(), DecodeError>,
    ) -> Result<(), Error> {
        socket.exchange(
            "listing flows",
            filter.request(),
            |message| match Flow::read(message)? {
                Some(flow) if filter.matches(&flow) => each(&flow),
                _ => Ok(()),
            },
        )
    }

    fn remove(socket: &mut Socket, flow: &Flow) -> Result<bool, Error> {
        let number = family::number(Family::of(flow.original.destination));
        let request = Builder::new(
            nfnl_msg_type(NFNL_SUBSYS_CTNETLINK, DELETE),
            NLM_F_REQUEST | NLM_F_ACK,
        )
        .fixed(&nfgenmsg(number, 0));
        let request = request.attributes(|w| flow.write_key(w)).finish();
        match socket.exchange("removing a flow", request, |_| Ok(())) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
