//! The one relay of this process, shared by its users.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use plan::{Endpoint, PortKey, PortPlan};
use relay::{Affinity, Backends, Error, Limits, Relay};

/// A relay that starts when there is something to serve; by then the thread for signals exists. Both
/// families share it and its limits. When the last user drops it, connections get some time to end.
pub(crate) struct SharedRelay {
    mark: u32,
    relay: OnceCell<Relay>,
}

impl SharedRelay {
    /// Return a relay that sets this mark on packets to endpoints; 0 sets none.
    pub(crate) fn new(mark: u32) -> Rc<Self> {
        let relay = OnceCell::new();
        Rc::new(Self { mark, relay })
    }

    /// Return the relay; start it if needed.
    pub(crate) fn get(&self) -> Result<&Relay, Error> {
        if let Some(relay) = self.relay.get() {
            return Ok(relay);
        }
        let relay = Relay::start(self.limits())?;
        Ok(self.relay.get_or_init(|| relay))
    }

    /// Return the relay if it runs.
    pub(crate) fn running(&self) -> Option<&Relay> {
        self.relay.get()
    }

    fn limits(&self) -> Limits {
        let limits = match kernel::process::raise_open_files() {
            Ok(files) => Limits::for_open_files(files),
            Err(error) => {
                tracing::warn!(%error, "Serving fewer connections at a time");
                Limits::for_open_files(1024)
            }
        };
        let mark = self.mark;
        Limits { mark, ..limits }
    }
}

impl Drop for SharedRelay {
    fn drop(&mut self) {
        let Some(relay) = self.relay.take() else {
            return;
        };
        let open = relay.open_connections();
        if open > 0 {
            let drain = self.limits().drain;
            tracing::info!(
                count = open,
                ?drain,
                "Waiting for open connections and flows to end"
            );
        }
        relay.stop();
    }
}

/// Return the back ends of a Service port with these endpoints.
pub(crate) fn backends(port: &PortPlan, endpoints: &[Endpoint]) -> Backends {
    let endpoints = endpoints.iter().map(|e| SocketAddr::new(e.ip, e.port));
    let timeout = port.affinity.map(|a| a.timeout_seconds);
    let timeout = timeout.map(|seconds| Duration::from_secs(seconds.into()));
    Backends {
        endpoints: endpoints.collect(),
        affinity: timeout.map(|timeout| affinity(&port.key(), timeout)),
    }
}

/// Return affinity by Service port, independent of the address that a client connects to.
pub(crate) fn affinity((name, protocol): &PortKey, timeout: Duration) -> Affinity {
    let of = format!("{name}/{protocol}").into();
    Affinity { timeout, of }
}
