//! EndpointSlices.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use crate::{NamespacedName, Protocol};

/// An EndpointSlice, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its name.
    pub name: NamespacedName,
    /// The Service it belongs to: the label `kubernetes.io/service-name`, in the slice's namespace.
    /// `None` if the label is absent: such a slice serves no Service.
    pub service: Option<NamespacedName>,
    /// The label `service.kubernetes.io/headless`.
    pub headless: bool,
    /// The label `service.kubernetes.io/service-proxy-name`.
    pub proxy_name: Option<Box<str>>,
    /// `addressType`.
    pub address_type: AddressType,
    /// `ports`.
    pub ports: Vec<EndpointPort>,
    /// `endpoints` that have a usable address.
    pub endpoints: Vec<Endpoint>,
    /// Pods (`targetRef`) of endpoints that are not ready, by address, for diagnosis. Those of
    /// ready endpoints are not kept, to save memory.
    pub unready_pods: Box<[(IpAddr, Box<str>)]>,
    /// The annotation `endpoints.kubernetes.io/last-change-trigger-time`, in seconds since the
    /// epoch: the start of `network_programming_duration_seconds`.
    pub last_change_trigger: Option<i64>,
}

/// `addressType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The API's own words.
pub enum AddressType {
    Ipv4,
    Ipv6,
    Fqdn,
}

/// One of a slice's `ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// `name`, empty if absent; matches the name of the Service port.
    pub name: Arc<str>,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`; a slice port without a number ("all ports") serves no Service.
    pub port: Option<NonZeroU16>,
}

/// One of a slice's `endpoints`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `addresses[0]`: consumers use the first address.
    pub address: IpAddr,
    /// `conditions`.
    pub conditions: EndpointConditions,
    /// `nodeName`.
    pub node_name: Option<Arc<str>>,
    /// `zone`.
    pub zone: Option<Arc<str>>,
    /// `hints.forZones[].name`, sorted.
    pub zone_hints: Box<[Arc<str>]>,
    /// `hints.forNodes[].name`, sorted.
    pub node_hints: Box<[Arc<str>]>,
}

/// `conditions`, with the API's defaults applied: absent `ready` and `serving` are true, absent
/// `terminating` is false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The API's own words.
pub struct EndpointConditions {
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
}
