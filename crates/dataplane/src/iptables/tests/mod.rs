//! Tests of the iptables mode.

mod cleanup;
mod golden;
mod mode;
mod observed;
mod properties;
mod sync;

use std::collections::{BTreeMap, BTreeSet};

use model::IpFamily;
use netfilter::iptables::{Chain, Flush, Restore, Rule, Table, TableSet};

use super::lower::rule_family;
use super::*;

/// The tables that every host has, with a rule and a chain of another program.
fn foreign(family: IpFamily) -> TableSet {
    let save = "*filter\n:INPUT DROP [0:0]\n:OTHER - [0:0]\n-A INPUT -m comment --comment \"ours: x\" -j OTHER\n\
        -A OTHER -j ACCEPT\nCOMMIT\n*nat\n:OTHER - [0:0]\n-A POSTROUTING -j OTHER\nCOMMIT\n";
    TableSet::parse(rule_family(family), save).unwrap()
}

/// Write a transaction, and return its text.
fn write(
    mode: &mut Mode,
    plan: &plan::Plan,
    excluded: &BTreeSet<plan::PortKey>,
) -> (Transaction, String) {
    let mut text = RestoreText::default();
    let transaction = mode.transaction(plan, excluded, &mut text).unwrap();
    let text = text.finish();
    assert_eq!(transaction.is_empty(), text.is_empty());
    (transaction, text)
}

/// Apply a transaction's text.
fn run(tables: &mut TableSet, text: &str) {
    let restore = match Restore::parse(tables.family, text) {
        Ok(restore) => restore,
        Err(error) => panic!("{error}\n{text}"),
    };
    if let Err(error) = tables.apply(restore, Flush::Nothing) {
        panic!("{error}\n{text}");
    }
}

fn observe(family: IpFamily, tables: &TableSet) -> Observation {
    Observation::read(family, &tables.to_string()).unwrap()
}

/// The rules of every chain, with those of the shared chains sorted up to the tail.
type Comparable = BTreeMap<(Table, Chain), Vec<String>>;

fn comparable(tables: &TableSet) -> Comparable {
    let mut all = BTreeMap::new();
    for (table, state) in &tables.tables {
        for (chain, state) in &state.chains {
            let rules: Vec<String> = state.rules.iter().map(ToString::to_string).collect();
            all.insert((*table, *chain), normal(*table, *chain, rules));
        }
    }
    all
}

fn normal(table: Table, chain: Chain, mut rules: Vec<String>) -> Vec<String> {
    if names::is_dispatch(table, chain) {
        let is_tail = |rule: &String| rule.ends_with("-j KUBE-NODEPORTS");
        let tail = rules.iter().rev().take_while(|r| is_tail(r)).count();
        let sorted = rules.len() - tail;
        rules[..sorted].sort_unstable();
    }
    rules
}
