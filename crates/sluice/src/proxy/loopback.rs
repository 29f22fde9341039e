//! NodePorts on loopback in nftables mode, served by the relay.
//!
//! DNAT cannot serve them: a packet from 127.0.0.1 does not leave the host without `route_localnet`.
//! The relay has no such limit, and serves ::1 too. The setting is in
//! [`localhost`](crate::settings::node_ports::localhost).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use dataplane::Refusals;
use model::Protocol;
use plan::{Plan, PortKey, PortPlan};
use relay::{Backends, Error, Frontend};

use super::driver::Chain;
use super::local_relay::{SharedRelay, backends};

/// The NodePorts of one family on its loopback address, TCP and UDP.
pub(crate) struct LoopbackNodePorts {
    ip: IpAddr,
    relay: Rc<SharedRelay>,
    served: BTreeMap<PortKey, Frontend>,
    /// Frontends that could not be opened; tried again in every sync.
    failed: Changes,
}

type Changes = BTreeMap<Frontend, Option<Backends>>;

impl LoopbackNodePorts {
    /// Return an instance without NodePorts.
    pub(crate) fn new(ip: IpAddr, relay: Rc<SharedRelay>) -> Self {
        Self {
            ip,
            relay,
            served: BTreeMap::new(),
            failed: Changes::new(),
        }
    }

    /// Serve the Service ports that changed; open connections continue. Return the ports whose
    /// NodePort could not be opened.
    ///
    /// # Errors
    /// The relay could not be started, or has stopped.
    pub(crate) fn sync(
        &mut self,
        plan: &Plan,
        changed: &BTreeSet<PortKey>,
    ) -> Result<Refusals, Error> {
        let mut changes = std::mem::take(&mut self.failed);
        let removed = changed.iter().filter_map(|key| self.served.remove(key));
        changes.extend(removed.map(|frontend| (frontend, None)));
        for port in changed.iter().filter_map(|key| plan.ports.get(key)) {
            if let Some(frontend) = self.frontend(port) {
                // Clients on this node reach the cluster's endpoints, whatever the external policy.
                changes.insert(frontend, Some(backends(port, &port.cluster)));
                self.served.insert(port.key(), frontend);
            }
        }
        self.carry_out(&changes)
    }

    /// Serve the NodePorts of the plan, and close all others.
    ///
    /// # Errors
    /// As [`Self::sync`].
    pub(crate) fn resync(&mut self, plan: &Plan) -> Result<Refusals, Error> {
        let all = self.served.keys().chain(plan.ports.keys()).cloned();
        self.sync(plan, &all.collect())
    }

    fn carry_out(&mut self, changes: &Changes) -> Result<Refusals, Error> {
        let mut failed = Refusals::default();
        if changes.is_empty() || (self.served.is_empty() && self.relay.running().is_none()) {
            return Ok(failed);
        }
        for error in self.relay.get()?.change(changes.clone())? {
            if let Error::Listen { frontend, .. } = &error
                && let Some((owner, _)) = self.served.iter().find(|(_, f)| *f == frontend)
                && let Some(backends) = changes.get(frontend)
            {
                failed.reject(owner.clone(), Chain(&error).to_string());
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
