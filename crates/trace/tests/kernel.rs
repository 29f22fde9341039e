//! The tracer against the kernel: rules are loaded in a namespace, packets are sent through them, and
//! each packet's fate has to be a predicted one. Needs root.
//!
//! A packet that gets through is answered, followed by another packet of its connection and by an ICMP
//! error about it; these are predicted, too.
#![allow(missing_docs, unreachable_pub)]

mod common;
#[path = "kernel/generate.rs"]
mod generate;
#[path = "kernel/kinds.rs"]
mod kinds;
#[path = "kernel/net.rs"]
mod net;
#[path = "kernel/services.rs"]
mod services;
#[path = "kernel/six.rs"]
mod six;
#[path = "kernel/try_out.rs"]
mod try_out;
#[path = "kernel/wire.rs"]
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use common::modes::{self, Mode};
use generate::Random;
use model::IpFamily;
use net::{Net, Place};
use netfilter::iptables::{Family, TableSet};
use netfilter::nft_lang::Ruleset;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use trace::World;
use try_out::{Bed, predicted};
use wire::{Kind, Probe};

const FAMILIES: [(bool, Family); 2] = [(false, Family::Ipv4), (true, Family::Ipv6)];
const PLACES: [Place; 3] = [Place::Pods, Place::Node, Place::Outside];

fn world() -> World {
    let mut facts = common::node_facts();
    for sysctl in ["iptables", "ip6tables"] {
        let name = format!("net.bridge.bridge-nf-call-{sysctl}");
        facts.sysctls.insert(name, "0".into());
    }
    for net in &mut facts.interfaces[2].addresses {
        *net = net.addr().into();
    }
    World::from_facts(&facts).unwrap()
}

fn tool(v6: bool, name: &str) -> String {
    format!("ip{}{name}", if v6 { "6" } else { "" })
}

/// Remove ipsets; removed rules release theirs a little later.
fn without_sets(net: &Net) {
    net.node.sh(
        "n=0; until ipset flush && ipset destroy; do n=$((n+1)); test $n -lt 500; sleep 0.02; done",
    );
}

/// Send packets of every kind from everywhere through each set of rules.
fn from_everywhere(bed: &mut Bed, world: &World, random: &mut Random, v6: bool, rules: &str) {
    for place in PLACES {
        let first = bed.ids(24);
        let probes = generate::probes(random, v6, place, first, 24);
        bed.check(world, place, &probes, rules);
    }
}

/// Kinds that cannot be tested here, and why.
const UNTRIED: [(&str, &str); 6] = [
    ("queue", "this kernel has no queues to programs"),
    (
        "-m nfacct",
        "counts only; the objects take a tool of their own",
    ),
    (
        "-m ipvs",
        "this kernel has no IPVS: crates/sluice/tests/ipvs/agreement.rs",
    ),
    ("-f", "the probes are whole packets"),
    ("add", "update does the same to a set without a limit"),
    ("delete", "what one packet takes away another put there"),
];

fn all_tried(mut tried: BTreeSet<&str>, all: &[&[&'static str]]) {
    tried.extend(UNTRIED.iter().map(|(name, _)| name));
    let missing: Vec<&&str> = all
        .iter()
        .copied()
        .flatten()
        .filter(|name| !tried.contains(**name))
        .collect();
    assert!(missing.is_empty(), "never tried: {missing:?}");
}

#[test]
fn generated_iptables_rules_agree_with_the_kernel() {
    let net = Net::new();
    let mut bed = Bed::new(&net);
    let mut tried = BTreeSet::new();
    for (v6, family) in FAMILIES {
        without_sets(&net);
        net.node
            .feed(&["ipset", "restore"], &six::text(v6, generate::IPSETS));
        for seed in 1..=24_u64 {
            let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let rules = six::text(v6, &generate::iptables(&mut random));
            net.node.feed(&[&tool(v6, "tables-restore")], &rules);
            let mut world = world();
            let dump = net.node.sh(&tool(v6, "tables-save"));
            tried.extend(kinds::of_iptables(&TableSet::parse(family, &dump).unwrap()));
            world.add_iptables(family, &dump).unwrap();
            let sets = net.node.sh("ipset save");
            world.ipsets = netfilter::ipset::Sets::parse(&sets).unwrap();
            from_everywhere(&mut bed, &world, &mut random, v6, &rules);
        }
        net.node.sh("nft flush ruleset");
    }
    bed.is_varied(1);
    all_tried(
        tried,
        &[
            kinds::MATCHES,
            kinds::TARGETS,
            &["-s", "-d", "-i", "-o", "-p", "-f"],
        ],
    );
}

#[test]
fn generated_nftables_rules_agree_with_the_kernel() {
    let net = Net::new();
    let mut bed = Bed::new(&net);
    let mut tried = BTreeSet::new();
    for (v6, _) in FAMILIES {
        for seed in 1..=24_u64 {
            let mut random = Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
            let rules = six::text(v6, &generate::nftables(&mut random));
            net.node
                .feed(&["nft", "-f", "-"], &format!("flush ruleset\n{rules}"));
            // Text and JSON alternate.
            let list = if seed % 2 == 0 {
                "nft list ruleset"
            } else {
                "nft -j list ruleset"
            };
            let mut world = world();
            let dump = net.node.sh(list);
            tried.extend(kinds::of_nft(&Ruleset::parse(&dump).unwrap()));
            world.add_nft(&dump).unwrap();
            from_everywhere(&mut bed, &world, &mut random, v6, &rules);
        }
    }
    bed.is_varied(1);
    all_tried(tried, &[kinds::STATEMENTS, kinds::EXPRS, kinds::OPS]);
}

/// Observed frequencies of destinations against the odds predicted, within six standard
/// deviations: wrong once in 500 million runs.
fn odds(bed: &Bed, net: &Net, world: &World, (src, dst, dport): (IpAddr, IpAddr, u16)) {
    let make = |id: u16| Probe {
        src,
        dst,
        proto: 6,
        sport: id,
        dport,
        id,
        kind: Kind::Open,
    };
    let probes: Vec<Probe> = (20_000..22_000).map(make).collect();
    let trace = predicted(world, Place::Outside, &probes[0]);
    assert!(trace.outcomes.len() > 1);
    let mut counts: BTreeMap<usize, f64> = BTreeMap::new();
    for some in probes.chunks(100) {
        let packets = some.iter().map(Probe::bytes).collect();
        let mut seen = net.try_out(Place::Outside, packets);
        for probe in some {
            let seen = try_out::of(&mut seen, probe);
            // Its own, for its own port.
            let trace = predicted(world, Place::Outside, probe);
            let fits = |o: &trace::Outcome| bed.agrees(o, probe, &seen);
            let which = trace.outcomes.iter().position(fits);
            let which = which.unwrap_or_else(|| panic!("{seen:?} was not predicted"));
            *counts.entry(which).or_default() += 1.0;
        }
    }
    let n = 2000.0;
    for (i, o) in trace.outcomes.iter().enumerate() {
        let p = o.probability.to_f64();
        let got = counts.get(&i).copied().unwrap_or(0.0);
        let deviation = (n * p * (1.0 - p)).sqrt();
        assert!(
            (got - n * p).abs() <= 6.0 * deviation,
            "{got} of {n} where {p} was predicted: {:?}",
            o.dnat
        );
    }
}

#[test]
fn odds_match_frequencies_in_the_kernel() {
    let net = Net::new();
    let bed = Bed::new(&net);
    for (v6, family) in FAMILIES {
        let [src, dst] = ["198.51.100.7", "10.96.0.1"].map(|ip| six::ip(v6, ip));
        let flow = (src, dst, 80);
        net.node.sh("nft flush ruleset");
        let mut ipt = world();
        let rules = six::text(v6, generate::SPREAD_IPTABLES);
        net.node.feed(&[&tool(v6, "tables-restore")], &rules);
        ipt.add_iptables(family, &net.node.sh(&tool(v6, "tables-save")))
            .unwrap();
        odds(&bed, &net, &ipt, flow);
        net.node
            .sh("nft flush ruleset; conntrack -F 2>/dev/null || true");
        let rules = six::text(v6, generate::SPREAD_NFT);
        net.node.feed(&["nft", "-f", "-"], &rules);
        let mut nft = world();
        nft.add_nft(&net.node.sh("nft list ruleset")).unwrap();
        odds(&bed, &net, &nft, flow);
        net.node.sh("conntrack -F 2>/dev/null || true");
    }
}

/// Load rules with iptables-restore and return what the kernel contains then.
fn load_iptables(net: &Net, v6: bool, family: Family, rules: &str) -> World {
    net.node.feed(&[&tool(v6, "tables-restore")], rules);
    let mut world = world();
    let dump = net.node.sh(&tool(v6, "tables-save"));
    world.add_iptables(family, &dump).unwrap();
    world
}

/// As [`load_iptables`], for nft.
fn load_nft(net: &Net, rules: &str) -> World {
    net.node
        .feed(&["nft", "-f", "-"], &format!("flush ruleset\n{rules}"));
    let mut world = world();
    world.add_nft(&net.node.sh("nft list ruleset")).unwrap();
    // JSON is shown in the same syntax.
    let json = Ruleset::parse(&net.node.sh("nft -j list ruleset")).unwrap();
    for (json, text) in rule_texts(&json).zip(rule_texts(&world.nft)) {
        assert_eq!(json, text);
    }
    world
}

fn rule_texts(ruleset: &Ruleset) -> impl Iterator<Item = &str> {
    let chains = ruleset.tables.iter().flat_map(|t| &t.chains);
    chains.flat_map(|c| &c.rules).map(|r| &*r.text)
}

/// Remove counters whose objects do not exist here.
fn without_counters(rules: &str) -> String {
    let words = |line: &str| -> String {
        let mut words = line.split(' ').peekable();
        let mut kept: Vec<&str> = Vec::new();
        while let Some(word) = words.next() {
            if word == "-m" && words.peek() == Some(&"nfacct") {
                // `nfacct --nfacct-name  NAME`: two spaces.
                for _ in 0..4 {
                    words.next();
                }
            } else {
                kept.push(word);
            }
        }
        kept.join(" ")
    };
    rules
        .lines()
        .map(words)
        .fold(String::new(), |all, line| all + &line + "\n")
}

#[test]
fn rules_of_kube_proxy_agree_with_the_kernel() {
    let net = Net::new();
    let mut bed = Bed::new(&net);
    let mut random = Random(7);
    for (v6, family) in FAMILIES {
        let v = if v6 { "v6" } else { "v4" };
        let default = common::observed(&format!("iptables-default.{v}.iptables-save"));
        let frontends = services::of_rules(&TableSet::parse(family, &default).unwrap());
        // A NodePort of three endpoints, and one of two.
        let [client, node] = ["198.51.100.7", "10.200.1.2"].map(|ip| six::ip(v6, ip));
        let node_port = (client, node, if v6 { 30150 } else { 30008 });
        assert!(frontends.len() >= if v6 { 2 } else { 30 }, "{frontends:?}");
        for config in observed::IPTABLES.map(|c| c.name) {
            let rules = common::observed(&format!("iptables-{config}.{v}.iptables-save"));
            let world = load_iptables(&net, v6, family, &without_counters(&rules));
            services::ask(&mut bed, &world, &mut random, v6, &frontends, config);
            if config == "default" {
                odds(&bed, &net, &world, node_port);
            }
        }
        net.node
            .sh("nft flush ruleset; conntrack -F 2>/dev/null || true");
        for config in observed::NFTABLES.map(|c| c.name) {
            let rules = common::observed(&format!("nftables-{config}.{v}.nft"));
            let world = load_nft(&net, &rules);
            services::ask(&mut bed, &world, &mut random, v6, &frontends, config);
            if config == "default" {
                odds(&bed, &net, &world, node_port);
            }
        }
        net.node
            .sh("nft flush ruleset; conntrack -F 2>/dev/null || true");
    }
    bed.is_varied(0);
}

/// Load the foreign rule set of a family, all its files at once; `None` if there is none.
fn load_foreign(net: &Net, name: &str, (v6, family): (bool, Family), nft: bool) -> Option<World> {
    let text = match (nft, v6) {
        (true, _) => common::foreign(name, "nft"),
        (false, false) => common::foreign(name, "iptables-save"),
        (false, true) => common::foreign(name, "ip6tables-save"),
    }?;
    if nft {
        return Some(load_nft(net, &text));
    }
    without_sets(net);
    if let Some(sets) = common::foreign(name, "ipset").filter(|_| !v6) {
        net.node.feed(&["ipset", "restore"], &sets);
    }
    let mut world = load_iptables(net, v6, family, &text);
    world.ipsets = netfilter::ipset::Sets::parse(&net.node.sh("ipset save")).unwrap();
    Some(world)
}

#[test]
fn rules_of_other_programs_agree_with_the_kernel() {
    let net = Net::new();
    let mut bed = Bed::new(&net);
    let mut random = Random(13);
    let mut loaded = 0;
    for name in common::FOREIGN {
        for (of, nft) in FAMILIES.into_iter().flat_map(|f| [(f, false), (f, true)]) {
            let Some(world) = load_foreign(&net, name, of, nft) else {
                continue;
            };
            loaded += 1;
            let frontends = world.iptables.iter().flat_map(services::of_rules).collect();
            services::ask(&mut bed, &world, &mut random, of.0, &frontends, name);
            for _ in 0..6 {
                from_everywhere(&mut bed, &world, &mut random, of.0, name);
            }
            net.node
                .sh("nft flush ruleset; conntrack -F 2>/dev/null || true");
        }
    }
    // Seven for iptables, one for ip6tables, and three for nft in both families.
    assert_eq!(loaded, 7 + 1 + 2 * 3);
    bed.is_varied(1);
}

#[test]
fn rules_of_sluice_agree_with_the_kernel() {
    let net = Net::new();
    let mut bed = Bed::new(&net);
    let mut random = Random(11);
    let mut runner = TestRunner::deterministic();
    for _ in 0..24 {
        let cluster = plan::testing::cluster()
            .new_tree(&mut runner)
            .unwrap()
            .current();
        let planner = cluster.planner();
        for ((v6, family), of) in FAMILIES.into_iter().zip(IpFamily::ALL) {
            let plan = planner.plan(of);
            let frontends = services::of_plan(plan);
            for mode in Mode::ALL {
                let rules = match mode {
                    Mode::Iptables | Mode::Nftables | Mode::Userspace => modes::rules(mode, plan),
                    // More than rules; `crates/sluice/tests/ipvs` sends packets through it.
                    Mode::Ipvs => continue,
                };
                let world = if mode == Mode::Iptables {
                    load_iptables(&net, v6, family, &rules)
                } else {
                    load_nft(&net, &rules)
                };
                services::ask(&mut bed, &world, &mut random, v6, &frontends, &rules);
                net.node.sh("nft flush ruleset");
            }
        }
    }
    bed.is_varied(0);
}
