//! Namespaces and the links between them.
//!
//! ```text
//!  client ── 203.0.113.0/24 ── router ── bridge, 172.18.0.0/24 ─┬─ node1 ── pods 10.244.1.0/24
//!                                                               ├─ node2 ── pods 10.244.2.0/24
//!                                                               └─ node3 ── pods 10.244.3.0/24
//! ```
//! Pods are routed, each over a veth pair to its node with 169.254.1.1 and fe80::1 as the next hop.
//! So packets between two pods of one node pass the node's netfilter hooks too, without br_netfilter.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use ipnet::IpNet;
use kernel::link::{MacAddress, Route, RtNetlink, VethEnd};
use kernel::netns::NetNs;

use crate::control::address::{
    CLIENT_HOSTS, LOAD_BALANCERS, OUTSIDE, ROUTER_HOST, UNDERLAY, node_pod_cidrs, nth,
};
use crate::control::{Cluster, Node, Pod, PodId};
use crate::names::{LabName, veth};

/// The node's end of every pod's veth pair. All can share one address, because each link has only
/// one neighbour.
const GATEWAY_MAC: MacAddress = [0xee; 6];
/// A pod's next hop. No interface has this address; a permanent neighbour entry resolves it.
const GATEWAYS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
];
const EVERYWHERE: [IpNet; 2] = [
    IpNet::V4(ipnet::Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
    IpNet::V6(ipnet::Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
];

/// Create router, client and nodes.
pub(crate) fn raise(lab: &LabName, cluster: &Cluster) -> Result<()> {
    let router = namespace(&lab.router(), true)?;
    let mut at_router = RtNetlink::open_in(&router)?;
    at_router.add_bridge("underlay")?;
    let bridge = at_router.index("underlay")?;
    at_router.set_up(bridge, true)?;
    for net in UNDERLAY {
        at_router.add_address(bridge, host(net, ROUTER_HOST)?)?;
    }
    add_client(lab, &router, &mut at_router)?;
    for (name, node) in &cluster.nodes {
        add_node(lab, &router, &mut at_router, bridge, (name, node), cluster)
            .with_context(|| format!("creating node {name}"))?;
    }
    Ok(())
}

fn add_client(lab: &LabName, router: &NetNs, at_router: &mut RtNetlink) -> Result<()> {
    let client = namespace(&lab.client(), false)?;
    let mut at_client = RtNetlink::open_in(&client)?;
    let index = pair(&mut at_client, "eth0", router, "client")?;
    let port = at_router.index("client")?;
    at_router.set_up(port, true)?;
    for (net, everywhere) in OUTSIDE.into_iter().zip(EVERYWHERE) {
        at_router.add_address(port, host(net, ROUTER_HOST)?)?;
        for number in CLIENT_HOSTS {
            at_client.add_address(index, host(net, number)?)?;
        }
        let route = Route {
            // The client's source address by default.
            source: Some(nth(net, CLIENT_HOSTS[0])),
            interface: Some(index),
            ..Route::via(everywhere, nth(net, ROUTER_HOST))
        };
        at_client.replace_route(route)?;
    }
    Ok(())
}

fn add_node(
    lab: &LabName,
    router: &NetNs,
    at_router: &mut RtNetlink,
    bridge: u32,
    (name, node): (&str, &Node),
    cluster: &Cluster,
) -> Result<()> {
    let ns = namespace(&lab.node(name), true)?;
    let mut at_node = RtNetlink::open_in(&ns)?;
    let port_name = format!("node{}", node.index);
    let index = pair(&mut at_node, "eth0", router, &port_name)?;
    let port = at_router.index(&port_name)?;
    at_router.set_controller(port, bridge)?;
    at_router.set_up(port, true)?;
    for (slot, (net, everywhere)) in UNDERLAY.into_iter().zip(EVERYWHERE).enumerate() {
        let ip = node.ips()[slot];
        at_node.add_address(index, IpNet::new(ip, net.prefix_len())?)?;
        at_node.replace_route(Route::via(everywhere, nth(net, ROUTER_HOST)))?;
        for other in cluster
            .nodes
            .values()
            .filter(|other| other.index != node.index)
        {
            let pods = node_pod_cidrs(other.index)[slot];
            at_node.replace_route(Route::via(pods, other.ips()[slot]))?;
        }
        let own = node_pod_cidrs(node.index)[slot];
        // An address without a pod is rejected instead of looping between node and router.
        at_node.replace_route(Route::unreachable(own))?;
        at_router.replace_route(Route::via(own, ip))?;
    }
    Ok(())
}

/// Route a load balancer's address to a node.
pub(crate) fn announce(at_router: &mut RtNetlink, address: IpAddr, node: &Node) -> Result<()> {
    let next_hop = node
        .ips()
        .into_iter()
        .find(|ip| ip.is_ipv4() == address.is_ipv4());
    if let Some(next_hop) = next_hop {
        at_router.replace_route(Route::via(IpNet::from(address), next_hop))?;
    }
    Ok(())
}

/// Route the whole pool of load balancers' addresses to a node.
pub(crate) fn announce_pool(at_router: &mut RtNetlink, node: &Node) -> Result<()> {
    for (net, next_hop) in LOAD_BALANCERS.into_iter().zip(node.ips()) {
        at_router.replace_route(Route::via(net, next_hop))?;
    }
    Ok(())
}

/// Create a pod's namespace and connect it to the node.
pub(crate) fn add_pod(lab: &LabName, id: PodId, pod: &Pod) -> Result<()> {
    let ns = namespace(&lab.pod(id, pod), false)?;
    let node = NetNs::open(&lab.node(&pod.node))?;
    let mut at_pod = RtNetlink::open_in(&ns)?;
    let mut at_node = RtNetlink::open_in(&node)?;
    let name = veth(id);
    at_pod.add_veth(
        VethEnd {
            name: "eth0",
            netns: None,
            mac: None,
        },
        VethEnd {
            name: &name,
            netns: Some(&node),
            mac: Some(GATEWAY_MAC),
        },
    )?;
    let inside = at_pod.index("eth0")?;
    let outside = at_node.index(&name)?;
    at_node.set_up(outside, true)?;
    at_pod.set_up(inside, true)?;
    for ((ip, gateway), everywhere) in pod.ips.into_iter().zip(GATEWAYS).zip(EVERYWHERE) {
        at_pod.add_address(inside, IpNet::from(ip))?;
        at_pod.replace_neighbour(inside, gateway, GATEWAY_MAC)?;
        at_pod.replace_route(Route {
            interface: Some(inside),
            onlink: true,
            ..Route::via(everywhere, gateway)
        })?;
        at_node.replace_route(Route::on_link(IpNet::from(ip), outside))?;
    }
    Ok(())
}

/// Make a pod's node drop all packets to the pod, without an answer.
pub(crate) fn silence_pod(lab: &LabName, pod: &Pod) -> Result<()> {
    let mut at_node = RtNetlink::open_in(&NetNs::open(&lab.node(&pod.node))?)?;
    for ip in pod.ips {
        at_node.replace_route(Route::blackhole(IpNet::from(ip)))?;
    }
    Ok(())
}

/// Delete a pod's links, and with them the routes to it.
pub(crate) fn disconnect_pod(lab: &LabName, id: PodId, pod: &Pod) -> Result<()> {
    let mut at_node = RtNetlink::open_in(&NetNs::open(&lab.node(&pod.node))?)?;
    if let Some(link) = at_node.link(&veth(id))? {
        at_node.delete_link(link.index)?;
    }
    Ok(())
}

/// Create a veth pair from the namespace of a socket to another one, set the near end up, and
/// return its index.
fn pair(near: &mut RtNetlink, name: &str, far: &NetNs, far_name: &str) -> Result<u32> {
    near.add_veth(
        VethEnd {
            name,
            netns: None,
            mac: None,
        },
        VethEnd {
            name: far_name,
            netns: Some(far),
            mac: None,
        },
    )?;
    let index = near.index(name)?;
    near.set_up(index, true)?;
    Ok(index)
}

fn host(net: IpNet, number: u32) -> Result<IpNet> {
    Ok(IpNet::new(nth(net, number), net.prefix_len())?)
}

/// Create a namespace with loopback up and the sysctls that the lab needs.
fn namespace(name: &str, forwards: bool) -> Result<NetNs> {
    let ns = NetNs::create(name)?;
    ns.run(|| set_sysctls(forwards))??;
    let mut socket = RtNetlink::open_in(&ns)?;
    let lo = socket.index("lo")?;
    socket.set_up(lo, true)?;
    Ok(ns)
}

/// New namespaces inherit some of these from the host's.
fn set_sysctls(forwards: bool) -> Result<()> {
    let forward = if forwards { "1" } else { "0" };
    let settings = [
        // Replies may leave through another link than the one that packets arrive on.
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv4/conf/all/forwarding", forward),
        ("ipv4/conf/default/forwarding", forward),
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/default/send_redirects", "0"),
        ("ipv6/conf/all/disable_ipv6", "0"),
        ("ipv6/conf/default/disable_ipv6", "0"),
        ("ipv6/conf/all/forwarding", forward),
        ("ipv6/conf/default/accept_ra", "0"),
        // Addresses are usable immediately.
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/dad_transmits", "0"),
    ];
    for (key, value) in settings {
        let path = format!("/proc/sys/net/{key}");
        std::fs::write(&path, value).with_context(|| format!("writing {value} to {path}"))?;
    }
    Ok(())
}
