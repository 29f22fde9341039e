//! Claims that cut off a node or a health check.
//!
//! An external or load-balancer IP that is an address of a Node, and a health check node port that
//! is a NodePort or another Service's health check node port. The API server checks none of them. Both are planned as kube-proxy does and reported
//! once, when the clash appears. Each clash is found from either side through an index, so that the
//! cost follows the change.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use model::{IpFamily, Key, Protocol, Service};

use super::claims::Claims;
use super::service::{cluster_ip, health_check_node_port};
use super::store::{EntryId, Store};
use crate::{Reason, Warning};

/// The indices of both sides, and the clashes that are reported already.
#[derive(Debug, Default)]
pub(super) struct Clashes {
    node_addresses: HashMap<Arc<str>, BTreeSet<IpAddr>>,
    /// The Nodes that have an address, almost always one.
    nodes: HashMap<IpAddr, BTreeSet<Arc<str>>>,
    /// The Services of each external or load-balancer IP.
    exposed: BTreeSet<(IpAddr, EntryId)>,
    /// The Services of each health check node port.
    health_ports: BTreeSet<(NonZeroU16, EntryId)>,
    /// Services to check.
    affected: BTreeSet<EntryId>,
    reported: HashMap<EntryId, Vec<Warning>>,
}

impl Clashes {
    /// Replace the addresses of a Node.
    pub(super) fn set_node(&mut self, name: &Arc<str>, addresses: BTreeSet<IpAddr>) {
        let before = self.node_addresses.remove(name).unwrap_or_default();
        for ip in before.symmetric_difference(&addresses) {
            let nodes = self.nodes.entry(*ip).or_default();
            if addresses.contains(ip) {
                nodes.insert(name.clone());
            } else {
                nodes.remove(name);
            }
            if nodes.is_empty() {
                self.nodes.remove(ip);
            }
            let services = self
                .exposed
                .range((*ip, EntryId::MIN)..=(*ip, EntryId::MAX));
            self.affected.extend(services.map(|(_, id)| *id));
        }
        if !addresses.is_empty() {
            self.node_addresses.insert(name.clone(), addresses);
        }
    }

    /// Return each Node that has addresses, with these.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&Arc<str>, &BTreeSet<IpAddr>)> {
        self.node_addresses.iter()
    }

    /// Replace one version of a Service with another.
    pub(super) fn replace(
        &mut self,
        id: EntryId,
        before: Option<&Service>,
        after: Option<&Service>,
    ) {
        if let Some(service) = before {
            for ip in exposed(service) {
                self.exposed.remove(&(ip, id));
            }
            if let Some(port) = health_port(service) {
                self.health_ports.remove(&(port, id));
            }
        }
        if let Some(service) = after {
            self.exposed.extend(exposed(service).map(|ip| (ip, id)));
            self.health_ports
                .extend(health_port(service).map(|port| (port, id)));
        }
        self.affected.insert(id);
        if self.health_ports.is_empty() {
            return;
        }
        let health = before.into_iter().chain(after).filter_map(health_port);
        for port in health {
            self.affected.extend(self.with_health_port(port));
        }
        let ports = before.into_iter().chain(after).flat_map(|s| &s.ports);
        for port in ports.filter_map(|port| port.node_port) {
            self.affected.extend(self.with_health_port(port));
        }
    }

    /// Return the Services with this health check node port.
    fn with_health_port(&self, port: NonZeroU16) -> Vec<EntryId> {
        let services = (port, EntryId::MIN)..=(port, EntryId::MAX);
        let services = self.health_ports.range(services);
        services.map(|(_, id)| *id).collect()
    }

    /// Check the affected Services, all of whose claims are registered, and return the new clashes.
    pub(super) fn take_new(&mut self, claims: &Claims, store: &Store) -> Vec<Warning> {
        let mut new = Vec::new();
        for id in std::mem::take(&mut self.affected) {
            let service = store.entry(id).claimed();
            let now = service.map_or_else(Vec::new, |s| self.clashes_of(s, claims, store));
            let before = self.reported.remove(&id).unwrap_or_default();
            new.extend(now.iter().filter(|w| !before.contains(w)).cloned());
            if !now.is_empty() {
                self.reported.insert(id, now);
            }
        }
        new.sort_unstable();
        new
    }

    fn clashes_of(&self, service: &Service, claims: &Claims, store: &Store) -> Vec<Warning> {
        let warning = |field: &str, reason| Warning {
            object: Key::Service(service.name.clone()),
            field: field.to_owned(),
            reason,
        };
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for ip in exposed(service) {
            let nodes = self.nodes.get(&ip);
            if let Some(node) = nodes.and_then(BTreeSet::first).filter(|_| seen.insert(ip)) {
                let node = node.clone();
                found.push(warning(
                    "spec.externalIPs",
                    Reason::NodeAddress { ip, node },
                ));
            }
        }
        if let Some(port) = health_port(service)
            && let Some(of) = claims.node_port_claimant(port, Protocol::Tcp, store)
        {
            let reason = Reason::HealthCheckNodePort { port, of };
            found.push(warning("spec.healthCheckNodePort", reason));
        }
        if let Some(port) = health_port(service) {
            let others = self.with_health_port(port).into_iter();
            let names = others.filter_map(|id| Some(&store.entry(id).claimed()?.name));
            if let Some(first) = names.min().filter(|first| **first < service.name) {
                let of = first.clone();
                let reason = Reason::SharedHealthCheckNodePort { port, of };
                found.push(warning("spec.healthCheckNodePort", reason));
            }
        }
        found
    }
}

/// Return the health check node port of a Service that this proxy serves.
fn health_port(service: &Service) -> Option<NonZeroU16> {
    let mut cluster_ips = IpFamily::ALL.map(|f| cluster_ip(service, f)).into_iter();
    health_check_node_port(service).filter(|_| cluster_ips.any(|ip| ip.is_some()))
}

/// Return the external IPs that the plan contains. Load-balancer IPs are not
/// compared: controllers such as k3s's ServiceLB assign node addresses on purpose.
fn exposed(service: &Service) -> impl Iterator<Item = IpAddr> {
    let external = service.external_ips.iter().copied();
    external.filter(|ip| cluster_ip(service, IpFamily::of(*ip)).is_some())
}
