//! Traffic policies, and the treatment of traffic without an endpoint.

use model::{Endpoint, EndpointConditions, Service, ServiceType, TrafficPolicy};
use plan::testing::{Applied, endpoint, ips, service, slice};
use plan::{Planner, Traffic};

use super::{only, planner, texts};

const CLUSTER: TrafficPolicy = TrafficPolicy::Cluster;
const LOCAL: TrafficPolicy = TrafficPolicy::Local;

/// Ready, not ready, serving while terminating, terminating and not serving.
fn endpoints(states: &str) -> Vec<Endpoint> {
    let state = |(index, state): (usize, char)| {
        // Upper case: on this node.
        let node = if state.is_uppercase() {
            "node1"
        } else {
            "node2"
        };
        let (ready, serving, terminating) = match state.to_ascii_lowercase() {
            'r' => (true, true, false),
            'n' => (false, false, false),
            's' => (false, true, true),
            't' => (false, false, true),
            other => panic!("no state {other}"),
        };
        Endpoint {
            conditions: EndpointConditions {
                ready,
                serving,
                terminating,
            },
            ..endpoint(&format!("10.244.1.{}", index + 1), node)
        }
    };
    states.chars().enumerate().map(state).collect()
}

fn plan_for(internal: TrafficPolicy, external: TrafficPolicy, states: &str) -> Planner {
    let service = Service {
        service_type: ServiceType::NodePort,
        internal_policy: internal,
        external_policy: external,
        ..service("demo/web", &["10.96.0.1"], &["http:80:30080"])
    };
    let slice = slice("a", "demo/web", &["http:80"], endpoints(states));
    planner([service.applied(), slice.applied()])
}

#[test]
fn traffic_is_rejected_without_endpoints_and_dropped_without_local_ones() {
    use Traffic::{Cluster, Drop, Local, Reject};
    // Endpoints; internal and external traffic by policy: Cluster, Local.
    let cases = [
        ("", [Reject, Reject]),
        ("nN", [Reject, Reject]),
        ("tT", [Reject, Reject]),
        ("r", [Cluster, Drop]),
        ("R", [Cluster, Local]),
        ("rR", [Cluster, Local]),
        ("rN", [Cluster, Drop]),
        ("s", [Cluster, Drop]),
        ("S", [Cluster, Local]),
        ("rS", [Cluster, Local]),
        ("rT", [Cluster, Drop]),
    ];
    for (states, [under_cluster, under_local]) in cases {
        for internal in [CLUSTER, LOCAL] {
            for external in [CLUSTER, LOCAL] {
                let planner = plan_for(internal, external, states);
                let expected = |policy| {
                    if policy == LOCAL {
                        under_local
                    } else {
                        under_cluster
                    }
                };
                let port = only(&planner);
                let case = format!("{states:?}, {internal:?} inside, {external:?} outside");
                assert_eq!(port.internal_traffic(), expected(internal), "{case}");
                assert_eq!(port.external_traffic(), expected(external), "{case}");
            }
        }
    }
}

#[test]
fn terminating_endpoints_serve_if_no_endpoint_is_ready() {
    // Endpoints; the last digits of those used under Cluster policy, and under Local policy.
    let cases = [
        ("rR", "12", "2"),
        ("sR", "2", "2"),
        ("rS", "1", "2"),
        ("sS", "12", "2"),
        ("ssS", "123", "3"),
        ("RS", "1", "1"),
        ("nS", "2", "2"),
        ("nT", "", ""),
        ("st", "1", ""),
        ("rNT", "1", ""),
    ];
    for (states, cluster, local) in cases {
        let planner = plan_for(CLUSTER, LOCAL, states);
        let port = only(&planner);
        let used = |endpoints: &[plan::Endpoint]| {
            let texts = texts(endpoints).into_iter();
            let digit = |text: String| text.strip_prefix("10.244.1.").map(|t| t[..1].to_owned());
            texts.filter_map(digit).collect::<String>()
        };
        assert_eq!(used(&port.cluster), cluster, "Cluster, {states:?}");
        assert_eq!(used(&port.local), local, "Local, {states:?}");
        let all: Vec<_> = port.reachable();
        assert!(
            port.cluster
                .iter()
                .chain(&*port.local)
                .all(|e| all.contains(e))
        );
    }
}

#[test]
fn a_terminating_endpoint_that_is_ready_counts_as_ready() {
    // publishNotReadyAddresses
    let both = Endpoint {
        conditions: EndpointConditions {
            ready: true,
            serving: true,
            terminating: true,
        },
        ..endpoint("10.244.1.1", "node1")
    };
    let slice = slice(
        "a",
        "demo/web",
        &["http:80"],
        vec![both, endpoint("10.244.1.2", "node1")],
    );
    let service = service("demo/web", &["10.96.0.1"], &["http:80"]);
    let planner = planner([service.applied(), slice.applied()]);
    assert_eq!(only(&planner).cluster.len(), 2);
}

#[test]
fn endpoint_lists_exist_only_for_policies_in_use() {
    let external = || ips(&["192.0.2.1"]);
    // Internal and external policy, external IPs; whether each list is needed.
    let cases = [
        (CLUSTER, CLUSTER, vec![], true, false),
        (LOCAL, CLUSTER, vec![], false, true),
        (LOCAL, CLUSTER, external(), true, true),
        (CLUSTER, LOCAL, external(), true, true),
        // Without external frontends, the external policy has no effect.
        (CLUSTER, LOCAL, vec![], true, false),
    ];
    for (internal_policy, external_policy, external_ips, cluster, local) in cases {
        let service = Service {
            internal_policy,
            external_policy,
            external_ips: external_ips.clone(),
            ..service("demo/web", &["10.96.0.1"], &["http:80"])
        };
        let slice = slice("a", "demo/web", &["http:80"], endpoints("R"));
        let planner = planner([service.applied(), slice.applied()]);
        let port = only(&planner);
        let case = format!("{internal_policy:?} {external_policy:?} {external_ips:?}");
        assert_eq!(!port.cluster.is_empty(), cluster, "{case}");
        assert_eq!(!port.local.is_empty(), local, "{case}");
        assert_eq!(
            port.external_local,
            external_policy == LOCAL && !external_ips.is_empty()
        );
    }
}
