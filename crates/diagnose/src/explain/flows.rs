//! Known connections: what connection tracking contains about a Service.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use kernel::conntrack::{Conntrack, Filter, Flow};
use kernel::netlink::Error;
use model::Protocol;
use plan::PortPlan;
use trace::Verdict;

use super::finding::{Cause, Finding, Weight, listed};
use super::probe::Probe;
use super::subject::{Cluster, Subject};

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

impl From<&Flow> for KnownFlow {
    fn from(flow: &Flow) -> Self {
        Self {
            protocol: flow.original.protocol.0,
            client: flow.original.source(),
            asked: flow.original.destination(),
            given: SocketAddr::new(flow.reply.source, flow.reply.source_port),
            is_answered: flow.status.seen_reply(),
        }
    }
}

/// The known connections to all Services.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    /// By protocol, address (`None` for an address of the node) and port.
    by_frontend: HashMap<(u8, Option<IpAddr>, u16), Vec<KnownFlow>>,
}

impl Flows {
    /// Read the connections to all Services from this host.
    pub(crate) fn read(cluster: &Cluster) -> Result<Self, Error> {
        let mut flows = Self::default();
        for port in cluster.plans.iter().flat_map(|plan| plan.ports.values()) {
            for frontend in port.frontends() {
                let key = (port.protocol.number(), frontend.ip, frontend.port.get());
                flows.by_frontend.entry(key).or_default();
            }
        }
        let mut conntrack = Conntrack::open()?;
        for family in [kernel::Family::Ipv4, kernel::Family::Ipv6] {
            conntrack.dump(&Filter::all(family), |flow| {
                let known = KnownFlow::from(flow);
                let (ip, port) = (known.asked.ip(), known.asked.port());
                let is_own = cluster.own_addresses.contains(&ip);
                let keys = [Some(Some(ip)), is_own.then_some(None)];
                for address in keys.into_iter().flatten() {
                    let key = (known.protocol, address, port);
                    if let Some(all) = flows.by_frontend.get_mut(&key) {
                        all.push(known);
                    }
                }
            })?;
        }
        Ok(flows)
    }

    /// Return the connections to one Service.
    pub(crate) fn to(&self, subject: &Subject<'_>) -> Vec<KnownFlow> {
        let mut found = Vec::new();
        for (plan, _) in &subject.plans {
            for frontend in plan.frontends() {
                let key = (plan.protocol.number(), frontend.ip, frontend.port.get());
                found.extend(self.by_frontend.get(&key).into_iter().flatten());
            }
        }
        found
    }
}

/// Read the connections to one Service from this host.
pub(crate) fn read(subject: &Subject<'_>, found: &mut Vec<KnownFlow>) -> Result<(), Error> {
    let mut conntrack = Conntrack::open()?;
    for (plan, _) in &subject.plans {
        for frontend in plan.frontends() {
            let is_v4 = plan.cluster_ip.is_ipv4();
            let filter = Filter {
                destination: frontend.ip,
                ..Filter::all(if is_v4 {
                    kernel::Family::Ipv4
                } else {
                    kernel::Family::Ipv6
                })
            };
            conntrack.dump(&filter, |flow| {
                let known = KnownFlow::from(flow);
                let is_asked = known.asked.port() == frontend.port.get();
                let is_here = frontend.ip.is_some() || subject.is_own(known.asked.ip());
                if is_asked && is_here {
                    found.push(known);
                }
            })?;
        }
    }
    Ok(())
}

/// Run every check of known connections.
pub(crate) fn findings(
    subject: &Subject<'_>,
    flows: &[KnownFlow],
    probes: &[Probe],
) -> Vec<Finding> {
    let new = destinations(probes);
    let plans = subject.plans.iter();
    plans
        .filter_map(|(plan, _)| stale(subject, plan, flows, &new))
        .collect()
}

/// Return where the rules lead new connections.
fn destinations(probes: &[Probe]) -> BTreeSet<SocketAddr> {
    let outcomes = probes.iter().flat_map(|p| &p.trace.outcomes);
    let delivered = outcomes.filter(|o| o.verdict == Verdict::Accept);
    delivered
        .map(|o| SocketAddr::new(o.dst.ip, o.dst.port))
        .collect()
}

/// Find flows that keep going to a removed endpoint. Every further datagram of a UDP client follows its
/// flow, and so do new SCTP associations from the same port. A TCP flow only matters to its own
/// connection, and only if that is not established; a new connection has another port.
///
/// A flow to where the rules lead `new` connections is not stale: a relay, or a program on this node.
fn stale(
    subject: &Subject<'_>,
    plan: &PortPlan,
    flows: &[KnownFlow],
    new: &BTreeSet<SocketAddr>,
) -> Option<Finding> {
    let protocol = plan.protocol.number();
    let good: BTreeSet<SocketAddr> = plan
        .reachable()
        .iter()
        .chain(plan.flow_endpoints.iter())
        .map(|e| SocketAddr::new(e.ip, e.port))
        .collect();
    let asked = |flow: &&KnownFlow| {
        plan.frontends().any(|f| {
            let asked = flow.asked.ip();
            f.port.get() == flow.asked.port()
                && f.ip.map_or_else(|| subject.is_own(asked), |ip| ip == asked)
        })
    };
    let stale: Vec<&KnownFlow> = flows
        .iter()
        .filter(|f| f.protocol == protocol && !good.contains(&f.given))
        .filter(|f| !new.contains(&f.given))
        // Refused, because the Service has no endpoints.
        .filter(|f| !(good.is_empty() && f.given == f.asked))
        .filter(|f| plan.protocol != Protocol::Tcp || !f.is_answered)
        .filter(asked)
        .collect();
    let first = stale.first()?;
    let shown = stale.iter().map(|f| format!("{} -> {}", f.client, f.given));
    let weight = match plan.protocol {
        Protocol::Tcp => Weight::Note,
        Protocol::Udp | Protocol::Sctp => Weight::Partly,
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
