//! What the objects alone tell.

use std::collections::BTreeSet;
use std::net::IpAddr;

use model::{Endpoint, Mode, ServicePort, ServiceType, TrafficPolicy};
use plan::Traffic;

use super::finding::{Cause, Finding, Weight, listed};
use super::subject::Subject;

/// How many names a sentence lists.
const MOST: usize = 5;

/// Every check of this kind.
pub(crate) fn findings(subject: &Subject, client: Option<IpAddr>) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(not_served(subject));
    if found.is_empty() {
        found.extend(endpoints(subject));
        found.extend(ports(subject));
        found.extend(local_policies(subject));
        found.extend(left_out(subject));
        found.extend(not_relayed(subject));
        found.extend(source_ranges(subject, client));
        found.extend(external_policy(subject));
        found.extend(ping(subject));
        found.extend(network_policy(subject));
    }
    found
}

/// Services that no rules are made for.
pub(crate) fn not_served(subject: &Subject) -> Option<Finding> {
    let s = &subject.service;
    let (what, change) = if let Some(proxy) = &s.proxy_name {
        (
            format!(
                "the label service.kubernetes.io/service-proxy-name gives {} to the proxy {proxy:?}, \
                 so neither sluice nor kube-proxy makes rules for it",
                s.name
            ),
            "ask that proxy, or take the label away",
        )
    } else if s.service_type == ServiceType::ExternalName {
        let what = format!("{} is an ExternalName: only DNS answers for it", s.name);
        (what, "look at what the cluster's DNS answers")
    } else if s.headless || s.cluster_ips.is_empty() {
        let what = format!(
            "{} is headless: its name resolves to the pods' own addresses, and no rules are made",
            s.name
        );
        (
            what,
            "connect to a pod's address and port, or give the Service a cluster IP",
        )
    } else {
        return None;
    };
    Some(Finding::new(Weight::Broken, Cause::NotServed, what, change))
}

/// The name of an endpoint's pod, where it is known.
fn pod<'s>(subject: &'s Subject, endpoint: &Endpoint) -> Option<&'s str> {
    let all = subject.slices.iter().flat_map(|s| &s.unready_pods);
    let mut of = all.filter(|(ip, _)| *ip == endpoint.address);
    of.next().map(|(_, name)| &**name)
}

/// `pod web-1 (10.244.1.5) on node1 (not ready, terminating)`.
fn state(subject: &Subject, endpoint: &Endpoint) -> String {
    let c = endpoint.conditions;
    let node = endpoint.node_name.as_deref().unwrap_or("no node");
    let mut words = vec![if c.ready { "ready" } else { "not ready" }];
    if c.terminating {
        words.push(if c.serving {
            "terminating but serving"
        } else {
            "terminating"
        });
    }
    let who = match pod(subject, endpoint) {
        Some(pod) => format!("pod {pod} ({})", endpoint.address),
        None => endpoint.address.to_string(),
    };
    format!("{who} on {node} ({})", words.join(", "))
}

/// No endpoint at all, none ready, or some that are not.
pub(crate) fn endpoints(subject: &Subject) -> Option<Finding> {
    let name = &subject.service.name;
    if subject.slices.is_empty() {
        return Some(Finding::new(
            Weight::Broken,
            Cause::NoSlices,
            format!(
                "no EndpointSlice belongs to {name} (label kubernetes.io/service-name): connections \
                 are refused"
            ),
            format!(
                "compare the Service's selector with the pods' labels: kubectl -n {} describe \
                 service {}",
                name.namespace, name.name
            ),
        ));
    }
    let all: Vec<&Endpoint> = subject.slices.iter().flat_map(|s| &s.endpoints).collect();
    let bad: Vec<&&Endpoint> = all.iter().filter(|e| !e.conditions.ready).collect();
    let draining = |e: &&Endpoint| e.conditions.serving && e.conditions.terminating;
    if all.is_empty() {
        return Some(Finding::new(
            Weight::Broken,
            Cause::NoReadyEndpoint,
            format!("{name} has no endpoint: connections are refused"),
            "start a pod that the selector matches, or look why those there are not running",
        ));
    }
    if bad.is_empty() {
        return None;
    }
    let states = listed(bad.iter().map(|e| state(subject, e)), MOST);
    let change = find_out_why(subject, &bad);
    Some(if bad.len() < all.len() {
        Finding::new(
            Weight::Note,
            Cause::EndpointsNotReady,
            format!(
                "{} of {} endpoints get no connections: {states}",
                bad.len(),
                all.len()
            ),
            change,
        )
    } else if all.iter().any(draining) {
        Finding::new(
            Weight::Partly,
            Cause::NoReadyEndpoint,
            format!("{name} has only endpoints that are ending: {states}"),
            change,
        )
    } else {
        Finding::new(
            Weight::Broken,
            Cause::NoReadyEndpoint,
            format!("{name} has no ready endpoint, so connections are refused: {states}"),
            change,
        )
    })
}

/// How to find out why pods are not ready.
fn find_out_why(subject: &Subject, bad: &[&&Endpoint]) -> String {
    let namespace = &subject.service.name.namespace;
    let some = || bad.iter().take(MOST);
    let pods: Vec<&str> = some().filter_map(|e| pod(subject, e)).collect();
    if pods.len() == some().count() {
        return format!(
            "kubectl -n {namespace} describe pod {}: why they are not ready, their readinessProbe; \
             and look at their logs",
            pods.join(" ")
        );
    }
    let addresses: Vec<String> = some().map(|e| format!("-e {}", e.address)).collect();
    format!(
        "find these pods (kubectl -n {namespace} get pods -o wide | grep -w {}) and why they are not \
         ready: kubectl describe pod, its readinessProbe, its logs",
        addresses.join(" ")
    )
}

/// Service ports for which no slice has a port of that name and protocol.
pub(crate) fn ports(subject: &Subject) -> Vec<Finding> {
    if subject.slices.iter().all(|s| s.endpoints.is_empty()) {
        return Vec::new();
    }
    subject
        .ports
        .iter()
        .filter_map(|port| unserved(subject, port))
        .collect()
}

fn unserved(subject: &Subject, port: &ServicePort) -> Option<Finding> {
    let slices = || subject.slices.iter().filter(|s| !s.endpoints.is_empty());
    let offered = || slices().flat_map(|s| &s.ports);
    if offered().any(|p| p.name == port.name && p.protocol == port.protocol && p.port.is_some()) {
        return None;
    }
    let shown = |name: &str| {
        if name.is_empty() {
            "(unnamed)".to_owned()
        } else {
            format!("{name:?}")
        }
    };
    let same_name: BTreeSet<String> = offered()
        .filter(|p| p.name == port.name)
        .map(|p| p.protocol.to_string())
        .collect();
    let others: BTreeSet<String> = offered()
        .map(|p| {
            let number = p
                .port
                .map_or("without number".to_owned(), |n| n.to_string());
            format!("{} ({number}/{})", shown(&p.name), p.protocol)
        })
        .collect();
    let why = if same_name.is_empty() {
        format!("the endpoints offer {}", listed(others, MOST))
    } else {
        format!(
            "the endpoints offer that name for {} only",
            listed(same_name, MOST)
        )
    };
    Some(Finding::new(
        Weight::Broken,
        Cause::PortNotServed,
        format!(
            "port {} {}/{} is served by no endpoint: {why}",
            shown(&port.name),
            port.port,
            port.protocol
        ),
        "names and protocols of the Service's ports and of the EndpointSlices' ports have to be \
         the same; a targetPort given by name has to be the name of a containerPort of the pods",
    ))
}

/// Local policies where no endpoint is on this node.
pub(crate) fn local_policies(subject: &Subject) -> Vec<Finding> {
    let mut found = Vec::new();
    for (plan, _) in &subject.plans {
        let nodes: BTreeSet<&str> = subject
            .slices
            .iter()
            .flat_map(|s| &s.endpoints)
            .filter(|e| e.conditions.ready)
            .filter_map(|e| e.node_name.as_deref())
            .collect();
        let there = if nodes.is_empty() {
            String::new()
        } else {
            format!(" (those that are ready are on {})", listed(nodes, MOST))
        };
        let here = &subject.node_name;
        let mut add = |clients: &str, policy: &str| {
            if subject.mode == Mode::Ipvs {
                let what = format!(
                    "{}: {policy} is Local and no endpoint is on {here}{there}: ipvs mode sends \
                     connections {clients} to other nodes' endpoints in their place",
                    plan.name
                );
                found.push(Finding::new(Weight::Note, Cause::NoLocalEndpoint, what, ""));
                return;
            }
            found.push(Finding::new(
                Weight::Partly,
                Cause::NoLocalEndpoint,
                format!(
                    "{}: {policy} is Local and no endpoint is on {here}{there}: connections \
                     {clients} are dropped here",
                    plan.name
                ),
                format!("run a pod on {here}, send clients to a node that has one, or set {policy}: Cluster"),
            ));
        };
        if plan.internal_traffic() == Traffic::Drop {
            add("from here to the cluster IP", "internalTrafficPolicy");
        }
        if plan.externally_accessible() && plan.external_traffic() == Traffic::Drop {
            add("from outside", "externalTrafficPolicy");
        }
    }
    // Of both families the sentence is the same.
    found.dedup();
    found
}

/// What of the Service the plan leaves out: an address that another Service has, above all.
pub(crate) fn left_out(subject: &Subject) -> Vec<Finding> {
    let finding = |warning: &plan::Warning| {
        let (weight, change) = match &warning.reason {
            plan::Reason::Taken { by, .. } => (
                Weight::Broken,
                format!(
                    "give this Service another address or port, or take it from {}",
                    by.service
                ),
            ),
            plan::Reason::NoSourceRange(_) | plan::Reason::EverybodyAllowed(_) => {
                (Weight::Note, String::new())
            }
            _ => (Weight::Partly, format!("change {}", warning.field)),
        };
        Finding::new(weight, Cause::LeftOut, warning.to_string(), change)
    };
    subject.warnings.iter().map(finding).collect()
}

/// What no relay can carry, where there is one.
fn not_relayed(subject: &Subject) -> Vec<Finding> {
    let plans = subject
        .plans
        .iter()
        .filter(|_| subject.mode == Mode::Userspace);
    let mut found: Vec<Finding> = plans
        .filter_map(|(plan, _)| {
            let why = dataplane::userspace::unserved(plan)?;
            let what = format!("{}: {why}", plan.name);
            let change = "run a mode that programs the kernel: nftables";
            Some(Finding::new(Weight::Broken, Cause::NotServed, what, change))
        })
        .collect();
    found.dedup();
    found
}

/// Who may connect, and whether the client that is asked about is among them.
pub(crate) fn source_ranges(subject: &Subject, client: Option<IpAddr>) -> Option<Finding> {
    let ranges = &subject.service.source_ranges;
    let (plan, _) = subject
        .plans
        .iter()
        .find(|(p, _)| !p.source_ranges.is_empty())?;
    let addresses = listed(&plan.load_balancer_ips, MOST);
    if addresses.is_empty() {
        return None;
    }
    let allowed = listed(ranges, MOST);
    if let Some(client) = client.filter(|c| !ranges.iter().any(|r| r.contains(c))) {
        return Some(Finding::new(
            Weight::Broken,
            Cause::SourceNotAllowed,
            format!(
                "{client} is in none of loadBalancerSourceRanges ({allowed}): its connections to \
                 {addresses} are dropped"
            ),
            "add the client's range; behind a proxy or NAT, that of the address which the node sees",
        ));
    }
    Some(Finding::new(
        Weight::Note,
        Cause::SourceRanges,
        format!("only clients in {allowed} may connect to {addresses}; all others are dropped"),
        "",
    ))
}

/// What the external policy does to the client's address.
pub(crate) fn external_policy(subject: &Subject) -> Option<Finding> {
    let plan = subject
        .plans
        .iter()
        .map(|(p, _)| p)
        .find(|p| p.externally_accessible())?;
    let is_local = subject.service.external_policy == TrafficPolicy::Local;
    let what = if is_local {
        "externalTrafficPolicy is Local: pods see clients' own addresses, and only nodes that have \
         an endpoint answer"
    } else {
        "externalTrafficPolicy is Cluster: every node answers, and pods see a node's address in \
         place of an outside client's"
    };
    let text = format!("{}: {what}", plan.name.service);
    Some(Finding::new(Weight::Note, Cause::TrafficPolicy, text, ""))
}

/// Why a cluster IP does not answer a ping.
pub(crate) fn ping(subject: &Subject) -> Option<Finding> {
    let ip = subject.service.cluster_ips.first()?;
    let ports = subject
        .service
        .ports
        .iter()
        .map(|p| format!("{}/{}", p.port, p.protocol));
    let text = if subject.mode == Mode::Ipvs {
        format!(
            "ping of {ip} is answered by the node that it is sent from: ipvs mode gives every node the \
             address. It tells nothing of the Service"
        )
    } else {
        format!(
            "ping of {ip} gets no answer: no interface has the address, only its ports exist ({}), as \
             rules",
            listed(ports, MOST)
        )
    };
    Some(Finding::new(Weight::Note, Cause::Ping, text, ""))
}

/// Why a NetworkPolicy cannot be written for a cluster IP.
pub(crate) fn network_policy(subject: &Subject) -> Option<Finding> {
    let (plan, _) = subject
        .plans
        .iter()
        .find(|(p, _)| !p.reachable().is_empty())?;
    let endpoint = *plan.reachable().first()?;
    Some(Finding::new(
        Weight::Note,
        Cause::NetworkPolicy,
        format!(
            "a NetworkPolicy sees connections with the pod's address and port ({endpoint}), not with \
             the Service's ({}:{}): the destination is rewritten first",
            plan.cluster_ip, plan.port
        ),
        "",
    ))
}
