//! Rules that do not belong to any Service port.

use model::IpFamily;
use netfilter::iptables::{
    Chain, CtState, CtStates, Header, MarkMatch, MasqueradeTarget, Match, MatchAddrType,
    MatchConntrack, Negatable, Net, Rule, Table, Target,
};

use super::super::{Nfacct, names};
use super::{Context, comment, simple};
use crate::terms::loopback;

/// The chains that belong to no Service port, with their rules, without the shared chains.
pub(in super::super) fn chains(context: &Context<'_>) -> Vec<(Table, Chain, Vec<Rule>)> {
    let mut all = vec![
        (Table::Filter, names::FORWARD, forward(context)),
        (Table::Nat, names::POSTROUTING, postrouting(context)),
        (
            Table::Nat,
            names::MARK_MASQ,
            vec![simple(
                Vec::new(),
                Target::or_mark(context.options.masquerade_mark()),
            )],
        ),
    ];
    if context.localhost_node_ports() {
        // Without localhost NodePorts the chain exists, but its rules belong to kubelet.
        all.push((Table::Filter, names::KUBELET_FIREWALL, martians()));
    }
    all
}

fn masquerade_mark(context: &Context<'_>) -> MarkMatch {
    let mark = context.options.masquerade_mark();
    MarkMatch {
        value: mark,
        mask: mark,
    }
}

fn conntrack(states: &[CtState]) -> Match {
    let states = Negatable::is(CtStates::of(states));
    Match::Conntrack(Box::new(MatchConntrack::state(states)))
}

fn forward(context: &Context<'_>) -> Vec<Rule> {
    let mut rules = Vec::with_capacity(3);
    if !context.options.conntrack_tcp_be_liberal {
        let mut matches = vec![conntrack(&[CtState::Invalid])];
        if context.options.nfacct.invalid_dropped {
            matches.push(Match::Nfacct(Nfacct::INVALID_DROPPED.into()));
        }
        rules.push(simple(matches, Target::Drop));
    }
    rules.push(simple(
        vec![
            comment("kubernetes forwarding rules"),
            Match::Mark(Negatable::is(masquerade_mark(context))),
        ],
        Target::Accept,
    ));
    rules.push(simple(
        vec![
            comment("kubernetes forwarding conntrack rule"),
            conntrack(&[CtState::Related, CtState::Established]),
        ],
        Target::Accept,
    ));
    rules
}

fn postrouting(context: &Context<'_>) -> Vec<Rule> {
    let masquerade = MasqueradeTarget {
        random_fully: context.options.random_fully,
        ..MasqueradeTarget::default()
    };
    vec![
        simple(
            vec![Match::Mark(Negatable::not(masquerade_mark(context)))],
            Target::Return,
        ),
        // Cleared, so that a packet that traverses the stack twice is masqueraded once.
        simple(
            Vec::new(),
            Target::xor_mark(context.options.masquerade_mark()),
        ),
        simple(
            vec![comment("kubernetes service traffic requiring SNAT")],
            Target::Masquerade(masquerade),
        ),
    ]
}

/// With `route_localnet`, the kernel no longer drops packets from other hosts to 127.0.0.0/8.
fn martians() -> Vec<Rule> {
    let loopback = loopback(IpFamily::V4);
    let known = CtStates::of(&[CtState::Related, CtState::Established, CtState::Dnat]);
    let conntrack = MatchConntrack::state(Negatable::not(known));
    vec![Rule {
        header: Header {
            source: Some(Negatable::not(loopback)),
            destination: Some(Negatable::is(loopback)),
            ..Header::default()
        },
        matches: vec![
            comment("block incoming localnet connections"),
            Match::Conntrack(Box::new(conntrack)),
        ],
        target: Some(Target::Drop),
        counters: None,
    }]
}

/// The last rules of the nat table's KUBE-SERVICES: packets that no other rule matched may be for a
/// NodePort.
pub(in super::super) fn services_tail(context: &Context<'_>) -> Vec<Rule> {
    let note =
        || comment("kubernetes service nodeports; NOTE: this must be the last rule in this chain");
    let jump = |destination, mut more: Vec<Match>| {
        more.insert(0, note());
        Rule {
            header: Header {
                destination,
                ..Header::default()
            },
            ..simple(more, Target::Jump(names::NODE_PORTS))
        }
    };
    let Some(ips) = &context.node.node_port_ips else {
        let local = Match::Addrtype(MatchAddrType::DESTINATION_LOCAL);
        let not_loopback =
            (!context.localhost_node_ports()).then(|| Negatable::not(loopback(context.family)));
        return vec![jump(not_loopback, vec![local])];
    };
    ips.iter()
        .filter(|ip| !ip.is_loopback() || context.localhost_node_ports())
        .map(|ip| jump(Some(Negatable::is(Net::host(*ip))), Vec::new()))
        .collect()
}
