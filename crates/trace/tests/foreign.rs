//! Rules of programs common beside kube-proxy, and of an old kube-proxy: all of them can be parsed, and
//! selected packets have the fate that the rules' authors intended.
//! `kernel.rs` sends real packets through the same rules.
#![allow(missing_docs, unreachable_pub)]

mod common;
#[allow(dead_code)]
#[path = "kernel/kinds.rs"]
mod kinds;

use common::{FOREIGN, ask, flow, foreign_world, packet, shown};
use trace::{Origin, Packet, Proto, Trace, walk};

#[test]
fn every_match_and_target_of_foreign_rules_is_known() {
    let both = FOREIGN
        .iter()
        .flat_map(|name| [(*name, false), (*name, true)]);
    for (name, nft) in both {
        let Some(world) = foreign_world(name, nft) else {
            continue;
        };
        let mut all = kinds::of_nft(&world.nft);
        all.extend(world.iptables.iter().flat_map(kinds::of_iptables));
        assert!(all.len() > 4, "{name}: {all:?}");
        let unknown: Vec<&str> = all
            .into_iter()
            .filter(|kind| kind.to_lowercase().contains("another"))
            .collect();
        // `-m socket`, which is stored as text.
        let expected: &[&str] = if name == "cilium" {
            &["-m another"]
        } else {
            &[]
        };
        assert_eq!(unknown, expected, "{name}");
    }
}

/// One flow per line, under the name of its rules.
const FLOWS: &str = "
docker
out 198.51.100.7 > 10.200.1.2 tcp 8080: accept 1 10.244.1.11:80
out 198.51.100.8 > 10.200.1.2 tcp 8080: drop 1
out 198.51.100.7 > 10.244.1.11 tcp 80: accept 1
out 198.51.100.7 > 10.244.1.11 tcp 8443: drop 1
out 198.51.100.7 > 10.244.1.12 tcp 80: drop 1
out 198.51.100.7 > 10.200.1.2 tcp 443: reject 1
pod 10.244.1.12 > 203.0.113.5 tcp 443: accept 1 masquerade 10.200.1.2
pod 10.244.1.12 > 10.244.1.11 tcp 3306: accept 1
node 10.200.1.2 > 10.200.1.2 udp 53: accept 1 10.244.1.12:53
out fd00:99::1 > fd00:200:1::2 tcp 8080: accept 1 [fd00:10:244:1::11]:80
calico
pod 10.244.1.50 > 10.96.0.1 tcp 80: accept 1/2 10.244.1.11:8080, accept 1/2 10.244.2.12:8080
out 198.51.100.7 > 10.200.1.2 tcp 30080: accept 1/2 10.244.1.11:8080 masquerade 10.244.1.1, accept 1/2 10.244.2.12:8080 masquerade 10.200.1.2
out 198.51.100.8 > 10.200.1.2 tcp 30080: accept 1/2 10.244.2.12:8080 masquerade 10.200.1.2, drop 1/2
pod 10.244.1.51 > 10.244.1.11 tcp 8080: drop 1
pod 10.244.1.50 > 10.244.1.11 tcp 8080: accept 1
pod 10.244.1.51 > 10.244.1.11 udp 53: accept 1
pod 10.244.1.51 > 203.0.113.5 tcp 443: drop 1
pod 10.244.1.51 > 8.8.8.8 tcp 443: accept 1 masquerade 10.200.1.2
pod 10.244.1.51 > 10.200.1.2 tcp 10250: accept 1
pod 10.244.1.51 > 10.96.0.2 tcp 80: reject 1
out 10.200.1.3 > 10.200.1.2 udp 4789: accept 1
cilium
pod 10.244.1.50 > 8.8.8.8 udp 53: accept 1 masquerade 10.200.1.2
pod 10.244.1.50 > 10.200.1.77 tcp 4240: accept 1
out 10.200.1.77 > 10.244.1.11 tcp 80: drop 1
node 10.200.1.2 > 10.244.1.11 tcp 80: accept 1
aws-vpc-cni
pod 10.244.1.50 > 10.96.0.1 tcp 443: accept 1/3 10.244.1.11:443, accept 1/3 10.244.2.12:443, accept 1/3 203.0.113.5:443 snat 10.200.1.2
out 198.51.100.7 > 10.200.1.2 tcp 30080: accept 1/3 10.244.1.11:443 masquerade 10.244.1.1, accept 1/3 10.244.2.12:443 masquerade 10.200.1.2, accept 1/3 203.0.113.5:443 masquerade 10.200.1.2
pod 10.244.1.50 > 203.0.113.9 tcp 443: accept 1 snat 10.200.1.2
k3s
out 198.51.100.7 > 10.200.1.2 tcp 8080: accept 1 10.244.1.11:8080
out 198.51.100.8 > 10.200.1.2 tcp 8080: reject 1
pod 10.244.1.11 > 8.8.8.8 udp 53: accept 1 masquerade 10.200.1.2
node 10.200.1.2 > 10.244.1.11 tcp 9999: accept 1
out 198.51.100.7 > 127.0.0.1 tcp 10249: drop 1
ufw
out 198.51.100.7 > 10.200.1.2 tcp 8080: accept 1
out 203.0.113.9 > 10.200.1.2 tcp 8080: drop 1
out 203.0.113.9 > 10.200.1.2 tcp 80: reject 1
out 203.0.113.9 > 10.200.1.2 tcp 443: accept 1
out 198.51.100.7 > 10.244.1.11 tcp 80: accept 1
out 198.51.100.7 > 10.244.1.12 tcp 80: drop 1
pod 10.244.1.12 > 8.8.8.8 tcp 443: accept 1
out 203.0.113.9 > 10.200.1.2 icmp 0: accept 1
kube-proxy-1.18
pod 10.244.1.50 > 10.96.0.1 tcp 80: accept 1/2 10.244.1.11:8080, accept 1/2 10.244.2.12:8080
pod 10.244.1.11 > 10.96.0.1 tcp 80: accept 1/2 10.244.1.11:8080 masquerade 10.244.1.1 hairpin, accept 1/2 10.244.2.12:8080
out 198.51.100.7 > 203.0.113.5 tcp 80: accept 1 10.244.1.11:8080
out 198.51.100.8 > 203.0.113.5 tcp 80: accept 1
node 10.200.1.2 > 203.0.113.5 tcp 80: drop 1
out 198.51.100.8 > 10.200.1.2 tcp 30080: accept 1 10.244.1.11:8080
out 198.51.100.8 > 10.200.1.2 tcp 30081: accept 1/2 10.244.1.14:8080 masquerade 10.244.1.1, accept 1/2 10.244.2.14:8080 masquerade 10.200.1.2
pod 10.244.1.50 > 10.96.0.2 tcp 80: accept 1/2 10.244.1.14:8080, accept 1/2 10.244.2.14:8080
pod 10.244.1.50 > 10.96.0.9 tcp 80: reject 1
out 198.51.100.8 > 10.200.1.2 tcp 30090: reject 1
node 127.0.0.1 > 127.0.0.1 tcp 30080: accept 1/2 10.244.1.11:8080 masquerade 10.244.1.1, accept 1/2 10.244.2.12:8080 masquerade 10.200.1.2
firewalld (nft)
out 198.51.100.7 > 10.200.1.2 tcp 22: accept 1
out 198.51.100.7 > 10.200.1.2 tcp 443: reject 1
out 198.51.100.8 > 10.200.1.2 tcp 443: accept 1
out 198.51.100.30 > 10.200.1.2 tcp 30080: drop 1
out 198.51.100.7 > 10.200.1.2 tcp 8080: accept 1 10.244.1.11:80
out 198.51.100.7 > 10.200.1.2 udp 53: accept 1 10.200.1.2:30080
out 198.51.100.7 > 10.244.1.11 tcp 80: accept 1
out 198.51.100.7 > 10.244.1.12 tcp 80: reject 1
pod 10.244.1.50 > 8.8.8.8 tcp 443: accept 1 masquerade 10.200.1.2
out fd00:99::1 > fd00:200:1::2 tcp 8080: accept 1 [fd00:10:244:1::11]:80
out fd00:99::1 > fd00:200:1::2 tcp 443: reject 1
pod fd00:10:244:1::50 > 2002::1 tcp 443: reject 1
docker (nft)
out 198.51.100.7 > 10.200.1.2 tcp 8080: accept 1 10.244.1.11:80
out 198.51.100.7 > 10.244.1.11 tcp 443: drop 1
out 198.51.100.7 > 10.244.1.12 tcp 80: drop 1
pod 10.244.1.12 > 8.8.8.8 udp 53: accept 1 masquerade 10.200.1.2
node 10.200.1.2 > 10.200.1.2 udp 53: accept 1 10.244.1.12:53 masquerade 10.244.1.1
host-firewall (nft)
out 198.51.100.30 > 10.200.1.2 tcp 22: drop 1
out 198.51.100.7 > 10.200.1.2 tcp 22: accept 1
out 198.51.100.7 > 10.200.1.2 tcp 80: accept 1
out 203.0.113.200 > 10.200.1.2 tcp 80: reject 1
out 198.51.100.8 > 10.200.1.2 tcp 443: reject 1
out 198.51.100.7 > 10.200.1.2 tcp 443: accept 1
out 198.51.100.7 > 10.96.0.1 tcp 80: accept 1/2 10.244.1.11:80, drop 1/2
pod 10.244.1.50 > 10.96.0.2 tcp 443: accept 1 10.244.2.12:443 masquerade 10.200.1.2
pod 10.244.1.50 > 8.8.8.8 udp 53: accept 1 snat 10.200.1.2
out 198.51.100.7 > 203.0.113.5 tcp 443: accept 1 10.244.1.11:8080
";

#[test]
fn packets_through_foreign_rules_have_the_intended_results() {
    let mut world = None;
    for line in FLOWS.lines().filter(|l| !l.is_empty()) {
        if !line.contains(": ") {
            let nft = line.strip_suffix(" (nft)");
            world = foreign_world(nft.unwrap_or(line), nft.is_some());
            continue;
        }
        let (packet, expected) = flow(line);
        let answer = ask(world.as_ref().unwrap(), &packet).join(", ");
        assert_eq!(answer, expected, "{line}");
    }
}

#[test]
fn unknown_conditions_are_reported() {
    let said = |name: &str, nft: bool, packet: &Packet| {
        walk(&foreign_world(name, nft).unwrap(), packet).unwrap()
    };
    // From a pod's interface with another address.
    let mut spoofed = packet(Origin::Pod, "192.0.2.66", "8.8.8.8", Proto::TCP, 443);
    spoofed.in_iface = Some("cbr0".into());
    let trace = said("calico", false, &spoofed);
    assert_eq!(shown(&trace), ["drop 1"]);
    assert!(
        trace.outcomes[0]
            .path
            .last()
            .unwrap()
            .rule
            .contains("rpfilter")
    );
    // Marked by a BPF program for a proxy that may or may not listen.
    let mut proxied = packet(Origin::Pod, "10.244.1.50", "10.96.0.10", Proto::UDP, 53);
    proxied.mark = 0x3a9b_0200;
    let trace = said("cilium", false, &proxied);
    assert_eq!(shown(&trace), ["accept 1/2", "drop 1/2"]);
    assert!(trace.outcomes.iter().all(|o| o.assuming.len() == 1));
    let told = |trace: &Trace, word: &str| trace.warnings.iter().any(|w| w.contains(word));
    assert!(
        told(&trace, "39482") && told(&trace, "socket"),
        "{:?}",
        trace.warnings
    );
    let limited = packet(Origin::Outside, "203.0.113.9", "10.200.1.2", Proto::TCP, 9);
    assert!(told(
        &said("ufw", false, &limited),
        "limit: assumed not to be reached yet"
    ));
}
