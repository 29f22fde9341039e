//! Compares the rules of a node with the plan, for all Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use model::{IpFamily, NamespacedName};
use netfilter::iptables::{Chain, Match, Table, TableSet, Target};
use netfilter::ipvs::ServiceId;
use netfilter::nft_lang::{Item, Literal};
use serde::Serialize;
use trace::World;

use crate::explain::{Cause, Checker, Cluster, Finding, Inspector, Refused, Weight};

/// How many Services a group names.
const MOST: usize = 10;

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct Verification {
    /// The node's name.
    pub node: String,
    /// How many Services were checked.
    pub services: usize,
    /// How many connections were walked.
    pub connections: usize,
    /// Problems, grouped by cause and fix, the most severe first.
    pub problems: Vec<Group>,
    /// Limits of the answer.
    pub notes: Vec<String>,
}

/// Problems with the same cause and the same fix.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// Their severity.
    pub weight: Weight,
    /// The kind of cause.
    pub cause: Cause,
    /// How many Services have it; 0 if it concerns the node.
    pub count: usize,
    /// Some of these Services.
    pub services: Vec<String>,
    #[serde(skip)]
    all: BTreeSet<String>,
    /// The first of the problems.
    pub example: String,
    /// The fix.
    pub change: String,
}

impl Group {
    fn new(
        (weight, cause, change): (Weight, Cause, String),
        example: String,
        all: BTreeSet<String>,
    ) -> Self {
        Group {
            weight,
            cause,
            count: all.len(),
            services: all.iter().take(MOST).cloned().collect(),
            all,
            example,
            change,
        }
    }
}

impl Verification {
    /// Drop the problems that an earlier answer about the same node lacks: those were changes on their way
    /// to the kernel.
    pub fn confirm(&mut self, earlier: &Verification) {
        self.problems.retain_mut(|group| {
            let same = |g: &&Group| (g.cause, &g.change) == (group.cause, &group.change);
            let Some(before) = earlier.problems.iter().find(same) else {
                return false;
            };
            let is_of_node = group.all.is_empty();
            group.all.retain(|name| before.all.contains(name));
            group.count = group.all.len();
            group.services = group.all.iter().take(MOST).cloned().collect();
            is_of_node || group.count > 0
        });
    }

    /// Return whether the rules do what the objects state.
    pub fn is_healthy(&self) -> bool {
        self.problems.is_empty()
    }

    /// Return the answer as text.
    pub fn text(&self) -> String {
        let verdict = match self.problems.len() {
            0 => "no problems".to_owned(),
            1 => "1 kind of problem".to_owned(),
            n => format!("{n} kinds of problems"),
        };
        let mut out = format!(
            "{}: {verdict} found ({} Services, {} connections)\n",
            self.node, self.services, self.connections
        );
        for (number, group) in (1..).zip(&self.problems) {
            let partly = match group.weight {
                Weight::Partly => " (in part)",
                Weight::Broken | Weight::Note => "",
            };
            let of = match group.count {
                0 => String::new(),
                n => {
                    let more = n.saturating_sub(group.services.len());
                    let more = match more {
                        0 => String::new(),
                        more => format!(", … and {more} more"),
                    };
                    let plural = if n == 1 { "" } else { "s" };
                    format!(
                        " in {n} Service{plural} ({}{more})",
                        group.services.join(", ")
                    )
                }
            };
            out += &format!(
                "  {number}. {}{partly}{of}\n     {}\n",
                group.cause, group.example
            );
            if !group.change.is_empty() {
                out += &format!("     fix: {}\n", group.change);
            }
        }
        for note in &self.notes {
            out += &format!("note: {note}\n");
        }
        out
    }
}

/// The findings about each Service, and about the node.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// How many Services were checked.
    pub services: usize,
    /// How many connections were walked.
    pub connections: usize,
    /// The findings about the Services that have some, by name.
    pub findings: BTreeMap<NamespacedName, Vec<Finding>>,
    stale: Vec<Finding>,
}

/// Check every Service. `progress` receives how many of them are done.
///
/// # Errors
/// The rules contain an endless loop.
pub fn check(
    inspector: &Inspector,
    progress: impl Fn(usize, usize) + Sync,
) -> anyhow::Result<Checked> {
    let services = inspector.cluster.services();
    let checker = Checker::new(inspector);
    let first = services.iter().position(|s| !s.cluster_ips.is_empty());
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let found = Mutex::new((Checked::default(), None));
    let work = || {
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(service) = services.get(place) else {
                break;
            };
            let result = checker.check(service, Some(place) == first);
            let mut found = found
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            match result {
                Ok((connections, findings)) => {
                    found.0.connections += connections;
                    if !findings.is_empty() {
                        found.0.findings.insert(service.name.clone(), findings);
                    }
                }
                Err(error) => found.1 = Some(error),
            }
            drop(found);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, services.len());
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    let (mut checked, error) = found
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(error) = error {
        return Err(error);
    }
    checked.services = services.len();
    checked.stale = stale(&inspector.cluster, &inspector.world);
    Ok(checked)
}

/// Check every Service, and group the problems. `progress` receives how many Services are done.
///
/// # Errors
/// As [`check`].
pub fn verify(
    inspector: &Inspector,
    progress: impl Fn(usize, usize) + Sync,
) -> anyhow::Result<Verification> {
    Ok(grouped(inspector, &check(inspector, progress)?))
}

/// Group findings by weight, cause and fix, and add the Service ports that the running proxy reports as
/// refused.
pub fn grouped(inspector: &Inspector, checked: &Checked) -> Verification {
    let mut groups: BTreeMap<(Weight, Cause, &str), (&str, BTreeSet<&NamespacedName>)> =
        BTreeMap::new();
    let of_services = checked.findings.iter();
    let of_services = of_services.flat_map(|(name, all)| all.iter().map(move |f| (f, Some(name))));
    let of_node = checked.stale.iter().map(|finding| (finding, None));
    for (finding, service) in of_services.chain(of_node) {
        if finding.weight == Weight::Note {
            continue;
        }
        let key = (finding.weight, finding.cause, &*finding.change);
        let (_, services) = groups
            .entry(key)
            .or_insert_with(|| (&finding.what, BTreeSet::new()));
        services.extend(service);
    }
    let group = |((weight, cause, change), (example, services)): (_, (&str, BTreeSet<_>))| {
        let change: &str = change;
        let names = services.iter().map(ToString::to_string).collect();
        Group::new(
            (weight, cause, change.to_owned()),
            example.to_owned(),
            names,
        )
    };
    let refused = refused(&inspector.refused);
    Verification {
        node: inspector.cluster.node_name.clone(),
        services: checked.services,
        connections: checked.connections,
        problems: refused
            .into_iter()
            .chain(groups.into_iter().map(group))
            .collect(),
        notes: inspector.world.warnings.clone(),
    }
}

/// Return the problem of refused Service ports, if there are some.
fn refused(all: &[Refused]) -> Option<Group> {
    let finding = all.first()?.finding();
    let names = all.iter().map(|refused| refused.port.clone()).collect();
    let key = (finding.weight, finding.cause, finding.change);
    Some(Group::new(key, finding.what, names))
}

/// Address, protocol and port.
type Frontend = (IpAddr, u8, u16);

/// Find rules for frontends that no Service has.
fn stale(cluster: &Cluster, world: &World) -> Vec<Finding> {
    let mut known: BTreeSet<Frontend> = BTreeSet::new();
    let mut node_ports: BTreeSet<(u8, u16)> = BTreeSet::new();
    for family in IpFamily::ALL {
        for port in cluster.plan(family).ports.values() {
            let protocol = port.protocol.number();
            for frontend in port.frontends() {
                match frontend.ip {
                    Some(ip) => known.insert((ip, protocol, frontend.port.get())),
                    None => node_ports.insert((protocol, frontend.port.get())),
                };
            }
        }
    }
    let is_stale = |(ip, protocol, port): &Frontend| {
        let is_node_port =
            cluster.own_addresses.contains(ip) && node_ports.contains(&(*protocol, *port));
        !known.contains(&(*ip, *protocol, *port)) && !is_node_port
    };
    let mut found = Vec::new();
    let sources = [
        (
            "iptables-legacy",
            world.legacy.iter().flat_map(in_iptables).collect(),
        ),
        (
            "iptables",
            world.iptables.iter().flat_map(in_iptables).collect(),
        ),
        ("the nftables table kube-proxy", in_nft(world)),
        ("IPVS", in_ipvs(world)),
    ];
    for (place, frontends) in sources {
        let frontends: BTreeSet<Frontend> = frontends;
        let stale: Vec<&Frontend> = frontends.iter().filter(|f| is_stale(f)).collect();
        let Some((ip, protocol, port)) = stale.first() else {
            continue;
        };
        let first = trace::Endpoint {
            ip: *ip,
            port: *port,
        };
        let finding = Finding::new(
            Weight::Partly,
            Cause::StaleRules,
            format!(
                "{place} has rules for {} addresses and ports that no Service has, such as {first} \
                 (protocol {protocol})",
                stale.len()
            ),
            format!(
                "restart the proxy, which removes its stale rules; those of an earlier proxy in {place}: \
                 sluice cleanup"
            ),
        );
        found.push(finding.decided_by(place));
    }
    found
}

/// Return the frontends in KUBE-SERVICES.
fn in_iptables(set: &TableSet) -> Vec<Frontend> {
    let services = const { Chain::literal("KUBE-SERVICES") };
    let Some(chain) = set.chain(Table::Nat, services) else {
        return Vec::new();
    };
    let frontend = |rule: &netfilter::iptables::Rule| {
        let leads = matches!(&rule.target, Some(Target::Jump(to) | Target::Goto(to))
            if ["KUBE-SVC-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SVL-", "KUBE-XLB-"]
                .iter()
                .any(|prefix| to.as_str().starts_with(prefix)));
        let destination = rule
            .header
            .destination
            .as_ref()
            .filter(|d| leads && !d.negated)?;
        let protocol = rule.header.protocol.as_ref()?.value.0;
        let mut ports = rule.matches.iter().filter_map(|m| match m {
            Match::Tcp(tcp) => tcp.ports.destination.as_ref(),
            Match::Udp(p) | Match::Sctp(p) => p.destination.as_ref(),
            _ => None,
        });
        Some((
            destination.value.addr(),
            protocol,
            ports.next()?.value.first,
        ))
    };
    chain.rules.iter().filter_map(frontend).collect()
}

/// The sets and maps whose keys are frontends.
const FRONTEND_SETS: [&str; 2] = ["service-ips", "cluster-ip-ports"];

/// Return the frontends in the sets and maps of the table kube-proxy.
fn in_nft(world: &World) -> BTreeSet<Frontend> {
    let tables = world.nft.tables.iter();
    let tables = tables.filter(|t| *t.name == *dataplane::nftables::TABLE);
    let sets = tables.flat_map(|t| &t.sets);
    let sets = sets.filter(|s| FRONTEND_SETS.contains(&&*s.name));
    let elements = sets.flat_map(|s| &s.elements);
    let frontend = |key: &[Item]| match key {
        [
            Item::Value(Literal::Ip(ip)),
            Item::Value(Literal::Int(protocol)),
            Item::Value(Literal::Int(port)),
        ] => Some((
            *ip,
            u8::try_from(*protocol).ok()?,
            u16::try_from(*port).ok()?,
        )),
        _ => None,
    };
    elements.filter_map(|e| frontend(&e.key)).collect()
}

/// Return the frontends of virtual servers.
fn in_ipvs(world: &World) -> BTreeSet<Frontend> {
    let frontend = |id: &ServiceId| match id {
        ServiceId::Address { protocol, address } => {
            Some((address.ip(), protocol.number(), address.port()))
        }
        ServiceId::Mark { .. } => None,
    };
    let all = world.ipvs.services.iter();
    all.filter_map(|s| frontend(&s.id)).collect()
}
