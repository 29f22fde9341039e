//! The Service that is asked about, with all that the objects say of it.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use super::finding::listed;
use anyhow::{Context as _, bail};
use model::{Change, EndpointSlice, Event, IpFamily, Mode, Node, Protocol, Service, ServicePort};
use plan::{NodeFacts, Planner, PortPlan, Settings, Warning};

/// Everything that the objects say of one Service, and the plan of this node for it.
#[derive(Debug)]
pub struct Subject {
    /// The node.
    pub(crate) node_name: String,
    /// Its Node object, where there is one.
    pub(crate) node: Option<Arc<Node>>,
    /// The Service.
    pub(crate) service: Arc<Service>,
    /// Its ports that are asked about.
    pub(crate) ports: Vec<ServicePort>,
    /// Its slices.
    pub(crate) slices: Vec<Arc<EndpointSlice>>,
    /// The plan for each port and family, with what concerns the node in that family.
    pub(crate) plans: Vec<(Arc<PortPlan>, Arc<NodeFacts>)>,
    /// What of it the plan leaves out.
    pub(crate) warnings: Vec<Warning>,
    /// Addresses of this node's pods that are no endpoints of the Service.
    pub(crate) pods: Vec<IpAddr>,
    /// Mode of the node's rules.
    pub(crate) mode: Mode,
}

/// All objects, as events.
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

    /// The Service of a name, an address or a NodePort, and those of its ports that are meant.
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
            format!("; it is an endpoint of {service}: ask for that")
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
            format!(", and none at all in {namespace}")
        } else if elsewhere.is_empty() {
            format!("; in {namespace} there are {}", listed(there, MOST))
        } else {
            String::new()
        };
        format!("there is no Service {namespace}/{name}{others}{elsewhere}")
    }

    /// The node that is meant: the one that is named, or that which has one of these addresses.
    ///
    /// # Errors
    /// There are nodes, and it is none of them.
    pub(crate) fn node_name(
        &self,
        named: Option<&str>,
        here: String,
        interfaces: &[IpAddr],
    ) -> anyhow::Result<String> {
        let known = |name: &str| self.nodes.iter().any(|n| &*n.name == name);
        let name = named.map_or(here, str::to_owned);
        if self.nodes.is_empty() || known(&name) {
            return Ok(name);
        }
        let mine = |n: &&Arc<Node>| n.addresses.iter().any(|a| interfaces.contains(&a.ip));
        if named.is_none()
            && let Some(node) = self.nodes.iter().find(mine)
        {
            return Ok(node.name.to_string());
        }
        let names = self.nodes.iter().map(|n| &n.name);
        bail!(
            "there is no Node {name} among the objects: say with --node which it is: {}",
            listed(names, MOST)
        )
    }
}

impl Subject {
    /// What the objects say of the Service that `text` names, on this node. `interfaces` are the
    /// addresses of the node's interfaces; without any, the Node object's count.
    pub(crate) fn new(
        text: &str,
        events: Vec<Event>,
        settings: Settings,
        interfaces: Vec<IpAddr>,
    ) -> anyhow::Result<Self> {
        let objects = Objects::of(&events);
        let (service, ports) = objects.find(text)?;
        let node_name = settings.node_name.clone();
        let mut planner = Planner::new(settings);
        planner.set_host_addresses(interfaces);
        planner.apply_all(events);
        planner.take_diff();
        let mut warnings = planner.take_warnings();
        warnings.retain(|w| w.object == model::Key::Service(service.name.clone()));
        let is_meant = |name: &str, protocol: Protocol| {
            ports
                .iter()
                .any(|p| &*p.name == name && p.protocol == protocol)
        };
        let mut plans = Vec::new();
        for family in IpFamily::ALL {
            let plan = planner.plan(family);
            let found = plan.ports.values();
            let found = found
                .filter(|p| p.name.service == service.name && is_meant(&p.name.port, p.protocol));
            plans.extend(found.map(|p| (Arc::clone(p), Arc::clone(&plan.node))));
        }
        let is_own = |s: &&Arc<EndpointSlice>| s.service.as_ref() == Some(&service.name);
        let slices: Vec<_> = objects.slices.iter().filter(is_own).cloned().collect();
        let own = |ip| {
            slices
                .iter()
                .flat_map(|s| &s.endpoints)
                .any(|e| e.address == ip)
        };
        let node = objects
            .nodes
            .iter()
            .find(|n| *n.name == *node_name)
            .cloned();
        // Pods in the host's network have the node's own addresses.
        let of_node = |ip| node.iter().flat_map(|n| &n.addresses).any(|a| a.ip == ip);
        let mut pods: Vec<IpAddr> = objects
            .slices
            .iter()
            .flat_map(|s| &s.endpoints)
            .filter(|e| e.node_name.as_deref() == Some(&*node_name))
            .map(|e| e.address)
            .filter(|ip| !own(*ip) && !of_node(*ip))
            .collect();
        pods.sort_unstable();
        Ok(Self {
            node_name,
            node,
            service,
            ports,
            slices,
            plans,
            warnings,
            pods,
            mode: Mode::Iptables,
        })
    }
}
