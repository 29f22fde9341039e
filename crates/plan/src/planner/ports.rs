//! Planning of one Service with its slices for one family.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use model::{
    EndpointSlice, IpFamily, IpMode, Key, NamespacedName, Protocol, Service, ServicePort,
    ServicePortName, SessionAffinity, TrafficPolicy,
};

use super::claims::{Claim, Claims};
use super::endpoints::{self, Candidate, Here, Targets};
use super::flows;
use super::service::{
    cluster_ip, distinct_ports, external_local, health_check_node_port, source_ranges,
};
use super::store::{Entry, EntryId, Store};
use crate::{Affinity, FamilyDiff, HealthCheck, Plan, PortChange, PortPlan, Reason, Warning};

/// The planned Service in one family.
#[derive(Debug, Default)]
pub(super) struct ServicePlan {
    /// Sorted by key.
    pub(super) ports: Vec<PortPlan>,
    pub(super) endpoint_count: usize,
    pub(super) health: Option<HealthCheck>,
    /// Addresses and ports that belong to another Service port.
    pub(super) taken: Vec<Warning>,
}

/// Plans Services.
#[derive(Debug)]
pub(super) struct Builder {
    here: Here,
    /// Kept to reuse its memory.
    scratch: Vec<Candidate>,
    no_name: Arc<str>,
}

impl Builder {
    pub(super) fn new(node_name: &str) -> Self {
        Self {
            here: Here {
                node_name: node_name.into(),
                zone: None,
            },
            scratch: Vec::new(),
            no_name: "".into(),
        }
    }

    pub(super) fn set_zone(&mut self, zone: Option<&Arc<str>>) {
        self.here.zone = zone.cloned();
    }

    pub(super) fn service(
        &mut self,
        id: EntryId,
        entry: &Entry,
        family: IpFamily,
        claims: &Claims,
        store: &Store,
    ) -> ServicePlan {
        let mut plan = ServicePlan::default();
        let Some(service) = entry.service() else {
            return plan;
        };
        let Some(cluster_ip) = cluster_ip(service, family) else {
            return plan;
        };
        let targets = Targets::new(entry.slices(family));
        plan.ports.reserve_exact(service.ports.len());
        for (index, port) in distinct_ports(service) {
            let mut frontends = Frontends {
                service,
                port,
                family,
                index,
                taken: &mut plan.taken,
                holder: |claim: &Claim| claims.taken_by(claim, id, index, store),
            };
            let Some(mut port_plan) = frontends.resolve(cluster_ip) else {
                continue;
            };
            let all = &mut self.scratch;
            let targets = targets.of(&port.name, port.protocol);
            endpoints::gather(targets, family, &self.here, all);
            plan.endpoint_count += all.len();
            set_endpoints(&mut port_plan, all);
            plan.ports.push(port_plan);
        }
        plan.ports.sort_by(|a, b| order(a).cmp(&order(b)));
        if !plan.ports.is_empty() {
            plan.health = self.health(service, &targets, family);
        }
        plan
    }

    fn health(
        &mut self,
        service: &Service,
        targets: &Targets<'_>,
        family: IpFamily,
    ) -> Option<HealthCheck> {
        let port = health_check_node_port(service)?;
        let mut ips: Vec<IpAddr> = Vec::new();
        for targets in targets.by_port() {
            let all = &mut self.scratch;
            endpoints::gather(targets, family, &self.here, all);
            let ready = all.iter().filter(|c| c.endpoint.is_local && c.is_ready());
            ips.extend(ready.map(|c| c.endpoint.ip));
        }
        let local_ready = endpoints::distinct(ips);
        Some(HealthCheck { port, local_ready })
    }

    /// Replace a Service's ports in the plan.
    pub(super) fn replace_ports(
        &self,
        plan: &mut Plan,
        service: &NamespacedName,
        ports: Vec<PortPlan>,
        diff: &mut FamilyDiff,
    ) {
        let start = ServicePortName {
            service: service.clone(),
            port: self.no_name.clone(),
        };
        let known = plan.ports.range((start, Protocol::Tcp)..);
        let known = known.take_while(|((name, _), _)| name.service == *service);
        let known: Vec<Arc<PortPlan>> = known.map(|(_, port)| port.clone()).collect();
        // Both are sorted, and so are the changes.
        let mut known = known.into_iter().peekable();
        let first = diff.ports.len();
        for port in ports {
            while let Some(gone) = known.next_if(|k| order(k) < order(&port)) {
                remove(plan, gone, diff);
            }
            let before = known.next_if(|k| order(k) == order(&port));
            if before.as_deref() != Some(&port) {
                let port = Arc::new(port);
                plan.ports.insert(port.key(), port.clone());
                let after = Some(port);
                diff.ports.push(PortChange { before, after });
            }
        }
        for gone in known {
            remove(plan, gone, diff);
        }
        let changes = diff.ports[first..].iter();
        diff.stale_flows.extend(changes.filter_map(flows::stale));
    }
}

fn remove(plan: &mut Plan, port: Arc<PortPlan>, diff: &mut FamilyDiff) {
    plan.ports.remove(&port.key());
    let (before, after) = (Some(port), None);
    diff.ports.push(PortChange { before, after });
}

fn order(port: &PortPlan) -> (&str, Protocol) {
    (&port.name.port, port.protocol)
}

fn set_endpoints(port: &mut PortPlan, all: &[Candidate]) {
    let (cluster_policy, local_policy) =
        (port.uses_cluster_endpoints(), port.uses_local_endpoints());
    let usable = endpoints::usable(all, cluster_policy, local_policy);
    port.flow_endpoints = endpoints::serving(all, &usable.cluster);
    let on_node = endpoints::on_node(all);
    port.cluster = usable.cluster;
    port.local = usable.local;
    let mut equal = [&port.local, &port.cluster].into_iter();
    port.on_node = match equal.find(|endpoints| **endpoints == on_node) {
        Some(shared) => shared.clone(),
        None => on_node,
    };
    port.has_any_endpoint = usable.has_any;
}

/// Decides which of its addresses one port receives.
struct Frontends<'a, H> {
    service: &'a Service,
    port: &'a ServicePort,
    family: IpFamily,
    index: usize,
    taken: &'a mut Vec<Warning>,
    /// Claims of other ports.
    holder: H,
}

impl<H: Fn(&Claim) -> Option<ServicePortName>> Frontends<'_, H> {
    /// Return the port without its endpoints; `None` if it does not receive its cluster IP.
    fn resolve(&mut self, cluster_ip: IpAddr) -> Option<PortPlan> {
        let (service, port, family) = (self.service, self.port, self.family);
        if !self.gets(Some(cluster_ip), port.port, || "spec.clusterIPs".to_owned()) {
            return None;
        }
        let external_ips = self.addresses("spec.externalIPs", service.external_ips.iter().copied());
        let vips = service.ingress.iter().filter(|i| i.mode == IpMode::Vip);
        let vips = vips.map(|vip| vip.ip);
        let load_balancer_ips = self.addresses("status.loadBalancer.ingress", vips);
        let index = self.index;
        let node_port = port.node_port.filter(|node_port| {
            self.gets(None, *node_port, || format!("spec.ports[{index}].nodePort"))
        });
        Some(PortPlan {
            name: ServicePortName {
                service: service.name.clone(),
                port: port.name.clone(),
            },
            protocol: port.protocol,
            port: port.port,
            cluster_ip,
            node_port,
            external_ips,
            load_balancer_ips,
            source_ranges: source_ranges(service, family),
            health_check_node_port: health_check_node_port(service),
            affinity: match service.affinity {
                SessionAffinity::None => None,
                SessionAffinity::ClientIp { timeout_seconds } => Some(Affinity { timeout_seconds }),
            },
            internal_local: service.internal_policy == TrafficPolicy::Local,
            external_local: external_local(service),
            cluster: Arc::default(),
            local: Arc::default(),
            has_any_endpoint: false,
            flow_endpoints: Arc::default(),
            on_node: Arc::default(),
        })
    }

    fn addresses(&mut self, field: &str, ips: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
        let mut got = Vec::new();
        for ip in ips {
            let wanted = IpFamily::of(ip) == self.family && !got.contains(&ip);
            if wanted && self.gets(Some(ip), self.port.port, || field.to_owned()) {
                got.push(ip);
            }
        }
        got
    }

    fn gets(
        &mut self,
        ip: Option<IpAddr>,
        port: NonZeroU16,
        field: impl FnOnce() -> String,
    ) -> bool {
        let protocol = self.port.protocol;
        let claim = Claim {
            family: self.family,
            ip,
            port,
            protocol,
        };
        let Some(by) = (self.holder)(&claim) else {
            return true;
        };
        self.taken.push(Warning {
            object: Key::Service(self.service.name.clone()),
            field: field(),
            reason: Reason::Taken {
                ip,
                port,
                protocol,
                by,
            },
        });
        false
    }
}

/// Return the endpoints whose family differs from the slice's `addressType`.
pub(super) fn wrong_family(
    slice: &EndpointSlice,
    family: IpFamily,
) -> impl Iterator<Item = (usize, IpAddr)> {
    let endpoints = slice.endpoints.iter().map(|e| e.address).enumerate();
    endpoints.filter(move |(_, ip)| IpFamily::of(*ip) != family)
}
