//! Interpretation of Service fields.

use std::collections::HashSet;
use std::net::IpAddr;
use std::num::NonZeroU16;

use model::{Cidr, IpFamily, Service, ServicePort, ServiceType, TrafficPolicy, family_of_net};

/// Return the cluster IP of a family; `None` if the Service is headless, an ExternalName, served by
/// another proxy, or lacks the family.
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

/// Return the Service's ports with their indices, without duplicates of name and protocol.
pub(super) fn distinct_ports(service: &Service) -> impl Iterator<Item = (usize, &ServicePort)> {
    let mut seen = HashSet::new();
    let ports = service.ports.iter().enumerate();
    ports.filter(move |(_, port)| {
        service.ports.len() == 1 || seen.insert((&port.name, port.protocol))
    })
}

/// Return whether external traffic stays on the node where it arrives. Without external frontends,
/// the policy has no effect.
pub(super) fn external_local(service: &Service) -> bool {
    let external = match service.service_type {
        ServiceType::LoadBalancer | ServiceType::NodePort => true,
        ServiceType::ClusterIp => !service.external_ips.is_empty(),
        ServiceType::ExternalName => false,
    };
    external && service.external_policy == TrafficPolicy::Local
}

/// Return the port for health checks of load balancers.
pub(super) fn health_check_node_port(service: &Service) -> Option<NonZeroU16> {
    let needed = service.service_type == ServiceType::LoadBalancer && external_local(service);
    service.health_check_node_port.filter(|_| needed)
}

/// Return the ranges that restrict a family; empty if one of them admits every client.
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
