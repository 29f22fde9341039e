//! The API server source against the simulator, over TLS on the loopback interface.

mod auth;
mod events;
mod follow;
mod misbehaviour;
mod rbac;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use apiserver_sim::{Config, Resource, Sim, service_cidr as range};
use model::object::Object;
use model::{Event, Interner, Key, Kind};
use serde_json::Value;
use source::apiserver::{ApiServer, ClientOptions, Timing};
use source::{Batch, Problem, Running, Source};

const NODE: &str = "node1";

/// Upper bound on waits; only a failing test reaches it.
const PATIENCE: Duration = Duration::from_secs(30);

fn sim() -> Sim {
    sim_with(Config::default())
}

fn sim_with(config: Config) -> Sim {
    let config = Config {
        bookmark_period: Duration::from_millis(100),
        ..config
    };
    Sim::start(config).expect("a simulator")
}

/// Short delays.
fn timing() -> Timing {
    Timing {
        backoff_base: Duration::from_millis(5),
        backoff_cap: Duration::from_millis(100),
        list_silence: Duration::from_secs(2),
        watch_silence: Duration::from_secs(2),
        absent_retry: Duration::from_millis(200),
        relist_base: Duration::from_millis(50),
        relist_cap: Duration::from_millis(400),
        ..Timing::default()
    }
}

fn options(kubeconfig: &Path) -> ClientOptions {
    ClientOptions {
        kubeconfig: Some(kubeconfig.to_owned()),
        timing: timing(),
        qps: -1.0,
        ..ClientOptions::default()
    }
}

/// Objects of a real cluster.
fn observed() -> Vec<Value> {
    observed::objects_json()
}

/// Cut all connections to a server that refuses new ones, and wait until they are closed.
fn cut(sim: &Sim) {
    sim.cut_connections();
    let end = Instant::now() + PATIENCE;
    while sim.open_watches() > 0 {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A running source and the objects that it has delivered.
struct Follower {
    batches: Receiver<Batch>,
    objects: BTreeMap<Key, Event>,
    problems: Vec<Problem>,
    complete: bool,
    /// Number of batches after completeness.
    later: usize,
    _running: Running,
}

impl Follower {
    fn new(options: ClientOptions) -> Self {
        Self::of(ApiServer::new(options, NODE).expect("a configuration"))
    }

    fn of(source: ApiServer) -> Self {
        let (sender, batches) = channel();
        let running = source
            .start(move |batch| match sender.send(batch) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            })
            .expect("a thread");
        Self {
            batches,
            objects: BTreeMap::new(),
            problems: Vec::new(),
            complete: false,
            later: 0,
            _running: running,
        }
    }

    fn take(&mut self, batch: Batch) {
        self.later += usize::from(self.complete);
        assert!(batch.initial_list_complete || !self.complete);
        self.complete = batch.initial_list_complete;
        let mut keys: Vec<Key> = batch.events.iter().map(Event::key).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), batch.events.len(), "an object twice in a batch");
        for event in batch.events {
            let key = event.key();
            if event == key.deleted() {
                self.objects.remove(&key);
            } else {
                let old = self.objects.insert(key, event.clone());
                assert_ne!(old.as_ref(), Some(&event), "delivered without a change");
            }
        }
        self.problems.extend(batch.problems);
        for resolved in batch.resolved {
            self.problems.retain(|p| *p != resolved);
        }
    }

    /// Receive batches until the condition holds.
    fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds(self) {
            match self.batches.recv_timeout(Duration::from_millis(20)) {
                Ok(batch) => self.take(batch),
                Err(RecvTimeoutError::Timeout) if Instant::now() < end => {}
                Err(e) => panic!("{what}: {e}; delivered: {:#?}", self.objects),
            }
        }
    }

    /// Receive batches until exactly the server's objects have been delivered.
    fn until_equal(&mut self, sim: &Sim) {
        let end = Instant::now() + PATIENCE;
        while !self.complete || self.objects != truth(sim) {
            match self.batches.recv_timeout(Duration::from_millis(20)) {
                Ok(batch) => self.take(batch),
                Err(RecvTimeoutError::Timeout) if Instant::now() < end => {}
                Err(e) => {
                    let (delivered, truth) = (&self.objects, truth(sim));
                    let wrong = |key: &&Key| delivered.get(key) != truth.get(key);
                    let wrong: Vec<_> =
                        delivered.keys().chain(truth.keys()).filter(wrong).collect();
                    panic!(
                        "{e}: complete {}, wrong: {wrong:?}; requests: {:#?}",
                        self.complete,
                        sim.requests()
                    );
                }
            }
        }
    }

    /// Expect no batch for a while.
    fn nothing_for(&mut self, time: Duration) {
        match self.batches.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// The expected objects: the server's checked objects that match the selectors.
fn truth(sim: &Sim) -> BTreeMap<Key, Event> {
    let mut interner = Interner::new();
    let kinds = [
        (Resource::Services, Kind::Service),
        (Resource::EndpointSlices, Kind::EndpointSlice),
        (Resource::Nodes, Kind::Node),
        (Resource::ServiceCidrs, Kind::ServiceCidr),
    ];
    let mut truth = BTreeMap::new();
    for (resource, kind) in kinds {
        for value in sim.objects(resource) {
            let label = |name: &str| value["metadata"]["labels"].get(name).is_some();
            let wanted = match kind {
                Kind::Service => {
                    value["spec"]["clusterIP"] != "None"
                        && !label("service.kubernetes.io/service-proxy-name")
                }
                Kind::EndpointSlice => !label("service.kubernetes.io/headless"),
                Kind::Node => value["metadata"]["name"] == NODE,
                Kind::ServiceCidr => true,
            };
            let object = Object::deserialize(kind, &value);
            if wanted && let Ok(checked) = object.expect("an object").check(&mut interner) {
                truth.insert(checked.value.key(), checked.value);
            }
        }
    }
    truth
}
