//! `loadBalancerSourceRanges`.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use model::IpFamily;
use netfilter::nft::{Element, Rule, Value, Verdict};
use plan::{NodeFacts, PortPlan};

use super::SetName;
use super::build::{Build, FRONTEND, Field};

/// Return the rule that drops connections to frontends in `ranged` from sources that are not in
/// `ranges`.
pub(crate) fn enforce_source_ranges<S: SetName>(
    family: IpFamily,
    ranged: S,
    ranges: S,
    chain: &str,
) -> Rule {
    let with_source = [Field::Daddr, Field::Protocol, Field::Dport, Field::Saddr];
    Build::new(family)
        .member(&FRONTEND, ranged)
        .not_member(&with_source, ranges)
        .verdict(Verdict::Drop)
        .rule(chain)
}

/// Return the sources that may use the frontend of this key, each a range after the key.
pub(crate) fn source_range_elements(key: Value, port: &PortPlan, node: &NodeFacts) -> Vec<Element> {
    let mut ranges = port.source_ranges.clone();
    let from_node = |node_ip: &IpAddr| ranges.iter().any(|range| range.contains(node_ip));
    // A node that connects to the load balancer's address may have it as its own, and then it is
    // also the source.
    if node.node_ip.as_ref().is_some_and(from_node) {
        ranges.extend(port.load_balancer_ips.iter().copied().map(IpNet::from));
    }
    let elements = disjoint(&ranges).into_iter().map(|range| Element {
        key_end: Some(Box::new(key.with_ip(range.broadcast()))),
        ..Element::key(key.with_ip(range.network()))
    });
    elements.collect()
}

/// Return the ranges without overlaps, which an interval set rejects.
fn disjoint(ranges: &[IpNet]) -> Vec<IpNet> {
    let v4: Vec<Ipv4Net> = ranges
        .iter()
        .filter_map(|r| match r {
            IpNet::V4(r) => Some(r.trunc()),
            IpNet::V6(_) => None,
        })
        .collect();
    let v6: Vec<Ipv6Net> = ranges
        .iter()
        .filter_map(|r| match r {
            IpNet::V6(r) => Some(r.trunc()),
            IpNet::V4(_) => None,
        })
        .collect();
    let v4 = Ipv4Net::aggregate(&v4).into_iter().map(IpNet::V4);
    let v6 = Ipv6Net::aggregate(&v6).into_iter().map(IpNet::V6);
    v4.chain(v6).collect()
}
