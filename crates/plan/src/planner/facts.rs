//! Node-wide parts of the plan.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use model::{Cidr, IpFamily, Node, NodeAddressType, ServiceCidr, family_of_net};

use crate::{LocalDetector, LocalTraffic, NodeFacts, NodePortAddresses, Settings};

/// Label with the zone of a node.
const ZONE: &str = "topology.kubernetes.io/zone";

/// The inputs of [`NodeFacts`].
#[derive(Debug)]
pub(super) struct Facts {
    settings: Settings,
    node: Option<Arc<Node>>,
    service_cidrs: BTreeMap<Arc<str>, Arc<ServiceCidr>>,
    host_addresses: Vec<IpAddr>,
    node_ips: Vec<IpAddr>,
}

impl Facts {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            node: None,
            service_cidrs: BTreeMap::new(),
            host_addresses: Vec::new(),
            node_ips: Vec::new(),
        }
    }

    /// Store this node's Node and return whether its zone changed. Other Nodes are ignored.
    pub(super) fn set_node(&mut self, node: Arc<Node>) -> bool {
        if !self.is_own(&node.name) {
            return false;
        }
        let before = self.zone().cloned();
        self.node = Some(node);
        self.zone() != before.as_ref()
    }

    /// Return whether this node has the name.
    pub(super) fn is_own(&self, name: &str) -> bool {
        *name == *self.settings.node_name
    }

    /// Return this node's Node.
    pub(super) fn node(&self) -> Option<&Arc<Node>> {
        self.node.as_ref()
    }

    /// Return all ServiceCIDRs.
    pub(super) fn service_cidrs(&self) -> impl Iterator<Item = &Arc<ServiceCidr>> {
        self.service_cidrs.values()
    }

    pub(super) fn zone(&self) -> Option<&Arc<str>> {
        self.node.as_ref()?.topology.get(ZONE)
    }

    pub(super) fn set_service_cidr(&mut self, cidr: Arc<ServiceCidr>) {
        self.service_cidrs.insert(cidr.name.clone(), cidr);
    }

    pub(super) fn remove_service_cidr(&mut self, name: &str) {
        self.service_cidrs.remove(name);
    }

    pub(super) fn set_host_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.host_addresses = addresses;
    }

    pub(super) fn set_node_ips(&mut self, ips: Vec<IpAddr>) {
        self.node_ips = ips;
    }

    pub(super) fn resolve(&self, family: IpFamily) -> NodeFacts {
        let node_ip = self.node_ip(family);
        let cidrs = self.service_cidrs.values().flat_map(|cidr| &cidr.cidrs);
        let mut service_cidrs: Vec<Cidr> = cidrs
            .filter(|cidr| family_of_net(cidr) == family)
            .map(Cidr::trunc)
            .collect();
        service_cidrs.sort_unstable();
        service_cidrs.dedup();
        NodeFacts {
            local: self.local_detector(family),
            masquerade_all: self.settings.masquerade_all,
            node_ip,
            node_port_ips: self.node_port_ips(family, node_ip),
            service_cidrs,
        }
    }

    /// Return the primary address as kubelet and kube-proxy do: the first InternalIP of the family,
    /// or else the first ExternalIP.
    fn node_ip(&self, family: IpFamily) -> Option<IpAddr> {
        let of_family = |ip: &IpAddr| IpFamily::of(*ip) == family;
        let given = self.node_ips.iter().copied().find(of_family);
        given.or_else(|| {
            let addresses = &self.node.as_ref()?.addresses;
            let first = |kind| {
                let ips = addresses.iter().filter(|a| a.kind == kind).map(|a| a.ip);
                ips.into_iter().find(of_family)
            };
            first(NodeAddressType::InternalIp).or_else(|| first(NodeAddressType::ExternalIp))
        })
    }

    fn node_port_ips(&self, family: IpFamily, node_ip: Option<IpAddr>) -> Option<Vec<IpAddr>> {
        let addresses = &self.settings.node_port_addresses;
        let of_family = |range: &&Cidr| family_of_net(range) == family;
        let ranges: Vec<_> = addresses.ranges().iter().filter(of_family).collect();
        let primary = match addresses {
            NodePortAddresses::All => return None,
            NodePortAddresses::Ranges(_) if ranges.is_empty() => return None,
            NodePortAddresses::Ranges(_) => None,
            NodePortAddresses::Primary | NodePortAddresses::PrimaryAnd(_) => node_ip,
        };
        if ranges.iter().any(|range| range.prefix_len() == 0) {
            return None;
        }
        let host = self.host_addresses.iter().copied();
        let selected = host.filter(|ip| ranges.iter().any(|range| range.contains(ip)));
        let mut ips: Vec<_> = selected.chain(primary).collect();
        ips.sort_unstable();
        ips.dedup();
        Some(ips)
    }

    fn local_detector(&self, family: IpFamily) -> LocalDetector {
        let source = |ranges: &[Cidr]| {
            let range = ranges.iter().find(|range| family_of_net(range) == family);
            range.map_or(LocalDetector::None, |range| {
                LocalDetector::Source(range.trunc())
            })
        };
        match &self.settings.local_traffic {
            LocalTraffic::ClusterCidr(ranges) => source(ranges),
            LocalTraffic::NodeCidr => match &self.node {
                Some(node) => source(&node.pod_cidrs),
                None => LocalDetector::None,
            },
            LocalTraffic::BridgeInterface(name) => LocalDetector::Interface(name.clone()),
            LocalTraffic::InterfaceNamePrefix(prefix) => {
                LocalDetector::InterfacePrefix(prefix.clone())
            }
        }
    }
}
