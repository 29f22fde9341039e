//! Zone and node hints: topology-aware routing and `trafficDistribution`.

use model::{Endpoint, Event, Node, Service, TrafficPolicy};
use plan::Planner;
use plan::testing::{Applied, endpoint, node, service, slice, zone_label};

use super::{only, planner};

/// Endpoints from words like `a:1` (hinted for zone a and node 1), `ab`, `:2`, `-` (none), with
/// `!` before those that are not ready.
fn endpoints(words: &str) -> Vec<Endpoint> {
    let hints = |prefix: &str, letters: &str| {
        let names = letters
            .chars()
            .map(|c| format!("{prefix}{c}").as_str().into());
        names.collect()
    };
    let parse = |(index, word): (usize, &str)| {
        let (word, ready) = match word.strip_prefix('!') {
            Some(word) => (word, false),
            None => (word, true),
        };
        let (zones, nodes) = word.split_once(':').unwrap_or((word, ""));
        let mut endpoint = Endpoint {
            zone_hints: hints("zone-", zones.trim_matches('-')),
            node_hints: hints("node", nodes),
            ..endpoint(&format!("10.244.1.{}", index + 1), "node3")
        };
        endpoint.conditions.ready = ready;
        endpoint.conditions.serving = ready;
        endpoint
    };
    words.split_whitespace().enumerate().map(parse).collect()
}

fn node_in(zone: Option<&str>) -> Event {
    Node {
        topology: zone.map(zone_label).unwrap_or_default(),
        ..node("node1", &["10.200.1.2"], &[])
    }
    .applied()
}

/// The last digits of the endpoints in use.
fn used(planner: &Planner) -> String {
    let endpoints = only(planner).cluster.iter();
    endpoints
        .map(|e| e.ip.to_string()[9..].to_owned())
        .collect()
}

fn web(words: &str) -> [Event; 2] {
    [
        service("demo/web", &["10.96.0.1"], &["http:80"]).applied(),
        slice("a", "demo/web", &["http:80"], endpoints(words)).applied(),
    ]
}

#[test]
fn hints_apply_to_all_endpoints_or_to_none() {
    let a = Some("zone-a");
    let cases = [
        ("no hints", a, "- - -", "123"),
        ("zone", a, "a b a", "13"),
        ("several zones", a, "ab b ab", "13"),
        ("one without a hint", a, "a b -", "123"),
        ("one without a hint, but not ready", a, "a b !-", "1"),
        ("none for this zone", a, "b b", "12"),
        ("one for this zone, but not ready", a, "!a b b", "23"),
        ("this node's zone is unknown", None, "a b a", "123"),
        ("node", None, ":1 :2 :1", "13"),
        ("node before zone", a, "a:2 b:1 a:2", "2"),
        ("zone where none is for this node", a, "a:2 b:2 a:2", "13"),
        ("zone where a node hint is missing", a, "a:1 b:2 a", "13"),
        ("neither", Some("zone-c"), "a:2 b:2", "12"),
        ("none ready", a, "!a !b", ""),
    ];
    for (case, zone, words, expected) in cases {
        let planner = planner(web(words).into_iter().chain([node_in(zone)]));
        assert_eq!(used(&planner), expected, "{case}");
    }
}

#[test]
fn hints_do_not_affect_local_policy_or_terminating_endpoints() {
    let service = Service {
        internal_policy: TrafficPolicy::Local,
        ..service("demo/web", &["10.96.0.1"], &["http:80"])
    };
    let mut here = endpoints("b b");
    for endpoint in &mut here {
        endpoint.node_name = Some("node1".into());
    }
    let mut leaving = endpoints("a b");
    for endpoint in &mut leaving {
        endpoint.conditions.ready = false;
        endpoint.conditions.serving = true;
        endpoint.conditions.terminating = true;
    }
    let slice = |endpoints| slice("a", "demo/web", &["http:80"], endpoints).applied();
    let local = planner([service.applied(), slice(here), node_in(Some("zone-a"))]);
    assert_eq!(only(&local).local.len(), 2);
    let [web, _] = web("");
    let falling_back = planner([web, slice(leaving), node_in(Some("zone-a"))]);
    assert_eq!(used(&falling_back), "12");
}

#[test]
fn a_zone_change_replans_services_with_zone_hints() {
    let other = service("demo/other", &["10.96.0.2"], &["http:80"]).applied();
    let mut planner = planner(
        web("a b")
            .into_iter()
            .chain([node_in(Some("zone-a")), other]),
    );
    planner.apply(node_in(Some("zone-b")));
    let diff = planner.take_diff();
    assert_eq!(diff.v4.ports.len(), 1);
    let after = diff.v4.ports[0]
        .after
        .as_ref()
        .map(|port| port.cluster[0].to_string());
    assert_eq!(after.as_deref(), Some("10.244.1.2:80"));
    assert_eq!(
        diff.v4.node, None,
        "the zone is no fact of the node that a rule depends on"
    );
    // The zone of another node has no effect.
    let elsewhere = Node {
        topology: zone_label("zone-a"),
        ..node("node2", &["10.200.1.3"], &[])
    };
    planner.apply(elsewhere.applied());
    assert!(planner.take_diff().is_empty());
}
