//! From the plan to rules.
//!
//! Split three ways, since each is needed alone: what does not belong to any Service port
//! ([`fixed`]), a port's rules in chains that all share ([`dispatch`]), and a port's own chains
//! ([`chains`]).

mod chains;
mod dispatch;
mod fixed;
mod port;

use model::IpFamily;
use netfilter::iptables::{Header, Negatable, Protocol};
use plan::NodeFacts;

use super::Options;

pub(super) use crate::terms::rule_family;
use crate::terms::{comment, simple};
pub(super) use fixed::{chains as fixed_chains, services_tail};
pub(super) use port::Port;

/// From how many endpoints on comments are left out (`largeClusterEndpointsThreshold`).
const LARGE_CLUSTER_ENDPOINTS: usize = 1000;

/// What the rules of every Service port depend on beside the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Context<'a> {
    pub(super) family: IpFamily,
    pub(super) node: &'a NodeFacts,
    pub(super) options: &'a Options,
    /// So many endpoints that comments on rules between chains are left out.
    pub(super) large: bool,
}

/// Whether a cluster with so many endpoints is large.
pub(super) fn is_large(endpoint_count: usize) -> bool {
    endpoint_count > LARGE_CLUSTER_ENDPOINTS
}

impl Context<'_> {
    /// Whether NodePorts answer on loopback addresses; in IPv6 they never do.
    fn localhost_node_ports(&self) -> bool {
        self.options.localhost_node_ports && self.family == IpFamily::V4
    }

    /// The header condition for traffic of this node's pods, or for all but it; `None` where it
    /// cannot be told.
    fn local_traffic(&self, negated: bool) -> Option<Header> {
        crate::terms::local_traffic(&self.node.local, negated)
    }
}

fn protocol(protocol: model::Protocol) -> Option<Negatable<Protocol>> {
    Some(Negatable::is(Protocol(protocol.number())))
}
