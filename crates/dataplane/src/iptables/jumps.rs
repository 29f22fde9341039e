//! The jumps from built-in chains to those of this mode.

use netfilter::iptables::{
    Chain, CtState, CtStates, Match, MatchConntrack, Negatable, Rule, Table, Target,
};

use super::names;

/// A required rule of a built-in chain.
pub(super) struct Jump {
    pub(super) table: Table,
    pub(super) from: Chain,
    pub(super) to: Chain,
    comment: &'static str,
    new_only: bool,
}

const INPUT: Chain = Chain::literal("INPUT");
const FORWARD: Chain = Chain::literal("FORWARD");
const OUTPUT: Chain = Chain::literal("OUTPUT");
const PREROUTING: Chain = Chain::literal("PREROUTING");
const POSTROUTING: Chain = Chain::literal("POSTROUTING");

const fn filter(from: Chain, to: Chain, comment: &'static str, new_only: bool) -> Jump {
    Jump {
        table: Table::Filter,
        from,
        to,
        comment,
        new_only,
    }
}

const fn nat(from: Chain, to: Chain, comment: &'static str) -> Jump {
    Jump {
        table: Table::Nat,
        from,
        to,
        comment,
        new_only: false,
    }
}

/// In the order in which kube-proxy inserts each at the top of its chain, so that the last one is
/// first there.
pub(super) const JUMPS: [Jump; 14] = {
    const EXTERNAL: &str = "kubernetes externally-visible service portals";
    const PORTALS: &str = "kubernetes service portals";
    const FIREWALL: &str = "kubernetes load balancer firewall";
    const HEALTH: &str = "kubernetes health check service ports";
    [
        filter(INPUT, names::EXTERNAL_SERVICES, EXTERNAL, true),
        filter(FORWARD, names::EXTERNAL_SERVICES, EXTERNAL, true),
        filter(INPUT, names::NODE_PORTS, HEALTH, false),
        filter(FORWARD, names::SERVICES, PORTALS, true),
        filter(OUTPUT, names::SERVICES, PORTALS, true),
        filter(
            FORWARD,
            names::FORWARD,
            "kubernetes forwarding rules",
            false,
        ),
        filter(INPUT, names::PROXY_FIREWALL, FIREWALL, true),
        filter(OUTPUT, names::PROXY_FIREWALL, FIREWALL, true),
        filter(FORWARD, names::PROXY_FIREWALL, FIREWALL, true),
        nat(OUTPUT, names::SERVICES, PORTALS),
        nat(PREROUTING, names::SERVICES, PORTALS),
        nat(
            POSTROUTING,
            names::POSTROUTING,
            "kubernetes postrouting rules",
        ),
        filter(INPUT, names::KUBELET_FIREWALL, "", false),
        filter(OUTPUT, names::KUBELET_FIREWALL, "", false),
    ]
};

impl Jump {
    pub(super) fn rule(&self) -> Rule {
        let mut matches = Vec::with_capacity(2);
        if self.new_only {
            let new = Negatable::is(CtStates::of(&[CtState::New]));
            matches.push(Match::Conntrack(Box::new(MatchConntrack::state(new))));
        }
        if !self.comment.is_empty() {
            matches.push(Match::Comment(self.comment.into()));
        }
        Rule {
            matches,
            target: Some(Target::Jump(self.to)),
            ..Rule::default()
        }
    }
}
