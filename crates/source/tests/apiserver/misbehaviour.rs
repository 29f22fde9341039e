//! A server that misbehaves.

use std::time::Duration;

use apiserver_sim::{Corruption, Refusal, Resource, Sim, slice_of, synthetic_cluster};
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
fn a_server_that_is_away_changes_nothing() {
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
    // The watches went on where they were: nothing was listed again.
    let lists = |r: &&String| r.contains("/services?") && r.contains("sendInitialEvents");
    assert_eq!(sim.requests().iter().filter(lists).count(), 1);
}

#[test]
fn expiry_is_survived_however_it_is_told() {
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
fn expiry_in_the_middle_of_a_list_starts_it_over() {
    let sim = sim();
    sim.misbehave(|f| {
        f.no_streaming_lists = true;
        for resource in Resource::ALL {
            // The streaming list is refused before this comes to bear.
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
fn a_silent_server_is_left_and_found_again() {
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
fn an_object_that_cannot_be_read_is_a_problem_of_its_own() {
    let sim = sim();
    sim.apply(observed());
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = sim.write_kubeconfig(folder.path(), "{}").expect("written");
    let mut follower = Follower::new(options(&kubeconfig));
    follower.until_equal(&sim);
    let key = Key::Service(model::NamespacedName::new("demo", "web"));
    let good = follower.objects[&key].clone();
    sim.corrupt(Resource::Services, "demo", "web", Corruption::Body);
    follower.until("the problem is told", |f| !f.problems.is_empty());
    let message = follower.problems[0].to_string();
    assert!(
        message.starts_with("Service demo/web: cannot be decoded: "),
        "{message}"
    );
    // Everything else goes on, and the last good version stays, over a new list too.
    sim.delete(Resource::Services, "demo", "multi");
    let gone = Key::Service(model::NamespacedName::new("demo", "multi"));
    follower.until("the rest goes on", |f| !f.objects.contains_key(&gone));
    sim.expire();
    sim.cut_connections();
    sim.apply([range("later", "10.97.0.0/16")]);
    let later = Key::ServiceCidr("later".into());
    follower.until("listed again", |f| f.objects.contains_key(&later));
    assert_eq!(follower.objects.get(&key), Some(&good));
    assert_eq!(follower.problems.len(), 1);
    // It is mended.
    let web = |o: &serde_json::Value| o["kind"] == "Service" && o["metadata"]["name"] == "web";
    sim.apply(observed().into_iter().filter(web));
    follower.until_equal(&sim);
    follower.until("the problem ends", |f| f.problems.is_empty());
}

#[derive(Clone, Debug)]
enum Act {
    Slice(u32, u32),
    DeleteService(u32),
    Service(u32),
    Range(u8),
    Cut,
    Expire,
    HttpGone(bool),
    Repeat(usize),
    Garbage(Resource, bool),
    Corrupt(Resource, u32, bool),
    Refuse(u16, usize),
    Hold(Resource),
    Release,
    Stall(u64),
    Streaming(bool),
    Ignore(bool),
    Protobuf(bool),
    Chunk(usize),
    Sleep(u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let resource = || prop::sample::select(Resource::ALL.to_vec());
    let act = prop_oneof![
        4 => (0..8u32, 1..50u32).prop_map(|(n, generation)| Act::Slice(n, generation)),
        2 => (0..8u32).prop_map(Act::DeleteService),
        2 => (0..8u32).prop_map(Act::Service),
        2 => any::<u8>().prop_map(Act::Range),
        2 => Just(Act::Cut),
        1 => Just(Act::Expire),
        1 => any::<bool>().prop_map(Act::HttpGone),
        1 => (1..5usize).prop_map(Act::Repeat),
        1 => (resource(), any::<bool>()).prop_map(|(r, named)| Act::Garbage(r, named)),
        1 => (resource(), 0..8u32, any::<bool>()).prop_map(|(r, n, b)| Act::Corrupt(r, n, b)),
        2 => (prop::sample::select(vec![401, 403, 429, 500, 503]), 1..6usize)
            .prop_map(|(code, times)| Act::Refuse(code, times)),
        1 => resource().prop_map(Act::Hold),
        1 => Just(Act::Release),
        1 => (0..250u64).prop_map(Act::Stall),
        1 => any::<bool>().prop_map(Act::Streaming),
        1 => any::<bool>().prop_map(Act::Ignore),
        1 => any::<bool>().prop_map(Act::Protobuf),
        1 => prop::sample::select(vec![0, 1, 13, 1000]).prop_map(Act::Chunk),
        3 => (0..60u64).prop_map(Act::Sleep),
    ];
    prop::collection::vec(act, 5..40)
}

fn how(named: bool) -> Corruption {
    if named {
        Corruption::Body
    } else {
        Corruption::Whole
    }
}

fn act(sim: &Sim, act: &Act) {
    let (namespace, name) = (|n: u32| format!("ns-{n}"), |n: u32| format!("svc-{n}"));
    match act {
        Act::Slice(n, generation) => sim.apply([slice_of(*n, 3, *generation)]),
        Act::DeleteService(n) => {
            sim.delete(Resource::Services, &namespace(*n), &name(*n));
        }
        Act::Service(n) => {
            let service =
                |o: &serde_json::Value| o["kind"] == "Service" && o["metadata"]["name"] == name(*n);
            sim.apply(synthetic_cluster(8, 0).filter(service));
        }
        Act::Range(n) => sim.apply([range(&format!("r{}", n % 4), &format!("10.{n}.0.0/16"))]),
        Act::Cut => sim.cut_connections(),
        Act::Expire => sim.expire(),
        Act::HttpGone(on) => sim.misbehave(|f| f.http_gone = *on),
        Act::Repeat(count) => sim.repeat_events(*count),
        Act::Garbage(resource, named) => sim.send_garbage(*resource, how(*named)),
        Act::Corrupt(resource, n, named) => {
            let name = match resource {
                Resource::Services => name(*n),
                Resource::EndpointSlices => format!("svc-{n}-abcde"),
                Resource::Nodes => crate::NODE.into(),
                Resource::ServiceCidrs => format!("r{}", n % 4),
            };
            let namespace = match resource {
                Resource::Services | Resource::EndpointSlices => namespace(*n),
                Resource::Nodes | Resource::ServiceCidrs => String::new(),
            };
            sim.corrupt(*resource, &namespace, &name, how(*named));
        }
        Act::Refuse(code, times) => sim.misbehave(|f| f.refusals.push(refusal(*code, *times))),
        Act::Hold(resource) => sim.misbehave(|f| {
            f.held.insert(*resource);
        }),
        Act::Release => sim.misbehave(|f| f.held.clear()),
        Act::Stall(millis) => {
            sim.misbehave(|f| f.stalled = true);
            std::thread::sleep(Duration::from_millis(*millis));
            sim.misbehave(|f| f.stalled = false);
        }
        Act::Streaming(on) => sim.misbehave(|f| f.no_streaming_lists = !on),
        Act::Ignore(on) => sim.misbehave(|f| f.ignores_initial_events = *on),
        Act::Protobuf(on) => sim.misbehave(|f| f.no_protobuf = !on),
        Act::Chunk(size) => sim.misbehave(|f| f.chunk = *size),
        Act::Sleep(millis) => std::thread::sleep(Duration::from_millis(*millis)),
    }
}

/// Everything that was spoilt is mended, and the server is well again.
fn heal(sim: &Sim) {
    sim.misbehave(|f| *f = apiserver_sim::Faults::default());
    let broken = |o: &serde_json::Value| {
        o["spec"] == "nonsense" || o["endpoints"] == "nonsense" || o["metadata"]["name"] == 7
    };
    for resource in Resource::ALL {
        if sim.objects(resource).iter().any(broken) {
            // Whichever it was: all of a kind are stated anew.
            sim.apply(synthetic_cluster(8, 3).filter(|o| Resource::of(o) == Some(resource)));
            let node = |o: &serde_json::Value| Resource::of(o) == Some(resource);
            sim.apply(observed().into_iter().filter(node));
            if resource == Resource::ServiceCidrs {
                sim.apply((0..4).map(|n| range(&format!("r{n}"), "10.1.0.0/16")));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 0, ..ProptestConfig::with_cases(10) })]

    /// Whatever the server did, once it is well again the source has told exactly what it holds.
    #[test]
    fn once_the_server_is_well_again_all_is_told(acts in acts()) {
        let sim = sim();
        sim.apply(synthetic_cluster(8, 3));
        sim.apply(observed());
        let folder = tempfile::tempdir().expect("a folder");
        let kubeconfig = sim.write_kubeconfig(folder.path(), "{}").expect("written");
        let mut options = options(&kubeconfig);
        options.timing.list_silence = Duration::from_millis(300);
        options.timing.watch_silence = Duration::from_millis(300);
        let mut follower = Follower::new(options);
        for each in &acts {
            act(&sim, each);
        }
        heal(&sim);
        follower.until_equal(&sim);
    }
}
