//! The Service in question, with everything that the objects state about it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, bail};
use ipnet::IpNet;
use model::{
    Change, EndpointSlice, Event, IpFamily, Mode, NamespacedName, Node, Protocol, Service,
    ServicePort,
};
use plan::{NodeFacts, Plan, Planner, PortPlan, Settings, Warning};

use super::clash::Claims;
use super::finding::listed;

/// One Service in the objects, and this node's plan for it.
#[derive(Debug)]
pub struct Subject<'c> {
    /// All objects.
    pub(crate) cluster: &'c Cluster,
    /// The Service.
    pub(crate) service: Arc<Service>,
    /// The ports in question.
    pub(crate) ports: Vec<ServicePort>,
    /// Its slices.
    pub(crate) slices: Vec<Arc<EndpointSlice>>,
    /// Slices with its name that labels hide from the proxy.
    pub(crate) hidden: Vec<Arc<EndpointSlice>>,
    /// The plan for each port and family, with what concerns the node in that family.
    pub(crate) plans: Vec<(Arc<PortPlan>, Arc<NodeFacts>)>,
    /// What the plan leaves out.
    pub(crate) warnings: Vec<&'c Warning>,
    /// Mode of the node's rules.
    pub(crate) mode: Mode,
}

/// All objects, and what the plan of one node makes of them.
#[derive(Debug)]
pub struct Cluster {
    /// The node's name.
    pub(crate) node_name: String,
    /// Its Node object.
    pub(crate) node: Option<Arc<Node>>,
    /// The addresses of its interfaces and of its Node.
    pub(crate) own_addresses: BTreeSet<IpAddr>,
    pub(crate) objects: Objects,
    pub(crate) plans: [Plan; 2],
    warnings: Vec<Warning>,
    slices: HashMap<NamespacedName, Vec<Arc<EndpointSlice>>>,
    /// The names of the nodes on which endpoints are, when they are needed.
    nodes_of_pods: OnceLock<HashMap<IpAddr, Arc<str>>>,
    /// Pods of this node, one address in each family, that can be used as clients.
    pub(crate) pods: BTreeSet<IpAddr>,
    /// The Service that has a NodePort.
    pub(crate) node_ports: BTreeMap<(Protocol, u16), NamespacedName>,
    pub(crate) claims: Claims,
}

/// All objects.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    pub(crate) services: Vec<Arc<Service>>,
    pub(crate) slices: Vec<Arc<EndpointSlice>>,
    pub(crate) nodes: Vec<Arc<Node>>,
}

impl Objects {
    pub(crate) fn of(events: &[Event]) -> Self {
        let mut objects = Self::default();
        for event in events {
            match event {
                Event::Service(Change::Applied(s)) => objects.services.push(Arc::clone(s)),
                Event::EndpointSlice(Change::Applied(s)) => objects.slices.push(Arc::clone(s)),
                Event::Node(Change::Applied(n)) => objects.nodes.push(Arc::clone(n)),
                _ => {}
            }
        }
        objects
    }

    /// Find a Service by name, address or NodePort, and the ports that are meant.
    pub(crate) fn find(&self, text: &str) -> anyhow::Result<(Arc<Service>, Vec<ServicePort>)> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            let has = |s: &&Arc<Service>| {
                s.cluster_ips.contains(&ip)
                    || s.external_ips.contains(&ip)
                    || s.ingress.iter().any(|i| i.ip == ip)
            };
            let found = self.services.iter().find(has);
            let service = found.with_context(|| self.no_address(ip))?;
            return Ok((Arc::clone(service), service.ports.clone()));
        }
        if let Ok(number) = text.parse::<NonZeroU16>() {
            for service in &self.services {
                let ports = service.ports.iter().filter(|p| p.node_port == Some(number));
                let ports: Vec<ServicePort> = ports.cloned().collect();
                if !ports.is_empty() {
                    return Ok((Arc::clone(service), ports));
                }
            }
            bail!("no Service has the NodePort {number}");
        }
        let Some((namespace, rest)) = text.split_once('/') else {
            bail!(
                "{text:?} is neither NAMESPACE/NAME, NAMESPACE/NAME:PORT, an address nor a NodePort{}",
                self.of_name(text)
            );
        };
        let (name, port) = match rest.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (rest, None),
        };
        let is_it = |s: &&Arc<Service>| &*s.name.namespace == namespace && &*s.name.name == name;
        let found = self.services.iter().find(is_it);
        let service = found.with_context(|| self.no_service(namespace, name))?;
        let wanted = |p: &&ServicePort| {
            port.is_none_or(|port| &*p.name == port || p.port.to_string() == port)
        };
        let ports: Vec<ServicePort> = service.ports.iter().filter(wanted).cloned().collect();
        if let (Some(port), true) = (port, ports.is_empty()) {
            let all = service
                .ports
                .iter()
                .map(|p| format!("{} ({})", p.name, p.port));
            let all: Vec<String> = all.collect();
            bail!(
                "Service {namespace}/{name} has no port {port}; it has {}",
                all.join(", ")
            );
        }
        Ok((Arc::clone(service), ports))
    }
}

/// How many names a suggestion has.
const MOST: usize = 10;

/// What could have been meant.
impl Objects {
    fn no_address(&self, ip: IpAddr) -> String {
        let of = self
            .slices
            .iter()
            .find(|s| s.endpoints.iter().any(|e| e.address == ip))
            .and_then(|s| s.service.as_ref());
        let of = of.map_or(String::new(), |service| {
            format!("; it is an endpoint of {service}: pass that Service instead")
        });
        format!("no Service has the address {ip}{of}")
    }

    fn of_name(&self, text: &str) -> String {
        let name = text.split(':').next().unwrap_or(text);
        let named = self.services.iter().filter(|s| &*s.name.name == name);
        let all: Vec<String> = named.map(|s| s.name.to_string()).collect();
        if all.is_empty() {
            return String::new();
        }
        format!("; did you mean {}?", listed(all, MOST))
    }

    fn no_service(&self, namespace: &str, name: &str) -> String {
        let mut there = self
            .services
            .iter()
            .filter(|s| &*s.name.namespace == namespace)
            .map(|s| &*s.name.name)
            .peekable();
        let elsewhere = self.of_name(name);
        let others = if there.peek().is_none() {
            format!(", and {namespace} has no Services at all")
        } else if elsewhere.is_empty() {
            format!("; the Services in {namespace} are {}", listed(there, MOST))
        } else {
            String::new()
        };
        format!("Service {namespace}/{name} does not exist{others}{elsewhere}")
    }

    /// Return the name of the node: `named`, or `here`, or that of the Node with one of these
    /// addresses.
    ///
    /// # Errors
    /// Nodes exist, and none of them is meant.
    pub(crate) fn node_name(
        &self,
        named: Option<&str>,
        here: String,
        interfaces: &[IpAddr],
    ) -> anyhow::Result<String> {
        let known = |name: &str| self.nodes.iter().any(|n| &*n.name == name);
        // As in the proxy: names of Nodes are lower case.
        let name = named.map_or(here, str::to_lowercase);
        if self.nodes.is_empty() || known(&name) {
            return Ok(name);
        }
        // Names are in lower case, as the proxy takes --hostname-override.
        let lower = name.trim().to_lowercase();
        if known(&lower) {
            return Ok(lower);
        }
        let mine = |n: &&Arc<Node>| n.addresses.iter().any(|a| interfaces.contains(&a.ip));
        if named.is_none()
            && let Some(node) = self.nodes.iter().find(mine)
        {
            return Ok(node.name.to_string());
        }
        let names = self.nodes.iter().map(|n| &n.name);
        bail!(
            "Node {name} does not exist; pass --node with one of these names: {}",
            listed(names, MOST)
        )
    }
}

impl Cluster {
    /// Plan all objects for one node. `interfaces` are the addresses of its interfaces; if empty, the
    /// Node object's are used.
    pub fn new(events: Vec<Event>, settings: Settings, interfaces: Vec<IpAddr>) -> Self {
        let objects = Objects::of(&events);
        let node_name = settings.node_name.clone();
        let mut own_addresses: BTreeSet<IpAddr> = interfaces.iter().copied().collect();
        let mut planner = Planner::new(settings);
        planner.set_host_addresses(interfaces);
        planner.apply_all(events);
        planner.take_diff();
        let warnings = planner.take_warnings();
        let node = objects.nodes.iter().find(|n| *n.name == *node_name);
        let node = node.cloned();
        own_addresses.extend(node.iter().flat_map(|n| &n.addresses).map(|a| a.ip));
        let mut slices: HashMap<NamespacedName, Vec<Arc<EndpointSlice>>> = HashMap::new();
        for slice in &objects.slices {
            if let Some(service) = &slice.service {
                let all = slices.entry(service.clone()).or_default();
                all.push(Arc::clone(slice));
            }
        }
        // Pods in the host's network have the node's own addresses.
        let pods = objects
            .slices
            .iter()
            .flat_map(|s| &s.endpoints)
            .filter(|e| e.node_name.as_deref() == Some(&*node_name))
            .map(|e| e.address)
            .filter(|ip| !own_addresses.contains(ip))
            .collect();
        let mut node_ports = BTreeMap::new();
        for service in &objects.services {
            for port in &service.ports {
                if let Some(number) = port.node_port {
                    node_ports.insert((port.protocol, number.get()), service.name.clone());
                }
            }
        }
        let plans = IpFamily::ALL.map(|family| planner.plan(family).clone());
        Self {
            claims: Claims::new(&plans, &own_addresses, &objects),
            plans,
            node_name,
            node,
            own_addresses,
            objects,
            warnings,
            slices,
            nodes_of_pods: OnceLock::new(),
            pods,
            node_ports,
        }
    }

    /// Return what the plan leaves out, and clashes.
    pub(crate) fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Return all Services.
    pub(crate) fn services(&self) -> &[Arc<Service>] {
        &self.objects.services
    }

    /// Return the ranges of this node's pods, as the Node object states them.
    pub(crate) fn pod_ranges(&self) -> impl Iterator<Item = &IpNet> {
        self.node.iter().flat_map(|node| &node.pod_cidrs)
    }

    /// Return whether an address is a pod's of any node, by the Nodes' ranges and the endpoints.
    pub(crate) fn is_pod_anywhere(&self, ip: IpAddr) -> bool {
        let mut ranges = self.objects.nodes.iter().flat_map(|n| &n.pod_cidrs);
        let mut endpoints = self.objects.slices.iter().flat_map(|s| &s.endpoints);
        ranges.any(|range| range.contains(&ip)) || endpoints.any(|e| e.address == ip)
    }

    /// Return the other Node of which an address is a pod's, by the endpoints and the Nodes' ranges; `None`
    /// for the address of a Node, which its pods in the host network share.
    pub(crate) fn other_node_of(&self, ip: IpAddr) -> Option<&Node> {
        let mut nodes = self.objects.nodes.iter();
        let node = match self.nodes_of_pods().get(&ip) {
            Some(name) => nodes.find(|n| n.name == *name),
            None => nodes.find(|n| n.pod_cidrs.iter().any(|range| range.contains(&ip))),
        }?;
        let is_host = node.addresses.iter().any(|a| a.ip == ip);
        (*node.name != *self.node_name && !is_host).then_some(node)
    }

    fn nodes_of_pods(&self) -> &HashMap<IpAddr, Arc<str>> {
        self.nodes_of_pods.get_or_init(|| {
            let endpoints = self.objects.slices.iter().flat_map(|s| &s.endpoints);
            endpoints
                .filter_map(|e| Some((e.address, e.node_name.clone()?)))
                .collect()
        })
    }

    /// Return the plan of a family.
    pub(crate) fn plan(&self, family: IpFamily) -> &Plan {
        match family {
            IpFamily::V4 => &self.plans[0],
            IpFamily::V6 => &self.plans[1],
        }
    }

    /// Return the Service that `text` names.
    pub(crate) fn find(&self, text: &str, mode: Mode) -> anyhow::Result<Subject<'_>> {
        let (service, ports) = self.objects.find(text)?;
        Ok(self.subject(service, ports, mode))
    }

    /// Return what the objects and the plan state about some ports of a Service.
    pub(crate) fn subject(
        &self,
        service: Arc<Service>,
        ports: Vec<ServicePort>,
        mode: Mode,
    ) -> Subject<'_> {
        let is_meant = |name: &str, protocol: Protocol| {
            ports
                .iter()
                .any(|p| &*p.name == name && p.protocol == protocol)
        };
        let mut plans = Vec::new();
        for plan in &self.plans {
            let found = plan.ports_of(&service.name).map(|(_, port)| port);
            let found = found.filter(|p| is_meant(&p.name.port, p.protocol));
            plans.extend(found.map(|p| (Arc::clone(p), Arc::clone(&plan.node))));
        }
        let all = self
            .slices
            .get(&service.name)
            .map_or(&[][..], Vec::as_slice);
        let is_hidden = |s: &&Arc<EndpointSlice>| s.headless || s.proxy_name.is_some();
        let (hidden, slices) = all.iter().partition::<Vec<_>, _>(is_hidden);
        let key = model::Key::Service(service.name.clone());
        Subject {
            cluster: self,
            slices: slices.into_iter().cloned().collect(),
            hidden: hidden.into_iter().cloned().collect(),
            warnings: self.warnings.iter().filter(|w| w.object == key).collect(),
            service,
            ports,
            plans,
            mode,
        }
    }
}

impl Subject<'_> {
    /// Return whether an address belongs to the node.
    pub(crate) fn is_own(&self, ip: IpAddr) -> bool {
        self.cluster.own_addresses.contains(&ip)
    }

    /// Whether an address is an endpoint of the Service.
    pub(crate) fn is_endpoint(&self, ip: IpAddr) -> bool {
        let all = self.slices.iter().chain(&self.hidden);
        all.flat_map(|s| &s.endpoints).any(|e| e.address == ip)
    }

    /// Return a pod of this node that is no endpoint of the Service.
    pub(crate) fn pod(&self, is_v4: bool) -> Option<IpAddr> {
        let pods = self.cluster.pods.iter().copied();
        pods.filter(|ip| ip.is_ipv4() == is_v4)
            .find(|ip| !self.is_endpoint(*ip))
    }
}
