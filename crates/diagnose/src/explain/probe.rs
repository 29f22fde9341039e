//! The kernel's side: connections from each kind of client, walked through the node's rules.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane::userspace::{self, unserved};
use model::Mode;
use plan::{Endpoint, Frontend, FrontendKind, PortPlan, Traffic};
use trace::{Facts, Origin, Outcome, Packet, Proto, Trace, Verdict, World};

use super::finding::{Cause, Finding, Weight, listed};
use super::subject::Subject;

/// How many names a sentence lists.
const MOST: usize = 5;
/// Addresses for documentation (RFC 5737, RFC 3849): nobody's.
const OUTSIDE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
const OUTSIDE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7));

/// What the plan says becomes of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Any of these.
    To(BTreeSet<(IpAddr, u16)>),
    Refused,
    Dropped,
}

/// One question and its answer.
#[derive(Debug)]
pub struct Probe {
    /// The Service port, as `namespace/name:port`.
    pub port: String,
    /// What kind of address is asked.
    kind: FrontendKind,
    /// The first packet.
    pub packet: Packet,
    /// What the plan says.
    pub expected: Expected,
    /// What the rules say.
    pub trace: Trace,
}

/// Asks for every frontend from every kind of client for which an address is known.
pub(crate) fn ask(
    subject: &Subject,
    facts: &Facts,
    world: &World,
    client: Option<IpAddr>,
) -> anyhow::Result<Vec<Probe>> {
    let mut probes = Vec::new();
    for (plan, node) in &subject.plans {
        let is_v4 = plan.cluster_ip.is_ipv4();
        let node_ip = node.node_ip.or_else(|| host_address(facts, is_v4));
        for frontend in plan.frontends() {
            let Some(dst) = frontend.ip.or(match &node.node_port_ips {
                Some(ips) => ips.iter().copied().find(|ip| !ip.is_loopback()),
                None => node_ip,
            }) else {
                continue;
            };
            for (from, src) in clients(subject, plan, &frontend, node_ip, client) {
                let proto = match plan.protocol {
                    model::Protocol::Tcp => Proto::TCP,
                    model::Protocol::Udp => Proto::UDP,
                    model::Protocol::Sctp => Proto::SCTP,
                };
                let packet = Packet::new(from, src, dst, proto, frontend.port.get());
                probes.push(Probe {
                    port: plan.name.to_string(),
                    kind: frontend.kind,
                    expected: match subject.mode {
                        Mode::Ipvs => expected_of_ipvs(plan, &frontend, from, src),
                        Mode::Userspace if unserved(plan).is_some() => Expected::Refused,
                        Mode::Iptables | Mode::Nftables | Mode::Userspace => {
                            expected(plan, &frontend, from, src)
                        }
                    },
                    trace: trace::walk(world, &packet)?,
                    packet,
                });
            }
        }
    }
    Ok(probes)
}

fn host_address(facts: &Facts, is_v4: bool) -> Option<IpAddr> {
    let all = facts
        .interfaces
        .iter()
        .filter(|i| i.name != "lo" && i.kind.as_deref() != Some("bridge"));
    let mut all = all.flat_map(|i| &i.addresses).map(ipnet::IpNet::addr);
    all.find(|ip| ip.is_ipv4() == is_v4)
}

/// The clients to ask for: a pod of this node that is no endpoint, the node, somebody outside. From
/// outside, cluster IPs are nobody's to connect to.
fn clients(
    subject: &Subject,
    plan: &PortPlan,
    frontend: &Frontend,
    node_ip: Option<IpAddr>,
    client: Option<IpAddr>,
) -> Vec<(Origin, IpAddr)> {
    let is_v4 = plan.cluster_ip.is_ipv4();
    let pod = subject
        .pods
        .iter()
        .copied()
        .find(|ip| ip.is_ipv4() == is_v4);
    let pod = pod.or_else(|| {
        // The last but one of the node's range: the last pod to get an address.
        let ranges = subject.node.as_ref()?.pod_cidrs.iter();
        let range = ranges.into_iter().find(|r| r.addr().is_ipv4() == is_v4)?;
        match (range.broadcast(), is_v4) {
            (IpAddr::V4(last), true) => Some(Ipv4Addr::from_bits(last.to_bits() - 1).into()),
            (last, _) => Some(last),
        }
    });
    let mut all = Vec::new();
    all.extend(pod.map(|ip| (Origin::Pod, ip)));
    all.extend(node_ip.map(|ip| (Origin::Node, ip)));
    if frontend.kind != FrontendKind::ClusterIp {
        let somebody = if is_v4 { OUTSIDE_V4 } else { OUTSIDE_V6 };
        all.push((Origin::Outside, somebody));
        if frontend.kind == FrontendKind::LoadBalancerIp {
            let allowed = plan.source_ranges.iter().map(ipnet::IpNet::network).next();
            all.extend(allowed.map(|ip| (Origin::Outside, ip)));
        }
        let client = client.filter(|ip| ip.is_ipv4() == is_v4);
        all.extend(client.map(|ip| (Origin::Outside, ip)));
    }
    all
}

fn to(endpoints: &[Endpoint]) -> Expected {
    Expected::To(endpoints.iter().map(|e| (e.ip, e.port)).collect())
}

/// Whether the client is in none of the source ranges.
fn is_restricted(plan: &PortPlan, frontend: &Frontend, src: IpAddr) -> bool {
    frontend.kind == FrontendKind::LoadBalancerIp
        && !plan.source_ranges.is_empty()
        && !plan.source_ranges.iter().any(|r| r.contains(&src))
}

/// IPVS cannot tell pods and the node from others, and uses other nodes' endpoints where there are
/// none here; the node itself is in no need of being in a source range.
fn expected_of_ipvs(plan: &PortPlan, frontend: &Frontend, from: Origin, src: IpAddr) -> Expected {
    if is_restricted(plan, frontend, src) && from != Origin::Node {
        return Expected::Dropped;
    }
    let is_local = if frontend.kind == FrontendKind::ClusterIp {
        plan.internal_local
    } else {
        plan.external_local
    };
    if is_local && !plan.local.is_empty() {
        to(&plan.local)
    } else if plan.cluster.is_empty() {
        Expected::Refused
    } else {
        to(&plan.cluster)
    }
}

fn expected(plan: &PortPlan, frontend: &Frontend, from: Origin, src: IpAddr) -> Expected {
    // An address that nobody can be reached at is refused before anybody asks who it is.
    if is_restricted(plan, frontend, src) && plan.has_any_endpoint {
        return Expected::Dropped;
    }
    let is_external = frontend.kind != FrontendKind::ClusterIp;
    match frontend.traffic {
        Traffic::Reject => Expected::Refused,
        Traffic::Cluster => to(&plan.cluster),
        // Pods and the node itself reach external addresses as if the policy were Cluster.
        Traffic::Local | Traffic::Drop if is_external && from != Origin::Outside => {
            to(&plan.cluster)
        }
        Traffic::Local => to(&plan.local),
        Traffic::Drop => Expected::Dropped,
    }
}

impl Probe {
    /// Whether the rules lead to the relay of userspace mode, whatever happens.
    pub(crate) fn is_relayed(&self) -> bool {
        let leads = |o: &Outcome| {
            let by = |s: &trace::Step| s.table == userspace::TABLE;
            o.verdict == Verdict::Accept && o.dnat.is_some() && o.path.iter().any(by)
        };
        self.trace.outcomes.iter().all(leads)
    }

    /// In iptables mode what refuses external addresses does not hang on OUTPUT: what the node
    /// itself sends to one that is not its own leaves, and whoever has the address answers.
    fn leaves_unasked(&self) -> bool {
        let leaves = |o: &Outcome| o.verdict == Verdict::Accept && o.out_iface.is_some();
        self.kind != FrontendKind::ClusterIp
            && self.packet.from == Origin::Node
            && self.trace.outcomes.iter().all(leaves)
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
}

/// Every check of this kind; of several clients to whom the same happens, it is said once.
pub(crate) fn findings(probes: &[Probe]) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    for probe in probes {
        for finding in lost(probe).into_iter().chain(differs(probe)) {
            let same = |f: &&mut Finding| f.cause == finding.cause && f.change == finding.change;
            if found.iter_mut().find(same).is_none() {
                found.push(finding);
            }
        }
    }
    found
}

/// A step that belongs to no rule of Services: neither kube-proxy's nor sluice's.
fn is_foreign(step: &trace::Step) -> bool {
    let own = ["kube-proxy", userspace::TABLE];
    let is_rule = !step.table.is_empty() && !step.chain.starts_with("KUBE-");
    is_rule && !own.contains(&step.table.as_str())
}

/// Connections that the plan delivers and that get lost on the way, by what they are lost to.
pub(crate) fn lost(probe: &Probe) -> Vec<Finding> {
    if !matches!(probe.expected, Expected::To(_)) {
        return Vec::new();
    }
    let mut found = Vec::new();
    let gone = |o: &&Outcome| o.verdict != Verdict::Accept;
    for outcome in probe.trace.outcomes.iter().filter(gone) {
        let Some(step) = outcome.path.last() else {
            continue;
        };
        let whole = probe.trace.outcomes.iter().all(|o| gone(&o));
        let weight = if whole {
            Weight::Broken
        } else {
            Weight::Partly
        };
        let who = probe.question();
        let finding = if is_foreign(step) {
            Finding::new(
                weight,
                Cause::ForeignDrop,
                format!(
                    "{who}: {} in {}, table {}, chain {}, by: {}",
                    if outcome.verdict == Verdict::Reject {
                        "refused"
                    } else {
                        "dropped"
                    },
                    step.hook,
                    step.table,
                    step.chain,
                    step.rule
                ),
                format!(
                    "this rule is not of Services: look who made chain {} of table {}, and let the \
                     connection through there",
                    step.chain, step.table
                ),
            )
        } else if step.did == trace::Did::ReversePath {
            Finding::new(
                weight,
                Cause::ReversePath,
                format!("{who}: {}", step.effect),
                "add the route back, or set rp_filter to 2 (loose) on that interface and on all",
            )
        } else if step.hook == "routing" && outcome.dnat.is_some() && is_no_route(step) {
            let to = outcome.dnat.map(|e| e.to_string()).unwrap_or_default();
            Finding::new(
                weight,
                Cause::NoRoute,
                format!(
                    "{who}: is sent to {to}, and there is no way there ({})",
                    step.rule
                ),
                "look at the pod network: the CNI has to add a route to that node's pods",
            )
        } else {
            continue;
        };
        found.push(finding);
    }
    found
}

/// Forwarding that is off has a finding of its own.
fn is_no_route(step: &trace::Step) -> bool {
    matches!(
        step.did,
        trace::Did::NoRoute | trace::Did::Dropped | trace::Did::Rejected(_)
    )
}

/// Rules that do not do what the plan says.
pub(crate) fn differs(probe: &Probe) -> Option<Finding> {
    let outcomes = &probe.trace.outcomes;
    let given: BTreeSet<(IpAddr, u16)> = outcomes
        .iter()
        .filter_map(|o| o.dnat)
        .map(|e| (e.ip, e.port))
        .collect();
    let all = |verdict: Verdict| outcomes.iter().all(|o| o.verdict == verdict);
    let shown = |set: &BTreeSet<(IpAddr, u16)>| {
        listed(
            set.iter().map(|(ip, port)| trace::Endpoint {
                ip: *ip,
                port: *port,
            }),
            MOST,
        )
    };
    let (plan, kernel) = match &probe.expected {
        Expected::To(wanted) if *wanted == given => return None,
        // Whom the relay connects to is its own choice, out of reach of any rule.
        Expected::To(_) if probe.is_relayed() => return None,
        // On the way to an address of nobody, before any rule of Services was asked.
        Expected::To(_) if given.is_empty() && !lost(probe).is_empty() => return None,
        Expected::To(wanted) => {
            let kernel = if given.is_empty() {
                "no rule sends them anywhere".to_owned()
            } else {
                format!("the rules send them to {}", shown(&given))
            };
            (format!("connections go to {}", shown(wanted)), kernel)
        }
        Expected::Refused if given.is_empty() && probe.leaves_unasked() => return None,
        // Whether it is told or not, it does not get through.
        Expected::Refused if given.is_empty() && all(Verdict::Reject) => return None,
        Expected::Dropped if given.is_empty() && (all(Verdict::Drop) || all(Verdict::Reject)) => {
            return None;
        }
        Expected::Refused => ("connections are refused".to_owned(), verdicts(probe)),
        Expected::Dropped => ("connections are dropped".to_owned(), verdicts(probe)),
    };
    Some(Finding::new(
        Weight::Broken,
        Cause::RulesDiffer,
        format!(
            "{}: by the objects {plan}; in the kernel {kernel}",
            probe.question()
        ),
        "the node's rules are not those of these objects: is the proxy running, and what does it \
         log? Are the objects this cluster's, and the dumps this node's?",
    ))
}

fn verdicts(probe: &Probe) -> String {
    let all = probe.trace.summary();
    let shown = all.iter().map(|s| match s.dnat {
        Some(to) => format!("{} with destination {to}", s.verdict),
        None => s.verdict.to_string(),
    });
    format!("they meet: {}", listed(shown, MOST))
}
