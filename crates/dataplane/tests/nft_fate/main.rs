//! Packets have the same fate in sluice's table and in the table that kube-proxy v1.36.2 was observed to
//! program for the same objects and flags: the same set of endpoints, masqueraded or not, or refused in
//! the same way, or dropped.

#[path = "../../../kernel/tests/support/mod.rs"]
mod support;
#[path = "../support/nft.rs"]
mod support_nft;

mod affinity;
mod fabric;
mod flows;
mod order;
mod packet;
mod world;

use std::collections::BTreeSet;

use dataplane::nftables::{Options, Sync};
use plan::Plan;

use fabric::{Fabric, Fate, Fates};
use flows::{Flow, flows};
use support_nft::Live;
use world::{Configuration, World, configurations};

/// Program a plan's table in the calling thread's namespace, as a fresh start does.
fn bring(plan: &Plan) {
    let mut sync = Sync::new(Options::default());
    sync.run(plan, &mut Live::open(plan.family), 100)
        .expect("a load");
    assert!(sync.refused().is_empty(), "{:?}", sync.refused());
    assert_eq!(sync.refused_common(), None);
}

/// Load a table in the calling thread's namespace.
fn load(table: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("table.nft");
    std::fs::write(&file, table).expect("room");
    support::run(&format!("nft -f {}", file.display()));
}

/// Compare all fates, and return the kinds that occurred.
fn compare(configuration: &Configuration, world: World) -> BTreeSet<&'static str> {
    let plan = world.plan(configuration);
    let flows = flows(&plan, world);
    assert!(flows.len() > 300, "{}", flows.len());
    let name = configuration.name;
    let theirs = {
        let fabric = Fabric::raise(name, configuration.link, world);
        let table = world.kube_proxy_rules(configuration);
        fabric.node.run(|| load(&table)).expect("the node");
        fabric.collect(&flows)
    };
    let ours = {
        let fabric = Fabric::raise(name, configuration.link, world);
        fabric.node.run(|| bring(&plan)).expect("the node");
        fabric.collect(&flows)
    };
    let different = differences(&plan, &theirs, &ours);
    let shown: Vec<String> = different.iter().take(20).cloned().collect();
    assert!(
        different.is_empty(),
        "{name}, {world:?}: {} of {} flows: {shown:#?}",
        different.len(),
        flows.len()
    );
    theirs.values().flatten().map(kind).collect()
}

/// Return the flows whose fates differ.
fn differences(plan: &Plan, theirs: &Fates, ours: &Fates) -> Vec<String> {
    let sticky = plan.ports.values().filter(|port| port.affinity.is_some());
    let sticky: BTreeSet<_> = sticky.map(|port| port.cluster_ip).collect();
    let mut found = Vec::new();
    for (flow, expected) in theirs {
        let got = &ours[flow];
        // An origin with only one address keeps one endpoint, and which one is random.
        let keeps = flow.from.is_one() && sticky.contains(&flow.destination.ip());
        let same = match (expected.first(), got.first()) {
            (Some(Fate::To { endpoint: a, .. }), Some(Fate::To { endpoint: b, .. })) if keeps => {
                expected.len() == 1 && got.len() == 1 && (a != b || got == expected)
            }
            _ => got == expected,
        };
        if !same {
            found.push(format!("{}: {got:?}, not {expected:?}", show(flow)));
        }
    }
    found
}

fn show(flow: &Flow) -> String {
    format!(
        "{:?} to {} by {}",
        flow.from, flow.destination, flow.protocol
    )
}

fn kind(fate: &Fate) -> &'static str {
    match fate {
        Fate::To { masqueraded, .. } if *masqueraded => "masqueraded to",
        Fate::To { .. } => "to",
        Fate::Passed { .. } => "passed",
        Fate::Refused(_) => "refused",
        Fate::Dropped => "dropped",
    }
}

fn compare_all(world: World) {
    let mut kinds = BTreeSet::new();
    // Two at a time: each has some ten thousand flows in the kernel's shared flow table.
    for pair in configurations().chunks(2) {
        std::thread::scope(|scope| {
            let compare = |configuration| scope.spawn(move || compare(configuration, world));
            let threads: Vec<_> = pair.iter().map(compare).collect();
            for thread in threads {
                kinds.extend(thread.join().expect("the same fates"));
            }
        });
    }
    let all = ["dropped", "masqueraded to", "passed", "refused", "to"];
    assert!(
        kinds.into_iter().eq(all),
        "{world:?}: not every kind of fate was observed"
    );
}

#[test]
fn every_ipv4_flow_is_treated_as_by_kube_proxy() {
    compare_all(World::V4);
}

#[test]
fn every_ipv6_flow_is_treated_as_by_kube_proxy() {
    compare_all(World::V6);
}

#[test]
fn ipv6_flows_are_treated_like_the_observed_ipv4_flows() {
    compare_all(World::V4InV6);
}
