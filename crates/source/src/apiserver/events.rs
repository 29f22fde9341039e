//! Kubernetes Events, which operators see in `kubectl describe node`.
//!
//! Best effort, like upstream's recorder: a bounded queue, a few attempts, then the Event is
//! dropped. A repeated Event is not created again: its `series` counts it (KEP-383).

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyper::Method;
use hyper::body::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;

use super::client::{Answer, Client};
use super::time::now_micro;
use super::wire::Format;
use super::with_causes;

/// Length of the queue, that of client-go's broadcaster.
const QUEUE: usize = 1000;
/// Attempts to send an Event, and their distance, as in client-go.
const ATTEMPTS: u32 = 12;
const ATTEMPT_PERIOD: Duration = Duration::from_secs(10);
/// A repetition later than this is a new Event.
const SERIES_LIFETIME: Duration = Duration::from_secs(360);
/// Minimum time between updates of a series.
const SERIES_PERIOD: Duration = Duration::from_secs(60);
/// Longest note that the API server accepts, in bytes.
const MAX_NOTE: usize = 1024;

/// Type of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[allow(missing_docs)] // The API's names.
pub enum EventType {
    Normal,
    Warning,
}

/// The object that an Event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Regarding {
    /// `v1` for Nodes and Services.
    pub api_version: &'static str,
    /// `Node`, `Service`.
    pub kind: &'static str,
    /// Empty for a Node.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid; empty if unknown.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// An Event to send.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NewEvent {
    /// The object concerned.
    pub regarding: Regarding,
    /// Normal or warning.
    pub event_type: EventType,
    /// Machine-readable reason, such as `Starting`.
    pub reason: String,
    /// The action of sluice, such as `StartKubeProxy`.
    pub action: String,
    /// Human-readable text.
    pub note: String,
}

/// Sends Events from any thread without blocking.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<Queued>,
}

/// An Event in the queue.
#[derive(Debug)]
struct Queued {
    event: NewEvent,
    /// Dropped once the Event has been sent or given up.
    _done: Option<SyncSender<()>>,
}

impl Recorder {
    /// Queue an Event. It is dropped if the queue is full or the source has ended.
    pub fn record(&self, event: NewEvent) {
        self.queue(event, None);
    }

    /// Queue an Event and wait, up to `limit`, until it has been sent or given up: for the last one
    /// before the process ends.
    pub fn record_and_wait(&self, event: NewEvent, limit: Duration) {
        let (done, sent) = std::sync::mpsc::sync_channel(0);
        self.queue(event, Some(done));
        // Ends when the sender is dropped.
        let _ = sent.recv_timeout(limit);
    }

    fn queue(&self, event: NewEvent, done: Option<SyncSender<()>>) {
        let queued = Queued { event, _done: done };
        if self.queue.try_send(queued).is_err() {
            tracing::debug!("Event dropped: the queue is full");
        }
    }
}

/// The receiving end of recorders.
#[derive(Debug)]
pub(super) struct Queue(mpsc::Receiver<Queued>);

pub(super) fn recorder() -> (Recorder, Queue) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Recorder { queue: sender }, Queue(receiver))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventObject<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: EventMeta<'a>,
    event_time: String,
    reporting_controller: &'static str,
    reporting_instance: &'a str,
    action: &'a str,
    reason: &'a str,
    regarding: &'a Regarding,
    note: &'a str,
    #[serde(rename = "type")]
    event_type: EventType,
}

#[derive(Serialize)]
struct EventMeta<'a> {
    name: &'a str,
    namespace: &'a str,
}

#[derive(Serialize)]
struct SeriesPatch {
    series: Series,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Series {
    count: u32,
    last_observed_time: String,
}

/// An Event that was sent, with its repetitions.
struct SentEvent {
    name: String,
    count: u32,
    first: Instant,
    patched: Instant,
}

/// Send the queued Events until every recorder has been dropped.
///
/// The reporting controller is `kube-proxy`, the name that operators look for; the instance names
/// the node.
pub(super) async fn send_all(client: Rc<Client>, mut queue: Queue, node_name: &str) {
    let instance = format!("kube-proxy-{node_name}");
    let mut sent: HashMap<NewEvent, SentEvent> = HashMap::new();
    while let Some(Queued { event, _done }) = queue.0.recv().await {
        let now = Instant::now();
        sent.retain(|_, t| now.saturating_duration_since(t.first) < SERIES_LIFETIME);
        if let Some(known) = sent.get_mut(&event) {
            known.count += 1;
            if now.saturating_duration_since(known.patched) >= SERIES_PERIOD || known.count == 2 {
                known.patched = now;
                send(&client, &Sending::repeat(&event, known)).await;
            }
            continue;
        }
        // client-go's scheme: unique enough, and sorted by time.
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let nanos = since_epoch.unwrap_or_default().as_nanos();
        let name = format!("{}.{nanos:x}", event.regarding.name);
        send(&client, &Sending::first(&event, &name, &instance)).await;
        let first = SentEvent {
            name,
            count: 1,
            first: now,
            patched: now,
        };
        sent.insert(event, first);
    }
}

/// A request that is retried a few times.
struct Sending {
    method: Method,
    path: String,
    media_type: &'static str,
    body: Vec<u8>,
}

impl Sending {
    fn first(event: &NewEvent, name: &str, instance: &str) -> Self {
        let namespace = namespace(event);
        let object = EventObject {
            api_version: "events.k8s.io/v1",
            kind: "Event",
            metadata: EventMeta { name, namespace },
            event_time: now_micro(),
            reporting_controller: "kube-proxy",
            reporting_instance: instance,
            action: &event.action,
            reason: &event.reason,
            regarding: &event.regarding,
            note: truncate(&event.note),
            event_type: event.event_type,
        };
        Self {
            method: Method::POST,
            path: format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events"),
            media_type: Format::Json.media_type(),
            body: serde_json::to_vec(&object).unwrap_or_default(),
        }
    }

    fn repeat(event: &NewEvent, sent: &SentEvent) -> Self {
        let namespace = namespace(event);
        let patch = SeriesPatch {
            series: Series {
                count: sent.count,
                last_observed_time: now_micro(),
            },
        };
        Self {
            method: Method::PATCH,
            path: format!(
                "/apis/events.k8s.io/v1/namespaces/{namespace}/events/{}",
                sent.name
            ),
            media_type: "application/merge-patch+json",
            body: serde_json::to_vec(&patch).unwrap_or_default(),
        }
    }
}

/// Return the namespace of an Event; `default`, where `kubectl describe` looks, for cluster-wide objects.
fn namespace(event: &NewEvent) -> &str {
    match event.regarding.namespace.as_str() {
        "" => "default",
        namespace => namespace,
    }
}

fn truncate(note: &str) -> &str {
    note.get(..note.floor_char_boundary(MAX_NOTE))
        .unwrap_or(note)
}

async fn send(client: &Client, sending: &Sending) {
    for _ in 0..ATTEMPTS {
        match tokio::time::timeout(Duration::from_secs(30), attempt(client, sending)).await {
            Ok(Outcome::Done) => return,
            Ok(Outcome::Refused(error)) => {
                tracing::debug!(error, "Event dropped: the API server refused it");
                return;
            }
            Ok(Outcome::Retry(error)) => tracing::debug!(error, "Event not sent; retrying"),
            Err(_) => tracing::debug!(error = "timeout", "Event not sent; retrying"),
        }
        tokio::time::sleep(ATTEMPT_PERIOD).await;
    }
}

enum Outcome {
    Done,
    Retry(String),
    Refused(String),
}

async fn attempt(client: &Client, sending: &Sending) -> Outcome {
    let content = Some((sending.media_type, Bytes::from(sending.body.clone())));
    let accept = Format::Json.media_type();
    let admission = match client.admit().await {
        Ok(admission) => admission,
        Err(e) => return Outcome::Retry(with_causes(&e)),
    };
    let method = sending.method.clone();
    match client
        .send(admission, method, &sending.path, accept, content)
        .await
    {
        Ok(Answer::Accepted { mut body, .. }) => loop {
            match body.next().await {
                Ok(Some(_)) => {}
                Ok(None) => {
                    client.keep(body);
                    return Outcome::Done;
                }
                Err(_) => return Outcome::Done,
            }
        },
        Ok(Answer::Refused { code, status, .. }) => {
            let why = format!("{code} {}", status.map(|s| s.message).unwrap_or_default());
            match code {
                // An earlier attempt has created the Event.
                409 => Outcome::Done,
                401 | 408 | 429 | 500.. => Outcome::Retry(why),
                _ => Outcome::Refused(why),
            }
        }
        Err(e) => Outcome::Retry(with_causes(&e)),
    }
}
