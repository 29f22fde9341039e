//! The objects, their history, and the faults of the server.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use hyper::body::Bytes;
use serde_json::{Value, json};

use crate::encode;
use crate::faults::{Corruption, Faults};
use crate::resource::Resource;

/// Number of events kept for watches to resume from; at most that of the real watch cache.
const HISTORY: usize = 10_000;

/// Namespace (empty for cluster-wide kinds) and name.
pub(crate) type Key = (String, String);

/// One version of an object, encoded.
#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) resource_version: u64,
    pub(crate) json: Bytes,
    /// Without envelope.
    pub(crate) protobuf: Bytes,
    /// The encodings are damaged.
    pub(crate) corrupt: bool,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) name: String,
    pub(crate) headless: bool,
}

/// A change of an object.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) resource_version: u64,
    /// The version before; `None` if it is new.
    pub(crate) before: Option<Arc<Version>>,
    /// The new version; for a deletion, the last state.
    pub(crate) version: Arc<Version>,
    pub(crate) deleted: bool,
}

/// The objects of one kind.
#[derive(Debug, Default)]
pub(crate) struct Collection {
    pub(crate) objects: BTreeMap<Key, Arc<Version>>,
    pub(crate) history: VecDeque<Entry>,
    /// The version up to which the history was dropped.
    pub(crate) compacted: u64,
}

/// The state of the server.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) resource_version: u64,
    pub(crate) collections: HashMap<Resource, Collection>,
    /// Snapshots of paged lists, by number.
    pub(crate) snapshots: HashMap<u64, Arc<Vec<Arc<Version>>>>,
    pub(crate) next_snapshot: u64,
    pub(crate) faults: Faults,
    /// Number of requests to repeat events, and events to repeat.
    pub(crate) repeats: (u64, usize),
    /// Number of requests to send garbage, with kind and damage of the last.
    pub(crate) garbage: (u64, Option<(Resource, Corruption)>),
    pub(crate) posted: Vec<Value>,
    pub(crate) requests: Vec<String>,
}

impl Resource {
    pub(crate) fn schema(self) -> &'static encode::Message {
        match self {
            Resource::Services => &encode::SERVICE,
            Resource::EndpointSlices => &encode::ENDPOINT_SLICE,
            Resource::Nodes => &encode::NODE,
            Resource::ServiceCidrs => &encode::SERVICE_CIDR,
        }
    }
}

impl State {
    pub(crate) fn collection(&mut self, resource: Resource) -> &mut Collection {
        self.collections.entry(resource).or_default()
    }

    /// Add or replace an object.
    pub(crate) fn apply(&mut self, resource: Resource, mut object: Value) {
        self.resource_version += 1;
        let version = self.resource_version;
        prepare(resource, &mut object, version);
        let encoded = encode(resource, &object, version);
        self.put(resource, key(resource, &object), encoded);
    }

    /// Damage an object.
    pub(crate) fn corrupt(&mut self, resource: Resource, key: &Key, corruption: Corruption) {
        self.resource_version += 1;
        let version = self.resource_version;
        let Some(old) = self.collection(resource).objects.get(key).cloned() else {
            return;
        };
        let mut object = last_state(&old, key);
        prepare(resource, &mut object, version);
        let mut encoded = encode(resource, &object, version);
        (encoded.json, encoded.protobuf) = garbage(&object, resource, corruption);
        encoded.corrupt = true;
        encoded.labels.clone_from(&old.labels);
        encoded.headless = old.headless;
        self.put(resource, key.clone(), encoded);
    }

    fn put(&mut self, resource: Resource, key: Key, version: Version) {
        let version = Arc::new(version);
        let collection = self.collection(resource);
        let before = collection.objects.insert(key, version.clone());
        collection.push(Entry {
            resource_version: version.resource_version,
            before,
            version,
            deleted: false,
        });
    }

    pub(crate) fn delete(&mut self, resource: Resource, key: &Key) -> bool {
        self.resource_version += 1;
        let version = self.resource_version;
        let collection = self.collection(resource);
        let Some(before) = collection.objects.remove(key) else {
            return false;
        };
        // The last state has the version of the deletion.
        let mut object = last_state(&before, key);
        prepare(resource, &mut object, version);
        let mut last = encode(resource, &object, version);
        last.labels.clone_from(&before.labels);
        last.headless = before.headless;
        collection.push(Entry {
            resource_version: version,
            before: Some(before),
            version: Arc::new(last),
            deleted: true,
        });
        true
    }

    /// Drop the history: watches that lag and pages expire.
    pub(crate) fn expire(&mut self) {
        // A version that no watch has seen, so that even an idle watch lags.
        self.resource_version += 1;
        for collection in self.collections.values_mut() {
            collection.history.clear();
            collection.compacted = self.resource_version;
        }
        self.snapshots.clear();
    }
}

impl Collection {
    fn push(&mut self, entry: Entry) {
        self.history.push_back(entry);
        if self.history.len() > HISTORY
            && let Some(dropped) = self.history.pop_front()
        {
            self.compacted = dropped.resource_version;
        }
    }
}

/// Return the object of a version; only the name of a damaged one.
fn last_state(version: &Version, key: &Key) -> Value {
    if version.corrupt {
        json!({"metadata": {"namespace": key.0, "name": key.1}})
    } else {
        serde_json::from_slice(&version.json).unwrap_or_default()
    }
}

/// Set the fields that the server sets.
fn prepare(resource: Resource, object: &mut Value, version: u64) {
    if !object.is_object() {
        *object = json!({});
    }
    object["apiVersion"] = resource.api_version().into();
    object["kind"] = resource.kind().into();
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object["metadata"]["resourceVersion"] = version.to_string().into();
}

fn encode(resource: Resource, object: &Value, resource_version: u64) -> Version {
    let labels = object["metadata"]["labels"].as_object();
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    Version {
        resource_version,
        corrupt: false,
        json: object.to_string().into(),
        protobuf: encode::message(resource.schema(), object).into(),
        labels: labels
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.clone(), text(value)))
            .collect(),
        name: text(&object["metadata"]["name"]),
        headless: object["spec"]["clusterIP"] == "None",
    }
}

/// Damaged encodings of an object.
pub(crate) fn garbage(
    object: &Value,
    resource: Resource,
    corruption: Corruption,
) -> (Bytes, Bytes) {
    let mut json = json!({
        "apiVersion": resource.api_version(),
        "kind": resource.kind(),
        "metadata": {"name": 7},
        "spec": "nonsense",
    });
    let mut protobuf = b"\x0a\x7fnonsense".to_vec(); // The metadata exceed the object.
    if corruption == Corruption::Body {
        json["metadata"] = object["metadata"].clone();
        json["endpoints"] = "nonsense".into();
        let only_metadata = json!({"metadata": object["metadata"].clone()});
        protobuf = encode::message(resource.schema(), &only_metadata);
        protobuf.extend_from_slice(b"\x12\x05\xff"); // A truncated field.
    }
    (json.to_string().into(), protobuf.into())
}

pub(crate) fn key(resource: Resource, object: &Value) -> Key {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
    let namespace = match (resource.namespaced(), text("namespace")) {
        (false, _) => "",
        (true, "") => "default",
        (true, namespace) => namespace,
    };
    (namespace.to_owned(), text("name").to_owned())
}
