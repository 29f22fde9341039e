//! The names of chains, and the jumps to them.

use netfilter::iptables::{Chain, Rule, Table, Target};

use crate::terms::{comment, simple};

/// The interface with the Services' addresses.
pub const DEVICE: &str = "kube-ipvs0";

pub(super) const SERVICES: Chain = Chain::literal("KUBE-SERVICES");
pub(super) const POSTROUTING: Chain = Chain::literal("KUBE-POSTROUTING");
pub(super) const MARK_MASQ: Chain = Chain::literal("KUBE-MARK-MASQ");
pub(super) const NODE_PORT: Chain = Chain::literal("KUBE-NODE-PORT");
pub(super) const LOAD_BALANCER: Chain = Chain::literal("KUBE-LOAD-BALANCER");
pub(super) const FORWARD: Chain = Chain::literal("KUBE-FORWARD");
pub(super) const PROXY_FIREWALL: Chain = Chain::literal("KUBE-PROXY-FIREWALL");
pub(super) const SOURCE_RANGES: Chain = Chain::literal("KUBE-SOURCE-RANGES-FIREWALL");
pub(super) const IPVS_FILTER: Chain = Chain::literal("KUBE-IPVS-FILTER");
pub(super) const IPVS_OUT_FILTER: Chain = Chain::literal("KUBE-IPVS-OUT-FILTER");

/// The tables in the order of writing.
pub(super) const TABLES: [Table; 2] = [Table::Filter, Table::Nat];

/// Every chain of this mode.
pub(super) const CHAINS: [(Table, Chain); 11] = [
    (Table::Nat, SERVICES),
    (Table::Nat, POSTROUTING),
    (Table::Nat, NODE_PORT),
    (Table::Nat, LOAD_BALANCER),
    (Table::Nat, MARK_MASQ),
    (Table::Filter, FORWARD),
    (Table::Filter, NODE_PORT),
    (Table::Filter, PROXY_FIREWALL),
    (Table::Filter, SOURCE_RANGES),
    (Table::Filter, IPVS_FILTER),
    (Table::Filter, IPVS_OUT_FILTER),
];

/// Return whether a chain belongs to this mode.
pub(super) fn is_ours(table: Table, chain: Chain) -> bool {
    CHAINS.contains(&(table, chain))
}

/// A required rule of a built-in chain.
pub(super) struct Jump {
    pub(super) table: Table,
    pub(super) from: Chain,
    pub(super) to: Chain,
    comment: &'static str,
}

impl Jump {
    pub(super) fn rule(&self) -> Rule {
        simple(vec![comment(self.comment)], Target::Jump(self.to))
    }
}

const fn jump(table: Table, from: &'static str, to: Chain, comment: &'static str) -> Jump {
    Jump {
        table,
        from: Chain::literal(from),
        to,
        comment,
    }
}

/// In the order in which kube-proxy inserts each at the top of its chain, so that the last one is
/// first there.
pub(super) const JUMPS: [Jump; 9] = {
    const PORTALS: &str = "kubernetes service portals";
    const FIREWALL: &str = "kube-proxy firewall rules";
    const ACCESS: &str = "kubernetes ipvs access filter";
    const HEALTH: &str = "kubernetes health check rules";
    const POST: &str = "kubernetes postrouting rules";
    const FORWARDING: &str = "kubernetes forwarding rules";
    [
        jump(Table::Nat, "OUTPUT", SERVICES, PORTALS),
        jump(Table::Nat, "PREROUTING", SERVICES, PORTALS),
        jump(Table::Nat, "POSTROUTING", POSTROUTING, POST),
        jump(Table::Filter, "FORWARD", FORWARD, FORWARDING),
        jump(Table::Filter, "INPUT", NODE_PORT, HEALTH),
        jump(Table::Filter, "INPUT", PROXY_FIREWALL, FIREWALL),
        jump(Table::Filter, "FORWARD", PROXY_FIREWALL, FIREWALL),
        jump(Table::Filter, "INPUT", IPVS_FILTER, ACCESS),
        jump(Table::Filter, "OUTPUT", IPVS_OUT_FILTER, ACCESS),
    ]
};
