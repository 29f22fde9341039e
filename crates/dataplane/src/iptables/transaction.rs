//! The input of one `iptables-restore`, and its writer.

use std::collections::BTreeMap;
use std::sync::Arc;

use netfilter::iptables::{Chain, Rule, Table};
use plan::{Endpoint, NodeFacts, PortKey, PortPlan};

use super::lower::{Context, Port};
use super::names::{self, TABLES};
use super::{Options, Problem};
use crate::Found;

/// One input for `iptables-restore --noflush` (or `ip6tables-restore`).
///
/// Each table takes effect as a whole or not at all. Contains only the changes.
#[derive(Debug)]
pub struct Transaction {
    /// The input; empty if nothing changes.
    pub text: String,
    /// The number of rules that it writes.
    pub written: RuleCounts,
    /// The number of rules after the commit, without those in built-in chains.
    pub total: RuleCounts,
    /// The number of chains that it deletes.
    pub deleted_chains: usize,
    /// The observed state, if the transaction starts from an observation.
    pub found: Option<Found>,
    pub(super) next: Next,
    pub(super) globals: Globals,
}

impl Transaction {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
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

/// Collects commands by table.
///
/// Chains are declared first, sorted by name: with 1,000 Services iptables-nft then needs a quarter
/// of the time.
#[derive(Default)]
pub(super) struct Writer {
    sections: [Section; TABLES.len()],
    pub(super) written: RuleCounts,
    pub(super) deleted_chains: usize,
}

#[derive(Default)]
struct Section {
    declared: Vec<Chain>,
    commands: String,
}

impl Writer {
    fn section(&mut self, table: Table) -> &mut Section {
        let at = TABLES.iter().position(|t| *t == table).unwrap_or(0);
        &mut self.sections[at]
    }

    /// Create or flush the chain before any other command of the table.
    pub(super) fn declare(&mut self, table: Table, chain: Chain) {
        self.section(table).declared.push(chain);
    }

    pub(super) fn append(&mut self, table: Table, chain: Chain, rule: &Rule) {
        rule.write_append(&mut self.section(table).commands, chain);
        self.written.add(table, 1);
    }

    /// Write a chain with all its rules.
    pub(super) fn chain(&mut self, table: Table, chain: Chain, rules: &[Rule]) {
        self.declare(table, chain);
        for rule in rules {
            self.append(table, chain, rule);
        }
    }

    /// Write `-A`, `-I` or `-D` with a rule's words, which start with a space.
    pub(super) fn command(&mut self, option: &str, table: Table, chain: Chain, words: &str) {
        let section = &mut self.section(table).commands;
        section.push_str(option);
        section.push(' ');
        section.push_str(chain.as_str());
        section.push_str(words);
        section.push('\n');
        if option != "-D" {
            self.written.add(table, 1);
        }
    }

    pub(super) fn rule_command(&mut self, option: &str, table: Table, chain: Chain, rule: &Rule) {
        let mut words = String::new();
        rule.write(&mut words);
        self.command(option, table, chain, &words);
    }

    /// Flush and delete these chains.
    pub(super) fn delete(&mut self, table: Table, chains: &[Chain]) {
        for chain in chains {
            self.declare(table, *chain);
        }
        for chain in chains {
            self.delete_empty(table, *chain);
        }
    }

    /// Delete a chain that was declared before.
    pub(super) fn delete_empty(&mut self, table: Table, chain: Chain) {
        let section = &mut self.section(table).commands;
        section.push_str("-X ");
        section.push_str(chain.as_str());
        section.push('\n');
        self.deleted_chains += 1;
    }

    /// Return the whole input. The largest part, which can have 30 MB, is moved instead of copied.
    pub(super) fn finish(self) -> String {
        let mut text = String::new();
        for (table, mut section) in TABLES.into_iter().zip(self.sections) {
            if section.declared.is_empty() && section.commands.is_empty() {
                continue;
            }
            text.push('*');
            text.push_str(table.name());
            text.push('\n');
            section.declared.sort_unstable();
            section.declared.dedup();
            for chain in &section.declared {
                text.push(':');
                text.push_str(chain.as_str());
                text.push_str(" - [0:0]\n");
            }
            section.commands.push_str("COMMIT\n");
            if text.len() < section.commands.len() {
                section.commands.insert_str(0, &text);
                text = section.commands;
            } else {
                text.push_str(&section.commands);
            }
        }
        text
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
    writer: &mut Writer,
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
        let fresh = match before {
            Some(before) if same_endpoint_chains(before, side) => {
                without(&new_endpoints, &old_endpoints)
            }
            _ => new_endpoints.clone(),
        };
        port.endpoint_chains(&side.context, &fresh, &mut |chain, rules| {
            writer.chain(Table::Nat, chain, rules);
        });
    }
    for (chain, rules) in &new.chains {
        let same = old.chains.iter().any(|(c, r)| c == chain && r == rules);
        if !same {
            writer.chain(Table::Nat, *chain, rules);
        }
    }
    write_dispatch_change(writer, &old.dispatch, &new.dispatch);
    let stale = |(chain, _): &&(Chain, _)| !new.chains.iter().any(|(c, _)| c == chain);
    let mut stale: Vec<Chain> = old.chains.iter().filter(stale).map(|(c, _)| *c).collect();
    if let Some(port) = &mut old_port {
        let endpoints = without(&old_endpoints, &new_endpoints);
        stale.extend(endpoints.iter().map(|e| port.endpoint_chain(e)));
    }
    writer.delete(Table::Nat, &stale);
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
    writer: &mut Writer,
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
        writer.rule_command("-D", *table, *chain, rule);
    }
    // At the top: the jump to KUBE-NODEPORTS must stay last. In reverse, so that a port's rules have
    // the order of a full write.
    for (table, chain, rule) in added.into_iter().rev() {
        writer.rule_command("-I", *table, *chain, rule);
    }
}

/// Write the change of the rules that belong to no Service port from one context to the other.
pub(super) fn write_fixed_change(writer: &mut Writer, before: &Context<'_>, after: &Context<'_>) {
    let old = super::lower::fixed_chains(before);
    for entry in super::lower::fixed_chains(after) {
        if !old.contains(&entry) {
            let (table, chain, rules) = entry;
            writer.chain(table, chain, &rules);
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
            writer.rule_command("-D", Table::Nat, names::SERVICES, rule);
        }
    }
}
