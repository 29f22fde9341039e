//! Packets put together from events, without a kernel.

use std::collections::HashSet;

use netfilter::nft::{Family, Policy, TraceEvent, TraceKind, TracedPacket, Verdict};
use trace::{Fraction, Origin, Outcome, Packet, Proto, Step, Trace};

use super::compare::{Comparison, compare};
use super::follow::{End, Follower};
use super::observe::Observation;
use super::table;

const OWN: &str = "sluice-trace-1";
const LO: u32 = 1;

fn packet(dport: u16, iif: Option<u32>, oif: Option<u32>) -> TracedPacket {
    let ip = |text: &str| text.parse().unwrap();
    TracedPacket {
        addresses: Some((ip("10.0.0.1"), ip("10.0.0.2"))),
        ports: Some((50_000, dport)),
        iif,
        oif,
    }
}

fn event(id: u32, table: &str, chain: &str, kind: TraceKind) -> TraceEvent {
    TraceEvent {
        id,
        table: table.to_owned(),
        chain: chain.to_owned(),
        kind,
        packet: None,
        mark: 0,
    }
}

const MATCHED: TraceKind = TraceKind::Rule {
    handle: 1,
    verdict: Some(Verdict::Continue),
};

/// The first event of one of our chains.
fn own(id: u32, chain: &str, kind: TraceKind, packet: TracedPacket) -> TraceEvent {
    TraceEvent {
        packet: Some(packet),
        ..event(id, OWN, chain, kind)
    }
}

fn follow(events: Vec<TraceEvent>) -> Follower {
    let mut follower = Follower::new(OWN, Some(LO));
    for event in events {
        follower.take((Family::Ip, event));
    }
    follower
}

fn end(follower: &mut Follower, quiet: bool) -> Option<(usize, End)> {
    follower
        .done(quiet)
        .map(|(events, end)| (events.len(), end))
}

fn came_in(id: u32) -> Vec<TraceEvent> {
    let at = packet(80, Some(2), None);
    vec![
        own(id, table::INCOMING, MATCHED, at),
        own(id, table::TRACKED_INCOMING, MATCHED, at),
    ]
}

#[test]
fn a_packet_is_followed_until_it_leaves() {
    let mut events = came_in(7);
    let mut follower = follow(events.clone());
    assert_eq!(end(&mut follower, false), None);
    let leaves = packet(8080, Some(2), Some(3));
    events.push(own(7, table::LEAVES, TraceKind::ChainEnd, leaves));
    assert_eq!(end(&mut follow(events), false), Some((3, End::Left)));
}

#[test]
fn dropped_and_lost_packets_end_the_trace() {
    for kind in [
        TraceKind::Policy(Policy::Drop),
        TraceKind::Rule {
            handle: 3,
            verdict: Some(Verdict::Drop),
        },
    ] {
        let mut events = came_in(7);
        events.push(event(7, "filter", "FORWARD", kind));
        assert_eq!(end(&mut follow(events), false), Some((3, End::Kept)));
    }
    let mut follower = follow(came_in(7));
    assert!(follower.has_any());
    assert_eq!(end(&mut follower, true), Some((2, End::Lost)));
}

/// Through loopback the kernel gives the packet another number; so it does after a bridge.
#[test]
fn a_packet_is_followed_under_another_id() {
    let mut events = vec![
        own(7, table::MADE_HERE, MATCHED, packet(80, None, Some(3))),
        own(
            7,
            table::TRACKED_MADE_HERE,
            MATCHED,
            packet(80, None, Some(3)),
        ),
        own(
            7,
            table::LEAVES,
            TraceKind::ChainEnd,
            packet(8080, None, Some(LO)),
        ),
        event(7, OWN, table::LEAVES, TraceKind::Policy(Policy::Accept)),
    ];
    assert_eq!(end(&mut follow(events.clone()), false), None);
    let back = packet(8080, Some(LO), None);
    events.push(own(8, table::INCOMING, TraceKind::ChainEnd, back));
    events.push(own(8, table::DELIVERED, TraceKind::ChainEnd, back));
    assert_eq!(end(&mut follow(events), false), Some((6, End::Delivered)));

    let mut events = came_in(7);
    let sent_on = packet(8080, Some(4), Some(3));
    events.push(own(8, table::SENT_ON, TraceKind::ChainEnd, sent_on));
    events.push(own(8, table::LEAVES, TraceKind::ChainEnd, sent_on));
    assert_eq!(end(&mut follow(events), false), Some((4, End::Left)));
}

#[test]
fn packets_of_known_connections_are_only_counted() {
    let at = packet(80, Some(2), None);
    let mut events = vec![
        own(7, table::INCOMING, MATCHED, at),
        own(7, table::TRACKED_INCOMING, TraceKind::ChainEnd, at),
        own(7, table::LEAVES, TraceKind::ChainEnd, at),
    ];
    let mut follower = follow(events.clone());
    assert_eq!(end(&mut follower, true), None);
    assert!(!follower.has_any());
    assert_eq!(follower.known, 1);
    // The same number again, for another packet.
    events.extend(came_in(7));
    events.push(own(7, table::DELIVERED, TraceKind::ChainEnd, at));
    assert_eq!(end(&mut follow(events), false), Some((3, End::Delivered)));
}

fn step(chain: &str, rule: &str) -> Step {
    Step {
        hook: "forward",
        backend: None,
        family: "ip",
        table: "filter".to_owned(),
        chain: chain.to_owned(),
        rule: rule.to_owned(),
        effect: String::new(),
        did: trace::Did::WentOn,
    }
}

fn outcome(verdict: trace::Verdict, dnat: Option<&str>, path: &[Step]) -> Outcome {
    let dnat = dnat.map(|ip| trace::Endpoint {
        ip: ip.parse().unwrap(),
        port: 80,
    });
    Outcome {
        probability: Fraction::new(1, 2).unwrap(),
        verdict,
        dnat,
        snat: None,
        hairpin: false,
        src: trace::Endpoint {
            ip: [10, 0, 0, 1].into(),
            port: 0,
        },
        dst: dnat.unwrap_or(trace::Endpoint {
            ip: [10, 0, 0, 2].into(),
            port: 80,
        }),
        tracked: true,
        out_iface: None,
        flow: trace::Flow::default(),
        path: path.to_vec(),
        assuming: Vec::new(),
    }
}

fn seen(outcome: Outcome, passing: &[usize], end: End) -> Observation {
    let [client, service] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap());
    Observation {
        packet: Packet::new(Origin::Pod, client, service, Proto::TCP, 80),
        trace: Trace {
            outcomes: vec![outcome],
            warnings: Vec::new(),
        },
        passing: passing.iter().copied().collect::<HashSet<_>>(),
        end,
        is_whole: true,
    }
}

#[test]
fn kernel_is_compared_with_every_outcome() {
    use trace::Verdict::{Accept, Drop};
    let [a, b, log] = [step("A", "1"), step("B", "2"), step("A", "log")];
    let predicted = Trace {
        outcomes: vec![
            outcome(Accept, Some("10.1.0.1"), std::slice::from_ref(&a)),
            outcome(Accept, Some("10.1.0.2"), &[a.clone(), b.clone()]),
        ],
        warnings: Vec::new(),
    };
    let loud = |_: &Step| false;
    // A rule that only counts is no difference.
    let path = [log, a.clone(), b.clone()];
    let kernel = seen(outcome(Accept, Some("10.1.0.2"), &path), &[0], End::Left);
    let half = Fraction::new(1, 2).unwrap();
    assert_eq!(compare(&predicted, &kernel, loud), Comparison::Agrees(half));

    let other = step("B", "3");
    let path = [a.clone(), other.clone()];
    let kernel = seen(outcome(Drop, None, &path), &[], End::Kept);
    let Comparison::Differs(difference) = compare(&predicted, &kernel, loud) else {
        panic!("a drop that was not predicted");
    };
    assert_eq!(difference.predicted, Some(b.clone()));
    assert_eq!(difference.kernel, Some(other.clone()));

    // Where it was to go, by another rule.
    let kernel = seen(outcome(Accept, Some("10.1.0.2"), &path), &[], End::Left);
    let Comparison::OtherPath(odds, difference) = compare(&predicted, &kernel, loud) else {
        panic!("another way");
    };
    assert_eq!((odds, difference.kernel), (half, Some(other)));
    let kernel = seen(outcome(Accept, Some("10.1.0.9"), &path), &[], End::Left);
    let compared = compare(&predicted, &kernel, loud);
    assert!(matches!(compared, Comparison::Differs(_)), "{compared:?}");

    // Of silent rules nothing is heard.
    let kernel = seen(outcome(Accept, Some("10.1.0.2"), &[a]), &[], End::Left);
    let compared = compare(&predicted, &kernel, |s| s.chain == "B");
    assert_eq!(compared, Comparison::Agrees(half));
}
