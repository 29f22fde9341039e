//! The node's own addresses, their changes, and its name.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use ipnet::IpNet;
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use crate::netlink::{self, Builder, Error, Malformed, Message, Received, Socket};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
/// The size of `struct ifinfomsg`.
const IFINFOMSG: usize = 16;
/// The size of `struct ifaddrmsg`.
const IFADDRMSG: usize = 8;
const IFLA_IFNAME: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_TENTATIVE: u32 = 0x40;
/// `RT_SCOPE_LINK`.
const SCOPE_LINK: u8 = 253;
/// `RT_SCOPE_HOST`.
const SCOPE_HOST: u8 = 254;
/// `IFF_UP`.
const UP: u32 = 1;
const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV6_IFADDR: u32 = 9;
/// How often a list is asked for again when the addresses keep changing.
const ATTEMPTS: u32 = 10;

/// How far an address is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everywhere.
    Global,
    /// On one link: `fe80::/10`, `169.254.0.0/16` mostly.
    Link,
    /// Inside this host: `127.0.0.1` and `::1`.
    Host,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The interface's name.
    pub interface: String,
    /// The interface's index.
    pub index: u32,
    /// Whether the interface is up.
    pub up: bool,
    /// The address, with the prefix length of its network.
    pub address: IpNet,
    /// How far it is known.
    pub scope: Scope,
    /// Whether it cannot be used (yet): the search for a duplicate has not ended, or found one.
    pub tentative: bool,
}

/// A link as a dump tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Link {
    index: u32,
    name: String,
    up: bool,
}

impl Link {
    /// Reads an `RTM_NEWLINK` message.
    fn read(message: &Message<'_>) -> Result<Self, Malformed> {
        let head = message.payload.first_chunk::<IFINFOMSG>();
        let head = head.ok_or(Malformed("a link without its header"))?;
        let &[_, _, _, _, a, b, c, d, e, f, g, h, ..] = head;
        let mut name = None;
        for attribute in message.attributes(IFINFOMSG) {
            let attribute = attribute?;
            if attribute.kind == IFLA_IFNAME {
                name = Some(attribute.text());
            }
        }
        Ok(Link {
            index: u32::from_ne_bytes([a, b, c, d]),
            name: name.ok_or(Malformed("a link without a name"))?,
            up: u32::from_ne_bytes([e, f, g, h]) & UP != 0,
        })
    }
}

/// The index of the interface of an address that came or went.
fn interface_of_address(message: &Message<'_>) -> Option<u32> {
    let head = message.payload.first_chunk::<IFADDRMSG>()?;
    let &[.., a, b, c, d] = head;
    Some(u32::from_ne_bytes([a, b, c, d]))
}

/// Reads an `RTM_NEWADDR` message; its interface is known by index only. `None` for a family
/// that is not IP.
fn read_address(message: &Message<'_>) -> Result<Option<InterfaceAddress>, Malformed> {
    let head = message.payload.first_chunk::<IFADDRMSG>();
    let head = head.ok_or(Malformed("an address without its header"))?;
    let &[family, prefix, flags, scope, a, b, c, d] = head;
    let mut flags = u32::from(flags);
    let (mut local, mut remote) = (None, None);
    for attribute in message.attributes(IFADDRMSG) {
        let attribute = attribute?;
        let address = || match family {
            2 => Ok(Some(IpAddr::from(Ipv4Addr::from(attribute.bytes::<4>()?)))),
            10 => Ok(Some(IpAddr::from(Ipv6Addr::from(attribute.bytes::<16>()?)))),
            _ => Ok(None),
        };
        match attribute.kind {
            // On a point-to-point link IFA_ADDRESS is the other end.
            IFA_LOCAL => local = address()?,
            IFA_ADDRESS => remote = address()?,
            IFA_FLAGS => flags = u32::from_ne_bytes(attribute.bytes()?),
            _ => {}
        }
    }
    let Some(address) = local.or(remote) else {
        return Ok(None);
    };
    let address =
        IpNet::new(address, prefix).map_err(|_| Malformed("an address with a wrong prefix"))?;
    Ok(Some(InterfaceAddress {
        interface: String::new(),
        index: u32::from_ne_bytes([a, b, c, d]),
        up: false,
        address,
        scope: match scope {
            SCOPE_HOST => Scope::Host,
            SCOPE_LINK => Scope::Link,
            _ => Scope::Global,
        },
        tentative: flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED) != 0,
    }))
}

/// Takes the message for a link and for an address.
pub(crate) fn fuzz_read(message: &Message<'_>) {
    // Whatever they make of it, they must come back.
    let _ = Link::read(message);
    let _ = read_address(message);
}

/// All addresses of all interfaces in the calling thread's network namespace, of both families,
/// whether the interface is up or not.
///
/// # Errors
/// See [`Error`].
pub fn addresses() -> Result<Vec<InterfaceAddress>, Error> {
    let mut socket = Socket::open(SockProtocol::NetlinkRoute)?;
    let mut attempt = 1;
    loop {
        match list(&mut socket) {
            Err(Error::Interrupted { .. }) if attempt < ATTEMPTS => attempt += 1,
            result => return result,
        }
    }
}

fn list(socket: &mut Socket) -> Result<Vec<InterfaceAddress>, Error> {
    let flags = netlink::REQUEST | netlink::DUMP;
    let mut links = HashMap::new();
    let request = Builder::new(RTM_GETLINK, flags).fixed(&[0; IFINFOMSG]);
    socket.exchange("listing links", request.finish(), |message| {
        let link = Link::read(message)?;
        links.insert(link.index, link);
        Ok(())
    })?;
    let mut addresses = Vec::new();
    let request = Builder::new(RTM_GETADDR, flags).fixed(&[0; IFADDRMSG]);
    socket.exchange("listing addresses", request.finish(), |message| {
        addresses.extend(read_address(message)?);
        Ok(())
    })?;
    // An address whose link went away between the two lists is gone too.
    addresses.retain_mut(|address| match links.get(&address.index) {
        Some(link) => {
            address.interface.clone_from(&link.name);
            address.up = link.up;
            true
        }
        None => false,
    });
    Ok(addresses)
}

/// Tells when addresses or links change. What they are now is for [`addresses`] to say.
#[derive(Debug)]
pub struct AddressWatch {
    socket: Socket,
    /// The interface whose addresses do not count, with a socket to learn its index.
    ignored: Option<(String, Socket)>,
}

impl AddressWatch {
    /// Watches the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn open() -> Result<Self, Error> {
        let socket = Socket::open(SockProtocol::NetlinkRoute)?;
        for group in [RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR] {
            socket.subscribe(group)?;
        }
        Ok(AddressWatch {
            socket,
            ignored: None,
        })
    }

    /// Changes to this interface's addresses do not count. It need not be there yet.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn ignore(&mut self, interface: &str) -> Result<(), Error> {
        let socket = Socket::open(SockProtocol::NetlinkRoute)?;
        self.ignored = Some((interface.to_owned(), socket));
        Ok(())
    }

    /// Takes in all that was told since the last call, without waiting. Whether something
    /// changed, or may have (notifications were lost).
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn changed(&mut self) -> Result<bool, Error> {
        let mut changed = false;
        let mut on = BTreeSet::new();
        loop {
            match self.socket.receive()? {
                Received::Nothing => break,
                Received::Lost => changed = true,
                Received::Datagram(length) => {
                    let messages = netlink::Messages::new(self.socket.datagram(length));
                    for message in messages.flatten() {
                        match message.kind {
                            RTM_NEWLINK | RTM_DELLINK => changed = true,
                            RTM_NEWADDR | RTM_DELADDR => {
                                on.insert(interface_of_address(&message));
                            }
                            _ => {}
                        }
                    }
                }
            }
        }
        if changed || on.is_empty() {
            return Ok(changed);
        }
        if let Some((name, socket)) = &mut self.ignored {
            let index = link_index(socket, name)?;
            on.retain(|interface| interface.is_none() || *interface != index);
        }
        Ok(!on.is_empty())
    }

    /// Waits until there is something to take in; `false` when the time is over. Those with an
    /// event loop wait for [`AddressWatch::as_fd`] to be readable instead.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn wait(&self, limit: Duration) -> Result<bool, Error> {
        self.socket.wait(limit)
    }
}

impl AsFd for AddressWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A node name that cannot be one.
#[derive(Debug, thiserror::Error)]
pub enum NodeNameError {
    /// The host's name cannot be read.
    #[error("reading the host's name: {0}")]
    Read(#[from] io::Error),
    /// There is nothing left of it without white space.
    #[error("the host's name is empty; set --hostname-override")]
    Empty,
}

/// This node's name in the cluster, as kubelet and kube-proxy work it out: what was given as
/// `--hostname-override`, else the host's name; without surrounding white space, in lower case.
///
/// # Errors
/// See [`NodeNameError`].
pub fn node_name(hostname_override: Option<&str>) -> Result<String, NodeNameError> {
    let name = match hostname_override {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => std::fs::read_to_string("/proc/sys/kernel/hostname")?,
    };
    let name = name.trim();
    if name.is_empty() {
        return Err(NodeNameError::Empty);
    }
    Ok(name.to_lowercase())
}

/// The index of the interface of this name; `None` where there is none.
pub(crate) fn link_index(socket: &mut Socket, name: &str) -> Result<Option<u32>, Error> {
    let request = Builder::new(RTM_GETLINK, netlink::REQUEST | netlink::ACK)
        .fixed(&[0; IFINFOMSG])
        .text(IFLA_IFNAME, name);
    let mut found = None;
    let result = socket.exchange("reading a link", request.finish(), |message| {
        found = Some(Link::read(message)?.index);
        Ok(())
    });
    match result {
        Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
        result => result.map(|()| found),
    }
}
