//! Settings that the configuration states and the plan applies.

use std::net::Ipv4Addr;

use crate::Cidr;

/// How traffic from this node's pods is recognised: `detectLocalMode` and its parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalTraffic {
    /// `ClusterCIDR`: source in one of these, at most one per family. In a family without a range,
    /// local traffic is not detected.
    ClusterCidr(Vec<Cidr>),
    /// `NodeCIDR`: source in the Node's own pod range of the family.
    NodeCidr,
    /// `BridgeInterface`: arrived on this interface.
    BridgeInterface(String),
    /// `InterfaceNamePrefix`: arrived on an interface with this prefix.
    InterfaceNamePrefix(String),
}

/// The local addresses that answer for NodePorts: `nodePortAddresses`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// Every local address (unset, or a range of length 0).
    All,
    /// `primary`: the Node's InternalIP of each family.
    Primary,
    /// Local addresses in these ranges. A family without a range is unrestricted.
    Ranges(Vec<Cidr>),
    /// `primary` together with ranges. A family without a range has its primary address only.
    PrimaryAnd(Vec<Cidr>),
}

impl NodePortAddresses {
    /// Return whether the setting includes IPv4 loopback addresses. Together with
    /// `localhostNodePorts` this decides whether `route_localnet` is needed.
    pub fn contains_ipv4_loopback(&self) -> bool {
        let mut v4 = self.ranges().iter().filter_map(|range| match range {
            Cidr::V4(range) => Some(range),
            Cidr::V6(_) => None,
        });
        match self {
            NodePortAddresses::All => true,
            NodePortAddresses::Ranges(_) if v4.clone().next().is_none() => true,
            _ => v4.any(|range| range.addr().is_loopback() || range.contains(&Ipv4Addr::LOCALHOST)),
        }
    }

    /// Return the address ranges of the setting.
    pub fn ranges(&self) -> &[Cidr] {
        match self {
            NodePortAddresses::All | NodePortAddresses::Primary => &[],
            NodePortAddresses::Ranges(ranges) | NodePortAddresses::PrimaryAnd(ranges) => ranges,
        }
    }
}
