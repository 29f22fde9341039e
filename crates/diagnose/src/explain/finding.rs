//! What an explanation finds.

use std::fmt;

use serde::{Serialize, Serializer};

/// How much a finding weighs. The heaviest come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// Connections fail.
    Broken,
    /// Some connections fail, or may.
    Partly,
    /// Nothing is wrong; it explains what surprises people.
    Note,
}

/// What is the matter. One for each kind of cause, so that tests and scripts can name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Cause {
    NotServed,
    NoSlices,
    NoReadyEndpoint,
    EndpointsNotReady,
    PortNotServed,
    NobodyListens,
    NoAnswer,
    NoLocalEndpoint,
    LeftOut,
    SourceRanges,
    SourceNotAllowed,
    TrafficPolicy,
    ForwardingOff,
    BridgeBypass,
    ReversePath,
    ConntrackFull,
    StaleFlow,
    NoRoute,
    ForeignDrop,
    RulesDiffer,
    Ping,
    NetworkPolicy,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cause::NotServed => "not-served",
            Cause::NoSlices => "no-endpoint-slices",
            Cause::NoReadyEndpoint => "no-ready-endpoint",
            Cause::EndpointsNotReady => "endpoints-not-ready",
            Cause::PortNotServed => "port-not-served",
            Cause::NobodyListens => "nobody-listens",
            Cause::NoAnswer => "no-answer",
            Cause::NoLocalEndpoint => "no-local-endpoint",
            Cause::LeftOut => "left-out",
            Cause::SourceRanges => "source-ranges",
            Cause::SourceNotAllowed => "source-not-allowed",
            Cause::TrafficPolicy => "traffic-policy",
            Cause::ForwardingOff => "forwarding-off",
            Cause::BridgeBypass => "bridge-bypass",
            Cause::ReversePath => "reverse-path-filter",
            Cause::ConntrackFull => "conntrack-full",
            Cause::StaleFlow => "stale-flow",
            Cause::NoRoute => "no-route",
            Cause::ForeignDrop => "foreign-drop",
            Cause::RulesDiffer => "rules-differ",
            Cause::Ping => "ping",
            Cause::NetworkPolicy => "network-policy",
        })
    }
}

impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it weighs.
    pub weight: Weight,
    /// The kind of cause.
    pub cause: Cause,
    /// What is so, and what comes of it.
    pub what: String,
    /// What to do about it; empty where nothing needs doing.
    pub change: String,
}

impl Finding {
    pub(crate) fn new(
        weight: Weight,
        cause: Cause,
        what: impl Into<String>,
        change: impl Into<String>,
    ) -> Self {
        Self {
            weight,
            cause,
            what: what.into(),
            change: change.into(),
        }
    }
}

/// At most `most` of them, and how many more there are.
pub(crate) fn listed<T: fmt::Display>(all: impl IntoIterator<Item = T>, most: usize) -> String {
    let mut all = all.into_iter();
    let mut shown: Vec<String> = all.by_ref().take(most).map(|x| x.to_string()).collect();
    let more = all.count();
    if more > 0 {
        shown.push(format!("… and {more} more"));
    }
    shown.join(", ")
}
