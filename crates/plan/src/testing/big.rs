//! Large clusters for benchmarks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::sync::Arc;

use model::{
    AddressType, Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Event, IngressIp,
    IpFamily, IpMode, NamespacedName, Node, Protocol, Service, ServicePort, ServiceType,
    TrafficPolicy,
};

use super::build::{self, Applied};
use crate::{LocalTraffic, Settings};

const NODES: usize = 500;
/// Pod addresses for each node, out of 10.128.0.0/9.
const PODS_PER_NODE: u32 = 1 << 14;
/// Number of endpoints that the EndpointSlice controller puts into one slice.
const ENDPOINTS_PER_SLICE: usize = 100;
/// Size of the default NodePort range 30000-32767.
const NODE_PORTS: usize = 2768;

/// Return a cluster of 500 nodes as seen from `node-1`, with one family and one port per Service.
/// Of ten Services, one is UDP, one a LoadBalancer with external policy Local, one a NodePort (up
/// to the size of the NodePort range), and the others are ClusterIPs. Ready endpoints are spread
/// over the nodes and three zones. Equal arguments return equal events. Supports a million Services
/// and eight million endpoints.
pub fn big_cluster_of(
    family: IpFamily,
    services: usize,
    endpoints_per_service: usize,
) -> Vec<Event> {
    let shared = Shared::new(family);
    let mut events = Vec::with_capacity(services * 2 + 2);
    let node = Node {
        topology: build::zone_label("zone-1"),
        ..match family {
            IpFamily::V4 => build::node("node-1", &["10.0.0.1"], &["10.128.0.0/18"]),
            IpFamily::V6 => build::node("node-1", &["fd00::a00:1"], &["fd00::a80:0/114"]),
        }
    };
    events.push(node.applied());
    let range = match family {
        IpFamily::V4 => "10.96.0.0/12",
        IpFamily::V6 => "fd00::a60:0/108",
    };
    events.push(build::service_cidr("kubernetes", &[range]).applied());
    let mut node_ports = 30000..30000 + NODE_PORTS as u16;
    for index in 0..services {
        let service = shared.service(index, &mut node_ports);
        let slices = shared.slices(index, &service, endpoints_per_service);
        events.extend(slices.map(Applied::applied));
        events.push(service.applied());
    }
    events
}

/// Return [`big_cluster_of`] IPv4.
pub fn big_cluster(services: usize, endpoints_per_service: usize) -> Vec<Event> {
    big_cluster_of(IpFamily::V4, services, endpoints_per_service)
}

/// Return the settings that go with [`big_cluster`] of either family.
pub fn big_cluster_settings() -> Settings {
    let pods = build::cidrs(&["10.128.0.0/9", "fd00::a80:0/105"]);
    Settings {
        local_traffic: LocalTraffic::ClusterCidr(pods),
        ..build::settings("node-1")
    }
}

/// Strings that many objects share, as after interning by a source.
struct Shared {
    family: IpFamily,
    nodes: Vec<Arc<str>>,
    zones: Vec<Arc<str>>,
    namespaces: Vec<Arc<str>>,
    port: Arc<str>,
}

impl Shared {
    fn new(family: IpFamily) -> Self {
        let numbered = |prefix: &str, count| {
            (1..=count)
                .map(|n| format!("{prefix}-{n}").into())
                .collect()
        };
        Self {
            family,
            nodes: numbered("node", NODES),
            zones: numbered("zone", 3),
            namespaces: numbered("team", 100),
            port: "http".into(),
        }
    }

    /// Return an address of the family; the IPv6 address ends in the IPv4 address.
    fn ip(&self, first: [u8; 4], number: u32) -> IpAddr {
        let bits = u32::from_be_bytes(first) + number;
        match self.family {
            IpFamily::V4 => Ipv4Addr::from(bits).into(),
            IpFamily::V6 => Ipv6Addr::from(0xfd00 << 112 | u128::from(bits)).into(),
        }
    }

    fn service(&self, index: usize, node_ports: &mut impl Iterator<Item = u16>) -> Service {
        let number = u32::try_from(index).expect("fewer Services than addresses");
        let namespace = self.namespaces[index % self.namespaces.len()].clone();
        let (protocol, mut service_type) = match index % 10 {
            3 => (Protocol::Udp, ServiceType::ClusterIp),
            5 => (Protocol::Tcp, ServiceType::LoadBalancer),
            8 => (Protocol::Tcp, ServiceType::NodePort),
            _ => (Protocol::Tcp, ServiceType::ClusterIp),
        };
        let mut node_port = None;
        if service_type != ServiceType::ClusterIp {
            node_port = node_ports.next().and_then(NonZeroU16::new);
            if node_port.is_none() {
                service_type = ServiceType::ClusterIp;
            }
        }
        let mut service = Service {
            name: NamespacedName::new(namespace, format!("service-{index}")),
            service_type,
            // After the first 256 addresses, which a real cluster uses itself.
            cluster_ips: vec![self.ip([10, 96, 1, 0], number)],
            ports: vec![ServicePort {
                name: self.port.clone(),
                protocol,
                port: build::port("http:80").port,
                node_port,
            }],
            ..build::service("team/service", &[], &[])
        };
        if service_type == ServiceType::LoadBalancer {
            service.ingress = vec![IngressIp {
                ip: self.ip([198, 18, 0, 0], number),
                mode: IpMode::Vip,
            }];
            service.external_policy = TrafficPolicy::Local;
            service.health_check_node_port = node_ports.next().and_then(NonZeroU16::new);
        }
        service
    }

    fn slices(
        &self,
        index: usize,
        service: &Service,
        endpoints: usize,
    ) -> impl Iterator<Item = EndpointSlice> {
        let first = index * endpoints;
        let name = service.name.clone();
        let protocol = service.ports[0].protocol;
        let target = build::port("http:8080").port;
        (0..endpoints)
            .step_by(ENDPOINTS_PER_SLICE)
            .map(move |start| {
                let end = endpoints.min(start + ENDPOINTS_PER_SLICE);
                let slice_name = format!("{}-{start}", name.name);
                EndpointSlice {
                    name: NamespacedName::new(name.namespace.clone(), slice_name),
                    service: Some(name.clone()),
                    headless: false,
                    proxy_name: None,
                    address_type: match self.family {
                        IpFamily::V4 => AddressType::Ipv4,
                        IpFamily::V6 => AddressType::Ipv6,
                    },
                    ports: vec![EndpointPort {
                        name: self.port.clone(),
                        protocol,
                        port: Some(target),
                    }],
                    endpoints: (start..end).map(|n| self.endpoint(first + n)).collect(),
                    unready_pods: Box::default(),
                    last_change_trigger: None,
                }
            })
    }

    /// Return the pod with a number; neighbours are on different nodes.
    fn endpoint(&self, number: usize) -> Endpoint {
        let node = number * 7 % NODES;
        let on_node = u32::try_from(number / NODES).expect("fewer pods than addresses");
        let pod = node as u32 * PODS_PER_NODE + on_node + 2;
        Endpoint {
            address: self.ip([10, 128, 0, 0], pod),
            conditions: EndpointConditions {
                ready: true,
                serving: true,
                terminating: false,
            },
            node_name: Some(self.nodes[node].clone()),
            zone: Some(self.zones[node % self.zones.len()].clone()),
            zone_hints: Box::default(),
            node_hints: Box::default(),
        }
    }
}
