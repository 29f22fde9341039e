//! The rules in force, as `iptables-save` lists them.

use std::collections::BTreeMap;

use super::{Chain, Counters, Family, Policy, Rule, Table};

/// All tables of a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSet {
    /// The family.
    pub family: Family,
    /// The tables that exist.
    pub tables: BTreeMap<Table, TableState>,
}

/// One table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableState {
    /// The chains, including the built-in ones.
    pub chains: BTreeMap<Chain, ChainState>,
}

/// One chain.
#[derive(Clone, Debug, Default)]
pub struct ChainState {
    /// The policy; `None` for a chain that is not built in.
    pub policy: Option<Policy>,
    /// Packets and bytes that reached the policy. Ignored in comparisons.
    pub counters: Counters,
    /// The rules, in order.
    pub rules: Vec<Rule>,
}

impl PartialEq for ChainState {
    fn eq(&self, other: &Self) -> bool {
        self.policy == other.policy && self.rules == other.rules
    }
}

impl Eq for ChainState {}

impl TableSet {
    /// No tables.
    pub fn new(family: Family) -> Self {
        Self {
            family,
            tables: BTreeMap::new(),
        }
    }

    /// Return a chain of a table, if both exist.
    pub fn chain(&self, table: Table, chain: Chain) -> Option<&ChainState> {
        self.tables.get(&table)?.chains.get(&chain)
    }
}

/// Add an item without room for more until there are several. Most chains have one or two rules, and
/// most rules one or two matches; [`Vec::push`] begins with room for four.
pub(crate) fn push_exact<T>(items: &mut Vec<T>, item: T) {
    if items.len() == items.capacity() {
        items.reserve_exact(items.len().max(1));
    }
    items.push(item);
}
