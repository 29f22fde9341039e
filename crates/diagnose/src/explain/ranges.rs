//! The clients that the rules admit to a load balancer's address.

use std::net::IpAddr;

use netfilter::iptables::{Chain, Table, TableSet, Target};
use netfilter::nft_lang::{Item, Literal};
use trace::World;

/// The set of source ranges in ipvs mode (`pkg/proxy/ipvs/ipset.go`).
const OF_IPVS: &str = "KUBE-LOAD-BALANCER-SOURCE-CIDR";

/// Return an address of each source range that the rules contain for a load balancer's address, in the
/// layouts of all modes.
pub(crate) fn admitted(world: &World, dst: IpAddr) -> impl Iterator<Item = IpAddr> {
    let mut all = in_sets(world, dst);
    for set in world.all_iptables() {
        all.extend(in_chains(set, dst));
    }
    if let Some(set) = world.ipsets.get(OF_IPVS) {
        let of_address = set.elements.iter().map(ToString::to_string);
        let of_address = of_address.filter(|e| e.starts_with(&format!("{dst},")));
        all.extend(of_address.filter_map(|e| {
            let range = e.rsplit(',').next()?.to_owned();
            let network = range.parse::<ipnet::IpNet>().map(|net| net.network());
            network.or_else(|_| range.parse()).ok()
        }));
    }
    all.into_iter()
}

/// Return the sources in the nftables set source-ranges.
fn in_sets(world: &World, dst: IpAddr) -> Vec<IpAddr> {
    let name = dataplane::nftables::SetId::SourceRanges.name();
    let sets = world.nft.tables.iter().filter_map(|t| t.set(name));
    let elements = sets.flat_map(|s| &s.elements);
    let of_address = elements
        .filter(|e| matches!(e.key.first(), Some(Item::Value(Literal::Ip(ip))) if *ip == dst));
    of_address
        .filter_map(|e| match e.key.last()? {
            Item::Value(Literal::Ip(ip)) | Item::Range(Literal::Ip(ip), _) => Some(*ip),
            Item::Prefix(net) => Some(net.network()),
            _ => None,
        })
        .collect()
}

/// Return the sources in the chain KUBE-FW-… of the address.
fn in_chains(set: &TableSet, dst: IpAddr) -> Vec<IpAddr> {
    let services = const { Chain::literal("KUBE-SERVICES") };
    let Some(chain) = set.chain(Table::Nat, services) else {
        return Vec::new();
    };
    let of_address = chain.rules.iter().filter(|rule| {
        let destination = rule.header.destination.as_ref();
        destination.is_some_and(|d| !d.negated && d.value.addr() == dst)
    });
    let targets = of_address.filter_map(|rule| match &rule.target {
        Some(Target::Jump(to) | Target::Goto(to)) if to.as_str().starts_with("KUBE-FW-") => {
            set.chain(Table::Nat, *to)
        }
        _ => None,
    });
    let rules = targets.flat_map(|chain| &chain.rules);
    // A rule without a source admits everybody, so that the usual client outside shows it.
    let sources = rules.filter_map(|rule| rule.header.source.as_ref());
    sources
        .filter(|s| !s.negated)
        .map(|s| s.value.addr())
        .collect()
}
