//! The constant part of the table: its base chains, sets, and the rules that look into them.

use model::{Cidr, IpFamily};
use netfilter::nft::{Chain, CmpOp, Element, FibAddress, Rule, Value, Verdict};
use plan::NodeFacts;

use super::Options;
use super::names::SetId;
use super::pick::{PLAIN, REJECT};
use crate::nft_table::build::{Build, FRONTEND, Field, NODE_PORT};
use crate::nft_table::{base, reject};

/// The table's comment.
pub(super) const COMMENT: &str = "rules for kube-proxy, by sluice";

const SERVICES: &str = "services";
const CLUSTER_IP_SERVICES: &str = "cluster-ip-services";
const MASQUERADING: &str = "masquerading";
const NODE_PORT_CHECK: &str = "nodeport-endpoints-check";
/// The kernel runs nat chains for the first packet of a connection only. The one filter chain refuses
/// NodePorts without endpoints. It cannot be a nat chain: a nat chain that refuses the node's own connection
/// in `output` makes `connect` fail with EPERM in IPv6, and the kernel runs none for the packet that returns
/// through the loopback interface.
const JUMPS: [(&str, &[&str]); 6] = [
    (base::INPUT, &[NODE_PORT_CHECK]),
    (base::NAT_PREROUTING, &[SERVICES]),
    (base::NAT_OUTPUT, &[SERVICES]),
    (base::NAT_PREROUTING_LAST, &[]),
    (base::NAT_OUTPUT_LAST, &[]),
    (base::NAT_POSTROUTING, &[MASQUERADING]),
];

/// Base chains of sluice's layout before version 0.2, which repairs delete. They are kube-proxy's too.
pub(super) const FORMER_BASE: [&str; 4] = [
    base::PREROUTING_FIRST,
    base::OUTPUT_FIRST,
    base::FORWARD,
    base::OUTPUT,
];

/// Base chains that sluice's layout before version 0.2 lacks, which repairs add.
pub(super) const ADDED_BASE: [&str; 2] = [base::NAT_PREROUTING_LAST, base::NAT_OUTPUT_LAST];

/// Return the constant chains, except those that pick an endpoint.
pub(super) fn chains() -> Vec<Chain> {
    let plain = |name: &str, comment: Option<&str>| Chain {
        name: name.to_owned(),
        base: None,
        comment: comment.map(str::to_owned),
    };
    let others = [NODE_PORT_CHECK, SERVICES, CLUSTER_IP_SERVICES, MASQUERADING];
    base::chains(&JUMPS)
        .chain(others.into_iter().map(|name| plain(name, None)))
        .chain([plain(
            REJECT,
            Some("helper for @no-endpoint-services / @no-endpoint-nodeports"),
        )])
        .collect()
}

/// Return the rules of those chains.
///
/// If all cluster IPs are in the Service ranges (`in_ranges`), packets to other destinations pass the rules
/// of cluster IPs after one comparison for each range, which costs a fraction of a lookup.
pub(super) fn rules(
    family: IpFamily,
    options: &Options,
    node: &NodeFacts,
    in_ranges: bool,
) -> Vec<Rule> {
    let build = || Build::new(family);
    let mut rules = base::rules(family, &JUMPS);
    let ranges = Cidr::aggregate(&node.service_cidrs);
    let to_ranges: Vec<Build> = ranges
        .iter()
        .map(|range| build().in_range(false, CmpOp::Eq, range))
        .collect();
    match in_ranges {
        true => {
            let to_ranges = to_ranges.iter().cloned();
            rules.extend(to_ranges.map(|to| to.goto(CLUSTER_IP_SERVICES).rule(SERVICES)));
        }
        false => rules.push(build().jump(CLUSTER_IP_SERVICES).rule(SERVICES)),
    }
    rules.push(
        build()
            .verdict_map(&FRONTEND, SetId::ServiceIps)
            .rule(SERVICES),
    );
    let by_set = node.node_port_ips.is_some();
    let to_node_port = |build: Build| match by_set {
        true => build.member(&[Field::Daddr], SetId::NodePortIps),
        false => build.not_to_loopback(),
    };
    let local = match by_set {
        true => build(),
        false => build().if_local(FibAddress::Destination),
    };
    rules.push(
        to_node_port(local)
            .verdict_map(&NODE_PORT, SetId::ServiceNodePorts)
            .rule(SERVICES),
    );
    rules.push(
        to_node_port(build())
            .verdict_map(&NODE_PORT, SetId::NoEndpointNodePorts)
            .rule(NODE_PORT_CHECK),
    );
    rules.extend(masquerade_cluster_ips(family, options, node));
    rules.push(
        build()
            .member(&FRONTEND, SetId::ClusterIpPorts)
            .goto(&PLAIN.to_string())
            .rule(CLUSTER_IP_SERVICES),
    );
    if in_ranges {
        rules.push(
            build()
                .verdict_map(&FRONTEND, SetId::ServiceIps)
                .rule(CLUSTER_IP_SERVICES),
        );
    }
    for chain in [base::NAT_PREROUTING_LAST, base::NAT_OUTPUT_LAST] {
        // A commit while the packet passed the NAT chains may have hidden its Service from them.
        let overtaken = to_ranges.iter().cloned();
        rules.extend(overtaken.map(|to| to.jump(CLUSTER_IP_SERVICES).rule(chain)));
        rules.extend(check_cluster_ips(family, chain, &to_ranges, in_ranges));
    }
    rules.push(build().push(reject(family)).rule(REJECT));
    rules.extend(masquerading(family, options));
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
        .rule_with_comment(CLUSTER_IP_SERVICES, comment);
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

/// Return the rules for destinations among the Service ranges and cluster IPs to which no Service answers.
/// They follow the NAT chains of all programs, also of a kube-proxy whose table replaces this one at this moment.
/// What this node itself receives is not its matter, as in kube-proxy, whose rules are in the hooks
/// `forward` and `output`.
fn check_cluster_ips(
    family: IpFamily,
    chain: &str,
    to_ranges: &[Build],
    in_ranges: bool,
) -> Vec<Rule> {
    let forwarded = |build: Build| match chain {
        base::NAT_PREROUTING_LAST => build.if_not_local(FibAddress::Destination),
        _ => build,
    };
    let before = match in_ranges {
        true => to_ranges.to_vec(),
        false => vec![Build::new(family)],
    };
    let invalid = before.into_iter().map(|start| {
        forwarded(start.member(&[Field::Daddr], SetId::ClusterIps))
            .push(reject(family))
            .rule_with_comment(chain, "Reject traffic to invalid ports of ClusterIPs")
    });
    let unallocated = to_ranges.iter().cloned().map(|start| {
        forwarded(start)
            .verdict(Verdict::Drop)
            .rule_with_comment(chain, "Drop traffic to unallocated ClusterIPs")
    });
    invalid.chain(unallocated).collect()
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
    found.sort_unstable_by_key(|(set, e)| (*set, e.key, e.interval_end));
    found.dedup();
    found
}
