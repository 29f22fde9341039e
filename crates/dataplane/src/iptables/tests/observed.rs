//! The observations, and the objects that they were made of.

use std::path::PathBuf;

use model::{Interner, Kind, object::Object};
use netfilter::iptables::Match;
use plan::{LocalTraffic, NodePortAddresses, Planner, Settings};

use super::*;

/// The configurations, and how each differs from the first.
pub(super) const CONFIGURATIONS: [&str; 8] = [
    "default",
    "masquerade-all",
    "primary",
    "nodeport-cidr",
    "bridge",
    "prefix",
    "nodecidr",
    "no-localhost",
];

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../testdata/observed")
        .join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

pub(super) fn save(configuration: &str, family: IpFamily) -> TableSet {
    let digit = match family {
        IpFamily::V4 => 4,
        IpFamily::V6 => 6,
    };
    let text = read(&format!("iptables-{configuration}.v{digit}.iptables-save"));
    TableSet::parse(rule_family(family), &text).unwrap()
}

/// The same as on a kernel without nfacct.
pub(super) fn without_nfacct(mut tables: TableSet) -> TableSet {
    let counts = |m: &Match| matches!(m, Match::Nfacct(_));
    for ((table, chain), state) in tables.tables.iter_mut().flat_map(|(table, state)| {
        let chains = state.chains.iter_mut();
        chains.map(move |(chain, state)| ((*table, *chain), state))
    }) {
        if table == Table::Nat && chain == names::NODE_PORTS {
            state.rules.retain(|rule| !rule.matches.iter().any(counts));
        }
        for rule in &mut state.rules {
            rule.matches.retain(|m| !counts(m));
        }
    }
    tables
}

pub(super) fn settings(configuration: &str) -> Settings {
    let base = plan::testing::settings("node1");
    match configuration {
        "masquerade-all" => Settings {
            masquerade_all: true,
            ..base
        },
        "primary" => Settings {
            node_port_addresses: NodePortAddresses::Primary,
            ..base
        },
        "nodeport-cidr" => Settings {
            node_port_addresses: NodePortAddresses::Ranges(plan::testing::cidrs(&[
                "10.200.1.0/24",
                "fd00:200:1::/64",
            ])),
            ..base
        },
        "bridge" => Settings {
            local_traffic: LocalTraffic::BridgeInterface("cbr0".to_owned()),
            ..base
        },
        "prefix" => Settings {
            local_traffic: LocalTraffic::InterfaceNamePrefix("veth".to_owned()),
            ..base
        },
        "nodecidr" => Settings {
            local_traffic: LocalTraffic::NodeCidr,
            ..base
        },
        _ => base,
    }
}

pub(super) fn options(configuration: &str, nfacct: bool) -> Options {
    let contains = settings(configuration)
        .node_port_addresses
        .contains_ipv4_loopback();
    Options {
        localhost_node_ports: contains && configuration != "no-localhost",
        nfacct: Nfacct {
            invalid_dropped: nfacct,
            localhost_node_ports: nfacct,
        },
        ..Options::default()
    }
}

pub(super) fn planner(configuration: &str) -> Planner {
    let mut planner = Planner::new(settings(configuration));
    planner.set_host_addresses(plan::testing::ips(&[
        "127.0.0.1",
        "10.200.1.2",
        "::1",
        "fd00:200:1::2",
    ]));
    let list: serde_json::Value = serde_json::from_str(&read("objects.json")).unwrap();
    let mut interner = Interner::default();
    for item in list["items"].as_array().unwrap() {
        let text = |field: &str| item[field].as_str().unwrap();
        let kind = Kind::of(text("apiVersion"), text("kind")).unwrap();
        let object = Object::deserialize(kind, item).unwrap();
        planner.apply(object.check(&mut interner).unwrap().value);
    }
    planner.take_diff();
    planner
}
