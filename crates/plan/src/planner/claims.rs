//! Ownership of addresses and ports that several Services claim.
//!
//! The API server allocates each cluster IP and NodePort once, but does not check external IPs and
//! load-balancer addresses, and objects from files are not checked at all. The decision must not
//! depend on the order of events: a claim that only the cluster can make precedes one that a user
//! can write into a Service (so that `externalIPs` cannot take another Service's cluster IP,
//! CVE-2020-8554). Among equal claims the Service port with the smaller name wins. A port that does
//! not receive its cluster IP is not planned and claims nothing else.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::num::NonZeroU16;

use model::{IpFamily, IpMode, Protocol, Service, ServicePortName};

use super::service::{cluster_ip, distinct_ports};
use super::store::{EntryId, Store};

/// An address and port that only one Service port can own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Claim {
    pub(super) family: IpFamily,
    /// `None` for a NodePort.
    pub(super) ip: Option<IpAddr>,
    pub(super) port: NonZeroU16,
    pub(super) protocol: Protocol,
}

/// Basis of a claim, the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    ClusterIp,
    LoadBalancerIp,
    ExternalIp,
    NodePort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Claimant {
    service: EntryId,
    /// Index into the Service's ports.
    port: u16,
    rank: Rank,
}

/// The claims of all Services.
#[derive(Debug, Default)]
pub(super) struct Claims {
    first: HashMap<Claim, Claimant>,
    /// Further claimants; almost always empty.
    others: HashMap<Claim, Vec<Claimant>>,
}

impl Claims {
    /// Replace the claims of one version of a Service with those of another. Return the other
    /// Services that share a claim with either version.
    pub(super) fn replace(
        &mut self,
        id: EntryId,
        before: Option<&Service>,
        after: Option<&Service>,
    ) -> BTreeSet<EntryId> {
        let mut rivals = BTreeSet::new();
        for (claim, claimant) in before.map(|s| claims_of(id, s)).unwrap_or_default() {
            rivals.extend(self.claimants(&claim).map(|c| c.service));
            self.remove(claim, claimant);
        }
        for (claim, claimant) in after.map(|s| claims_of(id, s)).unwrap_or_default() {
            rivals.extend(self.claimants(&claim).map(|c| c.service));
            self.insert(claim, claimant);
        }
        rivals.remove(&id);
        rivals
    }

    /// Return the other Services that share a claim with a Service.
    pub(super) fn rivals_of(&self, id: EntryId, service: &Service) -> BTreeSet<EntryId> {
        let claims = claims_of(id, service).into_iter();
        let mut rivals: BTreeSet<_> = claims
            .flat_map(|(claim, _)| {
                self.claimants(&claim)
                    .map(|c| c.service)
                    .collect::<Vec<_>>()
            })
            .collect();
        rivals.remove(&id);
        rivals
    }

    /// Return the owner of a claim of the given port; `None` if the port owns it itself.
    pub(super) fn taken_by(
        &self,
        claim: &Claim,
        service: EntryId,
        port: usize,
        store: &Store,
    ) -> Option<ServicePortName> {
        if self.others.is_empty() || !self.others.contains_key(claim) {
            return None;
        }
        let entitled = self
            .claimants(claim)
            .filter(|c| c.rank == Rank::ClusterIp || self.has_cluster_ip(c, claim.family, store));
        let (_, name, holder) = entitled
            .filter_map(|c| Some((c.rank, name_of(c, store)?, c)))
            .min_by(|a, b| (a.0, &a.1, a.2.port).cmp(&(b.0, &b.1, b.2.port)))?;
        let mine = holder.service == service && usize::from(holder.port) == port;
        (!mine).then_some(name)
    }

    /// Return the Service port with a NodePort; of several the one with the smallest name.
    pub(super) fn node_port_claimant(
        &self,
        port: NonZeroU16,
        protocol: Protocol,
        store: &Store,
    ) -> Option<ServicePortName> {
        let claims = IpFamily::ALL.map(|family| Claim {
            family,
            ip: None,
            port,
            protocol,
        });
        let claimants = claims.iter().flat_map(|claim| self.claimants(claim));
        claimants.filter_map(|c| name_of(c, store)).min()
    }

    fn has_cluster_ip(&self, claimant: &Claimant, family: IpFamily, store: &Store) -> bool {
        let Some(service) = store.entry(claimant.service).claimed() else {
            return false;
        };
        let index = usize::from(claimant.port);
        let (Some(ip), Some(port)) = (cluster_ip(service, family), service.ports.get(index)) else {
            return false;
        };
        let claim = Claim {
            family,
            ip: Some(ip),
            port: port.port,
            protocol: port.protocol,
        };
        let holder = self
            .claimants(&claim)
            .filter(|c| c.rank == Rank::ClusterIp)
            .filter_map(|c| Some((name_of(c, store)?, c)))
            .min_by(|a, b| (&a.0, a.1.port).cmp(&(&b.0, b.1.port)));
        holder.is_some_and(|(_, c)| c.service == claimant.service && c.port == claimant.port)
    }

    fn claimants(&self, claim: &Claim) -> impl Iterator<Item = &Claimant> {
        let others = self.others.get(claim).into_iter().flatten();
        self.first.get(claim).into_iter().chain(others)
    }

    fn insert(&mut self, claim: Claim, claimant: Claimant) {
        match self.first.entry(claim) {
            std::collections::hash_map::Entry::Vacant(first) => {
                first.insert(claimant);
            }
            std::collections::hash_map::Entry::Occupied(_) => {
                self.others.entry(claim).or_default().push(claimant);
            }
        }
    }

    fn remove(&mut self, claim: Claim, claimant: Claimant) {
        let others = self.others.get_mut(&claim);
        if self.first.get(&claim) == Some(&claimant) {
            match others.and_then(Vec::pop) {
                Some(next) => self.first.insert(claim, next),
                None => self.first.remove(&claim),
            };
        } else if let Some(others) = others {
            others.retain(|other| *other != claimant);
        }
        if self.others.get(&claim).is_some_and(Vec::is_empty) {
            self.others.remove(&claim);
        }
    }
}

fn name_of(claimant: &Claimant, store: &Store) -> Option<ServicePortName> {
    let service = store.entry(claimant.service).claimed()?;
    let port = service.ports.get(usize::from(claimant.port))?;
    Some(ServicePortName {
        service: service.name.clone(),
        port: port.name.clone(),
    })
}

/// Return the claims of a Service, each once per port.
fn claims_of(id: EntryId, service: &Service) -> Vec<(Claim, Claimant)> {
    let mut claims = Vec::new();
    for family in IpFamily::ALL {
        let Some(cluster_ip) = cluster_ip(service, family) else {
            continue;
        };
        for (index, port) in distinct_ports(service) {
            let Ok(index) = u16::try_from(index) else {
                break;
            };
            let mut add = |rank, ip, number| {
                let claim = Claim {
                    family,
                    ip,
                    port: number,
                    protocol: port.protocol,
                };
                let claimant = Claimant {
                    service: id,
                    port: index,
                    rank,
                };
                claims.push((claim, claimant));
            };
            add(Rank::ClusterIp, Some(cluster_ip), port.port);
            let vips = service.ingress.iter().filter(|i| i.mode == IpMode::Vip);
            for vip in vips.filter(|vip| IpFamily::of(vip.ip) == family) {
                add(Rank::LoadBalancerIp, Some(vip.ip), port.port);
            }
            let external = service.external_ips.iter();
            for ip in external.filter(|ip| IpFamily::of(**ip) == family) {
                add(Rank::ExternalIp, Some(*ip), port.port);
            }
            if let Some(node_port) = port.node_port {
                add(Rank::NodePort, None, node_port);
            }
        }
    }
    // Keep the strongest claim of a port on an address.
    claims.sort_unstable_by_key(|(claim, c)| (*claim, c.port, c.rank));
    claims.dedup_by_key(|(claim, c)| (*claim, c.port));
    claims
}
