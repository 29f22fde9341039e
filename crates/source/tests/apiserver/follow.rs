//! A server without faults, with and without optional features.

use std::time::Duration;

use apiserver_sim::{Config, Resource, slice_of, synthetic_cluster};
use model::{Key, Kind};
use source::apiserver::ClientOptions;

use crate::{Follower, observed, options, range, sim, sim_with, truth};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const JSON: &str = "application/json";

#[test]
fn all_lists_and_formats_deliver_the_same_objects() {
    let sim = sim();
    sim.apply(observed());
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = sim.write_kubeconfig(folder.path(), "{}").expect("written");
    assert!(truth(&sim).len() > 20);
    for streaming in [true, false] {
        for content_type in [PROTOBUF, JSON] {
            for chunk in [0, 7] {
                sim.misbehave(|f| {
                    f.no_streaming_lists = !streaming;
                    f.chunk = chunk;
                });
                let mut follower = Follower::new(ClientOptions {
                    content_type: content_type.into(),
                    ..options(&kubeconfig)
                });
                follower.until_equal(&sim);
                assert_eq!(follower.problems, []);
            }
        }
    }
    let requests = sim.requests();
    assert!(
        requests
            .iter()
            .any(|r| r.ends_with("protobuf,application/json"))
    );
    assert!(requests.iter().any(|r| r.ends_with(" application/json")));
}

#[test]
fn many_objects_are_listed_in_pages() {
    let sim = sim();
    sim.misbehave(|f| f.no_streaming_lists = true);
    sim.apply(synthetic_cluster(1203, 2));
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = sim.write_kubeconfig(folder.path(), "{}").expect("written");
    let mut follower = Follower::new(options(&kubeconfig));
    follower.until_equal(&sim);
    let paged = |r: &&String| r.contains("/services?") && r.contains("continue=");
    assert_eq!(sim.requests().iter().filter(paged).count(), 2);
}

#[test]
fn changes_are_delivered() {
    let sim = sim();
    sim.apply(observed());
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = sim.write_kubeconfig(folder.path(), "{}").expect("written");
    let mut follower = Follower::new(options(&kubeconfig));
    follower.until_equal(&sim);
    sim.apply((0..50).map(|n| slice_of(n, 3, 0)));
    sim.apply([range("more", "10.97.0.0/16")]);
    assert!(sim.delete(Resource::Services, "demo", "web"));
    follower.until_equal(&sim);
    // Deselected by a label.
    let mut service = observed()
        .into_iter()
        .find(|o| o["kind"] == "Service" && o["metadata"]["name"] == "web")
        .expect("demo/web");
    let key = Key::Service(model::NamespacedName::new("demo", "web"));
    sim.apply([service.clone()]);
    follower.until("it exists again", |f| f.objects.contains_key(&key));
    service["metadata"]["labels"] =
        serde_json::json!({"service.kubernetes.io/service-proxy-name": "other"});
    sim.apply([service]);
    follower.until("it belongs to another proxy", |f| {
        !f.objects.contains_key(&key)
    });
    // The Node: other fields do not matter.
    let mut node = observed()
        .into_iter()
        .find(|o| o["kind"] == "Node")
        .expect("a Node");
    follower.until_equal(&sim);
    let later = follower.later;
    node["status"]["conditions"] = serde_json::json!([{"type": "Ready", "status": "True"}]);
    sim.apply([node.clone()]);
    follower.nothing_for(Duration::from_millis(300));
    assert_eq!(follower.later, later);
    node["spec"]["taints"] = serde_json::json!([{
        "key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule",
    }]);
    sim.apply([node]);
    follower.until_equal(&sim);
}

#[test]
fn missing_service_cidrs_are_skipped_until_the_server_has_them() {
    let sim = sim();
    sim.misbehave(|f| f.no_service_cidrs = true);
    sim.apply(observed());
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = sim.write_kubeconfig(folder.path(), "{}").expect("written");
    let mut follower = Follower::new(options(&kubeconfig));
    follower.until("complete", |f| f.complete);
    let ranges = |f: &Follower| {
        let is_range = |key: &&Key| matches!(key, Key::ServiceCidr(_));
        f.objects.keys().filter(is_range).count()
    };
    assert_eq!(ranges(&follower), 0);
    sim.misbehave(|f| f.no_service_cidrs = false);
    follower.until_equal(&sim);
    assert!(ranges(&follower) > 0);
}

#[test]
fn a_server_without_protobuf_is_watched_in_json() {
    let sim = sim();
    sim.misbehave(|f| f.no_protobuf = true);
    sim.apply(observed());
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = sim.write_kubeconfig(folder.path(), "{}").expect("written");
    // The server chooses among both formats; it refuses a request for protobuf alone.
    for accept in ["", PROTOBUF] {
        let mut follower = Follower::new(ClientOptions {
            accept_content_types: accept.into(),
            ..options(&kubeconfig)
        });
        follower.until_equal(&sim);
    }
}

#[test]
fn an_empty_server_is_complete() {
    let sim = sim();
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = sim.write_kubeconfig(folder.path(), "{}").expect("written");
    let mut follower = Follower::new(options(&kubeconfig));
    follower.until("complete", |f| f.complete);
    assert!(follower.objects.is_empty());
    // A Node created later is delivered.
    sim.apply(observed());
    follower.until_equal(&sim);
}

#[test]
fn the_initial_list_includes_every_kind() {
    for kind in Kind::ALL {
        let sim = sim();
        let resource = match kind {
            Kind::Service => Resource::Services,
            Kind::EndpointSlice => Resource::EndpointSlices,
            Kind::Node => Resource::Nodes,
            Kind::ServiceCidr => Resource::ServiceCidrs,
        };
        sim.misbehave(|f| {
            f.refusals.push(apiserver_sim::Refusal {
                code: 500,
                reason: "InternalError".into(),
                retry_after: None,
                times: usize::MAX,
                resource: Some(resource),
            });
        });
        sim.apply(observed());
        let folder = tempfile::tempdir().expect("a folder");
        let kubeconfig = sim.write_kubeconfig(folder.path(), "{}").expect("written");
        let mut follower = Follower::new(options(&kubeconfig));
        let end = std::time::Instant::now() + Duration::from_millis(300);
        while std::time::Instant::now() < end {
            if let Ok(batch) = follower.batches.recv_timeout(Duration::from_millis(20)) {
                follower.take(batch);
            }
        }
        assert!(!follower.complete, "{kind}");
        sim.misbehave(|f| f.refusals.clear());
        follower.until_equal(&sim);
    }
}

#[test]
fn dropping_a_source_closes_its_watches() {
    let sim = sim_with(Config::default());
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = sim.write_kubeconfig(folder.path(), "{}").expect("written");
    let mut follower = Follower::new(options(&kubeconfig));
    follower.until("complete", |f| f.complete);
    assert_eq!(sim.open_watches(), 4);
    drop(follower);
    let end = std::time::Instant::now() + crate::PATIENCE;
    while sim.open_watches() > 0 {
        assert!(std::time::Instant::now() < end);
        std::thread::sleep(Duration::from_millis(10));
    }
}
