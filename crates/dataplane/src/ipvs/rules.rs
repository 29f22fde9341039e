//! The constant iptables chains, which depend mainly on which sets have elements.

use std::net::IpAddr;

use model::{IpFamily, Protocol};
use netfilter::iptables::{
    AddrType, AddrTypes, Chain, CtState, CtStates, Header, MarkMatch, MasqueradeTarget, Match,
    MatchAddrType, MatchConntrack, MatchIpvs, MatchPhysdev, MatchSet, Negatable, Net, RejectWith,
    Rule, SetDirection, Table, Target,
};
use plan::LocalDetector;

use super::names;
use super::sets::{COUNT, SetKind};
use crate::terms::{comment, local_traffic, loopback, simple};

/// The inputs of the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inputs {
    pub(super) family: IpFamily,
    pub(super) local: LocalDetector,
    pub(super) masquerade_all: bool,
    pub(super) mark: u32,
    pub(super) random_fully: bool,
    /// Which sets have elements: rules about empty sets are omitted.
    pub(super) filled: [bool; COUNT],
}

/// A chain with all its rules.
pub(super) type FullChain = (Table, Chain, Vec<Rule>);

impl Inputs {
    /// Return every chain of this mode except [`IPVS_OUT_FILTER`](names::IPVS_OUT_FILTER), whose rules
    /// [`node_access`] makes.
    pub(super) fn chains(&self) -> Vec<FullChain> {
        let nat = |chain, rules| (Table::Nat, chain, rules);
        let filter = |chain, rules| (Table::Filter, chain, rules);
        vec![
            nat(names::SERVICES, self.services()),
            nat(names::POSTROUTING, self.postrouting()),
            nat(names::NODE_PORT, self.node_port()),
            nat(names::LOAD_BALANCER, self.load_balancer()),
            nat(
                names::MARK_MASQ,
                vec![simple(Vec::new(), Target::or_mark(self.mark))],
            ),
            filter(names::FORWARD, self.forward()),
            filter(names::NODE_PORT, self.health_checks()),
            filter(names::PROXY_FIREWALL, self.firewall()),
            filter(names::SOURCE_RANGES, self.source_ranges()),
            filter(names::IPVS_FILTER, self.access()),
        ]
    }

    fn has(&self, kind: SetKind) -> bool {
        self.filled[kind.index()]
    }

    /// Return the membership of the packet in a set; addresses and ports are those of the destination except
    /// the last part of a triple.
    fn set(&self, kind: SetKind) -> Match {
        use SetDirection::{Destination, Source};
        let directions: &[SetDirection] = match kind.parts().len() {
            1 => &[Destination],
            2 => &[Destination, Destination],
            _ => &[Destination, Destination, Source],
        };
        self.set_by(kind, directions)
    }

    fn set_by(&self, kind: SetKind, directions: &[SetDirection]) -> Match {
        Match::Set(Box::new(MatchSet {
            name: Negatable::is(kind.name(self.family).into()),
            directions: directions.to_vec(),
            return_nomatch: false,
        }))
    }

    /// Return a rule with the set's comment.
    fn about(&self, kind: SetKind) -> Vec<Match> {
        vec![comment(kind.comment()), self.set(kind)]
    }

    /// Return a rule about a set, if it has elements.
    fn where_filled(&self, kind: SetKind, target: Target) -> Option<Rule> {
        self.has(kind).then(|| simple(self.about(kind), target))
    }

    fn services(&self) -> Vec<Rule> {
        let mut rules = vec![Rule {
            header: Header {
                source: Some(Negatable::is(loopback(self.family))),
                ..Header::default()
            },
            ..simple(Vec::new(), Target::Return)
        }];
        let portal = Target::Jump(names::LOAD_BALANCER);
        rules.extend(self.where_filled(SetKind::LoadBalancer, portal));
        rules.extend(self.cluster_ip_masquerade());
        if self.has(SetKind::ExternalIp) {
            let matches = self.about(SetKind::ExternalIp);
            rules.push(simple(matches, Target::Jump(names::MARK_MASQ)));
            rules.extend(self.external_only(SetKind::ExternalIp));
        }
        if self.has(SetKind::ExternalIpLocal) {
            rules.extend(self.external_only(SetKind::ExternalIpLocal));
        }
        rules.push(simple(
            vec![Match::Addrtype(MatchAddrType::DESTINATION_LOCAL)],
            Target::Jump(names::NODE_PORT),
        ));
        for kind in [SetKind::ClusterIp, SetKind::LoadBalancer] {
            if self.has(kind) {
                rules.push(simple(vec![self.set(kind)], Target::Accept));
            }
        }
        rules
    }

    fn cluster_ip_masquerade(&self) -> Option<Rule> {
        let kind = SetKind::ClusterIp;
        if !self.has(kind) {
            return None;
        }
        let target = Target::Jump(names::MARK_MASQ);
        let rule = simple(self.about(kind), target.clone());
        if self.masquerade_all {
            return Some(rule);
        }
        Some(match local_traffic(&self.local, true) {
            Some(header) => Rule { header, ..rule },
            // The node's own connections have the virtual address as their source, from the
            // device.
            None => simple(
                vec![
                    comment(kind.comment()),
                    self.set_by(kind, &[SetDirection::Source, SetDirection::Destination]),
                ],
                target,
            ),
        })
    }

    /// Packets to external addresses: from other hosts, and those to addresses that the node takes
    /// for its own.
    fn external_only(&self, kind: SetKind) -> [Rule; 2] {
        let mut outside = self.about(kind);
        outside.push(Match::Physdev(Box::new(MatchPhysdev {
            is_in: Some(false),
            ..MatchPhysdev::default()
        })));
        outside.push(Match::Addrtype(MatchAddrType {
            source: Some(Negatable::not(AddrTypes::of(AddrType::Local))),
            ..MatchAddrType::default()
        }));
        let mut own = self.about(kind);
        own.push(Match::Addrtype(MatchAddrType::DESTINATION_LOCAL));
        [simple(outside, Target::Accept), simple(own, Target::Accept)]
    }

    fn masked(&self) -> MarkMatch {
        MarkMatch {
            value: self.mark,
            mask: self.mark,
        }
    }

    fn postrouting(&self) -> Vec<Rule> {
        let hairpin = Target::Masquerade(MasqueradeTarget::default());
        let mut rules: Vec<Rule> = self
            .where_filled(SetKind::LoopBack, hairpin)
            .into_iter()
            .collect();
        rules.push(simple(
            vec![Match::Mark(Negatable::not(self.masked()))],
            Target::Return,
        ));
        // Cleared, so that a packet that traverses the stack twice is masqueraded once.
        rules.push(simple(Vec::new(), Target::xor_mark(self.mark)));
        rules.push(simple(
            vec![comment("kubernetes service traffic requiring SNAT")],
            Target::Masquerade(MasqueradeTarget {
                random_fully: self.random_fully,
                ..MasqueradeTarget::default()
            }),
        ));
        rules
    }

    fn node_port(&self) -> Vec<Rule> {
        let sets = [
            (
                Protocol::Tcp,
                SetKind::NodePortLocalTcp,
                SetKind::NodePortTcp,
            ),
            (
                Protocol::Udp,
                SetKind::NodePortLocalUdp,
                SetKind::NodePortUdp,
            ),
            (
                Protocol::Sctp,
                SetKind::NodePortLocalSctp,
                SetKind::NodePortSctp,
            ),
        ];
        let mut rules = Vec::new();
        for (protocol, local, all) in sets {
            let of_protocol = |rule: Rule| Rule {
                header: Header {
                    protocol: Some(Negatable::is(netfilter::iptables::Protocol(
                        protocol.number(),
                    ))),
                    ..Header::default()
                },
                ..rule
            };
            let local = self.where_filled(local, Target::Return);
            let all = self.where_filled(all, Target::Jump(names::MARK_MASQ));
            rules.extend(local.into_iter().chain(all).map(of_protocol));
        }
        rules
    }

    fn load_balancer(&self) -> Vec<Rule> {
        let local = self.where_filled(SetKind::LoadBalancerLocal, Target::Return);
        let masquerade = simple(Vec::new(), Target::Jump(names::MARK_MASQ));
        local.into_iter().chain([masquerade]).collect()
    }

    fn forward(&self) -> Vec<Rule> {
        vec![
            simple(
                vec![
                    comment("kubernetes forwarding rules"),
                    Match::Mark(Negatable::is(self.masked())),
                ],
                Target::Accept,
            ),
            simple(
                vec![
                    comment("kubernetes forwarding conntrack rule"),
                    states(&[CtState::Related, CtState::Established]),
                ],
                Target::Accept,
            ),
        ]
    }

    fn health_checks(&self) -> Vec<Rule> {
        let matches = self.about(SetKind::HealthCheckNodePort);
        vec![simple(matches, Target::Accept)]
    }

    fn firewall(&self) -> Vec<Rule> {
        let target = Target::Jump(names::SOURCE_RANGES);
        self.where_filled(SetKind::LoadBalancerFw, target)
            .into_iter()
            .collect()
    }

    fn source_ranges(&self) -> Vec<Rule> {
        let ranges = self.where_filled(SetKind::LoadBalancerSourceCidr, Target::Return);
        let own = self.where_filled(SetKind::LoadBalancerSourceIp, Target::Return);
        let rest = simple(Vec::new(), Target::Drop);
        ranges.into_iter().chain(own).chain([rest]).collect()
    }

    /// On the Services' addresses only Services answer, not other listeners of the node.
    fn access(&self) -> Vec<Rule> {
        let mut rules: Vec<Rule> = [
            SetKind::LoadBalancer,
            SetKind::ClusterIp,
            SetKind::ExternalIp,
            SetKind::ExternalIpLocal,
            SetKind::HealthCheckNodePort,
        ]
        .map(|kind| simple(vec![self.set(kind)], Target::Return))
        .into();
        let with = match self.family {
            IpFamily::V4 => RejectWith::IcmpPortUnreachable,
            IpFamily::V6 => RejectWith::Icmp6PortUnreachable,
        };
        rules.push(simple(
            vec![states(&[CtState::New]), self.set(SetKind::IpvsIps)],
            Target::Reject(with),
        ));
        rules
    }
}

/// Blocks traffic from the node itself to a load-balancer address.
pub(super) fn node_access(ip: IpAddr, protocol: Protocol, port: u16) -> Rule {
    let ipvs = MatchIpvs {
        protocol: Some(Negatable::is(netfilter::iptables::Protocol(
            protocol.number(),
        ))),
        address: Some(Negatable::is(Net::host(ip))),
        port: Some(Negatable::is(port)),
        ..MatchIpvs::default()
    };
    Rule {
        header: Header {
            source: Some(Negatable::is(Net::host(ip))),
            ..Header::default()
        },
        ..simple(vec![Match::Ipvs(Box::new(ipvs))], Target::Drop)
    }
}

fn states(states: &[CtState]) -> Match {
    let states = Negatable::is(CtStates::of(states));
    Match::Conntrack(Box::new(MatchConntrack::state(states)))
}
