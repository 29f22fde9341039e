//! Services.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use ipnet::IpNet;

use crate::{NamespacedName, Protocol};

/// A checked Service of one or both families.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: NamespacedName,
    /// `metadata.uid`, empty if absent. Used for Events only.
    pub uid: Box<str>,
    /// `spec.type`.
    pub service_type: ServiceType,
    /// `spec.clusterIPs` (or `spec.clusterIP`), at most one per family; empty for a headless
    /// Service.
    pub cluster_ips: Vec<IpAddr>,
    /// `clusterIP: None`, or the label `service.kubernetes.io/headless`.
    pub headless: bool,
    /// The label `service.kubernetes.io/service-proxy-name`: another proxy serves it.
    pub proxy_name: Option<Box<str>>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.externalIPs`, both families, in their original order.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[]` that have an `ip`.
    pub ingress: Vec<IngressIp>,
    /// `status.loadBalancer.ingress[].hostname`.
    pub load_balancer_names: Box<[Box<str>]>,
    /// Whether `spec.selector` names pods; without, no controller makes EndpointSlices.
    pub has_selector: bool,
    /// `spec.loadBalancerSourceRanges`, both families, in their original order.
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

impl ServiceType {
    /// All types.
    pub const ALL: [Self; 4] = [
        Self::ClusterIp,
        Self::NodePort,
        Self::LoadBalancer,
        Self::ExternalName,
    ];

    /// Return the API's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalName => "ExternalName",
        }
    }
}

/// One of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `name`, empty if absent.
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

/// Delivery by a load balancer (KEP-1860).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IpMode {
    /// To the node with the destination unchanged; nodes answer for the address.
    #[default]
    Vip,
    /// To the node or pod with a rewritten destination; nodes must not capture the address.
    Proxy,
}

/// `internalTrafficPolicy` and `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TrafficPolicy {
    /// Any endpoint in the cluster.
    #[default]
    Cluster,
    /// Only endpoints on the node that handles the packet.
    Local,
}

/// `sessionAffinity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SessionAffinity {
    /// Every connection is balanced independently.
    #[default]
    None,
    /// Connections from one client address go to one endpoint.
    ClientIp {
        /// `sessionAffinityConfig.clientIP.timeoutSeconds`, 1 to 86400; default 10800.
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
