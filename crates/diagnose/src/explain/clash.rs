//! Addresses and ports that Services claim in different ways, so that one cuts another off: an external
//! IP with the number of a NodePort, a health check node port, an external IP that is a pod's address.
//!
//! The plan contains both sides, as kube-proxy's does. Claims of the same kind are decided by the plan
//! (`left-out`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;

use model::{EndpointSlice, NamespacedName, Protocol, ServicePortName};
use plan::{Frontend, FrontendKind, Plan, PortPlan, Reason};

use super::finding::{Cause, Finding, Weight};
use super::subject::{Objects, Subject};

/// The claims of all Services that can clash.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// External and load-balancer IPs that are addresses of this node.
    own: BTreeMap<(IpAddr, Protocol, NonZeroU16), ServicePortName>,
    node_ports: BTreeMap<(Protocol, NonZeroU16), ServicePortName>,
    /// External IPs that are addresses of other Services' endpoints, with the Services of both.
    endpoints: BTreeSet<(IpAddr, NamespacedName, NamespacedName)>,
}

/// Return the external and load-balancer IPs.
fn external(port: &PortPlan) -> impl Iterator<Item = IpAddr> {
    let all = port.external_ips.iter().chain(&port.load_balancer_ips);
    all.copied()
}

impl Claims {
    /// Collect the claims in the plans of both families. `own` are the node's addresses.
    pub(crate) fn new(plans: &[Plan], own: &BTreeSet<IpAddr>, objects: &Objects) -> Self {
        let mut claims = Self::default();
        let mut elsewhere: BTreeMap<IpAddr, BTreeSet<&NamespacedName>> = BTreeMap::new();
        for port in plans.iter().flat_map(|plan| plan.ports.values()) {
            if let Some(number) = port.node_port {
                let key = (port.protocol, number);
                claims.node_ports.insert(key, port.name.clone());
            }
            for ip in external(port) {
                if own.contains(&ip) {
                    let key = (ip, port.protocol, port.port);
                    claims.own.insert(key, port.name.clone());
                } else {
                    elsewhere.entry(ip).or_default().insert(&port.name.service);
                }
            }
        }
        // Pods in the host's network: the plan reports the addresses of nodes.
        for address in objects.nodes.iter().flat_map(|node| &node.addresses) {
            elsewhere.remove(&address.ip);
        }
        if !elsewhere.is_empty() {
            claims.endpoints = objects
                .slices
                .iter()
                .flat_map(|s| taken(s, &elsewhere))
                .collect();
        }
        claims
    }
}

/// Return the endpoints of a slice that are external IPs of other Services.
fn taken(
    slice: &EndpointSlice,
    external: &BTreeMap<IpAddr, BTreeSet<&NamespacedName>>,
) -> Vec<(IpAddr, NamespacedName, NamespacedName)> {
    let mut found = Vec::new();
    let Some(of) = &slice.service else {
        return found;
    };
    for ip in slice.endpoints.iter().map(|endpoint| endpoint.address) {
        let services = external.get(&ip).into_iter().flatten();
        let others = services.filter(|service| **service != of);
        found.extend(others.map(|service| (ip, (*service).clone(), of.clone())));
    }
    found
}

impl Subject<'_> {
    /// Return the other Service port that receives the connections to a frontend at an address of this node.
    ///
    /// Rules for addresses precede those of NodePorts. In ipvs mode both need the same virtual server,
    /// which the Service port with the smaller name receives.
    pub(crate) fn taken_by(
        &self,
        plan: &PortPlan,
        frontend: &Frontend,
        ip: IpAddr,
    ) -> Option<&ServicePortName> {
        let claims = &self.cluster.claims;
        let by_name = self.mode.has_virtual_servers();
        let other = match frontend.kind {
            FrontendKind::NodePort => claims.own.get(&(ip, plan.protocol, frontend.port)),
            FrontendKind::ExternalIp | FrontendKind::LoadBalancerIp => {
                let here = by_name && self.is_own(ip);
                let key = (plan.protocol, frontend.port);
                here.then(|| claims.node_ports.get(&key)).flatten()
            }
            FrontendKind::ClusterIp => None,
        };
        other.filter(|other| **other != plan.name && (!by_name || **other < plan.name))
    }

    /// Return the addresses of this node at which a NodePort answers.
    fn node_port_ips(&self, plan: &PortPlan, configured: Option<&[IpAddr]>) -> Vec<IpAddr> {
        let is_v4 = plan.cluster_ip.is_ipv4();
        let own = self.cluster.own_addresses.iter();
        let own = own.filter(|ip| ip.is_ipv4() == is_v4 && !ip.is_loopback());
        configured.map_or_else(|| own.copied().collect(), <[IpAddr]>::to_vec)
    }
}

/// Run every check of this kind.
pub(crate) fn findings(subject: &Subject<'_>) -> Vec<Finding> {
    let mut found = cut_off(subject);
    found.extend(health_checks(subject));
    found.extend(hijacking(subject));
    found.extend(hijacked(subject, Weight::Note));
    found
}

/// Find frontends whose connections another Service receives.
pub(crate) fn cut_off(subject: &Subject<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    for (plan, node) in &subject.plans {
        for frontend in plan.frontends() {
            let ips = match frontend.ip {
                Some(ip) => vec![ip],
                None => subject.node_port_ips(plan, node.node_port_ips.as_deref()),
            };
            for ip in ips {
                if let Some(other) = subject.taken_by(plan, &frontend, ip) {
                    found.push(cut_off_at(subject, plan, &frontend, (ip, other)));
                }
            }
        }
    }
    found
}

fn cut_off_at(
    subject: &Subject<'_>,
    plan: &PortPlan,
    frontend: &Frontend,
    (ip, other): (IpAddr, &ServicePortName),
) -> Finding {
    let at = trace::Endpoint {
        ip,
        port: frontend.port.get(),
    };
    let (mine, theirs) = match frontend.kind {
        FrontendKind::NodePort => ("NodePort", "externalIP or load-balancer IP"),
        _ => ("externalIP or load-balancer IP", "NodePort"),
    };
    let why = if subject.mode.has_virtual_servers() {
        "ipvs mode has one virtual server for both, and the Service whose name sorts first owns it"
    } else {
        "rules for addresses precede those of NodePorts"
    };
    Finding::new(
        Weight::Partly,
        Cause::CutOff,
        format!(
            "{mine} {at}/{} of {} is also the {theirs} of {other}, which receives the connections: {why}",
            plan.protocol, plan.name
        ),
        format!("give one of the two Services another port, or remove {ip} from its externalIPs"),
    )
}

/// Find other Services' health checks that reach this one, or compete with its own.
fn health_checks(subject: &Subject<'_>) -> Vec<Finding> {
    let name = &subject.service.name;
    let mut found = Vec::new();
    for warning in subject.cluster.warnings() {
        match &warning.reason {
            Reason::HealthCheckNodePort { port, of } if of.service == *name => {
                found.push(Finding::new(
                    Weight::Note,
                    Cause::HealthCheckPort,
                    format!(
                        "NodePort {port} of {of} is also the healthCheckNodePort of {}: health checks of \
                         its load balancer reach {name}",
                        warning.object
                    ),
                    "give one of the two Services another port",
                ));
            }
            Reason::SharedHealthCheckNodePort { port, of } if of == name => {
                found.push(Finding::new(
                    Weight::Partly,
                    Cause::HealthCheckPort,
                    format!(
                        "healthCheckNodePort {port} is also that of {}: the proxy answers health checks \
                         for only one of the two",
                        warning.object
                    ),
                    "give one of the two Services another port",
                ));
            }
            _ => {}
        }
    }
    found
}

/// Find external IPs of this Service that are addresses of pods.
fn hijacking(subject: &Subject<'_>) -> Vec<Finding> {
    let all = subject.cluster.claims.endpoints.iter();
    let ours = all.filter(|(_, service, _)| *service == subject.service.name);
    let finding = |(ip, service, of): &(IpAddr, NamespacedName, NamespacedName)| {
        Finding::new(
            Weight::Partly,
            Cause::ExternalIpIsPod,
            format!(
                "externalIP {ip} is the address of an endpoint of {of}: connections from here to that \
                 address and the ports of {service} go to {service}"
            ),
            "use an address that no pod has",
        )
    };
    ours.map(finding).collect()
}

/// Find endpoints of this Service whose addresses are external IPs of other Services. Connections through
/// this Service reach them, because a destination is translated once; direct ones do not.
pub(crate) fn hijacked(subject: &Subject<'_>, weight: Weight) -> Vec<Finding> {
    let all = subject.cluster.claims.endpoints.iter();
    let theirs = all.filter(|(_, _, of)| *of == subject.service.name);
    let finding = |(ip, service, _): &(IpAddr, NamespacedName, NamespacedName)| {
        Finding::new(
            weight,
            Cause::ExternalIpIsPod,
            format!(
                "endpoint {ip} is an externalIP of {service}: direct connections from here to the \
                 endpoint and the ports of {service} go to {service}"
            ),
            format!("remove {ip} from the externalIPs of {service}"),
        )
    };
    theirs.map(finding).collect()
}
