//! A Service port's rules in the shared chains.

use std::net::IpAddr;
use std::num::NonZeroU16;

use model::{IpFamily, Protocol};
use netfilter::iptables::{
    Chain, Header, Match, MatchAddrType, Negatable, Net, PortMatch, RejectWith, Rule, Table, Target,
};
use plan::Traffic;

use super::super::Nfacct;
use super::super::names::{self, Kind};
use super::{Context, Port, comment, protocol};
use crate::terms::loopback;

/// The match on a destination port of a transport protocol.
fn port_match(protocol: Protocol, port: NonZeroU16) -> Match {
    let ports = PortMatch::to(port.get());
    match protocol {
        Protocol::Tcp => Match::Tcp(ports.into()),
        Protocol::Udp => Match::Udp(ports),
        Protocol::Sctp => Match::Sctp(ports),
    }
}

/// A rule for packets to an address and port.
pub(super) fn to_address(port: &Port<'_>, ip: IpAddr, note: String, target: Target) -> Rule {
    let plan = port.plan;
    Rule {
        header: Header {
            destination: Some(Negatable::is(Net::host(ip))),
            protocol: protocol(plan.protocol),
            ..Header::default()
        },
        matches: vec![comment(note), port_match(plan.protocol, plan.port)],
        target: Some(target),
        counters: None,
    }
}

/// A rule for packets to a port of any address.
fn to_port(proto: Protocol, matches: Vec<Match>, target: Target) -> Rule {
    Rule {
        header: Header {
            protocol: protocol(proto),
            ..Header::default()
        },
        matches,
        target: Some(target),
        counters: None,
    }
}

impl Port<'_> {
    /// The rules in the nat table's KUBE-SERVICES and KUBE-NODEPORTS.
    pub(in super::super) fn nat_dispatch(
        &self,
        context: &Context<'_>,
        emit: &mut impl FnMut(Chain, Rule),
    ) {
        let plan = self.plan;
        if self.has_internal_endpoints() {
            let target = Target::Jump(self.namer.chain(self.internal_kind()));
            let rule = to_address(self, plan.cluster_ip, self.cluster_ip_comment(), target);
            emit(names::SERVICES, rule);
        }
        if !self.uses_external_chain() {
            return;
        }
        let external = Target::Jump(self.namer.chain(Kind::External));
        for ip in &plan.external_ips {
            let note = format!("{} external IP", self.name);
            let rule = to_address(self, *ip, note, external.clone());
            emit(names::SERVICES, rule);
        }
        for ip in &plan.load_balancer_ips {
            let target = if self.uses_firewall_chain() {
                Target::Jump(self.namer.chain(Kind::Firewall))
            } else {
                external.clone()
            };
            let note = format!("{} loadbalancer IP", self.name);
            emit(names::SERVICES, to_address(self, *ip, note, target));
        }
        if let Some(node_port) = plan.node_port {
            let matches = || {
                let to = port_match(plan.protocol, node_port);
                vec![comment(self.name.as_str()), to]
            };
            if context.localhost_node_ports() && context.options.nfacct.localhost_node_ports {
                let mut counted = matches();
                counted.push(Match::Nfacct(Nfacct::LOCALHOST_NODE_PORTS.into()));
                let mut rule = to_port(plan.protocol, counted, external.clone());
                rule.header.destination = Some(Negatable::is(loopback(context.family)));
                emit(names::NODE_PORTS, rule);
            }
            let rule = to_port(plan.protocol, matches(), external);
            emit(names::NODE_PORTS, rule);
        }
    }

    /// The rules in the filter table's KUBE-SERVICES, KUBE-EXTERNAL-SERVICES, KUBE-NODEPORTS and
    /// KUBE-PROXY-FIREWALL.
    pub(in super::super) fn filter_dispatch(
        &self,
        context: &Context<'_>,
        emit: &mut impl FnMut(Chain, Rule),
    ) {
        let plan = self.plan;
        if let Some((note, target)) = self.denial(context, plan.internal_traffic()) {
            let rule = to_address(self, plan.cluster_ip, note, target);
            emit(names::SERVICES, rule);
        }
        if self.uses_firewall_chain() {
            let firewall = self.namer.chain(Kind::Firewall);
            for ip in &plan.load_balancer_ips {
                let note = self.firewall_comment(firewall);
                let rule = to_address(self, *ip, note, Target::Drop);
                emit(names::PROXY_FIREWALL, rule);
            }
        }
        if plan.externally_accessible()
            && let Some((note, target)) = self.denial(context, plan.external_traffic())
        {
            for ip in plan.external_ips.iter().chain(&plan.load_balancer_ips) {
                let rule = to_address(self, *ip, note.clone(), target.clone());
                emit(names::EXTERNAL_SERVICES, rule);
            }
            if let Some(node_port) = plan.node_port {
                let local = Match::Addrtype(MatchAddrType::DESTINATION_LOCAL);
                let to = port_match(plan.protocol, node_port);
                let matches = vec![comment(note), local, to];
                let rule = to_port(plan.protocol, matches, target);
                emit(names::EXTERNAL_SERVICES, rule);
            }
        }
        if let Some(health) = plan.health_check_node_port {
            let note = format!("{} health check node port", self.name);
            let matches = vec![comment(note), port_match(Protocol::Tcp, health)];
            let rule = to_port(Protocol::Tcp, matches, Target::Accept);
            emit(names::NODE_PORTS, rule);
        }
    }

    /// Comment and target for traffic that is not balanced; `None` if it is balanced.
    fn denial(&self, context: &Context<'_>, traffic: Traffic) -> Option<(String, Target)> {
        match traffic {
            Traffic::Cluster | Traffic::Local => None,
            Traffic::Reject => {
                let with = match context.family {
                    IpFamily::V4 => RejectWith::IcmpPortUnreachable,
                    IpFamily::V6 => RejectWith::Icmp6PortUnreachable,
                };
                let note = format!("{} has no endpoints", self.name);
                Some((note, Target::Reject(with)))
            }
            Traffic::Drop => Some((
                format!("{} has no local endpoints", self.name),
                Target::Drop,
            )),
        }
    }

    /// Pass the rules of [`Self::nat_dispatch`] and [`Self::filter_dispatch`] to the callback. Most
    /// ports have no rule in the filter table.
    pub(in super::super) fn dispatch(
        &self,
        context: &Context<'_>,
        mut emit: impl FnMut(Table, Chain, Rule),
    ) {
        self.filter_dispatch(context, &mut |chain, rule| emit(Table::Filter, chain, rule));
        self.nat_dispatch(context, &mut |chain, rule| emit(Table::Nat, chain, rule));
    }
}
