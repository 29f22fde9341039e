//! Shared by the tests: the observed node and helpers.
#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod modes;

use std::net::IpAddr;
use std::path::Path;

use netfilter::iptables::Family;
pub use observed::read as observed;
use trace::{Facts, Origin, Packet, Proto, Summary, Trace, Verdict, World, walk};

/// The rule sets of `testdata/foreign`.
pub const FOREIGN: [&str; 9] = [
    "docker",
    "calico",
    "cilium",
    "aws-vpc-cni",
    "k3s",
    "ufw",
    "kube-proxy-1.18",
    "firewalld",
    "host-firewall",
];

/// Return a file of a foreign rule set, if it exists, with the name of the pods' interface replaced by
/// that of the tests' node.
pub fn foreign(name: &str, ending: &str) -> Option<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/foreign");
    let text = std::fs::read_to_string(folder.join(format!("{name}.{ending}"))).ok()?;
    let pods = [
        ("docker0", "cbr0"),
        ("cali0a1b2c3d4e5", "cbr0"),
        (" cali+ ", " cbr+ "),
        (" lxc+ ", " cbr+ "),
        (" eni+ ", " cbr+ "),
    ];
    Some(
        pods.iter()
            .fold(text, |text, (from, to)| text.replace(from, to)),
    )
}

/// The tests' node with a foreign rule set, for iptables or for nft.
pub fn foreign_world(name: &str, nft: bool) -> Option<World> {
    let mut world = World::from_facts(&node_facts()).unwrap();
    if nft {
        world.add_nft(&foreign(name, "nft")?).unwrap();
        return Some(world);
    }
    let v4 = foreign(name, "iptables-save")?;
    world.add_iptables(Family::Ipv4, &v4).unwrap();
    if let Some(v6) = foreign(name, "ip6tables-save") {
        world.add_iptables(Family::Ipv6, &v6).unwrap();
    }
    if let Some(sets) = foreign(name, "ipset") {
        world.ipsets = netfilter::ipset::Sets::parse(&sets).unwrap();
    }
    Some(world)
}

/// The node of `testdata/observed`, with a bridge for its pods, the other nodes behind eth0.
pub fn node_facts() -> Facts {
    Facts::parse(
        r#"{
  "version": 1,
  "hostname": "node1",
  "interfaces": [
    {"name": "lo", "index": 1, "up": true, "addresses": ["127.0.0.1/8", "::1/128"]},
    {"name": "eth0", "index": 2, "up": true, "addresses": ["10.200.1.2/24", "fd00:200:1::2/64"]},
    {"name": "cbr0", "index": 3, "up": true, "kind": "bridge", "addresses": ["10.244.1.1/24", "fd00:10:244:1::1/64"]},
    {"name": "veth11", "index": 4, "up": true, "kind": "veth", "master": "cbr0"}
  ],
  "routes": [
    {"dst": "default", "via": "10.200.1.1", "dev": "eth0"},
    {"dst": "10.200.1.0/24", "dev": "eth0", "src": "10.200.1.2"},
    {"dst": "10.244.1.0/24", "dev": "cbr0", "src": "10.244.1.1"},
    {"dst": "10.244.2.0/24", "via": "10.200.1.3", "dev": "eth0"},
    {"dst": "10.244.3.0/24", "via": "10.200.1.4", "dev": "eth0"},
    {"dst": "default", "via": "fd00:200:1::1", "dev": "eth0"},
    {"dst": "fd00:200:1::/64", "dev": "eth0"},
    {"dst": "fd00:10:244:1::/64", "dev": "cbr0"},
    {"dst": "fd00:10:244:2::/64", "via": "fd00:200:1::3", "dev": "eth0"}
  ],
  "sysctls": {
    "net.ipv4.ip_forward": "1",
    "net.ipv6.conf.all.forwarding": "1",
    "net.ipv4.conf.all.route_localnet": "1",
    "net.ipv4.conf.all.rp_filter": "0",
    "net.bridge.bridge-nf-call-iptables": "1",
    "net.bridge.bridge-nf-call-ip6tables": "1"
  }
}"#,
    )
    .unwrap()
}

pub fn iptables_world(config: &str) -> World {
    let mut world = World::from_facts(&node_facts()).unwrap();
    for (family, v) in [(Family::Ipv4, "v4"), (Family::Ipv6, "v6")] {
        let text = observed(&format!("iptables-{config}.{v}.iptables-save"));
        world.add_iptables(family, &text).unwrap();
    }
    world
}

pub fn nft_world(config: &str) -> World {
    let mut world = World::from_facts(&node_facts()).unwrap();
    for v in ["v4", "v6"] {
        world
            .add_nft(&observed(&format!("nftables-{config}.{v}.nft")))
            .unwrap();
    }
    world
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn packet(from: Origin, src: &str, dst: &str, proto: Proto, dport: u16) -> Packet {
    Packet::new(from, ip(src), ip(dst), proto, dport)
}

/// Parse `pod 10.244.1.50 > 10.96.10.1 tcp 80: accept 1`: a packet and its expected outcome.
pub fn flow(line: &str) -> (Packet, &str) {
    let (flow, expected) = line.split_once(": ").unwrap();
    let words: Vec<&str> = flow.split(' ').collect();
    let from = match words[0] {
        "pod" => Origin::Pod,
        "node" => Origin::Node,
        _ => Origin::Outside,
    };
    let proto = Proto::parse(words[4]).unwrap();
    let port = words[5].parse().unwrap();
    (packet(from, words[1], words[3], proto, port), expected)
}

/// Return one line per outcome: `accept 1/2 10.244.1.11:8080 masq 10.200.1.2`.
pub fn shown(trace: &Trace) -> Vec<String> {
    trace.summary().iter().map(line).collect()
}

pub fn line(s: &Summary) -> String {
    let mut text = format!("{} {}", s.verdict, s.probability);
    if s.verdict == Verdict::Accept {
        if let Some(to) = s.dnat {
            text.push_str(&format!(" {to}"));
        }
        match s.snat {
            Some(trace::Snat::Masquerade(Some(ip))) => text.push_str(&format!(" masquerade {ip}")),
            Some(trace::Snat::Masquerade(None)) => text.push_str(" masquerade"),
            Some(trace::Snat::To(ip)) => text.push_str(&format!(" snat {ip}")),
            None => {}
        }
        if s.hairpin {
            text.push_str(" hairpin");
        }
    }
    text
}

pub fn ask(world: &World, packet: &Packet) -> Vec<String> {
    shown(&walk(world, packet).unwrap())
}
