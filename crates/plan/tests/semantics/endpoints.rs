//! From slices to endpoints.

use model::{
    AddressType, Change, Endpoint, EndpointConditions, EndpointSlice, Event, IpFamily,
    NamespacedName,
};
use plan::testing::{Applied, endpoint, name, service, slice};
use plan::{Planner, Reason};

use super::{only, planner, texts};

fn web() -> Event {
    service("demo/web", &["10.96.0.1"], &["http:80"]).applied()
}

fn web_slice(slice_name: &str, ips: &[&str]) -> EndpointSlice {
    let endpoints = ips.iter().map(|ip| endpoint(ip, "node1")).collect();
    slice(slice_name, "demo/web", &["http:8080"], endpoints)
}

fn with(conditions: (bool, bool, bool), ip: &str, node: &str) -> Endpoint {
    let (ready, serving, terminating) = conditions;
    Endpoint {
        conditions: EndpointConditions {
            ready,
            serving,
            terminating,
        },
        ..endpoint(ip, node)
    }
}

fn cluster(planner: &Planner) -> Vec<String> {
    texts(&only(planner).cluster)
}

#[test]
fn endpoints_are_sorted_by_their_text() {
    let ips = ["10.244.1.9", "10.244.1.10", "10.244.1.100", "9.9.9.9"];
    let planner = planner([web(), web_slice("a", &ips).applied()]);
    assert_eq!(
        cluster(&planner),
        [
            "10.244.1.100:8080",
            "10.244.1.10:8080",
            "10.244.1.9:8080",
            "9.9.9.9:8080"
        ]
    );
}

#[test]
fn each_slice_defines_the_number_of_a_named_port() {
    let a = web_slice("a", &["10.244.1.1"]);
    let b = slice(
        "b",
        "demo/web",
        &["http:9090"],
        vec![endpoint("10.244.1.2", "node1")],
    );
    let other = slice(
        "c",
        "demo/web",
        &["admin:1"],
        vec![endpoint("10.244.1.3", "node1")],
    );
    let udp = slice(
        "d",
        "demo/web",
        &["http:2/UDP"],
        vec![endpoint("10.244.1.4", "node1")],
    );
    let mut planner = planner([
        web(),
        a.applied(),
        b.applied(),
        other.applied(),
        udp.applied(),
    ]);
    assert_eq!(cluster(&planner), ["10.244.1.1:8080", "10.244.1.2:9090"]);
    // One slice may have two ports with one name, another a port without a number.
    let mut twice = slice(
        "c",
        "demo/web",
        &["http:1", "http:2"],
        vec![endpoint("10.244.1.3", "")],
    );
    planner.apply(twice.clone().applied());
    planner.take_diff();
    let both = [
        "10.244.1.1:8080",
        "10.244.1.2:9090",
        "10.244.1.3:1",
        "10.244.1.3:2",
    ];
    assert_eq!(cluster(&planner), both);
    assert!(planner.take_warnings().is_empty());
    twice.ports[1].port = None;
    planner.apply(twice.applied());
    planner.take_diff();
    assert_eq!(cluster(&planner), both[..3]);
    let warnings = planner.take_warnings();
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].reason, Reason::NoPortNumber);
    assert_eq!(warnings[0].field, "ports[1].port");
}

#[test]
fn a_duplicate_that_does_not_terminate_is_preferred() {
    let ready = (true, true, false);
    let unready = (false, false, false);
    let leaving = (false, true, true);
    // In the order of the slices; whether the endpoint is usable, and its node.
    let cases = [
        ("the last of equals", [ready, ready], Some(false)),
        (
            "the last of equals, though it is not ready",
            [ready, unready],
            None,
        ),
        ("the last, ready", [unready, ready], Some(false)),
        ("running before terminating", [ready, leaving], Some(true)),
        ("running after terminating", [leaving, ready], Some(false)),
        (
            "the first of two terminating ones",
            [leaving, leaving],
            Some(true),
        ),
    ];
    for (case, [first, second], expected) in cases {
        let a = slice(
            "a",
            "demo/web",
            &["http:1"],
            vec![with(first, "10.244.1.1", "node1")],
        );
        let b = slice(
            "b",
            "demo/web",
            &["http:1"],
            vec![with(second, "10.244.1.1", "node2")],
        );
        let both = [a.applied(), b.applied()];
        for events in [both.clone(), [both[1].clone(), both[0].clone()]] {
            let planner = planner(events.into_iter().chain([web()]));
            let got = only(&planner).cluster.first().map(|e| e.is_local);
            assert_eq!(got, expected, "{case}");
            assert_eq!(planner.plan(IpFamily::V4).endpoint_count, 1, "{case}");
        }
    }
}

#[test]
fn an_endpoint_that_moves_between_slices_is_always_planned() {
    let mut planner = planner([
        web(),
        web_slice("a", &["10.244.1.1", "10.244.1.2"]).applied(),
        web_slice("b", &[]).applied(),
    ]);
    let all = ["10.244.1.1:8080", "10.244.1.2:8080"];
    // The endpoint is in both, then in the new one; or in both at once, in either order.
    planner.apply(web_slice("b", &["10.244.1.2"]).applied());
    assert!(planner.take_diff().is_empty());
    planner.apply(web_slice("a", &["10.244.1.1"]).applied());
    assert!(planner.take_diff().is_empty());
    assert_eq!(cluster(&planner), all);
    planner.apply(web_slice("b", &[]).applied());
    planner.apply(web_slice("a", &["10.244.1.1", "10.244.1.2"]).applied());
    assert!(planner.take_diff().is_empty());
    assert_eq!(cluster(&planner), all);
}

#[test]
fn slices_and_services_are_added_and_removed_in_any_order() {
    let mut planner = planner([web_slice("a", &["10.244.1.1"]).applied()]);
    assert!(planner.plan(IpFamily::V4).ports.is_empty());
    assert_eq!(planner.plan(IpFamily::V4).endpoint_count, 0);
    planner.apply(web());
    planner.take_diff();
    assert_eq!(cluster(&planner), ["10.244.1.1:8080"]);
    planner.apply(Event::Service(Change::Deleted(name("demo/web"))));
    planner.take_diff();
    assert!(planner.plan(IpFamily::V4).ports.is_empty());
    planner.apply(web());
    planner.take_diff();
    assert_eq!(
        cluster(&planner),
        ["10.244.1.1:8080"],
        "the slices were kept"
    );
    planner.apply(Event::EndpointSlice(Change::Deleted(name("demo/a"))));
    planner.take_diff();
    assert!(cluster(&planner).is_empty());
}

#[test]
fn a_slice_can_move_to_another_service() {
    let other = service("demo/other", &["10.96.0.2"], &["http:80"]).applied();
    let mut planner = planner([web(), other, web_slice("a", &["10.244.1.1"]).applied()]);
    let mut moved = web_slice("a", &["10.244.1.1"]);
    moved.service = Some(name("demo/other"));
    planner.apply(moved.applied());
    let diff = planner.take_diff();
    let sizes = diff.v4.ports.iter().filter_map(|change| {
        let after = change.after.as_ref()?;
        Some((after.name.to_string(), after.cluster.len()))
    });
    let sizes = sizes.collect::<Vec<_>>();
    let expected = [
        ("demo/other:http".to_owned(), 1),
        ("demo/web:http".to_owned(), 0),
    ];
    assert_eq!(sizes, expected);
    assert_eq!(diff.v4.endpoint_count, None);
}

#[test]
fn slices_for_another_proxy_are_ignored() {
    let base = || web_slice("a", &["10.244.1.1"]);
    let cases = [
        (
            "headless",
            EndpointSlice {
                headless: true,
                ..base()
            },
        ),
        (
            "another proxy's",
            EndpointSlice {
                proxy_name: Some("other".into()),
                ..base()
            },
        ),
        (
            "no Service",
            EndpointSlice {
                service: None,
                ..base()
            },
        ),
        (
            "of host names",
            EndpointSlice {
                address_type: AddressType::Fqdn,
                ..base()
            },
        ),
        (
            "of another namespace",
            EndpointSlice {
                name: NamespacedName::new("other", "a"),
                service: Some(name("other/web")),
                ..base()
            },
        ),
    ];
    for (case, slice) in cases {
        let mut planner = planner([web(), slice.clone().applied()]);
        assert!(cluster(&planner).is_empty(), "{case}");
        // Earlier ownership has no effect.
        if slice.name == base().name {
            planner.apply(base().applied());
            planner.take_diff();
            assert_eq!(cluster(&planner).len(), 1, "{case}");
            planner.apply(slice.applied());
            planner.take_diff();
            assert!(cluster(&planner).is_empty(), "{case}");
        }
    }
}

#[test]
fn an_endpoint_of_the_wrong_family_affects_no_other() {
    let mut slice = web_slice("a", &["10.244.1.1"]);
    slice.endpoints.push(endpoint("fd00::1", "node1"));
    let mut planner = planner([web(), slice.clone().applied()]);
    assert_eq!(cluster(&planner), ["10.244.1.1:8080"]);
    let warnings = planner.take_warnings();
    let texts: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "EndpointSlice demo/a: endpoints[1].addresses[0]: fd00::1 is ignored: it does not \
          have the slice's addressType"
        ]
    );
    planner.apply(slice.applied());
    planner.take_diff();
    assert!(planner.take_warnings().is_empty(), "once for each version");
}

#[test]
fn endpoints_of_planned_ports_are_counted_in_any_state() {
    let unready = vec![
        with((false, false, false), "10.244.1.1", "node1"),
        with((false, true, true), "10.244.1.2", "node2"),
        with((true, true, false), "10.244.1.3", "node2"),
    ];
    let for_us = slice("a", "demo/web", &["http:80", "unused:81"], unready.clone());
    let for_other = slice("b", "demo/other", &["http:80"], unready);
    let mut planner = planner([web(), for_us.applied(), for_other.applied()]);
    assert_eq!(planner.plan(IpFamily::V4).endpoint_count, 3);
    planner.apply(service("demo/other", &["10.96.0.2"], &["http:80"]).applied());
    assert_eq!(planner.take_diff().v4.endpoint_count, Some(6));
}
