//! Where chains are attached: to kube-proxy's hooks with its priorities, so that other tables keep
//! their order to it.

use model::IpFamily;
use netfilter::nft::{BaseChain, Chain, ChainKind, Hook, Policy, Rule};

use super::rules::Build;

/// Name, type, hook and priority.
const BASE: [(&str, ChainKind, Hook, i32); 8] = [
    (PREROUTING_FIRST, ChainKind::Filter, Hook::Prerouting, -110),
    (OUTPUT_FIRST, ChainKind::Filter, Hook::Output, -110),
    (INPUT, ChainKind::Filter, Hook::Input, 0),
    (FORWARD, ChainKind::Filter, Hook::Forward, 0),
    (OUTPUT, ChainKind::Filter, Hook::Output, 0),
    (NAT_PREROUTING, ChainKind::Nat, Hook::Prerouting, -100),
    (NAT_OUTPUT, ChainKind::Nat, Hook::Output, -100),
    (NAT_POSTROUTING, ChainKind::Nat, Hook::Postrouting, 100),
];

pub(crate) const PREROUTING_FIRST: &str = "filter-prerouting-pre-dnat";
pub(crate) const OUTPUT_FIRST: &str = "filter-output-pre-dnat";
pub(crate) const INPUT: &str = "filter-input";
pub(crate) const FORWARD: &str = "filter-forward";
pub(crate) const OUTPUT: &str = "filter-output";
pub(crate) const NAT_PREROUTING: &str = "nat-prerouting";
pub(crate) const NAT_OUTPUT: &str = "nat-output";
pub(crate) const NAT_POSTROUTING: &str = "nat-postrouting";

/// The base chains that a table has, each with the chains that it jumps to in turn.
pub(crate) type Jumps = [(&'static str, &'static [&'static str])];

/// The base chains themselves.
pub(crate) fn chains(jumps: &Jumps) -> impl Iterator<Item = Chain> {
    let has = |name: &str| jumps.iter().any(|(chain, _)| *chain == name);
    let of_table = BASE.iter().filter(move |(name, ..)| has(name));
    of_table.map(|(name, kind, hook, priority)| Chain {
        name: (*name).to_owned(),
        base: Some(BaseChain {
            kind: *kind,
            hook: *hook,
            priority: *priority,
            policy: Policy::Accept,
        }),
        comment: None,
    })
}

/// Their rules: for new connections only; nat chains never see anything else.
pub(crate) fn rules(family: IpFamily, jumps: &Jumps) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (chain, targets) in jumps {
        let is_nat = BASE
            .iter()
            .any(|(name, kind, ..)| name == chain && *kind == ChainKind::Nat);
        for target in *targets {
            let start = Build::new(family);
            let start = if is_nat { start } else { start.if_new() };
            rules.push(start.jump(target).rule(chain));
        }
    }
    rules
}
