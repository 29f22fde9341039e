//! Encodings of the API: objects, lists, watch events and errors, in protobuf and JSON.
//!
//! In both, an unreadable object does not affect the rest of the list or stream; its error contains
//! as much of its identity as can be decoded.

mod frame;
mod json;
mod messages;
mod protobuf;
#[cfg(test)]
mod tests;

use model::{Kind, Subject, object};

pub use frame::{FrameError, Frames};
pub use protobuf::Malformed;

/// The encoding of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
    /// `application/json`.
    Json,
}

impl Format {
    /// Return the media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Format::Protobuf => "application/vnd.kubernetes.protobuf",
            Format::Json => "application/json",
        }
    }

    /// Return the format that a `Content-Type` header names; parameters (`;stream=watch`) are
    /// ignored.
    pub fn of_content_type(value: &str) -> Option<Self> {
        let essence = value.split(';').next().unwrap_or_default().trim();
        [Format::Protobuf, Format::Json]
            .into_iter()
            .find(|f| essence.eq_ignore_ascii_case(f.media_type()))
    }
}

/// An object as sent by the server, unchecked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stated {
    /// Its `metadata.resourceVersion`.
    pub resource_version: String,
    /// The object.
    pub object: object::Object,
}

/// An unreadable object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{subject}: cannot be decoded: {reason}")]
pub struct Unreadable {
    /// The object, as far as its metadata could be decoded.
    pub subject: Subject,
    /// Its `metadata.resourceVersion`; empty if unknown.
    pub resource_version: String,
    /// The decoder's error.
    pub reason: String,
}

/// An answer to a list request.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Page {
    /// The version of the list.
    pub resource_version: String,
    /// The token of the next page; empty on the last.
    pub continue_token: String,
    /// The objects.
    pub items: Vec<Result<Stated, Unreadable>>,
}

/// One event of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// `ADDED` or `MODIFIED`.
    Applied(Stated),
    /// `DELETED`, with the last state of the object.
    Deleted(Stated),
    /// `BOOKMARK`.
    Bookmark {
        /// The current version of the watch.
        resource_version: String,
        /// The bookmark has the annotation `k8s.io/initial-events-end`, which ends the initial
        /// objects of a streaming list (KEP-3157).
        initial_events_end: bool,
    },
    /// `ERROR`.
    Error(Status),
    /// An event with an unreadable object.
    Unreadable(Unreadable),
}

/// The server's `Status` object, which describes a failure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// `code`, an HTTP status code; 0 if absent.
    pub code: u16,
    /// `reason`, such as `Expired`.
    pub reason: String,
    /// `message`, human-readable.
    pub message: String,
    /// `details.retryAfterSeconds`.
    pub retry_after_seconds: Option<u32>,
}

impl Status {
    /// Return whether a resourceVersion or continue token is too old.
    pub fn is_expired(&self) -> bool {
        self.code == 410 || matches!(self.reason.as_str(), "Expired" | "Gone")
    }
}

/// An answer that cannot be decoded as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // See the messages.
pub enum DecodeError {
    #[error("the answer lacks the prefix k8s\\0 of protobuf answers")]
    Magic,
    #[error("malformed protobuf: {0}")]
    Protobuf(Malformed),
    #[error("malformed JSON: {0}")]
    Json(String),
    #[error("the answer is a {found} instead of a {expected}")]
    Kind { found: String, expected: String },
    #[error("watch event of unknown type {0:?}")]
    EventType(String),
}

impl From<Malformed> for DecodeError {
    fn from(e: Malformed) -> Self {
        DecodeError::Protobuf(e)
    }
}

impl From<serde_json::Error> for DecodeError {
    fn from(e: serde_json::Error) -> Self {
        DecodeError::Json(e.to_string())
    }
}

/// Decode an answer to a list request.
pub fn decode_page(kind: Kind, format: Format, body: &[u8]) -> Result<Page, DecodeError> {
    match format {
        Format::Protobuf => messages::decode_page(kind, body),
        Format::Json => json::decode_page(kind, body),
    }
}

/// Decode one frame of a watch, as returned by [`Frames`].
pub fn decode_event(kind: Kind, format: Format, frame: &[u8]) -> Result<WatchEvent, DecodeError> {
    match format {
        Format::Protobuf => messages::decode_event(kind, frame),
        Format::Json => json::decode_event(kind, frame),
    }
}

/// Decode the `Status` in the body of an error answer; `None` for other bodies, such as a proxy's
/// HTML page.
pub fn decode_status(format: Format, body: &[u8]) -> Option<Status> {
    match format {
        Format::Protobuf => messages::decode_status(body),
        Format::Json => json::decode_status(body),
    }
}

/// Decode bytes as a list, a watch or a refusal. The first byte selects this, the kind and the
/// format. For fuzzing: must return for any input.
pub fn decode_anything(bytes: &[u8]) {
    let Some((&choice, bytes)) = bytes.split_first() else {
        return;
    };
    let format = if choice & 1 == 0 {
        Format::Protobuf
    } else {
        Format::Json
    };
    let kind = match choice >> 1 & 3 {
        0 => Kind::Service,
        1 => Kind::EndpointSlice,
        2 => Kind::Node,
        _ => Kind::ServiceCidr,
    };
    let mut interner = model::Interner::new();
    let mut check = |stated: Stated| {
        let _ = stated.object.check(&mut interner);
    };
    match choice >> 3 & 3 {
        0 => {
            let page = decode_page(kind, format, bytes).unwrap_or_default();
            page.items.into_iter().flatten().for_each(check);
        }
        1 => drop(decode_status(format, bytes)),
        _ => {
            let mut frames = Frames::new(format);
            frames.push(bytes);
            while let Ok(Some(frame)) = frames.next_frame() {
                if let Ok(WatchEvent::Applied(stated)) = decode_event(kind, format, frame) {
                    check(stated);
                }
            }
        }
    }
}

/// Annotation of the bookmark that ends the initial events of a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// The `type` of a watch event.
#[derive(Clone, Copy)]
enum EventType {
    Applied,
    Deleted,
    Bookmark,
    Error,
}

impl EventType {
    fn parse(s: &str) -> Result<Self, DecodeError> {
        Ok(match s {
            "ADDED" | "MODIFIED" => EventType::Applied,
            "DELETED" => EventType::Deleted,
            "BOOKMARK" => EventType::Bookmark,
            "ERROR" => EventType::Error,
            other => return Err(DecodeError::EventType(other.chars().take(40).collect())),
        })
    }
}
