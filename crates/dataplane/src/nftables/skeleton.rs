//! The constant part of the table: its base chains, sets, and the rules that look into them.

use std::net::IpAddr;

use model::{Cidr, IpFamily};
use netfilter::nft::{Chain, CmpOp, Element, FibAddress, Rule, Value, Verdict};
use plan::NodeFacts;

use super::Options;
use super::names::SetId;
use super::pick;
use crate::nft_table::build::{Build, FRONTEND, Field, NODE_PORT};
use crate::nft_table::{base, enforce_source_ranges, reject};

/// The table's comment.
pub(super) const COMMENT: &str = "rules for kube-proxy, by sluice";

const FIREWALL_CHECK: &str = "firewall-check";
const NODE_PORT_CHECK: &str = "nodeport-endpoints-check";
const SERVICE_CHECK: &str = "service-endpoints-check";
const CLUSTER_IPS_CHECK: &str = "cluster-ips-check";
const SERVICES: &str = "services";
const MASQUERADING: &str = "masquerading";
/// The chain of frontends without endpoints.
pub(super) const REJECT: &str = "reject-chain";

const JUMPS: [(&str, &[&str]); 8] = [
    (base::PREROUTING_FIRST, &[FIREWALL_CHECK]),
    (base::OUTPUT_FIRST, &[FIREWALL_CHECK]),
    (base::INPUT, &[NODE_PORT_CHECK, SERVICE_CHECK]),
    (base::FORWARD, &[SERVICE_CHECK, CLUSTER_IPS_CHECK]),
    (base::OUTPUT, &[SERVICE_CHECK, CLUSTER_IPS_CHECK]),
    (base::NAT_PREROUTING, &[SERVICES]),
    (base::NAT_OUTPUT, &[SERVICES]),
    (base::NAT_POSTROUTING, &[MASQUERADING]),
];

/// Return the constant chains, except those that pick an endpoint.
pub(super) fn chains() -> Vec<Chain> {
    let plain = |name: &str, comment: Option<&str>| Chain {
        name: name.to_owned(),
        base: None,
        comment: comment.map(str::to_owned),
    };
    let others = [
        NODE_PORT_CHECK,
        SERVICE_CHECK,
        FIREWALL_CHECK,
        SERVICES,
        MASQUERADING,
        CLUSTER_IPS_CHECK,
    ];
    base::chains(&JUMPS)
        .chain(others.into_iter().map(|name| plain(name, None)))
        .chain([plain(
            REJECT,
            Some("helper for @no-endpoint-services / @no-endpoint-nodeports"),
        )])
        .collect()
}

/// Return the rules of those chains.
pub(super) fn rules(family: IpFamily, options: &Options, node: &NodeFacts) -> Vec<Rule> {
    let build = || Build::new(family);
    let mut rules = base::rules(family, &JUMPS);
    let node_ports_by_set = node.node_port_ips.is_some();
    let to_node_port = |build: Build| {
        if node_ports_by_set {
            build.member(&[Field::Daddr], SetId::NodePortIps)
        } else {
            build.not_to_loopback()
        }
    };
    rules.push(
        to_node_port(build())
            .verdict_map(&NODE_PORT, SetId::NoEndpointNodePorts)
            .rule(NODE_PORT_CHECK),
    );
    rules.push(
        build()
            .verdict_map(&FRONTEND, SetId::NoEndpointServices)
            .rule(SERVICE_CHECK),
    );
    rules.push(enforce_source_ranges(
        family,
        SetId::SourceRanged,
        SetId::SourceRanges,
        FIREWALL_CHECK,
    ));
    rules.extend(masquerade_cluster_ips(family, options, node));
    rules.push(
        build()
            .member(&FRONTEND, SetId::ClusterIpPorts)
            .goto(&pick::PLAIN.to_string())
            .rule(SERVICES),
    );
    rules.push(
        build()
            .verdict_map(&FRONTEND, SetId::ServiceIps)
            .rule(SERVICES),
    );
    let local = if node_ports_by_set {
        build()
    } else {
        build().if_local(FibAddress::Destination)
    };
    rules.push(
        to_node_port(local)
            .verdict_map(&NODE_PORT, SetId::ServiceNodePorts)
            .rule(SERVICES),
    );
    rules.extend(masquerading(family, options));
    rules.extend(cluster_ips_check(family));
    rules
}

/// Return the rule that masquerades connections to cluster IPs from outside, if it is configured. A static
/// route for the Service range can lead to any node, which may then forward the packet to
/// another node: the reply must return through the same node.
fn masquerade_cluster_ips(family: IpFamily, options: &Options, node: &NodeFacts) -> Option<Rule> {
    let build = Build::new(family);
    let (build, comment) = if node.masquerade_all {
        (build, "masquerade all clusterIP traffic")
    } else {
        // Pods skip the rest of the rule.
        let comment = "masquerade clusterIP traffic from outside cluster";
        (build.source_is_pod(CmpOp::Neq, &node.local)?, comment)
    };
    let rule = build
        .member(&[Field::Daddr], SetId::ClusterIps)
        .add_to_mark(options.masquerade_mark())
        .rule_with_comment(SERVICES, comment);
    Some(rule)
}

fn masquerading(family: IpFamily, options: &Options) -> [Rule; 2] {
    let mark = options.masquerade_mark();
    let fields = [Field::Saddr, Field::Daddr, Field::Protocol, Field::Dport];
    [
        Build::new(family)
            .if_marked(mark)
            .flip_in_mark(mark)
            .masquerade()
            .rule(MASQUERADING),
        Build::new(family)
            .if_dnat()
            .member(&fields, SetId::Hairpin)
            .masquerade()
            .rule(MASQUERADING),
    ]
}

fn cluster_ips_check(family: IpFamily) -> [Rule; 3] {
    let reject = reject(family);
    [
        Build::new(family)
            .member(&[Field::Daddr], SetId::ClusterIps)
            .push(reject.clone())
            .rule_with_comment(
                CLUSTER_IPS_CHECK,
                "Reject traffic to invalid ports of ClusterIPs",
            ),
        Build::new(family)
            .member(&[Field::Daddr], SetId::ServiceCidrs)
            .verdict(Verdict::Drop)
            .rule_with_comment(CLUSTER_IPS_CHECK, "Drop traffic to unallocated ClusterIPs"),
        Build::new(family).push(reject).rule(REJECT),
    ]
}

/// Return the elements that depend on the node.
pub(super) fn node_elements(node: &NodeFacts) -> Vec<(SetId, Element)> {
    let mut found = Vec::new();
    for ip in node.node_port_ips.iter().flatten() {
        // NodePorts never answer on loopback by rules: replies would be martian.
        if !ip.is_loopback() {
            found.push((SetId::NodePortIps, Element::key(Value::ip(*ip))));
        }
    }
    for range in Cidr::aggregate(&node.service_cidrs) {
        let start = Element::key(Value::ip(range.network()));
        match next_address(range.broadcast()) {
            Some(end) => {
                found.push((SetId::ServiceCidrs, start));
                let end = Element {
                    interval_end: true,
                    ..Element::key(Value::ip(end))
                };
                found.push((SetId::ServiceCidrs, end));
            }
            None => {
                let open_end = true;
                found.push((SetId::ServiceCidrs, Element { open_end, ..start }));
            }
        }
    }
    found.sort_unstable_by_key(|(set, e)| (*set, e.key, e.interval_end));
    found.dedup();
    found
}

fn next_address(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).checked_add(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(ip) => u128::from(ip).checked_add(1).map(|n| IpAddr::V6(n.into())),
    }
}
