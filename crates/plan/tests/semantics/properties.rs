//! Properties of any sequence of events.

use std::collections::{BTreeMap, BTreeSet};

use model::object::Object;
use model::{Change, Event, Interner, IpFamily, Key, Kind};
use plan::testing::{cluster, history};
use plan::{FlowFrontend, Plan, Planner, Settings, StaleFlows};
use proptest::prelude::*;
use proptest::sample::Index;

fn planner(settings: &Settings) -> Planner {
    let mut planner = Planner::new(settings.clone());
    planner.set_host_addresses(plan::testing::ips(&[
        "10.200.1.2",
        "127.0.0.1",
        "fd00:200:1::2",
    ]));
    planner
}

fn plans(planner: &Planner) -> [Plan; 2] {
    IpFamily::ALL.map(|family| planner.plan(family).clone())
}

fn deletes(event: &Event) -> bool {
    match event {
        Event::Service(change) => matches!(change, Change::Deleted(_)),
        Event::EndpointSlice(change) => matches!(change, Change::Deleted(_)),
        Event::Node(change) => matches!(change, Change::Deleted(_)),
        Event::ServiceCidr(change) => matches!(change, Change::Deleted(_)),
    }
}

/// Return events that add the objects existing after some events.
fn objects(events: &[Event]) -> BTreeMap<Key, Event> {
    let mut objects = BTreeMap::new();
    for event in events {
        if deletes(event) {
            objects.remove(&event.key());
        } else {
            objects.insert(event.key(), event.clone());
        }
    }
    objects
}

fn delete(key: Key) -> Event {
    match key {
        Key::Service(name) => Event::Service(Change::Deleted(name)),
        Key::EndpointSlice(name) => Event::EndpointSlice(Change::Deleted(name)),
        Key::Node(name) => Event::Node(Change::Deleted(name)),
        Key::ServiceCidr(name) => Event::ServiceCidr(Change::Deleted(name)),
    }
}

proptest! {
    #[test]
    fn incremental_planning_equals_planning_from_the_start(
        (settings, events) in history(),
        looks in any::<u64>(),
        shuffle in any::<Index>(),
    ) {
        let mut stepwise = planner(&settings);
        for (step, event) in events.iter().enumerate() {
            stepwise.apply(event.clone());
            if looks >> (step % 64) & 1 == 1 {
                stepwise.take_diff();
            }
        }
        stepwise.take_diff();
        // Also in another order.
        let mut objects: Vec<_> = objects(&events).into_values().collect();
        if !objects.is_empty() {
            let middle = shuffle.index(objects.len());
            objects.rotate_left(middle);
            objects[..middle].reverse();
        }
        let mut afresh = planner(&settings);
        afresh.apply_all(objects);
        afresh.take_diff();
        prop_assert_eq!(plans(&stepwise), plans(&afresh));
    }

    #[test]
    fn diffs_lead_from_the_old_plan_to_the_new((settings, events) in history()) {
        let mut planner = planner(&settings);
        let mut copies = IpFamily::ALL.map(Plan::empty);
        for batch in events.chunks(3) {
            planner.apply_all(batch.iter().cloned());
            let before = copies.clone();
            let diff = planner.take_diff();
            for family in IpFamily::ALL {
                let (diff, after) = (diff.family(family), planner.plan(family));
                copies[family as usize].apply(diff);
                prop_assert_eq!(&copies[family as usize], after);
                let compared = after.diff_from(&before[family as usize]);
                prop_assert_eq!(&diff.ports, &compared.ports);
                prop_assert_eq!(&diff.health, &compared.health);
                prop_assert_eq!(&diff.node, &compared.node);
                prop_assert_eq!(diff.endpoint_count, compared.endpoint_count);
            }
            prop_assert!(planner.take_diff().is_empty());
        }
    }

    #[test]
    fn changes_undone_before_the_diff_leave_no_trace(
        (settings, events) in history(),
        split in any::<Index>(),
    ) {
        let (settled, undone) = events.split_at(split.index(events.len() + 1));
        let mut planner = planner(&settings);
        planner.apply_all(settled.iter().cloned());
        planner.take_diff();
        let before = objects(settled);
        // A deleted Node stays in force, so adding it cannot be undone.
        let undone = undone.iter().filter(|event| !matches!(event, Event::Node(_)));
        for event in undone.clone() {
            planner.apply(event.clone());
        }
        for event in undone {
            let key = event.key();
            planner.apply(before.get(&key).cloned().unwrap_or_else(|| delete(key)));
        }
        prop_assert!(planner.take_diff().is_empty());
    }

    #[test]
    fn deleting_every_object_leaves_an_empty_plan((settings, events) in history()) {
        let mut planner = planner(&settings);
        planner.apply_all(events.clone());
        planner.take_diff();
        planner.apply_all(events.iter().map(|event| delete(event.key())));
        planner.take_diff();
        for family in IpFamily::ALL {
            let plan = planner.plan(family);
            prop_assert!(plan.ports.is_empty() && plan.health_checks.is_empty());
            prop_assert_eq!(plan.endpoint_count, 0);
        }
    }

    #[test]
    fn no_two_ports_share_a_frontend(cluster in cluster()) {
        let planner = cluster.planner();
        for family in IpFamily::ALL {
            let mut taken = BTreeSet::new();
            for port in planner.plan(family).ports.values() {
                let own: BTreeSet<_> = port.frontends().map(|f| (f.ip, f.port)).collect();
                for (ip, number) in own {
                    prop_assert!(taken.insert((ip, number, port.protocol)), "{:?} {}", ip, number);
                }
            }
        }
    }

    /// Flows to a serving endpoint of the frontend's port are never stale; all others are stale
    /// whenever the port loses endpoints.
    #[test]
    fn flows_to_serving_endpoints_are_not_stale((settings, events) in history()) {
        let mut planner = planner(&settings);
        for batch in events.chunks(2) {
            planner.apply_all(batch.iter().cloned());
            let diff = planner.take_diff();
            for family in IpFamily::ALL {
                let diff = diff.family(family);
                for change in &diff.ports {
                    let (Some(before), Some(after)) = (&change.before, &change.after) else {
                        continue;
                    };
                    let gone = before.flow_endpoints.iter();
                    let mut gone = gone.filter(|e| !after.flow_endpoints.contains(e));
                    let at = FlowFrontend::Address(after.cluster_ip, after.port);
                    let named = |flows: &&StaleFlows| {
                        flows.protocol() == after.protocol && flows.frontends().any(|f| f == at)
                    };
                    let stale = diff.stale_flows.iter().find(named);
                    if gone.next().is_some() {
                        prop_assert_eq!(stale.map(|s| &s.keep), Some(&after.flow_endpoints));
                    } else if before.cluster_ip == after.cluster_ip
                        && before.port == after.port
                        && !before.flow_endpoints.is_empty()
                    {
                        prop_assert_eq!(stale, None);
                    }
                }
            }
        }
    }
}

/// Return the valid objects after they have been written as JSON, read and checked.
fn restated(events: &[Event]) -> Vec<Event> {
    let mut interner = Interner::new();
    let restate = |event: &Event| {
        let object = event.restate().expect("an object");
        let (kind, json) = match &object {
            Object::Service(o) => (Kind::Service, serde_json::to_string(o)),
            Object::EndpointSlice(o) => (Kind::EndpointSlice, serde_json::to_string(o)),
            Object::Node(o) => (Kind::Node, serde_json::to_string(o)),
            Object::ServiceCidr(o) => (Kind::ServiceCidr, serde_json::to_string(o)),
        };
        let json = json.unwrap();
        let mut decoder = serde_json::Deserializer::from_str(&json);
        let read = Object::deserialize(kind, &mut decoder).unwrap();
        Some(read.check(&mut interner).ok()?.value)
    };
    events.iter().filter_map(restate).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// The objects that a running proxy reports lead to its own plan.
    #[test]
    fn restated_objects_are_equal_and_give_the_same_plan(cluster in cluster()) {
        // The generator also makes objects that the check refuses or corrects.
        let events = restated(&cluster.events());
        prop_assert_eq!(&restated(&events), &events);
        let plan_of = |events: Vec<Event>| {
            let mut planner = Planner::new(cluster.settings.clone());
            planner.set_host_addresses(cluster.host_addresses.clone());
            planner.apply_all(events);
            planner.take_diff();
            planner
        };
        let first = plan_of(events.clone());
        let second = plan_of(restated(&first.objects()));
        prop_assert_eq!(plans(&first), plans(&second));
        let services = events.iter().filter(|e| matches!(e, Event::Service(_)));
        prop_assert_eq!(first.service_count(), services.count());
        let keys = |events: &[Event]| events.iter().map(Event::key).collect::<BTreeSet<_>>();
        let with_addresses = |event: &&Event| match event {
            Event::Node(Change::Applied(node)) => {
                !node.addresses.is_empty() || *node.name == *cluster.settings.node_name
            }
            _ => true,
        };
        let known: Vec<Event> = events.iter().filter(with_addresses).cloned().collect();
        prop_assert_eq!(keys(&first.objects()), keys(&known));
    }
}
