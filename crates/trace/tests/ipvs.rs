//! Flows through the observed state of kube-proxy's ipvs mode: iptables rules, ipsets and virtual
//! servers.
#![allow(missing_docs)]

mod common;

use common::{ask, ip, observed, packet};
use netfilter::iptables::Family;
use trace::{Origin, Proto, World};

fn world(config: &str) -> World {
    let mut facts = common::node_facts();
    // kube-ipvs0 is down and has every Service address; its addresses are local nevertheless.
    let addresses = observed(&format!("ipvs-{config}.addr"));
    let line = addresses
        .lines()
        .find(|l| l.starts_with("kube-ipvs0"))
        .unwrap();
    facts.interfaces.push(trace::Interface {
        name: "kube-ipvs0".into(),
        index: 9,
        addresses: line
            .split_whitespace()
            .skip(2)
            .map(|a| a.parse().unwrap())
            .collect(),
        kind: Some("dummy".into()),
        ..trace::Interface::default()
    });
    let mut world = World::from_facts(&facts).unwrap();
    for (family, v) in [(Family::Ipv4, "v4"), (Family::Ipv6, "v6")] {
        let text = observed(&format!("ipvs-{config}.{v}.iptables-save"));
        world.add_iptables(family, &text).unwrap();
    }
    let ipsets = observed(&format!("ipvs-{config}.ipset"));
    world.ipsets = netfilter::ipset::Sets::parse(&ipsets).unwrap();
    let services = observed(&format!("ipvs-{config}.ipvsadm"));
    world.ipvs = netfilter::ipvs::Services::parse(&services).unwrap();
    world
}

#[test]
fn every_kind_of_frontend_is_walked() {
    let world = world("default");
    let tcp = |from, src, dst, port| ask(&world, &packet(from, src, dst, Proto::TCP, port));
    let client = "198.51.100.9";
    assert_eq!(
        tcp(Origin::Pod, "10.244.1.50", "10.96.10.1", 80),
        ["accept 1/2 10.244.1.11:8080", "accept 1/2 10.244.2.11:8080"]
    );
    // Itself: KUBE-LOOP-BACK.
    assert_eq!(
        tcp(Origin::Pod, "10.244.1.11", "10.96.10.1", 80),
        [
            "accept 1/2 10.244.1.11:8080 masquerade 10.244.1.1 hairpin",
            "accept 1/2 10.244.2.11:8080"
        ]
    );
    assert_eq!(
        tcp(Origin::Outside, client, "10.200.1.2", 30008),
        [
            "accept 1/3 10.244.1.12:80 masquerade 10.244.1.1",
            "accept 1/3 10.244.2.12:80 masquerade 10.200.1.2",
            "accept 1/3 10.244.3.12:80 masquerade 10.200.1.2"
        ]
    );
    assert_eq!(
        tcp(Origin::Node, "10.200.1.2", "10.96.10.3", 443),
        ["accept 1 10.244.2.13:8443 masquerade 10.200.1.2"]
    );
    // Source ranges.
    assert_eq!(
        tcp(Origin::Outside, client, "203.0.113.200", 443),
        ["drop 1"]
    );
    assert_eq!(
        tcp(Origin::Outside, "198.51.100.7", "203.0.113.200", 443),
        ["accept 1 10.244.2.13:8443 masquerade 10.200.1.2"]
    );
    // Local policy keeps the client's address.
    assert_eq!(
        tcp(Origin::Outside, client, "10.200.1.2", 30080),
        ["accept 1 10.244.1.14:8080"]
    );
    // Without a local endpoint, other modes drop; ipvs mode uses any endpoint.
    assert_eq!(
        tcp(Origin::Outside, client, "10.200.1.2", 30081),
        ["accept 1 10.244.2.15:8080"]
    );
    // No endpoints: the virtual server has no destination.
    assert_eq!(
        tcp(Origin::Pod, "10.244.1.50", "10.96.10.9", 80),
        ["reject 1"]
    );
    // A port that the Service lacks.
    assert_eq!(
        tcp(Origin::Pod, "10.244.1.50", "10.96.10.1", 81),
        ["reject 1"]
    );
}

#[test]
fn service_addresses_are_local() {
    let world = world("default");
    assert!(world.host.is_local(ip("10.96.10.1")));
    assert!(world.host.is_local(ip("fd00:10:96::f")));
    let over_v6 = packet(
        Origin::Pod,
        "fd00:10:244:1::50",
        "fd00:10:96::f",
        Proto::TCP,
        80,
    );
    assert_eq!(
        ask(&world, &over_v6),
        [
            "accept 1/2 [fd00:10:244:1::25]:8080",
            "accept 1/2 [fd00:10:244:2::25]:8080"
        ]
    );
}

#[test]
fn schedulers_are_reported() {
    let world = world("lc-strictarp");
    let question = packet(Origin::Pod, "10.244.1.50", "10.96.10.1", Proto::TCP, 80);
    let trace = trace::walk(&world, &question).unwrap();
    assert!(
        trace
            .warnings
            .iter()
            .any(|w| w.contains("lc chooses by load"))
    );
    assert_eq!(trace.outcomes.len(), 2);
}
