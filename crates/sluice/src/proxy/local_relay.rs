//! A relay on addresses that are given: for `--listen-map`, and for NodePorts on loopback.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use plan::{Endpoint, PortPlan};
use relay::{Backends, Error, Frontend, Limits, Relay};

/// A relay that is started when there is something to serve: by then the signals have found their
/// thread, and whoever needs none has none.
#[derive(Default)]
pub(crate) struct LocalRelay {
    relay: Option<Relay>,
}

impl LocalRelay {
    /// Serves these and no others. Returns what could not be opened; the rest is served.
    pub(crate) fn serve(
        &mut self,
        frontends: BTreeMap<Frontend, Backends>,
    ) -> Result<Vec<Error>, Error> {
        let relay = match self.relay.take() {
            Some(relay) => relay,
            None if frontends.is_empty() => return Ok(Vec::new()),
            None => Relay::start(Limits::default())?,
        };
        let relay = self.relay.insert(relay);
        relay.serve(frontends).map(|(_, errors)| errors)
    }
}

impl Drop for LocalRelay {
    fn drop(&mut self) {
        if let Some(relay) = self.relay.take() {
            relay.stop();
        }
    }
}

/// Connections of a Service port to these endpoints.
pub(crate) fn backends(port: &PortPlan, endpoints: &[Endpoint]) -> Backends {
    let endpoints = endpoints.iter().map(|e| SocketAddr::new(e.ip, e.port));
    let affinity = port.affinity;
    Backends {
        endpoints: endpoints.collect(),
        affinity: affinity.map(|a| Duration::from_secs(u64::from(a.timeout_seconds))),
    }
}
