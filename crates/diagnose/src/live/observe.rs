//! Converts the kernel's events about a packet to the form of a prediction.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use kernel::nfnetlink::{ListedChain, TableId};
use netfilter::iptables::Target;
use netfilter::nft::{ChainKind, Family, Policy, TraceEvent, TraceKind, TracedPacket, Verdict};
use netfilter::nft_lang::Statement;
use trace::{
    Backend, Did, Endpoint, Flow, Fraction, Origin, Outcome, Packet, Proto, Snat, Step, Trace,
    World,
};

use super::follow::{End, Event};
use super::table;

/// The rules at the time of the packet.
pub(super) struct Rules<'a> {
    pub(super) world: &'a World,
    pub(super) chains: HashMap<(TableId, String), ListedChain>,
    /// Interfaces by index.
    pub(super) interfaces: HashMap<u32, String>,
    /// The table that marks packets.
    pub(super) own: &'a str,
}

/// A packet and its path.
#[derive(Debug)]
pub(super) struct Observation {
    /// The packet as it started.
    pub(super) packet: Packet,
    /// The observed outcome.
    pub(super) trace: Trace,
    /// Indices of steps in its path that only let the packet pass, which a prediction does not list.
    pub(super) passing: HashSet<usize>,
    /// Its end.
    pub(super) end: End,
    /// Whether the packet was seen after the last translation.
    pub(super) is_whole: bool,
}

/// The rule of an event, from the dumps.
struct Found {
    text: String,
    rejects: bool,
    masquerades: bool,
}

impl Rules<'_> {
    fn chain(&self, family: Family, event: &TraceEvent) -> Option<&ListedChain> {
        let table = TableId::new(family, event.table.as_str());
        self.chains.get(&(table, event.chain.clone()))
    }

    fn rule(&self, family: Family, event: &TraceEvent, handle: u64) -> Found {
        let place = self
            .chain(family, event)
            .and_then(|c| c.handles.iter().position(|h| *h == handle));
        place
            .and_then(|place| {
                self.of_iptables(family, event, place)
                    .or_else(|| self.of_nft(family, event, place))
            })
            .unwrap_or_else(|| Found {
                text: format!("a rule that no dump contains (handle {handle})"),
                rejects: false,
                masquerades: false,
            })
    }

    fn of_iptables(&self, family: Family, event: &TraceEvent, place: usize) -> Option<Found> {
        use netfilter::iptables::Family as Version;
        let version = match family {
            Family::Ip => Version::Ipv4,
            Family::Ip6 => Version::Ipv6,
            Family::Inet => return None,
        };
        let sets = self.world.iptables.iter().rev();
        let mut rules = sets.filter(|s| s.family == version).filter_map(|set| {
            let (_, state) = set.tables.iter().find(|(t, _)| t.name() == event.table)?;
            let (_, chain) = state
                .chains
                .iter()
                .find(|(name, _)| name.as_str() == event.chain)?;
            chain.rules.get(place)
        });
        let rule = rules.next()?;
        Some(Found {
            text: rule.to_string(),
            rejects: matches!(rule.target, Some(Target::Reject(_))),
            masquerades: matches!(rule.target, Some(Target::Masquerade(_))),
        })
    }

    fn of_nft(&self, family: Family, event: &TraceEvent, place: usize) -> Option<Found> {
        let mut tables = self.world.nft.tables.iter();
        let table = tables.find(|t| t.family.name() == family.word() && *t.name == *event.table)?;
        let rule = table.chain(&event.chain)?.rules.get(place)?;
        let has = |wanted: fn(&Statement) -> bool| rule.statements.iter().any(wanted);
        Some(Found {
            text: rule.text.to_string(),
            rejects: has(|s| matches!(s, Statement::Reject(_))),
            masquerades: has(|s| {
                use netfilter::nft_lang::NatType;
                matches!(s, Statement::Nat(nat) if nat.kind == NatType::Masquerade)
            }),
        })
    }

    fn interface(&self, index: Option<u32>) -> String {
        let index = index.unwrap_or_default();
        let name = self.interfaces.get(&index);
        name.cloned()
            .unwrap_or_else(|| format!("interface {index}"))
    }
}

/// Combine the events of a packet of the kind of `asked`; `None` if its beginning is missing.
pub(super) fn observe(
    rules: &Rules<'_>,
    asked: &Packet,
    events: &[Event],
    end: End,
) -> Option<Observation> {
    let (_, first) = events.first()?;
    let start = first.packet?;
    let (src, dst) = start.addresses?;
    let (sport, dport) = ports(asked.proto, start)?;
    let made_here = first.chain == table::MADE_HERE;
    let packet = Packet {
        src,
        dst,
        sport,
        dport,
        in_iface: (!made_here).then(|| rules.interface(start.iif)),
        from: match asked.from {
            _ if made_here => Origin::Node,
            Origin::Node => Origin::Outside,
            from => from,
        },
        ..asked.clone()
    };
    let mut walk = Walk::new(rules, &packet);
    for (family, event) in events {
        walk.take(*family, event);
    }
    Some(walk.finish(packet, end))
}

fn ports(proto: Proto, packet: TracedPacket) -> Option<(u16, u16)> {
    let (first, second) = packet.ports?;
    Some(match proto {
        // Type and code.
        Proto::ICMP | Proto::ICMPV6 => (first >> 8, first & 0xff),
        _ if proto.has_ports() => (first, second),
        _ => (0, 0),
    })
}

/// The packet's path so far.
struct Walk<'a> {
    rules: &'a Rules<'a>,
    proto: Proto,
    path: Vec<Step>,
    passing: HashSet<usize>,
    hook: &'static str,
    /// Whether the base chain that the packet is in is one of NAT.
    in_nat: bool,
    mark: u32,
    /// Source and destination, in the last and in the first event.
    now: (Endpoint, Endpoint),
    before: (Endpoint, Endpoint),
    /// Index of the last NAT rule in the path, until an event shows the packet again.
    translated: Option<usize>,
    masquerades: bool,
    rejected: bool,
    /// It left through loopback.
    came_back: bool,
    out: Option<String>,
}

impl<'a> Walk<'a> {
    fn new(rules: &'a Rules<'a>, packet: &Packet) -> Self {
        let end = |ip, port| Endpoint { ip, port };
        let ends = (end(packet.src, packet.sport), end(packet.dst, packet.dport));
        Self {
            rules,
            proto: packet.proto,
            path: Vec::new(),
            passing: HashSet::new(),
            hook: "prerouting",
            in_nat: false,
            mark: 0,
            now: ends,
            before: ends,
            translated: None,
            masquerades: false,
            rejected: false,
            came_back: false,
            out: None,
        }
    }

    fn take(&mut self, family: Family, event: &TraceEvent) {
        if let Some(packet) = event.packet {
            self.see(packet);
        }
        if event.table == self.rules.own {
            // Only one of several events of a chain contains the packet.
            if event.packet.is_some() {
                self.note(event);
            }
            return;
        }
        let chain = self.rules.chain(family, event);
        let base = chain.and_then(|c| c.base);
        if let Some(base) = base {
            self.hook = base.hook.word();
        }
        let hook = self.hook;
        let step = |rule: String, effect: String, did: Did| Step {
            hook,
            backend: Some(Backend::NfTables),
            family: family.word(),
            table: event.table.clone(),
            chain: event.chain.clone(),
            rule,
            effect,
            did,
        };
        match &event.kind {
            TraceKind::Return | TraceKind::ChainEnd | TraceKind::Policy(Policy::Accept) => {}
            TraceKind::Policy(Policy::Drop) => {
                let step = step("policy".to_owned(), "drop".to_owned(), Did::Dropped);
                self.path.push(step);
            }
            TraceKind::Rule { handle, verdict } => {
                let found = self.rules.rule(family, event, *handle);
                let is_nat = self.is_nat(base);
                let (effect, passes) = effect(event.mark, self.mark, verdict.as_ref(), &found);
                let step = step(found.text, effect, did(verdict.as_ref()));
                self.path.push(step);
                let place = self.path.len() - 1;
                if passes {
                    self.passing.insert(place);
                }
                if is_nat && *verdict == Some(Verdict::Accept) {
                    self.translated = Some(place);
                    self.masquerades |= found.masquerades;
                }
                self.rejected = found.rejects;
            }
        }
        self.mark = event.mark;
    }

    /// Return whether the packet is in a NAT chain, or in one called from there.
    fn is_nat(&mut self, base: Option<netfilter::nft::BaseChain>) -> bool {
        match base {
            Some(base) => {
                self.in_nat = base.kind == ChainKind::Nat;
                self.in_nat
            }
            None => self.in_nat,
        }
    }

    /// Compare the packet's header before a base chain with the last one: the difference is NAT's.
    fn see(&mut self, packet: TracedPacket) {
        let Some((src, dst)) = packet.addresses else {
            return;
        };
        let Some((sport, dport)) = ports(self.proto, packet) else {
            return;
        };
        let end = |ip: IpAddr, port| Endpoint { ip, port };
        let now = (end(src, sport), end(dst, dport));
        let mut changes = Vec::new();
        if now.1 != self.now.1 {
            changes.push(format!("destination becomes {}", now.1));
        }
        if now.0 != self.now.0 {
            changes.push(format!("source becomes {}", now.0));
        }
        if let Some(step) = self.translated.take().and_then(|i| self.path.get_mut(i))
            && !changes.is_empty()
        {
            // Replaces "accept", the verdict of a translation.
            let kept = step.effect.strip_suffix("accept").unwrap_or(&step.effect);
            step.effect = format!("{kept}{}", changes.join(", "));
        } else {
            for change in changes {
                self.outside(self.hook, "conntrack", change);
            }
        }
        self.now = now;
    }

    /// Add a step that no rule caused.
    fn outside(&mut self, hook: &'static str, rule: &str, effect: String) {
        self.path.push(Step {
            hook,
            backend: None,
            family: if self.now.1.ip.is_ipv6() { "ip6" } else { "ip" },
            table: String::new(),
            chain: String::new(),
            rule: rule.to_owned(),
            effect,
            did: Did::WentOn,
        });
    }

    /// Record an event of our own chains, which shows how far the packet got.
    fn note(&mut self, event: &TraceEvent) {
        let oif = event.packet.and_then(|p| p.oif);
        let (src, dst) = self.now;
        match event.chain.as_str() {
            table::INCOMING => self.hook = "prerouting",
            table::MADE_HERE => self.hook = "output",
            table::SENT_ON => {
                let through = self.rules.interface(oif);
                self.outside("routing", "seen", format!("sent on through {through}"));
            }
            // The packet did not leave, which is already recorded.
            table::FOR_THIS_NODE if self.came_back => {}
            table::FOR_THIS_NODE => self.outside("routing", "seen", "for this node".to_owned()),
            table::DELIVERED => {
                let effect = format!("delivered to the listener on {} {dst}", self.proto);
                self.outside("local", "deliver", effect);
            }
            table::LEAVES => {
                let through = self.rules.interface(oif);
                if through == "lo" {
                    self.came_back = true;
                    self.outside("routing", "seen", "stays on this node".to_owned());
                } else {
                    let effect = format!("leaves this node through {through}: {src} -> {dst}");
                    self.outside("wire", "send", effect);
                    self.out = Some(through);
                }
            }
            _ => {}
        }
    }

    fn finish(mut self, packet: Packet, end: End) -> Observation {
        let verdict = match end {
            End::Left | End::Delivered => trace::Verdict::Accept,
            End::Kept if self.rejected => trace::Verdict::Reject,
            End::Kept => trace::Verdict::Drop,
            End::Lost => {
                let after = format!("after {}", self.hook);
                let what = "not seen again, and nf_tables did not drop it: routing (no route, \
                            rp_filter, forwarding off), a neighbour that does not answer, legacy iptables or \
                            IPVS did";
                self.outside("lost", &after, what.to_owned());
                trace::Verdict::Drop
            }
        };
        let changed = |before: Endpoint, now: Endpoint| (before != now).then_some(now);
        let dnat = changed(self.before.1, self.now.1);
        let snat = changed(self.before.0, self.now.0).map(|now| {
            if self.masquerades {
                Snat::Masquerade(Some(now.ip))
            } else {
                Snat::To(now.ip)
            }
        });
        let outcome = Outcome {
            probability: Fraction::ONE,
            verdict,
            dnat,
            snat,
            hairpin: dnat.is_some_and(|to| to.ip == packet.src),
            src: self.now.0,
            dst: self.now.1,
            tracked: true,
            out_iface: self.out,
            flow: Flow::default(),
            path: self.path,
            assuming: Vec::new(),
        };
        Observation {
            packet,
            trace: Trace {
                outcomes: vec![outcome],
                warnings: Vec::new(),
            },
            passing: self.passing,
            end,
            is_whole: self.translated.is_none(),
        }
    }
}

/// Return what a rule did; a reject appears as a drop.
fn did(verdict: Option<&Verdict>) -> Did {
    match verdict {
        Some(Verdict::Accept) => Did::Accepted,
        Some(Verdict::Drop) => Did::Dropped,
        _ => Did::WentOn,
    }
}

/// Return what a rule did as text, and whether a prediction leaves it out.
fn effect(mark: u32, before: u32, verdict: Option<&Verdict>, found: &Found) -> (String, bool) {
    let mut words = Vec::new();
    if mark != before {
        words.push(format!("mark becomes {mark:#x}"));
    }
    match verdict {
        Some(Verdict::Continue) => {}
        Some(Verdict::Drop) if found.rejects => words.push("reject".to_owned()),
        Some(Verdict::Drop) => words.push("drop".to_owned()),
        Some(Verdict::Accept) => words.push("accept".to_owned()),
        Some(Verdict::Return) => words.push("return".to_owned()),
        Some(Verdict::Jump(chain)) => words.push(format!("jump {chain}")),
        Some(Verdict::Goto(chain)) => words.push(format!("goto {chain}")),
        None => words.push("taken from the chains (queued or stolen)".to_owned()),
    }
    let passes = verdict == Some(&Verdict::Continue);
    if words.is_empty() {
        words.push("goes on".to_owned());
    }
    (words.join(", "), passes)
}
