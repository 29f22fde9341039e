//! The I/O of the reflectors: sends their requests, feeds them the answers, delivers the changes.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use hyper::Method;
use model::{Interner, Kind};
use tokio::time::timeout_at;

use super::addresses::ServerAddresses;
use super::client::{Answer, Body, Client};
use super::outbox::Outbox;
use super::reflector::{Failure, Flow, Notice, Reflector, Step};
use super::request::Request;
use super::store::Changes;
use super::wire::{self, Format, Frames};
use super::{WatchState, Watches, with_causes};

/// Upper bound on a page, which is read whole before it is decoded. 500 objects of etcd's maximum
/// size, 1.5 MiB, would exceed it; no real page does.
const MAX_PAGE: usize = 512 << 20;

/// State shared by the tasks of all kinds.
pub(super) struct Shared {
    pub(super) client: Rc<Client>,
    pub(super) node_name: String,
    /// The configured `Accept` header.
    pub(super) accept: Option<String>,
    pub(super) interner: RefCell<Interner>,
    pub(super) outbox: RefCell<Outbox>,
    /// The stored addresses of the API servers, if they are to be stored.
    pub(super) addresses: RefCell<Option<ServerAddresses>>,
    /// Notified when the receiver accepts no more batches.
    pub(super) closed: tokio::sync::Notify,
    pub(super) watches: Watches,
}

/// Watch one kind forever.
pub(super) async fn watch_kind(shared: Rc<Shared>, mut reflector: Reflector) {
    loop {
        match reflector.next(Instant::now()) {
            Step::Wait(at) => tokio::time::sleep_until(at.into()).await,
            Step::Send(request) => shared.attempt(&mut reflector, &request).await,
        }
        shared.report(&mut reflector);
    }
}

impl Shared {
    /// Send one request and read its answer to the end.
    async fn attempt(&self, reflector: &mut Reflector, request: &Request) {
        let path = request.path_and_query(reflector.kind(), &self.node_name);
        let accept = match (&self.accept, reflector.format()) {
            (Some(accept), Format::Protobuf) => accept.clone(),
            (None, Format::Protobuf) => {
                "application/vnd.kubernetes.protobuf,application/json".into()
            }
            (_, Format::Json) => Format::Json.media_type().into(),
        };
        let admission = match self.client.admit().await {
            Ok(admission) => admission,
            Err(e) => {
                let failure = Failure::Connection(with_causes(&e));
                return reflector.failed(Instant::now(), failure);
            }
        };
        reflector.sign_of_life(Instant::now());
        let sending = self
            .client
            .send(admission, Method::GET, &path, &accept, None);
        let answer = match timeout_at(reflector.deadline().into(), sending).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(e)) => {
                let failure = Failure::Connection(with_causes(&e));
                return reflector.failed(Instant::now(), failure);
            }
            Err(_) => return reflector.expired(Instant::now()),
        };
        match answer {
            Answer::Refused {
                code,
                status,
                retry_after,
            } => {
                let failure = Failure::Refused {
                    code,
                    status,
                    retry_after,
                };
                reflector.failed(Instant::now(), failure);
            }
            Answer::Accepted { format: None, .. } => {
                let what = "the answer is neither protobuf nor JSON".into();
                reflector.failed(Instant::now(), Failure::Unreadable(what));
            }
            Answer::Accepted {
                format: Some(format),
                body,
            } => {
                reflector.sign_of_life(Instant::now());
                (self.watches)(reflector.kind(), WatchState::Heard);
                if request.is_watch() {
                    self.watch(reflector, format, body).await;
                } else {
                    self.page(reflector, format, body).await;
                }
            }
        }
    }

    async fn page(&self, reflector: &mut Reflector, format: Format, mut body: Body) {
        let mut bytes = Vec::new();
        loop {
            match timeout_at(reflector.deadline().into(), body.next()).await {
                Ok(Ok(Some(part))) if bytes.len() + part.len() <= MAX_PAGE => {
                    bytes.extend_from_slice(&part);
                    reflector.sign_of_life(Instant::now());
                }
                Ok(Ok(Some(_))) => {
                    let what = format!("a page of more than {MAX_PAGE} bytes");
                    return reflector.failed(Instant::now(), Failure::Unreadable(what));
                }
                Ok(Ok(None)) => break,
                Ok(Err(e)) => {
                    let failure = Failure::Connection(with_causes(&e));
                    return reflector.failed(Instant::now(), failure);
                }
                Err(_) => return reflector.expired(Instant::now()),
            }
        }
        self.client.keep(body);
        let page = wire::decode_page(reflector.kind(), format, &bytes);
        drop(bytes);
        let mut changes = Changes::default();
        {
            let mut interner = self.interner.borrow_mut();
            reflector.page(Instant::now(), page, &mut interner, &mut changes);
        }
        self.deliver(reflector, changes);
    }

    async fn watch(&self, reflector: &mut Reflector, format: Format, mut body: Body) {
        let mut frames = Frames::new(format);
        loop {
            match timeout_at(reflector.deadline().into(), body.next()).await {
                Ok(Ok(Some(part))) => frames.push(&part),
                Ok(Ok(None)) if frames.is_between_events() => {
                    self.client.keep(body);
                    return reflector.ended(Instant::now());
                }
                Ok(Ok(None)) => {
                    let what = "the watch ended in the middle of an event".into();
                    return reflector.failed(Instant::now(), Failure::Connection(what));
                }
                Ok(Err(e)) => {
                    let failure = Failure::Connection(with_causes(&e));
                    return reflector.failed(Instant::now(), failure);
                }
                Err(_) => return reflector.expired(Instant::now()),
            }
            let now = Instant::now();
            reflector.sign_of_life(now);
            (self.watches)(reflector.kind(), WatchState::Heard);
            let mut changes = Changes::default();
            let flow = self.events(reflector, format, &mut frames, now, &mut changes);
            self.deliver(reflector, changes);
            if flow == Flow::Stop {
                return;
            }
            self.report(reflector);
        }
    }

    /// Apply the events that are complete.
    fn events(
        &self,
        reflector: &mut Reflector,
        format: Format,
        frames: &mut Frames,
        now: Instant,
        changes: &mut Changes,
    ) -> Flow {
        let kind = reflector.kind();
        let mut interner = self.interner.borrow_mut();
        loop {
            let event = match frames.next_frame() {
                Ok(Some(frame)) => wire::decode_event(kind, format, frame),
                Ok(None) => return Flow::Continue,
                Err(e) => {
                    reflector.failed(now, Failure::Unreadable(e.to_string()));
                    return Flow::Stop;
                }
            };
            if reflector.event(now, event, &mut interner, changes) == Flow::Stop {
                return Flow::Stop;
            }
        }
    }

    fn deliver(&self, reflector: &Reflector, changes: Changes) {
        if let Some(addresses) = &mut *self.addresses.borrow_mut()
            && let Some(addresses) = addresses.apply(&changes.events)
        {
            self.client.set_addresses(addresses);
        }
        let mut outbox = self.outbox.borrow_mut();
        outbox.add(changes);
        if reflector.is_complete() {
            outbox.complete(reflector.kind());
        }
        outbox.flush();
        if outbox.is_closed() {
            self.closed.notify_one();
        }
    }

    /// Log a reflector's notices, and deliver the completeness of a kind that the server lacks.
    fn report(&self, reflector: &mut Reflector) {
        let kind = reflector.kind();
        for notice in reflector.take_notices() {
            match &notice {
                Notice::Failing(error) => {
                    (self.watches)(kind, WatchState::Failing(&error.to_string()));
                }
                Notice::Recovered => (self.watches)(kind, WatchState::Recovered),
                _ => {}
            }
            log(kind, &notice);
        }
        if reflector.is_complete() {
            self.deliver(reflector, Changes::default());
        }
    }
}

fn log(kind: Kind, notice: &Notice) {
    match notice {
        Notice::Failing(error) => {
            tracing::warn!(%kind, %error, "Watch failed; keeping the known objects and retrying");
        }
        Notice::Recovered => tracing::info!(%kind, "Watch recovered"),
        Notice::NoStreamingLists => {
            tracing::debug!(%kind, "API server lacks streaming lists; listing in pages");
        }
        Notice::Absent(error) => {
            tracing::info!(%kind, %error, "API server does not serve this resource; continuing");
        }
        Notice::FallBackToJson => {
            tracing::info!(%kind, "API server refused protobuf; using JSON");
        }
        Notice::Relisting => tracing::warn!(%kind, "Object unreadable; listing again"),
    }
}
