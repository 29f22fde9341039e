//! The node's settings.

use std::net::IpAddr;

use model::Mode;
use plan::PortPlan;
use trace::{Did, Facts, Step};

use super::finding::{Cause, Finding, Weight, listed};
use super::probe::Probe;
use super::subject::Subject;

/// Maximum number of names in a sentence.
const MOST: usize = 5;

/// Run every check of the node's settings.
pub(crate) fn settings(subject: &Subject<'_>, facts: &Facts, probes: &[Probe]) -> Vec<Finding> {
    // The relay's connections are the node's own.
    let needs_forwarding = match subject.mode {
        Mode::Userspace => probes.iter().any(is_not_forwarded),
        _ => probes.is_empty() || !probes.iter().all(Probe::is_answered_here),
    };
    let mut found = if needs_forwarding {
        forwarding(subject, facts)
    } else {
        Vec::new()
    };
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

/// Whether a packet is dropped because this host does not forward.
fn is_not_forwarded(probe: &Probe) -> bool {
    let last = |o: &trace::Outcome| o.path.last().is_some_and(|s| s.did == Did::NotForwarding);
    probe.trace.outcomes.iter().any(last)
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
        // The rules of nftables mode refuse before the kernel forwards.
        let is_forwarded = |p: &PortPlan| p.has_any_endpoint || subject.mode != Mode::Nftables;
        let is_used = subject
            .plans
            .iter()
            .any(|(p, _)| p.cluster_ip.is_ipv4() == is_v4 && is_forwarded(p));
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
    // The relay answers from this node.
    if subject.mode == Mode::Userspace {
        return found;
    }
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
