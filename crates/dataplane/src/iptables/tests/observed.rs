//! The recorded rules, parsed, and their options.

use netfilter::iptables::Match;
use plan::Planner;

use super::*;

pub(super) fn save(name: &str, family: IpFamily) -> TableSet {
    let text = ::observed::configuration(name).iptables_save("iptables", family);
    TableSet::parse(rule_family(family), &text).unwrap()
}

/// The rules as on a kernel without nfacct.
pub(super) fn without_nfacct(mut tables: TableSet) -> TableSet {
    let counts = |m: &Match| matches!(m, Match::Nfacct(_));
    for ((table, chain), state) in tables.tables.iter_mut().flat_map(|(table, state)| {
        let chains = state.chains.iter_mut();
        chains.map(move |(chain, state)| ((*table, *chain), state))
    }) {
        if table == Table::Nat && chain == names::NODE_PORTS {
            state.rules.retain(|rule| !rule.matches.iter().any(counts));
        }
        for rule in &mut state.rules {
            rule.matches.retain(|m| !counts(m));
        }
    }
    tables
}

pub(super) fn options(name: &str, nfacct: bool) -> Options {
    let contains = ::observed::configuration(name)
        .settings()
        .node_port_addresses
        .contains_ipv4_loopback();
    Options {
        localhost_node_ports: contains && name != "no-localhost",
        nfacct: Nfacct {
            invalid_dropped: nfacct,
            localhost_node_ports: nfacct,
        },
        ..Options::default()
    }
}

pub(super) fn planner(name: &str) -> Planner {
    ::observed::configuration(name).planner()
}
