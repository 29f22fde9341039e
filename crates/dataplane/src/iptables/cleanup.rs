//! Removal of every trace.

use netfilter::iptables::{Chain, Table, Target};

use super::Observation;
use super::handles::Handles;
use super::names::{self, TABLES};
use super::output::{Before, Output, RestoreText};
use super::transaction::Writer;

/// The input for `iptables-restore --noflush` that removes every chain of kube-proxy's (and thus
/// sluice's) iptables mode and every jump to one from a built-in chain. Empty if no such chain
/// exists.
///
/// Other programs' rules stay: a chain to which one of them jumps is flushed but not deleted, and
/// KUBE-FIREWALL belongs to kubelet if kubelet has chains on the node.
pub fn cleanup(observation: &Observation) -> String {
    let kubelet = observation.tables.values().any(|seen| seen.kubelet);
    remove(observation, |_, chain| {
        kubelet && chain == names::KUBELET_FIREWALL
    })
}

/// Like [`cleanup`], on a node where another mode is in force: the chains that it uses stay.
/// KUBE-FIREWALL stays too, as with kube-proxy: it protects the loopback addresses that iptables
/// mode has opened (`route_localnet`).
pub fn leftovers(observation: &Observation, in_use: impl Fn(Table, Chain) -> bool) -> String {
    remove(observation, |table, chain| {
        chain == names::KUBELET_FIREWALL || in_use(table, chain)
    })
}

/// Whether this mode has the chain for any set of Services.
pub fn is_fixed_chain(table: Table, chain: Chain) -> bool {
    names::fixed(table).contains(&chain)
}

/// Whether this mode may have the chain.
pub fn is_chain(table: Table, chain: Chain) -> bool {
    names::is_ours(table, chain)
}

fn remove(observation: &Observation, stays: impl Fn(Table, Chain) -> bool) -> String {
    let mut text = RestoreText::default();
    remove_into(observation, &mut text, stays);
    text.finish()
}

fn remove_into(
    observation: &Observation,
    output: &mut dyn Output,
    stays: impl Fn(Table, Chain) -> bool,
) {
    let handles = Handles::default();
    let mut writer = Writer::new(output, &handles);
    for table in TABLES {
        let Some(seen) = observation.tables.get(&table) else {
            continue;
        };
        let removed = |chain: Chain| !stays(table, chain);
        for jump in &seen.jumps {
            let to = jump.rule.target.as_ref().and_then(Target::chain);
            if to.is_some_and(removed) {
                writer.delete_by_handle(table, jump.from, &jump.rule, jump.handle);
            }
        }
        let ours = seen.chains.keys().copied();
        let mut chains: Vec<Chain> = ours.filter(|chain| removed(*chain)).collect();
        chains.sort_unstable();
        for chain in &chains {
            writer.declare(table, *chain, Before::Present);
        }
        for chain in chains {
            if !seen.referenced.contains(&chain) {
                writer.delete_empty(table, chain);
            }
        }
    }
}

impl Observation {
    /// Whether no chain of this mode exists.
    pub fn is_nothing(&self) -> bool {
        self.tables.values().all(|seen| seen.chains.is_empty())
    }

    /// Whether every table has its canary: if not, another program flushed the rules.
    pub fn has_canaries(&self) -> bool {
        [Table::Mangle, Table::Nat, Table::Filter]
            .iter()
            .all(|table| {
                let seen = self.tables.get(table);
                seen.is_some_and(|seen| seen.chains.contains_key(&names::CANARY))
            })
    }
}
