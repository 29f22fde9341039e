//! `sluice trace --live`: the kernel's trace is compared with the prediction, for packets of a pod, of
//! the node and from outside, through the rules of kube-proxy and of sluice.

mod support;

use std::process::{Output, Stdio};

use kernel::netns::NetNs;
use model::Mode;
use serde_json::Value;
use support::{Host, Running, SLUICE, eventually, text};

/// The observed node with a client pod and endpoints behind its bridge, and a client outside, each in a
/// namespace.
struct Node {
    host: Host,
    pod: String,
    endpoints: String,
    outside: String,
}

impl Drop for Node {
    fn drop(&mut self) {
        for name in [&self.pod, &self.endpoints, &self.outside] {
            let _ = NetNs::delete(name);
        }
    }
}

impl Node {
    fn new() -> Self {
        let host = Host::new();
        let [pod, endpoints, outside] =
            ["pod", "ends", "out"].map(|what| format!("{}-{what}", host.name));
        // An address cannot be used during duplicate address detection.
        host.sh("echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad");
        let node = Self {
            host,
            pod,
            endpoints,
            outside,
        };
        let pods = ["10.244.1", "fd00:10:244:1:"];
        node.neighbour(&node.pod, "vethpod", pods, "50");
        node.neighbour(&node.endpoints, "vethends", pods, "$(seq 11 26)");
        node.neighbour(&node.outside, "vethout", ["192.0.2", "2001:db8:"], "50");
        for line in [
            "ip link add cbr0 type bridge && ip link set cbr0 up",
            "ip link set vethpod master cbr0 && ip link set vethends master cbr0",
            "ip addr add 10.244.1.1/24 dev cbr0 && ip addr add fd00:10:244:1::1/64 dev cbr0 nodad",
            "ip addr add 192.0.2.1/24 dev vethout && ip addr add 2001:db8::1/64 dev vethout nodad",
            // No answer is needed there.
            "ip route add 10.244.2.0/24 via 10.200.1.3 && ip route add default via 10.200.1.1",
            "ip -6 route add fd00:10:244:2::/64 via fd00:200:1::3",
            "ip -6 route add default via fd00:200:1::1",
            "echo 1 > /proc/sys/net/ipv4/ip_forward",
            "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
        ] {
            node.host.sh(line);
        }
        node
    }

    /// Add a namespace at the other end of a link, with addresses of these numbers in its ranges; 1 is
    /// this node.
    fn neighbour(&self, name: &str, cable: &str, [v4, v6]: [&str; 2], numbers: &str) {
        let netns = NetNs::create(name).unwrap();
        self.host.sh(&format!(
            "ip link add {cable} type veth peer name eth0 netns {name} && ip link set {cable} up"
        ));
        let line = format!(
            "set -e; echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad; ip link set eth0 up; for n in {numbers}; do \
             ip addr add {v4}.$n/24 dev eth0; ip addr add {v6}:$n/64 dev eth0 nodad; done; \
             ip route add default via {v4}.1; ip -6 route add default via {v6}:1"
        );
        let mut command = netns.command("sh").unwrap();
        let output = command.args(["-c", &line]).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    /// Program the observed cluster in a mode.
    fn programmed(mode: Mode) -> Self {
        let node = Self::new();
        node.host.program_observed(mode);
        node
    }

    fn live(&self, words: &[&str]) -> Output {
        let all = [&["trace", "--live", "-o", "json"], words].concat();
        self.host.sluice(&all)
    }

    /// Send a packet from a client and return the report.
    fn ask(&self, client: &Client, dst: &str, dport: u16, more: &[&str]) -> Value {
        let v6 = dst.contains(':');
        let (src, send) = match client {
            Client::Pod => (["10.244.1.50", "fd00:10:244:1::50"], Some(&self.pod)),
            Client::Outside => (["192.0.2.50", "2001:db8::50"], Some(&self.outside)),
            Client::Node => (["10.200.1.2", "fd00:200:1::2"], None),
        };
        let src = src[usize::from(v6)];
        let send = send.map_or("--send".to_owned(), |name| format!("--send={name}"));
        let dport = dport.to_string();
        let words = [
            &["--src", src, "--dst", dst, "--dport", &dport, &send],
            more,
        ]
        .concat();
        let output = self.live(&words);
        let answer: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}{}", text(&output.stdout), text(&output.stderr)));
        let live = &answer["live"];
        let fine = live["agrees"] == true && live["outcome"]["verdict"] == "accept";
        assert_eq!(output.status.code(), Some(i32::from(!fine)), "{answer:#}");
        assert_eq!(self.tracing_tables(), "", "tracing is off again");
        answer
    }

    fn tracing_tables(&self) -> String {
        self.host.sh("nft list tables | grep sluice-trace || true")
    }
}

#[derive(Debug)]
enum Client {
    Pod,
    Node,
    Outside,
}

#[track_caller]
fn assert_agrees(answer: &Value, verdict: &str) {
    let live = &answer["live"];
    assert_eq!(live["agrees"], true, "{answer:#}");
    assert_eq!(live["outcome"]["verdict"], verdict, "{answer:#}");
}

/// Compare each kind of path, in both families, with several endpoints and with none.
fn kernel_and_prediction_agree(mode: Mode) {
    use Client::{Node as This, Outside, Pod};
    let node = Node::programmed(mode);
    node.host.sh(
        "nft 'add table inet fw; add chain inet fw f { type filter hook forward priority 10; }'",
    );
    node.host.sh("nft add rule inet fw f tcp sport 7777 drop");
    node.host.sh("nft add rule inet fw f tcp sport 7778 reject");
    for (client, dst, dport, verdict) in [
        (Pod, "10.96.10.1", 80, "accept"),
        (This, "10.96.10.1", 80, "accept"),
        (Pod, "fd00:10:96::f", 80, "accept"),
        (This, "fd00:10:96::f", 80, "accept"),
        (Outside, "10.200.1.2", 30008, "accept"),
        (Outside, "fd00:200:1::2", 30150, "accept"),
        (Pod, "10.200.1.2", 30080, "accept"),
        // A pod in the node's network.
        (Outside, "10.200.1.2", 30130, "accept"),
        // No endpoint, and none on this node.
        (Pod, "10.96.10.9", 80, "reject"),
        (Outside, "10.200.1.2", 30090, "reject"),
        (Outside, "10.200.1.2", 30081, "drop"),
        (Pod, "198.51.100.7", 443, "accept"),
    ] {
        let answer = node.ask(&client, dst, dport, &[]);
        assert_agrees(&answer, verdict);
        assert!(answer["live"]["difference"].is_null(), "{answer:#}");
        let outcomes = answer["outcomes"].as_array().unwrap();
        let odds = &answer["live"]["predictedProbability"];
        let all: Vec<&Value> = outcomes.iter().map(|o| &o["probability"]).collect();
        assert!(
            all.contains(&odds),
            "{client:?} {dst}: {odds} is not in {all:?}"
        );
        let dnat = &answer["live"]["outcome"]["dnat"];
        assert!(outcomes.iter().any(|o| &o["dnat"] == dnat), "{answer:#}");
    }
    for (dst, sport, verdict) in [
        ("10.96.10.1", "7777", "drop"),
        ("fd00:10:96::f", "7777", "drop"),
        ("10.96.10.1", "7778", "reject"),
        ("fd00:10:96::f", "7778", "reject"),
    ] {
        let answer = node.ask(&Pod, dst, 80, &["--sport", sport]);
        assert_agrees(&answer, verdict);
        let path = answer["live"]["outcome"]["path"].as_array().unwrap();
        let last = path.last().unwrap();
        assert_eq!(last["table"], "fw", "{answer:#}");
        assert_eq!(last["rule"], format!("tcp sport {sport} {verdict}"));
    }
    // nft cannot express sluice's rules for affinity: the prediction takes another path there.
    let sticky = node.ask(&Pod, "10.96.10.7", 80, &[]);
    assert_agrees(&sticky, "accept");
    let other_way = !sticky["live"]["difference"].is_null();
    assert_eq!(other_way, mode == Mode::Nftables, "{sticky:#}");
    let udp = node.ask(&Pod, "10.96.10.10", 53, &["--proto=udp"]);
    assert_agrees(&udp, "accept");
    assert_eq!(udp["live"]["outcome"]["dnat"], "10.244.1.20:53");
}

in_each_mode!(
    the_kernel_and_the_prediction_agree,
    super::kernel_and_prediction_agree
);

#[test]
fn a_different_decision_of_the_kernel_is_shown() {
    let node = Node::new();
    // The prediction assumes that no limit is reached yet; the first packet reaches this one.
    node.host.sh(
        "iptables-nft -A FORWARD -m limit --limit 1/day --limit-burst 1 -j ACCEPT && \
         iptables-nft -A FORWARD -j DROP",
    );
    assert_agrees(&node.ask(&Client::Pod, "198.51.100.7", 443, &[]), "accept");
    let answer = node.ask(&Client::Pod, "198.51.100.7", 443, &[]);
    let live = &answer["live"];
    assert_eq!(live["agrees"], false, "{answer:#}");
    assert_eq!(live["outcome"]["verdict"], "drop");
    assert_eq!(live["difference"]["kernel"]["rule"], "-j DROP");
    assert_eq!(live["difference"]["predicted"]["effect"], "accept");
}

#[test]
fn a_packet_lost_outside_the_rules_is_reported() {
    let node = Node::programmed(Mode::Nftables);
    node.host.sh("echo 0 > /proc/sys/net/ipv4/ip_forward");
    let answer = node.ask(&Client::Pod, "10.96.10.1", 80, &[]);
    assert_agrees(&answer, "drop");
    let path = answer["live"]["outcome"]["path"].as_array().unwrap();
    assert_eq!(
        path.last().unwrap()["rule"],
        "after prerouting",
        "{answer:#}"
    );
}

#[test]
fn for_legacy_iptables_only_final_results_are_compared() {
    let node = Node::new();
    node.host.sh(
        "iptables-legacy -t nat -A PREROUTING -d 10.96.0.1/32 -p tcp --dport 80 -j DNAT \
         --to-destination 10.244.2.11:8080 && \
         iptables-legacy -A FORWARD -p tcp --dport 81 -j DROP && \
         iptables-legacy -A FORWARD -p tcp --dport 82 -j REJECT",
    );
    let answer = node.ask(&Client::Pod, "10.96.0.1", 80, &[]);
    assert_agrees(&answer, "accept");
    assert_eq!(answer["live"]["outcome"]["dnat"], "10.244.2.11:8080");
    let warned = answer["warnings"].to_string();
    assert!(warned.contains("legacy iptables"), "{warned}");
    for port in [81, 82] {
        let answer = node.ask(&Client::Pod, "198.51.100.7", port, &[]);
        assert_eq!(answer["live"]["agrees"], true, "{answer:#}");
    }
}

const QUIET: [&str; 6] = [
    "--src=10.244.1.50",
    "--dst=10.96.10.1",
    "--dport=80",
    "--timeout=1",
    "--proto",
    "udp",
];

#[test]
fn missing_packet_is_an_error() {
    let node = Node::new();
    let output = node.live(&QUIET);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    for word in [
        "udp 10.244.1.50 -> 10.96.10.1:80",
        "within 1 s",
        "nc -u",
        "--send",
        "tcpdump",
    ] {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
    assert_eq!(node.tracing_tables(), "");
}

/// Tracing ends with the command, however that ends.
#[test]
fn tracing_is_disabled_however_the_command_ends() {
    let node = Node::new();
    for signal in ["INT", "TERM", "KILL"] {
        let child = node
            .host
            .command(SLUICE)
            .args(["trace", "--live", "--timeout=600"])
            .args(&QUIET[..3])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut running = Running(child);
        eventually("tracing is on", || node.tracing_tables() != "");
        node.host.sh(&format!("kill -{signal} {}", running.0.id()));
        let status = running.0.wait().unwrap();
        assert_eq!(
            status.code(),
            (signal != "KILL").then_some(2),
            "SIG{signal}"
        );
        eventually("tracing is off", || node.tracing_tables().is_empty());
    }
}

/// Kernels without table owners keep the table of a killed process.
#[test]
fn table_of_a_killed_run_is_removed() {
    let node = Node::new();
    let gone = "sluice-trace-4194999";
    node.host.sh(&format!(
        "nft 'add table ip {gone}; add chain ip {gone} incoming'"
    ));
    node.host
        .sh("nft 'add table ip sluice-trace-1; add chain ip sluice-trace-1 incoming'");
    let output = node.live(&QUIET);
    assert!(
        text(&output.stderr).contains(gone),
        "{}",
        text(&output.stderr)
    );
    // Process 1 exists, so its table may be in use.
    assert_eq!(node.tracing_tables(), "table ip sluice-trace-1\n");
}
