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

use dataplane::ipvs::SetType;
use dataplane::{Extension, Feature, Needed};
use kernel::Errno;
use kernel::ipset::IpSets;
use kernel::iptables::{Backend, ExtensionKind, Extensions};
use kernel::nfnetlink::{NfTables, TableId, TransactionError};
use model::{IpFamily, Mode};
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
    Sets(IpFamily, Vec<SetType>),
}

impl Needs {
    fn family(&self) -> IpFamily {
        match self {
            Needs::NfTables(family, _)
            | Needs::Iptables { family, .. }
            | Needs::Sets(family, _) => *family,
        }
    }
}

/// Features that the kernel lacks, so that the mode serves no Service of some address families.
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

impl Unsupported {
    /// Return the address families that cannot be served, in order.
    pub(crate) fn families(&self) -> Vec<IpFamily> {
        let lacks = |family: &IpFamily| match &self.cause {
            Cause::Missing(missing) => missing.values().any(|families| families.contains(family)),
            Cause::NotPermitted => true,
        };
        IpFamily::ALL.into_iter().filter(lacks).collect()
    }

    /// Return the error that ends the process.
    pub(crate) fn into_error(self) -> anyhow::Error {
        anyhow::anyhow!("{self}; no Service was programmed; {}", self.fix())
    }

    /// Return the commands and settings that provide the features.
    fn fix(&self) -> String {
        let Cause::Missing(missing) = &self.cause else {
            return "run it as root, or with the capability NET_ADMIN in the node's network namespace"
                .to_owned();
        };
        let modules = missing.keys().map(|feature| feature.module);
        format!(
            "load the modules with `modprobe -a {}`, use a kernel with these options, or choose another \
             --proxy-mode",
            distinct(modules.collect()).join(" ")
        )
    }
}

/// The missing features, without consequence and remedy.
impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = self.mode;
        let missing = match &self.cause {
            Cause::Missing(missing) => missing,
            Cause::NotPermitted => {
                return f.write_str("the kernel does not permit this process to program netfilter");
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
        Ok(())
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
            Ok(unserved) => Input::Probed(unserved),
            Err(unsupported) => Input::Stop(Stop::Unsupported(unsupported)),
        };
        // The process is ending if no one receives it.
        let _ = inputs.send(input);
    })
}

/// Probe, and repeat the probe before a feature counts as missing. Report features whose absence affects
/// only some Services. Return the features without which one of two address families cannot be served.
///
/// # Errors
/// No address family can be served.
pub(crate) fn check(mode: Mode, needs: &[Needs]) -> Result<Option<Unsupported>, Unsupported> {
    let mut probed = probe_all(needs);
    if !probed.iter().all(|(_, lacks)| lacks.is_nothing()) {
        std::thread::sleep(CONFIRM);
        probed = probe_all(needs);
    }
    let verdict = judge(mode, probed)?;
    for (family, feature, needed) in verdict.partial {
        let Feature {
            name,
            module,
            option,
        } = feature;
        let consequence = match needed {
            Needed::Affinity => "Services with client affinity are refused",
            _ => {
                "Services with source ranges are closed, and the node's own ports answer at Service addresses"
            }
        };
        tracing::error!(
            %family,
            name,
            module,
            option,
            consequence,
            "The kernel lacks a feature; serving other Services until its module is loaded"
        );
    }
    if let Some(unserved) = &verdict.unserved {
        tracing::warn!(
            families = ?unserved.families(),
            error = %unserved,
            fix = unserved.fix(),
            "Not serving an address family; restart after its modules are loaded"
        );
    }
    Ok(verdict.unserved)
}

/// The consequences of missing features.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// What the family that is not served lacks.
    pub(super) unserved: Option<Unsupported>,
    /// Features that only some Services need.
    partial: Vec<(IpFamily, Feature, Needed)>,
}

/// Decide what can be served. As in kube-proxy, a family that the kernel lacks does not affect the other.
///
/// # Errors
/// No address family can be served.
fn judge(mode: Mode, probed: Vec<(IpFamily, Lacks)>) -> Result<Verdict, Unsupported> {
    let mut missing: BTreeMap<Feature, Vec<IpFamily>> = BTreeMap::new();
    let mut partial = Vec::new();
    let mut served: Vec<IpFamily> = probed.iter().map(|(family, _)| *family).collect();
    for (family, lacks) in probed {
        let Lacks::Features(features) = lacks else {
            let cause = Cause::NotPermitted;
            return Err(Unsupported { mode, cause });
        };
        for (feature, needed) in features {
            match needed {
                Needed::Always | Needed::Legacy => {
                    served.retain(|served| *served != family);
                    let families = missing.entry(feature).or_default();
                    if !families.contains(&family) {
                        families.push(family);
                    }
                }
                Needed::Affinity | Needed::Filter => partial.push((family, feature, needed)),
            }
        }
    }
    partial.retain(|(family, ..)| served.contains(family));
    if missing.is_empty() {
        let unserved = None;
        return Ok(Verdict { unserved, partial });
    }
    let cause = Cause::Missing(missing);
    let unsupported = Unsupported { mode, cause };
    if served.is_empty() {
        return Err(unsupported);
    }
    let unserved = Some(unsupported);
    Ok(Verdict { unserved, partial })
}

fn probe_all(needs: &[Needs]) -> Vec<(IpFamily, Lacks)> {
    let probes = needs.iter().map(|needs| {
        let lacks = match needs {
            Needs::NfTables(family, features) => nf_tables(*family, features),
            Needs::Iptables {
                family,
                backend,
                tables,
                extensions,
            } => iptables(*family, *backend, tables, extensions),
            Needs::Sets(_, types) => sets(types),
        };
        let family = needs.family();
        let lacks = lacks.unwrap_or_else(|error| {
            tracing::warn!(%family, %error, "Cannot probe the kernel's features; continuing");
            Lacks::NOTHING
        });
        (family, lacks)
    });
    probes.collect()
}

/// The result of a probe.
enum Lacks {
    /// Features, with the rules that need them.
    Features(Vec<(Feature, Needed)>),
    Permission,
}

impl Lacks {
    const NOTHING: Self = Lacks::Features(Vec::new());

    /// Features without which nothing is served.
    fn always(features: impl IntoIterator<Item = Feature>) -> Self {
        let features = features.into_iter();
        Lacks::Features(features.map(|feature| (feature, Needed::Always)).collect())
    }

    fn is_nothing(&self) -> bool {
        matches!(self, Lacks::Features(features) if features.is_empty())
    }
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
        Ok(()) => Ok(Lacks::NOTHING),
        Err(TransactionError::RefusedWhole(refusal)) if refusal.errno == Errno::EPERM => {
            Ok(Lacks::Permission)
        }
        Err(TransactionError::RefusedWhole(refusal)) if is_missing(refusal.errno) => {
            Ok(Lacks::always([dataplane::TABLES]))
        }
        Err(TransactionError::Refused(faults)) => {
            let mut lacks = Vec::new();
            for fault in faults {
                match features.get(fault.at) {
                    // Without the table, everything else fails too.
                    None => {
                        let of_table = features.first().map(|(feature, _)| *feature);
                        return Ok(Lacks::always(of_table));
                    }
                    Some((feature, _)) if is_missing(fault.refusal.errno) => lacks.push(*feature),
                    Some(_) => {
                        let error = TransactionError::Refused(vec![fault]);
                        tracing::warn!(%family, %error, "Cannot probe a feature; continuing");
                    }
                }
            }
            Ok(Lacks::always(lacks))
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
        return Ok(Lacks::always([legacy_feature(family)]));
    }
    let mut lacks = Vec::new();
    for table in tables {
        if !host.has_table(*table)? {
            lacks.push((table_feature(family, *table), Needed::Always));
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
        if !has {
            lacks.push((*feature, *needed));
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

fn sets(types: &[SetType]) -> Result<Lacks, TransactionError> {
    let mut host = IpSets::open()?;
    let mut lacks = Vec::new();
    for set in types {
        if !host.has_type(&set.example)? {
            lacks.push((set.feature, set.needed));
        }
    }
    Ok(Lacks::Features(lacks))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::proxy) const NUMGEN: Feature = Feature {
        name: "numgen",
        module: "nft_numgen",
        option: "CONFIG_NFT_NUMGEN",
    };
    const RECENT: Feature = Feature {
        name: "recent",
        module: "xt_recent",
        option: "CONFIG_NETFILTER_XT_MATCH_RECENT",
    };

    /// Probes of both families, of which these lack features.
    pub(in crate::proxy) fn judged(
        lacking: &[(IpFamily, Feature, Needed)],
    ) -> Result<Verdict, Unsupported> {
        let probed = IpFamily::ALL.into_iter().map(|family| {
            let lacking = lacking.iter().filter(|(f, ..)| *f == family);
            let lacking = lacking.map(|(_, feature, needed)| (*feature, *needed));
            (family, Lacks::Features(lacking.collect()))
        });
        judge(Mode::Nftables, probed.collect())
    }

    #[test]
    fn a_missing_feature_is_named_with_its_module_and_option() {
        let error = judged(&[
            (IpFamily::V4, NUMGEN, Needed::Always),
            (IpFamily::V6, NUMGEN, Needed::Always),
            (IpFamily::V6, dataplane::TABLES, Needed::Always),
        ])
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "this kernel lacks what nftables mode needs: nf_tables for IPv6 (nf_tables, \
             CONFIG_NF_TABLES), numgen for IPv4 and IPv6 (nft_numgen, CONFIG_NFT_NUMGEN)"
        );
        assert_eq!(
            error.fix(),
            "load the modules with `modprobe -a nf_tables nft_numgen`, use a kernel with these options, \
             or choose another --proxy-mode"
        );
        assert_eq!(error.families(), IpFamily::ALL);
    }

    #[test]
    fn a_family_that_lacks_a_feature_does_not_affect_the_other() {
        for (lacking, other) in [(IpFamily::V6, IpFamily::V4), (IpFamily::V4, IpFamily::V6)] {
            let verdict = judged(&[
                (lacking, NUMGEN, Needed::Always),
                (lacking, RECENT, Needed::Affinity),
                (other, RECENT, Needed::Affinity),
            ]);
            let verdict = verdict.unwrap();
            assert_eq!(verdict.unserved.unwrap().families(), [lacking]);
            assert_eq!(verdict.partial, [(other, RECENT, Needed::Affinity)]);
        }
    }

    #[test]
    fn the_only_family_of_a_node_needs_all_features() {
        let lacks = Lacks::always([NUMGEN]);
        let error = judge(Mode::Nftables, vec![(IpFamily::V4, lacks)]).unwrap_err();
        assert_eq!(error.families(), [IpFamily::V4]);
    }

    #[test]
    fn features_of_some_services_do_not_prevent_a_start() {
        for needed in [Needed::Affinity, Needed::Filter] {
            let lacking = IpFamily::ALL.map(|family| (family, RECENT, needed));
            let verdict = judged(&lacking).unwrap();
            assert_eq!(verdict.unserved, None);
            assert_eq!(verdict.partial, lacking);
        }
    }

    #[test]
    fn a_missing_permission_prevents_a_start() {
        let probed = vec![
            (IpFamily::V4, Lacks::NOTHING),
            (IpFamily::V6, Lacks::Permission),
        ];
        let error = judge(Mode::Ipvs, probed).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the kernel does not permit this process to program netfilter"
        );
        assert!(error.fix().contains("NET_ADMIN"), "{}", error.fix());
    }
}
