//! NodePorts on loopback addresses by way of the relay, for the nftables mode.
//!
//! kube-proxy's nftables mode never answers there, and its users miss it (kubernetes/kubernetes
//! 138427): what DNAT makes of a packet from 127.0.0.1 cannot leave the host without
//! `route_localnet`. A relay has no such trouble. As upstream's default is to stay silent, it has to
//! be asked for: by a loopback range in `nodePortAddresses` (`127.0.0.0/8`, `::1/128`), unless
//! `iptables.localhostNodePorts` is set to false. That setting alone cannot be what asks, for it is
//! true where nothing is said.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use model::Protocol;
use plan::{FamilyDiff, NodeFacts, Plan, PortKey, PortPlan};
use relay::{Backends, Error, Frontend};

use super::local_relay::{LocalRelay, backends};

/// The NodePorts of one family on this host's loopback addresses, TCP and UDP.
#[derive(Default)]
pub(crate) struct LoopbackNodePorts {
    relay: LocalRelay,
    /// The loopback addresses that are asked for: on most nodes none, and then the Services are
    /// not looked at.
    asked: Vec<IpAddr>,
    frontends: BTreeMap<Frontend, (PortKey, Backends)>,
    failed: BTreeMap<PortKey, String>,
}

impl LoopbackNodePorts {
    /// Serves what the plan says and nothing else; connections that are open go on. Returns the
    /// Service ports whose NodePort could not be opened, with the reason.
    ///
    /// # Errors
    /// The relay could not be started, or has died.
    pub(crate) fn sync(&mut self, plan: &Plan) -> Result<&BTreeMap<PortKey, String>, Error> {
        self.asked = loopback(&plan.node);
        self.frontends.clear();
        if !self.asked.is_empty() {
            for (key, port) in &plan.ports {
                self.add(key, port);
            }
        }
        self.serve()
    }

    /// The same, where the plan was served but for this change.
    ///
    /// # Errors
    /// As those of [`sync`](Self::sync).
    pub(crate) fn change(
        &mut self,
        plan: &Plan,
        diff: &FamilyDiff,
    ) -> Result<&BTreeMap<PortKey, String>, Error> {
        if loopback(&plan.node) != self.asked {
            return self.sync(plan);
        }
        // What could not be opened is tried again.
        let mut changed = !self.failed.is_empty();
        for before in diff.ports.iter().filter_map(|c| c.before.as_ref()) {
            for frontend in self.of(before) {
                changed |= self.frontends.remove(&frontend).is_some();
            }
        }
        for port in diff.ports.iter().filter_map(|c| c.after.as_ref()) {
            changed |= self.add(&port.key(), port);
        }
        if changed {
            return self.serve();
        }
        Ok(&self.failed)
    }

    /// Where a Service port's NodePort is to answer.
    fn of(&self, port: &PortPlan) -> Vec<Frontend> {
        let node_port = port.node_port.filter(|_| port.protocol != Protocol::Sctp);
        let protocol = port.protocol;
        let at = |(ip, port): (&IpAddr, u16)| Frontend {
            address: SocketAddr::new(*ip, port),
            protocol,
        };
        let node_port = node_port.iter();
        node_port
            .flat_map(|port| self.asked.iter().map(move |ip| (ip, port.get())))
            .map(at)
            .collect()
    }

    /// Who connects from this node gets the cluster's endpoints, whatever the external policy.
    fn add(&mut self, key: &PortKey, port: &PortPlan) -> bool {
        let frontends = self.of(port);
        for frontend in &frontends {
            let to = (key.clone(), backends(port, &port.cluster));
            self.frontends.insert(*frontend, to);
        }
        !frontends.is_empty()
    }

    fn serve(&mut self) -> Result<&BTreeMap<PortKey, String>, Error> {
        let all = self.frontends.iter();
        let all = all.map(|(frontend, (_, backends))| (*frontend, backends.clone()));
        let errors = match self.relay.serve(all.collect()) {
            Ok(errors) => errors,
            Err(error) => {
                // The next change starts from nothing.
                self.asked.clear();
                return Err(error);
            }
        };
        let failed = errors.iter().filter_map(|error| match error {
            Error::Listen { frontend, .. } | Error::Unsupported { frontend } => {
                let (owner, _) = self.frontends.get(frontend)?;
                Some((owner.clone(), error.to_string()))
            }
            Error::Start(_) | Error::Stopped => None,
        });
        self.failed = failed.collect();
        Ok(&self.failed)
    }
}

fn loopback(node: &NodeFacts) -> Vec<IpAddr> {
    let asked = node.node_port_ips.iter().flatten();
    asked.copied().filter(IpAddr::is_loopback).collect()
}
