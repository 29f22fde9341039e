//! Notifications about changes to nf_tables by any program.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use netfilter::netlink::{Messages, NFNLGRP_NFTABLES};
use nix::sys::socket::SockProtocol;

use crate::netlink::{Error, Received, Socket};

/// A load of 100,000 elements causes some 10 MiB of notifications, none of which should be lost.
const RECEIVE_BUFFER: usize = 32 << 20;

/// A notification.
#[derive(Debug)]
pub enum Notice<'a> {
    /// Changes: `NFT_MSG_*` messages as in a dump; an `NFT_MSG_NEWGEN` ends each commit. The port of each is that of the socket that made the change.
    Changes(Messages<'a>),
    /// Notifications were lost: the known state may be outdated.
    Overrun,
}

/// A subscription to the changes of nf_tables in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
}

impl Monitor {
    /// Subscribe. All commits from now on are reported.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn open() -> Result<Self, Error> {
        Self::with_buffer(RECEIVE_BUFFER)
    }

    /// Subscribe with room for `bytes` of unread notifications.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn with_buffer(bytes: usize) -> Result<Self, Error> {
        let socket = Socket::open(SockProtocol::NetlinkNetFilter)?;
        socket.set_receive_buffer(bytes)?;
        socket.subscribe(NFNLGRP_NFTABLES)?;
        Ok(Monitor { socket })
    }

    /// Return the next notification without waiting; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn receive(&mut self) -> Result<Option<Notice<'_>>, Error> {
        match self.socket.receive()? {
            Received::Datagram(length) => {
                let messages = Messages::new(self.socket.datagram(length));
                Ok(Some(Notice::Changes(messages)))
            }
            Received::Lost => Ok(Some(Notice::Overrun)),
            Received::Nothing => Ok(None),
        }
    }

    /// Wait for a notification; `false` on timeout. Callers with an event loop wait until
    /// [`Monitor::as_fd`] is readable instead.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn wait(&self, limit: Duration) -> Result<bool, Error> {
        self.socket.wait(limit)
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
