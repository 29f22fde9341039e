//! Where the relay has to listen, and for which endpoints.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use model::Protocol;
use plan::{Endpoint, FrontendKind, PortPlan, Traffic};

/// Which of a Service port's endpoints connections are spread over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Spread {
    /// [`PortPlan::cluster`].
    Cluster,
    /// [`PortPlan::local`].
    Local,
}

impl Spread {
    /// Both.
    pub const ALL: [Spread; 2] = [Spread::Cluster, Spread::Local];
}

/// What the relay does with the connections that one of its ports gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Which endpoints these are.
    pub spread: Spread,
    /// The endpoints.
    pub endpoints: Arc<[SocketAddr]>,
    /// For how long a client keeps to its endpoint.
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
    /// The port for these endpoints.
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

    /// The ports that there are.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        Spread::ALL.into_iter().filter_map(move |s| self.get(s))
    }
}

/// Why a Service port cannot be served in this mode, if so.
pub fn unserved(port: &PortPlan) -> Option<&'static str> {
    (port.protocol == Protocol::Sctp)
        .then_some("SCTP cannot be relayed in userspace mode; connections are rejected")
}

/// What the relay has to listen for, at most once for each [`Spread`]. Nothing where all
/// connections are rejected or dropped, and for SCTP.
pub fn listeners(port: &PortPlan) -> Vec<Listener> {
    let needs = |spread| {
        port.frontends().any(|frontend| {
            let (everyone, outside) = ways(frontend.kind, frontend.traffic);
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

/// What is different for clients that are neither pods of this node nor the node itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outside {
    /// Nothing.
    Same,
    /// They go to another listener.
    Listener(Spread),
    /// They go nowhere.
    Dropped,
}

/// The listener that a frontend's connections are led to, if any, and what is different for clients
/// outside.
pub(super) fn ways(kind: FrontendKind, traffic: Traffic) -> (Option<Spread>, Outside) {
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
