//! Connections from each kind of client, walked through the node's rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane::userspace;
use plan::{Frontend, FrontendKind, NodeFacts, PortPlan};
use trace::{Did, Facts, Fraction, Origin, Outcome, Packet, Proto, Step, Trace, Verdict, World};

use super::expect::{Connection, Expectation, Expected};
use super::finding::{Cause, Finding, Weight, listed};
use super::subject::Subject;
use super::{differ, source};

/// How many names a sentence lists.
const MOST: usize = 5;
/// Documentation addresses (RFC 5737, RFC 3849), which no host has.
const OUTSIDE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
const OUTSIDE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7));

/// One connection: what the plan states, and what the rules do.
#[derive(Debug)]
pub struct Probe {
    /// The Service port, as `namespace/name:port`.
    pub port: String,
    /// The kind of the frontend.
    pub(crate) kind: FrontendKind,
    /// The first packet.
    pub packet: Packet,
    /// What the plan states.
    pub expected: Expectation,
    /// What the rules do.
    pub trace: Trace,
    /// The answers to the packet, walked back, of those that were delivered.
    pub replies: Vec<Trace>,
    /// Endpoints on this node.
    pub(crate) local: BTreeSet<IpAddr>,
    /// The interface of this node that has the destination.
    pub(crate) own_interface: Option<String>,
}

/// What a question depends on beside the Service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting<'a> {
    pub(crate) facts: &'a Facts,
    pub(crate) world: &'a World,
    pub(crate) client: Option<IpAddr>,
    pub(crate) is_configured: bool,
    /// Whether answers are walked back, too.
    pub(crate) replies: bool,
}

/// Walk connections to every frontend, from every kind of client with a known address.
pub(crate) fn ask(subject: &Subject<'_>, setting: Setting<'_>) -> anyhow::Result<Vec<Probe>> {
    let mut probes = Vec::new();
    for (plan, node) in &subject.plans {
        let is_v4 = plan.cluster_ip.is_ipv4();
        let node_ip = node.node_ip.or_else(|| host_address(setting.facts, is_v4));
        for frontend in plan.frontends() {
            let Some(dst) = frontend.ip.or(match &node.node_port_ips {
                Some(ips) => ips.iter().copied().find(|ip| !ip.is_loopback()),
                None => node_ip,
            }) else {
                continue;
            };
            for (from, src) in clients(subject, plan, &frontend, node_ip, setting.client) {
                let walked = Asked {
                    plan,
                    node,
                    frontend: &frontend,
                    dst,
                };
                probes.push(walked.walk(subject, setting, (from, src))?);
            }
        }
    }
    Ok(probes)
}

/// A frontend with an address.
struct Asked<'a> {
    plan: &'a PortPlan,
    node: &'a NodeFacts,
    frontend: &'a Frontend,
    dst: IpAddr,
}

impl Asked<'_> {
    fn walk(
        &self,
        subject: &Subject<'_>,
        setting: Setting<'_>,
        (from, src): (Origin, IpAddr),
    ) -> anyhow::Result<Probe> {
        let plan = self.plan;
        let proto = match plan.protocol {
            model::Protocol::Tcp => Proto::TCP,
            model::Protocol::Udp => Proto::UDP,
            model::Protocol::Sctp => Proto::SCTP,
        };
        let packet = Packet::new(from, src, self.dst, proto, self.frontend.port.get());
        let connection = Connection {
            mode: subject.mode,
            plan,
            node: self.node,
            frontend: self.frontend,
            from,
            src,
            is_configured: setting.is_configured,
        };
        let trace = trace::walk(setting.world, &packet)?;
        let mut replies = Vec::new();
        if setting.replies {
            for outcome in trace.outcomes.iter().filter(|o| o.assuming.is_empty()) {
                if let Some(reply) = trace::reply_to(&setting.world.host, &packet, outcome) {
                    replies.push(trace::walk(setting.world, &reply)?);
                }
                if replies.len() == MOST {
                    break;
                }
            }
        }
        let has = |i: &&trace::Interface| i.addresses.iter().any(|a| a.addr() == self.dst);
        let mut interfaces = setting.facts.interfaces.iter();
        let own = interfaces.find(has).map(|i| i.name.clone());
        let local = plan.reachable().into_iter().filter(|e| e.is_local);
        Ok(Probe {
            port: plan.name.to_string(),
            kind: self.frontend.kind,
            expected: connection.expectation(),
            trace,
            packet,
            replies,
            local: local.map(|e| e.ip).collect(),
            own_interface: own.filter(|name| name != dataplane::ipvs::DEVICE),
        })
    }
}

fn host_address(facts: &Facts, is_v4: bool) -> Option<IpAddr> {
    let all = facts
        .interfaces
        .iter()
        .filter(|i| i.name != "lo" && i.kind.as_deref() != Some("bridge"));
    let mut all = all.flat_map(|i| &i.addresses).map(ipnet::IpNet::addr);
    all.find(|ip| ip.is_ipv4() == is_v4)
}

/// Return the clients to probe: a pod of this node that is no endpoint, an endpoint itself, the node,
/// and hosts outside. Cluster IPs are not meant for clients outside.
fn clients(
    subject: &Subject<'_>,
    plan: &PortPlan,
    frontend: &Frontend,
    node_ip: Option<IpAddr>,
    client: Option<IpAddr>,
) -> Vec<(Origin, IpAddr)> {
    let is_v4 = plan.cluster_ip.is_ipv4();
    let pod = subject.pod(is_v4).or_else(|| {
        // The last but one address of the node's range: the last that a pod gets.
        let ranges = subject.cluster.node.as_ref()?.pod_cidrs.iter();
        let range = ranges.into_iter().find(|r| r.addr().is_ipv4() == is_v4)?;
        match (range.broadcast(), is_v4) {
            (IpAddr::V4(last), true) => Some(Ipv4Addr::from_bits(last.to_bits() - 1).into()),
            (last, _) => Some(last),
        }
    });
    let mut all = Vec::new();
    all.extend(pod.map(|ip| (Origin::Pod, ip)));
    if frontend.kind == FrontendKind::ClusterIp {
        let reachable = plan.reachable();
        let mut own = reachable.iter().filter(|e| e.is_local);
        let endpoint = own.find(|e| !subject.is_own(e.ip));
        all.extend(endpoint.map(|e| (Origin::Pod, e.ip)));
    }
    all.extend(node_ip.map(|ip| (Origin::Node, ip)));
    if frontend.kind != FrontendKind::ClusterIp {
        let outside = if is_v4 { OUTSIDE_V4 } else { OUTSIDE_V6 };
        all.push((Origin::Outside, outside));
        if frontend.kind == FrontendKind::LoadBalancerIp {
            let allowed = plan.source_ranges.iter().map(ipnet::IpNet::network).next();
            all.extend(allowed.map(|ip| (Origin::Outside, ip)));
        }
        let client = client.filter(|ip| ip.is_ipv4() == is_v4);
        all.extend(client.map(|ip| (Origin::Outside, ip)));
    }
    all
}

impl Probe {
    /// Return whether the rules lead to the relay of userspace mode on every path.
    pub(crate) fn is_relayed(&self) -> bool {
        let leads = |o: &Outcome| {
            let by = |s: &Step| s.table == userspace::TABLE;
            o.verdict == Verdict::Accept && o.dnat.is_some() && o.path.iter().any(by)
        };
        self.trace.outcomes.iter().all(leads)
    }

    /// `a pod of this node (10.244.1.9) to 10.96.0.1:80`.
    pub(crate) fn question(&self) -> String {
        let p = &self.packet;
        let to = trace::Endpoint {
            ip: p.dst,
            port: p.dport,
        };
        format!("{} ({}) to {to}", p.from, p.src)
    }

    /// Return the share of each endpoint.
    pub(crate) fn shares(&self) -> BTreeMap<(IpAddr, u16), Fraction> {
        let mut all = BTreeMap::new();
        for outcome in &self.trace.outcomes {
            if let Some(to) = outcome.dnat {
                let sum = all.entry((to.ip, to.port)).or_insert(Fraction::ZERO);
                *sum = sum.plus(outcome.probability);
            }
        }
        all
    }
}

/// Run every check of this kind. A finding that several clients share is reported once.
pub(crate) fn findings(probes: &[Probe]) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    for probe in probes {
        let lost = lost(probe);
        let difference = differ::difference(probe, !lost.is_empty());
        let is_same = lost.is_empty() && difference.is_none();
        let mut all: Vec<Finding> = lost.into_iter().chain(difference).collect();
        if is_same {
            all.extend(source::findings(probe));
            all.extend(source::lost_replies(probe));
        }
        for finding in all {
            let same = |f: &&mut Finding| f.cause == finding.cause && f.change == finding.change;
            if found.iter_mut().find(same).is_none() {
                found.push(finding);
            }
        }
    }
    found
}

/// Find connections that the plan delivers and that something else on their path ends.
pub(crate) fn lost(probe: &Probe) -> Vec<Finding> {
    if !matches!(probe.expected.to, Expected::To(_)) {
        return Vec::new();
    }
    let is_lost = |o: &&Outcome| o.verdict != Verdict::Accept;
    let lost: Vec<&Outcome> = probe.trace.outcomes.iter().filter(is_lost).collect();
    let weight = if lost.len() == probe.trace.outcomes.len() {
        Weight::Broken
    } else {
        Weight::Partly
    };
    let mut found = Vec::new();
    for outcome in lost {
        let Some(step) = outcome.path.last() else {
            continue;
        };
        found.extend(ended_by(probe, outcome, step, weight));
    }
    found
}

fn ended_by(probe: &Probe, outcome: &Outcome, step: &Step, weight: Weight) -> Option<Finding> {
    let client = probe.question();
    let verb = if outcome.verdict == Verdict::Reject {
        "refused"
    } else {
        "dropped"
    };
    let is_rule = !step.chain.is_empty();
    if is_rule && step.rule == "policy" {
        return Some(Finding::new(
            weight,
            Cause::ChainPolicy,
            format!("{client}: {verb} by {}", super::owner::describe(step)),
            format!(
                "the policy of chain {} is DROP: set it to ACCEPT ({}), or accept the connection in a \
                 rule before it; Docker sets the policy of FORWARD when it enables forwarding",
                step.chain,
                set_policy(step)
            ),
        ));
    }
    if is_rule && !super::owner::is_service_rule(step) {
        return Some(Finding::new(
            weight,
            Cause::ForeignDrop,
            format!("{client}: {verb} by {}", super::owner::describe(step)),
            format!(
                "this is not a Service rule: {}, and accept the connection there",
                match super::owner::of(step) {
                    Some(owner) => format!("check the configuration of {owner}"),
                    None => format!(
                        "find out which program makes chain {} of table {}",
                        step.chain, step.table
                    ),
                }
            ),
        ));
    }
    if step.did == Did::ReversePath {
        return Some(Finding::new(
            weight,
            Cause::ReversePath,
            format!("{client}: {}", step.effect),
            "add the route back, or set rp_filter to 2 (loose) on that interface and on all",
        ));
    }
    if outcome.dnat.is_none() && step.did == Did::NoRoute {
        return Some(Finding::new(
            weight,
            Cause::NoRoute,
            format!(
                "{client}: no route leads to {}, so the packet never reaches the Service rules",
                probe.packet.dst
            ),
            "add a route to the Service's address; a default route is enough",
        ));
    }
    // Forwarding that is off has a finding of its own.
    let is_no_route = matches!(step.did, Did::NoRoute | Did::Dropped | Did::Rejected(_));
    if step.hook == "routing" && outcome.dnat.is_some() && is_no_route {
        let to = outcome.dnat.map(|e| e.to_string()).unwrap_or_default();
        return Some(Finding::new(
            weight,
            Cause::NoRoute,
            format!(
                "{client}: is sent to {to}, but no route leads there ({})",
                step.rule
            ),
            "check the pod network: the CNI has to add a route to that node's pods",
        ));
    }
    None
}

/// Return the command that sets a policy to ACCEPT.
fn set_policy(step: &Step) -> String {
    let is_built_in = step.chain.chars().all(|c| c.is_ascii_uppercase());
    let tool = match (step.family, step.backend) {
        ("ip6", Some(trace::Backend::Legacy)) => "ip6tables-legacy",
        (_, Some(trace::Backend::Legacy)) => "iptables-legacy",
        ("ip6", _) => "ip6tables",
        _ => "iptables",
    };
    if is_built_in && step.family != "inet" {
        format!("{tool} -t {} -P {} ACCEPT", step.table, step.chain)
    } else {
        format!(
            "nft chain {} {} {} '{{ policy accept; }}'",
            step.family, step.table, step.chain
        )
    }
}

/// Return endpoints as text.
pub(crate) fn shown(set: &BTreeSet<(IpAddr, u16)>) -> String {
    let all = set.iter().map(|(ip, port)| trace::Endpoint {
        ip: *ip,
        port: *port,
    });
    listed(all, MOST)
}
