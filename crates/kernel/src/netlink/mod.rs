//! What all netlink conversations share: the wire format, and a socket that never waits for
//! ever.
//!
//! The rules of the game, from `Documentation/userspace-api/netlink/intro.rst`: a request is
//! worked off inside `sendmsg`, so its reply (or the first part of a dump) is there when that
//! returns; a reply for which the receive buffer has no room is lost, which the socket says once
//! with `ENOBUFS`.

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
    /// Why, as a number.
    pub errno: Errno,
    /// The number itself: some subsystems have numbers of their own beyond those of errno.
    pub code: i32,
    /// Why, in the kernel's words, where it has some (`NLMSGERR_ATTR_MSG`).
    pub text: Option<String>,
    /// Where in the message the attribute at fault starts, in bytes, where the kernel says so
    /// (`NLMSGERR_ATTR_OFFS`).
    pub offset: Option<u32>,
}

impl Refusal {
    /// A refusal with an errno only.
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

/// What can go wrong in a netlink conversation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("netlink: {step}: {errno}")]
    System {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        errno: Errno,
    },
    /// The kernel refused a request.
    #[error("{what}: {refusal}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// Why not.
        refusal: Refusal,
    },
    /// The reply was lost for want of buffer, or never came: whether the request took effect is
    /// not known and must be read back.
    #[error("{what}: the kernel's reply was lost")]
    LostReply {
        /// What was asked for.
        what: &'static str,
    },
    /// What was being listed changed meanwhile, so that the list may be wrong
    /// (`NLM_F_DUMP_INTR`). Ask again.
    #[error("{what}: changed while it was being read")]
    Interrupted {
        /// What was asked for.
        what: &'static str,
    },
    /// The reply is not what the protocol says.
    #[error("{what}: {cause}")]
    Malformed {
        /// What was asked for.
        what: &'static str,
        /// The error in the reply.
        cause: DecodeError,
    },
}

impl Error {
    /// The errno behind it, if there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::System { errno, .. } => Some(*errno),
            Error::Refused { refusal, .. } => Some(refusal.errno),
            _ => None,
        }
    }
}
