//! The findings of an explanation.

use std::fmt;

use serde::{Serialize, Serializer};

/// The severity of a finding. The most severe is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// Connections fail.
    Broken,
    /// Some connections fail, may fail, or do not behave as the objects state.
    Partly,
    /// No problem; the note explains behaviour that often surprises.
    Note,
}

macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// The kind of cause, for tests and scripts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Cause {
            $($(#[$doc])* $name,)+
        }

        impl Cause {
            /// All causes.
            pub const ALL: &[Cause] = &[$(Cause::$name),+];
        }

        impl fmt::Display for Cause {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Cause::$name => $text,)+
                })
            }
        }
    };
}

causes! {
    /// No rules are made for the Service.
    NotServed = "not-served",
    /// No EndpointSlice belongs to the Service.
    NoSlices = "no-endpoint-slices",
    /// Labels keep the proxy from seeing the EndpointSlices.
    SlicesHidden = "endpoint-slices-hidden",
    /// No endpoint is ready.
    NoReadyEndpoint = "no-ready-endpoint",
    /// Some endpoints are not ready.
    EndpointsNotReady = "endpoints-not-ready",
    /// No endpoint has the Service's port.
    PortNotServed = "port-not-served",
    /// Endpoints refuse connections.
    NobodyListens = "nobody-listens",
    /// Endpoints do not respond.
    NoAnswer = "no-answer",
    /// An endpoint is a NodePort of this node.
    EndpointIsNodePort = "endpoint-is-node-port",
    /// A Local policy, and no endpoint on this node.
    NoLocalEndpoint = "no-local-endpoint",
    /// A part of the Service that the plan leaves out.
    LeftOut = "left-out",
    /// The load balancer has no address yet.
    LoadBalancerPending = "load-balancer-pending",
    /// The load balancer has a host name only.
    LoadBalancerName = "load-balancer-hostname",
    /// An address that the load balancer itself serves (`ipMode: Proxy`).
    LoadBalancerProxy = "load-balancer-proxy",
    /// An external IP that is an address of a node.
    ExternalIpIsNode = "external-ip-is-node",
    /// An external IP that is a pod's address.
    ExternalIpIsPod = "external-ip-is-pod",
    /// Another Service receives the connections to a frontend.
    CutOff = "cut-off",
    /// A health check node port that another Service uses too.
    HealthCheckPort = "health-check-port",
    /// Source ranges restrict the load-balancer addresses.
    SourceRanges = "source-ranges",
    /// The client is in no source range.
    SourceNotAllowed = "source-not-allowed",
    /// The effect of the external policy on client addresses.
    TrafficPolicy = "traffic-policy",
    /// The rules treat endpoints of this node as another node's.
    NodeName = "node-name",
    /// Forwarding is off.
    ForwardingOff = "forwarding-off",
    /// Packets between pods on one bridge bypass the rules.
    BridgeBypass = "bridge-bypass",
    /// The reverse path filter drops packets.
    ReversePath = "reverse-path-filter",
    /// The kernel drops packets because of their addresses.
    Martian = "martian",
    /// The connection table is full.
    ConntrackFull = "conntrack-full",
    /// Flows that still go to a removed endpoint.
    StaleFlow = "stale-flow",
    /// No route leads to an endpoint.
    NoRoute = "no-route",
    /// A rule of another program drops or refuses connections.
    ForeignDrop = "foreign-drop",
    /// The policy of a chain drops connections.
    ChainPolicy = "chain-policy",
    /// A rule of another program decides before the Service rules.
    ForeignRule = "foreign-rule",
    /// The kernel refused the proxy's rules for a Service port.
    Quarantined = "quarantined",
    /// A program on this node has the Service's address.
    AnsweredHere = "answered-here",
    /// The rules do not match the objects.
    RulesDiffer = "rules-differ",
    /// Rules of an earlier proxy decide.
    StaleRules = "stale-rules",
    /// Endpoints get unequal shares.
    Shares = "shares",
    /// The client's address is replaced although it must be kept.
    SourceReplaced = "source-replaced",
    /// The client's address is kept although it must be replaced.
    SourceKept = "source-kept",
    /// Answers do not reach the client.
    ReplyLost = "reply-lost",
    /// Why a Service does not answer pings.
    Ping = "ping",
    /// The addresses that a NetworkPolicy sees.
    NetworkPolicy = "network-policy",
}

impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One difference or cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its severity.
    pub weight: Weight,
    /// The kind of cause.
    pub cause: Cause,
    /// The fact, its consequence, and the object that decides.
    pub what: String,
    /// The fix; empty if none is needed.
    pub change: String,
    /// The rule, element, route or setting that decides; empty if an object of the API does.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub decides: String,
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
            decides: String::new(),
        }
    }

    /// Name the rule, element, route or setting that decides.
    pub(crate) fn decided_by(self, object: impl Into<String>) -> Self {
        Self {
            decides: object.into(),
            ..self
        }
    }
}

/// Return at most `most` of them, and the number of the others.
pub(crate) fn listed<T: fmt::Display>(all: impl IntoIterator<Item = T>, most: usize) -> String {
    let mut all = all.into_iter();
    let mut shown: Vec<String> = all.by_ref().take(most).map(|x| x.to_string()).collect();
    let more = all.count();
    if more > 0 {
        shown.push(format!("… and {more} more"));
    }
    shown.join(", ")
}
