//! An independent implementation of endpoint selection, written from the KEPs without regard to
//! cost: KEP-1669 (terminating endpoints), KEP-2086 (internal policy), KEP-2433, KEP-3015 and
//! KEP-4444 (hints).

use std::collections::{BTreeMap, BTreeSet};

use model::{AddressType, Endpoint, IpFamily, Service, ServicePort, ServiceType};
use plan::testing::{Cluster, cluster};
use plan::{Plan, PortPlan};
use proptest::prelude::*;

/// Endpoints by `ip:port`, in kube-proxy's order.
fn endpoints<'a>(
    cluster: &'a Cluster,
    family: IpFamily,
    service: &Service,
    port: &ServicePort,
) -> BTreeMap<String, &'a Endpoint> {
    let address_type = match family {
        IpFamily::V4 => AddressType::Ipv4,
        IpFamily::V6 => AddressType::Ipv6,
    };
    let mut slices: Vec<_> = cluster.slices.iter().collect();
    slices.sort_by_key(|slice| &slice.name);
    let mut found = BTreeMap::<String, &Endpoint>::new();
    for slice in slices {
        let for_us = slice.service.as_ref() == Some(&service.name)
            && slice.address_type == address_type
            && !slice.headless
            && slice.proxy_name.is_none();
        for slice_port in slice.ports.iter().filter(|_| for_us) {
            let same = slice_port.name == port.name && slice_port.protocol == port.protocol;
            let (true, Some(number)) = (same, slice_port.port) else {
                continue;
            };
            for endpoint in &slice.endpoints {
                if IpFamily::of(endpoint.address) != family {
                    continue;
                }
                let key = std::net::SocketAddr::new(endpoint.address, number.get()).to_string();
                if !endpoint.conditions.terminating || !found.contains_key(&key) {
                    found.insert(key, endpoint);
                }
            }
        }
    }
    found
}

fn keys<'a>(
    all: &BTreeMap<String, &'a Endpoint>,
    wanted: impl Fn(&'a Endpoint) -> bool,
) -> Vec<String> {
    let wanted = all.iter().filter(|(_, endpoint)| wanted(endpoint));
    wanted.map(|(key, _)| key.clone()).collect()
}

fn or(first: Vec<String>, second: Vec<String>) -> Vec<String> {
    if first.is_empty() { second } else { first }
}

/// Return the endpoints under Cluster policy.
fn cluster_endpoints(all: &BTreeMap<String, &Endpoint>, zone: Option<&str>) -> Vec<String> {
    let ready = keys(all, |e| e.conditions.ready);
    let every_ready = |test: &dyn Fn(&Endpoint) -> bool| {
        let mut ready = all.values().filter(|e| e.conditions.ready);
        ready.all(|e| test(e))
    };
    let for_node = |e: &Endpoint| e.node_hints.iter().any(|node| &**node == "node1");
    let for_zone = |e: &Endpoint| e.zone_hints.iter().any(|hint| Some(&**hint) == zone);
    let same_node = keys(all, |e| e.conditions.ready && for_node(e));
    let same_zone = keys(all, |e| e.conditions.ready && for_zone(e));
    let preferred = if every_ready(&|e| !e.node_hints.is_empty()) && !same_node.is_empty() {
        same_node
    } else if every_ready(&|e| !e.zone_hints.is_empty()) && !same_zone.is_empty() {
        same_zone
    } else {
        ready
    };
    or(preferred, keys(all, serving_terminating))
}

fn local_endpoints(all: &BTreeMap<String, &Endpoint>) -> Vec<String> {
    let here = |e: &Endpoint| e.node_name.as_deref() == Some("node1");
    or(
        keys(all, |e| here(e) && e.conditions.ready),
        keys(all, |e| here(e) && serving_terminating(e)),
    )
}

fn serving_terminating(endpoint: &Endpoint) -> bool {
    endpoint.conditions.serving && endpoint.conditions.terminating
}

fn texts(endpoints: &[plan::Endpoint]) -> Vec<String> {
    endpoints.iter().map(ToString::to_string).collect()
}

fn check_port(
    cluster: &Cluster,
    family: IpFamily,
    service: &Service,
    port: &ServicePort,
    got: &PortPlan,
) -> Result<(), TestCaseError> {
    let all = endpoints(cluster, family, service, port);
    let node = cluster.nodes.iter().find(|node| &*node.name == "node1");
    let zone = node.and_then(|node| node.topology.get("topology.kubernetes.io/zone"));
    let mut cluster_wide = cluster_endpoints(&all, zone.map(|zone| &**zone));
    let mut local = local_endpoints(&all);
    let usable = keys(&all, |e| e.conditions.ready || serving_terminating(e));
    prop_assert_eq!(got.has_any_endpoint, !usable.is_empty());
    let external = got.node_port.is_some()
        || !got.external_ips.is_empty()
        || !got.load_balancer_ips.is_empty();
    if got.internal_local && !external {
        cluster_wide.clear();
    }
    let local_policy = got.internal_local || got.external_local && external;
    if !local_policy {
        local.clear();
    }
    prop_assert_eq!(texts(&got.cluster), cluster_wide);
    prop_assert_eq!(texts(&got.local), local);
    Ok(())
}

/// Return the cluster IP at which a Service is proxied in a family.
fn cluster_ip(service: &Service, family: IpFamily) -> Option<std::net::IpAddr> {
    let proxied = !service.headless
        && service.proxy_name.is_none()
        && service.service_type != ServiceType::ExternalName;
    let mut ips = service.cluster_ips.iter().filter(|_| proxied).copied();
    ips.find(|ip| IpFamily::of(*ip) == family)
}

fn check_family(cluster: &Cluster, plan: &Plan) -> Result<(), TestCaseError> {
    // Every expected port by name; of those at one address, the one with the smallest name.
    let mut wanted = BTreeMap::new();
    let mut by_name: Vec<_> = cluster.services.iter().collect();
    by_name.sort_by_key(|service| &service.name);
    let mut count = 0;
    for service in by_name {
        let Some(ip) = cluster_ip(service, plan.family) else {
            continue;
        };
        let mut seen = BTreeSet::new();
        let mut ports: Vec<_> = service.ports.iter().collect();
        ports.retain(|port| seen.insert((port.name.clone(), port.protocol)));
        ports.sort_by_key(|port| port.name.clone());
        for port in ports {
            let at = (ip, port.port, port.protocol);
            wanted.entry(at).or_insert((service, port));
        }
    }
    prop_assert_eq!(plan.ports.len(), wanted.len());
    for (service, port) in wanted.into_values() {
        let mut ports = plan.ports.values();
        let got = ports.find(|got| {
            got.name.service == service.name
                && got.name.port == port.name
                && got.protocol == port.protocol
        });
        prop_assert!(
            got.is_some(),
            "{} {} is not planned",
            service.name,
            port.name
        );
        if let Some(got) = got {
            check_port(cluster, plan.family, service, port, got)?;
            count += endpoints(cluster, plan.family, service, port).len();
        }
    }
    prop_assert_eq!(plan.endpoint_count, count);
    Ok(())
}

proptest! {
    #[test]
    fn the_plan_equals_the_naive_oracle(cluster in cluster()) {
        let planner = cluster.planner();
        for family in IpFamily::ALL {
            check_family(&cluster, planner.plan(family))?;
        }
    }
}
