//! The transaction from an observation to the plan: only the difference is written.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use netfilter::iptables::{Chain, Rule, Table};
use plan::{PortKey, PortPlan};

use super::Problem;
use super::jumps::JUMPS;
use super::lower::{self, Context, Port};
use super::names::{self, TABLES};
use super::observe::{Digest, Observation, Seen};
use super::transaction::{RuleCounts, Writer};
use crate::{Found, Origin};

/// The maximum number of single-rule changes of a shared chain. Beyond it the chain is rewritten.
const SINGLE_RULES: usize = 64;

pub(super) struct Resync<'a> {
    context: Context<'a>,
    seen: BTreeMap<Table, &'a Seen>,
    writer: Writer,
    total: RuleCounts,
    /// The desired rules of the shared chains, as text.
    dispatch: HashMap<(Table, Chain), Vec<String>>,
    /// The observed rules of the shared chains.
    present: HashSet<(Table, Chain, &'a str)>,
    found: Found,
    /// The existing chains of Service ports without the desired ones.
    stale: HashSet<Chain>,
    /// A scratch buffer for rules.
    text: String,
}

impl<'a> Resync<'a> {
    pub(super) fn new(context: Context<'a>, observation: &'a Observation) -> Self {
        let seen = &observation.tables;
        let nat = seen.get(&Table::Nat).into_iter();
        let chains = nat.flat_map(|seen| seen.chains.keys().copied());
        Self {
            context,
            seen: seen.iter().map(|(table, seen)| (*table, seen)).collect(),
            writer: Writer::default(),
            total: RuleCounts::default(),
            dispatch: HashMap::new(),
            present: seen
                .iter()
                .flat_map(|(t, seen)| rules_of(*t, seen))
                .collect(),
            found: Found {
                origin: if observation.is_nothing() {
                    Origin::Nothing
                } else {
                    Origin::SameLayout
                },
                kept: 0,
                written: 0,
            },
            stale: chains
                .filter(|chain| names::is_service_chain(*chain))
                .collect(),
            text: String::new(),
        }
    }

    /// Write the difference. Return the writer, the total number of rules and a summary. Ports without valid
    /// rules are added to `problems` and replaced in `ports` by their last good version, or
    /// removed.
    pub(super) fn run(
        mut self,
        ports: &mut BTreeMap<PortKey, Arc<PortPlan>>,
        last_good: &BTreeMap<PortKey, Arc<PortPlan>>,
        problems: &mut BTreeMap<PortKey, Problem>,
    ) -> (Writer, RuleCounts, Found) {
        for table in TABLES {
            self.missing_chains(table);
        }
        for (table, chain, rules) in lower::fixed_chains(&self.context) {
            self.chain(table, chain, &rules);
        }
        ports.retain(|key, plan| {
            let Err(problem) = self.port(plan) else {
                return true;
            };
            problems.insert(key.clone(), problem);
            match last_good.get(key) {
                Some(before) if self.port(before).is_ok() => {
                    plan.clone_from(before);
                    true
                }
                _ => false,
            }
        });
        for table in TABLES {
            for chain in names::fixed(table) {
                if names::is_dispatch(table, *chain) {
                    self.shared_chain(table, *chain);
                }
            }
        }
        for jump in &JUMPS {
            let rule = jump.rule();
            let exists = self.seen.get(&jump.table).is_some_and(|seen| {
                let mut jumps = seen.jumps.iter();
                jumps.any(|(from, r)| *from == jump.from && *r == rule)
            });
            if !exists {
                self.writer.rule_command("-I", jump.table, jump.from, &rule);
            }
        }
        self.stale_chains();
        (self.writer, self.total, self.found)
    }

    fn has_chain(&self, table: Table, chain: Chain) -> bool {
        let seen = self.seen.get(&table);
        seen.is_some_and(|seen| seen.chains.contains_key(&chain))
    }

    fn missing_chains(&mut self, table: Table) {
        for chain in names::fixed(table) {
            if !self.has_chain(table, *chain) {
                self.writer.declare(table, *chain);
            }
        }
    }

    /// Write a chain unless it was observed with the same rules. Return whether it was.
    fn chain(&mut self, table: Table, chain: Chain, rules: &[Rule]) -> bool {
        self.total.add(table, rules.len());
        let seen = self
            .seen
            .get(&table)
            .and_then(|seen| seen.chains.get(&chain));
        let same = seen.is_some_and(|digest| {
            digest.is_some_and(|digest| digest == Digest::of(rules, &mut self.text))
        });
        if !same {
            self.writer.chain(table, chain, rules);
        }
        same
    }

    fn port(&mut self, plan: &PortPlan) -> Result<(), Problem> {
        let mut port = Port::new(plan)?;
        let context = self.context;
        let mut kept = true;
        port.chains(&context, |chain, rules| {
            self.stale.remove(&chain);
            kept &= self.chain(Table::Nat, chain, rules);
        });
        port.dispatch(&context, |table, chain, rule| {
            let mut text = String::with_capacity(160);
            rule.write(&mut text);
            kept &= self.present.contains(&(table, chain, text.as_str()));
            self.dispatch.entry((table, chain)).or_default().push(text);
        });
        if kept {
            self.found.kept += 1;
        } else {
            self.found.written += 1;
        }
        Ok(())
    }

    /// Write the difference of a shared chain.
    fn shared_chain(&mut self, table: Table, chain: Chain) {
        let wanted = self.dispatch.remove(&(table, chain)).unwrap_or_default();
        let mut tail = Vec::new();
        if table == Table::Nat && chain == names::SERVICES {
            tail = lower::services_tail(&self.context)
                .iter()
                .map(text_of)
                .collect();
        }
        self.total.add(table, wanted.len() + tail.len());
        let seen = self.seen.get(&table);
        let readable = seen.and_then(|seen| seen.chains.get(&chain)?.as_ref());
        let present = seen
            .and_then(|seen| seen.dispatch.get(&chain))
            .filter(|_| readable.is_some());
        let change = present.and_then(|present| difference(present, &wanted, &tail));
        let whole = wanted.len() + tail.len();
        match change {
            Some((surplus, missing)) if surplus.len() + missing.len() <= SINGLE_RULES => {
                for text in surplus {
                    self.writer.command("-D", table, chain, text);
                }
                for text in missing.into_iter().rev() {
                    self.writer.command("-I", table, chain, text);
                }
            }
            // Created above.
            None if whole == 0 && !self.has_chain(table, chain) => {}
            _ => {
                self.writer.declare(table, chain);
                for text in wanted.iter().chain(&tail) {
                    self.writer.command("-A", table, chain, text);
                }
            }
        }
    }

    /// Delete stale chains of Service ports.
    fn stale_chains(&mut self) {
        let Some(seen) = self.seen.get(&Table::Nat) else {
            return;
        };
        let mut stale: Vec<Chain> = self.stale.iter().copied().collect();
        stale.sort_unstable();
        for chain in &stale {
            self.writer.declare(Table::Nat, *chain);
        }
        for chain in stale {
            if !seen.referenced.contains(&chain) {
                self.writer.delete_empty(Table::Nat, chain);
            }
        }
    }
}

/// The rules of the shared chains of a table.
fn rules_of(table: Table, seen: &Seen) -> impl Iterator<Item = (Table, Chain, &str)> {
    let chains = seen.dispatch.iter();
    chains.flat_map(move |(chain, rules)| rules.iter().map(move |rule| (table, *chain, &**rule)))
}

pub(super) fn text_of(rule: &Rule) -> String {
    let mut text = String::with_capacity(160);
    rule.write(&mut text);
    text
}

/// The surplus and the missing rules, whatever their order. `None` if the chain does not end with the
/// tail.
fn difference<'t>(
    present: &'t [String],
    wanted: &'t [String],
    tail: &[String],
) -> Option<(Vec<&'t str>, Vec<&'t str>)> {
    let present = present.strip_suffix(tail)?;
    let mut count: HashMap<&str, i64> = HashMap::with_capacity(wanted.len());
    for text in wanted {
        *count.entry(text).or_default() += 1;
    }
    let mut surplus = Vec::new();
    for text in present {
        match count.get_mut(text.as_str()) {
            Some(n) if *n > 0 => *n -= 1,
            _ => surplus.push(text.as_str()),
        }
    }
    // The remaining counts are missing rules, in the desired order.
    let mut missing = Vec::new();
    for text in wanted.iter().rev() {
        if let Some(n) = count.get_mut(text.as_str())
            && *n > 0
        {
            *n -= 1;
            missing.push(text.as_str());
        }
    }
    missing.reverse();
    Some((surplus, missing))
}
