//! What the operator decides.

use std::net::Ipv4Addr;

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

impl NodePortAddresses {
    /// Whether NodePorts are asked for on IPv4 loopback addresses, as far as the setting goes:
    /// what decides, with `localhostNodePorts`, whether `route_localnet` is needed.
    pub fn contains_ipv4_loopback(&self) -> bool {
        let loopback = Ipv4Addr::LOCALHOST;
        match self {
            NodePortAddresses::All => true,
            NodePortAddresses::Primary => false,
            NodePortAddresses::Ranges(ranges) => {
                let mut v4 = ranges.iter().filter_map(|range| match range {
                    Cidr::V4(range) => Some(range),
                    Cidr::V6(_) => None,
                });
                // A family that no range is given for is not restricted.
                v4.clone().next().is_none()
                    || v4.any(|range| range.addr().is_loopback() || range.contains(&loopback))
            }
        }
    }
}
