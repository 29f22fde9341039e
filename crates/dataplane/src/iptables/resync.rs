//! The transaction from an observation to the plan: only the difference is written.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use netfilter::iptables::{Chain, Rule, Table};
use plan::{PortKey, PortPlan};

use super::Problem;
use super::jumps::{JUMPS, Jump};
use super::lower::{self, Context, Port};
use super::names::{self, TABLES};
use super::observe::{Digest, Observation, Seen};
use super::output::Before;
use super::transaction::{RuleCounts, Writer};
use crate::{Found, Origin};

/// A rule and its text.
type Written = (String, Rule);

pub(super) struct Resync<'a, 'w> {
    context: Context<'a>,
    seen: BTreeMap<Table, &'a Seen>,
    writer: Writer<'w>,
    total: RuleCounts,
    /// The desired rules of the shared chains.
    dispatch: HashMap<(Table, Chain), Vec<Written>>,
    /// The observed rules of the shared chains.
    present: HashSet<(Table, Chain, &'a str)>,
    found: Found,
    /// The existing chains of Service ports without the desired ones.
    stale: HashSet<Chain>,
    /// The built-in chains that this transaction creates.
    created: HashSet<(Table, Chain)>,
    /// A scratch buffer for rules.
    text: String,
}

impl<'a, 'w> Resync<'a, 'w> {
    pub(super) fn new(
        context: Context<'a>,
        observation: &'a Observation,
        writer: Writer<'w>,
    ) -> Self {
        let seen = &observation.tables;
        let nat = seen.get(&Table::Nat).into_iter();
        let chains = nat.flat_map(|seen| seen.chains.keys().copied());
        Self {
            context,
            seen: seen.iter().map(|(table, seen)| (*table, seen)).collect(),
            writer,
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
            created: HashSet::new(),
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
    ) -> (Writer<'w>, RuleCounts, Found) {
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
            self.jump(jump);
        }
        self.stale_chains();
        (self.writer, self.total, self.found)
    }

    fn has_chain(&self, table: Table, chain: Chain) -> bool {
        let seen = self.seen.get(&table);
        seen.is_some_and(|seen| seen.chains.contains_key(&chain))
    }

    fn missing_chains(&mut self, table: Table) {
        if !self.seen.contains_key(&table) {
            self.writer.table(table);
        }
        for chain in names::fixed(table) {
            if !self.has_chain(table, *chain) {
                self.writer.declare(table, *chain, Before::Absent);
            }
        }
    }

    /// Insert a missing jump from a built-in chain.
    fn jump(&mut self, jump: &Jump) {
        let rule = jump.rule();
        let seen = self.seen.get(&jump.table);
        let exists = seen.is_some_and(|seen| {
            let mut jumps = seen.jumps.iter();
            jumps.any(|seen| seen.from == jump.from && seen.rule == rule)
        });
        if exists {
            return;
        }
        let has_chain = seen.is_some_and(|seen| seen.built_in.contains(&jump.from));
        if !has_chain && self.created.insert((jump.table, jump.from)) {
            self.writer.declare(jump.table, jump.from, Before::Absent);
        }
        self.writer.insert(jump.table, jump.from, &rule);
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
            // The chains of the mode itself exist by now.
            let exists = seen.is_some() || names::fixed(table).contains(&chain);
            let before = if exists {
                Before::Present
            } else {
                Before::Absent
            };
            self.writer.chain(table, chain, rules, before);
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
            let rules = self.dispatch.entry((table, chain)).or_default();
            rules.push((text, rule));
        });
        self.writer.divide();
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
            let rules = lower::services_tail(&self.context).into_iter();
            tail = rules.map(|rule| (text_of(&rule), rule)).collect();
        }
        let whole = wanted.len() + tail.len();
        self.total.add(table, whole);
        let seen = self.seen.get(&table);
        let readable = seen.and_then(|seen| seen.chains.get(&chain)?.as_ref());
        let present = seen
            .and_then(|seen| seen.dispatch.get(&chain))
            .filter(|_| readable.is_some());
        let change = present.and_then(|present| difference(present, &wanted, &tail));
        let change = change.filter(|(surplus, missing)| {
            let changes = surplus.len() + missing.len();
            self.writer.changes_single_rules(changes, whole)
        });
        if let Some((surplus, missing)) = change {
            for rule in surplus {
                self.writer.delete(table, chain, rule);
            }
            for rule in missing.into_iter().rev() {
                self.writer.insert(table, chain, rule);
            }
            return;
        }
        // Otherwise it was created above.
        if self.has_chain(table, chain) {
            self.writer.declare(table, chain, Before::Present);
        }
        for (_, rule) in wanted.iter().chain(&tail) {
            self.writer.append(table, chain, rule);
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
            self.writer.declare(Table::Nat, *chain, Before::Present);
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
    chains.flat_map(move |(chain, rules)| {
        let texts = rules.iter().map(|(text, _)| text.as_str());
        texts.map(move |text| (table, *chain, text))
    })
}

pub(super) fn text_of(rule: &Rule) -> String {
    let mut text = String::with_capacity(160);
    rule.write(&mut text);
    text
}

/// The surplus and the missing rules, whatever their order. `None` if the chain does not end with the
/// tail.
fn difference<'t>(
    present: &'t [Written],
    wanted: &'t [Written],
    tail: &[Written],
) -> Option<(Vec<&'t Rule>, Vec<&'t Rule>)> {
    let (present, end) = present.split_at_checked(present.len().checked_sub(tail.len())?)?;
    if !end
        .iter()
        .map(|(text, _)| text)
        .eq(tail.iter().map(|(text, _)| text))
    {
        return None;
    }
    let mut count: HashMap<&str, i64> = HashMap::with_capacity(wanted.len());
    for (text, _) in wanted {
        *count.entry(text).or_default() += 1;
    }
    let mut surplus = Vec::new();
    for (text, rule) in present {
        match count.get_mut(text.as_str()) {
            Some(n) if *n > 0 => *n -= 1,
            _ => surplus.push(rule),
        }
    }
    // The remaining counts are missing rules, in the desired order.
    let mut missing = Vec::new();
    for (text, rule) in wanted.iter().rev() {
        if let Some(n) = count.get_mut(text.as_str())
            && *n > 0
        {
            *n -= 1;
            missing.push(rule);
        }
    }
    missing.reverse();
    Some((surplus, missing))
}
