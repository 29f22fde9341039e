//! The node's own addresses, their changes, and its name.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use netfilter::netlink::Messages;
use nix::sys::socket::SockProtocol;

use crate::netlink::{Error, Received, Socket};
use crate::rtnetlink::{
    self, RTM_DELADDR, RTM_DELLINK, RTM_NEWADDR, RTM_NEWLINK, interface_of_address, link_index,
};

pub use crate::rtnetlink::{InterfaceAddress, Scope};

const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV6_IFADDR: u32 = 9;
/// List all addresses of all interfaces in the calling thread's network namespace, of both families,
/// whether the interface is up or not.
///
/// # Errors
/// See [`Error`].
pub fn addresses() -> Result<Vec<InterfaceAddress>, Error> {
    rtnetlink::addresses(&mut Socket::open(SockProtocol::NetlinkRoute)?)
}

/// Reports that addresses or links have changed. [`addresses`] lists the current ones.
#[derive(Debug)]
pub struct AddressWatch {
    socket: Socket,
    /// The ignored interface, with a socket that determines its index.
    ignored: Option<(String, Socket)>,
}

impl AddressWatch {
    /// Watch the network namespace of the calling thread.
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

    /// Ignore changes to this interface's addresses. The interface need not exist yet.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn ignore(&mut self, interface: &str) -> Result<(), Error> {
        let socket = Socket::open(SockProtocol::NetlinkRoute)?;
        self.ignored = Some((interface.to_owned(), socket));
        Ok(())
    }

    /// Read all notifications since the last call, without waiting. Return whether something
    /// changed, or may have changed because notifications were lost.
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
                    let messages = Messages::new(self.socket.datagram(length));
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

    /// Wait for a notification; `false` on timeout. Callers with an event loop wait until
    /// [`AddressWatch::as_fd`] is readable instead.
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

/// An invalid node name.
#[derive(Debug, thiserror::Error)]
pub enum NodeNameError {
    /// The host name cannot be read.
    #[error("cannot read /proc/sys/kernel/hostname")]
    Read(#[from] io::Error),
    /// The host name is empty apart from white space.
    #[error("the host name is empty; set --hostname-override")]
    Empty,
}

/// Return this node's name in the cluster, as kubelet and kube-proxy do: `--hostname-override`, or
/// the host name; without surrounding white space, in lower case.
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
