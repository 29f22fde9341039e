//! Each verb of the role is missing in turn.

use std::time::{Duration, Instant};

use apiserver_sim::Sim;
use tempfile::TempDir;

use crate::events::{recording, starting};
use crate::{Follower, PATIENCE, observed, options, range, sim};

const RESOURCES: [&str; 4] = ["services", "endpointslices", "nodes", "servicecidrs"];

/// A server without streaming lists if `paged`, whose role lacks a verb.
fn sim_without(verb: &'static str, resource: &'static str, paged: bool) -> Sim {
    let sim = sim();
    sim.misbehave(|f| {
        f.no_streaming_lists = paged;
        f.forbidden.insert((verb, resource));
    });
    sim.apply(observed());
    sim
}

fn follower(sim: &Sim) -> (TempDir, Follower) {
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = sim.write_kubeconfig(folder.path(), "{}").expect("written");
    (folder, Follower::new(options(&kubeconfig)))
}

/// Wait until the request was refused twice: it is retried.
fn wait_until_retried(sim: &Sim, verb: &str, resource: &str) {
    let end = Instant::now() + PATIENCE;
    let is_meant = |request: &&String| {
        let watch = request.contains("watch=true");
        request.contains(resource) && watch == (verb == "watch")
    };
    while sim.requests().iter().filter(is_meant).count() < 2 {
        assert!(Instant::now() < end, "{:?}", sim.requests());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Without `list`, streaming lists suffice; paged ones wait for the permission. ServiceCIDRs are
/// optional.
#[test]
fn a_missing_list_verb_matters_without_streaming_lists_only() {
    for resource in RESOURCES {
        let sim = sim_without("list", resource, false);
        follower(&sim).1.until_equal(&sim);

        let sim = sim_without("list", resource, true);
        let (_folder, mut follower) = follower(&sim);
        wait_until_retried(&sim, "list", resource);
        if resource == "servicecidrs" {
            follower.until("complete without them", |f| f.complete);
        } else {
            assert!(!follower.complete, "{resource}");
        }
        sim.misbehave(|f| f.forbidden.clear());
        follower.until_equal(&sim);
    }
}

/// Without `watch`, streaming lists wait for the permission; paged lists are delivered, but their
/// changes are not.
#[test]
fn a_missing_watch_verb_delays_changes() {
    for resource in RESOURCES {
        let sim = sim_without("watch", resource, false);
        let (_folder, mut follower) = follower(&sim);
        wait_until_retried(&sim, "watch", resource);
        if resource == "servicecidrs" {
            follower.until("complete without them", |f| f.complete);
        } else {
            assert!(!follower.complete, "{resource}");
        }
        sim.misbehave(|f| f.forbidden.clear());
        follower.until_equal(&sim);
    }
    let sim = sim_without("watch", "servicecidrs", false);
    sim.misbehave(|f| f.no_streaming_lists = true);
    let (_folder, mut follower) = follower(&sim);
    follower.until("complete", |f| f.complete);
    sim.apply([range("later", "10.97.0.0/16")]);
    follower.nothing_for(Duration::from_millis(300));
    sim.misbehave(|f| f.forbidden.clear());
    follower.until_equal(&sim);
}

/// Without the verbs for Events, everything else works.
#[test]
fn missing_verbs_for_events_affect_events_only() {
    for verb in ["create", "patch"] {
        let sim = sim_without(verb, "events", false);
        let (_folder, recorder, mut follower) = recording(&sim);
        // The second one patches the series of the first.
        recorder.record(starting());
        recorder.record_and_wait(starting(), PATIENCE);
        follower.until_equal(&sim);
        let sent = |method: &str| {
            let requests = sim.requests();
            requests.iter().any(|r| r.starts_with(method))
        };
        assert!(sent("POST") && sent("PATCH"), "{:?}", sim.requests());
        let created = sim
            .posted_events()
            .iter()
            .any(|e| e["reason"] == "Starting");
        assert_eq!(created, verb == "patch");
    }
}
