//! All chains and the jumps between them.

use netfilter::iptables::TableSet;
use netfilter::nft_lang::{Mapped, SetRef, Statement, TableDecl, VerdictStatement};
use trace::World;

use super::graph::{Builder, Graph, Kind};
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
    builder.done()
}

fn iptables(builder: &mut Builder, set: &TableSet, backend: &str) {
    for (table, state) in &set.tables {
        let name = |chain: &str| format!("{backend}{} {} {chain}", set.family, table.name());
        let kind = |chain| {
            if table.is_built_in(chain) {
                Kind::Hook
            } else {
                Kind::Chain
            }
        };
        for (chain, contents) in &state.chains {
            let from = builder.place(kind(*chain), &name(chain.as_str()));
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
                    let to = builder.place(kind(to), &name(to.as_str()));
                    builder.arrow(from, to, String::new());
                }
            }
        }
    }
}

fn nft(builder: &mut Builder, table: &TableDecl) {
    let title = |chain: &str| format!("{} {} {chain}", table.family.name(), table.name);
    let place = |builder: &mut Builder, name: &str| {
        let base = table.chain(name).and_then(|c| c.base.as_ref());
        match base {
            Some(base) => builder.place(
                Kind::Hook,
                &format!(
                    "{} ({}, priority {})",
                    title(name),
                    base.hook,
                    base.priority
                ),
            ),
            None => builder.place(Kind::Chain, &title(name)),
        }
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
