//! Which back end to use: the one that the node's other kube rules are in.
//!
//! A packet meets the rules of both back ends, so a proxy that wrote to the other one than
//! kubelet and the network plugin do would still work, mostly; but then nobody who looks with
//! `iptables-save` sees both halves. kubelet leaves `KUBE-IPTABLES-HINT` and
//! `KUBE-KUBELET-CANARY` in the mangle table for exactly this question (KEP-3178); the order of
//! the questions is that of the iptables-wrappers that kube-proxy's image uses.

use std::fmt;
use std::process::Command;
use std::time::Duration;

use netfilter::nft;

use super::{Backend, Error, Table, ToolSet};
use crate::nfnetlink::NfTables;
use crate::{Family, exec, family};

/// How long listing the rules of one back end may take.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// The chains that kubelet makes for others to find.
const HINTS: [&[u8]; 2] = [b"KUBE-IPTABLES-HINT", b"KUBE-KUBELET-CANARY"];

/// What kube software left in one family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// kubelet's hint chains in nf_tables' mangle table.
    pub nft_hints: usize,
    /// kubelet's hint chains in the legacy mangle table.
    pub legacy_hints: usize,
    /// All `KUBE-` chains in nf_tables.
    pub nft_chains: usize,
    /// All `KUBE-` chains in legacy tables.
    pub legacy_chains: usize,
}

/// The back end chosen, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The back end.
    pub backend: Backend,
    /// What settled it.
    pub reason: Reason,
}

/// What settled the choice of a back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// kubelet's hint chains are there.
    KubeletHint,
    /// kubelet's hint chains are there in the other family.
    KubeletHintOtherFamily,
    /// Most `KUBE-` chains are there.
    KubeChains,
    /// There are no kube rules; the plain `iptables` is of it.
    PlainTool,
    /// There are no kube rules and no plain `iptables`; its tools are there.
    Installed,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.reason {
            Reason::KubeletHint => "kubelet's hint chains are there",
            Reason::KubeletHintOtherFamily => "kubelet's hint chains are there in the other family",
            Reason::KubeChains => "most KUBE- chains are there",
            Reason::PlainTool => "no kube rules yet; the plain iptables is of it",
            Reason::Installed => "no kube rules yet; its tools are what is installed",
        };
        write!(f, "{} ({why})", self.backend)
    }
}

/// Chooses by the evidence in the family itself, then by kubelet's hints in the other, then by
/// what the plain tool is, then by what is installed (nft first).
pub fn choose(
    own: Evidence,
    other: Evidence,
    plain: Option<Backend>,
    installed: &[Backend],
) -> Option<Choice> {
    let found = |backend, reason| Some(Choice { backend, reason });
    if let Some(backend) = by_hints(own) {
        return found(backend, Reason::KubeletHint);
    }
    if let Some(backend) = by_hints(other) {
        return found(backend, Reason::KubeletHintOtherFamily);
    }
    match own.nft_chains.cmp(&own.legacy_chains) {
        std::cmp::Ordering::Greater => return found(Backend::Nft, Reason::KubeChains),
        std::cmp::Ordering::Less => return found(Backend::Legacy, Reason::KubeChains),
        std::cmp::Ordering::Equal => {}
    }
    if let Some(backend) = plain {
        return found(backend, Reason::PlainTool);
    }
    let backend = [Backend::Nft, Backend::Legacy]
        .into_iter()
        .find(|backend| installed.contains(backend))?;
    found(backend, Reason::Installed)
}

/// nf_tables wins where both have hints: legacy ones can be left over from before an upgrade,
/// the other way round is rare.
fn by_hints(evidence: Evidence) -> Option<Backend> {
    match evidence {
        Evidence { nft_hints: 1.., .. } => Some(Backend::Nft),
        Evidence {
            legacy_hints: 1.., ..
        } => Some(Backend::Legacy),
        _ => None,
    }
}

/// Looks at the rules of the current network namespace and chooses.
pub(super) fn look(family: Family) -> Result<Choice, Error> {
    let nft = ToolSet::find(family, Backend::Nft);
    let legacy = ToolSet::find(family, Backend::Legacy);
    let mut installed = Vec::new();
    if nft.is_ok() {
        installed.push(Backend::Nft);
    }
    if legacy.is_ok() {
        installed.push(Backend::Legacy);
    }
    // One back end only: there is nothing to choose, whatever the other's rules.
    let evidence = |family| match installed.len() {
        2 => gather(family),
        _ => Evidence::default(),
    };
    let own = evidence(family);
    let other = if by_hints(own).is_none() && family::in_kernel(family::other(family)) {
        evidence(family::other(family))
    } else {
        Evidence::default()
    };
    let plain = ToolSet::plain_backend(family).filter(|plain| installed.contains(plain));
    match choose(own, other, plain, &installed) {
        Some(choice) => Ok(choice),
        None => nft.and(legacy).map(|tools| Choice {
            backend: tools.backend,
            reason: Reason::Installed,
        }),
    }
}

/// Counts kube software's chains. A listing that fails counts as empty: a table that cannot be
/// read is not one to join.
fn gather(family: Family) -> Evidence {
    let mut evidence = Evidence::default();
    let chains = |backend: Backend, table: Table| {
        if backend == Backend::Legacy && !legacy_table_exists(family, table) {
            return Vec::new();
        }
        let Ok(tools) = ToolSet::find(family, backend) else {
            return Vec::new();
        };
        let listed = exec::run(
            Command::new(&tools.save).args(["-t", table.name()]),
            b"",
            LOOK_LIMIT,
        );
        match listed {
            Ok(output) if output.status.success() => output.stdout,
            _ => Vec::new(),
        }
    };
    evidence.nft_hints = hints(&chains(Backend::Nft, Table::Mangle));
    if evidence.nft_hints == 0 {
        evidence.legacy_hints = hints(&chains(Backend::Legacy, Table::Mangle));
    }
    if by_hints(evidence).is_none() {
        for table in [Table::Mangle, Table::Nat, Table::Filter] {
            evidence.nft_chains += kube_chains(&chains(Backend::Nft, table)).count();
            evidence.legacy_chains += kube_chains(&chains(Backend::Legacy, table)).count();
        }
    }
    evidence
}

/// Whether there may be chains of kube software in a back end, found out without its tools: that of
/// nf_tables lists every set of every table on the way, which takes seconds where there are many
/// elements. What cannot be found out counts as there.
pub fn may_have_kube_chains(family: Family, backend: Backend) -> bool {
    let tables = [Table::Mangle, Table::Nat, Table::Filter];
    if backend == Backend::Legacy {
        return tables
            .into_iter()
            .any(|table| legacy_table_exists(family, table));
    }
    let nft_family = match family {
        Family::Ipv4 => nft::Family::Ip,
        Family::Ipv6 => nft::Family::Ip6,
    };
    let Ok((chains, _)) = NfTables::open().and_then(|mut nft| nft.chains()) else {
        return true;
    };
    chains.iter().any(|chain| {
        chain.table.family == nft_family
            && tables.iter().any(|table| table.name() == chain.table.name)
            && chain.name.starts_with("KUBE-")
    })
}

/// Whether the legacy table is there already. Asking the legacy tool for one that is not would
/// make it, and every packet would pass its empty hooks from then on.
fn legacy_table_exists(family: Family, table: Table) -> bool {
    let file = match family {
        Family::Ipv4 => "/proc/thread-self/net/ip_tables_names",
        Family::Ipv6 => "/proc/thread-self/net/ip6_tables_names",
    };
    std::fs::read_to_string(file).is_ok_and(|names| names.lines().any(|name| name == table.name()))
}

fn hints(saved: &[u8]) -> usize {
    kube_chains(saved)
        .filter(|chain| HINTS.contains(chain))
        .count()
}

/// The names of the `KUBE-` chains that a saved table declares.
fn kube_chains(saved: &[u8]) -> impl Iterator<Item = &[u8]> {
    saved.split(|byte| *byte == b'\n').filter_map(|line| {
        let name = line
            .strip_prefix(b":")?
            .split(|byte| *byte == b' ')
            .next()?;
        name.starts_with(b"KUBE-").then_some(name)
    })
}
