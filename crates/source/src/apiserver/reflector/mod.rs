//! Watching one kind: decides the next request and interprets the answers.
//!
//! Pure: no I/O, no clock; times and randomness are arguments. The caller carries out the steps of
//! [`Reflector::next`] and reports their results. States and transitions:
//!
//! ```text
//!                  ┌────────── relist (expired, or an unreadable object) ──────────────────┐
//!                  ▼                                                                       │
//! Idle ──► Streaming ── bookmark "initial-events-end" ─────────────────────────────► Watching
//!   │          │ refused (400, 422) or silent                                              ▲
//!   │          ▼                                                                           │
//!   └──► Listing ── page, page, …; 410: start over ────── last page ──► watch from its version ┘
//!
//! any ── failure ──► Idle, after a back-off; a watch resumes at its position
//! ```

mod types;

#[cfg(test)]
mod tests;

use std::mem;
use std::time::{Duration, Instant};

use model::{Interner, Kind};

use super::backoff::{Backoff, Jitter};
use super::request::Request;
use super::store::{Changes, Store};
use super::wire::{DecodeError, Format, Page, Status, Unreadable, WatchEvent};
pub use types::Timing;
pub(super) use types::{Failure, Flow, Notice, Step};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// No request is in flight until `at`.
    Idle { at: Instant, next: Next },
    /// A page has been requested.
    Listing,
    /// A streaming list has been requested or is being received.
    Streaming,
    /// A watch from `position` was requested at `since`.
    Watching { since: Instant },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Next {
    /// A new list, streaming or paged.
    Fresh,
    /// The next page of a list.
    Page(String),
    /// A watch from `position`.
    Watch,
}

/// Whether to try streaming lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StreamingLists {
    Try,
    /// Use pages for the next list.
    SkipOne,
    Refused,
}

/// The watch of one kind.
#[derive(Debug)]
pub(super) struct Reflector {
    kind: Kind,
    timing: Timing,
    format: Format,
    phase: Phase,
    /// The resourceVersion up to which all changes have been applied; `None` before the first
    /// complete list and while another is needed.
    position: Option<String>,
    streaming: StreamingLists,
    backoff: Backoff,
    store: Store,
    /// A list was complete, or the API is absent.
    complete: bool,
    /// Time of the last received bytes, or of the request.
    last_sign: Instant,
    bookmarks: bool,
    /// Requested lifetime of the current watch.
    lifetime: Duration,
    /// Time of the next list because of an unreadable object.
    relist_at: Option<Instant>,
    relists: u32,
    /// Consecutive refusals to resume at `position`.
    refusals: u32,
    failing: bool,
    notices: Vec<Notice>,
}

impl Reflector {
    /// Watch a kind from `now` on, in `format` unless the server refuses it.
    pub(super) fn new(
        kind: Kind,
        format: Format,
        timing: Timing,
        jitter: Jitter,
        now: Instant,
    ) -> Self {
        let backoff = Backoff::new(timing.backoff_base, timing.backoff_cap, jitter);
        Self {
            kind,
            format,
            phase: Phase::Idle {
                at: now,
                next: Next::Fresh,
            },
            position: None,
            streaming: StreamingLists::Try,
            backoff,
            store: Store::default(),
            complete: false,
            last_sign: now,
            bookmarks: false,
            lifetime: timing.watch_lifetime,
            relist_at: None,
            relists: 0,
            refusals: 0,
            failing: false,
            notices: Vec::new(),
            timing,
        }
    }

    /// Return the kind.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Return whether a complete list has been delivered.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Return the format to request.
    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Take the notices for the log.
    pub(super) fn take_notices(&mut self) -> Vec<Notice> {
        mem::take(&mut self.notices)
    }

    /// Return the next step. Call at the start, after a wait, and after the end of a request.
    pub(super) fn next(&mut self, now: Instant) -> Step {
        let next = match &self.phase {
            Phase::Idle { at, .. } if *at > now => return Step::Wait(*at),
            Phase::Idle { next, .. } => next.clone(),
            // The caller dropped the request without a report. No change was applied partly.
            _ if self.position.is_some() => Next::Watch,
            _ => Next::Fresh,
        };
        self.last_sign = now;
        match (next, self.position.clone()) {
            (Next::Watch, Some(position)) => self.watch(now, Some(position)),
            (Next::Page(token), _) => {
                self.phase = Phase::Listing;
                Step::Send(Request::List {
                    continue_token: Some(token),
                })
            }
            (Next::Fresh | Next::Watch, _) => self.fresh(now),
        }
    }

    fn fresh(&mut self, now: Instant) -> Step {
        self.position = None;
        self.relist_at = None;
        self.refusals = 0;
        self.store.begin_list();
        if self.streaming == StreamingLists::Try {
            return self.watch(now, None);
        }
        if self.streaming == StreamingLists::SkipOne {
            self.streaming = StreamingLists::Try;
        }
        self.phase = Phase::Listing;
        Step::Send(Request::List {
            continue_token: None,
        })
    }

    fn watch(&mut self, now: Instant, resource_version: Option<String>) -> Step {
        self.phase = match resource_version {
            Some(_) => Phase::Watching { since: now },
            None => Phase::Streaming,
        };
        let stretch = 1.0 + self.backoff.random();
        self.lifetime = self.timing.watch_lifetime.mul_f64(stretch);
        Step::Send(Request::Watch {
            resource_version,
            timeout_seconds: u32::try_from(self.lifetime.as_secs().max(1)).unwrap_or(u32::MAX),
        })
    }

    /// Return the time at which to call [`Reflector::expired`] without a sign of life.
    pub(super) fn deadline(&self) -> Instant {
        let silence = match self.phase {
            Phase::Watching { .. } if self.bookmarks => self.timing.watch_silence,
            // The server may be silent until it ends the watch.
            Phase::Watching { .. } => self.lifetime + self.timing.list_silence,
            _ => self.timing.list_silence,
        };
        let silence = self.last_sign + silence;
        match (&self.phase, self.relist_at) {
            (Phase::Watching { .. }, Some(relist)) => silence.min(relist),
            _ => silence,
        }
    }

    /// Note that bytes were received.
    pub(super) fn sign_of_life(&mut self, now: Instant) {
        self.last_sign = now;
    }

    /// Note that the deadline has passed and the caller has closed the connection.
    pub(super) fn expired(&mut self, now: Instant) {
        if self.relist_at.is_some_and(|at| at <= now)
            && matches!(self.phase, Phase::Watching { .. })
        {
            self.notices.push(Notice::Relisting);
            self.idle(now, Next::Fresh);
            return;
        }
        if self.phase == Phase::Streaming {
            // A server without streaming lists may treat the request as a plain watch, which does
            // not mark the end of the initial objects.
            self.streaming = StreamingLists::SkipOne;
        }
        let silence = now.saturating_duration_since(self.last_sign).as_secs();
        self.failed(
            now,
            Failure::Connection(format!("the server was silent for {silence} s")),
        );
    }

    /// Apply a page, or the error of decoding it.
    pub(super) fn page(
        &mut self,
        now: Instant,
        page: Result<Page, DecodeError>,
        interner: &mut Interner,
        changes: &mut Changes,
    ) {
        self.last_sign = now;
        let page = match page {
            Ok(page) => page,
            Err(e) => return self.failed(now, Failure::Unreadable(e.to_string())),
        };
        if page.resource_version.is_empty() {
            let what = "a list without a resourceVersion".into();
            return self.failed(now, Failure::Unreadable(what));
        }
        for item in page.items {
            match item {
                Ok(stated) => self.store.apply(stated.object, interner, changes),
                Err(unreadable) => self.unreadable(now, unreadable, changes),
            }
        }
        if page.continue_token.is_empty() {
            self.listed(now, page.resource_version, changes);
            self.idle(now, Next::Watch);
        } else {
            self.idle(now, Next::Page(page.continue_token));
        }
    }

    /// Apply an event of a watch, or the error of decoding it.
    pub(super) fn event(
        &mut self,
        now: Instant,
        event: Result<WatchEvent, DecodeError>,
        interner: &mut Interner,
        changes: &mut Changes,
    ) -> Flow {
        self.last_sign = now;
        match event {
            Ok(WatchEvent::Applied(stated)) => {
                if self.advance(&stated.resource_version) {
                    self.store.apply(stated.object, interner, changes);
                }
            }
            Ok(WatchEvent::Deleted(stated)) => {
                if self.advance(&stated.resource_version) {
                    self.store.delete(&stated, changes);
                }
            }
            Ok(WatchEvent::Unreadable(unreadable)) => {
                self.unreadable(now, unreadable, changes);
            }
            Ok(WatchEvent::Bookmark {
                resource_version,
                initial_events_end,
            }) => return self.bookmark(now, resource_version, initial_events_end, changes),
            Ok(WatchEvent::Error(status)) => {
                let code = status.code;
                let retry_after = status.retry_after_seconds;
                self.failed(
                    now,
                    Failure::Refused {
                        code,
                        status: Some(status),
                        retry_after,
                    },
                );
                return Flow::Stop;
            }
            Err(e) => {
                // The framing is intact, but the event is lost: the watch cannot continue without
                // it.
                self.relist_soon(now);
                self.failed(now, Failure::Unreadable(e.to_string()));
                return Flow::Stop;
            }
        }
        Flow::Continue
    }

    /// Note that the server has ended a watch between two events.
    pub(super) fn ended(&mut self, now: Instant) {
        match self.phase {
            Phase::Watching { since } if now.saturating_duration_since(since).as_secs() >= 1 => {
                self.reset_backoff_if_healthy(now, since);
                self.idle(now, Next::Watch);
            }
            Phase::Idle { .. } => {}
            _ => self.failed(
                now,
                Failure::Connection("the server ended the watch immediately".into()),
            ),
        }
    }

    /// Note the failure of a request or watch.
    pub(super) fn failed(&mut self, now: Instant, failure: Failure) {
        if let Phase::Watching { since } = self.phase {
            self.reset_backoff_if_healthy(now, since);
        }
        if let Failure::Refused { code, status, .. } = &failure {
            if *code == 410 || status.as_ref().is_some_and(Status::is_expired) {
                // Normal if the server compacts faster than a quiet watch advances.
                let delay = self.backoff.next_delay();
                return self.idle(now + delay, Next::Fresh);
            }
            if matches!(code, 406 | 415) && self.format == Format::Protobuf {
                self.format = Format::Json;
                self.notices.push(Notice::FallBackToJson);
                return self.again(now);
            }
            if self.phase == Phase::Streaming && matches!(code, 400 | 422) {
                self.streaming = StreamingLists::Refused;
                self.notices.push(Notice::NoStreamingLists);
                return self.idle(now, Next::Fresh);
            }
            if self.kind == Kind::ServiceCidr && matches!(code, 403 | 404) {
                // A missing API appears rarely; a permission may be granted at any time.
                let again = match code {
                    404 => self.timing.absent_retry,
                    _ => self.backoff.next_delay(),
                };
                return self.absent(now + again, failure);
            }
            self.count_refusal(*code);
        }
        let mut delay = self.backoff.next_delay();
        if let Failure::Refused {
            retry_after: Some(seconds),
            ..
        } = failure
        {
            // Not before the server's time, plus jitter.
            delay += Duration::from_secs(seconds.min(600).into());
        }
        if !mem::replace(&mut self.failing, true) {
            self.notices.push(Notice::Failing(failure));
        }
        let next = match self.phase {
            // Keeping the position makes resuming cheap.
            Phase::Watching { .. } if self.position.is_some() => Next::Watch,
            _ => Next::Fresh,
        };
        self.idle(now + delay, next);
    }

    /// Count refusals to resume a watch. A server that refuses without reporting expiry may have been
    /// restored from a backup: after three refusals, list again.
    fn count_refusal(&mut self, code: u16) {
        if matches!(self.phase, Phase::Watching { .. }) && !matches!(code, 401 | 403 | 429 | 503) {
            self.refusals += 1;
            if self.refusals >= 3 {
                self.position = None;
            }
        }
    }

    /// Repeat the request.
    fn again(&mut self, now: Instant) {
        let next = match self.phase {
            Phase::Watching { .. } => Next::Watch,
            _ => Next::Fresh,
        };
        self.idle(now, next);
    }

    /// Continue without an optional API until the next attempt.
    fn absent(&mut self, again: Instant, failure: Failure) {
        if !self.complete {
            self.complete = true;
            self.notices.push(Notice::Absent(failure));
        }
        let next = if self.position.is_some() {
            Next::Watch
        } else {
            Next::Fresh
        };
        self.idle(again, next);
    }

    fn idle(&mut self, at: Instant, next: Next) {
        if next == Next::Fresh {
            self.position = None;
        }
        self.phase = Phase::Idle { at, next };
    }

    fn reset_backoff_if_healthy(&mut self, now: Instant, since: Instant) {
        if now.saturating_duration_since(since) >= self.timing.healthy_after {
            self.backoff.reset();
        }
    }

    fn recovered(&mut self) {
        self.refusals = 0;
        if mem::replace(&mut self.failing, false) {
            self.notices.push(Notice::Recovered);
        }
    }

    /// Complete a list.
    fn listed(&mut self, now: Instant, resource_version: String, changes: &mut Changes) {
        if self.store.end_list(changes) {
            if self.relist_at.is_none() {
                self.relists = 0;
            }
        } else {
            self.relist_soon(now);
        }
        self.position = Some(resource_version);
        self.complete = true;
        self.recovered();
    }

    fn unreadable(&mut self, now: Instant, unreadable: Unreadable, changes: &mut Changes) {
        self.store.unreadable(unreadable, changes);
        self.relist_soon(now);
    }

    /// Schedule a new list because an object or event was lost.
    fn relist_soon(&mut self, now: Instant) {
        if self.relist_at.is_some() {
            return;
        }
        let factor = 1u32.checked_shl(self.relists).unwrap_or(u32::MAX);
        self.relists = self.relists.saturating_add(1).min(31);
        let delay = self.timing.relist_base.saturating_mul(factor);
        let delay = delay.min(self.timing.relist_cap);
        self.relist_at = Some(now + delay.mul_f64(0.5 + self.backoff.random()));
    }

    fn bookmark(
        &mut self,
        now: Instant,
        resource_version: String,
        initial_events_end: bool,
        changes: &mut Changes,
    ) -> Flow {
        match self.phase {
            Phase::Streaming if initial_events_end => {
                self.listed(now, resource_version, changes);
                self.phase = Phase::Watching { since: now };
                self.bookmarks = true;
            }
            // A server with streaming lists sends no other bookmark before the final one: this
            // server treats the request as a plain watch.
            Phase::Streaming => {
                self.streaming = StreamingLists::SkipOne;
                let delay = self.backoff.next_delay();
                self.idle(now + delay, Next::Fresh);
                return Flow::Stop;
            }
            Phase::Watching { since } => {
                self.bookmarks = true;
                self.recovered();
                if self.is_before_position(&resource_version) {
                    // The server's version decreased: it was restored from a backup.
                    self.reset_backoff_if_healthy(now, since);
                    let delay = self.backoff.next_delay();
                    self.idle(now + delay, Next::Fresh);
                    return Flow::Stop;
                }
                self.position = Some(resource_version);
            }
            Phase::Idle { .. } | Phase::Listing => {}
        }
        Flow::Continue
    }

    /// Advance the position to an event's resourceVersion. Returns `false` for a repeated event.
    /// Versions of one kind compare as numbers (KEP-5504, and all servers so far).
    fn advance(&mut self, resource_version: &str) -> bool {
        if !matches!(self.phase, Phase::Watching { .. }) {
            return true; // The objects of a streaming list are unordered.
        }
        self.recovered();
        let repeated = match (
            number(self.position.as_deref()),
            number(Some(resource_version)),
        ) {
            (Some(position), Some(version)) => version <= position,
            _ => false,
        };
        if !repeated && !resource_version.is_empty() {
            self.position = Some(resource_version.to_owned());
        }
        !repeated
    }

    fn is_before_position(&self, resource_version: &str) -> bool {
        match (
            number(self.position.as_deref()),
            number(Some(resource_version)),
        ) {
            (Some(position), Some(version)) => version < position,
            _ => false,
        }
    }
}

/// Parse a resourceVersion as a number.
fn number(resource_version: Option<&str>) -> Option<u64> {
    resource_version?.parse().ok()
}
