//! The Kubernetes messages, with only the fields that routing needs.
//!
//! Field numbers are those of the API's `generated.proto` files: `k8s.io/api/core/v1`,
//! `discovery/v1`, `networking/v1`, and `k8s.io/apimachinery/pkg/apis/meta/v1`, `pkg/runtime`.
//! They never change: the API promises it for every version that has been released.

use std::collections::BTreeMap;

use model::object::{self, Object};
use model::{Kind, Subject};

use super::protobuf::{Field, Fields, Malformed, Message};
use super::{
    DecodeError, EventType, INITIAL_EVENTS_END, Page, Stated, Status, Unreadable, WatchEvent,
};
use crate::apiserver::time::rfc3339;

type Done = Result<(), Malformed>;

/// `runtime.TypeMeta`: what an object is.
#[derive(Default)]
struct TypeMeta {
    api_version: String,
    kind: String,
}

impl Message for TypeMeta {
    fn field(&mut self, field: Field<'_>) -> Done {
        match field.number {
            1 => self.api_version = field.string()?,
            2 => self.kind = field.string()?,
            _ => {}
        }
        Ok(())
    }
}

/// `meta/v1.ListMeta`.
#[derive(Default)]
struct ListMeta {
    resource_version: String,
    continue_token: String,
}

impl Message for ListMeta {
    fn field(&mut self, field: Field<'_>) -> Done {
        match field.number {
            2 => self.resource_version = field.string()?,
            3 => self.continue_token = field.string()?,
            _ => {}
        }
        Ok(())
    }
}

/// `meta/v1.Status`.
impl Message for Status {
    fn field(&mut self, field: Field<'_>) -> Done {
        match field.number {
            3 => self.message = field.string()?,
            4 => self.reason = field.string()?,
            5 => {
                let details: StatusDetails = field.message()?;
                self.retry_after_seconds = details.retry_after_seconds;
            }
            6 => self.code = u16::try_from(field.int()?).unwrap_or(0),
            _ => {}
        }
        Ok(())
    }
}

/// `details` of a Status, of which one number is wanted.
#[derive(Default)]
struct StatusDetails {
    retry_after_seconds: Option<u32>,
}

impl Message for StatusDetails {
    fn field(&mut self, field: Field<'_>) -> Done {
        if field.number == 5 {
            let seconds = u32::try_from(field.int()?).unwrap_or(0);
            self.retry_after_seconds = (seconds > 0).then_some(seconds);
        }
        Ok(())
    }
}

/// `meta/v1.ObjectMeta`.
#[derive(Default)]
struct ObjectMeta {
    meta: object::Metadata,
    resource_version: String,
}

impl Message for ObjectMeta {
    fn field(&mut self, field: Field<'_>) -> Done {
        let meta = &mut self.meta;
        match field.number {
            1 => meta.name = field.string()?,
            3 => meta.namespace = field.string()?,
            5 => meta.uid = field.string()?,
            6 => self.resource_version = field.string()?,
            9 => meta.deletion_timestamp = Some(rfc3339(field.message::<Time>()?.seconds)),
            11 => map_entry(&mut meta.labels, field)?,
            12 => map_entry(&mut meta.annotations, field)?,
            _ => {}
        }
        Ok(())
    }
}

/// An entry of a `map<string, string>`: a message of key and value.
fn map_entry(map: &mut BTreeMap<String, String>, field: Field<'_>) -> Done {
    let entry: MapEntry = field.message()?;
    map.insert(entry.key, entry.value);
    Ok(())
}

#[derive(Default)]
struct MapEntry {
    key: String,
    value: String,
}

impl Message for MapEntry {
    fn field(&mut self, field: Field<'_>) -> Done {
        match field.number {
            1 => self.key = field.string()?,
            2 => self.value = field.string()?,
            _ => {}
        }
        Ok(())
    }
}

#[derive(Default)]
struct Time {
    seconds: i64,
}

impl Message for Time {
    fn field(&mut self, field: Field<'_>) -> Done {
        if field.number == 1 {
            self.seconds = field.int()?;
        }
        Ok(())
    }
}

/// An object with the resourceVersion that is no business of `model`.
#[derive(Default)]
struct Versioned<T> {
    meta: ObjectMeta,
    body: T,
}

/// Of an object, only who it is.
#[derive(Default)]
struct MetaOnly;

impl Message for MetaOnly {
    fn field(&mut self, _: Field<'_>) -> Done {
        Ok(())
    }
}

/// Every kind has its metadata in field 1.
impl<T: Message> Message for Versioned<T> {
    fn field(&mut self, field: Field<'_>) -> Done {
        match field.number {
            1 => field.merge_into(&mut self.meta),
            _ => self.body.field(field),
        }
    }
}

impl Message for object::Service {
    fn field(&mut self, field: Field<'_>) -> Done {
        match field.number {
            2 => field.merge_into(&mut self.spec),
            3 => field.merge_into(&mut self.status),
            _ => Ok(()),
        }
    }
}

impl Message for object::ServiceSpec {
    fn field(&mut self, field: Field<'_>) -> Done {
        match field.number {
            1 => self.ports.push(field.message()?),
            3 => self.cluster_ip = field.string()?,
            4 => self.service_type = field.string()?,
            5 => self.external_ips.push(field.string()?),
            7 => self.session_affinity = field.string()?,
            9 => self.load_balancer_source_ranges.push(field.string()?),
            11 => self.external_traffic_policy = field.string()?,
            12 => self.health_check_node_port = field.int()?,
            14 => field.merge_into(&mut self.session_affinity_config)?,
            18 => self.cluster_ips.push(field.string()?),
            22 => self.internal_traffic_policy = field.string()?,
            23 => self.traffic_distribution = field.string()?,
            _ => {}
        }
        Ok(())
    }
}

impl Message for object::ServicePort {
    fn field(&mut self, field: Field<'_>) -> Done {
        match field.number {
            1 => self.name = field.string()?,
            2 => self.protocol = field.string()?,
            3 => self.port = Some(field.int()?),
            5 => self.node_port = field.int()?,
            _ => {}
        }
        Ok(())
    }
}

impl Message for object::SessionAffinityConfig {
    fn field(&mut self, field: Field<'_>) -> Done {
        match field.number {
            1 => field.merge_into(&mut self.client_ip),
            _ => Ok(()),
        }
    }
}

impl Message for object::ClientIpConfig {
    fn field(&mut self, field: Field<'_>) -> Done {
        if field.number == 1 {
            self.timeout_seconds = Some(field.int()?);
        }
        Ok(())
    }
}

impl Message for object::ServiceStatus {
    fn field(&mut self, field: Field<'_>) -> Done {
        match field.number {
            1 => field.merge_into(&mut self.load_balancer),
            _ => Ok(()),
        }
    }
}

impl Message for object::LoadBalancerStatus {
    fn field(&mut self, field: Field<'_>) -> Done {
        if field.number == 1 {
            self.ingress.push(field.message()?);
        }
        Ok(())
    }
}

impl Message for object::LoadBalancerIngress {
    fn field(&mut self, field: Field<'_>) -> Done {
        match field.number {
            1 => self.ip = field.string()?,
            3 => self.ip_mode = Some(field.string()?),
            _ => {}
        }
        Ok(())
    }
}

impl Message for object::EndpointSlice {
    fn field(&mut self, field: Field<'_>) -> Done {
        match field.number {
            2 => self.endpoints.push(field.message()?),
            3 => self.ports.push(field.message()?),
            4 => self.address_type = field.string()?,
            _ => {}
        }
        Ok(())
    }
}

impl Message for object::Endpoint {
    fn field(&mut self, field: Field<'_>) -> Done {
        match field.number {
            1 => self.addresses.push(field.string()?),
            2 => field.merge_into(&mut self.conditions)?,
            4 => field.merge_into(&mut self.target_ref)?,
            6 => self.node_name = Some(field.string()?),
            7 => self.zone = Some(field.string()?),
            8 => field.merge_into(&mut self.hints)?,
            _ => {}
        }
        Ok(())
    }
}

impl Message for object::TargetRef {
    fn field(&mut self, field: Field<'_>) -> Done {
        match field.number {
            1 => self.kind = field.string()?,
            3 => self.name = field.string()?,
            _ => {}
        }
        Ok(())
    }
}

impl Message for object::EndpointConditions {
    fn field(&mut self, field: Field<'_>) -> Done {
        match field.number {
            1 => self.ready = Some(field.bool()?),
            2 => self.serving = Some(field.bool()?),
            3 => self.terminating = Some(field.bool()?),
            _ => {}
        }
        Ok(())
    }
}

impl Message for object::EndpointHints {
    fn field(&mut self, field: Field<'_>) -> Done {
        match field.number {
            1 => self.for_zones.push(field.message()?),
            2 => self.for_nodes.push(field.message()?),
            _ => {}
        }
        Ok(())
    }
}

impl Message for object::NamedHint {
    fn field(&mut self, field: Field<'_>) -> Done {
        if field.number == 1 {
            self.name = field.string()?;
        }
        Ok(())
    }
}

impl Message for object::EndpointPort {
    fn field(&mut self, field: Field<'_>) -> Done {
        match field.number {
            1 => self.name = field.string()?,
            2 => self.protocol = field.string()?,
            3 => self.port = Some(field.int()?),
            _ => {}
        }
        Ok(())
    }
}

impl Message for object::Node {
    fn field(&mut self, field: Field<'_>) -> Done {
        match field.number {
            2 => field.merge_into(&mut self.spec),
            3 => field.merge_into(&mut self.status),
            _ => Ok(()),
        }
    }
}

impl Message for object::NodeSpec {
    fn field(&mut self, field: Field<'_>) -> Done {
        match field.number {
            1 => self.pod_cidr = field.string()?,
            5 => self.taints.push(field.message()?),
            7 => self.pod_cidrs.push(field.string()?),
            _ => {}
        }
        Ok(())
    }
}

impl Message for object::Taint {
    fn field(&mut self, field: Field<'_>) -> Done {
        if field.number == 1 {
            self.key = field.string()?;
        }
        Ok(())
    }
}

impl Message for object::NodeStatus {
    fn field(&mut self, field: Field<'_>) -> Done {
        if field.number == 5 {
            self.addresses.push(field.message()?);
        }
        Ok(())
    }
}

impl Message for object::NodeAddress {
    fn field(&mut self, field: Field<'_>) -> Done {
        match field.number {
            1 => self.address_type = field.string()?,
            2 => self.address = field.string()?,
            _ => {}
        }
        Ok(())
    }
}

impl Message for object::ServiceCidr {
    fn field(&mut self, field: Field<'_>) -> Done {
        match field.number {
            2 => field.merge_into(&mut self.spec),
            _ => Ok(()),
        }
    }
}

impl Message for object::ServiceCidrSpec {
    fn field(&mut self, field: Field<'_>) -> Done {
        if field.number == 1 {
            self.cidrs.push(field.string()?);
        }
        Ok(())
    }
}

/// What every protobuf answer of the API server begins with (`runtime/serializer/protobuf`).
const MAGIC: &[u8] = b"k8s\0";

/// A top-level object out of its envelope, `runtime.Unknown`.
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
            1 => field.merge_into(&mut envelope.meta)?,
            2 => envelope.raw = field.bytes()?,
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
            1 => {
                let meta: ListMeta = field.message()?;
                page.resource_version = meta.resource_version;
                page.continue_token = meta.continue_token;
            }
            2 => page.items.push(stated(kind, field.bytes()?)),
            _ => {}
        }
    }
    Ok(page)
}

/// A frame is a `meta/v1.WatchEvent` without an envelope, and in it the object in one.
pub(super) fn decode_event(kind: Kind, frame: &[u8]) -> Result<WatchEvent, DecodeError> {
    let (mut event_type, mut object) = ("", &[][..]);
    let mut fields = Fields::new(frame);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => event_type = field.str()?,
            2 => {
                let mut fields = Fields::new(field.bytes()?); // runtime.RawExtension
                while let Some(field) = fields.next()? {
                    if field.number == 1 {
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
            let bookmark: Versioned<MetaOnly> = Message::decode(open(object)?.raw)?;
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
        return Err(unreadable(format!(
            "it says to be a {:?}",
            envelope.meta.kind
        )));
    }
    stated(kind, envelope.raw)
}

fn stated(kind: Kind, bytes: &[u8]) -> Result<Stated, Unreadable> {
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
        } = who(bytes);
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

/// What can be told about an object that cannot be read: metadata come first, and what comes after
/// them may be damaged.
fn who(bytes: &[u8]) -> ObjectMeta {
    let mut fields = Fields::new(bytes);
    while let Ok(Some(field)) = fields.next() {
        if field.number == 1 {
            return field.message().unwrap_or_default();
        }
    }
    ObjectMeta::default()
}
