//! Flows to every frontend and to neighbouring addresses and ports, from every origin, with every
//! protocol.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use model::IpFamily;
use plan::Plan;

use crate::packet::{ICMP, ICMPV6, Packet, SCTP, TCP, UDP};
use crate::world::{NODE_ADDRESSES, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum From {
    Pod,
    /// A pod that is itself an endpoint of a Service.
    Endpoint(IpAddr),
    Node,
    /// The node, by its loopback address.
    Loopback,
    OtherNode,
    RemotePod,
    Outside,
    OutsideAllowed,
}

/// The three namespaces of a [`Fabric`](crate::fabric::Fabric).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Pods,
    Node,
    Outside,
}

impl From {
    /// The source of the packet of this number.
    pub(crate) fn source(self, number: u16, world: World) -> IpAddr {
        let last = 100 + number as u8;
        let ip = match self {
            From::Pod => [10, 244, 1, last],
            From::Endpoint(ip) => return ip,
            From::Node => NODE_ADDRESSES[0].octets(),
            From::Loopback => Ipv4Addr::LOCALHOST.octets(),
            From::OtherNode => [10, 200, 1, last],
            From::RemotePod => [10, 244, 2, last],
            From::Outside => [192, 0, 2, last],
            From::OutsideAllowed => [203, 0, 113, last],
        };
        world.address(ip.into())
    }

    /// The namespace from which its packets are sent.
    pub(crate) fn side(self) -> Side {
        match self {
            From::Pod | From::Endpoint(_) => Side::Pods,
            From::Node | From::Loopback => Side::Node,
            _ => Side::Outside,
        }
    }

    /// Whether all of its packets have the same source.
    pub(crate) fn is_one(self) -> bool {
        matches!(self, From::Node | From::Loopback | From::Endpoint(_))
    }
}

const EVERYWHERE: [From; 6] = [
    From::Pod,
    From::Node,
    From::OtherNode,
    From::RemotePod,
    From::Outside,
    From::OutsideAllowed,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Flow {
    pub(crate) from: From,
    pub(crate) protocol: u8,
    pub(crate) destination: SocketAddr,
}

impl Flow {
    /// Return the packet with a number; if the origin has many addresses, each number has its own.
    pub(crate) fn packet(&self, number: u16, world: World) -> Packet {
        let port = match self.protocol {
            ICMP | ICMPV6 => 0,
            _ => 10_000 + number,
        };
        Packet {
            protocol: self.protocol,
            source: SocketAddr::new(self.from.source(number, world), port),
            destination: self.destination,
        }
    }
}

pub(crate) fn flows(plan: &Plan, world: World) -> Vec<Flow> {
    let (frontends, endpoints) = frontends(plan, world);
    let mut flows = BTreeSet::new();
    let mut add = |from: &[From], protocols: &[u8], destination| {
        for from in from {
            for protocol in protocols {
                let (from, protocol) = (*from, *protocol);
                flows.insert(Flow {
                    from,
                    protocol,
                    destination,
                });
            }
        }
    };
    let ports = [TCP, UDP, SCTP];
    let icmp = match world.family() {
        IpFamily::V4 => ICMP,
        IpFamily::V6 => ICMPV6,
    };
    let hairpin: Vec<From> = endpoints.into_iter().map(From::Endpoint).collect();
    for frontend in &frontends {
        add(&EVERYWHERE, &ports, *frontend);
        add(&hairpin, &ports, *frontend);
        // A port that the Service lacks, and a protocol without ports.
        let undefined = SocketAddr::new(frontend.ip(), 81);
        add(&EVERYWHERE, &ports, undefined);
        add(&EVERYWHERE, &[icmp], SocketAddr::new(frontend.ip(), 0));
    }
    // NodePorts on the other addresses of the node.
    let node = world.address(NODE_ADDRESSES[0]);
    for port in frontends
        .iter()
        .filter(|f| f.ip() == node)
        .map(SocketAddr::port)
    {
        for ip in NODE_ADDRESSES {
            add(
                &EVERYWHERE,
                &ports,
                SocketAddr::new(world.address(ip), port),
            );
        }
        let loopback = world.address(Ipv4Addr::LOCALHOST);
        add(&[From::Loopback], &ports, SocketAddr::new(loopback, port));
    }
    for (ip, port) in [
        // Unallocated addresses of the Service range, and the first address after it.
        ([10, 96, 77, 77], 80),
        ([10, 96, 0, 0], 80),
        ([10, 111, 255, 255], 443),
        ([10, 112, 0, 0], 80),
        // Another proxy's Service.
        ([10, 96, 10, 16], 80),
        // A health check, no NodePort at all, another node's NodePort, and pods themselves.
        ([10, 200, 1, 2], 30_999),
        ([10, 200, 1, 2], 31_999),
        ([10, 200, 1, 9], 30_008),
        ([10, 244, 1, 11], 8_080),
        ([10, 244, 2, 11], 8_080),
    ] {
        let ip = world.address(ip.into());
        add(&EVERYWHERE, &ports, SocketAddr::new(ip, port));
        add(&EVERYWHERE, &[icmp], SocketAddr::new(ip, 0));
    }
    flows.into_iter().collect()
}

/// The frontends, NodePorts on the node's first address, and the endpoints on this node.
fn frontends(plan: &Plan, world: World) -> (BTreeSet<SocketAddr>, BTreeSet<IpAddr>) {
    let node = world.address(NODE_ADDRESSES[0]);
    let mut frontends = BTreeSet::new();
    let mut endpoints = BTreeSet::new();
    for port in plan.ports.values() {
        let all = port.frontends();
        frontends.extend(all.map(|f| SocketAddr::new(f.ip.unwrap_or(node), f.port.get())));
        let local = port.local.iter().chain(port.cluster.iter());
        let local = local.filter(|e| e.is_local && e.ip != node);
        endpoints.extend(local.map(|e| e.ip));
    }
    (frontends, endpoints)
}
