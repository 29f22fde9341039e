//! Random clusters, small and crowded: few names, addresses and ports, so that conflicts are
//! likely.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use model::{
    AddressType, Change, Cidr, Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Event,
    IngressIp, IpFamily, IpMode, NamespacedName, Node, Protocol, Service, ServiceCidr, ServicePort,
    ServiceType, SessionAffinity, TrafficPolicy,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::build::{self, Applied};
use crate::{LocalTraffic, NodePortAddresses, Planner, Settings};

/// All inputs of a plan.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Settings of `node1`.
    pub settings: Settings,
    /// The addresses of `node1`'s own interfaces.
    pub host_addresses: Vec<IpAddr>,
    /// All Services, each name once.
    pub services: Vec<Service>,
    /// All slices, each name once.
    pub slices: Vec<EndpointSlice>,
    /// All Nodes, each name once.
    pub nodes: Vec<Node>,
    /// All ServiceCIDRs, each name once.
    pub service_cidrs: Vec<ServiceCidr>,
}

impl Cluster {
    /// Return events that add all objects.
    pub fn events(&self) -> Vec<Event> {
        let services = self.services.iter().cloned().map(Applied::applied);
        let slices = self.slices.iter().cloned().map(Applied::applied);
        let nodes = self.nodes.iter().cloned().map(Applied::applied);
        let cidrs = self.service_cidrs.iter().cloned().map(Applied::applied);
        services.chain(slices).chain(nodes).chain(cidrs).collect()
    }

    /// Return a planner with all objects, after `take_diff`.
    pub fn planner(&self) -> Planner {
        let mut planner = Planner::new(self.settings.clone());
        planner.set_host_addresses(self.host_addresses.clone());
        planner.apply_all(self.events());
        planner.take_diff();
        planner
    }
}

/// Generate a cluster of a few Services with every feature.
pub fn cluster() -> impl Strategy<Value = Cluster> {
    let services = vec(service(), 0..6).prop_map(|all| first_of_each(all, |s| s.name.clone()));
    let slices = vec(slice(), 0..12).prop_map(|all| first_of_each(all, |s| s.name.clone()));
    let nodes = vec(node(), 0..3).prop_map(|all| first_of_each(all, |n| n.name.clone()));
    let cidrs = vec(service_cidr(), 0..3).prop_map(|all| first_of_each(all, |c| c.name.clone()));
    (settings(), services, slices, nodes, cidrs).prop_map(
        |(settings, services, slices, nodes, service_cidrs)| Cluster {
            settings,
            host_addresses: host_addresses(),
            services,
            slices,
            nodes,
            service_cidrs,
        },
    )
}

/// Generate settings and a sequence of events that add, change and remove objects.
pub fn history() -> impl Strategy<Value = (Settings, Vec<Event>)> {
    (settings(), vec(event(), 0..40))
}

/// Generate one event, on an object that others are likely to concern too.
pub fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => service().prop_map(Applied::applied),
        1 => service_name().prop_map(|name| Event::Service(Change::Deleted(name))),
        8 => slice().prop_map(Applied::applied),
        2 => slice().prop_map(|s| Event::EndpointSlice(Change::Deleted(s.name))),
        1 => node().prop_map(Applied::applied),
        1 => service_cidr().prop_map(Applied::applied),
        1 => service_cidr().prop_map(|c| Event::ServiceCidr(Change::Deleted(c.name))),
    ]
}

fn first_of_each<T, K: Ord>(all: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut seen = std::collections::BTreeSet::new();
    let mut all = all;
    all.retain(|object| seen.insert(key(object)));
    all
}

fn host_addresses() -> Vec<IpAddr> {
    build::ips(&[
        "127.0.0.1",
        "10.200.1.2",
        "192.0.2.1",
        "::1",
        "fd00:200:1::2",
    ])
}

fn settings() -> impl Strategy<Value = Settings> {
    let ranges = |texts: &[&str]| subsequence(build::cidrs(texts), 0..=texts.len());
    let local_traffic = prop_oneof![
        4 => ranges(&["10.244.0.0/16", "fd00:10:244::/56"]).prop_map(LocalTraffic::ClusterCidr),
        1 => Just(LocalTraffic::NodeCidr),
        1 => Just(LocalTraffic::BridgeInterface("cbr0".to_owned())),
        1 => Just(LocalTraffic::InterfaceNamePrefix("veth".to_owned())),
    ];
    let node_ports = prop_oneof![
        Just(NodePortAddresses::All),
        Just(NodePortAddresses::Primary),
        ranges(&[
            "10.200.1.0/24",
            "127.0.0.0/8",
            "fd00:200:1::/64",
            "0.0.0.0/0"
        ])
        .prop_map(NodePortAddresses::Ranges),
    ];
    (local_traffic, any::<bool>(), node_ports).prop_map(|(local_traffic, all, node_ports)| {
        Settings {
            local_traffic,
            masquerade_all: all,
            node_port_addresses: node_ports,
            ..build::settings("node1")
        }
    })
}

fn service_name() -> impl Strategy<Value = NamespacedName> {
    let namespace = select(vec!["demo", "other"]);
    let name = select(vec!["api", "dns", "web"]);
    (namespace, name).prop_map(|(namespace, name)| NamespacedName::new(namespace, name))
}

fn port_name() -> impl Strategy<Value = (Arc<str>, Protocol)> {
    let names = [
        ("http", Protocol::Tcp),
        ("https", Protocol::Tcp),
        ("dns", Protocol::Udp),
        ("sig", Protocol::Sctp),
    ];
    select(names.to_vec()).prop_map(|(name, protocol)| (name.into(), protocol))
}

fn service_port() -> impl Strategy<Value = ServicePort> {
    let port = select(vec![53_u16, 80, 443]);
    let node_port = proptest::option::weighted(0.6, 30000..30006_u16);
    (port_name(), port, node_port).prop_map(|((name, protocol), port, node_port)| ServicePort {
        name,
        protocol,
        port: NonZeroU16::new(port).expect("not 0"),
        node_port: node_port.and_then(NonZeroU16::new),
    })
}

/// Some of the addresses `prefix1`, `prefix2`, ... of both families.
fn some_ips(v4: &'static str, v6: &'static str) -> impl Strategy<Value = Vec<IpAddr>> {
    let all = |prefix: &'static str| (1..=3).map(move |n| format!("{prefix}{n}").parse());
    let all: Result<Vec<IpAddr>, _> = all(v4).chain(all(v6)).collect();
    subsequence(all.expect("addresses"), 0..=3).prop_shuffle()
}

fn ingress() -> impl Strategy<Value = Vec<IngressIp>> {
    let mode = select(vec![IpMode::Vip, IpMode::Vip, IpMode::Proxy]);
    (some_ips("203.0.113.", "fd00:203::"), mode).prop_map(|(ips, mode)| {
        let ingress = ips.into_iter().map(|ip| IngressIp { ip, mode });
        ingress.collect()
    })
}

/// None, one, or one per family; rarely equal to those of another Service.
fn cluster_ips() -> impl Strategy<Value = Vec<IpAddr>> {
    let families = select(vec![&[0][..], &[1], &[0, 1], &[1, 0], &[0, 1], &[]]);
    (families, 1..12_u8).prop_map(|(families, host)| {
        let v4 = IpAddr::from([10, 96, 0, host]);
        let v6 = IpAddr::from([0xfd00, 0x10, 0x96, 0, 0, 0, 0, u16::from(host)]);
        families.iter().map(|family| [v4, v6][*family]).collect()
    })
}

fn policy() -> impl Strategy<Value = TrafficPolicy> {
    select(vec![TrafficPolicy::Cluster, TrafficPolicy::Local])
}

fn source_ranges() -> impl Strategy<Value = Vec<Cidr>> {
    let all = build::cidrs(&[
        "203.0.113.0/24",
        "10.200.1.0/24",
        "0.0.0.0/0",
        "2001:db8::/32",
    ]);
    prop_oneof![2 => Just(Vec::new()), 1 => subsequence(all, 0..3)]
}

fn service() -> impl Strategy<Value = Service> {
    let service_type = select(vec![
        ServiceType::ClusterIp,
        ServiceType::NodePort,
        ServiceType::LoadBalancer,
        ServiceType::LoadBalancer,
    ]);
    let affinity = select(vec![
        SessionAffinity::None,
        SessionAffinity::None,
        SessionAffinity::ClientIp {
            timeout_seconds: 600,
        },
    ]);
    let health = proptest::option::of(Just(NonZeroU16::new(31999).expect("not 0")));
    let addresses = (
        cluster_ips(),
        some_ips("192.0.2.", "fd00:192::"),
        ingress(),
        source_ranges(),
    );
    let behaviour = (service_type, policy(), policy(), affinity, health);
    let not_ours = prop::bool::weighted(0.05);
    (
        service_name(),
        vec(service_port(), 1..4),
        addresses,
        behaviour,
        not_ours,
    )
        .prop_map(|(name, ports, addresses, behaviour, not_ours)| {
            let (cluster_ips, external_ips, ingress, source_ranges) = addresses;
            let (service_type, internal_policy, external_policy, affinity, health) = behaviour;
            // Lists every field, so that a new one is generated or stays constant on purpose.
            Service {
                name,
                uid: "".into(),
                service_type,
                headless: cluster_ips.is_empty(),
                proxy_name: not_ours.then(|| "other".into()),
                cluster_ips,
                ports,
                external_ips,
                ingress,
                load_balancer_names: Box::default(),
                has_selector: true,
                source_ranges,
                internal_policy,
                external_policy,
                health_check_node_port: health,
                affinity,
            }
        })
}

fn hints(names: [&'static str; 2]) -> impl Strategy<Value = Box<[Arc<str>]>> {
    let hints = subsequence(names.to_vec(), 0..=2);
    hints.prop_map(|names| names.into_iter().map(Arc::from).collect())
}

fn slice_endpoint(family: IpFamily) -> impl Strategy<Value = Endpoint> {
    let conditions = select(vec![
        (true, true, false),
        (true, true, false),
        (true, true, false),
        (false, true, true),
        (false, false, true),
        (false, false, false),
        // publishNotReadyAddresses
        (true, true, true),
    ]);
    let node = proptest::option::weighted(0.9, select(vec!["node1", "node2", "node3"]));
    let hinted = (hints(["zone-a", "zone-b"]), hints(["node1", "node2"]));
    let hinted = prop_oneof![2 => Just(Default::default()), 1 => hinted];
    // Rarely one of the other family, which must be ignored.
    let stray = prop::bool::weighted(0.03);
    (1..12_u8, conditions, node, hinted, stray).prop_map(
        move |(host, conditions, node, (zone_hints, node_hints), stray)| {
            let (ready, serving, terminating) = conditions;
            let is_v4 = (family == IpFamily::V4) != stray;
            Endpoint {
                address: match is_v4 {
                    true => IpAddr::from([10, 244, 1, host]),
                    false => IpAddr::from([0xfd00, 0x10, 0x244, 1, 0, 0, 0, u16::from(host)]),
                },
                conditions: EndpointConditions {
                    ready,
                    serving,
                    terminating,
                },
                node_name: node.map(Arc::from),
                zone: None,
                zone_hints,
                node_hints,
            }
        },
    )
}

fn slice_port() -> impl Strategy<Value = EndpointPort> {
    let number = proptest::option::weighted(0.95, select(vec![8080_u16, 80, 53]));
    (port_name(), number).prop_map(|((name, protocol), port)| EndpointPort {
        name,
        protocol,
        port: port.and_then(NonZeroU16::new),
    })
}

fn slice() -> impl Strategy<Value = EndpointSlice> {
    let address_type = select(vec![
        AddressType::Ipv4,
        AddressType::Ipv4,
        AddressType::Ipv4,
        AddressType::Ipv6,
        AddressType::Ipv6,
        AddressType::Fqdn,
    ]);
    let endpoints = address_type.prop_flat_map(|address_type| {
        let family = match address_type {
            AddressType::Ipv6 => IpFamily::V6,
            AddressType::Ipv4 | AddressType::Fqdn => IpFamily::V4,
        };
        (Just(address_type), vec(slice_endpoint(family), 0..6))
    });
    let slice_name = select(vec!["a", "b", "c", "d", "e"]);
    let labels = (prop::bool::weighted(0.03), prop::bool::weighted(0.03));
    let service = proptest::option::weighted(0.97, service_name());
    (
        slice_name,
        service,
        vec(slice_port(), 1..4),
        endpoints,
        labels,
    )
        .prop_map(
            |(name, service, ports, (address_type, endpoints), (headless, foreign))| {
                let namespace = match &service {
                    Some(service) => service.namespace.clone(),
                    None => "demo".into(),
                };
                EndpointSlice {
                    name: NamespacedName::new(namespace, name),
                    service,
                    headless,
                    proxy_name: foreign.then(|| "other".into()),
                    address_type,
                    ports,
                    endpoints,
                    unready_pods: Box::default(),
                    last_change_trigger: None,
                }
            },
        )
}

fn node() -> impl Strategy<Value = Node> {
    let node_name = select(vec!["node1", "node1", "node2"]);
    let ips = subsequence(vec!["10.200.1.2", "fd00:200:1::2", "10.200.1.3"], 0..=3);
    let pods = subsequence(vec!["10.244.1.0/24", "fd00:10:244:1::/64"], 0..=2);
    let zone = proptest::option::of(select(vec!["zone-a", "zone-b"]));
    (node_name, ips, pods, zone).prop_map(|(name, ips, pods, zone)| Node {
        topology: zone.map(build::zone_label).unwrap_or_default(),
        ..build::node(name, &ips, &pods)
    })
}

fn service_cidr() -> impl Strategy<Value = ServiceCidr> {
    let name = select(vec!["kubernetes", "more"]);
    let ranges = vec!["10.96.0.0/16", "10.97.0.0/16", "fd00:10:96::/108"];
    (name, subsequence(ranges, 0..=2)).prop_map(|(name, ranges)| build::service_cidr(name, &ranges))
}
