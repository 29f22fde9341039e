//! The plan: what a mode is to lay out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use model::{Cidr, IpFamily, NamespacedName, Protocol, ServicePortName};

use crate::{Endpoint, LocalDetector};

/// Names a Service port within one family.
pub type PortKey = (ServicePortName, Protocol);

/// What this node is to do for one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The family.
    pub family: IpFamily,
    /// Every Service port of the family, by name and protocol.
    pub ports: BTreeMap<PortKey, Arc<PortPlan>>,
    /// The health check ports that this node is to open, by Service.
    pub health_checks: BTreeMap<NamespacedName, HealthCheck>,
    /// All endpoints of all planned Service ports, wherever they are and whatever their state:
    /// what kube-proxy counts to decide that a cluster is large (more than 1000).
    pub endpoint_count: usize,
    /// What concerns the node as a whole.
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
    /// How traffic from this node's pods is recognised.
    pub local: LocalDetector,
    /// Masquerade everything that goes to a cluster IP.
    pub masquerade_all: bool,
    /// The node's primary address of the family, where it has one.
    pub node_ip: Option<IpAddr>,
    /// The addresses that answer for NodePorts; `None` means every local one.
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
    /// `spec.ports[].port`: the port of every frontend but the NodePort.
    pub port: NonZeroU16,
    /// The cluster IP.
    pub cluster_ip: IpAddr,
    /// `nodePort`.
    pub node_port: Option<NonZeroU16>,
    /// External IPs, in the order given, without duplicates.
    pub external_ips: Vec<IpAddr>,
    /// Load-balancer addresses that nodes answer for (`ipMode: VIP`), in the order given.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `loadBalancerSourceRanges` of this family, in the order given. Empty: no restriction.
    pub source_ranges: Vec<Cidr>,
    /// `healthCheckNodePort`, where the external policy is Local.
    pub health_check_node_port: Option<NonZeroU16>,
    /// Session affinity.
    pub affinity: Option<Affinity>,
    /// `internalTrafficPolicy` is Local.
    pub internal_local: bool,
    /// `externalTrafficPolicy` is Local (and the Service has external frontends).
    pub external_local: bool,
    /// What Cluster-policy traffic is spread over, sorted by address and port; empty also where no
    /// frontend uses Cluster policy.
    pub cluster: Arc<[Endpoint]>,
    /// What Local-policy traffic is spread over on this node, sorted; empty also where no frontend
    /// uses Local policy.
    pub local: Arc<[Endpoint]>,
    /// Whether there is a usable endpoint anywhere in the cluster: decides between refusing (none
    /// at all) and dropping (none here).
    pub has_any_endpoint: bool,
    /// UDP and SCTP only, empty for TCP: the serving endpoints wherever they are, sorted. An
    /// established flow may keep going to any of these, whatever policies and topology say of new
    /// ones; see [`StaleFlows`](crate::StaleFlows).
    pub flow_endpoints: Arc<[Endpoint]>,
    /// All endpoints of this node, sorted: also those that are not ready or are terminating.
    pub on_node: Arc<[Endpoint]>,
}

/// ClientIP affinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// For how long after its last connection a client keeps to its endpoint.
    pub timeout_seconds: u32,
}

/// One address and port on which a Service port is offered, with what becomes of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// Which of the Service's addresses this is.
    pub kind: FrontendKind,
    /// The address; `None` for a NodePort, which is on the node-port addresses.
    pub ip: Option<IpAddr>,
    /// The port.
    pub port: NonZeroU16,
    /// What becomes of traffic from outside this node's pods and the node itself.
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

/// What becomes of a connection to a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Balanced over [`PortPlan::cluster`].
    Cluster,
    /// Balanced over [`PortPlan::local`], the client's address kept.
    Local,
    /// Refused: the Service has no endpoint anywhere.
    Reject,
    /// Dropped: the policy is Local and no endpoint is here. For an external frontend this holds
    /// for clients outside; pods and the node itself go to [`PortPlan::cluster`].
    Drop,
}

impl Plan {
    /// The plan of a node that knows of nothing yet.
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

    /// The ports of one Service, at a cost that follows its own ports.
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
    /// What names it within its family.
    pub fn key(&self) -> PortKey {
        (self.name.clone(), self.protocol)
    }

    /// Whether any frontend is reachable from outside the cluster.
    pub fn externally_accessible(&self) -> bool {
        self.node_port.is_some()
            || !self.external_ips.is_empty()
            || !self.load_balancer_ips.is_empty()
    }

    /// Whether any frontend uses Cluster policy. External frontends with Local policy count too:
    /// pods and the node itself reach them as if the policy were Cluster.
    pub fn uses_cluster_endpoints(&self) -> bool {
        !self.internal_local || self.externally_accessible()
    }

    /// Whether any frontend uses Local policy.
    pub fn uses_local_endpoints(&self) -> bool {
        self.internal_local || (self.external_local && self.externally_accessible())
    }

    /// What becomes of traffic to the cluster IP.
    pub fn internal_traffic(&self) -> Traffic {
        Self::traffic(self.has_any_endpoint, self.internal_local, &self.local)
    }

    /// What becomes of traffic from outside to the external frontends.
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

    /// Every frontend of the port: cluster IP, external IPs, load-balancer IPs, NodePort.
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

    /// All endpoints that this node may send to: the union of cluster and local, sorted.
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
