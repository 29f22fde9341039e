//! Which flows point where their Service no longer sends anything.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{Flow, IpProtocol, Zone};

/// The endpoints to which a frontend's flows may go, shared between the frontends of a Service.
pub type Endpoints = Arc<HashSet<SocketAddr>>;

/// For the frontends that were put in, the endpoints to which their flows may go. A flow to one
/// of them that goes elsewhere is stale: also one that was never rewritten at all, because there
/// were no endpoints (or no rules) yet when it began.
///
/// Which protocols to put in is the caller's choice: UDP as kube-proxy does, and SCTP.
#[derive(Clone, Debug, Default)]
pub struct StaleFlows {
    frontends: HashMap<(IpProtocol, SocketAddr), Endpoints>,
    node_ports: HashMap<(IpProtocol, u16), Endpoints>,
    node_addresses: HashSet<IpAddr>,
}

impl StaleFlows {
    /// With no frontends, for a node with these addresses: NodePorts are looked for on no other,
    /// so that a flow to some far server on a port of the same number is left alone.
    pub fn new(node_addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        StaleFlows {
            node_addresses: node_addresses.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Puts in a cluster, external or load-balancer IP and port.
    pub fn frontend(&mut self, protocol: IpProtocol, address: SocketAddr, endpoints: Endpoints) {
        self.frontends.insert((protocol, address), endpoints);
    }

    /// Puts in a NodePort.
    pub fn node_port(&mut self, protocol: IpProtocol, port: u16, endpoints: Endpoints) {
        self.node_ports.insert((protocol, port), endpoints);
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty() && self.node_ports.is_empty()
    }

    /// The protocols that there are frontends of, each once, in order: one dump for each.
    pub fn protocols(&self) -> Vec<IpProtocol> {
        let frontends = self.frontends.keys().map(|(protocol, _)| *protocol);
        let node_ports = self.node_ports.keys().map(|(protocol, _)| *protocol);
        let mut protocols: Vec<_> = frontends.chain(node_ports).collect();
        protocols.sort_unstable();
        protocols.dedup();
        protocols
    }

    /// Whether the flow is one to remove. Flows in a zone of their own are somebody else's (Open
    /// vSwitch, mostly), and never went through a Service's rules.
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
