//! The operations for the kernel.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use netfilter::iptables::{Chain, Rule, Table};
use netfilter::ipvs::{Destination, Service, ServiceId};
use netfilter::{ipset, ipvs};
use plan::Endpoint;

use super::lower::Item;
use super::names::{IPVS_OUT_FILTER, JUMPS, TABLES};
use super::observe::SeenRules;
use super::rules::{FullChain, Inputs};
use super::sets::{COUNT, SetKind};

/// The operations for the kernel, to be executed in the order of the fields.
///
/// Sets are created before the rules that name them. Virtual servers are added before their addresses
/// and removed after them, so that a connection never finds the address without the Service.
#[derive(Debug, Default)]
pub struct Transaction {
    /// Whether [`DEVICE`](super::DEVICE) must be created: a dummy interface, which stays down.
    pub device: bool,
    /// Sets to create, and elements to add.
    pub sets: Vec<ipset::Op>,
    /// Input for `iptables-restore --noflush` (or `ip6tables-restore`); empty if nothing changes.
    pub rules: String,
    /// Virtual servers and destinations to add or change, and destinations to remove.
    pub servers: Vec<ipvs::Op>,
    /// Addresses to add to the device, as /32 or /128.
    pub new_addresses: Vec<IpAddr>,
    /// Addresses to remove from the device.
    pub old_addresses: Vec<IpAddr>,
    /// Virtual servers to remove.
    pub old_servers: Vec<ipvs::Op>,
    /// Elements to remove from sets.
    pub old_members: Vec<ipset::Op>,
    pub(super) next: Next,
}

impl Transaction {
    /// Return whether nothing changes.
    pub fn is_empty(&self) -> bool {
        !self.device
            && self.sets.is_empty()
            && self.rules.is_empty()
            && self.servers.is_empty()
            && self.new_addresses.is_empty()
            && self.old_addresses.is_empty()
            && self.old_servers.is_empty()
            && self.old_members.is_empty()
    }
}

/// The known state after the commit.
#[derive(Debug, Default)]
pub(super) struct Next {
    pub(super) items: Vec<(Item, bool)>,
    pub(super) servers: Vec<(ServiceId, Option<Applied>)>,
    pub(super) rooms: [Option<usize>; COUNT],
    pub(super) rules: Option<Inputs>,
    /// Terminating destinations.
    pub(super) leaving: Vec<(ServiceId, SocketAddr)>,
}

/// A virtual server in the kernel.
#[derive(Clone, Debug)]
pub(super) struct Applied {
    /// The server without destinations.
    pub(super) service: Service,
    /// Destinations in the form that this mode writes, shared with the plan.
    pub(super) plain: Arc<[Endpoint]>,
    /// All other destinations: terminating ones, and those that were read.
    pub(super) odd: BTreeMap<SocketAddr, Destination>,
}

impl Applied {
    /// Return a new server without destinations.
    pub(super) fn new(service: Service) -> Self {
        Self {
            service,
            plain: Arc::default(),
            odd: BTreeMap::new(),
        }
    }

    /// Return a server that was read.
    pub(super) fn found(mut service: Service) -> Self {
        let destinations = std::mem::take(&mut service.destinations);
        Self {
            odd: destinations.into_iter().map(|d| (d.address, d)).collect(),
            ..Self::new(service)
        }
    }
}

/// Return the socket address of an endpoint.
pub(super) fn socket(endpoint: &Endpoint) -> SocketAddr {
    SocketAddr::new(endpoint.ip, endpoint.port)
}

/// Return the input for `iptables-restore` that changes the chains from `before` to `chains`, and adds or
/// removes single rules of [`IPVS_OUT_FILTER`](super::names::IPVS_OUT_FILTER). Empty if nothing
/// changes.
pub(super) fn rules_text(
    chains: &[FullChain],
    before: Before<'_>,
    node_access: &[(Rule, bool)],
) -> String {
    let mut text = String::new();
    for table in TABLES {
        let of_table = chains.iter().filter(|(t, ..)| *t == table);
        let differ: Vec<&FullChain> = of_table.filter(|chain| before.differs(chain)).collect();
        let jumps = JUMPS.iter().filter(|j| j.table == table);
        let missing: Vec<(Chain, Rule)> = jumps
            .map(|j| (j.from, j.rule()))
            .filter(|(from, rule)| before.lacks(table, *from, rule))
            .collect();
        let single = match table {
            Table::Filter => node_access,
            _ => &[],
        };
        if differ.is_empty() && missing.is_empty() && single.is_empty() {
            continue;
        }
        text.push_str(&format!("*{table}\n"));
        for (_, chain, _) in &differ {
            text.push_str(&format!(":{chain} - [0:0]\n"));
        }
        for (from, rule) in missing {
            text.push_str(&format!("-I {from}"));
            rule.write(&mut text);
            text.push('\n');
        }
        for (_, chain, rules) in differ {
            for rule in rules {
                rule.write_append(&mut text, *chain);
            }
        }
        for (rule, is) in single {
            text.push_str(if *is { "-A " } else { "-D " });
            text.push_str(IPVS_OUT_FILTER.as_str());
            rule.write(&mut text);
            text.push('\n');
        }
        text.push_str("COMMIT\n");
    }
    text
}

/// The known rules.
#[derive(Clone, Copy)]
pub(super) enum Before<'a> {
    /// As read.
    Seen(&'a SeenRules),
    /// As written.
    Written(&'a [FullChain]),
}

impl Before<'_> {
    fn differs(self, wanted: &FullChain) -> bool {
        let (table, chain, rules) = wanted;
        match self {
            Before::Seen(seen) => match seen.chains.get(&(*table, *chain)) {
                Some(Some(seen)) if *chain == IPVS_OUT_FILTER => sorted(seen) != sorted(rules),
                Some(Some(seen)) => seen != rules,
                _ => true,
            },
            Before::Written(chains) => !chains.contains(wanted),
        }
    }

    fn lacks(self, table: Table, from: Chain, rule: &Rule) -> bool {
        match self {
            Before::Seen(seen) => {
                let mut jumps = seen.jumps.iter();
                !jumps.any(|(t, f, r)| *t == table && *f == from && r == rule)
            }
            Before::Written(_) => false,
        }
    }
}

/// Return the texts of rules, sorted, for chains in which the order has no meaning.
fn sorted(rules: &[Rule]) -> Vec<String> {
    let text = |rule: &Rule| {
        let mut text = String::new();
        rule.write(&mut text);
        text
    };
    let mut texts: Vec<String> = rules.iter().map(text).collect();
    texts.sort_unstable();
    texts
}

/// Elements by set.
#[derive(Default)]
pub(super) struct Elements(BTreeMap<SetKind, Vec<ipset::Element>>);

impl Elements {
    pub(super) fn push(&mut self, kind: SetKind, element: ipset::Element) {
        self.0.entry(kind).or_default().push(element);
    }

    pub(super) fn into_sets(self) -> impl Iterator<Item = (SetKind, Vec<ipset::Element>)> {
        self.0.into_iter()
    }
}
