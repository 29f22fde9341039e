//! Stale flows: flows to endpoints that their Service no longer has.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{Flow, IpProtocol, Zone};

/// The endpoints to which a frontend's flows may go, shared between the frontends of a Service.
pub type Endpoints = Arc<HashSet<SocketAddr>>;

/// The endpoints to which flows of each frontend may go. A flow of a frontend to another address is
/// stale, also one without NAT that began before the frontend had endpoints or rules.
///
/// The caller chooses the protocols: UDP, as kube-proxy does, and SCTP.
#[derive(Clone, Debug, Default)]
pub struct StaleFlows {
    frontends: HashMap<(IpProtocol, SocketAddr), Endpoints>,
    node_ports: HashMap<(IpProtocol, u16), Endpoints>,
    node_addresses: HashSet<IpAddr>,
}

impl StaleFlows {
    /// Create the set for a node with these addresses. A NodePort matches only on these, so that a flow
    /// to a remote server with the same port number stays.
    pub fn new(node_addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        StaleFlows {
            node_addresses: node_addresses.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Add a cluster, external or load-balancer IP and port.
    pub fn frontend(&mut self, protocol: IpProtocol, address: SocketAddr, endpoints: Endpoints) {
        self.frontends.insert((protocol, address), endpoints);
    }

    /// Add a NodePort.
    pub fn node_port(&mut self, protocol: IpProtocol, port: u16, endpoints: Endpoints) {
        self.node_ports.insert((protocol, port), endpoints);
    }

    /// Return whether no frontend was added.
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty() && self.node_ports.is_empty()
    }

    /// Return the protocols of the frontends, sorted, without duplicates: one dump for each.
    pub fn protocols(&self) -> Vec<IpProtocol> {
        let frontends = self.frontends.keys().map(|(protocol, _)| *protocol);
        let node_ports = self.node_ports.keys().map(|(protocol, _)| *protocol);
        let mut protocols: Vec<_> = frontends.chain(node_ports).collect();
        protocols.sort_unstable();
        protocols.dedup();
        protocols
    }

    /// Return whether the flow is stale. Flows in a separate zone belong to other programs (usually
    /// Open vSwitch) and never passed Service rules.
    pub fn is_stale(&self, flow: &Flow) -> bool {
        let original = &flow.original;
        if flow.zone != Zone::default() {
            return false;
        }
        let frontend = (original.protocol, original.destination());
        let endpoints = self.frontends.get(&frontend).or_else(|| {
            let port = (original.protocol, original.destination_port);
            let endpoints = self.node_ports.get(&port)?;
            self.node_addresses
                .contains(&original.destination)
                .then_some(endpoints)
        });
        endpoints.is_some_and(|endpoints| !endpoints.contains(&flow.reply.source()))
    }
}
