//! Packets, their fates, and the predictions.

use std::cell::Cell;
use std::collections::HashMap;

use trace::{Answer, CtState, Did, Flow, Origin, Outcome, Packet, Proto, Trace, Verdict, World};
use trace::{reply_to, walk};

use crate::net::{Net, Place};
use crate::wire::{Kind, Probe, Sight};

/// What was seen of one packet.
type Seen = Vec<(Place, Sight)>;

/// What was seen of this packet; resets are recognised by their ports.
pub fn of(all: &mut HashMap<u16, Seen>, p: &Probe) -> Seen {
    let mut seen = all.remove(&p.id).unwrap_or_default();
    let resets = all.get(&0).into_iter().flatten();
    seen.extend(resets.filter(|(_, s)| {
        let back =
            matches!(*s, Sight::Reset { sport, dport } if (sport, dport) == (p.dport, p.sport));
        p.proto == 6 && back
    }));
    seen
}

fn origin(place: Place) -> (Origin, Option<String>) {
    match place {
        Place::Pods => (Origin::Pod, Some("cbr0".into())),
        Place::Node => (Origin::Node, None),
        Place::Outside => (Origin::Outside, Some("eth0".into())),
    }
}

pub fn question(from: Place, p: &Probe, ct: CtState) -> Packet {
    let (origin, in_iface) = origin(from);
    let mut packet = Packet::new(origin, p.src, p.dst, Proto(p.proto), p.dport);
    match (p.proto, p.kind) {
        // Echo replies.
        (1, Kind::Answer | Kind::Stray) => packet.sport = 0,
        (58, Kind::Answer | Kind::Stray) => packet.sport = 129,
        (1 | 58, _) => {}
        _ => packet.sport = p.sport,
    }
    packet.in_iface = in_iface;
    packet.ct = ct;
    packet
}

pub fn predicted(world: &World, from: Place, p: &Probe) -> Trace {
    let ct = match p.kind {
        Kind::Stray => CtState::Invalid,
        _ => CtState::New,
    };
    walk(world, &question(from, p, ct)).unwrap()
}

/// Warnings about facts that no dump contains, or that depend on more than the packet: every path is
/// predicted then.
const OPEN: [&str; 13] = [
    "the source port was chosen at random",
    "has no ports, but something else there",
    "secret hash",
    "assumed not to be reached yet",
    "the same packet always gets the same number",
    "recent: the dumps do not contain its lists",
    "match length inspects the packet's content",
    "a program listens",
    "whether a program here joined",
    "no program has a socket",
    "the program to which it is queued",
    "chooses by load",
    "was registered last",
];

/// The fates of the packets, so that a test in which all are the same does not pass.
#[derive(Debug, Default)]
struct Tally {
    dropped: usize,
    refused: usize,
    reset: usize,
    local: usize,
    forwarded: usize,
    dnat: usize,
    snat: usize,
    hairpin: usize,
    several: usize,
    answers: usize,
    next: usize,
    errors: usize,
    stray: usize,
}

/// The hosts, with a count of the packets' fates.
pub struct Bed<'n> {
    net: &'n Net,
    tally: Tally,
    id: Cell<u16>,
    pairs: usize,
}

const FIRST: u16 = 33_000;

impl<'n> Bed<'n> {
    pub fn new(net: &'n Net) -> Self {
        Self {
            net,
            tally: Tally::default(),
            id: Cell::new(FIRST),
            pairs: 0,
        }
    }

    /// Ids, and thereby source ports, without connections.
    pub fn ids(&self, count: u16) -> u16 {
        let mut first = self.id.get();
        if first > 60_000 - count {
            self.net.node.sh("conntrack -F 2>/dev/null || true");
            first = FIRST;
        }
        self.id.set(first + count);
        first
    }

    /// Send packets that open a connection or belong to none, and the following packets of connections
    /// that get through.
    pub fn check(&mut self, world: &World, from: Place, probes: &[Probe], rules: &str) {
        let packets = probes.iter().map(Probe::bytes).collect();
        let mut seen = self.net.try_out(from, packets);
        let mut through = Vec::new();
        for probe in probes {
            let seen = of(&mut seen, probe);
            let trace = predicted(world, from, probe);
            let outcome = self.expect(&trace, (from, probe), &seen, rules).clone();
            self.count(&trace, &outcome, probe);
            if let [
                (
                    at,
                    Sight::Sent {
                        src,
                        dst,
                        sport,
                        dport,
                        ..
                    },
                ),
            ] = *seen
                && probe.kind == Kind::Open
            {
                let there = Probe {
                    src,
                    dst,
                    sport,
                    dport,
                    ..*probe
                };
                through.push(Connection::new(from, *probe, at, there, &outcome));
            }
        }
        self.answers(world, &mut through, rules);
        self.next(world, &through, rules);
        self.errors(world, &through, rules);
    }

    /// Return the outcome that was seen; panic if none was predicted.
    fn expect<'t>(
        &mut self,
        trace: &'t Trace,
        (from, probe): (Place, &Probe),
        seen: &Seen,
        rules: &str,
    ) -> &'t Outcome {
        self.pairs += 1;
        // Used only to test that both paths are shown.
        let unknown = |w: &str| {
            let about = ["ttl", "hoplimit", "maxseg"];
            w.contains("is unknown") && about.iter().any(|a| w.contains(a))
        };
        let sure = |w: &String| unknown(w) || OPEN.iter().any(|o| w.contains(o));
        let found = trace.outcomes.iter().find(|o| self.agrees(o, probe, seen));
        found
            .filter(|_| trace.warnings.iter().all(sure))
            .unwrap_or_else(|| {
                let packet = question(from, probe, CtState::New);
                let tree = trace::render_tree(&packet, trace, trace::Style::Plain);
                panic!(
                    "{probe:?} from {from:?}: the kernel did {seen:?}, predicted was\n{tree}\n{rules}"
                );
            })
    }

    /// Whether an outcome is what was seen.
    pub fn agrees(&self, o: &Outcome, p: &Probe, seen: &Seen) -> bool {
        let delivered = |s: &&(Place, Sight)| matches!(s.1, Sight::Delivered { .. });
        match o.verdict {
            Verdict::Drop => seen.is_empty(),
            Verdict::Reject => {
                let [(_, sight)] = **seen else { return false };
                let Some(Did::Rejected(answer)) = o.path.last().map(|s| s.did) else {
                    return false;
                };
                match (answer, sight) {
                    (Answer::Reset, Sight::Reset { .. }) => true,
                    (
                        Answer::Icmp { kind, code },
                        Sight::Icmp {
                            kind: k,
                            code: c,
                            dst,
                            ..
                        },
                    ) => (kind, code, p.src) == (k, c, dst),
                    _ => false,
                }
            }
            Verdict::Accept if o.out_iface.is_none() => {
                // The host's answer does not matter.
                let mut given = seen.iter().filter(delivered);
                let (Some((_, sight)), None) = (given.next(), given.next()) else {
                    return false;
                };
                let Sight::Delivered { src, dport, .. } = *sight else {
                    return false;
                };
                src == o.src.ip && (p.is_icmp() || dport == o.dst.port)
            }
            Verdict::Accept => {
                let [
                    (
                        at,
                        Sight::Sent {
                            src,
                            dst,
                            sport,
                            dport,
                            ..
                        },
                    ),
                ] = **seen
                else {
                    return false;
                };
                let there = match at {
                    Place::Pods => "cbr0",
                    _ => "eth0",
                };
                let ports = p.is_icmp()
                    || (dport == o.dst.port && (o.flow.snat.is_some() || sport == o.src.port));
                o.out_iface.as_deref() == Some(there) && (src, dst) == (o.src.ip, o.dst.ip) && ports
            }
        }
    }

    fn answers(&mut self, world: &World, through: &mut Vec<Connection>, rules: &str) {
        for place in [Place::Pods, Place::Outside] {
            let there = |c: &&mut Connection| c.at == place;
            let packets = through.iter_mut().filter(there).map(|c| c.answer().bytes());
            let mut seen = self.net.try_out(place, packets.collect());
            for c in through.iter_mut().filter(there) {
                let answer = c.answer();
                let packet = reply_to(&world.host, &c.question, &c.outcome).unwrap();
                assert_eq!((packet.src, packet.dst), (answer.src, answer.dst), "{c:?}");
                let trace = walk(world, &packet).unwrap();
                let seen = of(&mut seen, &answer);
                let outcome = self.expect(&trace, (place, &answer), &seen, rules);
                c.answered = outcome.verdict == Verdict::Accept && c.outcome.tracked;
                c.flow.mark = outcome.flow.mark;
                self.tally.answers += usize::from(c.answered);
            }
        }
        // A connection is not established before it is answered.
        through.retain(|c| c.answered);
    }

    fn next(&mut self, world: &World, through: &[Connection], rules: &str) {
        let Some(from) = through.first().map(|c| c.from) else {
            return;
        };
        let packets = through.iter().map(|c| c.next().bytes()).collect();
        let mut seen = self.net.try_out(from, packets);
        for c in through {
            let next = c.next();
            let flow = Flow {
                reply: false,
                ..c.flow.clone()
            };
            let trace = walk(world, &question(from, &next, CtState::Established(flow))).unwrap();
            let seen = of(&mut seen, &next);
            let outcome = self.expect(&trace, (from, &next), &seen, rules);
            self.tally.next += usize::from(outcome.verdict == Verdict::Accept);
        }
    }

    /// ICMP errors about the first packet, from where it arrived.
    fn errors(&mut self, world: &World, through: &[Connection], rules: &str) {
        for place in [Place::Pods, Place::Outside] {
            let there = |c: &&Connection| c.at == place;
            let packets = through.iter().filter(there);
            let packets = packets.map(|c| c.there.error(c.there.dst)).collect();
            let mut seen = self.net.try_out(place, packets);
            for c in through.iter().filter(there) {
                let (proto, kind, code) = if c.there.src.is_ipv4() {
                    (1, 3, 3)
                } else {
                    (58, 1, 4)
                };
                let (origin, in_iface) = origin(place);
                let flow = Flow {
                    reply: true,
                    ..c.flow.clone()
                };
                let packet = Packet {
                    sport: kind,
                    dport: code,
                    in_iface,
                    ct: CtState::Related(flow),
                    ..Packet::new(origin, c.there.dst, c.there.src, Proto(proto), 0)
                };
                let trace = walk(world, &packet).unwrap();
                let seen = of(&mut seen, &c.there);
                let arrived = trace.outcomes.iter().any(|o| match (o.verdict, &*seen) {
                    (Verdict::Accept, [(at, Sight::Icmp { src, dst, .. })]) => {
                        *at == c.from && (*src, *dst) == (o.src.ip, o.dst.ip)
                    }
                    (Verdict::Accept, [(Place::Node, Sight::Delivered { src, .. })]) => {
                        c.from == Place::Node && *src == o.src.ip
                    }
                    (Verdict::Drop | Verdict::Reject, []) => true,
                    _ => false,
                });
                assert!(
                    arrived,
                    "an error about {:?}: the kernel did {seen:?}, predicted was\n{}\n{rules}",
                    c.there,
                    trace::render_tree(&packet, &trace, trace::Style::Plain)
                );
                self.pairs += 1;
                self.tally.errors += usize::from(!seen.is_empty());
            }
        }
    }

    fn count(&mut self, trace: &Trace, o: &Outcome, probe: &Probe) {
        let arrives = o.verdict == Verdict::Accept;
        let did = o.path.last().map(|s| s.did);
        let t = &mut self.tally;
        t.dropped += usize::from(o.verdict == Verdict::Drop);
        t.refused += usize::from(o.verdict == Verdict::Reject);
        t.reset += usize::from(did == Some(Did::Rejected(Answer::Reset)));
        t.local += usize::from(arrives && o.out_iface.is_none());
        t.forwarded += usize::from(arrives && o.out_iface.is_some());
        t.dnat += usize::from(arrives && o.dnat.is_some());
        t.snat += usize::from(arrives && o.snat.is_some());
        t.hairpin += usize::from(arrives && o.hairpin);
        t.several += usize::from(trace.summary().len() > 1);
        t.stray += usize::from(probe.kind == Kind::Stray);
    }

    /// Check that every fate occurred, TCP resets at least so often.
    pub fn is_varied(&self, resets: usize) {
        let t = &self.tally;
        println!("{} packets predicted: {t:?}", self.pairs);
        let all = [
            t.dropped,
            t.refused,
            t.local,
            t.forwarded,
            t.dnat,
            t.snat,
            t.several,
            t.answers,
            t.next,
            t.errors,
            t.stray,
        ];
        assert!(all.iter().all(|n| *n >= 10) && t.reset >= resets, "{t:?}");
    }
}

/// A connection whose first packet got through.
#[derive(Debug)]
struct Connection {
    from: Place,
    first: Probe,
    question: Packet,
    /// Where the first packet was seen, and as what.
    at: Place,
    there: Probe,
    outcome: Outcome,
    flow: Flow,
    answered: bool,
}

impl Connection {
    fn new(from: Place, first: Probe, at: Place, there: Probe, outcome: &Outcome) -> Self {
        let mut outcome = outcome.clone();
        // The kernel chooses the port of a translated source.
        if let (Some(snat), false) = (&mut outcome.flow.snat, first.is_icmp()) {
            snat.after.port = there.sport;
        }
        Self {
            from,
            first,
            question: question(from, &first, CtState::New),
            at,
            there,
            flow: outcome.flow.clone(),
            outcome,
            answered: false,
        }
    }

    fn answer(&self) -> Probe {
        let icmp = self.there.is_icmp();
        Probe {
            src: self.there.dst,
            dst: self.there.src,
            sport: if icmp {
                self.there.sport
            } else {
                self.there.dport
            },
            dport: if icmp { 0 } else { self.there.sport },
            kind: Kind::Answer,
            ..self.there
        }
    }

    fn next(&self) -> Probe {
        Probe {
            kind: Kind::Next,
            ..self.first
        }
    }
}

impl Probe {
    fn is_icmp(&self) -> bool {
        matches!(self.proto, 1 | 58)
    }
}
