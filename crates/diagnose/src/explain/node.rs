//! The node's settings and its known connections.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use plan::PortPlan;
use trace::{Did, Facts, Step, Verdict};

use super::finding::{Cause, Finding, Weight, listed};
use super::probe::Probe;
use super::subject::Subject;

/// Maximum number of names in a sentence.
const MOST: usize = 5;

/// A connection in connection tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownFlow {
    /// `tcp` is 6, `udp` 17, `sctp` 132.
    pub protocol: u8,
    /// The client.
    pub client: SocketAddr,
    /// The destination before translation.
    pub asked: SocketAddr,
    /// The endpoint that it was given.
    pub given: SocketAddr,
    /// Whether packets were seen in both directions.
    pub is_answered: bool,
}

/// Run every check of this kind.
pub(crate) fn findings(
    subject: &Subject<'_>,
    facts: &Facts,
    flows: &[KnownFlow],
    probes: &[Probe],
) -> Vec<Finding> {
    let mut found = settings(subject, facts);
    let new = destinations(probes);
    for (plan, _) in &subject.plans {
        found.extend(stale_flows(plan, flows, &new));
    }
    found
}

/// Return where the rules lead new connections.
fn destinations(probes: &[Probe]) -> BTreeSet<SocketAddr> {
    let outcomes = probes.iter().flat_map(|p| &p.trace.outcomes);
    let delivered = outcomes.filter(|o| o.verdict == Verdict::Accept);
    delivered
        .map(|o| SocketAddr::new(o.dst.ip, o.dst.port))
        .collect()
}

/// Run every check of the node's settings.
pub(crate) fn settings(subject: &Subject<'_>, facts: &Facts) -> Vec<Finding> {
    let mut found = forwarding(subject, facts);
    found.extend(other_node(subject, facts));
    found.extend(bridge(subject, facts));
    found.extend(conntrack_full(facts));
    found
}

/// Check that the addresses of this machine are those of the Node whose plan is compared.
fn other_node(subject: &Subject<'_>, facts: &Facts) -> Option<Finding> {
    let cluster = subject.cluster;
    let here = super::addresses(facts);
    let has = |node: &model::Node| node.addresses.iter().any(|a| here.contains(&a.ip));
    let planned = cluster.node.as_ref().filter(|node| !has(node))?;
    let nodes = &cluster.objects.nodes;
    let actual = nodes.iter().find(|node| has(node))?;
    let ips = |node: &model::Node| listed(node.addresses.iter().map(|a| a.ip), MOST);
    Some(Finding::new(
        Weight::Broken,
        Cause::NodeName,
        format!(
            "the node name {} is another machine's: its addresses are {}, and this machine has those of \
             Node {} ({})",
            planned.name,
            ips(planned),
            actual.name,
            ips(actual)
        ),
        format!(
            "pass --node {name}; a proxy that uses the wrong name needs --hostname-override={name}, or \
             hostnameOverride in its configuration",
            name = actual.name
        ),
    ))
}

fn number(facts: &Facts, sysctl: &str) -> Option<i64> {
    facts.sysctls.get(sysctl)?.trim().parse().ok()
}

/// Return the interface's setting that keeps a packet from being forwarded. A setting of the whole host
/// has a finding of its own.
pub(crate) fn not_forwarding(step: &Step) -> Option<&str> {
    let is_it = step.did == Did::NotForwarding;
    let mut words = step.effect.split_whitespace().filter(|_| is_it);
    let sysctl = words.find(|word| word.starts_with("net."))?;
    let is_all = matches!(
        sysctl,
        "net.ipv4.ip_forward" | "net.ipv6.conf.all.forwarding"
    );
    (!is_all).then_some(sysctl)
}

/// Check that the host forwards packets.
pub(crate) fn forwarding(subject: &Subject<'_>, facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    let sysctls = [
        ("net.ipv4.ip_forward", true),
        ("net.ipv6.conf.all.forwarding", false),
    ];
    for (sysctl, is_v4) in sysctls {
        let is_used = subject
            .plans
            .iter()
            .any(|(p, _)| p.cluster_ip.is_ipv4() == is_v4);
        if is_used && number(facts, sysctl) == Some(0) {
            found.push(Finding::new(
                Weight::Broken,
                Cause::ForwardingOff,
                format!(
                    "{sysctl} is 0: this node does not forward packets, so connections from pods and \
                     from outside do not reach endpoints"
                ),
                format!(
                    "sysctl -w {sysctl}=1, and put it into /etc/sysctl.d; find out which program \
                     turned it off"
                ),
            ));
        }
    }
    found
}

/// Check that packets between pods on one bridge go through the rules. Otherwise answers bypass
/// reverse translation, and come from the pod's address instead of the Service's.
pub(crate) fn bridge(subject: &Subject<'_>, facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    for (sysctl, is_v4) in [
        ("net.bridge.bridge-nf-call-iptables", true),
        ("net.bridge.bridge-nf-call-ip6tables", false),
    ] {
        if number(facts, sysctl).is_some_and(|v| v != 0) {
            continue;
        }
        let local = |ip: IpAddr| {
            let plans = subject.plans.iter().map(|(p, _)| p);
            plans
                .into_iter()
                .any(|p| p.reachable().iter().any(|e| e.is_local && e.ip == ip))
        };
        let bridges = facts.interfaces.iter().filter(|b| {
            b.kind.as_deref() == Some("bridge")
                && facts
                    .interfaces
                    .iter()
                    .any(|i| i.master.as_deref() == Some(&b.name))
        });
        for bridge in bridges {
            let behind = subject
                .slices
                .iter()
                .flat_map(|s| &s.endpoints)
                .map(|e| e.address)
                .filter(|ip| ip.is_ipv4() == is_v4 && local(*ip))
                .find(|ip| bridge.addresses.iter().any(|net| net.contains(ip)));
            let Some(ip) = behind else { continue };
            let state = match number(facts, sysctl) {
                Some(_) => "is 0",
                None => "does not exist (the module br_netfilter is not loaded)",
            };
            found.push(Finding::new(
                Weight::Partly,
                Cause::BridgeBypass,
                format!(
                    "{sysctl} {state}: pods on {} that connect to the Service and are given {ip}, on \
                     the same bridge, get answers from {ip} instead of the Service's address",
                    bridge.name
                ),
                format!("modprobe br_netfilter; sysctl -w {sysctl}=1"),
            ));
        }
    }
    found
}

/// Check that connection tracking has room.
pub(crate) fn conntrack_full(facts: &Facts) -> Option<Finding> {
    let count = number(facts, "net.netfilter.nf_conntrack_count")?;
    let max = number(facts, "net.netfilter.nf_conntrack_max").filter(|max| *max > 0)?;
    if count.saturating_mul(20) < max.saturating_mul(19) {
        return None;
    }
    Some(Finding::new(
        if count >= max {
            Weight::Broken
        } else {
            Weight::Partly
        },
        Cause::ConntrackFull,
        format!(
            "the connection table is full ({count} of {max}): the kernel drops packets that open \
             new connections (\"nf_conntrack: table full, dropping packet\" in dmesg)"
        ),
        "raise net.netfilter.nf_conntrack_max (conntrack.maxPerCore and min in the proxy's \
         configuration), and find out which clients open so many connections: conntrack -L",
    ))
}

/// Find flows that keep going to a removed endpoint. Every further datagram of a UDP client follows its
/// flow, and so do new SCTP associations from the same port. A TCP flow only matters to its own
/// connection, and only if that is not established; a new connection has another port.
///
/// A flow to where the rules lead `new` connections is not stale: a relay, or a program on this node.
pub(crate) fn stale_flows(
    plan: &PortPlan,
    flows: &[KnownFlow],
    new: &BTreeSet<SocketAddr>,
) -> Option<Finding> {
    let protocol = match plan.protocol {
        model::Protocol::Tcp => 6,
        model::Protocol::Udp => 17,
        model::Protocol::Sctp => 132,
    };
    let good: BTreeSet<SocketAddr> = plan
        .reachable()
        .iter()
        .chain(plan.flow_endpoints.iter())
        .map(|e| SocketAddr::new(e.ip, e.port))
        .collect();
    let asked = |flow: &&KnownFlow| {
        plan.frontends().any(|f| {
            f.port.get() == flow.asked.port() && f.ip.is_some_and(|ip| ip == flow.asked.ip())
        })
    };
    let stale: Vec<&KnownFlow> = flows
        .iter()
        .filter(|f| f.protocol == protocol && !good.contains(&f.given))
        .filter(|f| !new.contains(&f.given))
        .filter(|f| plan.protocol != model::Protocol::Tcp || !f.is_answered)
        .filter(asked)
        .collect();
    let first = stale.first()?;
    let shown = stale.iter().map(|f| format!("{} -> {}", f.client, f.given));
    let weight = match plan.protocol {
        model::Protocol::Tcp => Weight::Note,
        model::Protocol::Udp | model::Protocol::Sctp => Weight::Partly,
    };
    Some(Finding::new(
        weight,
        Cause::StaleFlow,
        format!(
            "{} known connections to {} still go to addresses that are not endpoints of the Service: \
             {}",
            stale.len(),
            plan.name,
            listed(shown, MOST)
        ),
        format!(
            "a running proxy removes such flows; by hand: conntrack -D -p {} --orig-dst {} --dport {}",
            plan.protocol.lower(),
            first.asked.ip(),
            first.asked.port()
        ),
    ))
}
