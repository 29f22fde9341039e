//! Nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// A Node, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.uid`, empty if absent. Used for Events only.
    pub uid: Box<str>,
    /// `status.addresses` that are IP addresses, in their original order.
    pub addresses: Vec<NodeAddress>,
    /// `spec.podCIDRs` (or `spec.podCIDR`).
    pub pod_cidrs: Vec<IpNet>,
    /// The labels that topology decisions need.
    pub topology: TopologyLabels,
    /// Whether the Node is being deleted or has the taint `ToBeDeletedByClusterAutoscaler`;
    /// `/healthz` then answers 503 (KEP-3836).
    pub deleting: bool,
}

/// Topology labels such as `topology.kubernetes.io/zone`, with their values.
pub type TopologyLabels = BTreeMap<Arc<str>, Arc<str>>;

/// One of `status.addresses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// `type`.
    pub kind: NodeAddressType,
    /// `address`.
    pub ip: IpAddr,
}

/// `type` of an address that is an IP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The API's own words.
pub enum NodeAddressType {
    InternalIp,
    ExternalIp,
}
