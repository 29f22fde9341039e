//! The input of one `iptables-restore`, and the writing of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use netfilter::iptables::{Chain, Rule, Table};
use plan::{Endpoint, NodeFacts, PortKey, PortPlan};

use super::lower::{Context, Port};
use super::names::{self, TABLES};
use super::{Options, Problem};

/// One input for `iptables-restore --noflush` (or `ip6tables-restore`).
///
/// Each table takes effect as a whole or not at all. It says only what changes.
#[derive(Debug)]
pub struct Transaction {
    /// The input; empty where nothing is to do.
    pub text: String,
    /// How many rules it writes.
    pub written: RuleCounts,
    /// How many rules there are in all once it is in force, without those in built-in chains.
    pub total: RuleCounts,
    /// How many chains it deletes.
    pub deleted_chains: usize,
    pub(super) next: Next,
    pub(super) globals: Globals,
}

impl Transaction {
    /// Nothing is to do.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }
}

/// Rules, by table.
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

/// What is in force once a transaction is.
#[derive(Debug)]
pub(super) enum Next {
    /// These ports have changed.
    Changed(Vec<(PortKey, Option<Arc<PortPlan>>)>),
    /// These ports are all there is.
    All(BTreeMap<PortKey, Arc<PortPlan>>),
}

/// What rules depend on beside the ports.
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
/// Chains are declared first, sorted by name: with 1,000 Services iptables-nft needs a quarter of
/// the time for them that it needs for chains in any order.
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

    /// Makes the chain, or empties it, before anything else happens in the table.
    pub(super) fn declare(&mut self, table: Table, chain: Chain) {
        self.section(table).declared.push(chain);
    }

    pub(super) fn append(&mut self, table: Table, chain: Chain, rule: &Rule) {
        rule.write_append(&mut self.section(table).commands, chain);
        self.written.add(table, 1);
    }

    /// A chain with all its rules.
    pub(super) fn chain(&mut self, table: Table, chain: Chain, rules: &[Rule]) {
        self.declare(table, chain);
        for rule in rules {
            self.append(table, chain, rule);
        }
    }

    /// `-A`, `-I` or `-D` with a rule's words, which start with a space.
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

    /// Empties these chains and deletes them.
    pub(super) fn delete(&mut self, table: Table, chains: &[Chain]) {
        for chain in chains {
            self.declare(table, *chain);
        }
        for chain in chains {
            self.delete_empty(table, *chain);
        }
    }

    /// Deletes a chain that was declared before.
    pub(super) fn delete_empty(&mut self, table: Table, chain: Chain) {
        let section = &mut self.section(table).commands;
        section.push_str("-X ");
        section.push_str(chain.as_str());
        section.push('\n');
        self.deleted_chains += 1;
    }

    /// The whole input. The largest part is moved rather than copied: it can have 30 MB.
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

/// A port's rules but those in chains of endpoints.
#[derive(Default)]
struct Lowered {
    chains: Vec<(Chain, Vec<Rule>)>,
    dispatch: Vec<(Table, Chain, Rule)>,
    counts: RuleCounts,
}

impl Lowered {
    fn of(port: &mut Port<'_>, context: &Context<'_>, endpoints: usize) -> Self {
        let mut lowered = Self::default();
        // Two rules in the chain of each endpoint.
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

/// Writes what turns a Service port's rules from one side into the other. Says how many rules
/// there were and are.
///
/// # Errors
/// The new side has no valid rules; nothing was written then.
pub(super) fn write_change(
    writer: &mut Writer,
    before: Option<Side<'_>>,
    after: Option<Side<'_>>,
) -> Result<(RuleCounts, RuleCounts), Problem> {
    let mut new_port = after.map(|side| Port::new(side.plan)).transpose()?;
    // It was written once, so it has valid rules.
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
    let gone = |(chain, _): &&(Chain, _)| !new.chains.iter().any(|(c, _)| c == chain);
    let mut stale: Vec<Chain> = old.chains.iter().filter(gone).map(|(c, _)| *c).collect();
    if let Some(port) = &mut old_port {
        let endpoints = without(&old_endpoints, &new_endpoints);
        stale.extend(endpoints.iter().map(|e| port.endpoint_chain(e)));
    }
    writer.delete(Table::Nat, &stale);
    Ok((old.counts, new.counts))
}

/// Whether the chain of an endpoint that both sides have is the same on both.
fn same_endpoint_chains(before: Side<'_>, after: Side<'_>) -> bool {
    before.context.large == after.context.large
        && before.plan.affinity.is_some() == after.plan.affinity.is_some()
}

/// Those of `all` (sorted) whose address and port are not among `others` (sorted).
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
    // Most changes are to endpoints.
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
    // At the top: the jump to KUBE-NODEPORTS must stay last. Backwards, so that a port's rules
    // stand in the order in which a full write puts them.
    for (table, chain, rule) in added.into_iter().rev() {
        writer.rule_command("-I", *table, *chain, rule);
    }
}

/// Writes what turns the rules that belong to no Service port from one context to the other.
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
        // Appended before the old ones go, so that NodePorts always have their rule.
        for rule in &new {
            writer.append(Table::Nat, names::SERVICES, rule);
        }
        for rule in &old {
            writer.rule_command("-D", Table::Nat, names::SERVICES, rule);
        }
    }
}
