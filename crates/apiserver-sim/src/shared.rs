//! What the connections of a server share: its configuration and its state.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch as signal;

use crate::pods::Pods;
use crate::store::State;

/// Configuration of a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address to listen on; port 0 chooses a port.
    pub listen: SocketAddr,
    /// Addresses in the server's certificate besides the one it listens on.
    pub certificate_addresses: Vec<IpAddr>,
    /// Accepted bearer tokens; empty accepts all clients.
    pub tokens: Vec<String>,
    /// Require a client certificate of the server's CA.
    pub require_client_certificate: bool,
    /// Time between bookmarks; a minute in the real server.
    pub bookmark_period: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            certificate_addresses: Vec::new(),
            tokens: Vec::new(),
            require_client_certificate: false,
            bookmark_period: Duration::from_secs(60),
        }
    }
}

/// The state and its change notifications.
pub(crate) struct Shared {
    pub(crate) state: Mutex<State>,
    /// Incremented by every change.
    pub(crate) changed: signal::Sender<u64>,
    /// Incremented to cut all connections.
    pub(crate) cut: signal::Sender<u64>,
    pub(crate) tokens: Mutex<Vec<String>>,
    pub(crate) pods: Mutex<Pods>,
    pub(crate) config: Config,
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pods(&self) -> MutexGuard<'_, Pods> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wake(&self) {
        self.changed.send_modify(|n| *n += 1);
    }
}
