//! Settings of the operator.

pub use model::{LocalTraffic, NodePortAddresses};

use model::Cidr;

/// The configuration that affects the plan. Modes receive their own options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name of this node.
    pub node_name: String,
    /// Detection of traffic from this node's pods.
    pub local_traffic: LocalTraffic,
    /// Masquerade all traffic to cluster IPs (`masqueradeAll`).
    pub masquerade_all: bool,
    /// Local addresses that answer for NodePorts (`nodePortAddresses`).
    pub node_port_addresses: NodePortAddresses,
}

/// [`LocalTraffic`] resolved for one family on this node; a mode turns it into a match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalDetector {
    /// Local traffic is not detected: no masquerading of external traffic, no shortcut for pods.
    None,
    /// Source address in this range.
    Source(Cidr),
    /// Arrived on the interface with this name.
    Interface(String),
    /// Arrived on an interface with this prefix.
    InterfacePrefix(String),
}
