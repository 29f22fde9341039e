//! Chains with their rules, and the operations that turn some into others.

use std::collections::BTreeMap;

use netfilter::nft::table::ChainContents;
use netfilter::nft::{Chain, Op, Rule};

/// Chains with their rules.
pub(crate) type Chains = BTreeMap<String, ChainContents>;

/// Return the operations that turn chains into others: those that must precede added elements, and
/// the deletions that must follow removed ones.
pub(crate) fn remake(before: &Chains, after: &Chains) -> (Vec<Op>, Vec<Op>) {
    let (mut chains, mut rules, mut removed) = (Vec::new(), Vec::new(), Vec::new());
    for (name, is) in after {
        match before.get(name) {
            Some(was) if was.rules == is.rules => continue,
            Some(_) => rules.push(Op::FlushChain(name.clone())),
            None => chains.push(Op::AddChain(is.chain.clone())),
        }
        rules.extend(is.rules.iter().cloned().map(Op::AddRule));
    }
    let names = || {
        before
            .keys()
            .filter(|name| !after.contains_key(*name))
            .cloned()
    };
    // A deleted chain can lead to another: first all rules, then all chains.
    removed.extend(names().map(Op::FlushChain));
    removed.extend(names().map(Op::DeleteChain));
    // Rules follow all chains, since they may lead to any.
    chains.extend(rules);
    (chains, removed)
}

/// Return chains with those of the rules that belong to them.
pub(crate) fn with_rules(chains: Vec<Chain>, rules: Vec<Rule>) -> Chains {
    let empty = |chain: Chain| {
        let rules = Vec::new();
        (chain.name.clone(), ChainContents { chain, rules })
    };
    let mut chains: Chains = chains.into_iter().map(empty).collect();
    for rule in rules {
        if let Some(chain) = chains.get_mut(&rule.chain) {
            chain.rules.push(rule);
        }
    }
    chains
}
