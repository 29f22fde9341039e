//! What the operator decides.

pub use model::{LocalTraffic, NodePortAddresses};

use model::Cidr;

/// The configuration that bears on what is planned; everything else is between a mode and its
/// kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The name of the node that is planned for.
    pub node_name: String,
    /// How traffic from this node's pods is told from traffic from elsewhere.
    pub local_traffic: LocalTraffic,
    /// Masquerade everything that goes to a cluster IP (`masqueradeAll`).
    pub masquerade_all: bool,
    /// Which of the node's addresses answer for NodePorts (`nodePortAddresses`).
    pub node_port_addresses: NodePortAddresses,
}

/// [`LocalTraffic`] resolved for one family on this node; a mode turns it into a match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalDetector {
    /// Nothing is known to be local: no "from outside" masquerading, no short cut for pods.
    None,
    /// Source address in this range.
    Source(Cidr),
    /// Came in through the interface of exactly this name.
    Interface(String),
    /// Came in through an interface whose name starts so.
    InterfacePrefix(String),
}
