//! A server with faults.

use std::time::Duration;

use apiserver_sim::{Corruption, Refusal, Resource, acts, synthetic_cluster};
use model::Key;
use proptest::prelude::*;

use crate::{Follower, cut, observed, options, range, sim};

fn refusal(code: u16, times: usize) -> Refusal {
    Refusal {
        code,
        reason: String::new(),
        retry_after: None,
        times,
        resource: None,
    }
}

#[test]
fn an_unreachable_server_changes_nothing() {
    let sim = sim();
    sim.apply(observed());
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = sim.write_kubeconfig(folder.path(), "{}").expect("written");
    let mut follower = Follower::new(options(&kubeconfig));
    follower.until_equal(&sim);
    sim.misbehave(|f| f.refusals.push(refusal(503, usize::MAX)));
    cut(&sim);
    sim.apply([range("later", "10.97.0.0/16")]);
    follower.nothing_for(Duration::from_millis(700));
    sim.misbehave(|f| f.refusals.clear());
    follower.until_equal(&sim);
    // The watches resumed: no new list.
    let lists = |r: &&String| r.contains("/services?") && r.contains("sendInitialEvents");
    assert_eq!(sim.requests().iter().filter(lists).count(), 1);
}

#[test]
fn expiry_by_event_or_status_code_leads_to_a_list() {
    for http in [false, true] {
        let sim = sim();
        sim.misbehave(|f| f.http_gone = http);
        sim.apply(observed());
        let folder = tempfile::tempdir().expect("a folder");
        let kubeconfig = sim.write_kubeconfig(folder.path(), "{}").expect("written");
        let mut follower = Follower::new(options(&kubeconfig));
        follower.until_equal(&sim);
        sim.misbehave(|f| f.refusals.push(refusal(503, 4)));
        sim.cut_connections();
        sim.delete(Resource::Services, "demo", "web");
        sim.apply([range("later", "10.97.0.0/16")]);
        sim.expire();
        follower.until_equal(&sim);
    }
}

#[test]
fn expiry_during_a_list_starts_it_over() {
    let sim = sim();
    sim.misbehave(|f| {
        f.no_streaming_lists = true;
        for resource in Resource::ALL {
            // The streaming list is refused first.
            f.refusals.push(Refusal {
                resource: Some(resource),
                ..refusal(410, 2)
            });
        }
    });
    sim.apply(synthetic_cluster(600, 1));
    sim.apply(observed());
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = sim.write_kubeconfig(folder.path(), "{}").expect("written");
    let mut follower = Follower::new(options(&kubeconfig));
    follower.until_equal(&sim);
}

#[test]
fn a_silent_connection_is_replaced() {
    let sim = sim();
    sim.apply(observed());
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = sim.write_kubeconfig(folder.path(), "{}").expect("written");
    let mut options = options(&kubeconfig);
    options.timing.watch_silence = Duration::from_millis(400);
    options.timing.list_silence = Duration::from_millis(400);
    let mut follower = Follower::new(options);
    follower.until_equal(&sim);
    sim.misbehave(|f| f.stalled = true);
    sim.apply([range("later", "10.97.0.0/16")]);
    let before = sim.requests().len();
    follower.nothing_for(Duration::from_millis(1500));
    assert!(sim.requests().len() > before, "the silence was not noticed");
    sim.misbehave(|f| f.stalled = false);
    follower.until_equal(&sim);
}

#[test]
fn a_server_that_ignores_streaming_lists_is_listed_in_pages() {
    let sim = sim();
    sim.misbehave(|f| f.ignores_initial_events = true);
    sim.apply(observed());
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = sim.write_kubeconfig(folder.path(), "{}").expect("written");
    let mut follower = Follower::new(options(&kubeconfig));
    follower.until_equal(&sim);
}

#[test]
fn an_unreadable_object_affects_no_other() {
    let sim = sim();
    sim.apply(observed());
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = sim.write_kubeconfig(folder.path(), "{}").expect("written");
    let mut follower = Follower::new(options(&kubeconfig));
    follower.until_equal(&sim);
    let key = Key::Service(model::NamespacedName::new("demo", "web"));
    let valid = follower.objects[&key].clone();
    sim.corrupt(Resource::Services, "demo", "web", Corruption::Body);
    follower.until("the problem is reported", |f| !f.problems.is_empty());
    let message = follower.problems[0].to_string();
    assert!(
        message.starts_with("Service demo/web: cannot be decoded: "),
        "{message}"
    );
    // Others are updated; the last valid version is kept, even through a new list.
    sim.delete(Resource::Services, "demo", "multi");
    let gone = Key::Service(model::NamespacedName::new("demo", "multi"));
    follower.until("others are updated", |f| !f.objects.contains_key(&gone));
    sim.expire();
    sim.cut_connections();
    sim.apply([range("later", "10.97.0.0/16")]);
    let later = Key::ServiceCidr("later".into());
    follower.until("listed again", |f| f.objects.contains_key(&later));
    assert_eq!(follower.objects.get(&key), Some(&valid));
    assert_eq!(follower.problems.len(), 1);
    // Correct it.
    let web = |o: &serde_json::Value| o["kind"] == "Service" && o["metadata"]["name"] == "web";
    sim.apply(observed().into_iter().filter(web));
    follower.until_equal(&sim);
    follower.until("the problem ends", |f| f.problems.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 0, ..ProptestConfig::with_cases(10) })]

    #[test]
    fn after_recovery_exactly_the_servers_objects_are_delivered(acts in acts()) {
        let sim = sim();
        sim.apply(synthetic_cluster(8, 3));
        sim.apply(observed());
        let folder = tempfile::tempdir().expect("a folder");
        let kubeconfig = sim.write_kubeconfig(folder.path(), "{}").expect("written");
        let mut options = options(&kubeconfig);
        options.timing.list_silence = Duration::from_millis(300);
        options.timing.watch_silence = Duration::from_millis(300);
        let mut follower = Follower::new(options);
        for act in &acts {
            act.on(&sim);
        }
        sim.heal(&[synthetic_cluster(8, 3).collect(), observed()].concat());
        follower.until_equal(&sim);
    }
}
