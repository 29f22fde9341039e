//! The feature gates of kube-proxy v1.36. All Kubernetes components share one list, so most of them
//! are about something else; a file made for a whole cluster may name any of them.

use std::collections::BTreeMap;

use crate::FieldError;

/// One a line; `NAME=VALUE` where the value can no longer be chosen.
const KNOWN: &str = include_str!("gates.txt");

/// The gates that mean something to a proxy on Linux.
pub(crate) const WITH_EFFECT: [&str; 7] = [
    "AllAlpha",
    "AllBeta",
    "AllowServiceExternalIPs",
    "ComponentFlagz",
    "ComponentStatusz",
    "LoggingAlphaOptions",
    "LoggingBetaOptions",
];

/// How far a feature has come; one word switches all of a stage.
#[derive(Clone, Copy)]
pub(crate) enum Stage {
    /// Off, unless switched on.
    Alpha,
    /// On, unless switched off.
    Beta,
}

/// Whether a feature is on, by its own gate or that of its stage.
pub(crate) fn is_on(gates: &BTreeMap<String, bool>, name: &str, stage: Stage) -> bool {
    let (all, default) = match stage {
        Stage::Alpha => ("AllAlpha", false),
        Stage::Beta => ("AllBeta", true),
    };
    let stated = gates.get(name).or_else(|| gates.get(all));
    stated.copied().unwrap_or(default)
}

/// Gates that do not exist, and values that cannot be had.
pub(crate) fn refused(gates: &BTreeMap<String, bool>) -> Vec<FieldError> {
    let reason = |name: &str, value: bool| {
        let known = KNOWN.lines().find_map(|line| match line.split_once('=') {
            Some((known, locked)) => (known == name).then_some(Some(locked == "true")),
            None => (line == name).then_some(None),
        });
        match known {
            None => Some("there is no such feature gate".to_owned()),
            Some(Some(locked)) if locked != value => {
                Some(format!("is always {locked} in Kubernetes 1.36"))
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
