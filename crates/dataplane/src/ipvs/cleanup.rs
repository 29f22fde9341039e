//! Removal of every trace.

use netfilter::iptables::{Chain, Table, Target};
use netfilter::{ipset, ipvs};

use super::Observation;
use super::names::{self, TABLES};

/// The removal of this mode from a node, to be executed in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleanup {
    /// Virtual servers to remove.
    pub servers: Vec<ipvs::Op>,
    /// Whether the interface `kube-ipvs0` exists and must be removed.
    pub device: bool,
    /// Input for `iptables-restore --noflush`; empty if nothing changes.
    pub rules: String,
    /// Sets to remove.
    pub sets: Vec<ipset::Op>,
}

impl Cleanup {
    /// Return whether nothing changes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Return the removal of kube-proxy's (and thus sluice's) ipvs mode in one family. Without its interface and
/// sets, the mode never ran here and nothing is removed: virtual servers may belong to other
/// programs, and the chains belong to iptables mode. Otherwise all virtual servers of the family are
/// removed except those by mark, as in kube-proxy.
///
/// Other programs' rules stay: a chain to which one of them jumps is flushed but not deleted.
pub fn cleanup(family: model::IpFamily, observation: &Observation) -> Cleanup {
    leftovers(family, observation, |_, _| false)
}

/// Return whether this mode has the chain.
pub fn is_chain(table: Table, chain: Chain) -> bool {
    names::is_ours(table, chain)
}

/// Like [`cleanup`], on a node where another mode is in force: the chains that it uses stay.
pub fn leftovers(
    family: model::IpFamily,
    observation: &Observation,
    in_use: impl Fn(Table, Chain) -> bool,
) -> Cleanup {
    if observation.is_nothing() {
        return Cleanup::default();
    }
    let mut servers: Vec<_> = observation.services.keys().copied().collect();
    servers.sort_unstable();
    let sets = observation.sets.keys();
    let mut sets: Vec<ipset::Op> = sets
        .map(|kind| ipset::Op::Destroy(kind.name(family).into()))
        .collect();
    if observation.spare {
        sets.push(ipset::Op::Destroy(super::sets::SPARE.into()));
    }
    Cleanup {
        servers: servers.into_iter().map(ipvs::Op::DeleteService).collect(),
        device: observation.device,
        rules: rules(observation, in_use),
        sets,
    }
}

fn rules(observation: &Observation, in_use: impl Fn(Table, Chain) -> bool) -> String {
    let mut text = String::new();
    let seen = &observation.rules;
    for table in TABLES {
        let removed = |chain: Chain| !in_use(table, chain);
        let jumps = seen.jumps.iter().filter(|(t, _, rule)| {
            let to = rule.target.as_ref().and_then(Target::chain);
            *t == table && to.is_some_and(removed)
        });
        let chains: Vec<Chain> = seen
            .chains
            .keys()
            .filter(|(t, chain)| *t == table && removed(*chain))
            .map(|(_, chain)| *chain)
            .collect();
        let before = text.len();
        text.push_str(&format!("*{table}\n"));
        let start = text.len();
        for chain in &chains {
            text.push_str(&format!(":{chain} - [0:0]\n"));
        }
        for (_, from, rule) in jumps {
            text.push_str(&format!("-D {from}"));
            rule.write(&mut text);
            text.push('\n');
        }
        for chain in chains {
            if !seen.referenced.contains(&(table, chain)) {
                text.push_str(&format!("-X {chain}\n"));
            }
        }
        if text.len() == start {
            text.truncate(before);
        } else {
            text.push_str("COMMIT\n");
        }
    }
    text
}
