//! The JSON encoding.

use std::collections::BTreeMap;

use model::{Kind, Subject, object};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    DecodeError, EventType, INITIAL_EVENTS_END, Page, Stated, Status, Unreadable, WatchEvent,
};

/// Items stay text at first, so that an unreadable one does not affect the rest of the list.
#[derive(Deserialize)]
struct List<'a> {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: ListMeta,
    /// `null` for an empty list, as Go encodes it.
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    continue_token: String,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    event_type: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// The metadata of an object.
#[derive(Default, Deserialize)]
#[serde(default)]
struct MetadataOnly {
    metadata: Meta,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Meta {
    name: String,
    namespace: String,
    resource_version: String,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StatusObject {
    kind: String,
    #[serde(default)]
    code: u16,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    details: Option<StatusDetails>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct StatusDetails {
    retry_after_seconds: u32,
}

pub(super) fn decode_page(kind: Kind, body: &[u8]) -> Result<Page, DecodeError> {
    let list: List<'_> = serde_json::from_slice(body)?;
    let expected = format!("{kind}List");
    if list.kind != expected {
        let found = list.kind.chars().take(40).collect();
        return Err(DecodeError::Kind { found, expected });
    }
    let items = list.items.unwrap_or_default();
    Ok(Page {
        resource_version: list.metadata.resource_version,
        continue_token: list.metadata.continue_token,
        items: items.into_iter().map(|item| stated(kind, item)).collect(),
    })
}

pub(super) fn decode_event(kind: Kind, frame: &[u8]) -> Result<WatchEvent, DecodeError> {
    let event: Event<'_> = serde_json::from_slice(frame)?;
    Ok(match EventType::parse(event.event_type)? {
        EventType::Applied => stated(kind, event.object).map(WatchEvent::Applied),
        EventType::Deleted => stated(kind, event.object).map(WatchEvent::Deleted),
        EventType::Bookmark => {
            let MetadataOnly { metadata } = serde_json::from_str(event.object.get())?;
            let annotations = metadata.annotations.unwrap_or_default();
            Ok(WatchEvent::Bookmark {
                resource_version: metadata.resource_version,
                initial_events_end: annotations
                    .get(INITIAL_EVENTS_END)
                    .is_some_and(|v| v == "true"),
            })
        }
        EventType::Error => Ok(WatchEvent::Error(
            decode_status(event.object.get().as_bytes()).unwrap_or_default(),
        )),
    }
    .unwrap_or_else(WatchEvent::Unreadable))
}

pub(super) fn decode_status(body: &[u8]) -> Option<Status> {
    let status: StatusObject = serde_json::from_slice(body).ok()?;
    let after = status.details.unwrap_or_default().retry_after_seconds;
    (status.kind == "Status").then_some(Status {
        code: status.code,
        reason: status.reason,
        message: status.message,
        retry_after_seconds: (after > 0).then_some(after),
    })
}

fn stated(kind: Kind, raw: &RawValue) -> Result<Stated, Unreadable> {
    let meta = serde_json::from_str::<MetadataOnly>(raw.get());
    let mut deserializer = serde_json::Deserializer::from_str(raw.get());
    let reason = match (meta, object::Object::deserialize(kind, &mut deserializer)) {
        (Ok(meta), Ok(object)) => {
            return Ok(Stated {
                resource_version: meta.metadata.resource_version,
                object,
            });
        }
        (Ok(meta), Err(e)) => {
            return Err(Unreadable {
                subject: Subject::new(kind, &meta.metadata.namespace, &meta.metadata.name),
                resource_version: meta.metadata.resource_version,
                reason: e.to_string(),
            });
        }
        (Err(e), _) => e.to_string(),
    };
    Err(Unreadable {
        subject: Subject::new(kind, "", ""),
        resource_version: String::new(),
        reason,
    })
}
