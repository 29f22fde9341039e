//! Answers in both formats.

use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame};
use hyper::{Response, StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::encode;
use crate::resource::Resource;
use crate::store::Version;

/// The encoding of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Protobuf,
}

impl Format {
    fn content_type(self, stream: bool) -> &'static str {
        match (self, stream) {
            (Format::Json, _) => "application/json",
            (Format::Protobuf, false) => "application/vnd.kubernetes.protobuf",
            (Format::Protobuf, true) => "application/vnd.kubernetes.protobuf;stream=watch",
        }
    }

    /// Append a frame of a watch.
    pub(crate) fn frame(self, out: &mut Vec<u8>, event_type: &str, object: &Encoded<'_>) {
        match self {
            Format::Json => {
                out.extend_from_slice(b"{\"type\":\"");
                out.extend_from_slice(event_type.as_bytes());
                out.extend_from_slice(b"\",\"object\":");
                out.extend_from_slice(object.json);
                out.extend_from_slice(b"}\n");
            }
            Format::Protobuf => {
                let (version, kind) = (object.api_version, object.kind);
                encode::frame(
                    out,
                    event_type,
                    &encode::envelope(version, kind, object.protobuf),
                );
            }
        }
    }
}

/// An object in both encodings.
pub(crate) struct Encoded<'a> {
    pub(crate) api_version: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) json: &'a [u8],
    /// Without envelope.
    pub(crate) protobuf: &'a [u8],
}

impl<'a> Encoded<'a> {
    pub(crate) fn of(resource: Resource, version: &'a Version) -> Self {
        Self {
            api_version: resource.api_version(),
            kind: resource.kind(),
            json: &version.json,
            protobuf: &version.protobuf,
        }
    }
}

/// A body in pieces.
pub(crate) struct Pieces(pub(crate) mpsc::Receiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0
            .poll_recv(context)
            .map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

pub(crate) type Answer = Response<Pieces>;

/// Return an answer with a streamed body.
pub(crate) fn streamed(format: Format, body: mpsc::Receiver<Bytes>) -> Answer {
    answer(StatusCode::OK, format.content_type(true), Pieces(body))
}

/// Return an answer with a complete body.
pub(crate) fn whole(status: StatusCode, format: Format, bytes: Vec<u8>, chunk: usize) -> Answer {
    let pieces: Vec<Bytes> = match chunk {
        0 => vec![bytes.into()],
        size => bytes.chunks(size).map(Bytes::copy_from_slice).collect(),
    };
    let (sender, receiver) = mpsc::channel(pieces.len().max(1));
    for piece in pieces {
        // The channel has room for all pieces.
        let _ = sender.try_send(piece);
    }
    answer(status, format.content_type(false), Pieces(receiver))
}

fn answer(status: StatusCode, content_type: &'static str, body: Pieces) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let value = header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}

/// Make a `Status` object.
pub(crate) fn status(code: u16, reason: &str, message: &str, retry_after: Option<u32>) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
        "details": {"retryAfterSeconds": retry_after.unwrap_or(0)},
    })
}

/// Return a refusal.
pub(crate) fn refusal(format: Format, status: &Value) -> Answer {
    let code = status["code"].as_u64().and_then(|c| u16::try_from(c).ok());
    let code = code.and_then(|c| StatusCode::from_u16(c).ok());
    let bytes = match format {
        Format::Json => status.to_string().into_bytes(),
        Format::Protobuf => {
            encode::envelope("v1", "Status", &encode::message(&encode::STATUS, status))
        }
    };
    let code = code.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = whole(code, format, bytes, 0);
    if let Some(seconds) = status["details"]["retryAfterSeconds"]
        .as_u64()
        .filter(|s| *s > 0)
    {
        let value = header::HeaderValue::from(seconds);
        answer.headers_mut().insert(header::RETRY_AFTER, value);
    }
    answer
}
