//! The node's settings that affect answers: the prediction of `sluice trace --reply` for each,
//! compared with a real connection.

mod support;

use std::time::Duration;

use kernel::netns::NetNs;
use lab::probe::Probe;
use model::Mode;
use serde_json::Value;
use support::machine::echo;
use support::{Host, Running, SLUICE, text};

/// Two pods on one bridge, and an outside client on a separate link.
struct Node {
    host: Host,
    client_pod: NetNs,
    outside: NetNs,
    server_pod: NetNs,
    _server: Running,
}

const POD: &str = "10.244.1.50";
const SERVER: &str = "10.244.1.11";
const OUTSIDE: &str = "192.0.2.50";

impl Drop for Node {
    fn drop(&mut self) {
        for netns in [&self.client_pod, &self.server_pod, &self.outside] {
            let _ = NetNs::delete(netns.name());
        }
    }
}

fn machine(host: &Host, cable: &str, address: &str, gateway: &str) -> NetNs {
    let name = format!("{}-{cable}", host.name);
    let netns = NetNs::create(&name).unwrap();
    host.sh(&format!(
        "ip link add {cable} type veth peer name eth0 netns {name} && ip link set {cable} up"
    ));
    let line = format!(
        "ip link set lo up; ip link set eth0 up; ip addr add {address}/24 dev eth0; \
         ip route add default via {gateway}"
    );
    let output = netns.command("sh").unwrap().args(["-c", &line]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    netns
}

impl Node {
    fn new(mode: Mode) -> Self {
        let host = Host::new();
        let client_pod = machine(&host, "vethpod", POD, "10.244.1.1");
        let server_pod = machine(&host, "vethserver", SERVER, "10.244.1.1");
        let outside = machine(&host, "vethout", OUTSIDE, "192.0.2.1");
        for line in [
            "ip link add cbr0 type bridge && ip link set cbr0 up",
            "ip link set vethpod master cbr0 && ip link set vethserver master cbr0",
            "ip addr add 10.244.1.1/24 dev cbr0 && ip addr add 192.0.2.1/24 dev vethout",
            "echo 1 > /proc/sys/net/ipv4/ip_forward",
            "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done",
            "echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables",
        ] {
            host.sh(line);
        }
        let folder = tempfile::tempdir().unwrap();
        let web = support::web("web", 1, SERVER).replace(
            "ports: [{name: http, port: 80}]",
            "type: NodePort, ports: [{name: http, port: 80, nodePort: 30080}]",
        );
        let node = "apiVersion: v1\nkind: Node\nmetadata: {name: node1}\n\
                    status: {addresses: [{type: InternalIP, address: 10.200.1.2}]}\n---\n";
        std::fs::write(folder.path().join("web.yaml"), format!("{node}{web}")).unwrap();
        let output = host.sluice(&[
            "proxy",
            "--once",
            &format!("--proxy-mode={mode}"),
            "--iptables-backend=nft",
            "--hostname-override=node1",
            "--cluster-cidr=10.244.0.0/16",
            "--manifests",
            folder.path().to_str().unwrap(),
        ]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let serve = server_pod.command(SLUICE).unwrap();
        Self {
            _server: echo(serve, "web", &[SERVER], &["TCP:8080"]),
            host,
            client_pod,
            outside,
            server_pod,
        }
    }

    /// Trace a connection with its answers, and compare the prediction with a real connection. Return
    /// the trace, and whether the client was answered. A client that expects an answer waits longer.
    fn ask(&self, src: &str, to: &str) -> (Value, bool) {
        let (dst, dport) = to.split_once(':').unwrap();
        let from = match src {
            OUTSIDE => "--from=vethout",
            POD => "--from=cbr0",
            _ => "--from=node",
        };
        let words = [
            "trace", "--reply", "-o=json", from, "--src", src, "--dst", dst, "--dport", dport,
        ];
        let said = self.host.sluice(&words);
        let answer = serde_json::from_slice(&said.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", text(&said.stderr)));
        let expected = said.status.code() == Some(0);
        let patience = Duration::from_secs(if expected { 20 } else { 1 });
        let probe = Probe::http(to.parse().unwrap()).timeout(patience);
        let netns = match src {
            POD => &self.client_pod,
            OUTSIDE => &self.outside,
            _ => self.host.netns(),
        };
        let outcome = netns.run(|| probe.ask()).unwrap();
        let is_answered = outcome.answer().is_some();
        assert_eq!(is_answered, expected, "{outcome}: {answer:#}");
        (answer, is_answered)
    }

    fn answered(&self, src: &str, to: &str) -> Value {
        let (answer, is_answered) = self.ask(src, to);
        assert!(is_answered, "{answer:#}");
        answer
    }

    /// Check that the connection fails, and that the trace contains the reason `words`.
    fn lost(&self, src: &str, to: &str, words: &str) {
        let (answer, is_answered) = self.ask(src, to);
        assert!(!is_answered, "{answer:#}");
        let said = answer.to_string();
        assert!(said.contains(words), "{words:?} is not in {answer:#}");
    }
}

fn between_pods_on_a_bridge(mode: Mode) {
    let node = Node::new(mode);
    node.answered(POD, "10.96.10.1:80");
    node.host
        .sh("echo 0 > /proc/sys/net/bridge/bridge-nf-call-iptables");
    let words = "comes from 10.244.1.11:8080 instead of 10.96.10.1:80";
    node.lost(POD, "10.96.10.1:80", words);
    // Clients outside the bridge are not affected.
    node.answered(OUTSIDE, "10.200.1.2:30080");
}

in_each_mode!(bridged_answers_bypass_nat, super::between_pods_on_a_bridge);

#[test]
fn answers_follow_policy_routing_to_the_client() {
    let node = Node::new(Mode::Nftables);
    node.answered(OUTSIDE, "10.200.1.2:30080");
    // The main table has a wrong route to the client, but a rule for packets from pods has the right
    // one, which the kernel uses for answers.
    node.host
        .sh("set -e; ip route replace 192.0.2.0/24 dev eth0; \
         ip rule add iif cbr0 to 192.0.2.0/24 priority 100 lookup 100; \
         ip route add 192.0.2.0/24 dev vethout table 100; \
         echo 1 > /proc/sys/net/ipv4/conf/vethout/rp_filter");
    let answer = node.answered(OUTSIDE, "10.200.1.2:30080");
    let back = answer["replies"][0]["outcomes"][0]["path"].to_string();
    assert!(back.contains("through vethout"), "{back}");
    // Another rule refuses the answers.
    node.host
        .sh("ip rule add from 10.244.1.0/24 to 192.0.2.0/24 priority 50 prohibit");
    node.lost(OUTSIDE, "10.200.1.2:30080", "rp_filter");
    node.host
        .sh("echo 0 > /proc/sys/net/ipv4/conf/vethout/rp_filter");
    node.lost(OUTSIDE, "10.200.1.2:30080", "rule 50");
    node.host.sh("ip rule del priority 50");
    node.answered(OUTSIDE, "10.200.1.2:30080");
    // Without the rule for pods, answers take the wrong route.
    node.host
        .sh("ip rule del priority 100; echo 1 > /proc/sys/net/ipv4/conf/vethout/rp_filter");
    node.lost(OUTSIDE, "10.200.1.2:30080", "rp_filter");
}

#[test]
fn node_ports_on_loopback_are_answered() {
    let node = Node::new(Mode::Iptables);
    node.answered("127.0.0.1", "127.0.0.1:30080");
    for f in ["all", "cbr0", "default"] {
        let off = format!("echo 0 > /proc/sys/net/ipv4/conf/{f}/route_localnet");
        node.host.sh(&off);
    }
    node.lost("127.0.0.1", "127.0.0.1:30080", "route_localnet");
}
