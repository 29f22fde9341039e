//! What a Service says, as the plan understands it.

use std::collections::HashSet;
use std::net::IpAddr;
use std::num::NonZeroU16;

use model::{Cidr, IpFamily, Service, ServicePort, ServiceType, TrafficPolicy, family_of_net};

/// The cluster IP under which a Service is proxied in a family; `None` where it is not: headless,
/// ExternalName, another proxy's, or not of the family.
pub(super) fn cluster_ip(service: &Service, family: IpFamily) -> Option<IpAddr> {
    if service.headless
        || service.proxy_name.is_some()
        || service.service_type == ServiceType::ExternalName
    {
        return None;
    }
    let mut ips = service.cluster_ips.iter().copied();
    ips.find(|ip| IpFamily::of(*ip) == family)
}

/// The Service's ports with their indices, without such as have the name and protocol of an
/// earlier one.
pub(super) fn distinct_ports(service: &Service) -> impl Iterator<Item = (usize, &ServicePort)> {
    let mut seen = HashSet::new();
    let ports = service.ports.iter().enumerate();
    ports.filter(move |(_, port)| {
        service.ports.len() == 1 || seen.insert((&port.name, port.protocol))
    })
}

/// Whether external traffic keeps to the node it arrives at. Without anything that external traffic
/// could arrive through, the policy means nothing.
pub(super) fn external_local(service: &Service) -> bool {
    let external = match service.service_type {
        ServiceType::LoadBalancer | ServiceType::NodePort => true,
        ServiceType::ClusterIp => !service.external_ips.is_empty(),
        ServiceType::ExternalName => false,
    };
    external && service.external_policy == TrafficPolicy::Local
}

/// The port on which the node tells load balancers whether it has an endpoint.
pub(super) fn health_check_node_port(service: &Service) -> Option<NonZeroU16> {
    let needed = service.service_type == ServiceType::LoadBalancer && external_local(service);
    service.health_check_node_port.filter(|_| needed)
}

/// The ranges that restrict a family; none where one of them allows everybody anyway.
pub(super) fn source_ranges(service: &Service, family: IpFamily) -> Vec<Cidr> {
    let ranges = service.source_ranges.iter();
    let ranges: Vec<_> = ranges
        .filter(|range| family_of_net(range) == family)
        .map(Cidr::trunc)
        .collect();
    if ranges.iter().any(|range| range.prefix_len() == 0) {
        return Vec::new();
    }
    ranges
}
