//! Shared by all netlink protocols: the wire format, and a socket with timeouts.
//!
//! According to `Documentation/userspace-api/netlink/intro.rst`, the kernel processes a request within
//! `sendmsg`, so its reply (or the first part of a dump) is available when that returns. A reply that
//! does not fit the receive buffer is lost, which the socket reports once with `ENOBUFS`.

mod control;
mod many;
mod socket;

#[cfg(test)]
mod tests;

use std::fmt;

use netfilter::netlink::DecodeError;
use nix::errno::Errno;

pub use control::Control;
pub(crate) use socket::Received;
pub use socket::Socket;

/// The kernel's refusal of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The errno.
    pub errno: Errno,
    /// The raw number: some subsystems have their own numbers beyond those of errno.
    pub code: i32,
    /// The kernel's explanation, if any (`NLMSGERR_ATTR_MSG`).
    pub text: Option<String>,
    /// The offset of the attribute at fault in the message, in bytes, if reported
    /// (`NLMSGERR_ATTR_OFFS`).
    pub offset: Option<u32>,
}

impl Refusal {
    /// Return a refusal with an errno only.
    pub(crate) fn of(errno: Errno) -> Self {
        Refusal {
            errno,
            code: errno as i32,
            text: None,
            offset: None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errno {
            Errno::UnknownErrno => write!(f, "error {}", self.code)?,
            errno => write!(f, "{errno}")?,
        }
        if let Some(text) = &self.text {
            write!(f, " ({text})")?;
        }
        if let Some(offset) = self.offset {
            write!(f, " in the attribute at byte {offset}")?;
        }
        Ok(())
    }
}

/// A failed netlink exchange.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("netlink: {step}: {errno}")]
    System {
        /// The step.
        step: &'static str,
        /// The reason.
        errno: Errno,
    },
    /// The kernel refused a request.
    #[error("{what}: {refusal}")]
    Refused {
        /// The request.
        what: &'static str,
        /// The kernel's reason.
        refusal: Refusal,
    },
    /// The reply did not fit the buffer or never arrived: it is not known whether the request took effect,
    /// so the state must be read.
    #[error("{what}: the kernel's reply was lost")]
    LostReply {
        /// The request.
        what: &'static str,
    },
    /// The listed objects changed meanwhile, so the list may be wrong (`NLM_F_DUMP_INTR`). Retry.
    #[error("{what}: changed while it was being read")]
    Interrupted {
        /// The request.
        what: &'static str,
    },
    /// The reply violates the protocol.
    #[error("{what}: {cause}")]
    Malformed {
        /// The request.
        what: &'static str,
        /// The error in the reply.
        cause: DecodeError,
    },
}

impl Error {
    /// Return the errno, if there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::System { errno, .. } => Some(*errno),
            Error::Refused { refusal, .. } => Some(refusal.errno),
            _ => None,
        }
    }
}
