//! The constant part of the table.

use netfilter::nft::{Chain, CmpOp, Element, Expr, FibAddress, Reg, Rule, Value, Verdict};

use model::IpFamily;
use plan::NodeFacts;

use super::Options;
use super::elements::Placed;
use super::names::{REJECT, SetId};
use crate::nft_table::build::{Build, FRONTEND, Field, NODE_PORT, address_len};
use crate::nft_table::{base, enforce_source_ranges, reject};

/// The table's comment.
pub(super) const COMMENT: &str = "redirects Services to sluice's relay";

const FIREWALL: &str = "firewall";
const GUARD: &str = "guard";
const NO_ENDPOINTS: &str = "no-endpoints-check";
const SERVICES: &str = "services";
const OWN_SERVICES: &str = "own-services";

const JUMPS: [(&str, &[&str]); 7] = [
    (base::PREROUTING_FIRST, &[FIREWALL]),
    (base::OUTPUT_FIRST, &[FIREWALL]),
    (base::INPUT, &[GUARD, NO_ENDPOINTS]),
    (base::FORWARD, &[NO_ENDPOINTS]),
    (base::OUTPUT, &[NO_ENDPOINTS]),
    (base::NAT_PREROUTING, &[SERVICES]),
    (base::NAT_OUTPUT, &[OWN_SERVICES]),
];

/// Return the chains.
pub(super) fn chains() -> Vec<Chain> {
    let others = [
        FIREWALL,
        GUARD,
        NO_ENDPOINTS,
        SERVICES,
        OWN_SERVICES,
        REJECT,
    ];
    let others = others.into_iter().map(|name| Chain {
        name: name.to_owned(),
        base: None,
        comment: None,
    });
    base::chains(&JUMPS).chain(others).collect()
}

/// Return the rules of all chains.
pub(super) fn rules(family: IpFamily, options: &Options, node: &NodeFacts) -> Vec<Rule> {
    let build = || Build::new(family);
    let mut rules = base::rules(family, &JUMPS);
    rules.push(enforce_source_ranges(
        family,
        SetId::SourceRanged,
        SetId::SourceRanges,
        FIREWALL,
    ));
    rules.push(
        build()
            .if_not_dnat()
            .member(&NODE_PORT, SetId::RelayPorts)
            .goto(REJECT)
            .rule_with_comment(GUARD, "only redirected connections may reach the relay"),
    );
    rules.push(
        build()
            .verdict_map(&FRONTEND, SetId::NoEndpoints)
            .rule(NO_ENDPOINTS),
    );
    rules.push(
        to_node_port(family, options, node)
            .verdict_map(&NODE_PORT, SetId::NodePortNoEndpoints)
            .rule(NO_ENDPOINTS),
    );
    rules.extend(services(family, options, node));
    rules.extend(own_services(family, options, node));
    rules.push(build().push(reject(family)).rule(REJECT));
    rules
}

/// Continue only if the destination answers for NodePorts.
fn to_node_port(family: IpFamily, options: &Options, node: &NodeFacts) -> Build {
    let build = Build::new(family);
    if node.node_port_ips.is_some() {
        return build.member(&[Field::Daddr], SetId::NodePortIps);
    }
    let local = build.if_local(FibAddress::Destination);
    if options.localhost_node_ports {
        local
    } else {
        local.not_to_loopback()
    }
}

/// Continue only if the source is neither a pod of this node nor the node itself.
fn from_outside(build: Build, family: IpFamily, node: &NodeFacts) -> Build {
    let build = build.if_not_local(FibAddress::Source);
    match Build::new(family).source_is_pod(CmpOp::Neq, &node.local) {
        Some(no_pod) => build.then(no_pod),
        None => build,
    }
}

/// Lead to the relay at the port that the map has for the fields.
fn to_relay(build: Build, family: IpFamily, fields: &[Field], map: SetId, at: &Options) -> Build {
    // After the longest key: two registers of sixteen bytes.
    let address = Reg::FIRST.after(32);
    let value = Value::ip(at.relay_ip);
    build
        .load(fields, Reg::FIRST)
        .map(map, Reg::FIRST, address.after(address_len(family)))
        .push(Expr::Immediate {
            value,
            dreg: address,
        })
        .dnat(address)
}

/// Return the rules for packets from elsewhere, including pods of this node.
fn services(family: IpFamily, options: &Options, node: &NodeFacts) -> Vec<Rule> {
    let start = Build::new(family);
    let node_port = to_node_port(family, options, node);
    let mut rules = Vec::new();
    for (start, fields, outside, local, everyone) in [
        (
            start,
            &FRONTEND[..],
            SetId::OutsideFrontends,
            SetId::LocalFrontends,
            SetId::Frontends,
        ),
        (
            node_port,
            &NODE_PORT[..],
            SetId::OutsideNodePorts,
            SetId::LocalNodePorts,
            SetId::NodePorts,
        ),
    ] {
        let from_outside = from_outside(start.clone(), family, node);
        let led = to_relay(from_outside.clone(), family, fields, outside, options);
        rules.push(led.rule_with_comment(SERVICES, "policy Local, from outside"));
        let nowhere = from_outside.member(fields, local).verdict(Verdict::Return);
        rules.push(nowhere.rule_with_comment(SERVICES, "policy Local, no endpoint here"));
        rules.push(to_relay(start, family, fields, everyone, options).rule(SERVICES));
    }
    rules
}

/// Return the rules for packets that this host sends.
fn own_services(family: IpFamily, options: &Options, node: &NodeFacts) -> [Rule; 3] {
    let build = || Build::new(family);
    [
        build()
            .if_marked(options.relay_mark)
            .verdict(Verdict::Return)
            .rule_with_comment(OWN_SERVICES, "packets of the relay"),
        to_relay(build(), family, &FRONTEND, SetId::Frontends, options).rule(OWN_SERVICES),
        to_relay(
            to_node_port(family, options, node),
            family,
            &NODE_PORT,
            SetId::NodePorts,
            options,
        )
        .rule(OWN_SERVICES),
    ]
}

/// Return the elements that depend on the node.
pub(super) fn node_elements(options: &Options, node: &NodeFacts) -> Vec<Placed> {
    let ips = node.node_port_ips.iter().flatten();
    ips.filter(|ip| options.localhost_node_ports || !ip.is_loopback())
        .map(|ip| (SetId::NodePortIps, Element::key(Value::ip(*ip))))
        .collect()
}
