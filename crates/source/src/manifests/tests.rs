//! Tests of the state machine.

mod edits;
mod hostile;
mod messages;
mod sequences;

use super::*;

fn id(path: &str) -> FileId {
    FileId {
        argument: 0,
        path: Path::new(path).into(),
    }
}

/// One file read into an empty state.
fn read_one(path: &str, content: &[u8]) -> Batch {
    let mut manifests = Manifests::new();
    manifests.update(&id(path), Content::Bytes(content));
    manifests.commit()
}

fn keys(batch: &Batch) -> Vec<String> {
    batch.events.iter().map(|e| e.key().to_string()).collect()
}

fn problems(batch: &Batch) -> Vec<String> {
    batch.problems.iter().map(Problem::to_string).collect()
}

fn observed(name: &str) -> BTreeMap<Key, Event> {
    let bytes = observed::read(name);
    let batch = read_one(name, bytes.as_bytes());
    assert_eq!(problems(&batch), [] as [&str; 0]);
    batch.events.into_iter().map(|e| (e.key(), e)).collect()
}

#[test]
fn the_observed_objects_are_the_same_from_yaml_and_from_json() {
    let yaml = observed("objects.yaml");
    let json = observed("objects.json");
    // The YAML has 17 Services and 16 EndpointSlices; the server adds the Service `kubernetes`, the
    // Node and the ServiceCIDR.
    assert_eq!((yaml.len(), json.len()), (33, 36));
    for (key, from_yaml) in &yaml {
        let from_json = json.get(key).expect("every object is in the JSON");
        assert_eq!(
            without_server_fields(from_yaml),
            without_server_fields(from_json),
            "{key}"
        );
    }
}

/// Remove the load-balancer addresses, which were set later through the status.
fn without_server_fields(event: &Event) -> Event {
    let Event::Service(model::Change::Applied(service)) = event else {
        return event.clone();
    };
    let mut service = model::Service::clone(service);
    service.ingress.clear();
    Event::Service(model::Change::Applied(Arc::new(service)))
}
