//! The lines that client and server exchange.

use model::Kind;
use model::object::{self, Object};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Status;

/// The version of the protocol. A change that an older client or server would misunderstand needs a
/// new one.
pub(crate) const VERSION: u32 = 1;

/// Upper bound on the length of a request in bytes.
pub(crate) const MAX_REQUEST: u64 = 4096;

/// The part of the proxy's knowledge that a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Topic {
    /// The head of the answer only.
    Status,
    /// The objects, as the Kubernetes API has them.
    Objects,
    /// The planned Service ports.
    Plan,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) version: u32,
    pub(crate) get: Topic,
}

/// The first line of an answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) version: u32,
    /// The reason if there is no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<Box<Status>>,
}

/// A further line of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Line {
    /// The answer is complete, with this many lines before.
    End { end: usize },
    /// An object of the Kubernetes API, or a Service port.
    Item(Value),
}

impl Head {
    /// Return the head of an answer without content.
    pub(crate) fn refusal(error: impl Into<String>) -> Self {
        Self {
            version: VERSION,
            error: Some(error.into()),
            status: None,
        }
    }
}

/// An object with its kind, as in a manifest.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest<'a> {
    api_version: &'static str,
    kind: &'static str,
    #[serde(flatten)]
    object: Content<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Service(&'a object::Service),
    EndpointSlice(&'a object::EndpointSlice),
    Node(&'a object::Node),
    ServiceCidr(&'a object::ServiceCidr),
}

impl<'a> Manifest<'a> {
    pub(crate) fn of(object: &'a Object) -> Self {
        let (api_version, kind, object) = match object {
            Object::Service(o) => ("v1", Kind::Service, Content::Service(o)),
            Object::EndpointSlice(o) => (
                "discovery.k8s.io/v1",
                Kind::EndpointSlice,
                Content::EndpointSlice(o),
            ),
            Object::Node(o) => ("v1", Kind::Node, Content::Node(o)),
            Object::ServiceCidr(o) => (
                "networking.k8s.io/v1",
                Kind::ServiceCidr,
                Content::ServiceCidr(o),
            ),
        };
        Self {
            api_version,
            kind: kind.name(),
            object,
        }
    }
}
