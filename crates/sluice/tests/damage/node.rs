//! A node with pods, another node and an outside client, and their connections.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use lab::probe::{Outcome, Probe};
use model::{IpFamily, Mode};
use serde_json::Value;
use tempfile::TempDir;

use crate::family;
use crate::support::machine::{self, Machine};
use crate::support::{Host, Running, SLUICE, eventually, text};

const OBJECTS: &str = include_str!("objects.yaml");
const CONFIG: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
                      clusterCIDR: 10.244.0.0/16\n";
/// A node with an interface for a DNS cache, which answers on a cluster IP.
const CACHE: &str = "
ip link add nodelocaldns type veth peer name nodelocalpeer
ip link set nodelocaldns up; ip link set nodelocalpeer up
ip addr add 10.96.10.5 dev nodelocaldns nodad
for proto in udp tcp; do
    iptables-nft -t raw -A PREROUTING -d 10.96.10.5 -p $proto --dport 53 -j CT --notrack
    iptables-nft -t raw -A OUTPUT -s 10.96.10.5 -p $proto --sport 53 -j CT --notrack
    iptables-nft -t raw -A OUTPUT -d 10.96.10.5 -p $proto --dport 53 -j CT --notrack
done";
/// Connections after which every endpoint was chosen, with near certainty.
const MANY: usize = 40;
/// Further connections after the usual results were seen.
const MORE: usize = 6;

/// How long connections wait for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// An answer is expected; the machine may be busy.
    Long,
    /// None is expected.
    Short,
}

/// Two pods on a bridge that has an address in their network.
const BRIDGE: &str = "
ip link add cbr0 type bridge
ip link set cbr0 up
ip addr add 10.244.1.129/25 dev cbr0 nodad
ip addr add fe80::1/64 dev cbr0 nodad
echo 1 >/proc/sys/net/ipv4/conf/cbr0/proxy_arp
echo 0 >/proc/sys/net/ipv4/neigh/cbr0/proxy_delay
for pod in pod130 pod131; do
    ip route flush dev $pod; ip -6 addr flush dev $pod
    ip link set $pod master cbr0; ip link set $pod type bridge_slave hairpin on
done
sysctl -qw net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1";
/// The node's addresses.
const OWN: [&str; 3] = ["10.200.1.2", "10.244.1.129", "10.96.10.5"];
/// The port of a client that sends from the same port each time.
const FIXED: u16 = 5353;

/// The clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Pod,
    /// A pod that sends datagrams from the same port each time.
    PodFromPort,
    /// A pod on the bridge.
    Bridged,
    BridgedEndpoint,
    Endpoint,
    Node,
    /// The other node, with its own address or a pod's.
    OtherNode(&'static str),
    /// A client outside, with this address.
    Outside(&'static str),
}

/// A kind of connection, and its results on the healthy node.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    client: Client,
    to: &'static str,
    udp: bool,
    usual: BTreeSet<String>,
}

/// The problems that a command reports.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    pub(crate) problems: Vec<(String, String)>,
}

impl Said {
    fn of(answer: &Value, list: &str, what: &str, change: &str) -> Self {
        let all = answer[list].as_array().unwrap().iter();
        let problems = all.filter(|f| f["weight"] != "note").map(|f| {
            let word = |key: &str| f[key].as_str().unwrap().to_owned();
            (
                word("cause"),
                format!("{} fix: {}", word(what), word(change)),
            )
        });
        Self {
            problems: problems.collect(),
        }
    }

    /// Return the problems that the other does not contain.
    fn beside(mut self, other: &Said) -> Self {
        self.problems
            .retain(|problem| !other.problems.contains(problem));
        self
    }

    pub(crate) fn names(&self, word: &str) -> bool {
        self.problems
            .iter()
            .any(|(cause, what)| cause == word || what.contains(word))
    }

    pub(crate) fn text(&self) -> String {
        let all = self
            .problems
            .iter()
            .map(|(cause, what)| format!("\n      {cause}: {what}"));
        if self.problems.is_empty() {
            "nothing".to_owned()
        } else {
            all.collect()
        }
    }
}

/// How to damage a node.
#[derive(Clone, Copy, Debug)]
pub(crate) enum How {
    /// A shell line.
    Line(&'static str),
    /// The rules of a proxy with these further flags.
    Proxy(&'static [&'static str]),
    /// The rules of a proxy that knows other objects.
    Objects(&'static str, &'static str),
}

pub(crate) struct Node {
    pub(crate) healthy: BTreeMap<String, Vec<Route>>,
    /// What is always wrong: a Service has no endpoints.
    usual: BTreeMap<String, Said>,
    mode: Mode,
    family: IpFamily,
    host: Host,
    folder: TempDir,
    proxy: Option<Running>,
    pod: Machine,
    endpoint: Machine,
    bridged: [Machine; 2],
    other: Machine,
    outside: Machine,
    _cache: Running,
}

const ROUTES: [(&str, Client, &str, bool); 35] = [
    ("web", Client::Pod, "10.96.10.1:80", false),
    ("web", Client::Endpoint, "10.96.10.1:80", false),
    ("web", Client::Node, "10.96.10.1:80", false),
    ("web", Client::Node, "10.200.1.2:30080", false),
    ("web", Client::Pod, "10.200.1.2:30080", false),
    (
        "web",
        Client::Outside("10.201.0.2"),
        "10.200.1.2:30080",
        false,
    ),
    ("web", Client::Outside("10.201.0.2"), "192.0.2.80:80", false),
    ("web", Client::Outside("10.201.0.2"), "10.99.0.1:80", false),
    ("web", Client::Outside("10.201.0.3"), "10.99.0.1:80", false),
    ("web", Client::Pod, "192.0.2.80:80", false),
    ("local", Client::Pod, "10.96.10.2:80", false),
    ("local", Client::Pod, "10.200.1.2:30081", false),
    ("local", Client::Node, "10.200.1.2:30081", false),
    (
        "local",
        Client::Outside("10.201.0.2"),
        "10.200.1.2:30081",
        false,
    ),
    ("empty", Client::Pod, "10.96.10.3:80", false),
    (
        "empty",
        Client::Outside("10.201.0.2"),
        "10.200.1.2:30082",
        false,
    ),
    ("dns", Client::Pod, "10.96.10.4:53", true),
    ("dns", Client::Node, "10.96.10.4:53", true),
    ("dns", Client::Endpoint, "10.96.10.4:53", true),
    ("local", Client::Endpoint, "10.96.10.2:80", false),
    (
        "web",
        Client::OtherNode("10.200.1.3"),
        "10.200.1.2:30080",
        false,
    ),
    (
        "local",
        Client::OtherNode("10.200.1.3"),
        "10.200.1.2:30081",
        false,
    ),
    (
        "local",
        Client::OtherNode("10.244.2.11"),
        "10.200.1.2:30081",
        false,
    ),
    ("empty", Client::Node, "10.96.10.3:80", false),
    ("empty", Client::Node, "10.200.1.2:30082", false),
    (
        "empty",
        Client::OtherNode("10.244.2.11"),
        "10.200.1.2:30082",
        false,
    ),
    ("cached", Client::Pod, "10.96.10.5:53", false),
    ("cached", Client::Pod, "10.96.10.5:53", true),
    ("cached", Client::Node, "10.96.10.5:53", false),
    ("cached", Client::Node, "10.96.10.5:53", true),
    ("dns", Client::PodFromPort, "10.96.10.4:53", true),
    ("bridged", Client::Bridged, "10.96.10.6:80", false),
    ("bridged", Client::BridgedEndpoint, "10.96.10.6:80", false),
    ("bridged", Client::Pod, "10.96.10.6:80", false),
    ("bridged", Client::Node, "10.96.10.6:80", false),
];

/// Further connections in iptables mode, which serves NodePorts on loopback addresses.
const LOOPBACK: [(&str, Client, &str, bool); 2] = [
    ("web", Client::Node, "127.0.0.1:30080", false),
    ("local", Client::Node, "127.0.0.1:30081", false),
];

impl Node {
    /// Create the machines, program the rules, and record the results of all connections.
    pub(crate) fn start(mode: Mode, family: IpFamily) -> Self {
        let mut node = Self::machines(mode, family);
        node.write("objects", &family::of(family, OBJECTS));
        node.program("objects", &[]);
        let is_loopback_served = mode == Mode::Iptables && family == IpFamily::V4;
        for (service, client, to, udp) in ROUTES
            .into_iter()
            .chain(is_loopback_served.then_some(LOOPBACK).into_iter().flatten())
        {
            // Without endpoints, a datagram is refused at once in both families.
            let udp = udp || (service == "empty" && family == IpFamily::V6);
            let route = node.usual(client, to, udp);
            println!("{service} {client:?} -> {to}: {:?}", route.usual);
            node.healthy
                .entry(service.to_owned())
                .or_default()
                .push(route);
        }
        let said = node.verify();
        assert!(
            said.problems.is_empty(),
            "the healthy node: {}",
            said.text()
        );
        for service in node.healthy.keys().cloned().collect::<Vec<_>>() {
            let said = node.explain(&service);
            let is_expected = said.problems.is_empty() || service == "empty";
            assert!(is_expected, "{service}: {}", said.text());
            node.usual.insert(service, said);
        }
        node
    }

    fn machines(mode: Mode, family: IpFamily) -> Self {
        let host = Host::new();
        let ports = ["TCP:8080", "UDP:8053"];
        let pod = Machine::pod_with(&host, 50, &ports);
        let endpoint = Machine::pod_with(&host, 11, &ports);
        let bridged = [130, 131].map(|number| Machine::pod_with(&host, number, &ports));
        let outside = Machine::outside(&host);
        let mut other = Machine::beside(&host, "node2", &["10.200.1.3", "fd00:200:1::3"]);
        for family in IpFamily::ALL {
            let sh = |machine: Option<&Machine>, line: &str| {
                let line = family::of(family, line);
                match machine {
                    Some(machine) => machine.sh(&line),
                    None => host.sh(&line),
                }
            };
            sh(None, "ip route add default via 10.201.0.2 dev ext onlink");
            sh(
                None,
                "ip route add 10.244.2.0/24 via 10.200.1.3 dev node2 onlink",
            );
            // Answers of the other node to clients outside take another path.
            sh(Some(&other), "ip addr add 10.244.2.11 dev lo nodad");
            sh(Some(&other), "ip route add unreachable 10.201.0.0/24");
        }
        outside.sh("ip route replace default via 10.200.1.2 dev eth0 onlink");
        let command = other.netns.command(SLUICE).unwrap();
        let addresses = ["10.244.2.11", "fd00:10:244:2::11"];
        other.server = Some(machine::echo(command, "other11", &addresses, &ports));
        // The kernel limits the rate of the errors that refuse connections.
        host.sh("sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0");
        host.sh(&family::of(family, CACHE));
        host.sh(&family::of(family, BRIDGE));
        for pod in &bridged {
            pod.sh(&family::of(family, "ip route add 10.244.1.128/25 dev eth0"));
        }
        let address = family::of(family, "10.96.10.5");
        let command = host.command(SLUICE);
        let cache = machine::echo(command, "cache", &[&address], &["TCP:53", "UDP:53"]);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config"), family::of(family, CONFIG)).unwrap();
        Self {
            healthy: BTreeMap::new(),
            usual: BTreeMap::new(),
            mode,
            family,
            host,
            folder,
            proxy: None,
            pod,
            endpoint,
            bridged,
            other,
            outside,
            _cache: cache,
        }
    }

    /// Connect until every usual result was seen, with near certainty.
    fn usual(&self, client: Client, to: &'static str, udp: bool) -> Route {
        let mut route = Route {
            client,
            to,
            udp,
            usual: BTreeSet::new(),
        };
        let first = self.ask(&route, Duration::from_millis(700));
        route.usual.insert(first.clone());
        if first != "timed out" && first != "refused" {
            for _ in 0..MANY {
                let result = self.ask(&route, Duration::from_secs(20));
                route.usual.insert(result);
            }
        }
        route
    }

    fn path(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().join(name);
        if name == "config" {
            folder
        } else {
            folder.join("all.yaml")
        }
    }

    fn write(&self, name: &str, objects: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, objects).unwrap();
    }

    /// Write the rules for these objects.
    fn program(&mut self, objects: &str, flags: &[&str]) {
        let mut command = self.host.command(SLUICE);
        let path = self.path(objects);
        command.args([
            "proxy",
            "--iptables-backend=nft",
            &self.text("--cluster-cidr=10.244.0.0/16"),
        ]);
        command
            .arg(format!("--proxy-mode={}", self.mode))
            .arg("--manifests")
            .arg(path);
        command.args(flags);
        if !flags.iter().any(|f| f.starts_with("--hostname-override")) {
            command.arg("--hostname-override=node1");
        }
        self.proxy = None;
        if self.mode != Mode::Userspace {
            let output = command.arg("--once").output().unwrap();
            assert!(output.status.success(), "{}", text(&output.stderr));
            return;
        }
        command.arg("--iptables-sync-period=1h");
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        self.proxy = Some(Running(command.stderr(log).spawn().unwrap()));
        let to = self.text("10.96.10.2:80");
        let client = Probe::http(to.parse().unwrap());
        eventually("the relay answers", || {
            self.host.run(|| client.ask()).answer().is_some()
        });
    }

    pub(crate) fn harm(&mut self, how: &How) {
        match how {
            How::Line(line) => {
                self.host.sh(&self.text(line));
            }
            How::Proxy(flags) => self.program("objects", flags),
            How::Objects(from, to) => {
                assert!(OBJECTS.contains(from), "{from}");
                let objects = OBJECTS.replace(from, to);
                self.write("others", &self.text(&objects));
                self.program("others", &[]);
            }
        }
    }

    pub(crate) fn repair(&mut self, undo: &str) {
        if !undo.is_empty() {
            self.host.sh(&self.text(undo));
        }
        // Connections that the damage led astray.
        self.host.sh("conntrack -F 2>/dev/null");
        self.program("objects", &[]);
    }

    fn run(&self, words: &[&str]) -> Value {
        let mut command = self.host.command(SLUICE);
        command
            .args(words)
            .args(["-o=json", "--node=node1", "--config"]);
        command
            .arg(self.path("config"))
            .arg("--manifests")
            .arg(self.path("objects"));
        let output = command.output().unwrap();
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{words:?}: {e}: {}", text(&output.stderr)))
    }

    /// Return text with addresses and commands of this node's family.
    pub(crate) fn text(&self, text: &str) -> String {
        family::of(self.family, text)
    }

    pub(crate) fn verify(&self) -> Said {
        Said::of(&self.run(&["verify"]), "problems", "example", "change")
    }

    pub(crate) fn explain(&self, service: &str) -> Said {
        let name = format!("demo/{service}");
        let said = Said::of(&self.run(&["explain", &name]), "findings", "what", "change");
        match self.usual.get(service) {
            Some(usual) => said.beside(usual),
            None => said,
        }
    }

    fn ask(&self, route: &Route, timeout: Duration) -> String {
        let to: SocketAddr = self.text(route.to).parse().unwrap();
        let probe = if route.udp {
            Probe::udp(to)
        } else {
            Probe::http(to)
        };
        let probe = probe.timeout(timeout);
        let outcome = match route.client {
            Client::Pod => self.pod.ask(probe),
            Client::PodFromPort => self.pod.ask(probe.from_port(FIXED)),
            Client::Bridged => self.bridged[0].ask(probe),
            Client::BridgedEndpoint => self.bridged[1].ask(probe),
            Client::Endpoint => self.endpoint.ask(probe),
            Client::Node => self.host.run(|| probe.ask()),
            Client::OtherNode(ip) => {
                let ip: IpAddr = self.text(ip).parse().unwrap();
                self.other.ask(probe.from(ip))
            }
            Client::Outside(ip) => {
                let ip: IpAddr = self.text(ip).parse().unwrap();
                self.outside.ask(probe.from(ip))
            }
        };
        match outcome {
            Outcome::Answered(answer) => {
                let client = answer.client.ip();
                let mut own = OWN.iter().map(|ip| self.text(ip));
                // Which of its addresses the node uses depends on the route.
                if own.any(|ip| ip == client.to_string()) {
                    format!("{} sees the node", answer.pod)
                } else {
                    format!("{} sees {client}", answer.pod)
                }
            }
            // An error arrives at once either way.
            Outcome::Unreachable => Outcome::Refused.to_string(),
            other => other.to_string(),
        }
    }

    /// Return how connections differ from those on the healthy node.
    pub(crate) fn changed(&self, routes: &[Route], patience: Patience) -> Option<String> {
        routes
            .iter()
            .find_map(|route| self.route_changed(route, patience))
    }

    fn route_changed(&self, route: &Route, patience: Patience) -> Option<String> {
        let is_silent = route.usual.contains("timed out");
        let timeout = match patience {
            Patience::Long if !is_silent => Duration::from_secs(20),
            _ => Duration::from_millis(400),
        };
        let mut seen = BTreeSet::new();
        let mut more = MORE;
        for _ in 0..MANY {
            let result = self.ask(route, timeout);
            if !route.usual.contains(&result) {
                return Some(format!(
                    "{:?} -> {}: {result} instead of {:?}",
                    route.client, route.to, route.usual
                ));
            }
            seen.insert(result);
            if seen == route.usual {
                more -= 1;
                if more == 0 || is_silent {
                    return None;
                }
            }
        }
        Some(format!(
            "{:?} -> {}: only {seen:?} instead of {:?}",
            route.client, route.to, route.usual
        ))
    }
}
