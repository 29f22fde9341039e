//! Why a Service does not respond.
//!
//! Compares three views: what the objects state, what the plan of this node makes of them, and what
//! the node's rules do to connections from each kind of client. Each cause is a small check over
//! these, in `objects`, `node` and `probe`; `connect` connects to the endpoints.

mod clash;
mod connect;
mod desired;
mod differ;
mod expect;
mod finding;
mod node;
mod objects;
mod owner;
mod pods;
mod probe;
mod ranges;
mod route;
mod source;
mod subject;
#[cfg(test)]
mod tests;
mod text;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kernel::conntrack::{Conntrack, Filter};
use model::{Event, IpFamily, Mode, Service};
use plan::Settings;
use serde::Serialize;
use serde_json::Value;
use trace::{Facts, World};

use desired::Desired;
pub use expect::{Expectation, Expected};
pub use finding::{Cause, Finding, Weight};
pub use node::KnownFlow;
use pods::Pods;
pub use probe::Probe;
use probe::Setting;
use subject::Objects;
pub use subject::{Cluster, Subject};

/// A question about one Service.
#[derive(Debug)]
pub struct Question<'a> {
    /// NAMESPACE/NAME, NAMESPACE/NAME:PORT, an address of the Service, or a NodePort.
    pub service: &'a str,
    /// All objects.
    pub events: Vec<Event>,
    /// The settings of the node's plan, with the node's name.
    pub settings: Settings,
    /// The node's interfaces, addresses and sysctls.
    pub facts: Facts,
    /// Its rules and routes.
    pub world: World,
    /// A client outside the cluster to probe in addition.
    pub client: Option<IpAddr>,
    /// The rules come from files: a family without rules is unknown, not empty.
    pub is_partial: bool,
    /// The settings are the running proxy's, not the defaults.
    pub is_configured: bool,
}

/// A Service in the objects, in the plan and in the node's rules.
#[derive(Debug)]
pub struct Asked {
    /// The node's rules and routes.
    pub world: World,
    /// Connections from each kind of client.
    pub probes: Vec<Probe>,
    service: String,
    facts: Facts,
    cluster: Cluster,
    mode: Mode,
    client: Option<IpAddr>,
    notes: Vec<String>,
    refused: Vec<Refused>,
}

/// A Service port that the running proxy reports as refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// `namespace/name:port`, or `namespace/name` for an unnamed port.
    pub port: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The message of the kernel or the relay.
    pub reason: String,
}

impl Refused {
    /// Return the problem.
    pub fn finding(&self) -> Finding {
        Finding::new(
            Weight::Broken,
            Cause::Quarantined,
            format!(
                "the running proxy cannot program {}/{}, whose last accepted state stays in force: {}",
                self.port, self.protocol, self.reason
            ),
            "remove the cause; the proxy tries the port again when it changes and in every resync",
        )
    }
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// `namespace/name`.
    pub service: String,
    /// The node to which it applies.
    pub node: String,
    /// Problems and notes, the most severe first.
    pub findings: Vec<Finding>,
    /// Connections through the node's rules.
    pub connections: Vec<Connection>,
    /// Limits of the answer.
    pub notes: Vec<String>,
    #[serde(skip)]
    text: String,
}

/// A probed connection.
#[derive(Clone, Debug, Serialize)]
pub struct Connection {
    /// The Service port, as `namespace/name:port`.
    pub port: String,
    /// The kind of client.
    pub from: String,
    /// The client's address.
    pub src: IpAddr,
    /// Address and port of the frontend.
    pub dst: String,
    /// The walk through the rules, as [`trace::to_json`] returns it.
    pub trace: Value,
}

impl Explanation {
    /// Return whether no connection fails.
    pub fn is_healthy(&self) -> bool {
        self.findings.iter().all(|f| f.weight == Weight::Note)
    }

    /// Return the explanation for people: the findings first, then objects, plan and connections.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Return the name of the node among the objects: `named`, or `here`, or the Node that has one of
/// the addresses.
///
/// # Errors
/// The objects contain Nodes, and none of them is meant.
pub fn node_name(
    events: &[Event],
    named: Option<&str>,
    here: String,
    interfaces: &[IpAddr],
) -> anyhow::Result<String> {
    Objects::of(events).node_name(named, here, interfaces)
}

/// Find the Service and walk connections to it.
///
/// # Errors
/// No Service is meant, or the rules contain an endless loop.
pub fn ask(question: Question<'_>) -> anyhow::Result<Asked> {
    let Question {
        service,
        events,
        settings,
        facts,
        world,
        client,
        is_partial,
        is_configured,
    } = question;
    let cluster = Cluster::new(events, settings, addresses(&facts));
    let mode = mode_of(&world);
    let subject = cluster.find(service, mode)?;
    let pods = Pods::of(&cluster, &facts, &world.host);
    let setting = Setting {
        facts: &facts,
        world: &world,
        client,
        is_configured,
        pods: &pods,
        is_thorough: true,
    };
    let mut probes = probe::ask(&subject, setting)?;
    let mut notes = world.warnings.clone();
    if is_partial {
        for family in IpFamily::ALL {
            notes.extend(only_known(&world, family, &mut probes));
        }
    }
    Ok(Asked {
        service: service.to_owned(),
        world,
        probes,
        facts,
        cluster,
        mode,
        client,
        notes,
        refused: Vec::new(),
    })
}

/// Return the mode that has objects of its own in the kernel, or iptables mode, which has only rules.
pub fn mode_of(world: &World) -> Mode {
    let has_table = |name: &str| world.nft.tables.iter().any(|table| *table.name == *name);
    if !world.ipvs.services.is_empty() {
        Mode::Ipvs
    } else if has_table(dataplane::userspace::TABLE) {
        Mode::Userspace
    } else if has_table(dataplane::nftables::TABLE) {
        Mode::Nftables
    } else {
        Mode::Iptables
    }
}

/// Upper bound on the differences that a check of all Services names.
const MOST_NAMED: usize = 100;

/// The node and the objects against which all Services are checked.
#[derive(Debug)]
pub(crate) struct Checker<'a> {
    cluster: &'a Cluster,
    world: &'a World,
    facts: &'a Facts,
    pods: Pods,
    desired: Desired<'a>,
    /// How many differences were named.
    named: AtomicUsize,
    /// The rules come from files: a family without rules is unknown, not empty.
    is_partial: bool,
    is_configured: bool,
}

impl<'a> Checker<'a> {
    pub(crate) fn new(
        cluster: &'a Cluster,
        facts: &'a Facts,
        world: &'a World,
        (is_partial, is_configured): (bool, bool),
    ) -> Self {
        Self {
            cluster,
            world,
            facts,
            pods: Pods::of(cluster, facts, &world.host),
            desired: Desired::new(cluster, mode_of(world), facts),
            named: AtomicUsize::new(0),
            is_partial,
            is_configured,
        }
    }

    /// Check the rules for one Service; return the number of connections, and the findings. The clients
    /// of a thorough check are pods of every kind.
    pub(crate) fn check(
        &self,
        service: &Arc<Service>,
        is_thorough: bool,
    ) -> anyhow::Result<(usize, Vec<Finding>)> {
        let ports = service.ports.clone();
        let subject = self
            .cluster
            .subject(Arc::clone(service), ports, self.desired.mode);
        if objects::not_served(&subject).is_some() {
            return Ok((0, Vec::new()));
        }
        let setting = Setting {
            facts: self.facts,
            world: self.world,
            client: None,
            is_configured: self.is_configured,
            pods: &self.pods,
            is_thorough,
        };
        let mut probes = probe::ask(&subject, setting)?;
        if self.is_partial {
            for family in IpFamily::ALL {
                only_known(self.world, family, &mut probes);
            }
        }
        let mut findings = clash::cut_off(&subject);
        findings.extend(node::settings(&subject, self.facts));
        let naming = |probe: &Probe| {
            // Naming searches whole sets; a group of problems shows one example.
            let count = self.named.fetch_add(1, Ordering::Relaxed);
            let is_named = count < MOST_NAMED;
            is_named.then(|| self.desired.difference(probe, self.world))?
        };
        findings.extend(probe::findings(&probes, &naming));
        Ok((probes.len(), findings))
    }
}

/// Return the addresses of the host's interfaces, without those that ipvs mode gives it.
pub fn addresses(facts: &Facts) -> Vec<IpAddr> {
    let interfaces = facts.interfaces.iter();
    let own = interfaces.filter(|i| i.name != dataplane::ipvs::DEVICE);
    let all = own.flat_map(|i| &i.addresses);
    all.map(ipnet::IpNet::addr).collect()
}

impl Asked {
    fn subject(&self) -> anyhow::Result<Subject<'_>> {
        self.cluster.find(&self.service, self.mode)
    }

    /// Add what the running proxy reports about refused Service ports.
    pub fn add_refused(&mut self, refused: Vec<Refused>) {
        self.refused.extend(refused);
    }

    /// Return everything that the checks find. With `connect`, also try the endpoints from this node.
    ///
    /// # Errors
    /// As [`ask`].
    pub fn explain(self, flows: &[KnownFlow], connect: bool) -> anyhow::Result<Explanation> {
        let subject = &self.subject()?;
        let mut findings = objects::findings(subject, self.client);
        let plans = subject.plans.iter().map(|(plan, _)| plan);
        let ports: Vec<_> = plans
            .map(|plan| (plan.name.to_string(), plan.protocol.upper()))
            .collect();
        let is_asked = |refused: &&Refused| {
            let mut ports = ports.iter();
            ports.any(|(name, protocol)| *name == refused.port && *protocol == refused.protocol)
        };
        let refused = self.refused.iter().filter(is_asked);
        findings.extend(refused.map(Refused::finding));
        findings.extend(node::findings(subject, &self.facts, flows, &self.probes));
        let desired = Desired::new(&self.cluster, self.mode, &self.facts);
        let naming = |probe: &Probe| desired.difference(probe, &self.world);
        findings.extend(probe::findings(&self.probes, &naming));
        if connect {
            findings.extend(connect::findings(subject, connect::tcp));
        }
        // Stable: of equal weight, causes in the objects precede those in the kernel.
        findings.sort_by_key(|f| f.weight);
        Ok(Explanation {
            service: subject.service.name.to_string(),
            node: subject.cluster.node_name.clone(),
            text: text::text(subject, &self.probes, &findings, &self.notes),
            findings,
            connections: self.probes.iter().map(connection).collect(),
            notes: self.notes.clone(),
        })
    }

    /// Return the connections to the Service in this host's connection tracking, and a note if they
    /// cannot be read.
    pub fn known_flows(&self) -> (Vec<KnownFlow>, Option<String>) {
        let mut found = Vec::new();
        let read = self
            .subject()
            .and_then(|subject| Ok(read_flows(&subject, &mut found)?));
        let note = read
            .err()
            .map(|e| format!("known connections are not considered: {e}"));
        (found, note)
    }
}

fn connection(probe: &Probe) -> Connection {
    let packet = &probe.packet;
    Connection {
        port: probe.port.clone(),
        from: packet.from.to_string(),
        src: packet.src,
        dst: trace::Endpoint {
            ip: packet.dst,
            port: packet.dport,
        }
        .to_string(),
        trace: trace::to_json(&probe.trace),
    }
}

fn read_flows(
    subject: &Subject<'_>,
    found: &mut Vec<KnownFlow>,
) -> Result<(), kernel::netlink::Error> {
    let mut conntrack = Conntrack::open()?;
    for (plan, _) in &subject.plans {
        for ip in plan.frontends().filter_map(|f| f.ip) {
            let filter = Filter {
                destination: Some(ip),
                ..Filter::all(kernel::Family::of(ip))
            };
            conntrack.dump(&filter, |flow| {
                found.push(KnownFlow {
                    protocol: flow.original.protocol.0,
                    client: flow.original.source(),
                    asked: flow.original.destination(),
                    given: SocketAddr::new(flow.reply.source, flow.reply.source_port),
                    is_answered: flow.status.seen_reply(),
                });
            })?;
        }
    }
    Ok(())
}

/// Drop the probes of a family whose rules no file contains, and return a note about it.
fn only_known(world: &World, family: IpFamily, probes: &mut Vec<Probe>) -> Option<String> {
    use netfilter::iptables::Family::{Ipv4, Ipv6};
    use netfilter::nft_lang::TableFamily::{Inet, Ip, Ip6};
    let (of_iptables, of_nft) = match family {
        IpFamily::V4 => (Ipv4, Ip),
        IpFamily::V6 => (Ipv6, Ip6),
    };
    let mut tables = world.nft.tables.iter();
    let is_known = world.all_iptables().any(|set| set.family == of_iptables)
        || tables.any(|t| t.family == of_nft || t.family == Inet);
    let before = probes.len();
    probes.retain(|p| is_known || IpFamily::of(p.packet.dst) != family);
    (probes.len() < before)
        .then(|| format!("no file contains {family} rules: {family} is not checked"))
}
