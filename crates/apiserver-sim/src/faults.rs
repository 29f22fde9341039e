//! The faults that tests inject.

use std::collections::HashSet;

use crate::resource::Resource;

/// The damage of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corruption {
    /// Its content after the metadata is unreadable.
    Body,
    /// All of it is unreadable.
    Whole,
}

/// A refusal of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status code.
    pub code: u16,
    /// The Status' reason.
    pub reason: String,
    /// The header `Retry-After`.
    pub retry_after: Option<u32>,
    /// Number of requests to refuse.
    pub times: usize,
    /// The kind to refuse; `None` for all requests.
    pub resource: Option<Resource>,
}

/// The current faults of the server.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Refuse streaming lists with 422, like a server with the feature switched off.
    pub no_streaming_lists: bool,
    /// Treat a streaming list as a plain watch, like a server that lacks the feature.
    pub ignores_initial_events: bool,
    /// Serve no ServiceCIDRs.
    pub no_service_cidrs: bool,
    /// Answer in JSON only; 406 if the client does not accept it.
    pub no_protobuf: bool,
    /// Accept requests without answering.
    pub stalled: bool,
    /// Hold back the events of these kinds.
    pub held: HashSet<Resource>,
    /// Refuse an expired watch with HTTP status 410 instead of the real server's ERROR event.
    pub http_gone: bool,
    /// Size of the pieces of an answer in bytes; 0 for no splitting.
    pub chunk: usize,
    /// Requests to refuse.
    pub refusals: Vec<Refusal>,
    /// Verbs that the client's role lacks, with their resources: `("watch", "services")`.
    pub forbidden: HashSet<(&'static str, &'static str)>,
}
