//! Where a transaction is written: the commands of `iptables-restore`, or nf_tables messages.

use netfilter::iptables::{Chain, Rule, Table};

use super::names::TABLES;

/// Receives the operations of a transaction, in an order in which each is valid after the ones
/// before it.
pub trait Output {
    /// Create a table.
    fn table(&mut self, table: Table);

    /// Create a chain, or remove the rules of an existing one. A built-in chain is only created.
    fn chain(&mut self, table: Table, chain: Chain, before: Before);

    /// Add a rule at the end of its chain. If `tracked`, the commit returns its handle.
    fn append(&mut self, table: Table, chain: Chain, rule: &Rule, tracked: bool);

    /// Add a rule at the start of its chain. If `tracked`, the commit returns its handle.
    fn insert(&mut self, table: Table, chain: Chain, rule: &Rule, tracked: bool);

    /// Delete one rule, identified by its handle where the kernel has handles.
    fn delete(&mut self, table: Table, chain: Chain, rule: &Rule, handle: Option<u64>);

    /// Delete a chain without rules.
    fn delete_chain(&mut self, table: Table, chain: Chain);

    /// Called where everything so far can be committed on its own, which bounds the size of a
    /// commit.
    fn divide(&mut self) {}

    /// The largest number of single-rule changes of a chain with `rules` rules that costs less than to
    /// write all of them.
    fn most_single_rules(&self, rules: usize) -> usize;
}

/// A chain before the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// It does not exist.
    Absent,
    /// It exists, and may have rules.
    Present,
}

/// Beyond this number `iptables-restore` replaces a chain faster than it finds single rules.
const SINGLE_RULES: usize = 64;

/// The input of `iptables-restore --noflush` (or `ip6tables-restore`). Each table takes effect as a
/// whole or not at all.
///
/// Chains are declared first, sorted by name: with 1,000 Services `iptables-nft-restore` then needs
/// a quarter of the time.
#[derive(Debug, Default)]
pub struct RestoreText {
    sections: [Section; TABLES.len()],
}

#[derive(Debug, Default)]
struct Section {
    declared: Vec<Chain>,
    commands: String,
}

impl RestoreText {
    fn section(&mut self, table: Table) -> &mut Section {
        let at = TABLES.iter().position(|t| *t == table).unwrap_or(0);
        &mut self.sections[at]
    }

    fn command(&mut self, option: &str, table: Table, chain: Chain, rule: Option<&Rule>) {
        let commands = &mut self.section(table).commands;
        commands.push_str(option);
        commands.push(' ');
        commands.push_str(chain.as_str());
        if let Some(rule) = rule {
            rule.write(commands);
        }
        commands.push('\n');
    }

    /// Return the whole input; empty if nothing changes. The largest part, which can have 30 MB, is
    /// moved instead of copied.
    pub fn finish(self) -> String {
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

impl Output for RestoreText {
    /// The program creates tables.
    fn table(&mut self, _: Table) {}

    fn chain(&mut self, table: Table, chain: Chain, _: Before) {
        if !table.is_built_in(chain) {
            self.section(table).declared.push(chain);
        }
    }

    fn append(&mut self, table: Table, chain: Chain, rule: &Rule, _: bool) {
        rule.write_append(&mut self.section(table).commands, chain);
    }

    fn insert(&mut self, table: Table, chain: Chain, rule: &Rule, _: bool) {
        self.command("-I", table, chain, Some(rule));
    }

    fn delete(&mut self, table: Table, chain: Chain, rule: &Rule, _: Option<u64>) {
        self.command("-D", table, chain, Some(rule));
    }

    fn delete_chain(&mut self, table: Table, chain: Chain) {
        self.command("-X", table, chain, None);
    }

    fn most_single_rules(&self, _: usize) -> usize {
        SINGLE_RULES
    }
}
