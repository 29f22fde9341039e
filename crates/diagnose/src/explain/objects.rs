//! Causes in the objects.

use std::collections::BTreeSet;
use std::net::IpAddr;

use model::{Endpoint, IpMode, Service, ServicePort, ServiceType, TrafficPolicy};
use plan::Traffic;

use super::clash;
use super::finding::{Cause, Finding, Weight, listed};
use super::subject::Subject;

/// Maximum number of names in a sentence.
const MOST: usize = 5;

/// Run every check of this kind.
pub(crate) fn findings(subject: &Subject<'_>, client: Option<IpAddr>) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(not_served(subject));
    if !found.is_empty() {
        found.extend(clash::hijacked(subject, Weight::Partly));
    } else {
        found.extend(load_balancer(subject));
        found.extend(node_addresses(subject));
        found.extend(clash::findings(subject));
        found.extend(own_node_ports(subject));
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

/// Find out why no rules are made for the Service.
pub(crate) fn not_served(subject: &Subject<'_>) -> Option<Finding> {
    let s = &subject.service;
    let (what, change) = if let Some(proxy) = &s.proxy_name {
        (
            format!(
                "the label service.kubernetes.io/service-proxy-name gives {} to the proxy {proxy:?}, \
                 so neither sluice nor kube-proxy makes rules for it",
                s.name
            ),
            "check that proxy, or remove the label",
        )
    } else if s.service_type == ServiceType::ExternalName {
        let what = format!("{} is an ExternalName: only DNS answers for it", s.name);
        (what, "check what the cluster's DNS answers")
    } else if s.headless && !s.cluster_ips.is_empty() {
        let what = format!(
            "{} has the label service.kubernetes.io/headless: no rules are made for its cluster IP {}",
            s.name,
            listed(&s.cluster_ips, MOST)
        );
        (what, "remove the label")
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

/// Return the name of the pod of an endpoint that is not ready.
fn pod<'s>(subject: &'s Subject<'_>, endpoint: &Endpoint) -> Option<&'s str> {
    let all = subject.slices.iter().flat_map(|s| &s.unready_pods);
    let mut of = all.filter(|(ip, _)| *ip == endpoint.address);
    of.next().map(|(_, name)| &**name)
}

/// `pod web-1 (10.244.1.5) on node1 (not ready, terminating)`.
fn state(subject: &Subject<'_>, endpoint: &Endpoint) -> String {
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
    let name = match pod(subject, endpoint) {
        Some(pod) => format!("pod {pod} ({})", endpoint.address),
        None => endpoint.address.to_string(),
    };
    format!("{name} on {node} ({})", words.join(", "))
}

/// Check that endpoints exist and are ready.
pub(crate) fn endpoints(subject: &Subject<'_>) -> Option<Finding> {
    let name = &subject.service.name;
    if let (true, Some(first)) = (subject.slices.is_empty(), subject.hidden.first()) {
        let label = match &first.proxy_name {
            Some(proxy) => format!("service.kubernetes.io/service-proxy-name: {proxy}"),
            None => "service.kubernetes.io/headless".to_owned(),
        };
        return Some(Finding::new(
            Weight::Broken,
            Cause::SlicesHidden,
            format!(
                "the label {label} hides EndpointSlice {} from the proxy, and {name} has no other: \
                 connections are refused",
                first.name
            ),
            "remove the label from the EndpointSlice",
        ));
    }
    if subject.slices.is_empty() {
        return Some(no_slices(&subject.service));
    }
    let all: Vec<&Endpoint> = subject.slices.iter().flat_map(|s| &s.endpoints).collect();
    let bad: Vec<&&Endpoint> = all.iter().filter(|e| !e.conditions.ready).collect();
    let draining = |e: &&Endpoint| e.conditions.serving && e.conditions.terminating;
    if all.is_empty() {
        return Some(Finding::new(
            Weight::Broken,
            Cause::NoReadyEndpoint,
            format!("{name} has no endpoint: connections are refused"),
            "start a pod that the selector matches, or find out why the existing ones do not run",
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
            format!("{name} has only endpoints that are terminating: {states}"),
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

fn no_slices(service: &Service) -> Finding {
    let name = &service.name;
    let change = if service.has_selector {
        format!(
            "compare the Service's selector with the pods' labels: kubectl -n {} describe service {}",
            name.namespace, name.name
        )
    } else {
        format!(
            "the Service has no selector, so no controller makes slices: create an EndpointSlice with \
             the label kubernetes.io/service-name: {} (Endpoints objects are mirrored only by the \
             controller manager)",
            name.name
        )
    };
    Finding::new(
        Weight::Broken,
        Cause::NoSlices,
        format!(
            "no EndpointSlice belongs to {name} (label kubernetes.io/service-name): connections are \
             refused"
        ),
        change,
    )
}

/// Return how to find out why pods are not ready.
fn find_out_why(subject: &Subject<'_>, bad: &[&&Endpoint]) -> String {
    let namespace = &subject.service.name.namespace;
    let some = || bad.iter().take(MOST);
    let pods: Vec<&str> = some().filter_map(|e| pod(subject, e)).collect();
    if pods.len() == some().count() {
        return format!(
            "find out why they are not ready (readinessProbe, logs): kubectl -n {namespace} describe \
             pod {}",
            pods.join(" ")
        );
    }
    let addresses: Vec<String> = some().map(|e| format!("-e {}", e.address)).collect();
    format!(
        "find these pods (kubectl -n {namespace} get pods -o wide | grep -w {}) and find out why they \
         are not ready: kubectl describe pod, the readinessProbe, the logs",
        addresses.join(" ")
    )
}

/// Find Service ports for which no slice has a port of that name and protocol.
pub(crate) fn ports(subject: &Subject<'_>) -> Vec<Finding> {
    if subject.slices.iter().all(|s| s.endpoints.is_empty()) {
        return Vec::new();
    }
    subject
        .ports
        .iter()
        .filter_map(|port| unserved(subject, port))
        .collect()
}

fn unserved(subject: &Subject<'_>, port: &ServicePort) -> Option<Finding> {
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
            "no endpoint serves port {} {}/{}: {why}",
            shown(&port.name),
            port.port,
            port.protocol
        ),
        "give the Service's port the name and protocol of the EndpointSlices' port; a targetPort given \
         by name has to be the name of a containerPort of the pods",
    ))
}

/// Find Local policies without an endpoint on this node.
pub(crate) fn local_policies(subject: &Subject<'_>) -> Vec<Finding> {
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
            format!(" (ready endpoints are on {})", listed(nodes, MOST))
        };
        let here = &subject.cluster.node_name;
        let mut add = |clients: &str, policy: &str| {
            if subject.mode.has_virtual_servers() {
                let what = format!(
                    "{}: {policy} is Local and no endpoint is on {here}{there}: ipvs mode sends \
                     connections {clients} to endpoints on other nodes instead",
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
    // The sentence is the same for both families.
    found.dedup();
    found
}

/// Check the addresses of the load balancer.
pub(crate) fn load_balancer(subject: &Subject<'_>) -> Vec<Finding> {
    let s = &subject.service;
    let mut found = Vec::new();
    if s.service_type == ServiceType::LoadBalancer
        && s.ingress.is_empty()
        && s.load_balancer_names.is_empty()
    {
        found.push(Finding::new(
            Weight::Partly,
            Cause::LoadBalancerPending,
            format!(
                "{} is of type LoadBalancer and has no address (EXTERNAL-IP is <pending>): clients \
                 outside can only use its NodePorts",
                s.name
            ),
            format!(
                "find out why the cloud controller, or a load balancer such as MetalLB, assigns none: \
                 kubectl -n {} describe service {}",
                s.name.namespace, s.name.name
            ),
        ));
    }
    if s.ingress.is_empty() && !s.load_balancer_names.is_empty() {
        found.push(Finding::new(
            Weight::Note,
            Cause::LoadBalancerName,
            format!(
                "the load balancer has a host name only ({}): no rules are made for it, and its \
                 traffic arrives at the NodePorts",
                listed(&s.load_balancer_names, MOST)
            ),
            "",
        ));
    }
    let proxied = s.ingress.iter().filter(|i| i.mode == IpMode::Proxy);
    let proxied: Vec<IpAddr> = proxied.map(|i| i.ip).collect();
    if !proxied.is_empty() {
        found.push(Finding::new(
            Weight::Note,
            Cause::LoadBalancerProxy,
            format!(
                "ipMode of {} is Proxy: no rules are made for it; connections, those of pods too, go \
                 to the load balancer, which connects to the NodePorts",
                listed(&proxied, MOST)
            ),
            "",
        ));
    }
    found
}

/// Find external IPs that are addresses of nodes.
pub(crate) fn node_addresses(subject: &Subject<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    for warning in &subject.warnings {
        let plan::Reason::NodeAddress { ip, node } = &warning.reason else {
            continue;
        };
        let is_here = **node == *subject.cluster.node_name;
        let (weight, consequence) = match (subject.mode.has_virtual_servers(), is_here) {
            (true, false) => (
                Weight::Broken,
                "ipvs mode gives the address to this node, which then cannot reach that node any more",
            ),
            (false, false) => (
                Weight::Partly,
                "connections from here to that node's address and the Service's ports go to the \
                 Service",
            ),
            (_, true) => (
                Weight::Note,
                "programs of the node cannot use the Service's ports on that address",
            ),
        };
        found.push(Finding::new(
            weight,
            Cause::ExternalIpIsNode,
            format!("externalIP {ip} is an address of node {node}: {consequence}"),
            "use an address that no node has, or a NodePort",
        ));
    }
    found
}

/// Find endpoints that are NodePorts of this node: a packet is translated once, so that nothing
/// answers there.
pub(crate) fn own_node_ports(subject: &Subject<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    for (plan, _) in &subject.plans {
        let all = plan.reachable();
        let is_own = |e: &&plan::Endpoint| subject.is_own(e.ip);
        let service = |e: &plan::Endpoint| subject.cluster.node_ports.get(&(plan.protocol, e.port));
        for endpoint in all.iter().filter(is_own) {
            let Some(other) = service(endpoint) else {
                continue;
            };
            found.push(Finding::new(
                if all.len() == 1 {
                    Weight::Broken
                } else {
                    Weight::Partly
                },
                Cause::EndpointIsNodePort,
                format!(
                    "endpoint {endpoint} of {} is the NodePort of {other} on this node: a destination \
                     is translated once, and no program listens on a NodePort, so connections that \
                     get this endpoint here are refused",
                    plan.name
                ),
                format!("use the endpoints of {other}, or the cluster IP of {other}, instead"),
            ));
        }
    }
    found
}

/// Report what the plan leaves out, above all addresses that another Service has, and clashes.
pub(crate) fn left_out(subject: &Subject<'_>) -> Vec<Finding> {
    let finding = |warning: &&plan::Warning| {
        let (weight, change) = match &warning.reason {
            // Reported by `node_addresses`, whose text depends on the mode.
            plan::Reason::NodeAddress { .. } => return None,
            plan::Reason::Taken { by, .. } => (
                Weight::Broken,
                format!(
                    "give this Service another address or port, or remove it from {}",
                    by.service
                ),
            ),
            plan::Reason::NoSourceRange(_) | plan::Reason::EveryClientAllowed(_) => {
                (Weight::Note, String::new())
            }
            _ => (Weight::Partly, format!("change {}", warning.field)),
        };
        let text = warning.to_string();
        Some(Finding::new(weight, Cause::LeftOut, text, change))
    };
    subject.warnings.iter().filter_map(finding).collect()
}

/// Report what the relay of userspace mode cannot carry.
fn not_relayed(subject: &Subject<'_>) -> Vec<Finding> {
    let plans = subject.plans.iter().filter(|_| subject.mode.relays());
    let mut found: Vec<Finding> = plans
        .filter_map(|(plan, _)| {
            let why = dataplane::userspace::unserved(plan)?;
            let what = format!("{}: {why}", plan.name);
            let change = "use a mode that programs the kernel, such as nftables";
            Some(Finding::new(Weight::Broken, Cause::NotServed, what, change))
        })
        .collect();
    found.dedup();
    found
}

/// Report which clients may connect, and whether the client in question may.
pub(crate) fn source_ranges(subject: &Subject<'_>, client: Option<IpAddr>) -> Option<Finding> {
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
            "add the client's range; behind a proxy or NAT, the range of the address that the node sees",
        ));
    }
    Some(Finding::new(
        Weight::Note,
        Cause::SourceRanges,
        format!(
            "only clients in {allowed} may connect to {addresses}; connections of all other clients are dropped"
        ),
        "",
    ))
}

/// Report what the external policy means for client addresses.
pub(crate) fn external_policy(subject: &Subject<'_>) -> Option<Finding> {
    let plan = subject
        .plans
        .iter()
        .map(|(p, _)| p)
        .find(|p| p.externally_accessible())?;
    let is_local = subject.service.external_policy == TrafficPolicy::Local;
    let what = if is_local {
        "externalTrafficPolicy is Local: pods see clients' own addresses, and only nodes with an \
         endpoint answer"
    } else {
        "externalTrafficPolicy is Cluster: every node answers, and pods see a node's address instead \
         of an outside client's"
    };
    let text = format!("{}: {what}", plan.name.service);
    Some(Finding::new(Weight::Note, Cause::TrafficPolicy, text, ""))
}

/// Explain why a cluster IP does not answer pings.
pub(crate) fn ping(subject: &Subject<'_>) -> Option<Finding> {
    let mut ips = subject.service.cluster_ips.iter();
    let ip = ips.find(|ip| subject.mode.has_virtual_servers() || !subject.is_own(**ip))?;
    let ports = subject
        .service
        .ports
        .iter()
        .map(|p| format!("{}/{}", p.port, p.protocol));
    let text = if subject.mode.has_virtual_servers() {
        format!(
            "a ping of {ip} is answered by the node that sends it: ipvs mode gives every node the \
             address. It shows nothing about the Service"
        )
    } else {
        format!(
            "a ping of {ip} gets no answer: no interface has the address, and rules exist only for its \
             ports ({})",
            listed(ports, MOST)
        )
    };
    Some(Finding::new(Weight::Note, Cause::Ping, text, ""))
}

/// Explain why a NetworkPolicy cannot name a cluster IP.
pub(crate) fn network_policy(subject: &Subject<'_>) -> Option<Finding> {
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
             the Service's ({}): the destination is rewritten first",
            trace::Endpoint {
                ip: plan.cluster_ip,
                port: plan.port.get()
            }
        ),
        "",
    ))
}
