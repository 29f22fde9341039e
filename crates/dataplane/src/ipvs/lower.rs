//! The pieces of a Service port.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use model::{IpFamily, Protocol};
use netfilter::ipvs::{self, ServiceId};
use plan::{Endpoint, NodeFacts, PortPlan};

use super::sets::{Member, SetKind};

/// The inputs of the pieces except the port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Context {
    pub(super) node_ip: Option<IpAddr>,
    /// The addresses of the node's interfaces except [`DEVICE`](super::DEVICE), to which an external
    /// address of the node is not added.
    pub(super) interface_ips: BTreeSet<IpAddr>,
    /// The addresses that have a virtual server for each NodePort.
    pub(super) node_port_ips: Vec<IpAddr>,
}

impl Context {
    pub(super) fn new(family: IpFamily, node: &NodeFacts, addresses: &[IpAddr]) -> Self {
        let usable = |ip: &IpAddr| {
            let link_local = match ip {
                IpAddr::V4(_) => false,
                IpAddr::V6(ip) => ip.is_unicast_link_local(),
            };
            IpFamily::of(*ip) == family && !ip.is_loopback() && !link_local
        };
        let interface_ips: BTreeSet<IpAddr> = addresses.iter().copied().filter(usable).collect();
        let node_port_ips: BTreeSet<IpAddr> = match &node.node_port_ips {
            None => interface_ips.clone(),
            Some(ips) => ips.iter().copied().filter(|ip| !ip.is_loopback()).collect(),
        };
        Self {
            node_ip: node.node_ip,
            interface_ips,
            node_port_ips: node_port_ips.into_iter().collect(),
        }
    }
}

/// A piece that several Service ports may own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Item {
    /// An address of `kube-ipvs0`.
    Address(IpAddr),
    /// An element of a set.
    Member(SetKind, Member),
    /// A load-balancer address that the node itself must not reach, since its address is in none of
    /// the source ranges.
    NoNodeAccess(IpAddr, Protocol, u16),
}

/// The traffic for which a virtual server balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Internal,
    External,
}

/// A piece of a Service port.
#[derive(Clone, Copy, Debug)]
pub(super) enum Piece {
    Item(Item),
    Server(ServiceId, Role),
}

pub(super) fn server_id(protocol: Protocol, ip: IpAddr, port: u16) -> ServiceId {
    ServiceId::Address {
        protocol: match protocol {
            Protocol::Tcp => ipvs::Protocol::Tcp,
            Protocol::Udp => ipvs::Protocol::Udp,
            Protocol::Sctp => ipvs::Protocol::Sctp,
        },
        address: SocketAddr::new(ip, port),
    }
}

impl Role {
    /// Return the endpoints of a virtual server. Local policy falls back to the whole cluster's endpoints if
    /// this node has none: pods and the node itself must reach the Service, and IPVS cannot
    /// distinguish them from other clients (kubernetes/kubernetes 97081).
    pub(super) fn endpoints(self, port: &PortPlan) -> &Arc<[Endpoint]> {
        let local = match self {
            Role::Internal => port.internal_local,
            Role::External => port.external_local,
        };
        if local && !port.local.is_empty() {
            &port.local
        } else {
            &port.cluster
        }
    }
}

/// Pass every piece of a port to `each`.
pub(super) fn pieces(port: &PortPlan, context: &Context, each: &mut dyn FnMut(Piece)) {
    let protocol = port.protocol;
    let number = port.port.get();
    hairpin(port, each);
    let mut member = |kind, member| each(Piece::Item(Item::Member(kind, member)));
    member(
        SetKind::ClusterIp,
        Member::IpPort(port.cluster_ip, protocol, number),
    );
    for ip in &port.external_ips {
        let kind = if port.external_local {
            SetKind::ExternalIpLocal
        } else {
            SetKind::ExternalIp
        };
        member(kind, Member::IpPort(*ip, protocol, number));
    }
    for ip in &port.load_balancer_ips {
        let element = Member::IpPort(*ip, protocol, number);
        member(SetKind::LoadBalancer, element);
        if port.external_local {
            member(SetKind::LoadBalancerLocal, element);
        }
    }
    // As in kube-proxy, a NodePort without an address to answer on also omits the health check.
    let unreachable = port.node_port.is_some() && context.node_port_ips.is_empty();
    if let Some(check) = port.health_check_node_port.filter(|_| !unreachable) {
        member(SetKind::HealthCheckNodePort, Member::Port(check.get()));
    }
    each(Piece::Server(
        server_id(protocol, port.cluster_ip, number),
        Role::Internal,
    ));
    address(port.cluster_ip, each);
    for ip in port.external_ips.iter().chain(&port.load_balancer_ips) {
        each(Piece::Server(
            server_id(protocol, *ip, number),
            Role::External,
        ));
        if !context.interface_ips.contains(ip) {
            address(*ip, each);
        }
    }
    source_ranges(port, context, each);
    node_port(port, context, each);
}

/// A pod that reaches itself through its Service must see another source than its own address. As in
/// kube-proxy, every endpoint of this node has an element, in any condition.
fn hairpin(port: &PortPlan, each: &mut dyn FnMut(Piece)) {
    for e in port.on_node.iter() {
        let element = Member::IpPortIp(e.ip, port.protocol, e.port, e.ip);
        each(Piece::Item(Item::Member(SetKind::LoopBack, element)));
    }
}

/// An address of the device, which is also in the set that protects it.
fn address(ip: IpAddr, each: &mut dyn FnMut(Piece)) {
    each(Piece::Item(Item::Address(ip)));
    each(Piece::Item(Item::Member(SetKind::IpvsIps, Member::Ip(ip))));
}

fn source_ranges(port: &PortPlan, context: &Context, each: &mut dyn FnMut(Piece)) {
    if port.source_ranges.is_empty() {
        return;
    }
    let (protocol, number) = (port.protocol, port.port.get());
    let mut item = |item| each(Piece::Item(item));
    for ip in port.load_balancer_ips.iter().copied() {
        item(Item::Member(
            SetKind::LoadBalancerFw,
            Member::IpPort(ip, protocol, number),
        ));
        let mut from_node = false;
        for range in &port.source_ranges {
            // Never a prefix of length 0, which a set could not store: the plan omits it.
            let element = Member::IpPortNet(ip, protocol, number, range.trunc());
            item(Item::Member(SetKind::LoadBalancerSourceCidr, element));
            from_node |= context.node_ip.is_some_and(|ip| range.contains(&ip));
        }
        // A connection from the node itself also has the virtual address as its source.
        item(if from_node {
            let element = Member::IpPortIp(ip, protocol, number, ip);
            Item::Member(SetKind::LoadBalancerSourceIp, element)
        } else {
            Item::NoNodeAccess(ip, protocol, number)
        });
    }
}

fn node_port(port: &PortPlan, context: &Context, each: &mut dyn FnMut(Piece)) {
    let Some(number) = port.node_port.map(std::num::NonZeroU16::get) else {
        return;
    };
    if context.node_port_ips.is_empty() {
        return;
    }
    let protocol = port.protocol;
    let (all, local) = match protocol {
        Protocol::Tcp => (SetKind::NodePortTcp, SetKind::NodePortLocalTcp),
        Protocol::Udp => (SetKind::NodePortUdp, SetKind::NodePortLocalUdp),
        Protocol::Sctp => (SetKind::NodePortSctp, SetKind::NodePortLocalSctp),
    };
    let mut member = |element| {
        each(Piece::Item(Item::Member(all, element)));
        if port.external_local {
            each(Piece::Item(Item::Member(local, element)));
        }
    };
    match protocol {
        Protocol::Tcp | Protocol::Udp => member(Member::Port(number)),
        Protocol::Sctp => {
            for ip in &context.node_port_ips {
                member(Member::IpPort(*ip, protocol, number));
            }
        }
    }
    for ip in &context.node_port_ips {
        let id = server_id(protocol, *ip, number);
        each(Piece::Server(id, Role::External));
    }
}
