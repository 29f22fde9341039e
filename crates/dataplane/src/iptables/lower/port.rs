//! A Service port with the names that its rules use.

use std::net::IpAddr;

use netfilter::iptables::Chain;
use plan::{Endpoint, PortPlan, Traffic};

use super::super::Problem;
use super::super::names::{Kind, Namer};

/// A Service port during lowering.
pub(in super::super) struct Port<'a> {
    pub(super) plan: &'a PortPlan,
    /// `namespace/name:port`.
    pub(super) name: String,
    pub(super) namer: Namer,
    /// The chains of all reachable endpoints, sorted by address and port, derived on first use: each
    /// is needed two or three times, and a name costs more than a rule.
    chains: Vec<((IpAddr, u16), Chain)>,
}

/// The kernel stores 256 bytes with the terminating NUL (`XT_MAX_COMMENT_LEN`, xt_comment.h).
const MAX_COMMENT: usize = 255;

impl<'a> Port<'a> {
    /// # Errors
    /// The names make a comment that iptables or the kernel would refuse.
    pub(in super::super) fn new(plan: &'a PortPlan) -> Result<Self, Problem> {
        let name = plan.name.to_string();
        if name.contains(char::is_control) {
            return Err(Problem::ControlCharacter { port: plan.key() });
        }
        let namer = Namer::new(&name, plan.protocol);
        let port = Self {
            plan,
            name,
            namer,
            chains: Vec::new(),
        };
        match port.longest_comment() {
            Some(comment) if comment.len() > MAX_COMMENT => Err(Problem::LongComment {
                port: plan.key(),
                comment,
            }),
            _ => Ok(port),
        }
    }

    /// The longest possible comment, if it may exceed the limit.
    fn longest_comment(&self) -> Option<String> {
        // EXT and FW rules and endpoints have the longest text around a name.
        const ROOM: usize = 80;
        if self.name.len() + ROOM <= MAX_COMMENT {
            return None;
        }
        let firewall = self.namer.chain(Kind::Firewall);
        let mut all = vec![
            self.cluster_ip_comment(),
            format!("{} has no local endpoints", self.name),
        ];
        if self.uses_external_chain() {
            all.push(self.external_comment("masquerade LOCAL traffic for"));
        }
        if self.uses_firewall_chain() {
            all.push(self.firewall_comment(firewall));
            all.push(self.other_traffic_comment());
        }
        let endpoints = self.plan.cluster.iter().chain(self.plan.local.iter());
        all.extend(endpoints.map(|e| format!("{} -> {e}", self.name)));
        all.into_iter().max_by_key(String::len)
    }

    pub(super) fn cluster_ip_comment(&self) -> String {
        format!("{} cluster IP", self.name)
    }

    pub(super) fn external_comment(&self, what: &str) -> String {
        format!("{what} {} external destinations", self.name)
    }

    pub(super) fn firewall_comment(&self, firewall: Chain) -> String {
        format!("{} traffic not accepted by {firewall}", self.name)
    }

    pub(super) fn other_traffic_comment(&self) -> String {
        let name = &self.name;
        format!("other traffic to {name} will be dropped by KUBE-PROXY-FIREWALL")
    }

    /// Whether traffic to the cluster IP is balanced.
    pub(super) fn has_internal_endpoints(&self) -> bool {
        matches!(
            self.plan.internal_traffic(),
            Traffic::Cluster | Traffic::Local
        )
    }

    /// Whether external traffic is balanced.
    pub(super) fn has_external_endpoints(&self) -> bool {
        matches!(
            self.plan.external_traffic(),
            Traffic::Cluster | Traffic::Local
        )
    }

    /// Also if external traffic is dropped, since traffic of pods and the node itself is not.
    pub(super) fn uses_external_chain(&self) -> bool {
        self.plan.has_any_endpoint && self.plan.externally_accessible()
    }

    pub(super) fn uses_firewall_chain(&self) -> bool {
        self.plan.has_any_endpoint
            && !self.plan.load_balancer_ips.is_empty()
            && !self.plan.source_ranges.is_empty()
    }

    /// The chain that balances traffic to the cluster IP.
    pub(super) fn internal_kind(&self) -> Kind {
        if self.plan.internal_local {
            Kind::Local
        } else {
            Kind::Cluster
        }
    }

    /// The chain of an endpoint.
    pub(in super::super) fn endpoint_chain(&mut self, endpoint: &Endpoint) -> Chain {
        if self.chains.is_empty() {
            self.name_endpoints();
        }
        let key = (endpoint.ip, endpoint.port);
        match self.chains.binary_search_by_key(&key, |(key, _)| *key) {
            Ok(at) => self.chains[at].1,
            Err(_) => self.namer.endpoint(endpoint),
        }
    }

    fn name_endpoints(&mut self) {
        let namer = &mut self.namer;
        let reachable = self.plan.reachable();
        let named = reachable
            .iter()
            .map(|endpoint| ((endpoint.ip, endpoint.port), namer.endpoint(endpoint)));
        self.chains = named.collect();
        self.chains.sort_unstable_by_key(|(key, _)| *key);
    }
}
