//! Warnings about single objects.

use model::{
    EndpointSlice, IpFamily, IpMode, Key, Service, ServicePortName, ServiceType, family_of_net,
};

use super::ports::wrong_family;
use super::service::{cluster_ip, distinct_ports, external_local};
use super::store::family_of;
use crate::{Reason, Warning};

/// Add the warnings about a Service.
pub(super) fn service(service: &Service, warnings: &mut Vec<Warning>) {
    let has = |family| cluster_ip(service, family).is_some();
    if !IpFamily::ALL.into_iter().any(has) {
        return; // Not proxied at all, on purpose.
    }
    let mut warn = |field: String, reason| {
        warnings.push(Warning {
            object: Key::Service(service.name.clone()),
            field,
            reason,
        });
    };
    for (index, ip) in service.external_ips.iter().enumerate() {
        if !has(IpFamily::of(*ip)) {
            warn(
                format!("spec.externalIPs[{index}]"),
                Reason::NoClusterIp(*ip),
            );
        }
    }
    let vips = service.ingress.iter().enumerate();
    let vips = vips.filter(|(_, ingress)| ingress.mode == IpMode::Vip);
    for (index, vip) in vips.clone() {
        if !has(IpFamily::of(vip.ip)) {
            let field = format!("status.loadBalancer.ingress[{index}].ip");
            warn(field, Reason::NoClusterIp(vip.ip));
        }
    }
    let ranges = &service.source_ranges;
    for family in IpFamily::ALL.into_iter().filter(|family| has(*family)) {
        let mut own = ranges.iter().filter(|r| family_of_net(r) == family);
        let field = || "spec.loadBalancerSourceRanges".to_owned();
        let every_client = own.clone().find(|r| r.prefix_len() == 0);
        if let Some(every_client) = every_client.filter(|_| own.clone().count() > 1) {
            warn(field(), Reason::EveryClientAllowed(*every_client));
        }
        let addressed = vips.clone().any(|(_, vip)| IpFamily::of(vip.ip) == family);
        if addressed && !ranges.is_empty() && own.next().is_none() {
            warn(field(), Reason::NoSourceRange(family));
        }
    }
    let balanced = service.service_type == ServiceType::LoadBalancer;
    if balanced && external_local(service) && service.health_check_node_port.is_none() {
        warn(
            "spec.healthCheckNodePort".to_owned(),
            Reason::NoHealthCheckPort,
        );
    }
    let mut distinct = distinct_ports(service).map(|(index, _)| index).peekable();
    for (index, port) in service.ports.iter().enumerate() {
        if distinct.next_if_eq(&index).is_none() {
            let name = ServicePortName {
                service: service.name.clone(),
                port: port.name.clone(),
            };
            let reason = Reason::DuplicatePort(name, port.protocol);
            warn(format!("spec.ports[{index}].name"), reason);
        }
    }
}

/// Add the warnings about a slice.
pub(super) fn slice(slice: &EndpointSlice, warnings: &mut Vec<Warning>) {
    let mut warn = |field, reason| {
        warnings.push(Warning {
            object: Key::EndpointSlice(slice.name.clone()),
            field,
            reason,
        });
    };
    for (index, port) in slice.ports.iter().enumerate() {
        if port.port.is_none() {
            warn(format!("ports[{index}].port"), Reason::NoPortNumber);
        }
    }
    if let Some(family) = family_of(slice) {
        for (index, ip) in wrong_family(slice, family) {
            warn(
                format!("endpoints[{index}].addresses[0]"),
                Reason::WrongFamily(ip),
            );
        }
    }
}
