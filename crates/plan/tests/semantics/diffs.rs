//! Contents of a diff, and its cost, which follows the change.

use std::sync::Arc;

use model::{EndpointSlice, IpFamily};
use plan::testing::{Applied, big_cluster, big_cluster_settings, endpoint, node, service, slice};
use plan::{Plan, Planner};

use super::planner;

#[test]
fn applying_the_same_objects_again_gives_no_diff() {
    let events = big_cluster(50, 3);
    let mut planner = Planner::new(big_cluster_settings());
    planner.apply_all(events.clone());
    let diff = planner.take_diff();
    assert_eq!(diff.v4.ports.len(), 50);
    assert_eq!(diff.v4.endpoint_count, Some(150));
    assert!(diff.v4.ports.iter().all(|change| change.before.is_none()));
    planner.apply_all(events);
    assert!(planner.take_diff().is_empty());
    assert_eq!(planner.refresh(), (50, 50));
    assert!(planner.take_diff().is_empty());
    assert!(planner.take_warnings().is_empty());
}

#[test]
fn unchanged_ports_and_lists_are_shared() {
    let mut planner = Planner::new(big_cluster_settings());
    planner.apply_all(big_cluster(50, 3));
    planner.take_diff();
    let before = planner.plan(IpFamily::V4).clone();
    let changed = slice(
        "service-7-0",
        "team-8/service-7",
        &["http:8080"],
        vec![endpoint("10.128.0.77", "node-1")],
    );
    planner.apply(changed.applied());
    let diff = planner.take_diff();
    let names: Vec<_> = diff
        .v4
        .ports
        .iter()
        .filter_map(plan::PortChange::key)
        .collect();
    assert_eq!(names.len(), 1);
    assert_eq!(names[0].0.to_string(), "team-8/service-7:http");
    for (key, port) in &planner.plan(IpFamily::V4).ports {
        let shared = before
            .ports
            .get(key)
            .is_some_and(|old| Arc::ptr_eq(old, port));
        assert_eq!(shared, *key != names[0]);
    }
    assert!(Arc::ptr_eq(&before.node, &planner.plan(IpFamily::V4).node));
}

#[test]
fn a_diff_contains_only_the_changed_ports_of_a_service() {
    let web = |ports: &[&str]| service("demo/web", &["10.96.0.1"], ports).applied();
    let mut planner = planner([web(&["a:1", "c:3", "b:2"])]);
    planner.apply(web(&["a:1", "b:22", "d:4"]));
    let diff = planner.take_diff();
    let numbers = diff.v4.ports.iter().map(|change| {
        let number = |port: &Option<Arc<plan::PortPlan>>| port.as_ref().map(|p| p.port.get());
        (number(&change.before), number(&change.after))
    });
    let numbers = numbers.collect::<Vec<_>>();
    assert_eq!(
        numbers,
        [(Some(2), Some(22)), (Some(3), None), (None, Some(4))]
    );
}

#[test]
fn a_plan_is_a_diff_from_the_empty_plan() {
    let mut planner = Planner::new(big_cluster_settings());
    planner.apply_all(big_cluster(20, 2));
    planner.take_diff();
    let plan = planner.plan(IpFamily::V4);
    let mut copy = Plan::empty(IpFamily::V4);
    let diff = plan.diff_from(&copy);
    assert_eq!(diff.ports.len(), 20);
    copy.apply(&diff);
    assert_eq!(&copy, plan);
    assert!(plan.diff_from(&copy).is_empty());
}

#[test]
fn trigger_times_are_in_the_next_diff_of_their_family() {
    let stamped = |time, ip: &str| EndpointSlice {
        last_change_trigger: Some(time),
        ..slice("a", "demo/web", &["http:80"], vec![endpoint(ip, "node1")])
    };
    let mut planner = planner([node("node1", &[], &[]).applied()]);
    planner.apply(stamped(1, "10.244.1.1").applied());
    planner.apply(stamped(2, "10.244.1.2").applied());
    planner.apply(stamped(2, "10.244.1.2").applied());
    let diff = planner.take_diff();
    assert_eq!(diff.v4.triggers, [1, 2]);
    assert!(diff.v6.triggers.is_empty());
    assert!(planner.take_diff().v4.triggers.is_empty());
}
