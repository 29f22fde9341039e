//! Tests of Kubernetes Events.

use std::time::{Duration, Instant};

use apiserver_sim::{Refusal, Sim};
use serde_json::Value;
use source::apiserver::{ApiServer, EventType, NewEvent, Recorder, Regarding};
use tempfile::TempDir;

use crate::{Follower, NODE, PATIENCE, options, sim};

/// An Event about the Node, with a note that is too long.
pub(crate) fn starting() -> NewEvent {
    NewEvent {
        regarding: Regarding {
            api_version: "v1",
            kind: "Node",
            namespace: String::new(),
            name: NODE.into(),
            uid: String::new(),
        },
        event_type: EventType::Normal,
        reason: "Starting".into(),
        action: "StartKubeProxy".into(),
        note: "é".repeat(1000),
    }
}

/// Follow a server, and return a recorder that sends Events to it.
pub(crate) fn recording(sim: &Sim) -> (TempDir, Recorder, Follower) {
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = sim.write_kubeconfig(folder.path(), "{}").expect("written");
    let source = ApiServer::new(options(&kubeconfig), NODE).expect("a configuration");
    let recorder = source.recorder();
    (folder, recorder, Follower::of(source))
}

#[test]
fn events_are_posted_and_repeats_are_counted() {
    let sim = sim();
    let (_folder, recorder, _follower) = recording(&sim);
    recorder.record(starting());
    let posted = |count: usize| -> Vec<Value> {
        let end = Instant::now() + PATIENCE;
        while sim.posted_events().len() < count {
            assert!(Instant::now() < end, "{:?}", sim.posted_events());
            std::thread::sleep(Duration::from_millis(5));
        }
        sim.posted_events()
    };
    let event = posted(1).remove(0);
    assert_eq!(event["apiVersion"], "events.k8s.io/v1");
    assert_eq!(event["metadata"]["namespace"], "default");
    assert_eq!(event["reportingController"], "kube-proxy");
    assert_eq!(event["reportingInstance"], "kube-proxy-node1");
    assert_eq!(event["regarding"]["kind"], "Node");
    assert_eq!(event["reason"], "Starting");
    assert_eq!(event["action"], "StartKubeProxy");
    assert_eq!(event["type"], "Normal");
    assert_eq!(event["note"].as_str().map(str::len), Some(1024));
    let time = event["eventTime"].as_str().expect("a time");
    assert_eq!((time.len(), time.ends_with('Z')), (27, true));

    recorder.record(starting());
    recorder.record(NewEvent {
        reason: "Other".into(),
        ..starting()
    });
    let posted = posted(3);
    assert_eq!(posted[1]["series"]["count"], 2);
    assert_eq!(posted[2]["reason"], "Other");
    let requests = sim.requests();
    let of = |method: &str| requests.iter().filter(|r| r.starts_with(method)).count();
    assert_eq!((of("POST"), of("PATCH")), (2, 1));
}

#[test]
fn a_refused_event_is_dropped_and_the_next_is_sent() {
    let sim = sim();
    sim.misbehave(|f| {
        f.refusals.push(Refusal {
            code: 403,
            reason: "Forbidden".into(),
            retry_after: None,
            times: 0,
            resource: None,
        });
    });
    let (_folder, recorder, mut follower) = recording(&sim);
    follower.until("complete", |f| f.complete);
    let requests = sim.requests().len();
    sim.misbehave(|f| {
        f.refusals = vec![Refusal {
            code: 403,
            reason: "Forbidden".into(),
            retry_after: None,
            times: 1,
            resource: None,
        }];
    });
    recorder.record(starting());
    let end = Instant::now() + PATIENCE;
    while sim.requests().len() == requests {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(5));
    }
    recorder.record(NewEvent {
        reason: "Other".into(),
        ..starting()
    });
    while sim.posted_events().is_empty() {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(sim.posted_events()[0]["reason"], "Other");
}
