//! The plan compared with the recorded rules of kube-proxy v1.36.2 for the same objects.

use std::collections::{BTreeMap, BTreeSet};

use model::IpFamily;
use plan::testing::{cidrs, ips, settings};
use plan::{LocalDetector, LocalTraffic, NodePortAddresses, Planner, Settings, Traffic};

fn planner(settings: Settings) -> Planner {
    let mut planner = Planner::new(settings);
    planner.set_host_addresses(::observed::host_addresses());
    planner.apply_all(::observed::objects());
    planner.take_diff();
    planner
}

fn rules(family: IpFamily) -> String {
    ::observed::configuration("default").iptables_save("iptables", family)
}

/// Return comment and text of every rule in chains with this prefix.
fn comments<'a>(rules: &'a str, chain: &str) -> Vec<(&'a str, &'a str)> {
    let start = format!("-A {chain}");
    let rules = rules.lines().filter(|line| line.starts_with(&start));
    rules
        .filter_map(|rule| Some((rule.split('"').nth(1)?, rule)))
        .collect()
}

/// Return the endpoints per Service port in chains of a kind, in the order of the rules.
fn balanced(rules: &str, chain: &str) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::<String, Vec<String>>::new();
    for (comment, _) in comments(rules, chain) {
        let Some((name, endpoint)) = comment.split_once(" -> ") else {
            continue;
        };
        let endpoints = found.entry(name.to_owned()).or_default();
        // Affinity rules name every endpoint again.
        if !endpoints.iter().any(|known| known == endpoint) {
            endpoints.push(endpoint.to_owned());
        }
    }
    found
}

#[test]
fn endpoints_and_their_order_equal_the_observation() {
    let planner = planner(settings("node1"));
    for family in IpFamily::ALL {
        let rules = rules(family);
        let mut cluster = BTreeMap::new();
        let mut local = BTreeMap::new();
        for port in planner.plan(family).ports.values() {
            if !port.cluster.is_empty() {
                cluster.insert(port.name.to_string(), super::texts(&port.cluster));
            }
            if !port.local.is_empty() {
                local.insert(port.name.to_string(), super::texts(&port.local));
            }
        }
        assert!(!cluster.is_empty());
        assert_eq!(cluster, balanced(&rules, "KUBE-SVC-"), "{family}");
        assert_eq!(local, balanced(&rules, "KUBE-SVL-"), "{family}");
    }
}

#[test]
fn rejected_and_dropped_frontends_equal_the_observation() {
    let planner = planner(settings("node1"));
    for family in IpFamily::ALL {
        let rules = rules(family);
        let (mut refused, mut dropped) = (BTreeSet::new(), BTreeSet::new());
        for chain in ["KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES"] {
            for (comment, rule) in comments(&rules, chain) {
                let port = rule
                    .split("--dport ")
                    .nth(1)
                    .and_then(|r| r.split(' ').next());
                if let Some(name) = comment.strip_suffix(" has no endpoints") {
                    refused.extend(port.map(|port| format!("{name} {port}")));
                } else if let Some(name) = comment.strip_suffix(" has no local endpoints") {
                    dropped.extend(port.map(|port| format!("{name} {port}")));
                }
            }
        }
        let of = |traffic| {
            let ports = planner.plan(family).ports.values();
            let frontends = ports.flat_map(|p| p.frontends().map(move |f| (p, f)));
            let wanted = frontends.filter(|(_, frontend)| frontend.traffic == traffic);
            let texts = wanted.map(|(p, f)| format!("{} {}", p.name, f.port));
            texts.collect::<BTreeSet<_>>()
        };
        assert_eq!(of(Traffic::Reject), refused, "{family}");
        assert_eq!(of(Traffic::Drop), dropped, "{family}");
    }
}

#[test]
fn frontends_equal_the_observation() {
    let planner = planner(settings("node1"));
    for family in IpFamily::ALL {
        let rules = rules(family);
        let mut seen = BTreeSet::new();
        for chain in ["KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES"] {
            for (_, rule) in comments(&rules, chain) {
                let ip = rule.split(" -d ").nth(1).and_then(|r| r.split('/').next());
                let port = rule
                    .split("--dport ")
                    .nth(1)
                    .and_then(|r| r.split(' ').next());
                if let (Some(ip), Some(port)) = (ip, port) {
                    seen.insert(format!("{ip} {port}"));
                }
            }
        }
        let ports = planner.plan(family).ports.values();
        let frontends = ports.flat_map(|port| port.frontends());
        let planned: BTreeSet<_> = frontends
            .filter_map(|f| Some(format!("{} {}", f.ip?, f.port)))
            .collect();
        assert_eq!(planned, seen, "{family}");
    }
}

#[test]
fn affinity_source_ranges_and_checks_equal_the_observation() {
    let planner = planner(settings("node1"));
    let plan = planner.plan(IpFamily::V4);
    let find = |name: &str| {
        let mut ports = plan.ports.values();
        ports.find(|port| port.name.to_string() == name).unwrap()
    };
    assert_eq!(
        find("demo/sticky:http").affinity.map(|a| a.timeout_seconds),
        Some(600)
    );
    assert_eq!(
        find("demo/lb:https").source_ranges,
        cidrs(&["203.0.113.0/24", "198.51.100.7/32"])
    );
    let checks: Vec<_> = plan.health_checks.iter().collect();
    assert_eq!(checks.len(), 1);
    assert_eq!(checks[0].0.to_string(), "demo/lb-local");
    assert_eq!(
        (checks[0].1.port.get(), checks[0].1.local_ready),
        (30999, 1)
    );
    assert_eq!(plan.node.node_ip, Some(ips(&["10.200.1.2"])[0]));
    let nothing = ["headless", "extname", "foreign"];
    assert!(
        plan.ports
            .keys()
            .all(|key| !nothing.contains(&&*key.0.service.name))
    );
}

#[test]
fn node_facts_equal_the_observation() {
    let local = |local_traffic| Settings {
        local_traffic,
        ..settings("node1")
    };
    let cases = [
        (
            LocalTraffic::NodeCidr,
            LocalDetector::Source(cidrs(&["10.244.1.0/24"])[0]),
        ),
        (
            LocalTraffic::BridgeInterface("cbr0".to_owned()),
            LocalDetector::Interface("cbr0".to_owned()),
        ),
    ];
    for (local_traffic, expected) in cases {
        let planner = planner(local(local_traffic));
        assert_eq!(planner.plan(IpFamily::V4).node.local, expected);
    }
    for node_port_addresses in [
        NodePortAddresses::Primary,
        NodePortAddresses::Ranges(cidrs(&["10.200.1.0/24", "fd00:200:1::/64"])),
    ] {
        let planner = planner(Settings {
            node_port_addresses,
            ..settings("node1")
        });
        let at = IpFamily::ALL.map(|family| planner.plan(family).node.node_port_ips.clone());
        assert_eq!(
            at,
            [Some(ips(&["10.200.1.2"])), Some(ips(&["fd00:200:1::2"]))]
        );
    }
}
