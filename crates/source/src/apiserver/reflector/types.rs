//! What goes into a reflector and what comes out of it, objects apart.

use std::time::{Duration, Instant};

use crate::apiserver::request::Request;
use crate::apiserver::wire::Status;

/// The times by which a reflector goes. The defaults are for production; tests shorten them.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Delay after a first failure, before jitter; doubled with each further one.
    pub backoff_base: Duration,
    /// The longest delay, before jitter. client-go's is the same.
    pub backoff_cap: Duration,
    /// A watch that lived this long went well: the next failure counts as a first one.
    pub healthy_after: Duration,
    /// A list or the first part of a streaming list may be silent for this long.
    pub list_silence: Duration,
    /// A watch may be silent for this long, from a server that sends bookmarks (one a minute).
    pub watch_silence: Duration,
    /// Watches are asked for this long, up to twice as long.
    pub watch_lifetime: Duration,
    /// An API that the server does not have is asked for again after this.
    pub absent_retry: Duration,
    /// After an object that could not be read, everything is listed again after this long, up to
    /// `relist_cap`, doubled each time that it did not help.
    pub relist_base: Duration,
    /// See `relist_base`.
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

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::apiserver) enum Step {
    /// Nothing, until then.
    Wait(Instant),
    /// Send this, and tell what comes of it.
    Send(Request),
}

/// Whether to read on in a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::apiserver) enum Flow {
    /// Read on.
    Continue,
    /// Close it and ask [`Reflector::next`].
    Stop,
}

/// Why a request or a watch came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The messages say it.
pub(in crate::apiserver) enum Failure {
    /// No connection, or one that broke, or silence.
    #[error("{0}")]
    Connection(String),
    /// An answer that is an error.
    #[error("the server answers {code}{}", describe(.status.as_ref()))]
    Refused {
        /// The HTTP status code.
        code: u16,
        status: Option<Status>,
        /// The header `Retry-After`, in seconds.
        retry_after: Option<u32>,
    },
    /// An answer that cannot be read.
    #[error("{0}")]
    Unreadable(String),
}

fn describe(status: Option<&Status>) -> String {
    status.map_or_else(String::new, |s| format!(" ({}: {})", s.reason, s.message))
}

/// What the log should know; each is told once, when it begins or ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::apiserver) enum Notice {
    /// Requests fail; what is programmed stays.
    Failing(Failure),
    /// They succeed again.
    Recovered,
    /// The server does not do streaming lists; paged ones are used.
    NoStreamingLists,
    /// The server does not have this API, or refuses it, and sluice can do without.
    Absent(Failure),
    /// The server's answers in protobuf are refused or absent; JSON is used.
    FallBackToJson,
    /// Everything is listed again, because of an object that could not be read.
    Relisting,
}
