//! NodePorts on loopback by way of the relay, for the nftables mode.
//!
//! kube-proxy's nftables mode never answers there, and its users miss it (kubernetes/kubernetes
//! 138427): what DNAT makes of a packet from 127.0.0.1 cannot leave the host without
//! `route_localnet`. A relay has no such trouble, and serves ::1 too. When it does,
//! [`localhost`](crate::wiring::node_ports::localhost) says.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use model::Protocol;
use plan::{Plan, PortChange, PortKey, PortPlan};
use relay::{Backends, Error, Frontend};

use super::local_relay::{SharedRelay, backends};

/// The NodePorts of one family on its loopback address, TCP and UDP.
pub(crate) struct LoopbackNodePorts {
    ip: IpAddr,
    relay: Rc<SharedRelay>,
    owners: BTreeMap<Frontend, PortKey>,
    /// What could not be opened; tried again with every sync.
    failed: Changes,
}

type Changes = BTreeMap<Frontend, Option<Backends>>;

impl LoopbackNodePorts {
    /// Serves nothing yet.
    pub(crate) fn new(ip: IpAddr, relay: Rc<SharedRelay>) -> Self {
        Self {
            ip,
            relay,
            owners: BTreeMap::new(),
            failed: Changes::new(),
        }
    }

    /// Serves what changed; connections that are open go on. Returns the Service ports whose
    /// NodePort could not be opened, with the reason.
    ///
    /// # Errors
    /// The relay could not be started, or has died.
    pub(crate) fn sync(
        &mut self,
        changes: &[PortChange],
    ) -> Result<BTreeMap<PortKey, String>, Error> {
        let before = changes.iter().filter_map(|c| c.before.as_ref());
        let gone: Vec<Frontend> = before.filter_map(|port| self.frontend(port)).collect();
        let after = changes.iter().filter_map(|c| c.after.as_ref());
        self.replace(&gone, after.map(|port| &**port))
    }

    /// Serves what the plan says and nothing else.
    ///
    /// # Errors
    /// As [`Self::sync`].
    pub(crate) fn resync(&mut self, plan: &Plan) -> Result<BTreeMap<PortKey, String>, Error> {
        let all: Vec<Frontend> = self.owners.keys().copied().collect();
        self.replace(&all, plan.ports.values().map(|port| &**port))
    }

    fn replace<'a>(
        &mut self,
        gone: &[Frontend],
        come: impl Iterator<Item = &'a PortPlan>,
    ) -> Result<BTreeMap<PortKey, String>, Error> {
        let mut changes = std::mem::take(&mut self.failed);
        for frontend in gone {
            changes.insert(*frontend, None);
            self.owners.remove(frontend);
        }
        for port in come {
            let Some(frontend) = self.frontend(port) else {
                continue;
            };
            // Who connects from this node gets the cluster's endpoints, whatever the external
            // policy.
            changes.insert(frontend, Some(backends(port, &port.cluster)));
            self.owners.insert(frontend, port.key());
        }
        self.carry_out(&changes)
    }

    fn carry_out(&mut self, changes: &Changes) -> Result<BTreeMap<PortKey, String>, Error> {
        let mut failed = BTreeMap::new();
        if changes.is_empty() || (self.owners.is_empty() && self.relay.running().is_none()) {
            return Ok(failed);
        }
        for error in self.relay.get()?.change(changes.clone())? {
            if let Error::Listen { frontend, .. } = &error
                && let Some(owner) = self.owners.get(frontend)
                && let Some(backends) = changes.get(frontend)
            {
                failed.insert(owner.clone(), error.to_string());
                self.failed.insert(*frontend, backends.clone());
            }
        }
        Ok(failed)
    }

    fn frontend(&self, port: &PortPlan) -> Option<Frontend> {
        let node_port = port.node_port?.get();
        (port.protocol != Protocol::Sctp).then(|| Frontend {
            address: SocketAddr::new(self.ip, node_port),
            protocol: port.protocol,
        })
    }
}
