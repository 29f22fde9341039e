//! Random actions on a server, for tests of eventual consistency.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    Corruption, Faults, Refusal, Resource, Sim, service_cidr, slice_of, synthetic_cluster,
};

/// Number of Services and ranges that [`acts`] changes.
const SERVICES: u32 = 8;
const RANGES: u8 = 4;

/// An action. Objects are those of `synthetic_cluster(8, 3)` and the ServiceCIDRs `r0` to `r3`, by
/// number.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // Named like the method or field that they set.
pub enum Act {
    Slice(u32, u32),
    DeleteService(u32),
    Service(u32),
    Range(u8),
    /// The Nodes move to this zone.
    Zone(&'static str),
    Cut,
    Expire,
    HttpGone(bool),
    Repeat(usize),
    Garbage(Resource, Corruption),
    Corrupt(Resource, u32, Corruption),
    Refuse(u16, usize),
    Hold(Resource),
    Release,
    /// Milliseconds.
    Stall(u64),
    Streaming(bool),
    IgnoreInitialEvents(bool),
    Protobuf(bool),
    Chunk(usize),
    /// Milliseconds.
    Sleep(u64),
}

/// Generate a sequence of actions.
pub fn acts() -> impl Strategy<Value = Vec<Act>> {
    let resource = || prop::sample::select(Resource::ALL.to_vec());
    let how = || prop::sample::select(vec![Corruption::Body, Corruption::Whole]);
    let number = 0..SERVICES;
    let act = prop_oneof![
        4 => (number.clone(), 1..50u32).prop_map(|(n, generation)| Act::Slice(n, generation)),
        2 => number.clone().prop_map(Act::DeleteService),
        2 => number.clone().prop_map(Act::Service),
        2 => any::<u8>().prop_map(Act::Range),
        1 => prop::sample::select(vec!["zone-a", "zone-b"]).prop_map(Act::Zone),
        2 => Just(Act::Cut),
        1 => Just(Act::Expire),
        1 => any::<bool>().prop_map(Act::HttpGone),
        1 => (1..5usize).prop_map(Act::Repeat),
        1 => (resource(), how()).prop_map(|(r, how)| Act::Garbage(r, how)),
        1 => (resource(), number, how()).prop_map(|(r, n, how)| Act::Corrupt(r, n, how)),
        2 => (prop::sample::select(vec![401, 403, 429, 500, 503]), 1..6usize)
            .prop_map(|(code, times)| Act::Refuse(code, times)),
        1 => resource().prop_map(Act::Hold),
        1 => Just(Act::Release),
        1 => (0..250u64).prop_map(Act::Stall),
        1 => any::<bool>().prop_map(Act::Streaming),
        1 => any::<bool>().prop_map(Act::IgnoreInitialEvents),
        1 => any::<bool>().prop_map(Act::Protobuf),
        1 => prop::sample::select(vec![0, 1, 13, 1000]).prop_map(Act::Chunk),
        3 => (0..60u64).prop_map(Act::Sleep),
    ];
    prop::collection::vec(act, 5..40)
}

impl Act {
    /// Carry out the action.
    pub fn on(&self, sim: &Sim) {
        let name = |n: u32| format!("svc-{n}");
        let namespace = |n: u32| format!("ns-{n}");
        match self {
            Act::Slice(n, generation) => sim.apply([slice_of(*n, 3, *generation)]),
            Act::DeleteService(n) => {
                sim.delete(Resource::Services, &namespace(*n), &name(*n));
            }
            Act::Service(n) => {
                let service =
                    |o: &Value| o["kind"] == "Service" && o["metadata"]["name"] == name(*n);
                sim.apply(synthetic_cluster(SERVICES, 0).filter(service));
            }
            Act::Range(n) => {
                let range = format!("10.{n}.0.0/16");
                sim.apply([service_cidr(&format!("r{}", n % RANGES), &range)]);
            }
            Act::Zone(zone) => {
                let mut nodes = sim.objects(Resource::Nodes);
                nodes.retain(|node| !is_broken(node));
                for node in &mut nodes {
                    node["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!(zone);
                }
                sim.apply(nodes);
            }
            Act::Cut => sim.cut_connections(),
            Act::Expire => sim.expire(),
            Act::HttpGone(on) => sim.misbehave(|f| f.http_gone = *on),
            Act::Repeat(count) => sim.repeat_events(*count),
            Act::Garbage(resource, how) => sim.send_garbage(*resource, *how),
            Act::Corrupt(resource, n, how) => {
                let (namespace, name) = match resource {
                    Resource::Services => (namespace(*n), name(*n)),
                    Resource::EndpointSlices => (namespace(*n), format!("svc-{n}-abcde")),
                    Resource::Nodes => (String::new(), "node1".to_owned()),
                    Resource::ServiceCidrs => {
                        (String::new(), format!("r{}", n % u32::from(RANGES)))
                    }
                };
                sim.corrupt(*resource, &namespace, &name, *how);
            }
            Act::Refuse(code, times) => sim.misbehave(|f| {
                f.refusals.push(Refusal {
                    code: *code,
                    reason: String::new(),
                    retry_after: None,
                    times: *times,
                    resource: None,
                });
            }),
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
            Act::IgnoreInitialEvents(on) => sim.misbehave(|f| f.ignores_initial_events = *on),
            Act::Protobuf(on) => sim.misbehave(|f| f.no_protobuf = !on),
            Act::Chunk(size) => sim.misbehave(|f| f.chunk = *size),
            Act::Sleep(millis) => std::thread::sleep(Duration::from_millis(*millis)),
        }
    }
}

fn is_broken(o: &Value) -> bool {
    o["spec"] == "nonsense" || o["endpoints"] == "nonsense" || !o["metadata"]["name"].is_string()
}

impl Sim {
    /// Remove all faults. For each kind with an unreadable object, apply those of `originals` again.
    pub fn heal(&self, originals: &[Value]) {
        self.misbehave(|faults| *faults = Faults::default());
        for resource in Resource::ALL {
            if self.objects(resource).iter().any(is_broken) {
                let of_kind = |o: &&Value| Resource::of(o) == Some(resource);
                self.apply(originals.iter().filter(of_kind).cloned());
                if resource == Resource::ServiceCidrs {
                    let ranges = (0..RANGES).map(|n| format!("r{n}"));
                    self.apply(ranges.map(|name| service_cidr(&name, "10.1.0.0/16")));
                }
            }
        }
    }
}
