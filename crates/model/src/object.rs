//! Objects as received from a server or a manifest: unchecked, with only the fields that routing
//! needs.
//!
//! Every field may be absent or `null`, because Go's encoder writes empty lists as `null`.
//! `Service::check` and its siblings decide what an absent field means and whether it is required,
//! so the same rules apply to JSON, YAML and protobuf. Unknown fields are ignored.
//!
//! Field names and shapes are those of the Kubernetes API: `v1` (Service, Node),
//! `discovery.k8s.io/v1` (EndpointSlice) and `networking.k8s.io/v1` (ServiceCIDR).

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::kind::Kind;

/// Decode `null` like an absent field.
fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Leave out fields with their default value, as Go's encoder does.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// An object of any of the kinds that sluice follows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The kinds' own names.
#[expect(
    clippy::large_enum_variant,
    reason = "an object exists only between decoder and validation; a box would cost an allocation per object"
)]
pub enum Object {
    Service(Service),
    EndpointSlice(EndpointSlice),
    Node(Node),
    ServiceCidr(ServiceCidr),
}

impl Object {
    /// Decode an object of a kind.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        kind: Kind,
        deserializer: D,
    ) -> Result<Self, D::Error> {
        Ok(match kind {
            Kind::Service => Object::Service(Service::deserialize(deserializer)?),
            Kind::EndpointSlice => Object::EndpointSlice(EndpointSlice::deserialize(deserializer)?),
            Kind::Node => Object::Node(Node::deserialize(deserializer)?),
            Kind::ServiceCidr => Object::ServiceCidr(ServiceCidr::deserialize(deserializer)?),
        })
    }
}

/// `metadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The API's own words.
pub struct Metadata {
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub name: String,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub namespace: String,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub uid: String,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub labels: BTreeMap<String, String>,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_default")]
    pub deletion_timestamp: Option<String>,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The API's own words.
pub struct Service {
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub metadata: Metadata,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub spec: ServiceSpec,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub status: ServiceStatus,
}

/// A Service's `spec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The API's own words.
pub struct ServiceSpec {
    #[serde(
        rename = "type",
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub service_type: String,
    #[serde(
        rename = "clusterIP",
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub cluster_ip: String,
    #[serde(
        rename = "clusterIPs",
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub cluster_ips: Vec<String>,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub ports: Vec<ServicePort>,
    #[serde(
        rename = "externalIPs",
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub external_ips: Vec<String>,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub selector: BTreeMap<String, String>,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub load_balancer_source_ranges: Vec<String>,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub internal_traffic_policy: String,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub external_traffic_policy: String,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub health_check_node_port: i64,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub session_affinity: String,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub session_affinity_config: SessionAffinityConfig,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub traffic_distribution: String,
}

/// One of `spec.ports`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The API's own words.
pub struct ServicePort {
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub name: String,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub protocol: String,
    #[serde(skip_serializing_if = "is_default")]
    pub port: Option<i64>,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub node_port: i64,
}

/// `spec.sessionAffinityConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The API's own words.
pub struct SessionAffinityConfig {
    #[serde(
        rename = "clientIP",
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub client_ip: ClientIpConfig,
}

/// `spec.sessionAffinityConfig.clientIP`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The API's own words.
pub struct ClientIpConfig {
    #[serde(skip_serializing_if = "is_default")]
    pub timeout_seconds: Option<i64>,
}

/// A Service's `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The API's own words.
pub struct ServiceStatus {
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub load_balancer: LoadBalancerStatus,
}

/// `status.loadBalancer`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The API's own words.
pub struct LoadBalancerStatus {
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub ingress: Vec<LoadBalancerIngress>,
}

/// One of `status.loadBalancer.ingress`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The API's own words.
pub struct LoadBalancerIngress {
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub ip: String,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub hostname: String,
    #[serde(skip_serializing_if = "is_default")]
    pub ip_mode: Option<String>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The API's own words.
pub struct EndpointSlice {
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub metadata: Metadata,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub address_type: String,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub ports: Vec<EndpointPort>,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub endpoints: Vec<Endpoint>,
}

/// One of a slice's `ports`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The API's own words.
pub struct EndpointPort {
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub name: String,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub protocol: String,
    #[serde(skip_serializing_if = "is_default")]
    pub port: Option<i64>,
}

/// One of a slice's `endpoints`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The API's own words.
pub struct Endpoint {
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub addresses: Vec<String>,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub conditions: EndpointConditions,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub target_ref: TargetRef,
    #[serde(skip_serializing_if = "is_default")]
    pub node_name: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub zone: Option<String>,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub hints: EndpointHints,
}

/// An endpoint's `targetRef`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The API's own words.
pub struct TargetRef {
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub kind: String,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub name: String,
}

/// An endpoint's `conditions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The API's own words.
pub struct EndpointConditions {
    #[serde(skip_serializing_if = "is_default")]
    pub ready: Option<bool>,
    #[serde(skip_serializing_if = "is_default")]
    pub serving: Option<bool>,
    #[serde(skip_serializing_if = "is_default")]
    pub terminating: Option<bool>,
}

/// An endpoint's `hints`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The API's own words.
pub struct EndpointHints {
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub for_zones: Vec<NamedHint>,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub for_nodes: Vec<NamedHint>,
}

/// One of `hints.forZones` or `hints.forNodes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The API's own words.
pub struct NamedHint {
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub name: String,
}

/// A Node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The API's own words.
pub struct Node {
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub metadata: Metadata,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub spec: NodeSpec,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub status: NodeStatus,
}

/// A Node's `spec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The API's own words.
pub struct NodeSpec {
    #[serde(
        rename = "podCIDR",
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub pod_cidr: String,
    #[serde(
        rename = "podCIDRs",
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub pod_cidrs: Vec<String>,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub taints: Vec<Taint>,
}

/// One of `spec.taints`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The API's own words.
pub struct Taint {
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub key: String,
}

/// A Node's `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The API's own words.
pub struct NodeStatus {
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub addresses: Vec<NodeAddress>,
}

/// One of `status.addresses`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The API's own words.
pub struct NodeAddress {
    #[serde(
        rename = "type",
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub address_type: String,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub address: String,
}

/// A ServiceCIDR.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The API's own words.
pub struct ServiceCidr {
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub metadata: Metadata,
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub spec: ServiceCidrSpec,
}

/// A ServiceCIDR's `spec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The API's own words.
pub struct ServiceCidrSpec {
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub cidrs: Vec<String>,
}
