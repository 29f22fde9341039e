//! All chains and the jumps between them.

use netfilter::iptables::{Chain, TableSet};
use netfilter::nft_lang::{Mapped, SetRef, Statement, TableDecl, VerdictStatement};
use trace::World;

use super::graph::{Box, Builder, Graph, Kind};
use super::lane::{Lane, Place};
use super::{plain, shown};

/// Draw all chains with their rules, and with counters if the dumps contain them.
pub fn of_world(world: &World) -> Graph {
    let mut builder = Builder::default();
    for set in &world.legacy {
        iptables(&mut builder, set, "legacy ");
    }
    for set in &world.iptables {
        iptables(&mut builder, set, "");
    }
    for table in &world.nft.tables {
        nft(&mut builder, table);
    }
    let mut graph = builder.done();
    assign_lanes(&mut graph);
    graph
}

/// Move each chain into the lane of the hook that reaches it.
fn assign_lanes(graph: &mut Graph) {
    let mut outs: Vec<Vec<usize>> = vec![Vec::new(); graph.boxes.len()];
    for arrow in &graph.arrows {
        outs[arrow.from].push(arrow.to);
    }
    let mut lanes: Vec<Option<Lane>> = vec![None; graph.boxes.len()];
    let hooks = graph.boxes.iter().enumerate();
    let hooks = hooks.filter(|(_, b)| b.kind == Kind::Hook);
    let mut todo: Vec<(usize, Lane)> = hooks.map(|(at, b)| (at, b.lane)).collect();
    // Each lane changes at most twice: to a hook's, and to that of several hooks.
    while let Some((at, lane)) = todo.pop() {
        let lane = match lanes[at] {
            None => lane,
            Some(known) if known == lane => continue,
            Some(_) => Lane::of(Place::Shared),
        };
        if lanes[at] == Some(lane) {
            continue;
        }
        lanes[at] = Some(lane);
        todo.extend(outs[at].iter().map(|to| (*to, lane)));
    }
    for (b, lane) in graph.boxes.iter_mut().zip(lanes) {
        b.lane = lane.unwrap_or(Lane::of(Place::Unused));
    }
}

/// Return the lane of a hook; other families' hooks do not occur.
fn lane(hook: &str) -> Lane {
    Lane::of(Place::of_hook(hook).unwrap_or(Place::Unused))
}

fn iptables(builder: &mut Builder, set: &TableSet, backend: &str) {
    for (table, state) in &set.tables {
        let of_table = format!("{backend}{} {}", set.family, table.name());
        let place = |builder: &mut Builder, chain: Chain| {
            let kind = if table.is_built_in(chain) {
                Kind::Hook
            } else {
                Kind::Chain
            };
            let name = chain.as_str();
            builder.place(Box {
                table: of_table.clone(),
                name: name.to_owned(),
                ..Box::new(kind, lane(name), &format!("{of_table} {name}"))
            })
        };
        for (chain, contents) in &state.chains {
            let from = place(builder, *chain);
            for rule in &contents.rules {
                let counted = rule.counters.as_ref().map_or(String::new(), shown);
                // The box states the chain.
                let text = rule.to_string();
                builder.line(from, format!("{counted}{}", plain(&text)));
                if let Some(to) = rule
                    .target
                    .as_ref()
                    .and_then(netfilter::iptables::Target::chain)
                {
                    let to = place(builder, to);
                    builder.arrow(from, to, String::new());
                }
            }
        }
    }
}

fn nft(builder: &mut Builder, table: &TableDecl) {
    let of_table = format!("{} {}", table.family.name(), table.name);
    let place = |builder: &mut Builder, name: &str| {
        let base = table.chain(name).and_then(|c| c.base.as_ref());
        let chain = |kind, lane, name: String| Box {
            table: of_table.clone(),
            name: name.clone(),
            ..Box::new(kind, lane, &format!("{of_table} {name}"))
        };
        builder.place(match base {
            Some(base) => {
                let name = format!("{name} ({}, priority {})", base.hook, base.priority);
                chain(Kind::Hook, lane(base.hook.as_ref()), name)
            }
            None => chain(Kind::Chain, Lane::of(Place::Unused), name.to_owned()),
        })
    };
    for chain in &table.chains {
        let from = place(builder, &chain.name);
        for rule in &chain.rules {
            // nft prints the counters as part of the rule.
            builder.line(from, rule.text.to_string());
            for name in rule.statements.iter().flat_map(|s| targets(table, s)) {
                let to = place(builder, name);
                builder.arrow(from, to, String::new());
            }
        }
    }
}

/// Return the chains that a statement may lead to.
fn targets<'t>(table: &'t TableDecl, statement: &'t Statement) -> Vec<&'t str> {
    let of = |verdict: &'t VerdictStatement| match verdict {
        VerdictStatement::Jump(chain) | VerdictStatement::Goto(chain) => Some(&**chain),
        _ => None,
    };
    match statement {
        Statement::Verdict(verdict) => of(verdict).into_iter().collect(),
        Statement::Vmap { map, .. } => {
            let set = match map {
                SetRef::Name(name) => table.set(name),
                SetRef::Anonymous(set) => Some(&**set),
            };
            let elements = set.into_iter().flat_map(|s| &s.elements);
            let verdicts = elements.filter_map(|e| match &e.data {
                Some(Mapped::Verdict(verdict)) => of(verdict),
                _ => None,
            });
            verdicts.collect()
        }
        _ => Vec::new(),
    }
}
