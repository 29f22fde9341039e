//! Ranges of clients that the node treats differently from others: other programs' rules, policy
//! rules and routes name them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use model::Node;
use netfilter::ipset::{Part, Set};
use netfilter::iptables::{self, Match, SetDirection, TableSet};
use netfilter::nft_lang::{Field, Item, Literal, Op, SetDecl, SetRef, Statement, TableDecl, Term};
use trace::{Facts, Origin, RouteKind, World};

use super::owner;
use super::subject::Cluster;

/// How many clients of each family are walked.
const MOST: usize = 12;
/// How many other nodes have a pod among them.
const MOST_NODES: usize = 4;
/// A longer set is a list of blocked or accepted hosts, not of client ranges.
const MOST_ELEMENTS: usize = 16;

/// A client outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outside {
    pub(crate) ip: IpAddr,
    /// Whether a rule names its range, not only a route.
    pub(crate) is_by_rule: bool,
    /// The interface that leads to it, if its own network is not there: its packets may enter through
    /// another.
    pub(crate) detour: Option<String>,
}

/// The ranges, and a client outside for each.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// The ranges that rules name, the narrowest first.
    pub(crate) by_rules: Vec<IpNet>,
    /// Clients outside.
    pub(crate) outside: Vec<Outside>,
}

impl Sources {
    /// Find the ranges, and choose a client for each that is neither on this node nor one of its pods.
    pub(crate) fn of(cluster: &Cluster, facts: &Facts, world: &World) -> Self {
        let mut ranges: BTreeSet<IpNet> = BTreeSet::new();
        for set in world.all_iptables() {
            in_iptables(set, world, &mut ranges);
        }
        for table in &world.nft.tables {
            in_nft(table, &mut ranges);
        }
        let rules = facts.rules.iter().filter_map(|rule| rule.from);
        ranges.extend(rules.map(|net| net.trunc()));
        let mut by_rules: Vec<IpNet> = ranges.into_iter().filter(is_client_range).collect();
        by_rules.sort_by_key(|net| std::cmp::Reverse(net.prefix_len()));
        let mut by_routes: Vec<IpNet> = routed(cluster, facts).filter(is_client_range).collect();
        by_routes.sort_by_key(|net| std::cmp::Reverse(net.prefix_len()));
        let mut sources = Self::default();
        let around = Around::new(cluster, facts, world);
        for (nets, is_by_rule) in [(&by_rules, true), (&by_routes, false)] {
            for net in nets.iter().filter(|net| !around.is_of_services(net)) {
                sources.add(net, &by_rules, is_by_rule, &around);
            }
        }
        // The path to other nodes' pods may be broken.
        for (is_v4, node) in [true, false].into_iter().flat_map(|v4| around.others(v4)) {
            sources.add_pod(is_v4, node, &around);
        }
        sources.by_rules = by_rules;
        sources
    }

    /// Add a known pod of another node, unless there is one.
    fn add_pod(&mut self, is_v4: bool, node: &Node, around: &Around<'_>) {
        let is_of = |ip: IpAddr| {
            let other = around.cluster.other_node_of(ip);
            ip.is_ipv4() == is_v4 && other.is_some_and(|n| n.name == node.name)
        };
        if self.outside.iter().any(|o| is_of(o.ip)) {
            return;
        }
        let pod = around.known.iter().copied().find(|ip| is_of(*ip));
        self.outside.extend(pod.map(|ip| Outside {
            ip,
            is_by_rule: false,
            detour: None,
        }));
    }

    fn add(&mut self, net: &IpNet, narrower: &[IpNet], is_by_rule: bool, around: &Around<'_>) {
        let of_family = |o: &&Outside| o.ip.is_ipv4() == net.addr().is_ipv4();
        if self.outside.iter().filter(of_family).count() == MOST {
            return;
        }
        let is_outside = |ip| around.is_outside(ip);
        let Some(ip) = representative(net, narrower, &around.known, is_outside) else {
            return;
        };
        if self.outside.iter().any(|o| o.ip == ip) {
            return;
        }
        self.outside.push(Outside {
            ip,
            is_by_rule,
            detour: around.detour(ip),
        });
    }

    /// Return addresses of this node's pods, in ranges that rules name and that contain none of the
    /// `known` pods.
    pub(crate) fn pods(&self, cluster: &Cluster, known: &BTreeSet<IpAddr>) -> Vec<IpAddr> {
        let narrow = |net: &&IpNet| {
            let mut ranges = cluster.pod_ranges();
            ranges.any(|range| range.contains(*net) && range.prefix_len() < net.prefix_len())
        };
        let unknown = |net: &&IpNet| !known.iter().any(|ip| net.contains(ip));
        let nets = self.by_rules.iter().filter(narrow).filter(unknown);
        let pods = nets.filter_map(|net| {
            representative(net, &self.by_rules, &[], |ip| {
                !cluster.own_addresses.contains(&ip)
            })
        });
        pods.take(MOST).collect()
    }
}

/// What exists around the node.
struct Around<'a> {
    cluster: &'a Cluster,
    facts: &'a Facts,
    world: &'a World,
    /// Other nodes, and pods of other nodes.
    known: Vec<IpAddr>,
    cluster_ips: BTreeSet<IpAddr>,
}

impl<'a> Around<'a> {
    fn new(cluster: &'a Cluster, facts: &'a Facts, world: &'a World) -> Self {
        let ports = cluster.plans.iter().flat_map(|plan| plan.ports.values());
        Self {
            cluster,
            facts,
            world,
            known: known_hosts(cluster),
            cluster_ips: ports.map(|port| port.cluster_ip).collect(),
        }
    }

    /// Return some other Nodes.
    fn others(&self, is_v4: bool) -> impl Iterator<Item = (bool, &'a Node)> {
        let nodes = self.cluster.objects.nodes.iter();
        let others = nodes.filter(|n| *n.name != *self.cluster.node_name);
        others.take(MOST_NODES).map(move |n| (is_v4, &**n))
    }

    /// Whether a range looks like that of cluster IPs: it contains some, and no host that is known.
    fn is_of_services(&self, net: &IpNet) -> bool {
        let (first, last) = (net.network(), net.broadcast());
        let own = &self.cluster.own_addresses;
        let mut hosts = self.known.iter().chain(own).chain(&self.cluster.pods);
        self.cluster_ips.range(first..=last).next().is_some() && !hosts.any(|ip| net.contains(ip))
    }

    /// Whether a client with this address is neither on this node nor one of its pods.
    fn is_outside(&self, ip: IpAddr) -> bool {
        let (cluster, host) = (self.cluster, &self.world.host);
        let has_ranges = cluster.pod_ranges().next().is_some();
        let is_pod = cluster.pods.contains(&ip)
            || cluster.pod_ranges().any(|range| range.contains(&ip))
            || (!has_ranges && host.guess_origin(ip) == Origin::Pod);
        !is_pod && !host.is_local(ip) && !self.cluster_ips.contains(&ip)
    }

    /// Return the interface that leads to a client that is not a pod, if it has no address in the client's
    /// network: the client may then send through another router.
    fn detour(&self, ip: IpAddr) -> Option<String> {
        let towards = self.world.host.iface_towards(ip)?;
        let is_neighbour = |i: &trace::Interface| {
            i.name == towards && i.addresses.iter().any(|net| net.contains(&ip))
        };
        let mut nodes = self.cluster.objects.nodes.iter().flat_map(|n| &n.addresses);
        let is_apart = nodes.any(|a| a.ip == ip)
            || self.cluster.is_pod_anywhere(ip)
            || self.facts.interfaces.iter().any(is_neighbour);
        (!is_apart).then_some(towards)
    }
}

/// Whether clients can be in a range: not in those for special purposes (RFC 6890), nor in all.
fn is_client_range(net: &IpNet) -> bool {
    let ip = net.addr();
    let is_special = match ip {
        IpAddr::V4(v4) => v4.octets()[0] == 0 || v4.octets()[0] >= 224 || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_unicast_link_local(),
    };
    net.prefix_len() > 0 && !ip.is_loopback() && !is_special
}

/// Return addresses of hosts that exist: other nodes, and pods of other nodes.
fn known_hosts(cluster: &Cluster) -> Vec<IpAddr> {
    let nodes = cluster.objects.nodes.iter();
    let nodes = nodes.flat_map(|n| &n.addresses).map(|a| a.ip);
    let slices = cluster.objects.slices.iter();
    let endpoints = slices.flat_map(|s| &s.endpoints).map(|e| e.address);
    let all = nodes.chain(endpoints);
    all.filter(|ip| !cluster.own_addresses.contains(ip))
        .collect()
}

/// Choose an address of a range that is in no narrower range: one of the known hosts, else the first or
/// the last that is possible.
fn representative(
    net: &IpNet,
    narrower: &[IpNet],
    known: &[IpAddr],
    is_possible: impl Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    let within: Vec<&IpNet> = narrower
        .iter()
        .filter(|n| net.contains(*n) && n.prefix_len() > net.prefix_len())
        .collect();
    let is_free = |ip: &IpAddr| !within.iter().any(|n| n.contains(ip)) && is_possible(*ip);
    let is_whole = net.prefix_len() == net.max_prefix_len();
    let ends = if is_whole {
        vec![net.addr()]
    } else {
        let after = within.iter().filter_map(|n| step(n.broadcast(), 1));
        let first = step(net.network(), 1).into_iter();
        let last = step(net.broadcast(), -1).into_iter();
        first.chain(after).chain(last).collect()
    };
    let known = known.iter().copied().filter(|ip| net.contains(ip));
    let ends = ends.into_iter().filter(|ip| net.contains(ip));
    known.chain(ends).find(is_free)
}

/// Return an address at a distance.
fn step(ip: IpAddr, by: i8) -> Option<IpAddr> {
    Some(match ip {
        IpAddr::V4(v4) => {
            let bits = v4.to_bits().checked_add_signed(by.into())?;
            Ipv4Addr::from_bits(bits).into()
        }
        IpAddr::V6(v6) => {
            let bits = v6.to_bits().checked_add_signed(by.into())?;
            Ipv6Addr::from_bits(bits).into()
        }
    })
}

/// Return the ranges of routes, except those of this node's pods and of unused addresses among them
/// (Calico's `blackhole` routes).
fn routed<'a>(cluster: &'a Cluster, facts: &'a Facts) -> impl Iterator<Item = IpNet> + 'a {
    let decides = |kind: RouteKind| {
        matches!(
            kind,
            RouteKind::Unicast
                | RouteKind::Blackhole
                | RouteKind::Unreachable
                | RouteKind::Prohibit
        )
    };
    let routes = facts.routes.iter().filter(move |r| decides(r.kind));
    routes.filter_map(move |route| {
        let net = route.range()?;
        let has_pods = || cluster.pods.iter().any(|ip| net.contains(ip));
        let is_pods = cluster.pod_ranges().any(|range| range.contains(&net));
        let is_refused = route.kind != RouteKind::Unicast;
        let is_unfit = is_pods || is_refused && has_pods();
        (!is_unfit).then_some(net)
    })
}

fn in_iptables(set: &TableSet, world: &World, found: &mut BTreeSet<IpNet>) {
    for state in set.tables.values() {
        for (chain, state) in &state.chains {
            if owner::is_service_chain(chain.as_str()) || owner::blocks_hosts(chain.as_str()) {
                continue;
            }
            for rule in &state.rules {
                of_rule(rule, world, found);
            }
        }
    }
}

fn of_rule(rule: &iptables::Rule, world: &World, found: &mut BTreeSet<IpNet>) {
    let source = rule.header.source.as_ref();
    found.extend(source.and_then(|s| range(s.value)));
    for condition in &rule.matches {
        match condition {
            Match::IpRange(range) => {
                let (first, last) = match &range.source {
                    Some(source) => source.value,
                    None => continue,
                };
                found.insert(first.into());
                found.insert(last.into());
            }
            Match::Set(set) if set.directions.first() == Some(&SetDirection::Source) => {
                let set = world.ipsets.get(&set.name.value);
                found.extend(set.into_iter().flat_map(of_ipset));
            }
            _ => {}
        }
    }
}

/// Return a range as a prefix; `None` if its mask is not one of a prefix.
fn range(net: iptables::Net) -> Option<IpNet> {
    IpNet::with_netmask(net.addr(), net.mask()).ok()
}

fn of_ipset(set: &Set) -> Vec<IpNet> {
    if set.elements.len() > MOST_ELEMENTS {
        return Vec::new();
    }
    let first = set.elements.iter().filter_map(|e| e.parts.first());
    let nets = first.filter_map(|part| match part {
        Part::Ip(ip) => Some(IpNet::from(*ip)),
        Part::Net(net) => Some(net.trunc()),
        Part::IpRange(first, _) => Some(IpNet::from(*first)),
        _ => None,
    });
    nets.collect()
}

fn in_nft(table: &TableDecl, found: &mut BTreeSet<IpNet>) {
    if owner::is_service_table(&table.name) {
        return;
    }
    let rules = table
        .chains
        .iter()
        .filter(|chain| !owner::is_service_chain(&chain.name) && !owner::blocks_hosts(&chain.name));
    for statement in rules.flat_map(|c| &c.rules).flat_map(|r| &r.statements) {
        match statement {
            Statement::Match { left, op, right }
                if is_source(left) && matches!(op, Op::Implicit | Op::Eq | Op::Ne) =>
            {
                of_term(table, right, found);
            }
            Statement::Vmap { key, map } if is_source(key) => of_set_ref(table, map, found),
            _ => {}
        }
    }
}

/// Whether a term is the source address, or a concatenation that begins with it.
fn is_source(term: &Term) -> bool {
    match term {
        Term::Field(field) => matches!(field, Field::Saddr4 | Field::Saddr6),
        Term::Concat(parts) => parts.first().is_some_and(is_source),
        _ => false,
    }
}

fn of_term(table: &TableDecl, term: &Term, found: &mut BTreeSet<IpNet>) {
    match term {
        Term::Value(Literal::Ip(ip)) | Term::Range(Literal::Ip(ip), _) => {
            found.insert((*ip).into());
        }
        Term::Prefix(net) => {
            found.insert(net.trunc());
        }
        Term::Set(set) => of_set(set, found),
        Term::SetName(name) => {
            if let Some(set) = table.set(name) {
                of_set(set, found);
            }
        }
        _ => {}
    }
}

fn of_set_ref(table: &TableDecl, map: &SetRef, found: &mut BTreeSet<IpNet>) {
    match map {
        SetRef::Anonymous(set) => of_set(set, found),
        SetRef::Name(name) => {
            if let Some(set) = table.set(name) {
                of_set(set, found);
            }
        }
    }
}

fn of_set(set: &SetDecl, found: &mut BTreeSet<IpNet>) {
    if set.elements.len() > MOST_ELEMENTS {
        return;
    }
    let keys = set.elements.iter().filter_map(|e| e.key.first());
    found.extend(keys.filter_map(|item| match item {
        Item::Value(Literal::Ip(ip)) | Item::Range(Literal::Ip(ip), _) => Some((*ip).into()),
        Item::Prefix(net) => Some(net.trunc()),
        _ => None,
    }));
}
