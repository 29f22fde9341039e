//! Services.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use ipnet::IpNet;

use crate::{NamespacedName, Protocol};

/// A Service, checked. Both families are in it; `plan` takes them apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: NamespacedName,
    /// `metadata.uid`, empty where the source gives none. Only for Events.
    pub uid: Box<str>,
    /// `spec.type`.
    pub service_type: ServiceType,
    /// `spec.clusterIPs` (or `spec.clusterIP`), at most one a family; empty for a headless Service.
    pub cluster_ips: Vec<IpAddr>,
    /// `clusterIP: None`, or the label `service.kubernetes.io/headless`.
    pub headless: bool,
    /// The label `service.kubernetes.io/service-proxy-name`: another proxy's business.
    pub proxy_name: Option<Box<str>>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.externalIPs`, both families, in the order given.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[]` that have an `ip`.
    pub ingress: Vec<IngressIp>,
    /// `status.loadBalancer.ingress[].hostname`.
    pub load_balancer_names: Box<[Box<str>]>,
    /// Whether `spec.selector` names pods; without, no controller makes EndpointSlices.
    pub has_selector: bool,
    /// `spec.loadBalancerSourceRanges`, both families, in the order given.
    pub source_ranges: Vec<IpNet>,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`.
    pub external_policy: TrafficPolicy,
    /// `spec.healthCheckNodePort`.
    pub health_check_node_port: Option<NonZeroU16>,
    /// `spec.sessionAffinity`.
    pub affinity: SessionAffinity,
}

/// `spec.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The API's own words.
pub enum ServiceType {
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

/// One of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `name`, empty where there is none.
    pub name: Arc<str>,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`.
    pub port: NonZeroU16,
    /// `nodePort`; absent and 0 are the same.
    pub node_port: Option<NonZeroU16>,
}

/// One of `status.loadBalancer.ingress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IngressIp {
    /// `ip`.
    pub ip: IpAddr,
    /// `ipMode`.
    pub mode: IpMode,
}

/// How a load balancer delivers (KEP-1860).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IpMode {
    /// To the node, destination unchanged; nodes answer for the address themselves.
    #[default]
    Vip,
    /// To the node or pod with the destination rewritten; nodes must not capture the address.
    Proxy,
}

/// `internalTrafficPolicy` and `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TrafficPolicy {
    /// Any endpoint in the cluster.
    #[default]
    Cluster,
    /// Only endpoints on the node where the packet is.
    Local,
}

/// `sessionAffinity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SessionAffinity {
    /// Every connection is balanced on its own.
    #[default]
    None,
    /// Connections from one client address keep to one endpoint.
    ClientIp {
        /// `sessionAffinityConfig.clientIP.timeoutSeconds`, 1 to 86400; 10800 where none is given.
        timeout_seconds: u32,
    },
}

/// A range from which cluster IPs are allocated (KEP-1880).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCidr {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `spec.cidrs`, at most one per family.
    pub cidrs: Vec<IpNet>,
}
