//! Kubernetes Events: what operators see in `kubectl describe node`.
//!
//! Best effort, as upstream's recorder is: a queue of bounded length, a few attempts, and what
//! cannot be sent is dropped. An Event that repeats is not created again: its `series` counts it
//! (KEP-383).

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyper::Method;
use hyper::body::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;

use super::client::{Answer, Client};
use super::time::now_micro;
use super::wire::Format;
use super::with_causes;

/// Events that wait to be sent. client-go's broadcaster drops past 1000 too.
const QUEUE: usize = 1000;
/// How often and how long apart one is tried: client-go's numbers.
const ATTEMPTS: u32 = 12;
const ATTEMPT_PERIOD: Duration = Duration::from_secs(10);
/// An Event that comes again after this is a new one.
const SERIES_LIFETIME: Duration = Duration::from_secs(360);
/// Repeats are told at most this often.
const SERIES_PERIOD: Duration = Duration::from_secs(60);
/// The API server refuses longer notes.
const MAX_NOTE: usize = 1024;

/// Whether an Event tells of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[allow(missing_docs)] // The API's own words.
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
    /// Its uid, empty where it is not known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NewEvent {
    /// What it is about.
    pub regarding: Regarding,
    /// Whether it is trouble.
    pub event_type: EventType,
    /// A word for machines, such as `Starting`.
    pub reason: String,
    /// What sluice was doing, such as `StartKubeProxy`.
    pub action: String,
    /// For people.
    pub note: String,
}

/// Sends Events, from any thread, without ever waiting.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<NewEvent>,
}

impl Recorder {
    /// Has an Event sent. Where too many wait, or the source has ended, it is dropped.
    pub fn record(&self, event: NewEvent) {
        if self.queue.try_send(event).is_err() {
            tracing::debug!("an Event is dropped: too many wait to be sent");
        }
    }
}

/// The other end of recorders.
#[derive(Debug)]
pub(super) struct Queue(mpsc::Receiver<NewEvent>);

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

/// What has been told, so that repeats are counted.
struct Told {
    name: String,
    count: u32,
    first: Instant,
    patched: Instant,
}

/// Sends what comes through the queue, until every recorder is gone.
///
/// Events come from `kube-proxy`, which is what operators look for and what the node-proxier role
/// is about; the instance names the node.
pub(super) async fn send_all(client: Rc<Client>, mut queue: Queue, node_name: &str) {
    let instance = format!("kube-proxy-{node_name}");
    let mut told: HashMap<NewEvent, Told> = HashMap::new();
    while let Some(event) = queue.0.recv().await {
        let now = Instant::now();
        told.retain(|_, t| now.saturating_duration_since(t.first) < SERIES_LIFETIME);
        if let Some(known) = told.get_mut(&event) {
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
        let first = Told {
            name,
            count: 1,
            first: now,
            patched: now,
        };
        told.insert(event, first);
    }
}

/// A request that is tried a few times.
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
            note: cut(&event.note),
            event_type: event.event_type,
        };
        Self {
            method: Method::POST,
            path: format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events"),
            media_type: Format::Json.media_type(),
            body: serde_json::to_vec(&object).unwrap_or_default(),
        }
    }

    fn repeat(event: &NewEvent, told: &Told) -> Self {
        let namespace = namespace(event);
        let patch = SeriesPatch {
            series: Series {
                count: told.count,
                last_observed_time: now_micro(),
            },
        };
        Self {
            method: Method::PATCH,
            path: format!(
                "/apis/events.k8s.io/v1/namespaces/{namespace}/events/{}",
                told.name
            ),
            media_type: "application/merge-patch+json",
            body: serde_json::to_vec(&patch).unwrap_or_default(),
        }
    }
}

/// Events about what has no namespace go where `kubectl describe` looks for them.
fn namespace(event: &NewEvent) -> &str {
    match event.regarding.namespace.as_str() {
        "" => "default",
        namespace => namespace,
    }
}

fn cut(note: &str) -> &str {
    note.get(..note.floor_char_boundary(MAX_NOTE))
        .unwrap_or(note)
}

async fn send(client: &Client, sending: &Sending) {
    for _ in 0..ATTEMPTS {
        match tokio::time::timeout(Duration::from_secs(30), attempt(client, sending)).await {
            Ok(Outcome::Done) => return,
            Ok(Outcome::Hopeless(why)) => {
                tracing::debug!("an Event is dropped: {why}");
                return;
            }
            Ok(Outcome::Later(why)) => tracing::debug!("an Event cannot be sent yet: {why}"),
            Err(_) => tracing::debug!("an Event cannot be sent yet: the server is silent"),
        }
        tokio::time::sleep(ATTEMPT_PERIOD).await;
    }
}

enum Outcome {
    Done,
    Later(String),
    Hopeless(String),
}

async fn attempt(client: &Client, sending: &Sending) -> Outcome {
    let content = Some((sending.media_type, Bytes::from(sending.body.clone())));
    let accept = Format::Json.media_type();
    let admission = match client.admit().await {
        Ok(admission) => admission,
        Err(e) => return Outcome::Later(with_causes(&e)),
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
                // An Event of that name is there: the attempt before had come through.
                409 => Outcome::Done,
                401 | 408 | 429 | 500.. => Outcome::Later(why),
                _ => Outcome::Hopeless(why),
            }
        }
        Err(e) => Outcome::Later(with_causes(&e)),
    }
}
