//! The order of NAT chains: Services are translated before other programs' NAT chains see a packet,
//! whichever program started first. All other packets have the same fate in both orders.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use model::IpFamily;
use plan::{Plan, Traffic};

use crate::fabric::{Fabric, Fate, Fates};
use crate::flows::{Flow, From, flows};
use crate::packet::TCP;
use crate::support::run;
use crate::world::{World, configurations};
use crate::{bring, kind, load};

/// Collect the fates of flows past sluice's table, and other rules loaded before or after it.
fn fates(
    world: World,
    flows: &[Flow],
    name: &str,
    rules: &(dyn Fn() + std::marker::Sync),
    first: bool,
) -> Fates {
    let configuration = &configurations()[0];
    let plan = world.plan(configuration);
    let fabric = Fabric::raise(name, configuration.link, world);
    let start = || {
        if first {
            rules();
        }
        bring(&plan);
        if !first {
            rules();
        }
    };
    fabric.node.run(start).expect("the node");
    let fates = fabric.fates(flows, 0);
    let counters = || run("nft list ruleset");
    let ruleset = fabric.node.run(counters).expect("the node");
    let asked = ruleset.lines().filter(|line| line.contains("past sluice"));
    for line in asked {
        assert!(line.contains("packets 0 "), "first {first}: {line}");
    }
    fates
}

/// Another program's NAT chains that translate the same address elsewhere, at iptables' priorities.
fn rival(world: World, frontend: SocketAddr) -> String {
    let (family, elsewhere) = match world.family() {
        IpFamily::V4 => ("ip", "192.0.2.77:7"),
        IpFamily::V6 => ("ip6", "[2001:db8::77]:7"),
    };
    let rule = format!(
        "{family} daddr {} tcp dport {} counter packets 0 bytes 0 dnat to {elsewhere} comment \"past sluice\"",
        frontend.ip(),
        frontend.port()
    );
    format!(
        "table {family} rival {{\n\
         chain pre {{ type nat hook prerouting priority dstnat; {rule}; }}\n\
         chain out {{ type nat hook output priority -100; {rule}; }}\n}}\n"
    )
}

/// A TCP frontend with endpoints.
fn frontend(plan: &Plan) -> SocketAddr {
    let mut ports = plan.ports.values();
    let port = ports.find(|port| {
        port.protocol == model::Protocol::Tcp
            && port.internal_traffic() == Traffic::Cluster
            && port.affinity.is_none()
    });
    let port = port.expect("a Service with endpoints");
    SocketAddr::new(port.cluster_ip, port.port.get())
}

#[test]
fn services_are_translated_before_rules_of_other_programs() {
    for world in [World::V4, World::V4InV6] {
        let destination = frontend(&world.plan(&configurations()[0]));
        let flows = [From::Pod, From::Node, From::Outside].map(|from| Flow {
            from,
            protocol: TCP,
            destination,
        });
        let rules = || load(&rival(world, destination));
        for first in [true, false] {
            let fates = fates(world, &flows, "rival", &rules, first);
            assert_eq!(fates.len(), flows.len());
            for (flow, fates) in fates {
                let kinds: BTreeSet<_> = fates.iter().map(kind).collect();
                let to = kinds.iter().all(|kind| kind.ends_with("to"));
                assert!(to, "first {first}: {flow:?}: {fates:?}");
                assert!(!format!("{fates:?}").contains(":7"), "{fates:?}");
            }
        }
    }
}

#[test]
fn translation_is_the_same_whichever_program_starts_first() {
    let world = World::V4;
    let all = flows(&world.plan(&configurations()[0]), world);
    let some: Vec<Flow> = all.into_iter().step_by(7).collect();
    assert!(some.len() > 50, "{}", some.len());
    let foreign = |file: &str| {
        format!(
            "{}/../../testdata/foreign/{file}",
            env!("CARGO_MANIFEST_DIR")
        )
    };
    for (file, loader) in [
        ("docker.nft", "nft -f"),
        ("firewalld.nft", "nft -f"),
        ("docker.iptables-save", "iptables-nft-restore"),
        ("aws-vpc-cni.iptables-save", "iptables-nft-restore"),
        ("calico.iptables-save", "iptables-nft-restore"),
    ] {
        let sets = foreign(&file.replace(".iptables-save", ".ipset"));
        let rules = || {
            if file.ends_with("-save") && std::path::Path::new(&sets).exists() {
                run(&format!("ipset restore -file {sets}"));
            }
            run(&format!("{loader} {}", foreign(file)));
        };
        let name = file.split('.').next().unwrap_or(file);
        let [before, after] = [true, false].map(|first| {
            let fates = fates(world, &some, name, &rules, first);
            // Filter chains keep kube-proxy's priorities: which of two rejects a packet may differ.
            // An endpoint is masqueraded only where the random pick leads back to itself, and the node's
            // own address is only another one towards pods of the node.
            let translated = |flow: &Flow, fate: &Fate| match (flow.from, kind(fate)) {
                (_, "refused" | "dropped") => "stopped",
                (From::Endpoint(_) | From::Node, "masqueraded to") => "to",
                (_, kind) => kind,
            };
            let kinds = fates.into_iter().map(|(flow, fates)| {
                let kinds: BTreeSet<_> = fates.iter().map(|fate| translated(&flow, fate)).collect();
                (flow, kinds)
            });
            kinds.collect::<BTreeMap<_, _>>()
        });
        let different: Vec<_> = before
            .iter()
            .filter(|(flow, kinds)| after.get(*flow) != Some(*kinds))
            .map(|(flow, kinds)| format!("{flow:?}: {kinds:?}, {:?}", after.get(flow)))
            .collect();
        assert!(different.is_empty(), "{file}: {different:#?}");
    }
}
