//! Watches of the server.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::encode;
use crate::resource::Resource;
use crate::response::{Answer, Encoded, Format, refusal, status, streamed};
use crate::selector::Selector;
use crate::shared::Shared;
use crate::store::{Entry, State, Version, garbage};

/// Approximate size of the pieces that events are sent in.
const PIECE: usize = 64 << 10;

/// Parameters of a watch.
pub(crate) struct Params {
    pub(crate) resource: Resource,
    pub(crate) format: Format,
    pub(crate) selector: Selector,
    pub(crate) resource_version: Option<u64>,
    pub(crate) streaming_list: bool,
    pub(crate) bookmarks: bool,
    /// Seconds.
    pub(crate) timeout: u64,
}

/// An open watch.
pub(crate) struct Watch {
    params: Params,
    /// The version up to which events have been sent.
    position: u64,
    repeats: u64,
    garbage: u64,
    sender: mpsc::Sender<Bytes>,
}

impl Watch {
    pub(crate) fn open(shared: &Arc<Shared>, params: Params) -> Answer {
        let mut state = shared.state();
        let format = params.format;
        if params.streaming_list && state.faults.no_streaming_lists {
            let message = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch \
                           unless the WatchList feature gate is enabled";
            return refusal(format, &status(422, "Invalid", message, None));
        }
        let compacted = state.collection(params.resource).compacted;
        let expired = params.resource_version.is_some_and(|v| v < compacted);
        if expired && state.faults.http_gone {
            return refusal(format, &gone());
        }
        let (sender, receiver) = mpsc::channel(16);
        let mut first = Vec::new();
        if expired {
            error(&mut first, format, &gone());
        } else if params.resource_version.is_none() {
            initial_events(&mut state, &params, &mut first);
        }
        let watch = Watch {
            position: params.resource_version.unwrap_or(state.resource_version),
            repeats: state.repeats.0,
            garbage: state.garbage.0,
            sender,
            params,
        };
        drop(state);
        let shared = shared.clone();
        tokio::spawn(async move {
            let chunk = shared.state().faults.chunk;
            if watch.send(first, chunk).await && !expired {
                watch.run(&shared).await;
            }
        });
        streamed(format, receiver)
    }

    async fn run(mut self, shared: &Shared) {
        let mut changed = shared.changed.subscribe();
        let end = Instant::now() + Duration::from_secs(self.params.timeout);
        let mut bookmark = Instant::now() + shared.config.bookmark_period;
        loop {
            let mut out = Vec::new();
            let (continues, chunk) = {
                let mut state = shared.state();
                let due = self.params.bookmarks && Instant::now() >= bookmark;
                (self.gather(&mut state, due, &mut out), state.faults.chunk)
            };
            if Instant::now() >= bookmark {
                bookmark = Instant::now() + shared.config.bookmark_period;
            }
            if !self.send(out, chunk).await || !continues {
                return;
            }
            tokio::select! {
                _ = changed.changed() => {}
                () = tokio::time::sleep_until(bookmark) => {}
                () = tokio::time::sleep_until(end) => return,
                () = self.sender.closed() => return,
            }
        }
    }

    /// Append the events to send now. Returns whether the watch continues.
    fn gather(&mut self, state: &mut State, bookmark: bool, out: &mut Vec<u8>) -> bool {
        let Params {
            resource, format, ..
        } = self.params;
        if state.faults.stalled || state.faults.held.contains(&resource) {
            return true;
        }
        let newest = state.resource_version;
        let (repeats, garbages) = (state.repeats, state.garbage);
        let collection = state.collection(resource);
        if self.position < collection.compacted {
            error(out, format, &gone());
            return false;
        }
        let seen = collection
            .history
            .partition_point(|e| e.resource_version <= self.position);
        if self.repeats != repeats.0 {
            self.repeats = repeats.0;
            let from = seen.saturating_sub(repeats.1);
            for entry in collection.history.range(from..seen) {
                self.event(entry, out);
            }
        }
        for entry in collection.history.range(seen..) {
            self.event(entry, out);
        }
        self.position = newest;
        if self.garbage != garbages.0 {
            self.garbage = garbages.0;
            if let Some((_, how)) = garbages.1.filter(|(of, _)| *of == resource) {
                let object = json!({"metadata": {"name": "ghost", "namespace": "default"}});
                let (json, protobuf) = garbage(&object, resource, how);
                let object = Encoded {
                    api_version: resource.api_version(),
                    kind: resource.kind(),
                    json: &json,
                    protobuf: &protobuf,
                };
                format.frame(out, "MODIFIED", &object);
            }
        }
        if bookmark {
            self::bookmark(&self.params, newest, false, out);
        }
        true
    }

    /// Append an event as seen through the selector: an object that starts to match is added, one
    /// that stops matching is deleted.
    fn event(&self, entry: &Entry, out: &mut Vec<u8>) {
        let Params {
            resource,
            format,
            selector,
            ..
        } = &self.params;
        let before = entry.before.as_ref().is_some_and(|v| selector.matches(v));
        let now = !entry.deleted && selector.matches(&entry.version);
        let event_type = match (before, now) {
            (false, false) => return,
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
        };
        format.frame(out, event_type, &Encoded::of(*resource, &entry.version));
    }

    /// Send bytes in pieces; `false` if the client is gone.
    async fn send(&self, bytes: Vec<u8>, chunk: usize) -> bool {
        let size = if chunk == 0 { PIECE } else { chunk };
        let bytes = Bytes::from(bytes);
        let mut from = 0;
        while from < bytes.len() {
            let to = bytes.len().min(from + size);
            if self.sender.send(bytes.slice(from..to)).await.is_err() {
                return false;
            }
            from = to;
        }
        true
    }
}

/// Append the current objects, and the bookmark that ends them.
fn initial_events(state: &mut State, params: &Params, out: &mut Vec<u8>) {
    let newest = state.resource_version;
    let ends = params.streaming_list && !state.faults.ignores_initial_events;
    let objects = state.collection(params.resource).objects.values();
    let matching = |version: &&Arc<Version>| params.selector.matches(version);
    for version in objects.filter(matching) {
        let object = Encoded::of(params.resource, version);
        params.format.frame(out, "ADDED", &object);
    }
    if ends {
        bookmark(params, newest, true, out);
    }
}

fn bookmark(params: &Params, resource_version: u64, ends_initial: bool, out: &mut Vec<u8>) {
    let resource = params.resource;
    let annotations = if ends_initial {
        json!({"k8s.io/initial-events-end": "true"})
    } else {
        json!(null)
    };
    let object = json!({
        "kind": resource.kind(),
        "apiVersion": resource.api_version(),
        "metadata": {
            "resourceVersion": resource_version.to_string(),
            "annotations": annotations,
            "creationTimestamp": null,
        },
    });
    let (json, protobuf) = (
        object.to_string(),
        encode::message(resource.schema(), &object),
    );
    let encoded = Encoded {
        api_version: resource.api_version(),
        kind: resource.kind(),
        json: json.as_bytes(),
        protobuf: &protobuf,
    };
    params.format.frame(out, "BOOKMARK", &encoded);
}

fn error(out: &mut Vec<u8>, format: Format, status: &Value) {
    let json = status.to_string();
    let encoded = Encoded {
        api_version: "v1",
        kind: "Status",
        json: json.as_bytes(),
        protobuf: &encode::message(&encode::STATUS, status),
    };
    format.frame(out, "ERROR", &encoded);
}

fn gone() -> Value {
    status(410, "Expired", "too old resource version", None)
}
