//! Connections from each kind of client, walked through the node's rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dataplane::userspace;
use model::Mode;
use plan::{Frontend, FrontendKind, NodeFacts, PortPlan};
use trace::{Did, Facts, Fraction, Origin, Outcome, Packet, Proto, Step, Trace, Verdict, World};

use super::clients::Client;
use super::desired::Difference;
use super::expect::{Connection, Expectation, Expected};
use super::finding::{Cause, Finding, Weight, listed};
use super::pods::Pods;
use super::sources::Sources;
use super::subject::Subject;
use super::{clients, differ, route, source};

/// How many names a sentence lists.
const MOST: usize = 5;
/// Upper bound on the answers that are walked for one connection.
const MOST_ANSWERS: usize = 50;
/// The mark of the relay's packets, by default (`iptables.masqueradeBit` is 14).
const RELAY_MARK: u32 = 1 << 14;
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
    /// The errors that refuse the packet, walked to the client.
    pub(crate) refusals: Vec<Trace>,
    /// Endpoints on this node.
    pub(crate) local: BTreeSet<IpAddr>,
    /// The interface of this node that has the destination.
    pub(crate) own_interface: Option<String>,
    /// Whether no proxy runs on this node.
    pub(crate) is_unserved: bool,
    /// The second half of a connection in userspace mode: from the relay to an endpoint.
    pub(crate) is_relays: bool,
}

/// Return the difference between the desired rules and the kernel's that a connection meets.
pub(crate) type Naming<'a> = dyn Fn(&Probe) -> Option<Difference> + 'a;

/// What a question depends on beside the Service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting<'a> {
    pub(crate) facts: &'a Facts,
    pub(crate) world: &'a World,
    pub(crate) client: Option<IpAddr>,
    pub(crate) is_configured: bool,
    /// The pods of this node, as clients.
    pub(crate) pods: &'a Pods,
    /// The clients that the node treats differently.
    pub(crate) sources: &'a Sources,
    /// Whether every pod that the node treats differently is a client, and every answer is walked back;
    /// otherwise one pod, and one answer of each kind.
    pub(crate) is_thorough: bool,
}

/// Walk connections to every frontend, from every kind of client with a known address.
pub(crate) fn ask(subject: &Subject<'_>, setting: Setting<'_>) -> anyhow::Result<Vec<Probe>> {
    let mut probes = Vec::new();
    for (plan, node) in &subject.plans {
        let is_v4 = plan.cluster_ip.is_ipv4();
        let node_ip = node.node_ip.or_else(|| host_address(setting.facts, is_v4));
        for frontend in plan.frontends() {
            // What another Service receives is in `clash`.
            let is_served = |ip: &IpAddr| subject.taken_by(plan, &frontend, *ip).is_none();
            let dst = match (frontend.ip, &node.node_port_ips) {
                (Some(ip), _) => Some(ip).filter(is_served),
                (None, Some(ips)) => {
                    let mut ips = ips.iter().copied().filter(is_served);
                    ips.find(|ip| !ip.is_loopback())
                }
                (None, None) => node_ip.filter(is_served),
            };
            let Some(dst) = dst else {
                continue;
            };
            let asked = Asked {
                plan,
                node,
                frontend: &frontend,
                dst,
            };
            for client in clients::of(subject, asked, node_ip, setting) {
                probes.push(asked.walk(subject, setting, client)?);
            }
            if clients::is_loopback_served(subject, asked, setting) {
                let asked = Asked {
                    dst: clients::LOOPBACK,
                    ..asked
                };
                let client = Client::new(Origin::Node, clients::LOOPBACK);
                probes.push(asked.walk(subject, setting, client)?);
            }
        }
        let mut own = probes.iter().filter(|p| p.port == plan.name.to_string());
        let is_used = own.any(|probe| !probe.is_answered_here());
        if subject.mode == Mode::Userspace && is_used {
            probes.extend(relayed(plan, node_ip, setting)?);
        }
    }
    Ok(probes)
}

/// Walk the relay's own connections to the endpoints.
fn relayed(
    plan: &PortPlan,
    node_ip: Option<IpAddr>,
    setting: Setting<'_>,
) -> anyhow::Result<Vec<Probe>> {
    let Some(src) = node_ip.filter(|_| userspace::unserved(plan).is_none()) else {
        return Ok(Vec::new());
    };
    let mut probes = Vec::new();
    for endpoint in plan.reachable() {
        let proto = protocol(plan);
        let mut packet = Packet::new(Origin::Node, src, endpoint.ip, proto, endpoint.port);
        packet.mark = RELAY_MARK;
        let trace = trace::walk(setting.world, &packet)?;
        let replies = answers(setting, &packet, &trace)?;
        let only = [(endpoint.ip, endpoint.port)].into();
        probes.push(Probe {
            port: plan.name.to_string(),
            kind: FrontendKind::ClusterIp,
            expected: Expectation::only(Expected::To(only)),
            packet,
            trace,
            replies,
            refusals: Vec::new(),
            local: endpoint
                .is_local
                .then_some(endpoint.ip)
                .into_iter()
                .collect(),
            own_interface: None,
            is_unserved: false,
            is_relays: true,
        });
    }
    Ok(probes)
}

fn protocol(plan: &PortPlan) -> Proto {
    match plan.protocol {
        model::Protocol::Tcp => Proto::TCP,
        model::Protocol::Udp => Proto::UDP,
        model::Protocol::Sctp => Proto::SCTP,
    }
}

/// Walk answers back: one for each interface through which the packet may leave, with and without
/// masquerading; every one if the question is thorough.
fn answers(setting: Setting<'_>, packet: &Packet, trace: &Trace) -> anyhow::Result<Vec<Trace>> {
    let mut replies = Vec::new();
    let mut kinds = BTreeSet::new();
    for outcome in trace.outcomes.iter().filter(|o| o.assuming.is_empty()) {
        let kind = (outcome.out_iface.as_deref(), outcome.snat.is_some());
        let is_new = kinds.insert(kind);
        if !(is_new || setting.is_thorough) || replies.len() == MOST_ANSWERS {
            continue;
        }
        if let Some(reply) = trace::reply_to(&setting.world.host, packet, outcome) {
            replies.push(trace::walk(setting.world, &reply)?);
        }
    }
    Ok(replies)
}

/// Walk the errors that refuse the packet: one for each kind.
fn refusals(setting: Setting<'_>, packet: &Packet, trace: &Trace) -> anyhow::Result<Vec<Trace>> {
    let mut kinds = BTreeSet::new();
    let mut refusals = Vec::new();
    for outcome in trace.outcomes.iter().filter(|o| o.assuming.is_empty()) {
        let kind = outcome.path.last().map(|step| (step.hook, step.did));
        // A datagram that the node itself may not send fails at once, with EPERM.
        if packet.proto == Proto::UDP && kind.is_some_and(|(hook, _)| hook == "output") {
            continue;
        }
        if let Some(error) = trace::refusal_to(&setting.world.host, packet, outcome)
            && kinds.insert(kind)
        {
            refusals.push(trace::walk(setting.world, &error)?);
        }
    }
    Ok(refusals)
}

/// A frontend with an address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) plan: &'a PortPlan,
    pub(crate) node: &'a NodeFacts,
    pub(crate) frontend: &'a Frontend,
    pub(crate) dst: IpAddr,
}

impl Asked<'_> {
    fn walk(
        &self,
        subject: &Subject<'_>,
        setting: Setting<'_>,
        client: Client,
    ) -> anyhow::Result<Probe> {
        let plan = self.plan;
        let Client { from, src, iface } = client;
        let port = self.frontend.port.get();
        let packet = Packet {
            in_iface: iface,
            ..Packet::new(from, src, self.dst, protocol(plan), port)
        };
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
        let replies = answers(setting, &packet, &trace)?;
        let refusals = refusals(setting, &packet, &trace)?;
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
            refusals,
            local: local.map(|e| e.ip).collect(),
            own_interface: own.filter(|name| name != dataplane::ipvs::DEVICE),
            is_unserved: setting.facts.proxies.as_ref().is_some_and(Vec::is_empty),
            is_relays: false,
        })
    }
}

/// Return an address that other machines can use for this node. A link-local address needs an interface
/// beside it, and NodePorts do not answer there in ipvs mode.
fn host_address(facts: &Facts, is_v4: bool) -> Option<IpAddr> {
    let own = facts.interfaces.iter().filter(|i| {
        i.name != "lo" && i.name != dataplane::ipvs::DEVICE && i.kind.as_deref() != Some("bridge")
    });
    let mut all = own.flat_map(|i| &i.addresses).map(ipnet::IpNet::addr);
    all.find(|ip| match ip {
        IpAddr::V4(_) => is_v4,
        IpAddr::V6(ip) => !is_v4 && !ip.is_unicast_link_local(),
    })
}

impl Probe {
    /// Return whether packets reach the relay of userspace mode on every path.
    pub(crate) fn is_relayed(&self) -> bool {
        let arrives = |o: &Outcome| o.verdict == Verdict::Accept;
        self.leads_to_relay() && self.trace.outcomes.iter().all(arrives)
    }

    /// Return whether the rules lead to the relay of userspace mode on every path.
    pub(crate) fn leads_to_relay(&self) -> bool {
        let leads = |o: &Outcome| {
            let translates = |s: &Step| s.effect.contains("destination becomes");
            let by = |s: &Step| s.table == userspace::TABLE && translates(s);
            o.dnat.is_some() && o.path.iter().any(by)
        };
        self.trace.outcomes.iter().all(leads)
    }

    /// Return whether a program on this node answers, which has the Service's address.
    pub(crate) fn is_answered_here(&self) -> bool {
        let stays = |o: &Outcome| o.verdict == Verdict::Accept && o.out_iface.is_none();
        self.own_interface.is_some()
            && self.shares().is_empty()
            && self.trace.outcomes.iter().all(stays)
    }

    /// `a pod of this node (10.244.1.9) to 10.96.0.1:80`.
    pub(crate) fn question(&self) -> String {
        let p = &self.packet;
        let to = trace::Endpoint {
            ip: p.dst,
            port: p.dport,
        };
        let from = if self.is_relays {
            "the relay of this node".to_owned()
        } else {
            p.from.to_string()
        };
        format!("{from} ({}) to {to}", p.src)
    }

    /// Return the addresses of the endpoints that the plan or the rules name.
    pub(crate) fn endpoints(&self) -> BTreeSet<IpAddr> {
        let mut all: BTreeSet<IpAddr> = self.shares().into_keys().map(|(ip, _)| ip).collect();
        if let Expected::To(wanted) = &self.expected.to {
            all.extend(wanted.iter().map(|(ip, _)| *ip));
        }
        all
    }

    /// Return the share of each endpoint.
    pub(crate) fn shares(&self) -> BTreeMap<(IpAddr, u16), Fraction> {
        let mut all = BTreeMap::new();
        for outcome in &self.trace.outcomes {
            let reached = self.is_relays && outcome.verdict == Verdict::Accept;
            if let Some(to) = outcome.dnat.or(reached.then_some(outcome.dst)) {
                let sum = all.entry((to.ip, to.port)).or_insert(Fraction::ZERO);
                *sum = sum.plus(outcome.probability);
            }
        }
        all
    }
}

/// Run every check of this kind. A finding that several clients share is reported once.
pub(crate) fn findings(probes: &[Probe], naming: &Naming<'_>) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    for probe in probes {
        let lost = lost(probe, naming);
        let difference = differ::difference(probe, !lost.is_empty(), naming);
        let is_same = lost.is_empty() && difference.is_none();
        let mut all: Vec<Finding> = lost.into_iter().chain(difference).collect();
        if is_same {
            all.extend(route::misled(probe));
            all.extend(source::findings(probe, naming));
            all.extend(source::lost_replies(probe));
            all.extend(source::lost_refusals(probe));
        }
        for finding in all {
            let key = |f: &Finding| (f.cause, f.change.clone(), f.decides.clone());
            let same = |f: &&mut Finding| key(f) == key(&finding);
            if found.iter_mut().find(same).is_none() {
                found.push(finding);
            }
        }
    }
    found.extend(differ::passing_by(probes));
    found
}

/// Find connections that the plan delivers and that something else on their path ends.
pub(crate) fn lost(probe: &Probe, naming: &Naming<'_>) -> Vec<Finding> {
    let is_lost = |o: &&Outcome| match probe.expected.to {
        Expected::To(_) => o.verdict != Verdict::Accept,
        // The client waits instead of receiving an error.
        Expected::Refused => o.verdict == Verdict::Drop,
        Expected::Dropped => false,
    };
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
        let by_other = ended_by(probe, outcome, step, weight);
        found.extend(by_other.or_else(|| ended_by_proxy(probe, outcome, weight, naming)));
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
        let policy = Finding::new(
            weight,
            Cause::ChainPolicy,
            format!("{client}: {verb} by {}", super::owner::describe(step)),
            format!(
                "the policy of chain {} is DROP: set it to ACCEPT ({}), or accept the connection in a \
                 rule before it; Docker sets the policy of FORWARD when it enables forwarding",
                step.chain,
                set_policy(step)
            ),
        );
        return Some(policy.decided_by(super::owner::describe(step)));
    }
    if is_rule && !super::owner::is_service_rule(step) {
        let drop = Finding::new(
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
        );
        return Some(drop.decided_by(super::owner::describe(step)));
    }
    if let Some(sysctl) = super::node::not_forwarding(step) {
        let what = format!("{client}: dropped, because {sysctl} is 0");
        let change = format!("sysctl -w {sysctl}=1; find out which program turned it off");
        return Some(Finding::new(weight, Cause::ForwardingOff, what, change));
    }
    if step.did == Did::ReversePath {
        return Some(Finding::new(
            weight,
            Cause::ReversePath,
            format!("{client}: {}", step.effect),
            "add the route back, or set rp_filter to 2 (loose) on that interface and on all",
        ));
    }
    if step.did == Did::Martian {
        return Some(martian(probe, step, weight));
    }
    if outcome.dnat.is_none() && step.did == Did::NoRoute && !probe.is_relays {
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
    if step.hook == "routing" && (outcome.dnat.is_some() || probe.is_relays) && is_no_route {
        let to = outcome.dst;
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

/// Report a packet that the kernel drops because of its addresses.
fn martian(probe: &Probe, step: &Step, weight: Weight) -> Finding {
    let change = if probe.packet.src.is_loopback() {
        "sysctl -w net.ipv4.conf.all.route_localnet=1, as the proxy in iptables mode does unless \
         localhostNodePorts is false"
    } else {
        "compare the addresses of this node with those of its pods and clients: ip addr, ip route"
    };
    let what = format!("{}: {}", probe.question(), step.effect);
    Finding::new(weight, Cause::Martian, what, change)
}

/// Report a Service rule that ends a connection on its path to an endpoint.
fn ended_by_proxy(
    probe: &Probe,
    outcome: &Outcome,
    weight: Weight,
    naming: &Naming<'_>,
) -> Option<Finding> {
    let step = outcome
        .path
        .last()
        .filter(|s| super::owner::is_service_rule(s))?;
    let to = outcome.dnat?;
    let difference = naming(probe).map_or(String::new(), |d| d.what);
    let named = if difference.is_empty() {
        String::new()
    } else {
        format!(": {difference}")
    };
    let finding = Finding::new(
        weight,
        Cause::RulesDiffer,
        format!(
            "{}: is sent to {to} and {} by {}{named}",
            probe.question(),
            if outcome.verdict == Verdict::Reject {
                "refused"
            } else {
                "dropped"
            },
            super::owner::describe(step)
        ),
        differ::restore(probe),
    );
    Some(finding.decided_by(difference))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_address_is_one_that_other_machines_can_use() {
        let interface = |index: u32, name: &str, addresses: &[&str]| trace::Interface {
            name: name.to_owned(),
            index,
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            up: true,
            master: None,
            kind: None,
        };
        let facts = Facts {
            interfaces: vec![
                interface(1, "lo", &["127.0.0.1/8", "::1/128"]),
                interface(2, "kube-ipvs0", &["10.96.0.1/32", "fd00:96::1/128"]),
                interface(3, "pod1", &["fe80::1/64"]),
                interface(
                    4,
                    "eth0",
                    &["10.200.1.2/24", "fe80::2/64", "fd00:200:1::2/64"],
                ),
            ],
            ..Facts::default()
        };
        let address = |is_v4| host_address(&facts, is_v4).unwrap().to_string();
        assert_eq!(address(true), "10.200.1.2");
        assert_eq!(address(false), "fd00:200:1::2");
    }
}
