//! The addresses that the relay serves, and their endpoints.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use model::Protocol;

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The address and port.
    pub address: SocketAddr,
    /// TCP or UDP; SCTP is not supported.
    pub protocol: Protocol,
}

/// The endpoints of a frontend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backends {
    /// The endpoints. Without any, no socket listens, so that the system refuses connections and
    /// datagrams.
    pub endpoints: Arc<[SocketAddr]>,
    /// Client affinity; `None` balances every connection separately.
    pub affinity: Option<Affinity>,
}

/// Client affinity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// Validity of an entry after the client's last connection.
    pub timeout: Duration,
    /// The owner: frontends with the same owner share their entries.
    pub of: Arc<str>,
}
