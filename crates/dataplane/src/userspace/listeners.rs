//! The sockets that a Service port needs, and the endpoints of each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use model::Protocol;
use plan::{Endpoint, FrontendKind, PortPlan, Traffic};

/// The endpoints over which connections are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Spread {
    /// [`PortPlan::cluster`].
    Cluster,
    /// [`PortPlan::local`].
    Local,
}

impl Spread {
    /// Both spreads.
    pub const ALL: [Spread; 2] = [Spread::Cluster, Spread::Local];
}

/// A listening socket of the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The kind of endpoints.
    pub spread: Spread,
    /// The endpoints.
    pub endpoints: Arc<[SocketAddr]>,
    /// For how long a client keeps its endpoint.
    pub affinity: Option<Duration>,
}

/// The ports at which the relay listens for a Service port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayPorts {
    /// For [`Spread::Cluster`].
    pub cluster: Option<u16>,
    /// For [`Spread::Local`].
    pub local: Option<u16>,
}

impl RelayPorts {
    /// Return the port for these endpoints.
    pub fn get(&self, spread: Spread) -> Option<u16> {
        match spread {
            Spread::Cluster => self.cluster,
            Spread::Local => self.local,
        }
    }

    /// Sets the port for these endpoints.
    pub fn set(&mut self, spread: Spread, port: u16) {
        match spread {
            Spread::Cluster => self.cluster = Some(port),
            Spread::Local => self.local = Some(port),
        }
    }

    /// Return the ports.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        Spread::ALL.into_iter().filter_map(move |s| self.get(s))
    }
}

/// Return why a Service port cannot be served in this mode; `None` if it can.
pub fn unserved(port: &PortPlan) -> Option<&'static str> {
    (port.protocol == Protocol::Sctp)
        .then_some("SCTP cannot be relayed in userspace mode; connections are rejected")
}

/// Return the listeners of a Service port, at most one for each [`Spread`]. None if all connections
/// are rejected or dropped, or for SCTP.
pub fn listeners(port: &PortPlan) -> Vec<Listener> {
    let needs = |spread| {
        port.frontends().any(|frontend| {
            let (everyone, outside) = routes(frontend.kind, frontend.traffic);
            everyone == Some(spread) || outside == Outside::Listener(spread)
        })
    };
    let addresses = |endpoints: &[Endpoint]| -> Arc<[SocketAddr]> {
        let endpoints = endpoints.iter();
        endpoints.map(|e| SocketAddr::new(e.ip, e.port)).collect()
    };
    let listener = |spread| Listener {
        spread,
        endpoints: match spread {
            Spread::Cluster => addresses(&port.cluster),
            Spread::Local => addresses(&port.local),
        },
        affinity: port
            .affinity
            .map(|a| Duration::from_secs(u64::from(a.timeout_seconds))),
    };
    let served = Spread::ALL.into_iter().filter(|_| unserved(port).is_none());
    served.filter(|s| needs(*s)).map(listener).collect()
}

/// The difference for clients that are neither pods of this node nor the node itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outside {
    /// No difference.
    Same,
    /// They are led to another listener.
    Listener(Spread),
    /// They are dropped.
    Dropped,
}

/// Return the listener to which a frontend's connections are led, if any, and the difference for
/// clients outside.
pub(super) fn routes(kind: FrontendKind, traffic: Traffic) -> (Option<Spread>, Outside) {
    let internal = kind == FrontendKind::ClusterIp;
    match traffic {
        Traffic::Reject => (None, Outside::Same),
        Traffic::Drop if internal => (None, Outside::Same),
        Traffic::Drop => (Some(Spread::Cluster), Outside::Dropped),
        Traffic::Cluster => (Some(Spread::Cluster), Outside::Same),
        Traffic::Local if internal => (Some(Spread::Local), Outside::Same),
        Traffic::Local => (Some(Spread::Cluster), Outside::Listener(Spread::Local)),
    }
}
