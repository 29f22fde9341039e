//! The elements of one Service port. A Service port has nothing else in the table.

use std::net::IpAddr;

use model::Protocol;
use netfilter::nft::{Element, Value, fit_comment};
use plan::{Endpoint, Frontend, FrontendKind, NodeFacts, PortPlan, Traffic};

use super::names::{LOCAL_INDEX, SetId};
use super::pick::{At, PLAIN, Pick, Role};
use crate::nft_table::source_range_elements;

/// The elements of Service ports.
#[derive(Debug, Default)]
pub(super) struct PortElements {
    /// Elements that belong to one port.
    pub(super) own: Vec<(SetId, Element)>,
    /// The chains to which elements lead, once for each frontend.
    pub(super) picks: Vec<Pick>,
    /// Elements that ports can share, once for each port.
    pub(super) shared: Vec<Shared>,
    wanted: Wanted,
}

/// Selection of their own elements.
#[derive(Debug, Default)]
enum Wanted {
    #[default]
    All,
    Of(SetId),
    None,
}

/// An element that several ports can share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Shared {
    /// The cluster IP, shared by the ports of a Service.
    ClusterIp(IpAddr),
    /// An endpoint, which can be shared by Services.
    Hairpin(IpAddr, u16, u8),
}

impl Shared {
    pub(super) fn element(self) -> (SetId, Element) {
        match self {
            Shared::ClusterIp(ip) => (SetId::ClusterIps, Element::key(Value::ip(ip))),
            Shared::Hairpin(ip, port, protocol) => {
                let key = Value::ip(ip)
                    .with_ip(ip)
                    .with_protocol(protocol)
                    .with_port(port);
                (SetId::Hairpin, Element::key(key))
            }
        }
    }
}

/// The place of a frontend in the maps.
#[derive(Clone, Copy)]
enum Place {
    Address(IpAddr, u16),
    NodePort(u16),
}

impl Place {
    fn of(frontend: &Frontend) -> Self {
        let port = frontend.port.get();
        match frontend.ip {
            Some(ip) => Place::Address(ip, port),
            None => Place::NodePort(port),
        }
    }

    fn key(self, protocol: Protocol) -> Value {
        match self {
            Place::Address(ip, port) => Value::ip(ip)
                .with_protocol(protocol.number())
                .with_port(port),
            Place::NodePort(port) => Value::EMPTY
                .with_protocol(protocol.number())
                .with_port(port),
        }
    }

    fn choose(self, address: SetId, node_port: SetId) -> SetId {
        match self {
            Place::Address(..) => address,
            Place::NodePort(_) => node_port,
        }
    }

    fn port(self) -> u16 {
        match self {
            Place::Address(_, port) | Place::NodePort(port) => port,
        }
    }

    fn at(self) -> At {
        match self {
            Place::Address(..) => At::Address,
            Place::NodePort(_) => At::NodePort,
        }
    }
}

fn endpoint_value(endpoint: &Endpoint) -> Value {
    Value::ip(endpoint.ip).with_port(endpoint.port)
}

/// Return the comment of a port's frontends: its name.
pub(super) fn comment(port: &PortPlan) -> String {
    fit_comment(&port.name.to_string())
}

/// Return all elements of a port.
pub(super) fn port_elements(port: &PortPlan, node: &NodeFacts) -> PortElements {
    let mut found = PortElements::default();
    found.add(port, node);
    found
}

impl PortElements {
    /// Select the elements of one set.
    pub(super) fn of(set: SetId) -> Self {
        Self {
            wanted: Wanted::Of(set),
            ..Self::default()
        }
    }

    /// Select only shared elements and chains.
    pub(super) fn only_shared() -> Self {
        Self {
            wanted: Wanted::None,
            ..Self::default()
        }
    }

    /// Add the elements of a port.
    pub(super) fn add(&mut self, port: &PortPlan, node: &NodeFacts) {
        let others = self.shared.len();
        self.shared.push(Shared::ClusterIp(port.cluster_ip));
        for endpoint in port.cluster.iter().chain(port.local.iter()) {
            if endpoint.is_local {
                let number = port.protocol.number();
                let shared = Shared::Hairpin(endpoint.ip, endpoint.port, number);
                if !self.shared[others..].contains(&shared) {
                    self.shared.push(shared);
                }
            }
        }
        for frontend in port.frontends() {
            self.frontend(port, &frontend);
        }
        if !port.source_ranges.is_empty() {
            for ip in &port.load_balancer_ips {
                self.source_ranges(port, *ip, node);
            }
        }
    }

    fn push(&mut self, set: SetId, element: impl FnOnce() -> Element) {
        let wanted = match self.wanted {
            Wanted::All => true,
            Wanted::Of(wanted) => wanted == set,
            Wanted::None => false,
        };
        if wanted {
            self.own.push((set, element()));
        }
    }

    fn frontend(&mut self, port: &PortPlan, frontend: &Frontend) {
        let place = Place::of(frontend);
        let key = place.key(port.protocol);
        let entry = Pick {
            at: place.at(),
            role: role(frontend),
            affinity: port.affinity.map(|a| a.timeout_seconds),
            ranged: !port.source_ranges.is_empty()
                && frontend
                    .ip
                    .is_some_and(|ip| port.load_balancer_ips.contains(&ip)),
        };
        let (main, local) = lists(port, frontend);
        self.endpoints(place, key, main, false, entry);
        self.endpoints(place, key, local, true, entry);
        if entry.affinity.is_some() {
            self.live(port, place, main.iter().chain(local));
        }
        // When an element is added to a verdict map, the kernel follows all of its elements.
        if entry == PLAIN {
            self.push(SetId::ClusterIpPorts, || {
                Element::key(key).with_comment(comment(port))
            });
        } else {
            self.picks.push(entry);
            let node_ports = match entry.role {
                Role::Reject => SetId::NoEndpointNodePorts,
                _ => SetId::ServiceNodePorts,
            };
            let set = place.choose(SetId::ServiceIps, node_ports);
            self.push(set, || {
                Element::verdict(key, entry.verdict()).with_comment(comment(port))
            });
        }
    }

    fn endpoints(
        &mut self,
        place: Place,
        key: Value,
        endpoints: &[Endpoint],
        local: bool,
        entry: Pick,
    ) {
        let n = u32::try_from(endpoints.len()).map_or(LOCAL_INDEX, |n| n.min(LOCAL_INDEX));
        if n == 0 {
            return;
        }
        let first = if local { LOCAL_INDEX } else { 0 };
        let counts = place.choose(SetId::EndpointCounts, SetId::NodePortEndpointCounts);
        for bit in (0..=LOCAL_INDEX.ilog2()).map(|bit| 1 << bit) {
            if n & bit != 0 {
                self.push(counts, || Element::key(key.with_host_u32(first + bit)));
            }
        }
        let role = Role::OneOf { local, n };
        self.picks.push(Pick {
            role,
            ranged: false,
            ..entry
        });
        let set = place.choose(SetId::Endpoints, SetId::NodePortEndpoints);
        let sticky_set = place.choose(SetId::StickyEndpoints, SetId::NodePortStickyEndpoints);
        let port = Value::EMPTY.with_port(place.port());
        for (index, endpoint) in (first..first + LOCAL_INDEX).zip(endpoints) {
            self.push(set, || {
                Element::map(key.with_host_u32(index), endpoint_value(endpoint))
            });
            if entry.affinity.is_some() {
                self.push(sticky_set, || {
                    let data = port.with_ip(endpoint.ip).with_port(endpoint.port);
                    Element::map(key.with_host_u32(index), data)
                });
            }
        }
    }

    /// Add the endpoints to which affinity may return.
    fn live<'a>(
        &mut self,
        port: &PortPlan,
        place: Place,
        endpoints: impl Iterator<Item = &'a Endpoint>,
    ) {
        let set = place.choose(SetId::LiveEndpoints, SetId::NodePortLiveEndpoints);
        let frontend = Value::EMPTY.with_protocol(port.protocol.number());
        let frontend = match place {
            Place::Address(ip, _) => frontend.with_ip(ip),
            Place::NodePort(_) => frontend,
        };
        let frontend = frontend.with_port(place.port());
        for endpoint in endpoints {
            self.push(set, || {
                Element::key(frontend.with_ip(endpoint.ip).with_port(endpoint.port))
            });
        }
    }

    fn source_ranges(&mut self, port: &PortPlan, ip: IpAddr, node: &NodeFacts) {
        let key = Place::Address(ip, port.port.get()).key(port.protocol);
        for e in source_range_elements(key, port, node) {
            self.push(SetId::SourceRanges, || e);
        }
    }
}

/// Return the role of a frontend's chain.
fn role(frontend: &Frontend) -> Role {
    let internal = frontend.kind == FrontendKind::ClusterIp;
    match frontend.traffic {
        Traffic::Reject => Role::Reject,
        // A cluster IP drops all clients; other frontends serve pods and the node itself.
        Traffic::Drop if internal => Role::Drop,
        Traffic::Cluster | Traffic::Local if internal => Role::Any,
        Traffic::Cluster => Role::Masquerade,
        Traffic::Drop => Role::LocalOrDrop,
        Traffic::Local => Role::LocalPolicy,
    }
}

/// Return the endpoints of a frontend, and those only for clients from outside.
fn lists<'a>(port: &'a PortPlan, frontend: &Frontend) -> (&'a [Endpoint], &'a [Endpoint]) {
    let internal = frontend.kind == FrontendKind::ClusterIp;
    match frontend.traffic {
        Traffic::Reject => (&[], &[]),
        Traffic::Drop if internal => (&[], &[]),
        Traffic::Local if internal => (&port.local, &[]),
        Traffic::Cluster | Traffic::Drop => (&port.cluster, &[]),
        Traffic::Local => (&port.cluster, &port.local),
    }
}
