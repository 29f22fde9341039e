//! Short constructors of objects; tests change fields by struct update.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use model::{
    AddressType, Change, Cidr, Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Event,
    NamespacedName, Node, NodeAddress, NodeAddressType, Protocol, Service, ServiceCidr,
    ServicePort, ServiceType, SessionAffinity, TopologyLabels, TrafficPolicy,
};

use crate::{LocalTraffic, NodePortAddresses, Settings};

/// Conversion of an object to an event.
pub trait Applied {
    /// Return the event that adds the object.
    fn applied(self) -> Event;
}

impl Applied for Service {
    fn applied(self) -> Event {
        Event::Service(Change::Applied(Arc::new(self)))
    }
}

impl Applied for EndpointSlice {
    fn applied(self) -> Event {
        Event::EndpointSlice(Change::Applied(Arc::new(self)))
    }
}

impl Applied for Node {
    fn applied(self) -> Event {
        Event::Node(Change::Applied(Arc::new(self)))
    }
}

impl Applied for ServiceCidr {
    fn applied(self) -> Event {
        Event::ServiceCidr(Change::Applied(Arc::new(self)))
    }
}

/// `namespace/name`.
pub fn name(text: &str) -> NamespacedName {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    NamespacedName::new(namespace, name)
}

/// Addresses from their texts.
pub fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|ip| ip.parse().expect("an IP")).collect()
}

/// Ranges from their texts.
pub fn cidrs(texts: &[&str]) -> Vec<Cidr> {
    let parse = |text: &&str| text.parse().expect("an address range");
    texts.iter().map(parse).collect()
}

/// Parse a port from `name:port`, `name:port/PROTOCOL` or `name:port:nodePort/PROTOCOL`.
pub fn port(text: &str) -> ServicePort {
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "TCP"));
    let mut parts = numbers.split(':');
    let name = parts.next().unwrap_or_default();
    let mut number = || {
        let text = parts.next()?;
        Some(text.parse::<NonZeroU16>().expect("a port number"))
    };
    ServicePort {
        name: name.into(),
        protocol: parse_protocol(protocol),
        port: number().expect("name:port"),
        node_port: number(),
    }
}

fn parse_protocol(text: &str) -> Protocol {
    let mut all = Protocol::ALL.into_iter();
    all.find(|p| p.upper() == text).expect("TCP, UDP or SCTP")
}

/// Return a ClusterIP Service; ports in the form of [`port`].
pub fn service(full_name: &str, cluster_ips: &[&str], ports: &[&str]) -> Service {
    Service {
        name: name(full_name),
        uid: "".into(),
        service_type: ServiceType::ClusterIp,
        cluster_ips: ips(cluster_ips),
        headless: false,
        proxy_name: None,
        ports: ports.iter().map(|text| port(text)).collect(),
        external_ips: Vec::new(),
        ingress: Vec::new(),
        load_balancer_names: Box::default(),
        has_selector: true,
        source_ranges: Vec::new(),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        health_check_node_port: None,
        affinity: SessionAffinity::None,
    }
}

/// Return a slice of a Service in its own namespace, ports in the form of [`port`]; with the family of its
/// first endpoint, or IPv4.
pub fn slice(
    slice_name: &str,
    service: &str,
    ports: &[&str],
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let is_v6 = endpoints.first().is_some_and(|e| e.address.is_ipv6());
    let service = name(service);
    let ports = ports.iter().map(|text| port(text));
    EndpointSlice {
        name: NamespacedName::new(service.namespace.clone(), slice_name),
        service: Some(service),
        headless: false,
        proxy_name: None,
        address_type: if is_v6 {
            AddressType::Ipv6
        } else {
            AddressType::Ipv4
        },
        ports: ports
            .map(|port| EndpointPort {
                name: port.name,
                protocol: port.protocol,
                port: Some(port.port),
            })
            .collect(),
        endpoints,
        unready_pods: Box::default(),
        last_change_trigger: None,
    }
}

/// Return a ready endpoint on a node.
pub fn endpoint(ip: &str, node_name: &str) -> Endpoint {
    Endpoint {
        address: ip.parse().expect("an IP"),
        conditions: EndpointConditions {
            ready: true,
            serving: true,
            terminating: false,
        },
        node_name: Some(node_name.into()),
        zone: None,
        zone_hints: Box::default(),
        node_hints: Box::default(),
    }
}

/// Return a Node with InternalIPs and pod ranges.
pub fn node(node_name: &str, internal_ips: &[&str], pod_cidrs: &[&str]) -> Node {
    let address = |ip| NodeAddress {
        kind: NodeAddressType::InternalIp,
        ip,
    };
    Node {
        name: node_name.into(),
        uid: "".into(),
        addresses: ips(internal_ips).into_iter().map(address).collect(),
        pod_cidrs: cidrs(pod_cidrs),
        topology: TopologyLabels::new(),
        deleting: false,
    }
}

/// Return the labels of a Node in a zone.
pub fn zone_label(zone: &str) -> TopologyLabels {
    TopologyLabels::from([("topology.kubernetes.io/zone".into(), zone.into())])
}

/// Return a ServiceCIDR.
pub fn service_cidr(cidr_name: &str, ranges: &[&str]) -> ServiceCidr {
    ServiceCidr {
        name: Arc::from(cidr_name),
        cidrs: cidrs(ranges),
    }
}

/// Return default settings with the cluster's pod ranges.
pub fn settings(node_name: &str) -> Settings {
    Settings {
        node_name: node_name.to_owned(),
        local_traffic: LocalTraffic::ClusterCidr(cidrs(&["10.244.0.0/16", "fd00:10:244::/56"])),
        masquerade_all: false,
        node_port_addresses: NodePortAddresses::All,
    }
}
