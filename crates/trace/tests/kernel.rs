//! The tracer against the kernel: generated rules are loaded in a namespace, packets are sent
//! through them, and what became of each must be among what was predicted. Needs root.
#![allow(missing_docs, unreachable_pub)]

#[path = "kernel/generate.rs"]
mod generate;
#[path = "kernel/net.rs"]
mod net;
#[path = "kernel/wire.rs"]
mod wire;

use std::collections::BTreeMap;
use std::net::IpAddr;

use generate::Random;
use net::{FACTS, Net};
use netfilter::iptables::Family;
use trace::{Facts, Origin, Outcome, Packet, Proto, Trace, Verdict, World, walk};
use wire::{Probe, Sight};

fn world() -> World {
    World::from_facts(&Facts::parse(FACTS).unwrap()).unwrap()
}

fn predicted(world: &World, from: Origin, p: &Probe) -> Trace {
    let mut packet = Packet::new(from, p.src.into(), p.dst.into(), Proto(p.proto), p.dport);
    packet.sport = p.sport;
    if from == Origin::Outside {
        packet.in_iface = Some("rc".into());
    }
    walk(world, &packet).unwrap()
}

/// Whether an outcome is what was seen.
fn agrees(o: &Outcome, p: &Probe, seen: &[Sight]) -> bool {
    let local_answer = matches!(seen, [Sight::Reset] | [Sight::Icmp]);
    match (o.verdict, seen) {
        (Verdict::Drop, seen) => seen.is_empty(),
        (Verdict::Reject, [Sight::Icmp]) => true,
        // Nobody listens: TCP answers with a reset, UDP with an ICMP error.
        (Verdict::Accept, _) if o.out_iface.is_none() => {
            local_answer && ((p.proto == 6) == (seen == [Sight::Reset]))
        }
        (
            Verdict::Accept,
            [
                Sight::Forwarded {
                    src, dst, dport, ..
                },
            ],
        ) => {
            let to = o
                .dnat
                .map_or((IpAddr::V4(p.dst), p.dport), |e| (e.ip, e.port));
            let from = o.flow.snat.map_or(IpAddr::V4(p.src), |r| r.after.ip);
            to == (IpAddr::V4(*dst), *dport) && from == IpAddr::V4(*src)
        }
        _ => false,
    }
}

/// What the packets met, so that a test whose packets all meet the same fate does not pass.
#[derive(Debug, Default)]
struct Tally {
    dropped: usize,
    refused: usize,
    local: usize,
    forwarded: usize,
    dnat: usize,
    snat: usize,
    several: usize,
}

impl Tally {
    fn count(&mut self, trace: &Trace, o: &Outcome) {
        let arrives = o.verdict == Verdict::Accept;
        self.dropped += usize::from(o.verdict == Verdict::Drop);
        self.refused += usize::from(o.verdict == Verdict::Reject);
        self.local += usize::from(arrives && o.out_iface.is_none());
        self.forwarded += usize::from(arrives && o.out_iface.is_some());
        self.dnat += usize::from(arrives && o.dnat.is_some());
        self.snat += usize::from(arrives && o.snat.is_some());
        self.several += usize::from(trace.summary().len() > 1);
    }

    fn is_varied(&self) {
        let all = [
            self.dropped,
            self.refused,
            self.local,
            self.forwarded,
            self.dnat,
            self.snat,
            self.several,
        ];
        assert!(all.iter().all(|n| *n >= 30), "{self:?}");
    }
}

fn check(
    world: &World,
    net: &Net,
    (from, probes): (Origin, &[Probe]),
    rules: &str,
    tally: &mut Tally,
) {
    let seen = net.try_out(from == Origin::Node, probes);
    for (probe, seen) in probes.iter().zip(seen) {
        let trace = predicted(world, from, probe);
        let found = trace.outcomes.iter().find(|o| agrees(o, probe, &seen));
        // Which address of a range the kernel takes is the one thing it keeps to itself.
        let sure = trace.warnings.iter().all(|w| w.contains("secret hash"));
        match found.filter(|_| sure) {
            Some(o) => tally.count(&trace, o),
            None => {
                let (src, dst) = (probe.src.into(), probe.dst.into());
                let packet = Packet::new(from, src, dst, Proto(probe.proto), probe.dport);
                let tree = trace::render_tree(&packet, &trace, trace::Style::Plain);
                panic!(
                    "{probe:?} from {from}: the kernel did {seen:?}, predicted was\n{tree}\n{rules}"
                );
            }
        }
    }
}

fn check_both(
    net: &Net,
    world: &World,
    random: &mut Random,
    seed: u64,
    rules: &str,
    tally: &mut Tally,
) {
    for (from, from_router) in [(Origin::Outside, false), (Origin::Node, true)] {
        let probes = generate::probes(random, seed, from_router);
        check(world, net, (from, &probes), rules, tally);
    }
}

#[test]
fn generated_iptables_rules() {
    let net = Net::new();
    net.router.sh(generate::IPSETS);
    let mut tally = Tally::default();
    for seed in 1..=40_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let rules = generate::iptables(&mut random);
        net.router.feed(&["iptables-restore"], &rules);
        let mut world = world();
        let dump = net.router.sh("iptables-save");
        world.add_iptables(Family::Ipv4, &dump).unwrap();
        world.ipsets = netfilter::ipset::Sets::parse(&net.router.sh("ipset save")).unwrap();
        check_both(&net, &world, &mut random, seed, &rules, &mut tally);
    }
    tally.is_varied();
}

#[test]
fn generated_nftables_rules() {
    let net = Net::new();
    let mut tally = Tally::default();
    for seed in 1..=40_u64 {
        let mut random = Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let rules = generate::nftables(&mut random);
        net.router
            .feed(&["nft", "-f", "-"], &format!("flush ruleset\n{rules}"));
        // Text and JSON in turn.
        let list = if seed % 2 == 0 {
            "nft list ruleset"
        } else {
            "nft -j list ruleset"
        };
        let mut world = world();
        let dump = net.router.sh(list);
        world.add_nft(&dump).unwrap();
        check_both(&net, &world, &mut random, seed, &rules, &mut tally);
    }
    tally.is_varied();
}

/// Observed frequencies of destinations against the odds predicted, within five standard
/// deviations: wrong once in two million runs.
fn odds(net: &Net, world: &World) {
    let make = |n: u16| Probe {
        src: "10.77.0.2".parse().unwrap(),
        dst: "10.96.0.1".parse().unwrap(),
        proto: 6,
        sport: 10_000 + n,
        dport: 80,
    };
    let probes: Vec<Probe> = (0..2000).map(make).collect();
    let trace = predicted(world, Origin::Outside, &probes[0]);
    assert!(trace.outcomes.len() > 2);
    let mut counts: BTreeMap<usize, f64> = BTreeMap::new();
    for some in probes.chunks(100) {
        for (probe, seen) in some.iter().zip(net.try_out(false, some)) {
            let which = trace.outcomes.iter().position(|o| agrees(o, probe, &seen));
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
            (got - n * p).abs() <= 5.0 * deviation,
            "{got} of {n} where {p} was predicted: {:?}",
            o.dnat
        );
    }
}

#[test]
fn odds_are_what_the_kernel_rolls() {
    let net = Net::new();
    let mut ipt = world();
    net.router
        .feed(&["iptables-restore"], generate::SPREAD_IPTABLES);
    ipt.add_iptables(Family::Ipv4, &net.router.sh("iptables-save"))
        .unwrap();
    odds(&net, &ipt);
    net.router
        .sh("iptables -t nat -F; conntrack -F 2>/dev/null || true");
    net.router.feed(
        &["nft", "-f", "-"],
        &format!("flush ruleset\n{}", generate::SPREAD_NFT),
    );
    let mut nft = world();
    nft.add_nft(&net.router.sh("nft list ruleset")).unwrap();
    odds(&net, &nft);
}
