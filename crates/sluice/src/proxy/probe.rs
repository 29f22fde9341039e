//! Asks the kernel at startup for the features that the mode needs, so that a missing one is a single
//! error that names it.
//!
//! A refused probe takes up to 10 ms (an aborted nf_tables batch waits for an RCU grace period), so it
//! runs on a thread of its own while the first objects are read. Nothing is programmed before it ends.
//! Only a definite answer of the kernel counts, given twice: loading a module can fail while the node
//! boots. A probe that fails for another reason is left to the first sync, which reports it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::mpsc::Sender;
use std::time::Duration;

use dataplane::{Extension, Feature, Needed};
use kernel::Errno;
use kernel::ipset::IpSets;
use kernel::iptables::{Backend, ExtensionKind, Extensions};
use kernel::nfnetlink::{NfTables, TableId, TransactionError};
use model::{IpFamily, Mode};
use netfilter::ipset::Set;
use netfilter::iptables::Table;
use netfilter::nft::Op;

use super::input::{Input, Stop};
use crate::system::{kernel_family, spawn};

/// The table that is tried and never committed.
const TABLE: &str = "sluice-probe";
/// The time until missing features are probed again.
const CONFIRM: Duration = Duration::from_secs(1);

/// Features that a driver needs.
pub(crate) enum Needs {
    /// nf_tables, with an operation for each feature.
    NfTables(IpFamily, Vec<(Feature, Op)>),
    /// iptables.
    Iptables {
        family: IpFamily,
        backend: Backend,
        tables: Vec<Table>,
        extensions: Vec<Extension>,
    },
    /// Types of ipsets.
    Sets(IpFamily, Vec<(Feature, Set)>),
}

/// Features that the kernel lacks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) struct Unsupported {
    mode: Mode,
    cause: Cause,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Cause {
    /// Features, each with the families that lack it.
    Missing(BTreeMap<Feature, Vec<IpFamily>>),
    NotPermitted,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = self.mode;
        let missing = match &self.cause {
            Cause::Missing(missing) => missing,
            Cause::NotPermitted => {
                return write!(
                    f,
                    "the kernel does not permit this process to program netfilter; no Service was \
                     programmed; run it as root, or with the capability NET_ADMIN in the node's \
                     network namespace"
                );
            }
        };
        write!(f, "this kernel lacks what {mode} mode needs: ")?;
        for (n, (feature, families)) in missing.iter().enumerate() {
            let Feature {
                name,
                module,
                option,
            } = feature;
            let comma = if n > 0 { ", " } else { "" };
            let families: Vec<String> = families.iter().map(ToString::to_string).collect();
            let families = families.join(" and ");
            write!(f, "{comma}{name} for {families} ({module}, {option})")?;
        }
        let modules: Vec<&str> = missing.keys().map(|feature| feature.module).collect();
        write!(
            f,
            "; no Service was programmed; load the modules with `modprobe -a {}`, use a kernel with these \
             options, or choose another --proxy-mode",
            distinct(modules).join(" ")
        )
    }
}

fn distinct(mut words: Vec<&str>) -> Vec<&str> {
    words.sort_unstable();
    words.dedup();
    words
}

/// Probe on a thread of its own, and send [`Input::Probed`] or [`Stop::Unsupported`].
pub(crate) fn start(mode: Mode, needs: Vec<Needs>, inputs: Sender<Input>) -> anyhow::Result<()> {
    spawn("probe", move || {
        let input = match check(mode, &needs) {
            Ok(()) => Input::Probed,
            Err(unsupported) => Input::Stop(Stop::Unsupported(unsupported)),
        };
        // The process is ending if no one receives it.
        let _ = inputs.send(input);
    })
}

/// Probe, and repeat the probe before a feature counts as missing.
///
/// # Errors
/// The kernel lacks a feature without which the mode serves no Service.
pub(crate) fn check(mode: Mode, needs: &[Needs]) -> Result<(), Unsupported> {
    if check_once(mode, needs).is_ok() {
        return Ok(());
    }
    std::thread::sleep(CONFIRM);
    match check_once(mode, needs) {
        // Virtual servers need no rules and no sets; the sync writes those that the kernel supports.
        Err(Unsupported {
            cause: Cause::Missing(missing),
            ..
        }) if mode.has_virtual_servers() => {
            for (feature, families) in missing {
                let Feature {
                    name,
                    module,
                    option,
                } = feature;
                tracing::error!(
                    ?families,
                    name,
                    module,
                    option,
                    "The kernel lacks a feature; Services that need it are not served completely until \
                     its module is loaded"
                );
            }
            Ok(())
        }
        result => result,
    }
}

fn check_once(mode: Mode, needs: &[Needs]) -> Result<(), Unsupported> {
    let mut missing: BTreeMap<Feature, Vec<IpFamily>> = BTreeMap::new();
    for needs in needs {
        let (family, lacks) = match needs {
            Needs::NfTables(family, features) => (*family, nf_tables(*family, features)),
            Needs::Iptables {
                family,
                backend,
                tables,
                extensions,
            } => (*family, iptables(*family, *backend, tables, extensions)),
            Needs::Sets(family, types) => (*family, sets(types)),
        };
        let lacks = lacks.unwrap_or_else(|error| {
            tracing::warn!(%family, %error, "Cannot probe the kernel's features; continuing");
            Lacks::Features(Vec::new())
        });
        match lacks {
            Lacks::Features(features) => {
                for feature in features {
                    let families = missing.entry(feature).or_default();
                    if !families.contains(&family) {
                        families.push(family);
                    }
                }
            }
            Lacks::Permission => {
                let cause = Cause::NotPermitted;
                return Err(Unsupported { mode, cause });
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let cause = Cause::Missing(missing);
    Err(Unsupported { mode, cause })
}

enum Lacks {
    Features(Vec<Feature>),
    Permission,
}

/// Whether an error means that the kernel lacks what was requested.
fn is_missing(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ENOENT
            | Errno::EOPNOTSUPP
            | Errno::EINVAL
            | Errno::EPROTONOSUPPORT
            | Errno::EAFNOSUPPORT
    )
}

fn nf_tables(family: IpFamily, features: &[(Feature, Op)]) -> Result<Lacks, TransactionError> {
    let table = TableId::new(dataplane::nftables::table_family(family), TABLE);
    let ops: Vec<Op> = features.iter().map(|(_, op)| op.clone()).collect();
    match NfTables::open()?.check(&table, &ops) {
        Ok(()) => Ok(Lacks::Features(Vec::new())),
        Err(TransactionError::RefusedWhole(refusal)) if refusal.errno == Errno::EPERM => {
            Ok(Lacks::Permission)
        }
        Err(TransactionError::RefusedWhole(refusal)) if is_missing(refusal.errno) => {
            Ok(Lacks::Features(vec![dataplane::TABLES]))
        }
        Err(TransactionError::Refused(faults)) => {
            let mut lacks = Vec::new();
            for fault in faults {
                match features.get(fault.at) {
                    // Without the table, everything else fails too.
                    None => {
                        let of_table = features.first().map(|(feature, _)| *feature);
                        return Ok(Lacks::Features(of_table.into_iter().collect()));
                    }
                    Some((feature, _)) if is_missing(fault.refusal.errno) => lacks.push(*feature),
                    Some(_) => {
                        let error = TransactionError::Refused(vec![fault]);
                        tracing::warn!(%family, %error, "Cannot probe a feature; continuing");
                    }
                }
            }
            Ok(Lacks::Features(lacks))
        }
        Err(error) => Err(error),
    }
}

fn iptables(
    family: IpFamily,
    backend: Backend,
    tables: &[Table],
    extensions: &[Extension],
) -> Result<Lacks, TransactionError> {
    let mut host = Extensions::open(kernel_family(family), backend)?;
    if !host.is_available() {
        return Ok(Lacks::Features(vec![legacy_feature(family)]));
    }
    let mut lacks = Vec::new();
    for table in tables {
        if !host.has_table(*table)? {
            lacks.push(table_feature(family, *table));
        }
    }
    if backend == Backend::Nft {
        match nf_tables(family, &dataplane::nft_chains(family))? {
            Lacks::Features(more) => lacks.extend(more),
            Lacks::Permission => return Ok(Lacks::Permission),
        }
    }
    if !lacks.is_empty() {
        return Ok(Lacks::Features(lacks));
    }
    for Extension {
        target,
        feature,
        needed,
    } in extensions
    {
        let kind = match target {
            true => ExtensionKind::Target,
            false => ExtensionKind::Match,
        };
        if *needed == Needed::Legacy && backend != Backend::Legacy {
            continue;
        }
        let has = match host.has(kind, feature.name) {
            Err(error) if error.errno() == Some(Errno::EPERM) => return Ok(Lacks::Permission),
            other => other?,
        };
        match (has, needed) {
            (true, _) => {}
            (false, Needed::Affinity) => {
                let Feature {
                    name,
                    module,
                    option,
                } = feature;
                tracing::warn!(
                    %family, name, module, option,
                    "The kernel lacks a match that client affinity needs; Services with affinity will be refused"
                );
            }
            (false, _) => lacks.push(*feature),
        }
    }
    Ok(Lacks::Features(lacks))
}

fn legacy_feature(family: IpFamily) -> Feature {
    let (module, option) = match family {
        IpFamily::V4 => ("ip_tables", "CONFIG_IP_NF_IPTABLES"),
        IpFamily::V6 => ("ip6_tables", "CONFIG_IP6_NF_IPTABLES"),
    };
    Feature {
        name: "iptables-legacy",
        module,
        option,
    }
}

/// A table of the legacy back end.
fn table_feature(family: IpFamily, table: Table) -> Feature {
    let (name, module, option) = match (family, table) {
        (IpFamily::V4, Table::Nat) => ("table nat", "iptable_nat", "CONFIG_IP_NF_NAT"),
        (IpFamily::V4, Table::Mangle) => ("table mangle", "iptable_mangle", "CONFIG_IP_NF_MANGLE"),
        (IpFamily::V4, _) => ("table filter", "iptable_filter", "CONFIG_IP_NF_FILTER"),
        (IpFamily::V6, Table::Nat) => ("table nat", "ip6table_nat", "CONFIG_IP6_NF_NAT"),
        (IpFamily::V6, Table::Mangle) => {
            ("table mangle", "ip6table_mangle", "CONFIG_IP6_NF_MANGLE")
        }
        (IpFamily::V6, _) => ("table filter", "ip6table_filter", "CONFIG_IP6_NF_FILTER"),
    };
    Feature {
        name,
        module,
        option,
    }
}

fn sets(types: &[(Feature, Set)]) -> Result<Lacks, TransactionError> {
    let mut host = IpSets::open()?;
    let mut lacks = Vec::new();
    for (feature, set) in types {
        if !host.has_type(set)? {
            lacks.push(*feature);
        }
    }
    Ok(Lacks::Features(lacks))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unsupported(missing: &[(Feature, &[IpFamily])]) -> String {
        let missing = missing.iter().map(|(f, families)| (*f, families.to_vec()));
        let unsupported = Unsupported {
            mode: Mode::Nftables,
            cause: Cause::Missing(missing.collect()),
        };
        unsupported.to_string()
    }

    #[test]
    fn a_missing_feature_is_named_with_its_module_and_option() {
        let numgen = Feature {
            name: "numgen",
            module: "nft_numgen",
            option: "CONFIG_NFT_NUMGEN",
        };
        assert_eq!(
            unsupported(&[
                (numgen, &IpFamily::ALL),
                (dataplane::TABLES, &[IpFamily::V6])
            ]),
            "this kernel lacks what nftables mode needs: nf_tables for IPv6 (nf_tables, \
             CONFIG_NF_TABLES), numgen for IPv4 and IPv6 (nft_numgen, CONFIG_NFT_NUMGEN); no Service was \
             programmed; load the modules with `modprobe -a nf_tables nft_numgen`, use a kernel with \
             these options, or choose another --proxy-mode"
        );
    }
}
