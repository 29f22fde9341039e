//! The addresses of a lab's cluster. All labs use the same ones, because they are isolated from each
//! other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use model::IpFamily;

/// Largest number of nodes that the addresses below allow.
pub const MAX_NODES: u8 = 100;

const fn v4(a: u8, b: u8, c: u8, d: u8, len: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), len))
}

const fn v6(segments: [u16; 8], len: u8) -> IpNet {
    let [a, b, c, d, e, f, g, h] = segments;
    IpNet::V6(Ipv6Net::new_assert(
        Ipv6Addr::new(a, b, c, d, e, f, g, h),
        len,
    ))
}

/// The Service CIDRs, kubeadm's default for IPv4.
pub const SERVICE_CIDRS: [IpNet; 2] = [
    v4(10, 96, 0, 0, 12),
    v6([0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0], 112),
];
/// All pods' addresses; each node has a /24 and a /64 of it.
pub const POD_CIDRS: [IpNet; 2] = [
    v4(10, 244, 0, 0, 16),
    v6([0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0], 48),
];
/// The network of the nodes; `.1` is the router.
pub const UNDERLAY: [IpNet; 2] = [
    v4(172, 18, 0, 0, 24),
    v6([0xfd00, 0x172, 0x18, 0, 0, 0, 0, 0], 64),
];
/// The network of the outside client (TEST-NET-3, RFC 5737); `.1` is the router.
pub const OUTSIDE: [IpNet; 2] = [
    v4(203, 0, 113, 0, 24),
    v6([0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0], 64),
];
/// The pool of load balancers' addresses (TEST-NET-2, RFC 5737).
pub const LOAD_BALANCERS: [IpNet; 2] = [
    v4(198, 51, 100, 0, 24),
    v6([0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0], 112),
];
/// The router's host number.
pub const ROUTER_HOST: u32 = 1;
/// The outside client's host numbers: it has two addresses of each family, so that one can be
/// inside a Service's source ranges and the other outside.
pub const CLIENT_HOSTS: [u32; 2] = [10, 20];

/// Return the family's index in the pairs above.
pub fn slot(family: IpFamily) -> usize {
    match family {
        IpFamily::V4 => 0,
        IpFamily::V6 => 1,
    }
}

/// Return the `host`th address of a network.
pub fn nth(net: IpNet, host: u32) -> IpAddr {
    match net {
        IpNet::V4(net) => Ipv4Addr::from(u32::from(net.network()).wrapping_add(host)).into(),
        IpNet::V6(net) => {
            Ipv6Addr::from(u128::from(net.network()).wrapping_add(u128::from(host))).into()
        }
    }
}

/// Return the number of addresses in a network, at most 2^16.
fn room(net: IpNet) -> u32 {
    let bits = net.max_prefix_len() - net.prefix_len();
    1 << bits.min(16)
}

/// Return a node's addresses, IPv4 first; `index` counts from 1.
pub fn node_ips(index: u8) -> [IpAddr; 2] {
    UNDERLAY.map(|net| nth(net, 10 + u32::from(index)))
}

/// Return the ranges of a node's pods, IPv4 first.
pub fn node_pod_cidrs(index: u8) -> [IpNet; 2] {
    let third = u16::from(index);
    [
        v4(10, 244, index, 0, 24),
        v6([0xfd00, 0x10, 0x244, third, 0, 0, 0, 0], 64),
    ]
}

/// Return the addresses of a pod on a node, IPv4 first.
pub fn pod_ips(node: u8, host: u8) -> [IpAddr; 2] {
    node_pod_cidrs(node).map(|net| nth(net, u32::from(host)))
}

/// Return the first free cluster IP. As in KEP-3070, the lower part of the range, here 256 addresses,
/// is reserved for explicit choices and assigned last.
pub fn free_cluster_ip(family: IpFamily, taken: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let net = SERVICE_CIDRS[slot(family)];
    (256..room(net) - 1)
        .chain(10..256)
        .map(|host| nth(net, host))
        .find(|&ip| !taken(ip))
}

/// Return the first free load-balancer address.
pub fn free_load_balancer_ip(family: IpFamily, taken: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let net = LOAD_BALANCERS[slot(family)];
    (1..room(net) - 1)
        .map(|host| nth(net, host))
        .find(|&ip| !taken(ip))
}

/// The NodePort range: upstream's default.
pub const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;

/// Return the first free NodePort. As in KEP-3668, the lowest 86 are reserved for explicit choices and
/// assigned last.
pub fn free_node_port(taken: impl Fn(u16) -> bool) -> Option<u16> {
    let (low, high) = NODE_PORTS.into_inner();
    (low + 86..=high)
        .chain(low..low + 86)
        .find(|&port| !taken(port))
}
