//! Packets to Services, and to addresses that look like them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netfilter::iptables::{Header, Match, PortMatch, Rule, TableSet};
use plan::{Plan, PortPlan};

use crate::generate::Random;
use crate::net::Place;
use crate::six;
use crate::try_out::Bed;
use crate::wire::{Kind, Probe};

/// An address, or a port on the node's own address.
pub type Frontend = (Option<IpAddr>, u8, u16);

fn frontend(rule: &Rule) -> Option<Frontend> {
    let Header {
        destination,
        protocol,
        ..
    } = &rule.header;
    let to = |ports: &PortMatch| ports.destination.map(|p| p.value.first);
    let port = rule.matches.iter().find_map(|m| match m {
        Match::Tcp(tcp) => to(&tcp.ports),
        Match::Udp(ports) | Match::Sctp(ports) => to(ports),
        _ => None,
    })?;
    let ip = destination.as_ref().map(|d| d.value.addr());
    Some((ip, protocol.as_ref()?.value.0, port))
}

/// The frontends in kube-proxy's rules.
pub fn of_rules(set: &TableSet) -> BTreeSet<Frontend> {
    let chains = set.tables.values().flat_map(|t| t.chains.values());
    chains.flat_map(|c| &c.rules).filter_map(frontend).collect()
}

/// The frontends of a plan.
pub fn of_plan(plan: &Plan) -> BTreeSet<Frontend> {
    let of = |p: &PortPlan| {
        let proto = p.protocol.number();
        let all: Vec<Frontend> = p.frontends().map(|f| (f.ip, proto, f.port.get())).collect();
        all
    };
    plan.ports.values().flat_map(|p| of(p)).collect()
}

/// The clients. The last pods are endpoints, which may be sent to themselves.
const CLIENTS: [(Place, &str); 9] = [
    (Place::Pods, "10.244.1.50"),
    (Place::Pods, "10.244.1.11"),
    (Place::Pods, "10.244.1.14"),
    (Place::Node, "10.200.1.2"),
    (Place::Outside, "198.51.100.7"),
    (Place::Outside, "198.51.100.9"),
    (Place::Outside, "203.0.113.9"),
    (Place::Outside, "10.200.1.77"),
    (Place::Outside, "10.244.2.50"),
];

/// Packets from every client to every frontend, and to unused addresses.
pub fn ask(
    bed: &mut Bed,
    world: &trace::World,
    random: &mut Random,
    v6: bool,
    frontends: &BTreeSet<Frontend>,
    rules: &str,
) {
    let mut all: Vec<Frontend> = frontends.iter().copied().collect();
    let unused = six::ip(v6, "10.96.200.200");
    let known = all.iter().find_map(|f| f.0).unwrap_or(unused);
    let icmp = if v6 { 58 } else { 1 };
    all.extend([
        (Some(known), 6, 81),
        (Some(known), icmp, 0),
        (Some(unused), 6, 80),
        (Some(six::ip(v6, "10.244.2.99")), 17, 53),
        (None, 6, 22),
        (None, icmp, 0),
    ]);
    for (place, client) in CLIENTS {
        let mut probes = Vec::new();
        let first = bed.ids(u16::try_from(all.len()).unwrap());
        for ((ip, proto, dport), id) in all.iter().zip(first..) {
            let stray = random.below(12) == 0 && *proto != 17;
            probes.push(Probe {
                src: six::ip(v6, client),
                dst: ip.unwrap_or_else(|| six::ip(v6, "10.200.1.2")),
                proto: *proto,
                sport: id,
                dport: *dport,
                id,
                kind: if stray { Kind::Stray } else { Kind::Open },
            });
        }
        bed.check(world, place, &probes, rules);
    }
}
