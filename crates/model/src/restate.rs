//! Checked objects as objects of the API: the inverse of `check`.
//!
//! The result has every field that sluice uses, so that checking it again returns an equal object.
//! `last_change_trigger` is left out: it only serves a metric.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::object::{self, Metadata, NamedHint};
use crate::{
    AddressType, Change, EndpointSlice, Event, IpMode, NamespacedName, Node, NodeAddressType,
    Service, ServiceCidr, SessionAffinity, TrafficPolicy,
};

impl Event {
    /// Return the object that the event adds, as the API has it; `None` for a deletion.
    pub fn restate(&self) -> Option<object::Object> {
        Some(match self {
            Event::Service(Change::Applied(o)) => object::Object::Service(o.restate()),
            Event::EndpointSlice(Change::Applied(o)) => object::Object::EndpointSlice(o.restate()),
            Event::Node(Change::Applied(o)) => object::Object::Node(o.restate()),
            Event::ServiceCidr(Change::Applied(o)) => object::Object::ServiceCidr(o.restate()),
            _ => return None,
        })
    }
}

fn texts<T: ToString>(all: &[T]) -> Vec<String> {
    all.iter().map(T::to_string).collect()
}

fn metadata(name: &NamespacedName, uid: &str) -> Metadata {
    Metadata {
        name: name.name.to_string(),
        namespace: name.namespace.to_string(),
        uid: uid.to_owned(),
        ..Metadata::default()
    }
}

fn label(metadata: &mut Metadata, name: &str, value: &str) {
    metadata.labels.insert(name.to_owned(), value.to_owned());
}

fn policy(policy: TrafficPolicy) -> String {
    match policy {
        TrafficPolicy::Cluster => String::new(),
        TrafficPolicy::Local => "Local".to_owned(),
    }
}

impl Service {
    /// Return the Service as the API has it.
    pub fn restate(&self) -> object::Service {
        let mut metadata = metadata(&self.name, &self.uid);
        if self.headless && !self.cluster_ips.is_empty() {
            label(&mut metadata, "service.kubernetes.io/headless", "");
        }
        if let Some(proxy) = &self.proxy_name {
            let name = "service.kubernetes.io/service-proxy-name";
            label(&mut metadata, name, proxy);
        }
        let (session_affinity, timeout_seconds) = match self.affinity {
            SessionAffinity::None => (String::new(), None),
            SessionAffinity::ClientIp { timeout_seconds } => {
                ("ClientIP".to_owned(), Some(timeout_seconds.into()))
            }
        };
        let is_headless = self.headless && self.cluster_ips.is_empty();
        let selector = self.has_selector.then(|| ("app".into(), String::new()));
        object::Service {
            metadata,
            spec: object::ServiceSpec {
                service_type: self.service_type.name().to_owned(),
                cluster_ip: if is_headless { "None" } else { "" }.to_owned(),
                cluster_ips: texts(&self.cluster_ips),
                ports: self.ports.iter().map(service_port).collect(),
                external_ips: texts(&self.external_ips),
                selector: selector.into_iter().collect(),
                load_balancer_source_ranges: texts(&self.source_ranges),
                internal_traffic_policy: policy(self.internal_policy),
                external_traffic_policy: policy(self.external_policy),
                health_check_node_port: self.health_check_node_port.map_or(0, |p| p.get().into()),
                session_affinity,
                session_affinity_config: object::SessionAffinityConfig {
                    client_ip: object::ClientIpConfig { timeout_seconds },
                },
                traffic_distribution: String::new(),
            },
            status: object::ServiceStatus {
                load_balancer: object::LoadBalancerStatus {
                    ingress: self.restate_ingress(),
                },
            },
        }
    }

    fn restate_ingress(&self) -> Vec<object::LoadBalancerIngress> {
        let ips = self.ingress.iter().map(|ingress| {
            let mode = match ingress.mode {
                IpMode::Vip => "VIP",
                IpMode::Proxy => "Proxy",
            };
            object::LoadBalancerIngress {
                ip: ingress.ip.to_string(),
                ip_mode: Some(mode.to_owned()),
                ..object::LoadBalancerIngress::default()
            }
        });
        let names = self.load_balancer_names.iter();
        let names = names.map(|name| object::LoadBalancerIngress {
            hostname: name.to_string(),
            ..object::LoadBalancerIngress::default()
        });
        ips.chain(names).collect()
    }
}

fn service_port(port: &crate::ServicePort) -> object::ServicePort {
    object::ServicePort {
        name: port.name.to_string(),
        protocol: port.protocol.upper().to_owned(),
        port: Some(port.port.get().into()),
        node_port: port.node_port.map_or(0, |p| p.get().into()),
    }
}

impl EndpointSlice {
    /// Return the EndpointSlice as the API has it.
    pub fn restate(&self) -> object::EndpointSlice {
        let mut metadata = metadata(&self.name, "");
        if let Some(service) = &self.service {
            label(&mut metadata, "kubernetes.io/service-name", &service.name);
        }
        if self.headless {
            label(&mut metadata, "service.kubernetes.io/headless", "");
        }
        if let Some(proxy) = &self.proxy_name {
            let name = "service.kubernetes.io/service-proxy-name";
            label(&mut metadata, name, proxy);
        }
        let pods: BTreeMap<IpAddr, &str> = self
            .unready_pods
            .iter()
            .map(|(ip, n)| (*ip, &**n))
            .collect();
        let port = |p: &crate::EndpointPort| object::EndpointPort {
            name: p.name.to_string(),
            protocol: p.protocol.upper().to_owned(),
            port: p.port.map(|n| n.get().into()),
        };
        object::EndpointSlice {
            metadata,
            address_type: match self.address_type {
                AddressType::Ipv4 => "IPv4",
                AddressType::Ipv6 => "IPv6",
                AddressType::Fqdn => "FQDN",
            }
            .to_owned(),
            ports: self.ports.iter().map(port).collect(),
            endpoints: self.endpoints.iter().map(|e| endpoint(e, &pods)).collect(),
        }
    }
}

fn endpoint(endpoint: &crate::Endpoint, pods: &BTreeMap<IpAddr, &str>) -> object::Endpoint {
    let conditions = endpoint.conditions;
    // Absent means ready, serving and not terminating.
    let unless = |value: bool, default: bool| (value != default).then_some(value);
    let pod = pods.get(&endpoint.address).filter(|_| !conditions.ready);
    let hints = |names: &[Arc<str>]| -> Vec<NamedHint> {
        let hint = |name: &Arc<str>| NamedHint {
            name: name.to_string(),
        };
        names.iter().map(hint).collect()
    };
    object::Endpoint {
        addresses: vec![endpoint.address.to_string()],
        conditions: object::EndpointConditions {
            ready: unless(conditions.ready, true),
            serving: unless(conditions.serving, true),
            terminating: unless(conditions.terminating, false),
        },
        target_ref: pod.map_or_else(object::TargetRef::default, |name| object::TargetRef {
            kind: "Pod".to_owned(),
            name: (*name).to_owned(),
        }),
        node_name: endpoint.node_name.as_deref().map(str::to_owned),
        zone: endpoint.zone.as_deref().map(str::to_owned),
        hints: object::EndpointHints {
            for_zones: hints(&endpoint.zone_hints),
            for_nodes: hints(&endpoint.node_hints),
        },
    }
}

impl Node {
    /// Return the Node as the API has it.
    pub fn restate(&self) -> object::Node {
        let labels = self.topology.iter();
        let labels = labels.map(|(name, value)| (name.to_string(), value.to_string()));
        let taint = self.deleting.then(|| object::Taint {
            key: "ToBeDeletedByClusterAutoscaler".to_owned(),
        });
        let address = |a: &crate::NodeAddress| object::NodeAddress {
            address_type: match a.kind {
                NodeAddressType::InternalIp => "InternalIP",
                NodeAddressType::ExternalIp => "ExternalIP",
            }
            .to_owned(),
            address: a.ip.to_string(),
        };
        object::Node {
            metadata: Metadata {
                name: self.name.to_string(),
                uid: self.uid.to_string(),
                labels: labels.collect(),
                ..Metadata::default()
            },
            spec: object::NodeSpec {
                pod_cidr: String::new(),
                pod_cidrs: texts(&self.pod_cidrs),
                taints: taint.into_iter().collect(),
            },
            status: object::NodeStatus {
                addresses: self.addresses.iter().map(address).collect(),
            },
        }
    }
}

impl ServiceCidr {
    /// Return the ServiceCIDR as the API has it.
    pub fn restate(&self) -> object::ServiceCidr {
        object::ServiceCidr {
            metadata: Metadata {
                name: self.name.to_string(),
                ..Metadata::default()
            },
            spec: object::ServiceCidrSpec {
                cidrs: texts(&self.cidrs),
            },
        }
    }
}
