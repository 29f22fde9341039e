//! The hooks and priorities of base chains. They are kube-proxy's, to keep their order relative to
//! other tables, except for NAT.
//!
//! The kernel runs the NAT chains of a hook in the order of their priorities; of chains with equal
//! priority, the one registered last runs first. The first that translates a packet decides. kube-proxy's nftables mode has
//! the priority of iptables' NAT chains, so the order depends on which program started first. In iptables
//! mode it inserts its jumps at the top. Priorities one lower give the same fixed order. All NAT
//! chains of a hook run at one point between the other chains, so no other order changes.

use model::IpFamily;
use netfilter::nft::{BaseChain, Chain, ChainKind, Hook, Policy, Rule};

use super::build::Build;

/// `NF_IP_PRI_NAT_DST`.
pub(crate) const NAT_DST: i32 = -100;
/// `NF_IP_PRI_NAT_SRC`.
const NAT_SRC: i32 = 100;

/// Name, type, hook and priority.
const BASE: [(&str, ChainKind, Hook, i32); 10] = [
    (PREROUTING_FIRST, ChainKind::Filter, Hook::Prerouting, -110),
    (OUTPUT_FIRST, ChainKind::Filter, Hook::Output, -110),
    (INPUT, ChainKind::Filter, Hook::Input, 0),
    (FORWARD, ChainKind::Filter, Hook::Forward, 0),
    (OUTPUT, ChainKind::Filter, Hook::Output, 0),
    (
        NAT_PREROUTING,
        ChainKind::Nat,
        Hook::Prerouting,
        NAT_DST - 1,
    ),
    (NAT_OUTPUT, ChainKind::Nat, Hook::Output, NAT_DST - 1),
    (NAT_PREROUTING_LAST, ChainKind::Nat, Hook::Prerouting, -1),
    (NAT_OUTPUT_LAST, ChainKind::Nat, Hook::Output, -1),
    (
        NAT_POSTROUTING,
        ChainKind::Nat,
        Hook::Postrouting,
        NAT_SRC - 1,
    ),
];

pub(crate) const PREROUTING_FIRST: &str = "filter-prerouting-pre-dnat";
pub(crate) const OUTPUT_FIRST: &str = "filter-output-pre-dnat";
pub(crate) const INPUT: &str = "filter-input";
pub(crate) const FORWARD: &str = "filter-forward";
pub(crate) const OUTPUT: &str = "filter-output";
pub(crate) const NAT_PREROUTING: &str = "nat-prerouting";
pub(crate) const NAT_OUTPUT: &str = "nat-output";
/// For connections that no NAT chain of any program has translated.
pub(crate) const NAT_PREROUTING_LAST: &str = "nat-prerouting-last";
/// The same for connections of the node itself.
pub(crate) const NAT_OUTPUT_LAST: &str = "nat-output-last";
pub(crate) const NAT_POSTROUTING: &str = "nat-postrouting";

/// The base chains that a table has, each with the chains that it jumps to in turn.
pub(crate) type Jumps = [(&'static str, &'static [&'static str])];

/// Return the base chains themselves.
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

/// Their rules: for new connections only; nat chains never see other packets.
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
