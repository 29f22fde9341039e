//! The state of whole tables that dumps contain.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    SetIndex, Unsupported, base_chain, decode_rule_keeping, decode_rule_with, nft_family, table_of,
};
use crate::iptables::{
    Chain, ChainState, Counters, Family, Policy, Rule, Table, TableSet, TableState, push_exact,
};
use crate::nft::{self, Body, Decoded};

/// The rules of iptables-nft's tables as the kernel has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The family.
    pub family: Family,
    /// The names of the ipsets that rules refer to.
    pub sets: SetIndex,
    /// Whether extensions that are not modelled are kept by their name.
    pub keeps_unknown: bool,
    /// The tables by name.
    pub tables: BTreeMap<Table, BTreeMap<Chain, ReadChain>>,
    /// The tables with a chain whose name iptables cannot express.
    pub foreign: BTreeSet<Table>,
}

/// A chain as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadChain {
    /// The attachment of a base chain.
    pub base: Option<nft::BaseChain>,
    /// Those of a base chain's policy.
    pub counters: Counters,
    /// The rules, in order.
    pub rules: Vec<ReadRule>,
}

/// A rule as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRule {
    /// The handle, by which it can be replaced and deleted.
    pub handle: u64,
    /// The rule, or why it cannot be decoded.
    pub rule: Result<Rule, Unsupported>,
}

impl State {
    /// Return a state without tables.
    pub fn new(family: Family) -> Self {
        Self::with_sets(family, SetIndex::default())
    }

    /// Return a state without tables, whose rules may refer to these ipsets.
    pub fn with_sets(family: Family, sets: SetIndex) -> Self {
        State {
            family,
            sets,
            keeps_unknown: false,
            tables: BTreeMap::new(),
            foreign: BTreeSet::new(),
        }
    }

    /// Add an object of a dump. Add chains before rules. Objects of other families and of tables
    /// whose names are not iptables' are ignored.
    pub fn add(&mut self, decoded: Decoded) {
        if decoded.family != Some(nft_family(self.family)) {
            return;
        }
        match decoded.body {
            Body::Table(table) => {
                if let Some(table) = table_of(&table.name) {
                    self.tables.entry(table).or_default();
                }
            }
            Body::Chain {
                table,
                chain,
                counters,
            } => self.add_chain(&table, &chain, counters),
            Body::Rule {
                table,
                handle,
                rule,
            } => self.add_rule(&table, handle, rule),
            Body::TableDeleted(_)
            | Body::Set { .. }
            | Body::Elements { .. }
            | Body::Generation(_)
            | Body::Trace(_)
            | Body::Deleted { .. }
            | Body::Other(_) => {}
        }
    }

    fn add_chain(&mut self, table: &str, chain: &nft::Chain, counters: Option<(u64, u64)>) {
        let Some(table) = table_of(table) else {
            return;
        };
        match Chain::new(&chain.name) {
            Ok(name) => {
                let chains = self.tables.entry(table).or_default();
                let read = chains.entry(name).or_default();
                let (packets, bytes) = counters.unwrap_or_default();
                (read.base, read.counters) = (chain.base, Counters { packets, bytes });
            }
            Err(_) => {
                self.foreign.insert(table);
            }
        }
    }

    fn add_rule(
        &mut self,
        table: &str,
        handle: u64,
        rule: Result<nft::Rule, (String, crate::netlink::DecodeError)>,
    ) {
        let Some(table) = table_of(table) else {
            return;
        };
        let family = self.family;
        let decode = match self.keeps_unknown {
            true => decode_rule_keeping,
            false => decode_rule_with,
        };
        let (chain, rule) = match rule {
            Ok(rule) => (rule.chain, decode(&rule.exprs, family, &self.sets)),
            Err((chain, error)) => (chain, Err(Unsupported(error.to_string()))),
        };
        match Chain::new(&chain) {
            Ok(chain) => {
                let chains = self.tables.entry(table).or_default();
                let rules = &mut chains.entry(chain).or_default().rules;
                push_exact(rules, ReadRule { handle, rule });
            }
            Err(_) => {
                self.foreign.insert(table);
            }
        }
    }

    /// Remove a table and return it as `iptables-nft-save` lists it. Return `None` if that program refuses
    /// the table: because of a rule that it cannot express, of a base chain that is not built in or has
    /// another type, hook or priority than iptables' own, or of a chain's name.
    pub fn take(&mut self, table: Table) -> Option<TableState> {
        let chains = self.tables.remove(&table)?;
        if self.foreign.contains(&table) {
            return None;
        }
        let mut state = TableState::default();
        for (name, chain) in chains {
            let policy = chain.base.as_ref().map(policy);
            if policy.and_then(|policy| base_chain(table, name, policy)) != chain.base {
                return None;
            }
            let rules = chain.rules.into_iter().map(|read| read.rule);
            let chain = ChainState {
                policy,
                counters: chain.counters,
                rules: rules.collect::<Result<_, _>>().ok()?,
            };
            state.chains.insert(name, chain);
        }
        Some(state)
    }

    /// Return the rules as `iptables-nft-save` lists them, and the rules that cannot be decoded with
    /// their table and chain.
    pub fn table_set(&self) -> (TableSet, Vec<(Table, Chain, Unsupported)>) {
        let mut set = TableSet::new(self.family);
        let mut unsupported = Vec::new();
        for (table, chains) in &self.tables {
            let state = set.tables.entry(*table).or_default();
            for (name, chain) in chains {
                let policy = chain.base.as_ref().map(policy);
                let policy = policy.filter(|policy| base_chain(*table, *name, *policy).is_some());
                let mut listed = ChainState {
                    policy,
                    counters: chain.counters,
                    rules: Vec::with_capacity(chain.rules.len()),
                };
                for read in &chain.rules {
                    match &read.rule {
                        Ok(rule) => listed.rules.push(rule.clone()),
                        Err(error) => unsupported.push((*table, *name, error.clone())),
                    }
                }
                state.chains.insert(*name, listed);
            }
        }
        (set, unsupported)
    }
}

fn policy(base: &nft::BaseChain) -> Policy {
    match base.policy {
        nft::Policy::Accept => Policy::Accept,
        nft::Policy::Drop => Policy::Drop,
    }
}
