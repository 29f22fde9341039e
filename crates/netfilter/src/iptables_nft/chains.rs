//! The built-in chains of iptables-nft: hooks, priorities and types.

use crate::iptables::{Chain, Policy, Table};
use crate::nft::{self, BaseChain, ChainKind, Hook};

/// Return iptables' table of an nf_tables table's name, if it has the name of one.
pub fn table_of(name: &str) -> Option<Table> {
    name.parse().ok()
}

/// Return the base chain of a built-in chain; `None` if the chain is not built in.
pub fn base_chain(table: Table, chain: Chain, policy: Policy) -> Option<BaseChain> {
    if !table.is_built_in(chain) {
        return None;
    }
    let hook = match chain.as_str() {
        "PREROUTING" => Hook::Prerouting,
        "INPUT" => Hook::Input,
        "FORWARD" => Hook::Forward,
        "OUTPUT" => Hook::Output,
        _ => Hook::Postrouting,
    };
    // `enum nf_ip_hook_priorities`.
    let (kind, priority) = match (table, hook) {
        (Table::Raw, _) => (ChainKind::Filter, -300),
        (Table::Mangle, Hook::Output) => (ChainKind::Route, -150),
        (Table::Mangle, _) => (ChainKind::Filter, -150),
        (Table::Nat, Hook::Prerouting | Hook::Output) => (ChainKind::Nat, -100),
        (Table::Nat, _) => (ChainKind::Nat, 100),
        (Table::Filter, _) => (ChainKind::Filter, 0),
        (Table::Security, _) => (ChainKind::Filter, 150),
    };
    Some(BaseChain {
        kind,
        hook,
        priority,
        policy: match policy {
            Policy::Accept => nft::Policy::Accept,
            Policy::Drop => nft::Policy::Drop,
        },
    })
}
