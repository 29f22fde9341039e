//! Inputs and outputs of a reflector, except objects.

use std::time::{Duration, Instant};

use crate::apiserver::request::Request;
use crate::apiserver::wire::Status;

/// Delays and timeouts of a reflector. The defaults are for production; tests shorten them.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Delay after the first failure, before jitter; doubled after each further one.
    pub backoff_base: Duration,
    /// Upper bound on the delay, before jitter, as in client-go.
    pub backoff_cap: Duration,
    /// Lifetime of a watch after which a failure counts as the first one.
    pub healthy_after: Duration,
    /// Longest silence during a list or the initial part of a streaming list.
    pub list_silence: Duration,
    /// Longest silence during a watch of a server that sends bookmarks (one per minute).
    pub watch_silence: Duration,
    /// Minimum requested lifetime of a watch; the maximum is twice as long.
    pub watch_lifetime: Duration,
    /// Delay before a retry of an API that the server lacks.
    pub absent_retry: Duration,
    /// Delay before a new list after an unreadable object, doubled up to `relist_cap` for as long
    /// as the object is unreadable.
    pub relist_base: Duration,
    /// Upper bound on `relist_base`.
    pub relist_cap: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            backoff_base: Duration::from_millis(200),
            backoff_cap: Duration::from_secs(30),
            healthy_after: Duration::from_secs(10),
            list_silence: Duration::from_secs(30),
            watch_silence: Duration::from_secs(180),
            watch_lifetime: Duration::from_secs(300),
            absent_retry: Duration::from_secs(300),
            relist_base: Duration::from_secs(5),
            relist_cap: Duration::from_secs(600),
        }
    }
}

/// The next step of the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::apiserver) enum Step {
    /// Wait until this time.
    Wait(Instant),
    /// Send this request, and report its result.
    Send(Request),
}

/// Whether to continue a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::apiserver) enum Flow {
    /// Continue reading.
    Continue,
    /// Close it and call [`Reflector::next`].
    Stop,
}

/// Reason for the failure of a request or watch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // See the messages.
pub(in crate::apiserver) enum Failure {
    /// No connection, a broken one, or silence.
    #[error("{0}")]
    Connection(String),
    /// An error answer.
    #[error("the server answered {code}{}", describe(.status.as_ref()))]
    Refused {
        /// The HTTP status code.
        code: u16,
        status: Option<Status>,
        /// The header `Retry-After`, in seconds.
        retry_after: Option<u32>,
    },
    /// An answer that cannot be decoded.
    #[error("{0}")]
    Unreadable(String),
}

fn describe(status: Option<&Status>) -> String {
    status.map_or_else(String::new, |s| format!(" ({}: {})", s.reason, s.message))
}

/// A notice for the log, issued once when a condition begins or ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::apiserver) enum Notice {
    /// Requests fail; the known objects are kept.
    Failing(Failure),
    /// Requests succeed again.
    Recovered,
    /// The server lacks streaming lists; paged lists are used.
    NoStreamingLists,
    /// The server lacks or refuses an optional API.
    Absent(Failure),
    /// The server refuses protobuf; JSON is used.
    FallBackToJson,
    /// All objects are listed again because of an unreadable one.
    Relisting,
}
