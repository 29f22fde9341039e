//! The plan, which a mode lays out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use model::{Cidr, IpFamily, NamespacedName, Protocol, ServicePortName};

use crate::{Endpoint, LocalDetector};

/// Key of a Service port within one family.
pub type PortKey = (ServicePortName, Protocol);

/// The plan of one address family on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The family.
    pub family: IpFamily,
    /// Every Service port of the family, by name and protocol.
    pub ports: BTreeMap<PortKey, Arc<PortPlan>>,
    /// Health check ports to open on this node, by Service.
    pub health_checks: BTreeMap<NamespacedName, HealthCheck>,
    /// Number of endpoints of all planned Service ports, on any node and in any state. kube-proxy
    /// calls a cluster with more than 1000 large.
    pub endpoint_count: usize,
    /// Node-wide facts.
    pub node: Arc<NodeFacts>,
}

/// Answer of one Service's `healthCheckNodePort` in one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The port to listen on.
    pub port: NonZeroU16,
    /// Number of the Service's ready endpoint addresses on this node. A pod that serves two ports
    /// counts once. Terminating endpoints do not count, even while traffic falls back to them, so
    /// that load balancers turn away in time (KEP-1669).
    pub local_ready: usize,
}

/// Node-wide parts of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Detection of traffic from this node's pods.
    pub local: LocalDetector,
    /// Masquerade all traffic to cluster IPs.
    pub masquerade_all: bool,
    /// The node's primary address of the family, if any.
    pub node_ip: Option<IpAddr>,
    /// Addresses that answer for NodePorts; `None` for every local address.
    pub node_port_ips: Option<Vec<IpAddr>>,
    /// The cluster's Service ranges of the family, sorted.
    pub service_cidrs: Vec<Cidr>,
}

/// One port of one Service, in one family, as seen from this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortPlan {
    /// Its name.
    pub name: ServicePortName,
    /// Its protocol.
    pub protocol: Protocol,
    /// `spec.ports[].port`: the port of every frontend except the NodePort.
    pub port: NonZeroU16,
    /// The cluster IP.
    pub cluster_ip: IpAddr,
    /// `nodePort`.
    pub node_port: Option<NonZeroU16>,
    /// External IPs, in their original order, without duplicates.
    pub external_ips: Vec<IpAddr>,
    /// Load-balancer addresses that nodes answer for (`ipMode: VIP`), in their original order.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `loadBalancerSourceRanges` of this family, in their original order. Empty: no restriction.
    pub source_ranges: Vec<Cidr>,
    /// `healthCheckNodePort`, if the external policy is Local.
    pub health_check_node_port: Option<NonZeroU16>,
    /// Session affinity.
    pub affinity: Option<Affinity>,
    /// `internalTrafficPolicy` is Local.
    pub internal_local: bool,
    /// `externalTrafficPolicy` is Local (and the Service has external frontends).
    pub external_local: bool,
    /// Endpoints for Cluster-policy traffic, sorted by address and port; empty if no frontend uses
    /// Cluster policy.
    pub cluster: Arc<[Endpoint]>,
    /// Endpoints on this node for Local-policy traffic, sorted; empty if no frontend uses Local
    /// policy.
    pub local: Arc<[Endpoint]>,
    /// Whether a usable endpoint exists anywhere in the cluster: without one, connections are
    /// refused; without one on this node, dropped.
    pub has_any_endpoint: bool,
    /// The serving endpoints on all nodes, sorted. A flow may keep going to any of these, whatever
    /// policies and topology say of new flows; see [`StaleFlows`](crate::StaleFlows).
    pub flow_endpoints: Arc<[Endpoint]>,
    /// All endpoints of this node, sorted: also those that are not ready or are terminating.
    pub on_node: Arc<[Endpoint]>,
}

/// ClientIP affinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// Time after its last connection for which a client keeps its endpoint.
    pub timeout_seconds: u32,
}

/// One address and port of a Service port, with the treatment of connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// Kind of the address.
    pub kind: FrontendKind,
    /// The address; `None` for a NodePort, which uses the NodePort addresses.
    pub ip: Option<IpAddr>,
    /// The port.
    pub port: NonZeroU16,
    /// Treatment of traffic that comes neither from this node nor from its pods.
    pub traffic: Traffic,
}

/// The kinds of frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // The API's own words.
pub enum FrontendKind {
    ClusterIp,
    ExternalIp,
    LoadBalancerIp,
    NodePort,
}

/// Treatment of a connection to a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Balanced over [`PortPlan::cluster`].
    Cluster,
    /// Balanced over [`PortPlan::local`]; the client's address is preserved.
    Local,
    /// Refused: the Service has no endpoint anywhere.
    Reject,
    /// Dropped: the policy is Local and this node has no endpoint. External frontends drop traffic
    /// of external clients only; pods and the node itself use [`PortPlan::cluster`].
    Drop,
}

impl Plan {
    /// Return an empty plan.
    pub fn empty(family: IpFamily) -> Self {
        Self {
            family,
            ports: BTreeMap::new(),
            health_checks: BTreeMap::new(),
            endpoint_count: 0,
            node: Arc::new(NodeFacts {
                local: LocalDetector::None,
                masquerade_all: false,
                node_ip: None,
                node_port_ips: None,
                service_cidrs: Vec::new(),
            }),
        }
    }

    /// Return the ports of one Service; the cost follows their number.
    pub fn ports_of<'a>(
        &'a self,
        service: &'a NamespacedName,
    ) -> impl Iterator<Item = (&'a PortKey, &'a Arc<PortPlan>)> {
        let first = ServicePortName {
            service: service.clone(),
            port: "".into(),
        };
        let ports = self.ports.range((first, Protocol::Tcp)..);
        ports.take_while(move |((name, _), _)| name.service == *service)
    }
}

impl PortPlan {
    /// Return its key within the family.
    pub fn key(&self) -> PortKey {
        (self.name.clone(), self.protocol)
    }

    /// Return whether any frontend is reachable from outside the cluster.
    pub fn externally_accessible(&self) -> bool {
        self.node_port.is_some()
            || !self.external_ips.is_empty()
            || !self.load_balancer_ips.is_empty()
    }

    /// Return whether any frontend uses Cluster policy. External frontends with Local policy count
    /// too: pods and the node itself reach them as with Cluster policy.
    pub fn uses_cluster_endpoints(&self) -> bool {
        !self.internal_local || self.externally_accessible()
    }

    /// Return whether any frontend uses Local policy.
    pub fn uses_local_endpoints(&self) -> bool {
        self.internal_local || (self.external_local && self.externally_accessible())
    }

    /// Return the treatment of traffic to the cluster IP.
    pub fn internal_traffic(&self) -> Traffic {
        Self::traffic(self.has_any_endpoint, self.internal_local, &self.local)
    }

    /// Return the treatment of external traffic to the external frontends.
    pub fn external_traffic(&self) -> Traffic {
        Self::traffic(self.has_any_endpoint, self.external_local, &self.local)
    }

    fn traffic(has_any: bool, local_policy: bool, local: &[Endpoint]) -> Traffic {
        match (has_any, local_policy) {
            (false, _) => Traffic::Reject,
            (true, false) => Traffic::Cluster,
            (true, true) if local.is_empty() => Traffic::Drop,
            (true, true) => Traffic::Local,
        }
    }

    /// Return every frontend of the port: cluster IP, external IPs, load-balancer IPs, NodePort.
    pub fn frontends(&self) -> impl Iterator<Item = Frontend> + '_ {
        let external = self.external_traffic();
        let at = move |kind, ip, port, traffic| Frontend {
            kind,
            ip,
            port,
            traffic,
        };
        std::iter::once(at(
            FrontendKind::ClusterIp,
            Some(self.cluster_ip),
            self.port,
            self.internal_traffic(),
        ))
        .chain(
            self.external_ips
                .iter()
                .map(move |ip| at(FrontendKind::ExternalIp, Some(*ip), self.port, external)),
        )
        .chain(
            self.load_balancer_ips
                .iter()
                .map(move |ip| at(FrontendKind::LoadBalancerIp, Some(*ip), self.port, external)),
        )
        .chain(
            self.node_port
                .map(move |port| at(FrontendKind::NodePort, None, port, external)),
        )
    }

    /// Return all endpoints that this node may use: the union of cluster and local, sorted.
    pub fn reachable(&self) -> Vec<Endpoint> {
        let mut all: Vec<_> = self
            .cluster
            .iter()
            .chain(self.local.iter())
            .copied()
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}
