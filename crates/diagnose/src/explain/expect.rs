//! The plan's expectation for a connection.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dataplane::userspace::unserved;
use model::Mode;
use plan::{Endpoint, Frontend, FrontendKind, LocalDetector, NodeFacts, PortPlan, Traffic};
use trace::Origin;

/// The destination of a connection according to the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// To any of these, with equal shares.
    To(BTreeSet<(IpAddr, u16)>),
    /// The sender receives an error.
    Refused,
    /// Nothing answers.
    Dropped,
}

/// The plan's expectation for one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// Its destination.
    pub to: Expected,
    /// Another possible destination, if the relevant configuration is not known.
    pub or: Option<Expected>,
    /// Whether the client's address is replaced; `None` if that is not known, or not decided by the
    /// rules.
    pub masquerade: Option<bool>,
}

impl Expectation {
    pub(crate) fn only(to: Expected) -> Self {
        Self {
            to,
            or: None,
            masquerade: None,
        }
    }

    fn masqueraded(to: Expected, masquerade: Option<bool>) -> Self {
        Self {
            to,
            or: None,
            masquerade,
        }
    }
}

/// A connection to one frontend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connection<'a> {
    pub(crate) mode: Mode,
    pub(crate) plan: &'a PortPlan,
    pub(crate) node: &'a NodeFacts,
    pub(crate) frontend: &'a Frontend,
    pub(crate) from: Origin,
    pub(crate) src: IpAddr,
    /// Whether the configuration is the proxy's, not the defaults. It determines how pods are recognised.
    pub(crate) is_configured: bool,
}

fn to(endpoints: &[Endpoint]) -> Expected {
    Expected::To(endpoints.iter().map(|e| (e.ip, e.port)).collect())
}

impl Connection<'_> {
    pub(crate) fn expectation(&self) -> Expectation {
        match self.mode {
            Mode::Ipvs => Expectation {
                masquerade: self.masqueraded_by_ipvs(),
                ..Expectation::only(self.by_ipvs())
            },
            Mode::Userspace if unserved(self.plan).is_some() => {
                Expectation::only(Expected::Refused)
            }
            Mode::Userspace => Expectation {
                masquerade: None,
                ..self.by_rules()
            },
            Mode::Iptables | Mode::Nftables => self.by_rules(),
        }
    }

    /// Return whether the client is in none of the source ranges.
    fn is_restricted(&self) -> bool {
        let ranges = &self.plan.source_ranges;
        self.frontend.kind == FrontendKind::LoadBalancerIp
            && !ranges.is_empty()
            && !ranges.iter().any(|r| r.contains(&self.src))
    }

    /// IPVS does not distinguish pods and the node from other clients, and uses other nodes' endpoints
    /// if none is on this node; the node itself does not need to be in a source range.
    fn by_ipvs(&self) -> Expected {
        if self.is_restricted() && self.from != Origin::Node {
            return Expected::Dropped;
        }
        let is_local = if self.frontend.kind == FrontendKind::ClusterIp {
            self.plan.internal_local
        } else {
            self.plan.external_local
        };
        if is_local && !self.plan.local.is_empty() {
            to(&self.plan.local)
        } else if self.plan.cluster.is_empty() {
            Expected::Refused
        } else {
            to(&self.plan.cluster)
        }
    }

    /// Connections from outside to external addresses are masqueraded, unless the policy keeps them on
    /// this node; those of other clients depend on the order of translation and marks.
    fn masqueraded_by_ipvs(&self) -> Option<bool> {
        let is_external = self.frontend.kind != FrontendKind::ClusterIp;
        let is_outside = self.from == Origin::Outside;
        (is_external && is_outside).then_some(!self.plan.external_local)
    }

    /// Return whether the client is recognised as a pod of this node; `None` if that is not known.
    fn is_pod(&self) -> Option<bool> {
        if self.from == Origin::Node {
            return Some(false);
        }
        match &self.node.local {
            LocalDetector::None if self.is_configured => Some(false),
            LocalDetector::Source(range) => Some(range.contains(&self.src)),
            // Pods are behind these interfaces; the routes determine the client's interface.
            LocalDetector::Interface(_) | LocalDetector::InterfacePrefix(_) => {
                Some(self.from == Origin::Pod)
            }
            LocalDetector::None => (self.from == Origin::Outside).then_some(false),
        }
    }

    fn by_rules(&self) -> Expectation {
        let plan = self.plan;
        // iptables mode refuses addresses without endpoints before it checks the client.
        if self.is_restricted() && (plan.has_any_endpoint || self.mode != Mode::Iptables) {
            return Expectation {
                // Which of the two comes first differs between versions of the proxy.
                or: (!plan.has_any_endpoint).then_some(Expected::Refused),
                ..Expectation::only(Expected::Dropped)
            };
        }
        if self.frontend.kind == FrontendKind::ClusterIp {
            let detects = self.node.local != LocalDetector::None;
            let masquerade = if self.node.masquerade_all {
                Some(true)
            } else if self.is_configured {
                self.is_pod().map(|pod| detects && !pod)
            } else {
                None
            };
            return match self.frontend.traffic {
                Traffic::Reject => Expectation::only(Expected::Refused),
                Traffic::Drop => Expectation::only(Expected::Dropped),
                Traffic::Cluster => Expectation::masqueraded(to(&plan.cluster), masquerade),
                Traffic::Local => Expectation::masqueraded(to(&plan.local), masquerade),
            };
        }
        match self.frontend.traffic {
            Traffic::Reject => Expectation::only(Expected::Refused),
            Traffic::Cluster => Expectation::masqueraded(to(&plan.cluster), Some(true)),
            traffic @ (Traffic::Local | Traffic::Drop) => self.by_local_policy(traffic),
        }
    }

    /// Pods and the node itself reach external addresses as if the policy were Cluster.
    fn by_local_policy(&self, traffic: Traffic) -> Expectation {
        let plan = self.plan;
        let kept = if traffic == Traffic::Drop {
            Expectation::only(Expected::Dropped)
        } else {
            Expectation::masqueraded(to(&plan.local), Some(false))
        };
        match self.is_pod() {
            Some(true) => Expectation::masqueraded(to(&plan.cluster), Some(false)),
            _ if self.from == Origin::Node => {
                Expectation::masqueraded(to(&plan.cluster), Some(true))
            }
            Some(false) => kept,
            None => Expectation {
                to: to(&plan.cluster),
                or: Some(kept.to),
                masquerade: Some(false),
            },
        }
    }
}
