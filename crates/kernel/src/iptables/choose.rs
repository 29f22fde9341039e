//! Chooses the back end: the one that contains the node's other Kubernetes rules.
//!
//! A packet passes the rules of both back ends. A proxy that wrote to another back end than kubelet and
//! the network plugin would mostly work, but an operator who lists rules with `iptables-save` would see
//! only one half. kubelet creates `KUBE-IPTABLES-HINT` and `KUBE-KUBELET-CANARY` in the mangle table for
//! this purpose (KEP-3178). The order of the checks is that of the iptables-wrappers in kube-proxy's
//! image.

use std::fmt;

use netfilter::iptables_legacy::RawChain;
use netfilter::nft;

use super::legacy::{self, Legacy};
use super::{Backend, Table};
use crate::nfnetlink::NfTables;
use crate::{Family, family, netlink};

/// The chains that kubelet creates as hints for other programs.
const HINTS: [&str; 2] = ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"];

/// The chains of Kubernetes software in one family.
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

/// The chosen back end, with the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The back end.
    pub backend: Backend,
    /// The reason.
    pub reason: Reason,
}

/// The reason for the choice of a back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It contains kubelet's hint chains.
    KubeletHint,
    /// It contains kubelet's hint chains in the other family.
    KubeletHintOtherFamily,
    /// It contains most `KUBE-` chains.
    KubeChains,
    /// No Kubernetes rules exist; the plain `iptables` uses this back end.
    PlainTool,
    /// No Kubernetes rules and no plain `iptables` exist.
    Default,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.reason {
            Reason::KubeletHint => "kubelet's hint chains exist",
            Reason::KubeletHintOtherFamily => "kubelet's hint chains exist in the other family",
            Reason::KubeChains => "it has most KUBE- chains",
            Reason::PlainTool => "no Kubernetes rules exist; the plain iptables uses it",
            Reason::Default => "no Kubernetes rules exist; the default",
        };
        write!(f, "{} ({why})", self.backend)
    }
}

/// Choose by the rules of the family itself, then by kubelet's hints in the other family, then by the
/// plain tool's back end, otherwise nf_tables.
pub fn choose(own: Evidence, other: Evidence, plain: Option<Backend>) -> Choice {
    let found = |backend, reason| Choice { backend, reason };
    if let Some(backend) = by_hints(own) {
        return found(backend, Reason::KubeletHint);
    }
    if let Some(backend) = by_hints(other) {
        return found(backend, Reason::KubeletHintOtherFamily);
    }
    match own.nft_chains.cmp(&own.legacy_chains) {
        std::cmp::Ordering::Greater => found(Backend::Nft, Reason::KubeChains),
        std::cmp::Ordering::Less => found(Backend::Legacy, Reason::KubeChains),
        std::cmp::Ordering::Equal => match plain {
            Some(backend) => found(backend, Reason::PlainTool),
            None => found(Backend::Nft, Reason::Default),
        },
    }
}

/// nf_tables wins if both have hints: legacy hints can be left over from before an upgrade; the opposite
/// is rare.
fn by_hints(evidence: Evidence) -> Option<Backend> {
    match evidence {
        Evidence { nft_hints: 1.., .. } => Some(Backend::Nft),
        Evidence {
            legacy_hints: 1.., ..
        } => Some(Backend::Legacy),
        _ => None,
    }
}

/// Choose by the rules of the current network namespace.
pub(super) fn look(family: Family) -> Choice {
    let own = gather(family);
    let other = if by_hints(own).is_none() && family::in_kernel(family::other(family)) {
        gather(family::other(family))
    } else {
        Evidence::default()
    };
    choose(own, other, plain_backend(family))
}

/// Count the chains of Kubernetes software. A table that cannot be read counts as empty.
fn gather(family: Family) -> Evidence {
    let nft = kube_chains(family).unwrap_or_default();
    let hint = |(table, name): &&(Table, String)| {
        *table == Table::Mangle && HINTS.contains(&name.as_str())
    };
    let mut evidence = Evidence {
        nft_hints: nft.iter().filter(hint).count(),
        ..Evidence::default()
    };
    if evidence.nft_hints > 0 {
        return evidence;
    }
    let in_mangle = legacy_kube_chains(family, Table::Mangle);
    let hint = |name: &&String| HINTS.contains(&name.as_str());
    evidence.legacy_hints = in_mangle.iter().filter(hint).count();
    if evidence.legacy_hints == 0 {
        evidence.nft_chains = nft.len();
        let others =
            [Table::Nat, Table::Filter].map(|table| legacy_kube_chains(family, table).len());
        evidence.legacy_chains = in_mangle.len() + others.iter().sum::<usize>();
    }
    evidence
}

/// The tables in which Kubernetes software has chains.
const TABLES: [Table; 3] = [Table::Mangle, Table::Nat, Table::Filter];

/// Return the chains of Kubernetes software in the tables of iptables' nf_tables back end. They are read
/// from the kernel directly: the tool would also list every set of every table, which takes seconds if
/// they have many elements.
///
/// # Errors
/// nf_tables cannot be read.
pub fn kube_chains(family: Family) -> Result<Vec<(Table, String)>, netlink::Error> {
    let nft_family = match family {
        Family::Ipv4 => nft::Family::Ip,
        Family::Ipv6 => nft::Family::Ip6,
    };
    let (chains, _) = NfTables::open()?.chains()?;
    let of_kube = chains.into_iter().filter_map(|chain| {
        let mut tables = TABLES.into_iter();
        let table = tables.find(|table| table.name() == chain.table.name)?;
        let ours = chain.table.family == nft_family && chain.name.starts_with("KUBE-");
        ours.then_some((table, chain.name))
    });
    Ok(of_kube.collect())
}

/// Whether the legacy back end has tables that kube software uses.
pub fn legacy_tables(family: Family) -> bool {
    let tables = legacy::tables(family);
    tables.iter().any(|table| TABLES.contains(table))
}

/// Return the chains of Kubernetes software in a table of the legacy back end; empty if it cannot be
/// read.
fn legacy_kube_chains(family: Family, table: Table) -> Vec<String> {
    let read = Legacy::open(family).and_then(|legacy| legacy.read(table));
    let Ok(Some(raw)) = read else {
        return Vec::new();
    };
    let names = raw.chains.iter().filter_map(RawChain::chain);
    let names = names.map(|chain| chain.as_str().to_owned());
    names.filter(|name| name.starts_with("KUBE-")).collect()
}

/// Folders searched after `$PATH`, which may be incomplete in a container or a systemd unit.
const FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Return the back end of the plain `iptables`, with which an operator lists the rules. It is a link to
/// the program of a back end on all current distributions, and is not run.
fn plain_backend(family: Family) -> Option<Backend> {
    let name = match family {
        Family::Ipv4 => "iptables",
        Family::Ipv6 => "ip6tables",
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(FOLDERS.map(Into::into));
    let program = folders.map(|folder| folder.join(name).canonicalize());
    let program = program.flatten().next()?;
    let program = program.file_name()?.to_str()?;
    match (program.contains("nft"), program.contains("legacy")) {
        (true, false) => Some(Backend::Nft),
        (false, true) => Some(Backend::Legacy),
        _ => None,
    }
}
