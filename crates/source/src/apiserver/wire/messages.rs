//! The Kubernetes messages, with only the fields that routing needs.
//!
//! Field names and numbers are those of the API's `generated.proto` files: `k8s.io/api/core/v1`,
//! `discovery/v1`, `networking/v1`, and `k8s.io/apimachinery/pkg/apis/meta/v1`, `pkg/runtime`. The
//! API never renumbers a released field. The tests compare them with `testdata/wire/fields.txt`.

use std::collections::BTreeMap;

use model::object::{self, Object};
use model::{Kind, Subject};

use super::protobuf::{Field, Fields, Malformed, Message};
use super::{
    DecodeError, EventType, INITIAL_EVENTS_END, Page, Stated, Status, Unreadable, WatchEvent,
};
use crate::apiserver::time::rfc3339;

/// Implements [`Message`]: each field's upstream name, its number, and how it is read.
macro_rules! message {
    ($type:ty, |$this:ident, $field:ident| { $($name:ident = $number:literal => $read:expr,)+ }) => {
        impl Message for $type {
            #[cfg(test)]
            const FIELDS: &'static [(&'static str, u32)] = &[$((stringify!($name), $number)),+];

            fn field(&mut self, $field: Field<'_>) -> Result<(), Malformed> {
                let $this = self;
                match $field.number {
                    $($number => $read,)+
                    _ => {}
                }
                Ok(())
            }
        }
    };
}

/// `runtime.TypeMeta`.
#[derive(Default)]
pub(super) struct TypeMeta {
    api_version: String,
    kind: String,
}

message!(TypeMeta, |this, field| {
    apiVersion = 1 => this.api_version = field.string()?,
    kind = 2 => this.kind = field.string()?,
});

/// `meta/v1.ListMeta`.
#[derive(Default)]
pub(super) struct ListMeta {
    resource_version: String,
    continue_token: String,
}

message!(ListMeta, |this, field| {
    resourceVersion = 2 => this.resource_version = field.string()?,
    continue = 3 => this.continue_token = field.string()?,
});

message!(Status, |this, field| {
    message = 3 => this.message = field.string()?,
    reason = 4 => this.reason = field.string()?,
    details = 5 => {
        let details: StatusDetails = field.message()?;
        this.retry_after_seconds = details.retry_after_seconds;
    },
    code = 6 => this.code = u16::try_from(field.int()?).unwrap_or(0),
});

/// `meta/v1.StatusDetails`.
#[derive(Default)]
pub(super) struct StatusDetails {
    retry_after_seconds: Option<u32>,
}

message!(StatusDetails, |this, field| {
    retryAfterSeconds = 5 => {
        let seconds = u32::try_from(field.int()?).unwrap_or(0);
        this.retry_after_seconds = (seconds > 0).then_some(seconds);
    },
});

/// `meta/v1.ObjectMeta`.
#[derive(Default)]
pub(super) struct ObjectMeta {
    meta: object::Metadata,
    resource_version: String,
}

message!(ObjectMeta, |this, field| {
    name = 1 => this.meta.name = field.string()?,
    namespace = 3 => this.meta.namespace = field.string()?,
    uid = 5 => this.meta.uid = field.string()?,
    resourceVersion = 6 => this.resource_version = field.string()?,
    deletionTimestamp = 9 => {
        this.meta.deletion_timestamp = Some(rfc3339(field.message::<Time>()?.seconds));
    },
    labels = 11 => insert(&mut this.meta.labels, field)?,
    annotations = 12 => insert(&mut this.meta.annotations, field)?,
});

/// Insert an entry of a `map<string, string>`, a message of key and value.
fn insert(map: &mut BTreeMap<String, String>, field: Field<'_>) -> Result<(), Malformed> {
    let entry: MapEntry = field.message()?;
    map.insert(entry.key, entry.value);
    Ok(())
}

#[derive(Default)]
struct MapEntry {
    key: String,
    value: String,
}

message!(MapEntry, |this, field| {
    key = 1 => this.key = field.string()?,
    value = 2 => this.value = field.string()?,
});

/// `meta/v1.Time`, without its nanoseconds.
#[derive(Default)]
pub(super) struct Time {
    seconds: i64,
}

message!(Time, |this, field| {
    seconds = 1 => this.seconds = field.int()?,
});

message!(object::Service, |this, field| {
    spec = 2 => field.merge_into(&mut this.spec)?,
    status = 3 => field.merge_into(&mut this.status)?,
});

message!(object::ServiceSpec, |this, field| {
    ports = 1 => this.ports.push(field.message()?),
    selector = 2 => insert(&mut this.selector, field)?,
    clusterIP = 3 => this.cluster_ip = field.string()?,
    type = 4 => this.service_type = field.string()?,
    externalIPs = 5 => this.external_ips.push(field.string()?),
    sessionAffinity = 7 => this.session_affinity = field.string()?,
    loadBalancerSourceRanges = 9 => this.load_balancer_source_ranges.push(field.string()?),
    externalTrafficPolicy = 11 => this.external_traffic_policy = field.string()?,
    healthCheckNodePort = 12 => this.health_check_node_port = field.int()?,
    sessionAffinityConfig = 14 => field.merge_into(&mut this.session_affinity_config)?,
    clusterIPs = 18 => this.cluster_ips.push(field.string()?),
    internalTrafficPolicy = 22 => this.internal_traffic_policy = field.string()?,
    trafficDistribution = 23 => this.traffic_distribution = field.string()?,
});

message!(object::ServicePort, |this, field| {
    name = 1 => this.name = field.string()?,
    protocol = 2 => this.protocol = field.string()?,
    port = 3 => this.port = Some(field.int()?),
    nodePort = 5 => this.node_port = field.int()?,
});

message!(object::SessionAffinityConfig, |this, field| {
    clientIP = 1 => field.merge_into(&mut this.client_ip)?,
});

message!(object::ClientIpConfig, |this, field| {
    timeoutSeconds = 1 => this.timeout_seconds = Some(field.int()?),
});

message!(object::ServiceStatus, |this, field| {
    loadBalancer = 1 => field.merge_into(&mut this.load_balancer)?,
});

message!(object::LoadBalancerStatus, |this, field| {
    ingress = 1 => this.ingress.push(field.message()?),
});

message!(object::LoadBalancerIngress, |this, field| {
    ip = 1 => this.ip = field.string()?,
    hostname = 2 => this.hostname = field.string()?,
    ipMode = 3 => this.ip_mode = Some(field.string()?),
});

message!(object::EndpointSlice, |this, field| {
    endpoints = 2 => this.endpoints.push(field.message()?),
    ports = 3 => this.ports.push(field.message()?),
    addressType = 4 => this.address_type = field.string()?,
});

message!(object::Endpoint, |this, field| {
    addresses = 1 => this.addresses.push(field.string()?),
    conditions = 2 => field.merge_into(&mut this.conditions)?,
    targetRef = 4 => field.merge_into(&mut this.target_ref)?,
    nodeName = 6 => this.node_name = Some(field.string()?),
    zone = 7 => this.zone = Some(field.string()?),
    hints = 8 => field.merge_into(&mut this.hints)?,
});

message!(object::TargetRef, |this, field| {
    kind = 1 => this.kind = field.string()?,
    name = 3 => this.name = field.string()?,
});

message!(object::EndpointConditions, |this, field| {
    ready = 1 => this.ready = Some(field.bool()?),
    serving = 2 => this.serving = Some(field.bool()?),
    terminating = 3 => this.terminating = Some(field.bool()?),
});

message!(object::EndpointHints, |this, field| {
    forZones = 1 => this.for_zones.push(field.message()?),
    forNodes = 2 => this.for_nodes.push(field.message()?),
});

message!(object::NamedHint, |this, field| {
    name = 1 => this.name = field.string()?,
});

message!(object::EndpointPort, |this, field| {
    name = 1 => this.name = field.string()?,
    protocol = 2 => this.protocol = field.string()?,
    port = 3 => this.port = Some(field.int()?),
});

message!(object::Node, |this, field| {
    spec = 2 => field.merge_into(&mut this.spec)?,
    status = 3 => field.merge_into(&mut this.status)?,
});

message!(object::NodeSpec, |this, field| {
    podCIDR = 1 => this.pod_cidr = field.string()?,
    taints = 5 => this.taints.push(field.message()?),
    podCIDRs = 7 => this.pod_cidrs.push(field.string()?),
});

message!(object::Taint, |this, field| {
    key = 1 => this.key = field.string()?,
});

message!(object::NodeStatus, |this, field| {
    addresses = 5 => this.addresses.push(field.message()?),
});

message!(object::NodeAddress, |this, field| {
    type = 1 => this.address_type = field.string()?,
    address = 2 => this.address = field.string()?,
});

message!(object::ServiceCidr, |this, field| {
    spec = 2 => field.merge_into(&mut this.spec)?,
});

message!(object::ServiceCidrSpec, |this, field| {
    cidrs = 1 => this.cidrs.push(field.string()?),
});

/// An object with its metadata, which includes the resourceVersion that `model` does not have.
#[derive(Default)]
struct Versioned<T> {
    meta: ObjectMeta,
    body: T,
}

impl<T: Message> Message for Versioned<T> {
    #[cfg(test)]
    const FIELDS: &'static [(&'static str, u32)] = &[("metadata", METADATA)];

    fn field(&mut self, field: Field<'_>) -> Result<(), Malformed> {
        match field.number {
            METADATA => field.merge_into(&mut self.meta),
            _ => self.body.field(field),
        }
    }
}

/// The body of an object of which only the metadata is read.
#[derive(Default)]
struct MetadataOnly;

impl Message for MetadataOnly {
    #[cfg(test)]
    const FIELDS: &'static [(&'static str, u32)] = &[];

    fn field(&mut self, _: Field<'_>) -> Result<(), Malformed> {
        Ok(())
    }
}

/// `metadata` of every object and of every list.
pub(super) const METADATA: u32 = 1;
/// `items` of every list.
const ITEMS: u32 = 2;
/// `typeMeta` of `runtime.Unknown`.
pub(super) const UNKNOWN_TYPE_META: u32 = 1;
/// `raw` of `runtime.Unknown`.
pub(super) const UNKNOWN_RAW: u32 = 2;
/// `raw` of `runtime.RawExtension`.
pub(super) const RAW_EXTENSION_RAW: u32 = 1;
/// `type` of `meta/v1.WatchEvent`.
pub(super) const WATCH_EVENT_TYPE: u32 = 1;
/// `object` of `meta/v1.WatchEvent`.
pub(super) const WATCH_EVENT_OBJECT: u32 = 2;

/// The prefix of every protobuf answer (`runtime/serializer/protobuf`).
const MAGIC: &[u8] = b"k8s\0";

/// A top-level object in its envelope, `runtime.Unknown`.
struct Envelope<'a> {
    meta: TypeMeta,
    raw: &'a [u8],
}

fn open(bytes: &[u8]) -> Result<Envelope<'_>, DecodeError> {
    let body = bytes.strip_prefix(MAGIC).ok_or(DecodeError::Magic)?;
    let mut envelope = Envelope {
        meta: TypeMeta::default(),
        raw: &[],
    };
    let mut fields = Fields::new(body);
    while let Some(field) = fields.next()? {
        match field.number {
            UNKNOWN_TYPE_META => field.merge_into(&mut envelope.meta)?,
            UNKNOWN_RAW => envelope.raw = field.bytes()?,
            _ => {}
        }
    }
    Ok(envelope)
}

pub(super) fn decode_page(kind: Kind, body: &[u8]) -> Result<Page, DecodeError> {
    let envelope = open(body)?;
    let expected = format!("{kind}List");
    if envelope.meta.kind != expected {
        let found = envelope.meta.kind.chars().take(40).collect();
        return Err(DecodeError::Kind { found, expected });
    }
    let mut page = Page::default();
    let mut fields = Fields::new(envelope.raw);
    while let Some(field) = fields.next()? {
        match field.number {
            METADATA => {
                let meta: ListMeta = field.message()?;
                page.resource_version = meta.resource_version;
                page.continue_token = meta.continue_token;
            }
            ITEMS => page.items.push(stated(kind, field.bytes()?)),
            _ => {}
        }
    }
    Ok(page)
}

/// Decode a frame: a `meta/v1.WatchEvent` without an envelope, whose object has one.
pub(super) fn decode_event(kind: Kind, frame: &[u8]) -> Result<WatchEvent, DecodeError> {
    let (mut event_type, mut object) = ("", &[][..]);
    let mut fields = Fields::new(frame);
    while let Some(field) = fields.next()? {
        match field.number {
            WATCH_EVENT_TYPE => event_type = field.str()?,
            WATCH_EVENT_OBJECT => {
                let mut fields = Fields::new(field.bytes()?);
                while let Some(field) = fields.next()? {
                    if field.number == RAW_EXTENSION_RAW {
                        object = field.bytes()?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(match EventType::parse(event_type)? {
        EventType::Applied => enveloped(kind, object).map(WatchEvent::Applied),
        EventType::Deleted => enveloped(kind, object).map(WatchEvent::Deleted),
        EventType::Bookmark => {
            let bookmark: Versioned<MetadataOnly> = Message::decode(open(object)?.raw)?;
            let annotations = bookmark.meta.meta.annotations;
            Ok(WatchEvent::Bookmark {
                resource_version: bookmark.meta.resource_version,
                initial_events_end: annotations
                    .get(INITIAL_EVENTS_END)
                    .is_some_and(|v| v == "true"),
            })
        }
        EventType::Error => Ok(WatchEvent::Error(decode_status(object).unwrap_or_default())),
    }
    .unwrap_or_else(WatchEvent::Unreadable))
}

pub(super) fn decode_status(body: &[u8]) -> Option<Status> {
    let envelope = open(body).ok()?;
    if envelope.meta.kind != "Status" {
        return None;
    }
    Status::decode(envelope.raw).ok()
}

fn enveloped(kind: Kind, object: &[u8]) -> Result<Stated, Unreadable> {
    let unreadable = |reason: String| Unreadable {
        subject: Subject::new(kind, "", ""),
        resource_version: String::new(),
        reason,
    };
    let envelope = open(object).map_err(|e| unreadable(e.to_string()))?;
    if envelope.meta.kind != kind.name() {
        return Err(unreadable(format!("its kind is {:?}", envelope.meta.kind)));
    }
    stated(kind, envelope.raw)
}

pub(super) fn stated(kind: Kind, bytes: &[u8]) -> Result<Stated, Unreadable> {
    let decoded = match kind {
        Kind::Service => versioned(bytes, |meta, o| {
            Object::Service(object::Service {
                metadata: meta,
                ..o
            })
        }),
        Kind::EndpointSlice => versioned(bytes, |meta, o| {
            Object::EndpointSlice(object::EndpointSlice {
                metadata: meta,
                ..o
            })
        }),
        Kind::Node => versioned(bytes, |meta, o| {
            Object::Node(object::Node {
                metadata: meta,
                ..o
            })
        }),
        Kind::ServiceCidr => versioned(bytes, |meta, o| {
            Object::ServiceCidr(object::ServiceCidr {
                metadata: meta,
                ..o
            })
        }),
    };
    decoded.map_err(|reason| {
        let ObjectMeta {
            meta,
            resource_version,
        } = metadata(bytes);
        Unreadable {
            subject: Subject::new(kind, &meta.namespace, &meta.name),
            resource_version,
            reason: reason.to_string(),
        }
    })
}

fn versioned<T: Message>(
    bytes: &[u8],
    whole: impl FnOnce(object::Metadata, T) -> Object,
) -> Result<Stated, Malformed> {
    let Versioned { meta, body } = Versioned::<T>::decode(bytes)?;
    Ok(Stated {
        resource_version: meta.resource_version,
        object: whole(meta.meta, body),
    })
}

/// Decode only the metadata, which come first: the rest of the object may be damaged.
fn metadata(bytes: &[u8]) -> ObjectMeta {
    let mut fields = Fields::new(bytes);
    while let Ok(Some(field)) = fields.next() {
        if field.number == METADATA {
            return field.message().unwrap_or_default();
        }
    }
    ObjectMeta::default()
}
