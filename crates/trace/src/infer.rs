//! Addresses of a node whose facts are not known, inferred from its rules.

use std::net::IpAddr;

use netfilter::iptables::{Chain, Net, Table, TableSet, Target};
use netfilter::ipvs::Services;
use netfilter::nft_lang::{Item, Literal, Ruleset};

/// The sets in which kube-proxy's nftables mode and sluice keep the addresses that answer for
/// NodePorts.
const NODE_PORT_SETS: [&str; 2] = ["nodeport-ips", "node-port-ips"];

/// Return the addresses that the rules treat as the node's own: those that answer for NodePorts, and
/// those of IPVS virtual servers, which are on the node's dummy interface.
pub(crate) fn node_addresses<'a>(
    nft: &Ruleset,
    iptables: impl Iterator<Item = &'a TableSet>,
    ipvs: &Services,
) -> Vec<IpAddr> {
    let virtual_servers = ipvs.services.iter().filter_map(|s| s.id.ip());
    let node_ports = iptables.flat_map(of_node_ports);
    in_sets(nft)
        .chain(node_ports)
        .chain(virtual_servers)
        .collect()
}

fn in_sets(nft: &Ruleset) -> impl Iterator<Item = IpAddr> {
    let sets = nft.tables.iter().flat_map(|t| &t.sets);
    let sets = sets.filter(|s| NODE_PORT_SETS.contains(&&*s.name));
    let items = sets.flat_map(|s| &s.elements).flat_map(|e| &e.key);
    items.filter_map(|item| match item {
        Item::Value(Literal::Ip(ip)) => Some(*ip),
        _ => None,
    })
}

/// Return the destinations for which iptables mode calls KUBE-NODEPORTS, if they are single addresses.
fn of_node_ports(set: &TableSet) -> Vec<IpAddr> {
    let services = const { Chain::literal("KUBE-SERVICES") };
    let Some(chain) = set.chain(Table::Nat, services) else {
        return Vec::new();
    };
    let node_ports = const { Chain::literal("KUBE-NODEPORTS") };
    let leads = |target: &Option<Target>| matches!(target, Some(Target::Jump(to) | Target::Goto(to)) if *to == node_ports);
    let rules = chain.rules.iter().filter(|rule| leads(&rule.target));
    let destinations = rules.filter_map(|rule| rule.header.destination.as_ref());
    let single = destinations.filter(|d| !d.negated).filter_map(|d| {
        let whole = Net::host(d.value.addr());
        (d.value == whole).then_some(d.value.addr())
    });
    single.collect()
}
