//! All Services of a node with their states, and one Service with everything that concerns it.

use std::net::IpAddr;
use std::sync::Arc;

use model::Service;
use plan::{FrontendKind, Reason, Traffic};
use serde::Serialize;

use crate::explain::{
    Asked, Cause, Expectation, Expected, Finding, Inspector, Probe, Subject, Weight, not_served,
};
use crate::verify::Checked;

/// How many endpoints the description of a Service lists.
const MOST: usize = 1000;

/// The state of a Service on this node. The first that applies counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// No rules are made for the Service.
    NotServed,
    /// The kernel refused the rules of one of its ports.
    Refused,
    /// The rules do not do what the plan states.
    Differs,
    /// One of its ports has no usable endpoint.
    NoReadyEndpoint,
    /// Another Service has one of its addresses and ports.
    Shadowed,
    /// The comparison of the rules with the plan is still running.
    NotChecked,
    /// The rules do what the plan states.
    Served,
}

/// One Service of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// `namespace/name`.
    pub name: String,
    /// The type, as in the API.
    pub kind: &'static str,
    /// Cluster IPs, external IPs and load-balancer addresses.
    pub addresses: Vec<IpAddr>,
    /// `http 80/TCP`, and the NodePort.
    pub ports: Vec<String>,
    /// How many endpoints are ready.
    pub ready: usize,
    /// How many endpoints exist.
    pub endpoints: usize,
    /// Its state.
    pub state: State,
    /// The reason for the state; empty for `Served`.
    pub reason: String,
}

/// Return all Services in the order of their names. Without `checked`, the rules are not considered.
pub fn rows(inspector: &Inspector, checked: Option<&Checked>) -> Vec<Row> {
    let mut services: Vec<&Arc<Service>> = inspector.cluster.services().iter().collect();
    services.sort_by(|a, b| a.name.cmp(&b.name));
    services
        .into_iter()
        .map(|service| row(inspector, service, checked))
        .collect()
}

fn row(inspector: &Inspector, service: &Arc<Service>, checked: Option<&Checked>) -> Row {
    let subject = &inspector.subject(service);
    let endpoints = subject.slices.iter().flat_map(|s| &s.endpoints);
    let (ready, all) = endpoints.fold((0, 0), |(ready, all), e| {
        (ready + usize::from(e.conditions.ready), all + 1)
    });
    let (state, reason) = state(inspector, subject, checked);
    let ingress = service.ingress.iter().map(|ingress| ingress.ip);
    let addresses = service.cluster_ips.iter().chain(&service.external_ips);
    Row {
        name: service.name.to_string(),
        kind: service.service_type.name(),
        addresses: addresses.copied().chain(ingress).collect(),
        ports: service
            .ports
            .iter()
            .map(|p| {
                let name = if p.name.is_empty() { "" } else { " " };
                let node_port = p
                    .node_port
                    .map_or(String::new(), |n| format!(", NodePort {n}"));
                format!(
                    "{}{name}{}/{}{node_port}",
                    p.name,
                    p.port,
                    p.protocol.upper()
                )
            })
            .collect(),
        ready,
        endpoints: all,
        state,
        reason,
    }
}

fn state(
    inspector: &Inspector,
    subject: &Subject<'_>,
    checked: Option<&Checked>,
) -> (State, String) {
    if let Some(finding) = not_served(subject) {
        return (State::NotServed, finding.what);
    }
    if let Some(refused) = inspector.refused_ports(subject).next() {
        return (State::Refused, refused.finding().what);
    }
    let found = checked.and_then(|checked| checked.findings.get(&subject.service.name));
    let is_problem = |finding: &&Finding| finding.weight != Weight::Note;
    if let Some(finding) = found.and_then(|all| all.iter().find(is_problem)) {
        let state = match finding.cause {
            Cause::CutOff => State::Shadowed,
            _ => State::Differs,
        };
        return (state, format!("{}: {}", finding.cause, finding.what));
    }
    let mut plans = subject.plans.iter().map(|(plan, _)| plan);
    if let Some(plan) = plans.find(|plan| !plan.has_any_endpoint) {
        let reason = format!("{} has no ready endpoint", plan.name);
        return (State::NoReadyEndpoint, reason);
    }
    let mut warnings = subject.warnings.iter();
    if let Some(taken) = warnings.find(|w| matches!(w.reason, Reason::Taken { .. })) {
        return (
            State::Shadowed,
            format!("{}: {}", taken.field, taken.reason),
        );
    }
    match checked {
        Some(_) => (State::Served, String::new()),
        None => (State::NotChecked, String::new()),
    }
}

/// One Service with its objects, its plan, and the connections that its explanation walks.
#[derive(Clone, Debug, Serialize)]
pub struct Details {
    /// Its row in the list.
    #[serde(flatten)]
    pub row: Row,
    /// `internalTrafficPolicy`.
    pub internal_policy: String,
    /// `externalTrafficPolicy`.
    pub external_policy: String,
    /// The timeout of `sessionAffinity: ClientIP` in seconds.
    pub affinity: Option<u32>,
    /// `loadBalancerSourceRanges`.
    pub source_ranges: Vec<String>,
    /// Its EndpointSlices.
    pub slices: Vec<Slice>,
    /// Its endpoints; at most 1000.
    pub endpoints: Vec<Endpoint>,
    /// What the plan of this node leaves out, or that clashes with another object.
    pub warnings: Vec<String>,
    /// The plan of this node: one entry for each frontend.
    pub plan: Vec<Planned>,
    /// The connections of the explanation, in its order.
    pub connections: Vec<Connection>,
}

/// One EndpointSlice.
#[derive(Clone, Debug, Serialize)]
pub struct Slice {
    /// `namespace/name`.
    pub name: String,
    /// `http 8080/TCP`.
    pub ports: Vec<String>,
    /// How many endpoints are ready.
    pub ready: usize,
    /// How many endpoints it has.
    pub endpoints: usize,
    /// Labels hide it from the proxy.
    pub is_hidden: bool,
}

/// One endpoint of an EndpointSlice.
#[derive(Clone, Debug, Serialize)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// `ready`, `terminating, serving`, `terminating` or `not ready`.
    pub condition: &'static str,
    /// Its Node.
    pub node: Option<String>,
    /// Its zone.
    pub zone: Option<String>,
    /// The zones and nodes that prefer it.
    pub hints: Vec<String>,
    /// The pod, of endpoints that are not ready.
    pub pod: Option<String>,
    /// Whether it is on this node.
    pub is_local: bool,
    /// Whether this node sends connections to it.
    pub is_used: bool,
}

/// The plan for one frontend.
#[derive(Clone, Debug, Serialize)]
pub struct Planned {
    /// The Service port, as `namespace/name:port`.
    pub port: String,
    /// The kind of the address.
    pub kind: &'static str,
    /// `10.96.0.1:80/TCP`, or `NodePort 30080/TCP`.
    pub frontend: String,
    /// `cluster`, `local`, `reject` or `drop`.
    pub treatment: &'static str,
    /// Its endpoints; at most 1000.
    pub to: Vec<String>,
    /// How many endpoints it has.
    pub endpoints: usize,
}

/// One connection of an explanation, as a question to the tracer.
#[derive(Clone, Debug, Serialize)]
pub struct Connection {
    /// The Service port, as `namespace/name:port`.
    pub port: String,
    /// Where it starts: `pod`, `node` or `outside`.
    pub from: &'static str,
    /// The client's address.
    pub src: IpAddr,
    /// The frontend's address.
    pub dst: IpAddr,
    /// The protocol.
    pub proto: String,
    /// The frontend's port.
    pub dport: u16,
    /// What the plan states: the endpoints, `refused` or `dropped`.
    pub expected: String,
}

/// Describe the Service of a question.
pub fn details(asked: &Asked<'_>, checked: Option<&Checked>) -> Details {
    let (inspector, subject) = (asked.inspector, &asked.subject);
    let service = &subject.service;
    Details {
        row: row(inspector, service, checked),
        internal_policy: format!("{:?}", service.internal_policy),
        external_policy: format!("{:?}", service.external_policy),
        affinity: match service.affinity {
            model::SessionAffinity::None => None,
            model::SessionAffinity::ClientIp { timeout_seconds } => Some(timeout_seconds),
        },
        source_ranges: service
            .source_ranges
            .iter()
            .map(ToString::to_string)
            .collect(),
        slices: slices(subject),
        endpoints: endpoints(subject),
        warnings: subject.warnings.iter().map(ToString::to_string).collect(),
        plan: plan(subject),
        connections: asked.probes.iter().map(connection).collect(),
    }
}

fn slices(subject: &Subject<'_>) -> Vec<Slice> {
    let usual = subject.slices.iter().map(|slice| (slice, false));
    let hidden = subject.hidden.iter().map(|slice| (slice, true));
    let slice = |(slice, is_hidden): (&Arc<model::EndpointSlice>, bool)| Slice {
        name: slice.name.to_string(),
        ports: slice
            .ports
            .iter()
            .map(|p| {
                let name = if p.name.is_empty() { "" } else { " " };
                let number = p.port.map_or("?".to_owned(), |n| n.to_string());
                format!("{}{name}{number}/{}", p.name, p.protocol.upper())
            })
            .collect(),
        ready: slice
            .endpoints
            .iter()
            .filter(|e| e.conditions.ready)
            .count(),
        endpoints: slice.endpoints.len(),
        is_hidden,
    };
    usual.chain(hidden).map(slice).collect()
}

fn endpoints(subject: &Subject<'_>) -> Vec<Endpoint> {
    let used: std::collections::BTreeSet<IpAddr> = subject
        .plans
        .iter()
        .flat_map(|(plan, _)| plan.reachable())
        .map(|endpoint| endpoint.ip)
        .collect();
    let all = subject.slices.iter().flat_map(|slice| {
        let endpoints = slice.endpoints.iter();
        endpoints.map(move |endpoint| (slice, endpoint))
    });
    let one = |(slice, e): (&Arc<model::EndpointSlice>, &model::Endpoint)| {
        let mut pods = slice.unready_pods.iter();
        let is_local = e.node_name.as_deref() == Some(&*subject.cluster.node_name);
        let hints = e.zone_hints.iter().chain(&e.node_hints);
        Endpoint {
            address: e.address,
            condition: match (e.conditions.ready, e.conditions.terminating) {
                (true, _) => "ready",
                (false, true) if e.conditions.serving => "terminating, serving",
                (false, true) => "terminating",
                (false, false) => "not ready",
            },
            node: e.node_name.as_deref().map(str::to_owned),
            zone: e.zone.as_deref().map(str::to_owned),
            hints: hints.map(ToString::to_string).collect(),
            pod: pods
                .find(|(ip, _)| *ip == e.address)
                .map(|(_, name)| name.to_string()),
            is_local,
            is_used: used.contains(&e.address),
        }
    };
    all.take(MOST).map(one).collect()
}

fn plan(subject: &Subject<'_>) -> Vec<Planned> {
    let mut all = Vec::new();
    for (plan, _) in &subject.plans {
        for frontend in plan.frontends() {
            let (treatment, to) = match frontend.traffic {
                Traffic::Cluster => ("cluster", &plan.cluster[..]),
                Traffic::Local => ("local", &plan.local[..]),
                Traffic::Reject => ("reject", &[][..]),
                Traffic::Drop => ("drop", &[][..]),
            };
            let port = frontend.port.get();
            let address = match frontend.ip {
                Some(ip) => trace::Endpoint { ip, port }.to_string(),
                None if plan.cluster_ip.is_ipv4() => format!("NodePort {port}"),
                None => format!("NodePort {port} (IPv6)"),
            };
            all.push(Planned {
                port: plan.name.to_string(),
                kind: match frontend.kind {
                    FrontendKind::ClusterIp => "cluster IP",
                    FrontendKind::ExternalIp => "external IP",
                    FrontendKind::LoadBalancerIp => "load balancer",
                    FrontendKind::NodePort => "NodePort",
                },
                frontend: format!("{address}/{}", plan.protocol.upper()),
                treatment,
                to: to.iter().take(MOST).map(ToString::to_string).collect(),
                endpoints: to.len(),
            });
        }
    }
    all
}

fn connection(probe: &Probe) -> Connection {
    let packet = &probe.packet;
    Connection {
        port: probe.port.clone(),
        from: match packet.from {
            trace::Origin::Pod => "pod",
            trace::Origin::Node => "node",
            trace::Origin::Outside => "outside",
        },
        src: packet.src,
        dst: packet.dst,
        proto: packet.proto.to_string(),
        dport: packet.dport,
        expected: expected(&probe.expected),
    }
}

fn expected(expectation: &Expectation) -> String {
    match &expectation.to {
        Expected::To(all) => match all.len() {
            0 => "no endpoint".to_owned(),
            1 => "1 endpoint".to_owned(),
            n => format!("{n} endpoints, equal shares"),
        },
        Expected::Refused => "refused".to_owned(),
        Expected::Dropped => "dropped".to_owned(),
    }
}
