//! Nodes whose rules do what the objects state: `verify` reports nothing.
#![allow(missing_docs)]

#[path = "../../trace/tests/common/mod.rs"]
mod common;

use std::net::IpAddr;
use std::path::Path;

use common::modes;
use diagnose::explain::{Given, Inspector};
use diagnose::verify::{Verification, verify};
use model::{Event, IpFamily, Mode};
use plan::testing::cluster;
use plan::{LocalTraffic, NodePortAddresses, Planner, Settings};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use trace::{Facts, World};

/// Nodes of each mode.
const EACH: usize = 25;

/// Rule sets of other programs that leave Services alone, as nft lists them.
const OTHERS: [&str; 2] = ["firewalld", "docker"];

fn addresses(facts: &Facts) -> Vec<IpAddr> {
    let all = facts.interfaces.iter().flat_map(|i| &i.addresses);
    all.map(ipnet::IpNet::addr).collect()
}

/// Return a node with the rules of a mode for both families.
fn node(mode: Mode, settings: &Settings, events: &[Event], facts: &mut Facts) -> World {
    let mut planner = Planner::new(settings.clone());
    planner.set_host_addresses(addresses(facts));
    planner.apply_all(events.to_vec());
    planner.take_diff();
    let mut world = World::from_facts(facts).unwrap();
    for family in IpFamily::ALL {
        let plan = planner.plan(family);
        let of_family = modes::world(mode, plan, facts);
        world.iptables.extend(of_family.iptables);
        world.nft.tables.extend(of_family.nft.tables);
        world.ipsets.sets.extend(of_family.ipsets.sets);
        world.ipvs.services.extend(of_family.ipvs.services);
    }
    if mode == Mode::Ipvs {
        let mut servers: Vec<IpAddr> = Vec::new();
        for service in &world.ipvs.services {
            if let netfilter::ipvs::ServiceId::Address { address, .. } = &service.id
                && !addresses(facts).contains(&address.ip())
            {
                servers.push(address.ip());
            }
        }
        facts.interfaces.push(trace::Interface {
            name: "kube-ipvs0".into(),
            index: 9,
            addresses: servers.into_iter().map(Into::into).collect(),
            kind: Some("dummy".into()),
            ..trace::Interface::default()
        });
        world.host = World::from_facts(facts).unwrap().host;
    }
    world
}

fn verified(settings: Settings, events: Vec<Event>, facts: Facts, world: World) -> Verification {
    let inspector = Inspector::new(Given {
        events,
        settings,
        facts,
        world,
        is_partial: false,
        is_configured: true,
        refused: Vec::new(),
    });
    verify(&inspector, |_, _| {}).unwrap()
}

#[track_caller]
fn assert_healthy(what: &str, answer: &Verification) {
    assert!(answer.problems.is_empty(), "{what}: {}", answer.text());
}

fn generated(mode: Mode, with: impl Fn(usize, &mut World) -> String) {
    let mut runner = TestRunner::deterministic();
    let mut connections = 0;
    for number in 0..EACH {
        let tree = cluster().new_tree(&mut runner).unwrap();
        let cluster = tree.current();
        let mut facts = common::node_facts();
        // The interfaces have the addresses of the Node.
        let own = cluster.nodes.iter().filter(|n| &*n.name == "node1");
        for address in own.flat_map(|n| &n.addresses) {
            if !addresses(&facts).contains(&address.ip) {
                facts.interfaces[1].addresses.push(address.ip.into());
            }
        }
        let mut world = node(mode, &cluster.settings, &cluster.events(), &mut facts);
        let what = with(number, &mut world);
        let answer = verified(cluster.settings.clone(), cluster.events(), facts, world);
        connections += answer.connections;
        assert_healthy(&format!("{mode} {number} {what} {cluster:#?}"), &answer);
    }
    assert!(connections > 100, "{connections}");
}

#[test]
fn nodes_in_iptables_mode() {
    generated(Mode::Iptables, |_, _| String::new());
}

#[test]
fn nodes_in_nftables_mode() {
    generated(Mode::Nftables, |_, _| String::new());
}

#[test]
fn nodes_in_ipvs_mode() {
    generated(Mode::Ipvs, |_, _| String::new());
}

#[test]
fn nodes_in_userspace_mode() {
    generated(Mode::Userspace, |_, _| String::new());
}

#[test]
fn nodes_with_the_rules_of_other_programs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/foreign");
    for mode in [Mode::Nftables, Mode::Userspace] {
        generated(mode, |number, world| {
            let name = OTHERS[number % OTHERS.len()];
            let text = std::fs::read_to_string(folder.join(format!("{name}.nft"))).unwrap();
            world.add_nft(&text).unwrap();
            format!("with {name}")
        });
    }
}

/// The rules that kube-proxy v1.36 wrote for the observed cluster.
#[test]
fn nodes_with_the_rules_of_kube_proxy() {
    for (mode, world) in [
        (Mode::Iptables, common::iptables_world("default")),
        (Mode::Nftables, common::nft_world("default")),
    ] {
        let settings = Settings {
            local_traffic: LocalTraffic::ClusterCidr(plan::testing::cidrs(&[
                "10.244.0.0/16",
                "fd00:10:244::/56",
            ])),
            node_port_addresses: match mode {
                Mode::Nftables => NodePortAddresses::Primary,
                _ => NodePortAddresses::All,
            },
            ..plan::testing::settings("node1")
        };
        let answer = verified(settings, observed::objects(), common::node_facts(), world);
        assert!(answer.services > 10 && answer.connections > 50);
        assert_healthy(&format!("kube-proxy's rules in {mode} mode"), &answer);
    }
}
