//! What the operator decides.

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

/// `detectLocalMode` with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalTraffic {
    /// `ClusterCIDR`: source in one of these, at most one a family. A family without a range, or
    /// an empty list, tells nothing.
    ClusterCidr(Vec<Cidr>),
    /// `NodeCIDR`: source in the Node's own pod range of the family.
    NodeCidr,
    /// `BridgeInterface`: came in through this interface.
    BridgeInterface(String),
    /// `InterfaceNamePrefix`: came in through an interface with this prefix.
    InterfaceNamePrefix(String),
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

/// `nodePortAddresses`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// Every local address (unset, or a range of length 0).
    All,
    /// `primary`: the Node's InternalIP of each family.
    Primary,
    /// Local addresses in these ranges.
    Ranges(Vec<Cidr>),
}
