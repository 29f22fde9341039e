//! EndpointSlices.

use std::net::IpAddr;
use std::sync::Arc;

use super::address::{parse_ip, special};
use super::service::proxy_name;
use super::time::parse_rfc3339;
use super::{Checked, Checker, Invalid, Kind, names};
use crate::{
    AddressType, Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Interner, IpFamily,
    NamespacedName, object,
};

const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

impl EndpointSlice {
    /// Check an EndpointSlice and fill in the API's defaults.
    ///
    /// Invalid: the name; a missing or unknown `addressType`; a port that is out of range, has an
    /// unknown protocol, or a malformed or duplicate name.
    ///
    /// Ignored with a warning: an endpoint whose address is missing, malformed, of another family
    /// than the slice, or cannot belong to a pod (loopback, for example).
    pub fn check(
        object: object::EndpointSlice,
        interner: &mut Interner,
    ) -> Result<Checked<Self>, Invalid> {
        let mut checker = Checker::new(Kind::EndpointSlice, &object.metadata)?;
        let c = &mut checker;
        let object::EndpointSlice {
            metadata,
            address_type,
            ports,
            endpoints,
        } = object;
        let address_type = match address_type.as_str() {
            "IPv4" => AddressType::Ipv4,
            "IPv6" => AddressType::Ipv6,
            "FQDN" => AddressType::Fqdn,
            "" => return Err(c.invalid("addressType", "is required")),
            other => {
                let reason = format!("{other:?} is not an address type (IPv4, IPv6 or FQDN)");
                return Err(c.invalid("addressType", reason));
            }
        };
        let ports = check_ports(c, &ports, interner)?;
        let unready_pods = unready_pods(&endpoints);
        let endpoints = match address_type {
            AddressType::Ipv4 => check_endpoints(c, &endpoints, IpFamily::V4, interner),
            AddressType::Ipv6 => check_endpoints(c, &endpoints, IpFamily::V6, interner),
            AddressType::Fqdn => Vec::new(), // Host names: no proxy serves those.
        };
        let namespace = interner.intern(&c.object.namespace);
        let service = metadata
            .labels
            .get("kubernetes.io/service-name")
            .filter(|name| !name.is_empty())
            .map(|name| NamespacedName {
                namespace: namespace.clone(),
                name: interner.intern(name),
            });
        let last_change_trigger = metadata.annotations.get(TRIGGER_TIME).and_then(|time| {
            let seconds = parse_rfc3339(time);
            if seconds.is_none() {
                let field = format!("metadata.annotations[{TRIGGER_TIME}]");
                c.warn(field, format!("{time:?} is not a time; ignored"));
            }
            seconds
        });
        let value = EndpointSlice {
            name: NamespacedName {
                namespace,
                name: metadata.name.into(),
            },
            service,
            headless: metadata
                .labels
                .contains_key("service.kubernetes.io/headless"),
            proxy_name: proxy_name(&metadata.labels),
            address_type,
            ports,
            endpoints,
            unready_pods,
            last_change_trigger,
        };
        Ok(checker.done(value))
    }
}

fn check_ports(
    c: &Checker,
    stated: &[object::EndpointPort],
    interner: &mut Interner,
) -> Result<Vec<EndpointPort>, Invalid> {
    let mut ports: Vec<EndpointPort> = Vec::with_capacity(stated.len());
    for (i, p) in stated.iter().enumerate() {
        let at = |field: &str| format!("ports[{i}].{field}");
        if !p.name.is_empty() && !names::is_label(&p.name) {
            return Err(c.invalid(at("name"), format!("{:?} is not a port name", p.name)));
        }
        if let Some(j) = ports.iter().position(|other| *other.name == *p.name) {
            let reason = format!("{:?} is also the name of ports[{j}]", p.name);
            return Err(c.invalid(at("name"), reason));
        }
        let port = match p.port {
            None => None,
            stated => Some(c.required_port(|| at("port"), stated)?),
        };
        ports.push(EndpointPort {
            name: interner.intern(&p.name),
            protocol: c.protocol(|| at("protocol"), &p.protocol)?,
            port,
        });
    }
    Ok(ports)
}

fn check_endpoints(
    c: &mut Checker,
    stated: &[object::Endpoint],
    family: IpFamily,
    interner: &mut Interner,
) -> Vec<Endpoint> {
    let mut endpoints = Vec::with_capacity(stated.len());
    for (i, e) in stated.iter().enumerate() {
        match address(e.addresses.first().map(String::as_str), family) {
            Ok(address) => endpoints.push(endpoint(e, address, interner)),
            Err(reason) => c.warn(format!("endpoints[{i}].addresses[0]"), reason),
        }
    }
    endpoints
}

fn unready_pods(stated: &[object::Endpoint]) -> Box<[(IpAddr, Box<str>)]> {
    let is_pod =
        |e: &&object::Endpoint| e.target_ref.kind == "Pod" && !e.target_ref.name.is_empty();
    stated
        .iter()
        .filter(|e| e.conditions.ready == Some(false))
        .filter(is_pod)
        .filter_map(|e| {
            let ip = parse_ip(e.addresses.first()?)?;
            Some((ip, e.target_ref.name.as_str().into()))
        })
        .collect()
}

fn address(stated: Option<&str>, family: IpFamily) -> Result<IpAddr, String> {
    let stated = stated.ok_or("is required; endpoint ignored")?;
    let ip = parse_ip(stated)
        .ok_or_else(|| format!("{stated:?} is not an IP address; endpoint ignored"))?;
    if IpFamily::of(ip) != family {
        return Err(format!(
            "{ip} does not have the slice's addressType, {family}; endpoint ignored"
        ));
    }
    match special(ip) {
        Some(why) => Err(format!("{ip} {why}; endpoint ignored")),
        None => Ok(ip),
    }
}

fn endpoint(stated: &object::Endpoint, address: IpAddr, interner: &mut Interner) -> Endpoint {
    let mut intern = |s: &Option<String>| {
        s.as_deref()
            .filter(|s| !s.is_empty())
            .map(|s| interner.intern(s))
    };
    let node_name = intern(&stated.node_name);
    let zone = intern(&stated.zone);
    Endpoint {
        address,
        conditions: EndpointConditions {
            ready: stated.conditions.ready.unwrap_or(true),
            serving: stated.conditions.serving.unwrap_or(true),
            terminating: stated.conditions.terminating.unwrap_or(false),
        },
        node_name,
        zone,
        zone_hints: hints(&stated.hints.for_zones, interner),
        node_hints: hints(&stated.hints.for_nodes, interner),
    }
}

fn hints(stated: &[object::NamedHint], interner: &mut Interner) -> Box<[Arc<str>]> {
    let mut hints: Vec<_> = stated.iter().map(|h| interner.intern(&h.name)).collect();
    hints.sort_unstable();
    hints.dedup();
    hints.into()
}
