//! One transaction: what it changes, and the state after it.

use std::collections::BTreeMap;
use std::sync::Arc;

use netfilter::iptables::{Chain, Rule, Table};
use plan::{Endpoint, NodeFacts, PortKey, PortPlan};

use super::handles::{self, Handles};
use super::lower::{Context, Port};
use super::output::{Before, Output};
use super::{Options, Problem, names};
use crate::Found;

/// The changes that were written to an [`Output`], and the state after their commit.
#[derive(Debug)]
pub struct Transaction {
    /// The number of operations.
    pub operations: usize,
    /// The number of rules that it writes.
    pub written: RuleCounts,
    /// The number of rules after the commit, without those in built-in chains.
    pub total: RuleCounts,
    /// The number of chains that it deletes.
    pub deleted_chains: usize,
    /// The observed state, if the transaction starts from an observation.
    pub found: Option<Found>,
    /// Whether it starts from the observed state.
    pub(super) observed: bool,
    pub(super) handles: handles::Change,
    pub(super) next: Next,
    pub(super) globals: Globals,
}

impl Transaction {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.operations == 0
    }
}

/// Numbers of rules by table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct RuleCounts {
    pub filter: usize,
    pub nat: usize,
}

impl RuleCounts {
    pub(super) fn add(&mut self, table: Table, rules: usize) {
        match table {
            Table::Nat => self.nat += rules,
            _ => self.filter += rules,
        }
    }

    pub(super) fn replace(&mut self, before: RuleCounts, after: RuleCounts) {
        self.filter = (self.filter + after.filter).saturating_sub(before.filter);
        self.nat = (self.nat + after.nat).saturating_sub(before.nat);
    }
}

/// The known ports after the commit.
#[derive(Debug)]
pub(super) enum Next {
    /// The changed ports; the others stay.
    Changed(Vec<(PortKey, Option<Arc<PortPlan>>)>),
    /// All ports.
    All(BTreeMap<PortKey, Arc<PortPlan>>),
}

/// The inputs of the rules except the ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Globals {
    pub(super) family: model::IpFamily,
    pub(super) node: Arc<NodeFacts>,
    pub(super) large: bool,
    pub(super) options: Options,
}

impl Globals {
    pub(super) fn context(&self) -> Context<'_> {
        Context {
            family: self.family,
            node: &self.node,
            options: &self.options,
            large: self.large,
        }
    }

    /// Whether the rules of a Service port are the same under both.
    pub(super) fn same_for_ports(&self, other: &Globals) -> bool {
        self.large == other.large
            && self.options == other.options
            && self.node.local == other.node.local
            && self.node.masquerade_all == other.node.masquerade_all
            && self.node.node_ip == other.node.node_ip
    }
}

/// Writes operations, counts them, and tracks the handles of the rules in shared chains.
pub(super) struct Writer<'a> {
    output: &'a mut dyn Output,
    known: &'a Handles,
    pub(super) handles: handles::Change,
    pub(super) operations: usize,
    pub(super) written: RuleCounts,
    pub(super) deleted_chains: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn new(output: &'a mut dyn Output, known: &'a Handles) -> Self {
        Self {
            output,
            known,
            handles: handles::Change::default(),
            operations: 0,
            written: RuleCounts::default(),
            deleted_chains: 0,
        }
    }

    pub(super) fn table(&mut self, table: Table) {
        self.operations += 1;
        self.output.table(table);
    }

    /// Create or flush the chain.
    pub(super) fn declare(&mut self, table: Table, chain: Chain, before: Before) {
        self.operations += 1;
        if before == Before::Present && names::is_dispatch(table, chain) {
            self.handles.flush(table, chain);
        }
        self.output.chain(table, chain, before);
    }

    pub(super) fn append(&mut self, table: Table, chain: Chain, rule: &Rule) {
        let tracked = self.track(table, chain, rule);
        self.output.append(table, chain, rule, tracked);
    }

    pub(super) fn insert(&mut self, table: Table, chain: Chain, rule: &Rule) {
        let tracked = self.track(table, chain, rule);
        self.output.insert(table, chain, rule, tracked);
    }

    fn track(&mut self, table: Table, chain: Chain, rule: &Rule) -> bool {
        self.operations += 1;
        self.written.add(table, 1);
        let tracked = names::is_dispatch(table, chain);
        if tracked {
            self.handles.add(table, chain, rule);
        }
        tracked
    }

    /// Write a chain with all its rules.
    pub(super) fn chain(&mut self, table: Table, chain: Chain, rules: &[Rule], before: Before) {
        self.declare(table, chain, before);
        for rule in rules {
            self.append(table, chain, rule);
        }
    }

    /// Delete a rule of a shared chain.
    pub(super) fn delete(&mut self, table: Table, chain: Chain, rule: &Rule) {
        let handle = self.handles.delete(self.known, table, chain, rule);
        self.delete_by_handle(table, chain, rule, handle);
    }

    /// Delete a rule whose handle was observed.
    pub(super) fn delete_by_handle(
        &mut self,
        table: Table,
        chain: Chain,
        rule: &Rule,
        handle: Option<u64>,
    ) {
        self.operations += 1;
        self.output.delete(table, chain, rule, handle);
    }

    /// Flush and delete these chains.
    pub(super) fn delete_chains(&mut self, table: Table, chains: &[Chain]) {
        for chain in chains {
            self.declare(table, *chain, Before::Present);
        }
        for chain in chains {
            self.delete_empty(table, *chain);
        }
    }

    /// Delete a chain without rules.
    pub(super) fn delete_empty(&mut self, table: Table, chain: Chain) {
        self.operations += 1;
        self.output.delete_chain(table, chain);
        self.deleted_chains += 1;
    }

    /// Mark a point at which everything so far can be committed on its own.
    pub(super) fn divide(&mut self) {
        self.output.divide();
    }

    /// Whether single rules should be changed instead of writing the whole chain.
    pub(super) fn changes_single_rules(&self, changes: usize, rules: usize) -> bool {
        changes <= self.output.most_single_rules(rules)
    }
}

/// A port's rules except those in endpoint chains.
#[derive(Default)]
struct Lowered {
    chains: Vec<(Chain, Vec<Rule>)>,
    dispatch: Vec<(Table, Chain, Rule)>,
    counts: RuleCounts,
}

impl Lowered {
    fn of(port: &mut Port<'_>, context: &Context<'_>, endpoints: usize) -> Self {
        let mut lowered = Self::default();
        // Each endpoint chain has two rules.
        lowered.counts.nat = 2 * endpoints;
        port.service_chains(context, &mut |chain, rules| {
            lowered.counts.nat += rules.len();
            lowered.chains.push((chain, rules.to_vec()));
        });
        port.dispatch(context, |table, chain, rule| {
            lowered.counts.add(table, 1);
            lowered.dispatch.push((table, chain, rule));
        });
        lowered
    }
}

/// One side of a change.
#[derive(Clone, Copy)]
pub(super) struct Side<'a> {
    pub(super) plan: &'a PortPlan,
    pub(super) context: Context<'a>,
}

/// Write the change of a Service port's rules from one side to the other. Return the number of rules
/// before and after.
///
/// # Errors
/// The new side has no valid rules; nothing was written.
pub(super) fn write_change(
    writer: &mut Writer<'_>,
    before: Option<Side<'_>>,
    after: Option<Side<'_>>,
) -> Result<(RuleCounts, RuleCounts), Problem> {
    let mut new_port = after.map(|side| Port::new(side.plan)).transpose()?;
    // It has been written before, so its rules are valid.
    let mut old_port = before.and_then(|side| Port::new(side.plan).ok());
    let endpoints = |side: Option<Side<'_>>| side.map_or_else(Vec::new, |s| s.plan.reachable());
    let (old_endpoints, new_endpoints) = (endpoints(before), endpoints(after));
    let lowered = |port: &mut Option<Port<'_>>, side: Option<Side<'_>>, endpoints: usize| match (
        port, side,
    ) {
        (Some(port), Some(side)) => Lowered::of(port, &side.context, endpoints),
        _ => Lowered::default(),
    };
    let old = lowered(&mut old_port, before, old_endpoints.len());
    let new = lowered(&mut new_port, after, new_endpoints.len());

    if let (Some(port), Some(side)) = (&mut new_port, after) {
        let added = without(&new_endpoints, &old_endpoints);
        port.endpoint_chains(&side.context, &added, &mut |chain, rules| {
            writer.chain(Table::Nat, chain, rules, Before::Absent);
        });
        if before.is_some_and(|before| !same_endpoint_chains(before, side)) {
            let kept = without(&new_endpoints, &added);
            port.endpoint_chains(&side.context, &kept, &mut |chain, rules| {
                writer.chain(Table::Nat, chain, rules, Before::Present);
            });
        }
    }
    for (chain, rules) in &new.chains {
        let former = old.chains.iter().find(|(former, _)| former == chain);
        match former {
            Some((_, former)) if former == rules => {}
            Some(_) => writer.chain(Table::Nat, *chain, rules, Before::Present),
            None => writer.chain(Table::Nat, *chain, rules, Before::Absent),
        }
    }
    write_dispatch_change(writer, &old.dispatch, &new.dispatch);
    let stale = |(chain, _): &&(Chain, _)| !new.chains.iter().any(|(c, _)| c == chain);
    let mut stale: Vec<Chain> = old.chains.iter().filter(stale).map(|(c, _)| *c).collect();
    if let Some(port) = &mut old_port {
        let endpoints = without(&old_endpoints, &new_endpoints);
        stale.extend(endpoints.iter().map(|e| port.endpoint_chain(e)));
    }
    writer.delete_chains(Table::Nat, &stale);
    writer.divide();
    Ok((old.counts, new.counts))
}

/// Whether an endpoint of both sides has the same chain on both.
fn same_endpoint_chains(before: Side<'_>, after: Side<'_>) -> bool {
    before.context.large == after.context.large
        && before.plan.affinity.is_some() == after.plan.affinity.is_some()
}

/// The endpoints of `all` (sorted) whose address and port are not among `others` (sorted).
fn without(all: &[Endpoint], others: &[Endpoint]) -> Vec<Endpoint> {
    let others: std::collections::HashSet<_> = others.iter().map(|e| (e.ip, e.port)).collect();
    let gone = all.iter().filter(|e| !others.contains(&(e.ip, e.port)));
    gone.copied().collect()
}

fn write_dispatch_change(
    writer: &mut Writer<'_>,
    old: &[(Table, Chain, Rule)],
    new: &[(Table, Chain, Rule)],
) {
    // Most changes concern only endpoints.
    if old == new {
        return;
    }
    let mut kept = vec![false; old.len()];
    let mut added = Vec::new();
    for entry in new {
        let same = (0..old.len()).find(|i| !kept[*i] && old[*i] == *entry);
        match same {
            Some(i) => kept[i] = true,
            None => added.push(entry),
        }
    }
    for ((table, chain, rule), _) in old.iter().zip(kept).filter(|(_, kept)| !kept) {
        writer.delete(*table, *chain, rule);
    }
    // At the top: the jump to KUBE-NODEPORTS must stay last. In reverse, so that a port's rules have
    // the order of a full write.
    for (table, chain, rule) in added.into_iter().rev() {
        writer.insert(*table, *chain, rule);
    }
}

/// Write the change of the rules that belong to no Service port from one context to the other.
pub(super) fn write_fixed_change(
    writer: &mut Writer<'_>,
    before: &Context<'_>,
    after: &Context<'_>,
) {
    let old = super::lower::fixed_chains(before);
    for entry in super::lower::fixed_chains(after) {
        if !old.contains(&entry) {
            let (table, chain, rules) = entry;
            writer.chain(table, chain, &rules, Before::Present);
        }
    }
    let old = super::lower::services_tail(before);
    let new = super::lower::services_tail(after);
    if old != new {
        // Appended before the old ones are deleted, so that NodePorts always have their rule.
        for rule in &new {
            writer.append(Table::Nat, names::SERVICES, rule);
        }
        for rule in &old {
            writer.delete(Table::Nat, names::SERVICES, rule);
        }
    }
}
