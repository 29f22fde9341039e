//! What goes over the wire: objects, lists, watch events and errors, in protobuf and in JSON.
//!
//! In both, an object that cannot be read costs nothing but itself: the rest of the list or of the
//! stream is read on, and as much as can be told about the bad object is told.

mod frame;
mod json;
mod messages;
mod protobuf;
#[cfg(test)]
mod tests;

use model::{Kind, Subject, object};

pub use frame::{FrameError, Frames};
pub use protobuf::Malformed;

/// How objects are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
    /// `application/json`.
    Json,
}

impl Format {
    /// The media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Format::Protobuf => "application/vnd.kubernetes.protobuf",
            Format::Json => "application/json",
        }
    }

    /// The format that a `Content-Type` header names; parameters (`;stream=watch`) are passed over.
    pub fn of_content_type(value: &str) -> Option<Self> {
        let essence = value.split(';').next().unwrap_or_default().trim();
        [Format::Protobuf, Format::Json]
            .into_iter()
            .find(|f| essence.eq_ignore_ascii_case(f.media_type()))
    }
}

/// An object as the server states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stated {
    /// Its `metadata.resourceVersion`.
    pub resource_version: String,
    /// The rest of it.
    pub object: object::Object,
}

/// An object that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{subject}: the server sent an object that cannot be read: {reason}")]
pub struct Unreadable {
    /// Which object, as far as could be read.
    pub subject: Subject,
    /// Its `metadata.resourceVersion`, empty where it could not be read.
    pub resource_version: String,
    /// What is wrong with it.
    pub reason: String,
}

/// One answer to a list request.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Page {
    /// The version of the whole list.
    pub resource_version: String,
    /// Asks for the next page; empty on the last.
    pub continue_token: String,
    /// The objects.
    pub items: Vec<Result<Stated, Unreadable>>,
}

/// One event of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// `ADDED` or `MODIFIED`.
    Applied(Stated),
    /// `DELETED`, with the object's last state.
    Deleted(Stated),
    /// `BOOKMARK`.
    Bookmark {
        /// Up to where the watch has come.
        resource_version: String,
        /// The bookmark carries the annotation `k8s.io/initial-events-end`: the objects that
        /// were there at the start of a streaming list have all been sent (KEP-3157).
        initial_events_end: bool,
    },
    /// `ERROR`.
    Error(Status),
    /// An event about an object that cannot be read.
    Unreadable(Unreadable),
}

/// The server's `Status` object: how it says that something failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// `code`, an HTTP status code; 0 where none is given.
    pub code: u16,
    /// `reason`: a word such as `Expired`.
    pub reason: String,
    /// `message`, for people.
    pub message: String,
    /// `details.retryAfterSeconds`.
    pub retry_after_seconds: Option<u32>,
}

impl Status {
    /// Whether this says that a resourceVersion or a continue token is too old to go on from.
    pub fn is_expired(&self) -> bool {
        self.code == 410 || matches!(self.reason.as_str(), "Expired" | "Gone")
    }
}

/// An answer that cannot be read as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The messages say it.
pub enum DecodeError {
    #[error("the answer is not protobuf as Kubernetes frames it: it does not start with k8s\\0")]
    Magic,
    #[error("malformed protobuf: {0}")]
    Protobuf(#[from] Malformed),
    #[error("malformed JSON: {0}")]
    Json(String),
    #[error("the answer is a {found}, where a {expected} was asked for")]
    Kind { found: String, expected: String },
    #[error("a watch event of the unknown type {0:?}")]
    EventType(String),
}

impl From<serde_json::Error> for DecodeError {
    fn from(e: serde_json::Error) -> Self {
        DecodeError::Json(e.to_string())
    }
}

/// Reads an answer to a list request.
pub fn decode_page(kind: Kind, format: Format, body: &[u8]) -> Result<Page, DecodeError> {
    match format {
        Format::Protobuf => messages::decode_page(kind, body),
        Format::Json => json::decode_page(kind, body),
    }
}

/// Reads one frame of a watch, as [`Frames`] cuts it.
pub fn decode_event(kind: Kind, format: Format, frame: &[u8]) -> Result<WatchEvent, DecodeError> {
    match format {
        Format::Protobuf => messages::decode_event(kind, frame),
        Format::Json => json::decode_event(kind, frame),
    }
}

/// Reads the `Status` in the body of an answer that is an error. Bodies that are none (a proxy's
/// HTML page) give `None`.
pub fn decode_status(format: Format, body: &[u8]) -> Option<Status> {
    match format {
        Format::Protobuf => messages::decode_status(body),
        Format::Json => json::decode_status(body),
    }
}

/// Reads bytes as each thing that a server may send: a list, a watch, a refusal; of which kind and
/// in which format, the first byte says. For fuzzing: it must come back, whatever the bytes.
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

/// The annotation of the bookmark that ends the initial events of a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// What a watch event is about, from its `type`.
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
