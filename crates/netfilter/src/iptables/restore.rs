//! The input of `iptables-restore`: commands on tables.

use super::{Chain, Counters, Family, Policy, Rule, Table};

/// The input of one `iptables-restore`. The output of `iptables-save` has the same form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restore {
    /// The family.
    pub family: Family,
    /// The sections from `*table` to `COMMIT`, in order. A table can occur more than once.
    pub tables: Vec<RestoreTable>,
}

/// The commands between `*table` and `COMMIT`. They take effect together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreTable {
    /// The table.
    pub table: Table,
    /// The commands, each with its line number (from 1); 0 if it was not parsed from text.
    pub commands: Vec<(u32, Command)>,
}

/// One line of a section.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Command {
    /// `:CHAIN POLICY [p:b]`. Creates the chain if it does not exist, and flushes it. A built-in
    /// chain gets the policy and, under `--noflush`, keeps its rules.
    Declare {
        chain: Chain,
        policy: Option<Policy>,
        counters: Option<Counters>,
    },
    /// `-A`.
    Append { chain: Chain, rule: Rule },
    /// `-I`, at this position, from 1.
    Insert {
        chain: Chain,
        position: u32,
        rule: Rule,
    },
    /// `-R`, at this position, from 1.
    Replace {
        chain: Chain,
        position: u32,
        rule: Rule,
    },
    /// `-D CHAIN RULE`: the first rule that is equal.
    Delete { chain: Chain, rule: Rule },
    /// `-D CHAIN POSITION`, from 1.
    DeleteAt { chain: Chain, position: u32 },
    /// `-N`.
    New { chain: Chain },
    /// `-F`; every chain if no chain is named.
    Flush { chain: Option<Chain> },
    /// `-X`; every empty chain without references if no chain is named.
    DeleteChain { chain: Option<Chain> },
    /// `-P`.
    SetPolicy { chain: Chain, policy: Policy },
}
