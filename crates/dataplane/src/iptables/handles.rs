//! The handles of the rules in shared chains, by which single rules are deleted.

use std::collections::{BTreeSet, HashMap, HashSet};

use netfilter::iptables::{Chain, Rule, Table};
use sha2::{Digest as _, Sha256};

/// Identifies a rule's content.
type Content = [u8; 16];

fn content(rule: &Rule, text: &mut String) -> Content {
    text.clear();
    rule.write(text);
    let digest = Sha256::digest(text.as_bytes());
    let mut content = [0; 16];
    content.copy_from_slice(&digest[..16]);
    content
}

/// The handles of the rules in shared chains; empty for a back end without handles.
#[derive(Debug, Default)]
pub(super) struct Handles {
    /// Several rules of a chain with the same content are interchangeable.
    chains: HashMap<(Table, Chain), BTreeSet<(Content, u64)>>,
}

impl Handles {
    /// Record an observed rule.
    pub(super) fn observe(&mut self, table: Table, chain: Chain, rule: &Rule, handle: u64) {
        let content = content(rule, &mut String::with_capacity(192));
        let rules = self.chains.entry((table, chain)).or_default();
        rules.insert((content, handle));
    }

    /// Apply a committed change. `added` contains the handles of the added rules, in order.
    pub(super) fn commit(&mut self, change: &Change, added: &[u64]) {
        for place in &change.flushed {
            self.chains.remove(place);
        }
        for (place, entry) in &change.deleted {
            if let Some(rules) = self.chains.get_mut(place) {
                rules.remove(entry);
            }
        }
        for ((place, content), handle) in change.added.iter().zip(added) {
            let rules = self.chains.entry(*place).or_default();
            rules.insert((*content, *handle));
        }
    }
}

/// The effect of a transaction on the handles.
#[derive(Debug, Default)]
pub(super) struct Change {
    flushed: Vec<(Table, Chain)>,
    deleted: HashSet<((Table, Chain), (Content, u64))>,
    added: Vec<((Table, Chain), Content)>,
    /// A scratch buffer.
    text: String,
}

impl Change {
    pub(super) fn flush(&mut self, table: Table, chain: Chain) {
        self.flushed.push((table, chain));
    }

    pub(super) fn add(&mut self, table: Table, chain: Chain, rule: &Rule) {
        let content = content(rule, &mut self.text);
        self.added.push(((table, chain), content));
    }

    /// Take the handle of a rule with this content, if one is known.
    pub(super) fn delete(
        &mut self,
        known: &Handles,
        table: Table,
        chain: Chain,
        rule: &Rule,
    ) -> Option<u64> {
        let place = (table, chain);
        let rules = known.chains.get(&place)?;
        let content = content(rule, &mut self.text);
        let mut found = rules.range((content, 0)..=(content, u64::MAX));
        let entry = found.find(|entry| !self.deleted.contains(&(place, **entry)))?;
        self.deleted.insert((place, *entry));
        Some(entry.1)
    }
}
