//! The scenarios of `testdata/scenarios`: what happens to connections through Services, in every
//! mode. Set `UPDATE=1` to write the outcomes that the tracer computes into the files, and check
//! them against the Service API before committing them.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use common::modes::{self, Mode};
use dataplane::userspace::Spread;
use model::{Change, Event, IpFamily};
use plan::{LocalTraffic, NodePortAddresses, Plan, Planner, Settings};
use trace::{Origin, Packet, Proto, Summary, Verdict, World, walk};

/// A scenario file, split at its headings.
struct Scenario {
    intro: String,
    settings: String,
    objects: String,
    /// `to …` and `from …` lines, with the outcomes that the file states.
    connections: String,
    /// What the plan contains besides frontends and endpoints.
    plan: String,
}

const HEADINGS: [&str; 4] = ["settings", "objects", "connections", "plan"];

impl Scenario {
    fn read(text: &str) -> Self {
        let mut sections = BTreeMap::<&str, String>::new();
        let mut current = "";
        for line in text.lines() {
            match line.strip_prefix("--- ") {
                Some(heading) => {
                    assert!(HEADINGS.contains(&heading), "unknown heading {heading}");
                    current = heading;
                }
                None => *sections.entry(current).or_default() += &format!("{line}\n"),
            }
        }
        let mut take = |heading| sections.remove(heading).unwrap_or_default();
        Self {
            intro: take(""),
            settings: take("settings"),
            objects: take("objects"),
            connections: take("connections"),
            plan: take("plan"),
        }
    }

    fn write(&self) -> String {
        let mut text = self.intro.clone();
        let parts = [&self.settings, &self.objects, &self.connections, &self.plan];
        for (heading, part) in HEADINGS.iter().zip(parts) {
            if !part.is_empty() {
                write!(text, "--- {heading}\n{part}").unwrap();
            }
        }
        text
    }

    fn events(&self) -> Vec<Event> {
        let path = Path::new("objects.yaml");
        let batch = source::manifests::read_bytes(path, self.objects.as_bytes());
        assert!(batch.problems.is_empty(), "{:?}", batch.problems);
        batch.events
    }

    /// The plan's settings: those of a kubeadm cluster, with the fields that the scenario sets.
    fn settings(&self) -> Settings {
        let mut settings = plan::testing::settings("node1");
        for line in self.settings.lines() {
            match line.split_once(": ").unwrap() {
                ("masqueradeAll", value) => settings.masquerade_all = value == "true",
                ("detectLocalMode", "NodeCIDR") => settings.local_traffic = LocalTraffic::NodeCidr,
                ("detectLocalMode", "none") => {
                    settings.local_traffic = LocalTraffic::ClusterCidr(Vec::new());
                }
                ("nodePortAddresses", "primary") => {
                    settings.node_port_addresses = NodePortAddresses::Primary;
                }
                ("nodePortAddresses", range) => {
                    settings.node_port_addresses =
                        NodePortAddresses::Ranges(plan::testing::cidrs(&[range]));
                }
                other => panic!("unknown setting {other:?}"),
            }
        }
        settings
    }
}

/// The names that a scenario gives its pods.
fn pod_names(objects: &str) -> BTreeMap<IpAddr, String> {
    let mut names = BTreeMap::new();
    for document in source::manifests::trees(objects.as_bytes()) {
        let object = document.value.unwrap();
        for endpoint in object["endpoints"].as_array().into_iter().flatten() {
            if let Some(pod) = endpoint.pointer("/targetRef/name") {
                let ip = endpoint["addresses"][0].as_str().unwrap();
                names.insert(common::ip(ip), pod.as_str().unwrap().to_owned());
            }
        }
    }
    names
}

/// The host of the scenarios, node1, in every mode's state.
struct Node {
    plans: BTreeMap<IpFamily, Plan>,
    worlds: BTreeMap<(IpFamily, Mode), World>,
    pods: BTreeMap<IpAddr, String>,
}

impl Node {
    fn new(scenario: &Scenario) -> Self {
        let facts = common::node_facts();
        let addresses = facts.interfaces.iter().flat_map(|i| &i.addresses);
        let mut planner = Planner::new(scenario.settings());
        planner.set_host_addresses(addresses.map(ipnet::IpNet::addr).collect());
        planner.apply_all(scenario.events());
        planner.take_diff();
        let plans: BTreeMap<_, _> = IpFamily::ALL
            .map(|family| (family, planner.plan(family).clone()))
            .into();
        let mut worlds = BTreeMap::new();
        for (family, plan) in &plans {
            for mode in Mode::ALL {
                worlds.insert((*family, mode), modes::world(mode, plan, &facts));
            }
        }
        Self {
            plans,
            worlds,
            pods: pod_names(&scenario.objects),
        }
    }

    /// `pod:port SHARE`, comma-separated, with the masqueraded ones marked.
    fn outcome(&self, packet: &Packet, mode: Mode) -> Outcome {
        let family = IpFamily::of(packet.dst);
        let trace = walk(&self.worlds[&(family, mode)], packet).unwrap();
        let mut outcome = Outcome::default();
        for summary in trace.summary() {
            match summary.verdict {
                Verdict::Drop => outcome.add("dropped".to_owned(), &summary, None),
                Verdict::Reject => outcome.add("rejected".to_owned(), &summary, None),
                Verdict::Accept => match summary.dnat {
                    None => outcome.add("not a Service".to_owned(), &summary, None),
                    Some(to) if mode == Mode::Userspace => {
                        self.relayed(family, to.port, &summary, &mut outcome);
                    }
                    Some(to) => outcome.add(
                        self.endpoint(to.ip, to.port),
                        &summary,
                        Some(summary.snat.is_some()),
                    ),
                },
            }
        }
        outcome
    }

    fn endpoint(&self, ip: IpAddr, port: u16) -> String {
        match self.pods.get(&ip) {
            Some(pod) => format!("{pod}:{port}"),
            None => std::net::SocketAddr::new(ip, port).to_string(),
        }
    }

    /// The endpoints that the relay's port leads to.
    fn relayed(&self, family: IpFamily, at: u16, summary: &Summary, outcome: &mut Outcome) {
        let plan = &self.plans[&family];
        for port in plan.ports.values() {
            let Some(ports) = dataplane::userspace::numbered_ports(plan).remove(&port.key()) else {
                continue;
            };
            for (which, endpoints) in [
                (Spread::Cluster, &port.cluster),
                (Spread::Local, &port.local),
            ] {
                if ports.get(which) == Some(at) {
                    for e in endpoints.iter() {
                        outcome.add_share(self.endpoint(e.ip, e.port), endpoints.len());
                    }
                    return;
                }
            }
        }
        panic!("no relay listens on {at}: {summary:?}");
    }
}

/// Where a connection may go.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Outcome {
    /// Destination, share, and whether the destination sees the node's address; `None` if nothing
    /// arrives or a relay carries the connection.
    parts: BTreeSet<(String, String, Option<bool>)>,
}

impl Outcome {
    fn add(&mut self, to: String, summary: &Summary, masquerade: Option<bool>) {
        let share = if summary.probability == trace::Fraction::ONE {
            String::new()
        } else {
            format!(" {}", summary.probability)
        };
        self.parts.insert((to, share, masquerade));
    }

    fn add_share(&mut self, to: String, of: usize) {
        let share = match of {
            1 => String::new(),
            n => format!(" 1/{n}"),
        };
        self.parts.insert((to, share, None));
    }

    /// Whether a relay carries connections to the same endpoints with the same shares.
    fn is_relayed(&self, by: &Self) -> bool {
        let plain = |outcome: &Self| -> Vec<_> {
            let parts = outcome.parts.iter();
            parts
                .map(|(to, share, _)| (to.clone(), share.clone()))
                .collect()
        };
        plain(self) == plain(by)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = self
            .parts
            .iter()
            .all(|(_, _, masquerade)| *masquerade == Some(true));
        let parts: Vec<String> = self
            .parts
            .iter()
            .map(|(to, share, masquerade)| match masquerade {
                Some(true) if !all => format!("{to}{share} (masqueraded)"),
                _ => format!("{to}{share}"),
            })
            .collect();
        write!(
            f,
            "{}{}",
            parts.join(", "),
            if all { "; masqueraded" } else { "" }
        )
    }
}

/// Parse `pod`, `remote pod`, `node` or `outside`, with an address if it differs from the default.
fn packet(client: &str, to: IpAddr, proto: Proto, port: u16) -> Packet {
    let v4 = to.is_ipv4();
    let (kind, address) = match client.rsplit_once(' ') {
        Some((kind, address)) if address.parse::<IpAddr>().is_ok() => (kind, Some(address)),
        _ => (client, None),
    };
    let (from, interface, usual) = match kind {
        "pod" => (
            Origin::Pod,
            Some("cbr0"),
            ["10.244.1.250", "fd00:10:244:1::250"],
        ),
        "remote pod" => (
            Origin::Outside,
            Some("eth0"),
            ["10.244.2.250", "fd00:10:244:2::250"],
        ),
        "node" => (Origin::Node, None, ["10.200.1.2", "fd00:200:1::2"]),
        "outside" => (
            Origin::Outside,
            Some("eth0"),
            ["198.51.100.9", "2001:db9::9"],
        ),
        other => panic!("unknown client {other:?}"),
    };
    let source = address.unwrap_or(usual[usize::from(!v4)]);
    let mut packet = Packet::new(from, common::ip(source), to, proto, port);
    packet.in_iface = interface.map(str::to_owned);
    packet
}

/// The lines of one client: the outcome that most modes share, then the modes that differ.
fn lines(node: &Node, client: &str, packet: &Packet) -> String {
    let outcomes = Mode::ALL.map(|mode| (mode, node.outcome(packet, mode)));
    // A relay always hides the client's address, so userspace mode does not count for masquerading.
    let voters = || outcomes.iter().filter(|(mode, _)| *mode != Mode::Userspace);
    let votes = |outcome: &Outcome| voters().filter(|(_, o)| o == outcome).count();
    let mut usual = &outcomes[0].1;
    for (_, outcome) in voters() {
        if votes(outcome) > votes(usual) {
            usual = outcome;
        }
    }
    let mut text = format!("  from {client}: {usual}\n");
    let mut rest: Vec<(Vec<&str>, &Outcome)> = Vec::new();
    for (mode, outcome) in &outcomes {
        let relayed = *mode == Mode::Userspace && usual.is_relayed(outcome);
        if outcome == usual || relayed {
            continue;
        }
        match rest.iter_mut().find(|(_, known)| known == &outcome) {
            Some((modes, _)) => modes.push(mode.name()),
            None => rest.push((vec![mode.name()], outcome)),
        }
    }
    for (modes, outcome) in rest {
        writeln!(text, "    in {}: {outcome}", modes.join(" and ")).unwrap();
    }
    text
}

/// The connections section as the tracer computes it.
fn connections(scenario: &Scenario, node: &Node) -> String {
    let mut text = String::new();
    let mut to = None;
    for line in scenario.connections.lines() {
        if let Some(client) = line.strip_prefix("  from ") {
            let (ip, proto, port) = to.unwrap();
            // The first colon that a space or the end of the line follows: addresses have others.
            let client = client.split(": ").next().unwrap().trim_end_matches(':');
            text += &lines(node, client, &packet(client, ip, proto, port));
        } else if let Some(words) = line.strip_prefix("to ") {
            let words: Vec<&str> = words.split(' ').collect();
            let [ip, proto, port] = words[..] else {
                panic!("{line:?}: expected an address, a protocol and a port");
            };
            to = Some((
                common::ip(ip),
                Proto::parse(&proto.to_lowercase()).unwrap(),
                port.parse().unwrap(),
            ));
            writeln!(text, "{line}").unwrap();
        } else if !line.starts_with("    in ") {
            // Blank lines and remarks.
            writeln!(text, "{line}").unwrap();
        }
    }
    text
}

/// The plan section: affinity, health check ports, and Services without a plan.
fn summary(scenario: &Scenario, node: &Node) -> String {
    let mut lines = BTreeSet::new();
    let mut planned = BTreeSet::new();
    for plan in node.plans.values() {
        for port in plan.ports.values() {
            planned.insert(port.name.service.clone());
            if let Some(affinity) = port.affinity {
                let seconds = affinity.timeout_seconds;
                lines.insert(format!("affinity of {}: {seconds} s", port.name));
            }
        }
        for (service, check) in &plan.health_checks {
            let (port, count) = (check.port, check.local_ready);
            lines.insert(format!(
                "health check of {service}: port {port}, local endpoints ready: {count}"
            ));
        }
    }
    for event in scenario.events() {
        if let Event::Service(Change::Applied(service)) = &event
            && !planned.contains(&service.name)
        {
            lines.insert(format!("not proxied: {}", service.name));
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn files() -> Vec<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/scenarios");
    let entries = fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths
        .filter(|p| p.extension().is_some_and(|e| e == "txt"))
        .collect();
    files.sort();
    assert!(files.len() >= 30, "{} scenarios", files.len());
    files
}

#[test]
fn every_mode_treats_connections_as_the_scenario_states() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut different = Vec::new();
    for file in files() {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        println!("{name}");
        let text = fs::read_to_string(&file).unwrap();
        let stated = Scenario::read(&text);
        let node = Node::new(&stated);
        let computed = Scenario {
            connections: connections(&stated, &node),
            plan: summary(&stated, &node),
            ..Scenario::read(&text)
        };
        assert!(computed.connections.contains("from ") || !computed.plan.is_empty());
        let computed = computed.write();
        if computed == text {
            continue;
        }
        if update {
            fs::write(&file, computed).unwrap();
        } else {
            let lines = computed.lines().zip(text.lines());
            let first = lines.enumerate().find(|(_, (is, stated))| is != stated);
            different.push(format!("{name}: {first:?}"));
        }
    }
    assert!(different.is_empty(), "computed, stated: {different:#?}");
}
