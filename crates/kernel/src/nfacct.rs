//! Counters of iptables rules (`-m nfacct`), over netlink.
//!
//! kube-proxy's iptables mode uses two of them for its metrics, and omits the match from its rules if
//! the kernel lacks them. A counter belongs to the network namespace and outlives the
//! rules that use it.

use netfilter::netlink::{
    Builder, DecodeError, Message, NFGENMSG_LEN, NFNL_SUBSYS_ACCT, NLM_F_ACK, NLM_F_CREATE,
    NLM_F_REQUEST, nfgenmsg, nfnl_msg_type,
};
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use crate::netlink::{Error, Socket};

/// `NFNL_MSG_ACCT_NEW`.
const NEW: u8 = 0;
/// `NFNL_MSG_ACCT_GET`.
const GET: u8 = 1;
/// `NFNL_MSG_ACCT_DEL`.
const DELETE: u8 = 3;
const NFACCT_NAME: u16 = 1;
const NFACCT_PKTS: u16 = 2;
const NFACCT_BYTES: u16 = 3;

/// A counter of kube-proxy's iptables mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counter {
    /// Packets dropped because connection tracking considered them invalid.
    CtStateInvalidDropped,
    /// Packets to NodePorts on a loopback address.
    LocalhostNodePortsAccepted,
}

impl Counter {
    /// Both.
    pub const ALL: [Counter; 2] = [
        Counter::CtStateInvalidDropped,
        Counter::LocalhostNodePortsAccepted,
    ];

    /// Return its name in rules.
    pub fn name(self) -> &'static str {
        match self {
            Counter::CtStateInvalidDropped => "ct_state_invalid_dropped_pkts",
            Counter::LocalhostNodePortsAccepted => "localhost_nps_accepted_pkts",
        }
    }
}

/// The values of a counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Packets.
    pub packets: u64,
    /// Bytes of those packets.
    pub bytes: u64,
}

impl Counted {
    /// Read an `NFNL_MSG_ACCT_NEW` message.
    ///
    /// # Errors
    /// [`DecodeError`] if a number has the wrong size or is missing.
    pub fn read(message: &Message<'_>) -> Result<Self, DecodeError> {
        let (mut packets, mut bytes) = (None, None);
        for attribute in message.attributes(NFGENMSG_LEN, "nfnl_acct_type") {
            let attribute = attribute?;
            match attribute.kind {
                NFACCT_PKTS => packets = Some(attribute.be64()?),
                NFACCT_BYTES => bytes = Some(attribute.be64()?),
                _ => {}
            }
        }
        match (packets, bytes) {
            (Some(packets), Some(bytes)) => Ok(Counted { packets, bytes }),
            _ => Err(DecodeError::Malformed("a counter without its numbers")),
        }
    }
}

/// The kernel's nfacct, in the network namespace in which it was opened.
#[derive(Debug)]
pub struct NfAcct {
    socket: Socket,
}

impl NfAcct {
    /// Open it; `None` if this kernel has no nfacct.
    ///
    /// # Errors
    /// See [`Error`]; `EPERM` without `CAP_NET_ADMIN`.
    pub fn open() -> Result<Option<Self>, Error> {
        let mut nfacct = NfAcct {
            socket: Socket::open(SockProtocol::NetlinkNetFilter)?,
        };
        match nfacct.read(Counter::CtStateInvalidDropped) {
            Ok(_) => Ok(Some(nfacct)),
            // nfnetlink's error for a missing subsystem.
            Err(error) if matches!(error.errno(), Some(Errno::EINVAL | Errno::EOPNOTSUPP)) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Create the counter if it does not exist; an existing one keeps its values.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn ensure(&mut self, counter: Counter) -> Result<(), Error> {
        if self.read(counter)?.is_some() {
            return Ok(());
        }
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
        match self.ask("making an nfacct counter", NEW, flags, counter) {
            // Another program created it meanwhile.
            Err(error) if error.errno() == Some(Errno::EEXIST) => Ok(()),
            result => result.map(drop),
        }
    }

    /// Return the values of the counter; `None` if it does not exist.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn read(&mut self, counter: Counter) -> Result<Option<Counted>, Error> {
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        match self.ask("reading an nfacct counter", GET, flags, counter) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(None),
            result => result,
        }
    }

    /// Delete the counter, if it exists.
    ///
    /// # Errors
    /// See [`Error`]; `EBUSY` while a rule uses it.
    pub fn delete(&mut self, counter: Counter) -> Result<(), Error> {
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        match self.ask("deleting an nfacct counter", DELETE, flags, counter) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(()),
            result => result.map(drop),
        }
    }

    fn ask(
        &mut self,
        what: &'static str,
        command: u8,
        flags: u16,
        counter: Counter,
    ) -> Result<Option<Counted>, Error> {
        let request = Builder::new(nfnl_msg_type(NFNL_SUBSYS_ACCT, command), flags)
            .fixed(&nfgenmsg(0, 0))
            .string(NFACCT_NAME, counter.name())
            .finish();
        let mut counted = None;
        self.socket.exchange(what, request, |message| {
            counted = Some(Counted::read(message)?);
            Ok(())
        })?;
        Ok(counted)
    }
}
