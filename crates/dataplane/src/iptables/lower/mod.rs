//! From the plan to rules.
//!
//! In three parts, since each is needed alone: rules that belong to no Service port ([`fixed`]), a
//! port's rules in the shared chains ([`dispatch`]), and a port's own chains ([`chains`]).

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

/// The number of endpoints above which comments are omitted (`largeClusterEndpointsThreshold`).
const LARGE_CLUSTER_ENDPOINTS: usize = 1000;

/// The inputs of a Service port's rules except the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Context<'a> {
    pub(super) family: IpFamily,
    pub(super) node: &'a NodeFacts,
    pub(super) options: &'a Options,
    /// Whether the cluster is large, so that rules between chains have no comments.
    pub(super) large: bool,
}

/// Whether a cluster with this number of endpoints is large.
pub(super) fn is_large(endpoint_count: usize) -> bool {
    endpoint_count > LARGE_CLUSTER_ENDPOINTS
}

impl Context<'_> {
    /// Whether NodePorts answer on loopback addresses; in IPv6 they never do.
    fn localhost_node_ports(&self) -> bool {
        self.options.localhost_node_ports && self.family == IpFamily::V4
    }

    /// The header condition for traffic of this node's pods, or for all other traffic; `None` if
    /// local traffic is not detected.
    fn local_traffic(&self, negated: bool) -> Option<Header> {
        crate::terms::local_traffic(&self.node.local, negated)
    }
}

fn protocol(protocol: model::Protocol) -> Option<Negatable<Protocol>> {
    Some(Negatable::is(Protocol(protocol.number())))
}
