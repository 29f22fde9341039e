//! The path of a packet, or all chains, as a picture.

mod draw;
mod graph;
mod lane;
mod layout;
mod picture;
mod structure;
mod svg;
#[cfg(test)]
mod tests;
mod why;

use std::collections::{BTreeMap, HashMap};

use netfilter::iptables::{Counters, Family, TableSet};
use trace::{Backend, Fraction, Outcome, Packet, Step, Trace, Verdict, World};

use crate::explain::Probe;
use graph::{Box, Builder, Kind};
use lane::Lane;
use why::{Detail, Header};

pub use draw::{boxes, dot, mermaid};
pub use graph::Graph;
pub use picture::Picture;
pub use structure::of_world;
pub use svg::svg;

/// Draw the chains on a packet's paths, with the rules that it matches.
pub fn of_trace(world: &World, packet: &Packet, trace: &Trace) -> Graph {
    let mut builder = Builder::default();
    add_trace(&mut builder, &mut Counted::new(world), packet, trace);
    builder.done()
}

/// Draw the paths of several packets. Chains that they share are drawn once.
pub fn of_packets(world: &World, packets: &[(Packet, Trace)]) -> Graph {
    let mut builder = Builder::default();
    let mut counted = Counted::new(world);
    for (packet, trace) in packets {
        add_trace(&mut builder, &mut counted, packet, trace);
    }
    builder.done()
}

/// Draw the paths of all kinds of client to a Service. Chains that they share are drawn once.
pub fn of_service(world: &World, probes: &[Probe]) -> Graph {
    let mut builder = Builder::default();
    let mut counted = Counted::new(world);
    for probe in probes {
        add_trace(&mut builder, &mut counted, &probe.packet, &probe.trace);
    }
    builder.done()
}

/// The counters of iptables rules, which steps do not contain; nft rules contain theirs.
struct Counted<'w> {
    world: &'w World,
    chains: HashMap<String, HashMap<String, Counters>>,
}

impl<'w> Counted<'w> {
    fn new(world: &'w World) -> Self {
        let chains = HashMap::new();
        Self { world, chains }
    }

    /// Return what the rule of a step has counted.
    fn of(&mut self, step: &Step) -> Option<Counters> {
        let of = |set: &&TableSet| {
            let family = if set.family == Family::Ipv6 {
                "ip6"
            } else {
                "ip"
            };
            family == step.family
        };
        let world = self.world;
        let key = trace::place(step);
        let sets = match step.backend {
            Some(Backend::Legacy) => &world.legacy,
            _ => &world.iptables,
        };
        let chain = self.chains.entry(key).or_insert_with(|| {
            let tables = sets.iter().filter(of).flat_map(|s| &s.tables);
            let named = tables.filter(|(table, _)| table.name() == step.table);
            let chains = named.flat_map(|(_, table)| &table.chains);
            let chains = chains.filter(|(name, _)| name.as_str() == step.chain);
            let rules = chains.flat_map(|(_, chain)| &chain.rules);
            let counted = rules.filter_map(|rule| Some((rule.to_string(), rule.counters?)));
            counted.collect()
        });
        chain.get(&step.rule).copied()
    }
}

/// `[7 packets, 70 bytes] `.
fn shown(c: &Counters) -> String {
    format!("[{} packets, {} bytes] ", c.packets, c.bytes)
}

fn add_trace(builder: &mut Builder, counted: &mut Counted<'_>, packet: &Packet, trace: &Trace) {
    let to = trace::Endpoint {
        ip: packet.dst,
        port: packet.dport,
    };
    let start = format!(
        "{} from {} ({}) to {to}",
        packet.proto, packet.src, packet.from
    );
    let start = builder.place(Box::new(Kind::Hook, Lane::START, &start));
    let mut odds: BTreeMap<(usize, usize), Fraction> = BTreeMap::new();
    let mut order = Vec::new();
    for outcome in &trace.outcomes {
        let mut go = |from: usize, to: usize| {
            if !odds.contains_key(&(from, to)) {
                order.push((from, to));
            }
            let sum = odds.entry((from, to)).or_insert(Fraction::ZERO);
            *sum = sum.plus(outcome.probability);
        };
        let (mut at, mut lane) = (start, Lane::START);
        let mut seen: HashMap<String, u32> = HashMap::new();
        let (mut here, mut again) = (String::new(), 1);
        let mut header = Header::of(packet);
        // The end states that the packet leaves.
        for step in outcome.path.iter().filter(|s| s.hook != "wire") {
            lane = lane.next(step, packet.from);
            let mut b = place_of(step, lane);
            // Another box if the packet returns to a chain: arrows only lead downwards.
            if b.title != here {
                let times = seen.entry(b.title.clone()).or_insert(0_u32);
                *times += 1;
                here.clone_from(&b.title);
                again = *times;
            }
            if again > 1 {
                b.title = format!("{} ({again})", b.title);
                b.name = format!("{} ({again})", b.name);
            }
            let place = builder.place(b);
            let counters = counted.of(step);
            let before = counters.as_ref().map_or(String::new(), shown);
            builder.line_once(place, format!("{before}{}", line(step)));
            builder.step_once(
                place,
                Detail {
                    rule: step.rule.clone(),
                    conditions: header.conditions(step),
                    effect: step.effect.clone(),
                    counters: counters.map(|c| (c.packets, c.bytes)),
                },
            );
            header.apply(step);
            if place != at {
                go(at, place);
            }
            at = place;
        }
        go(at, builder.place(end(outcome, lane)));
    }
    let mut forks: HashMap<usize, usize> = HashMap::new();
    for (from, _) in odds.keys() {
        *forks.entry(*from).or_default() += 1;
    }
    for (from, to) in order {
        let odds = odds.get(&(from, to)).copied().unwrap_or(Fraction::ONE);
        let text = format!("{:.2}", odds.to_f64() * 100.0);
        let text = text.trim_end_matches('0').trim_end_matches('.');
        // Only forks show odds.
        let is_fork = forks.get(&from).is_some_and(|n| *n > 1);
        let label = if odds.is_one() || !is_fork {
            String::new()
        } else {
            format!("{text}%")
        };
        builder.arrow(from, to, label);
    }
}

/// Return the box of a step, without lines.
fn place_of(step: &Step, lane: Lane) -> Box {
    if step.chain.is_empty() {
        let title = format!("{}: {}", step.hook, step.rule);
        return Box {
            name: step.rule.clone(),
            ..Box::new(Kind::Hook, lane, &title)
        };
    }
    let place = trace::place(step);
    let table = place.strip_suffix(&*step.chain).unwrap_or_default();
    Box {
        table: table.trim_end().to_owned(),
        name: step.chain.clone(),
        ..Box::new(Kind::Chain, lane, &format!("{}: {place}", step.hook))
    }
}

/// Return the box of an outcome's end. Lost packets end in the lane of their last step.
fn end(outcome: &Outcome, lane: Lane) -> Box {
    let (kind, lane) = match outcome.verdict {
        Verdict::Accept => (Kind::Arrives, Lane::ARRIVAL),
        Verdict::Drop | Verdict::Reject => (Kind::Lost, lane),
    };
    let to = outcome.dnat.map_or(String::new(), |to| format!(" {to}"));
    Box::new(kind, lane, &format!("{}{to}", outcome.verdict))
}

/// Return a rule, with its effect if the rule does not state it.
fn line(step: &Step) -> String {
    const SAID: [&str; 7] = [
        "jump ",
        "goto ",
        "return",
        "accept",
        "drop",
        "goes on",
        "destination becomes ",
    ];
    let rule = plain(&step.rule);
    let effect = step.effect.as_str();
    // Rules with verdict maps do not show the verdict.
    let is_said = SAID.iter().any(|word| effect.starts_with(word))
        && (rule.contains(" -j ") || rule.contains(effect) || rule.starts_with("-j "));
    if is_said || step.chain.is_empty() {
        let shown = if step.chain.is_empty() { effect } else { &rule };
        return shown.to_owned();
    }
    match rule.split_once("  # ") {
        Some((rule, comment)) => format!("{rule} => {effect}  # {comment}"),
        None => format!("{rule} => {effect}"),
    }
}

/// Shorten an iptables rule: comments last, protocols once.
pub(crate) fn plain(rule: &str) -> String {
    const OPEN: &str = "-m comment --comment ";
    let mut text = rule.to_owned();
    let mut comments = Vec::new();
    while let Some(start) = text.find(OPEN) {
        let rest = &text[start + OPEN.len()..];
        let len = match rest.strip_prefix('"') {
            Some(quoted) => quoted.find('"').map_or(rest.len(), |end| end + 2),
            None => rest.find(' ').unwrap_or(rest.len()),
        };
        comments.push(rest[..len].trim_matches('"').to_owned());
        let end = (start + OPEN.len() + len + 1).min(text.len());
        text.replace_range(start..end, "");
    }
    for proto in ["tcp", "udp", "sctp"] {
        text = text.replace(&format!("-p {proto} -m {proto} "), &format!("-p {proto} "));
    }
    // iptables writes shares with eleven digits.
    const ODDS: &str = "-m statistic --mode random --probability ";
    if let Some((before, rest)) = text.split_once(ODDS) {
        let (number, after) = rest.split_once(' ').unwrap_or((rest, ""));
        let share = number.get(..6).unwrap_or(number);
        text = format!("{before}--probability {share} {after}");
    }
    for comment in comments {
        text = format!("{}  # {comment}", text.trim_end());
    }
    text
}
