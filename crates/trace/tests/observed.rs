//! Flows through the observed rules of kube-proxy: expected results, and both modes compared.
#![allow(missing_docs)]

mod common;

use common::{ask, flow, iptables_world, nft_world, packet};
use trace::{Origin, Packet, Proto, World};

const POD: (Origin, &str) = (Origin::Pod, "10.244.1.50");
const CLIENT: (Origin, &str) = (Origin::Outside, "198.51.100.9");

fn tcp(from: (Origin, &str), dst: &str, port: u16) -> Packet {
    packet(from.0, from.1, dst, Proto::TCP, port)
}

fn both() -> [(&'static str, World); 2] {
    [
        ("iptables", iptables_world("default")),
        ("nftables", nft_world("default")),
    ]
}

/// One flow per line: source, destination, expected result.
const FLOWS: &str = "
pod 10.244.1.50 > 10.96.10.1 tcp 80: accept 1/2 10.244.1.11:8080, accept 1/2 10.244.2.11:8080
pod 10.244.1.11 > 10.96.10.1 tcp 80: accept 1/2 10.244.1.11:8080 masquerade 10.244.1.1 hairpin, accept 1/2 10.244.2.11:8080
node 10.200.1.2 > 10.96.10.1 tcp 80: accept 1/2 10.244.1.11:8080 masquerade 10.244.1.1, accept 1/2 10.244.2.11:8080 masquerade 10.200.1.2
out 198.51.100.9 > 10.96.10.1 tcp 80: accept 1/2 10.244.1.11:8080 masquerade 10.244.1.1, accept 1/2 10.244.2.11:8080 masquerade 10.200.1.2
out 198.51.100.9 > 10.200.1.2 tcp 30008: accept 1/3 10.244.1.12:80 masquerade 10.244.1.1, accept 1/3 10.244.2.12:80 masquerade 10.200.1.2, accept 1/3 10.244.3.12:80 masquerade 10.200.1.2
out 198.51.100.9 > 203.0.113.200 tcp 443: drop 1
out 198.51.100.7 > 203.0.113.200 tcp 443: accept 1 10.244.2.13:8443 masquerade 10.200.1.2
out 203.0.113.9 > 203.0.113.200 tcp 443: accept 1 10.244.2.13:8443 masquerade 10.200.1.2
pod 10.244.1.50 > 203.0.113.200 tcp 443: drop 1
out 198.51.100.9 > 203.0.113.201 tcp 80: accept 1 10.244.1.14:8080
out 198.51.100.9 > 10.200.1.2 tcp 30080: accept 1 10.244.1.14:8080
pod 10.244.1.50 > 203.0.113.201 tcp 80: accept 1/2 10.244.1.14:8080, accept 1/2 10.244.2.14:8080
out 198.51.100.9 > 10.200.1.2 tcp 30081: drop 1
node 10.200.1.2 > 10.200.1.2 tcp 30081: accept 1 10.244.2.15:8080 masquerade 10.200.1.2
pod 10.244.1.50 > 10.96.10.6 tcp 80: accept 1 10.244.1.16:8080
pod 10.244.1.50 > 10.96.10.7 tcp 80: accept 1/2 10.244.1.17:8080, accept 1/2 10.244.2.17:8080
out 198.51.100.9 > 192.0.2.8 tcp 80: accept 1 10.244.2.18:8080 masquerade 10.200.1.2
pod 10.244.1.50 > 10.96.10.9 tcp 80: reject 1
node 10.200.1.2 > 10.96.10.9 tcp 80: reject 1
out 198.51.100.9 > 192.0.2.9 tcp 80: reject 1
out 198.51.100.9 > 203.0.113.202 tcp 80: reject 1
out 198.51.100.9 > 10.200.1.2 tcp 30090: reject 1
pod 10.244.1.50 > 10.96.10.10 udp 53: accept 1 10.244.1.20:53
pod 10.244.1.50 > 10.96.10.10 tcp 53: accept 1 10.244.1.20:53
pod 10.244.1.50 > 10.96.10.10 sctp 9999: accept 1 10.244.1.20:9999
pod 10.244.1.50 > 10.96.10.12 tcp 80: accept 1 10.244.2.22:8080
out 198.51.100.9 > 10.200.1.2 tcp 30120: accept 1 10.244.1.22:8080
pod 10.244.1.50 > 10.96.10.13 tcp 9100: accept 1 10.200.1.2:9100
pod 10.244.1.50 > 10.96.10.14 tcp 80: accept 1/2 10.244.1.24:8080, accept 1/2 10.244.3.24:8080
pod fd00:10:244:1::50 > fd00:10:96::f tcp 80: accept 1/2 [fd00:10:244:1::25]:8080, accept 1/2 [fd00:10:244:2::25]:8080
out fd00:99::1 > fd00:200:1::2 tcp 30150: accept 1/2 [fd00:10:244:1::25]:8080 masquerade fd00:10:244:1::1, accept 1/2 [fd00:10:244:2::25]:8080 masquerade fd00:200:1::2
pod 10.244.1.50 > 10.244.2.99 tcp 80: accept 1
pod 10.244.1.50 > 8.8.8.8 udp 53: accept 1
out 198.51.100.9 > 10.200.1.2 tcp 22: accept 1
";

#[test]
fn connections_to_every_kind_of_frontend_are_followed() {
    for (mode, world) in both() {
        for line in FLOWS.lines().filter(|l| !l.is_empty()) {
            let (packet, expected) = flow(line);
            assert_eq!(ask(&world, &packet).join(", "), expected, "{mode}: {line}");
        }
    }
}

#[test]
fn modes_differ_only_as_intended() {
    let [(_, ipt), (_, nft)] = both();
    // Only nftables mode refuses unused cluster IPs and ports that a Service lacks.
    let unused = tcp(POD, "10.96.200.200", 80);
    assert_eq!(ask(&ipt, &unused), ["accept 1"]);
    assert_eq!(ask(&nft, &unused), ["drop 1"]);
    let wrong_port = tcp(POD, "10.96.10.1", 81);
    assert_eq!(ask(&ipt, &wrong_port), ["accept 1"]);
    assert_eq!(ask(&nft, &wrong_port), ["reject 1"]);
    // NodePorts on loopback only work in iptables mode.
    let loopback = packet(Origin::Node, "127.0.0.1", "127.0.0.1", Proto::TCP, 30008);
    assert_eq!(ask(&ipt, &loopback).len(), 3);
    assert_eq!(ask(&nft, &loopback), ["accept 1"]);
}

#[test]
fn steps_of_a_path_are_listed() {
    let [(_, ipt), (_, nft)] = both();
    let packet = tcp(CLIENT, "10.200.1.2", 30008);
    let chains = |world: &World| -> Vec<String> {
        let trace = trace::walk(world, &packet).unwrap();
        trace.outcomes[0]
            .path
            .iter()
            .map(|s| format!("{}/{}/{}", s.hook, s.table, s.chain))
            .collect()
    };
    assert_eq!(
        chains(&ipt),
        [
            "prerouting/nat/PREROUTING",
            "prerouting/nat/KUBE-SERVICES",
            "prerouting/nat/KUBE-NODEPORTS",
            "prerouting/nat/KUBE-EXT-QNETAGAVOXOB7IFC",
            "prerouting/nat/KUBE-MARK-MASQ",
            "prerouting/nat/KUBE-EXT-QNETAGAVOXOB7IFC",
            "prerouting/nat/KUBE-SVC-QNETAGAVOXOB7IFC",
            "prerouting/nat/KUBE-SEP-RR7DVUTWUPHCEYE5",
            "routing//",
            "forward/filter/FORWARD",
            "forward/filter/FORWARD",
            "forward/filter/KUBE-FORWARD",
            "postrouting/nat/POSTROUTING",
            "postrouting/nat/KUBE-POSTROUTING",
            "postrouting/nat/KUBE-POSTROUTING",
            "wire//",
        ]
    );
    assert!(chains(&nft).contains(&"prerouting/kube-proxy/services".to_owned()));
}
