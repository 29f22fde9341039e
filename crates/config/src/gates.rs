//! The feature gates of kube-proxy v1.36, and those that v1.37 added for kube-proxy.
//!
//! All Kubernetes components share one list, so most gates concern other components; a file made
//! for a whole cluster may name any of them.

use std::collections::BTreeMap;

use crate::FieldError;

/// One gate per line; `NAME=VALUE` if the value is locked.
const KNOWN: &str = include_str!("gates.txt");

/// The gates with an effect in sluice.
pub(crate) const WITH_EFFECT: [&str; 9] = [
    "AllAlpha",
    "AllBeta",
    "AllowServiceExternalIPs",
    "ComponentFlagz",
    "ComponentStatusz",
    "KubeProxyIPVS",
    "KubeProxyNFTablesLocalhostNodePorts",
    "LoggingAlphaOptions",
    "LoggingBetaOptions",
];

/// Maturity of a feature; `AllAlpha` and `AllBeta` switch a whole stage.
#[derive(Clone, Copy)]
pub(crate) enum Stage {
    /// Off by default.
    Alpha,
    /// On by default.
    Beta,
}

/// Return whether ipvs mode is available: `KubeProxyIPVS`, deprecated and on by default.
pub(crate) fn has_ipvs(gates: &BTreeMap<String, bool>) -> bool {
    gates.get("KubeProxyIPVS").copied().unwrap_or(true)
}

/// Return whether NodePorts may answer on loopback in nftables mode: unless the gate
/// `KubeProxyNFTablesLocalhostNodePorts` is switched off. sluice served them before kube-proxy did,
/// if the configuration enables them, so the gate does not need to be switched on.
pub(crate) fn allows_nftables_localhost(gates: &BTreeMap<String, bool>) -> bool {
    let gate = gates.get("KubeProxyNFTablesLocalhostNodePorts");
    gate.copied().unwrap_or(true)
}

/// Return whether a feature is on, by its own gate or by the gate of its stage.
pub(crate) fn is_on(gates: &BTreeMap<String, bool>, name: &str, stage: Stage) -> bool {
    let (all, default) = match stage {
        Stage::Alpha => ("AllAlpha", false),
        Stage::Beta => ("AllBeta", true),
    };
    let stated = gates.get(name).or_else(|| gates.get(all));
    stated.copied().unwrap_or(default)
}

/// Return an error for each unknown gate and each value that contradicts a locked one.
pub(crate) fn refused(gates: &BTreeMap<String, bool>) -> Vec<FieldError> {
    let reason = |name: &str, value: bool| {
        let known = KNOWN.lines().find_map(|line| match line.split_once('=') {
            Some((known, locked)) => (known == name).then_some(Some(locked == "true")),
            None => (line == name).then_some(None),
        });
        match known {
            None => Some("unknown feature gate".to_owned()),
            Some(Some(locked)) if locked != value => {
                Some(format!("is locked to {locked} in Kubernetes 1.36"))
            }
            Some(_) => None,
        }
    };
    let refused = |(name, value): (&String, &bool)| {
        reason(name, *value).map(|reason| FieldError {
            field: format!("featureGates.{name}"),
            reason,
        })
    };
    gates.iter().filter_map(refused).collect()
}
