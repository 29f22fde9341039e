//! Why a Service does not respond.
//!
//! Compares three views: what the objects state, what the plan of this node makes of them, and what
//! the node's rules do to connections from each kind of client. Each cause is a small check over
//! these, in `objects`, `node` and `probe`; `connect` connects to the endpoints.

mod clash;
mod clients;
mod connect;
mod desired;
mod differ;
mod expect;
mod finding;
mod flows;
mod inspector;
mod node;
mod objects;
mod owner;
mod pods;
mod probe;
mod ranges;
mod route;
mod source;
mod sources;
mod subject;
#[cfg(test)]
mod tests;
mod text;

use std::net::IpAddr;

use model::{Event, IpFamily, Mode};
use serde::Serialize;
use serde_json::Value;
use trace::{Facts, World};

pub use expect::{Expectation, Expected};
pub use finding::{Cause, Finding, Weight};
pub use flows::KnownFlow;
pub(crate) use inspector::Checker;
pub use inspector::{Given, Inspector};
pub(crate) use objects::not_served;
pub use probe::Probe;
use subject::Objects;
pub use subject::{Cluster, Subject};

/// A Service in the objects, in the plan and in the node's rules.
#[derive(Debug)]
pub struct Asked<'i> {
    /// Connections from each kind of client.
    pub probes: Vec<Probe>,
    pub(crate) inspector: &'i Inspector,
    pub(crate) subject: Subject<'i>,
    client: Option<IpAddr>,
    notes: Vec<String>,
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

/// Return the addresses of the host's interfaces, without those that ipvs mode gives it.
pub fn addresses(facts: &Facts) -> Vec<IpAddr> {
    let interfaces = facts.interfaces.iter();
    let own = interfaces.filter(|i| i.name != dataplane::ipvs::DEVICE);
    let all = own.flat_map(|i| &i.addresses);
    all.map(ipnet::IpNet::addr).collect()
}

impl Asked<'_> {
    /// Return everything that the checks find, and the walks of the connections. With `connect`, also try
    /// the endpoints from this node.
    pub fn explain(&self, known: &[KnownFlow], connect: bool) -> Explanation {
        Explanation {
            connections: self.probes.iter().map(connection).collect(),
            ..self.explain_without_walks(known, connect)
        }
    }

    /// As [`Self::explain`], without connections: with a million rules, their walks have millions of steps.
    pub fn explain_without_walks(&self, known: &[KnownFlow], connect: bool) -> Explanation {
        let (inspector, subject) = (self.inspector, &self.subject);
        let mut findings = objects::findings(subject, self.client);
        findings.extend(inspector.refused_ports(subject).map(Refused::finding));
        let (facts, probes) = (&inspector.facts, &self.probes);
        findings.extend(node::settings(subject, facts, probes));
        findings.extend(flows::findings(subject, known, probes));
        let desired = inspector.desired();
        let naming = |probe: &Probe| desired.difference(probe, &inspector.world);
        findings.extend(probe::findings(probes, &naming));
        let host = &inspector.world.host;
        findings.extend(route::findings(subject, facts, host, probes, known));
        if connect {
            findings.extend(connect::findings(subject, connect::tcp));
        }
        // Stable: of equal weight, causes in the objects precede those in the kernel.
        findings.sort_by_key(|f| f.weight);
        Explanation {
            service: subject.service.name.to_string(),
            node: subject.cluster.node_name.clone(),
            text: text::text(subject, &self.probes, &findings, &self.notes),
            findings,
            connections: Vec::new(),
            notes: self.notes.clone(),
        }
    }

    /// Return the connections to the Service in this host's connection tracking, and a note if they
    /// cannot be read.
    pub fn known_flows(&self) -> (Vec<KnownFlow>, Option<String>) {
        let mut found = Vec::new();
        let read = flows::read(&self.subject, &mut found);
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
