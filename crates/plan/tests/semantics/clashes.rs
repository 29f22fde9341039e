//! Claims that cut off a node or a health check: planned, and reported once while they last.

use std::num::NonZeroU16;

use model::{
    Change, Event, IngressIp, IpFamily, IpMode, Node, Service, ServiceType, TrafficPolicy,
};
use plan::Planner;
use plan::testing::{Applied, endpoint, ips, name, node, service, slice};

use super::planner;

fn depot(external: &[&str]) -> Service {
    Service {
        external_ips: ips(external),
        ..service(
            "cargo/depot",
            &["10.96.7.1", "fd00:10:96::71"],
            &["web:443"],
        )
    }
}

fn east(addresses: &[&str]) -> Node {
    node("east", addresses, &[])
}

/// A load balancer with local endpoints only.
fn crane(health_port: u16) -> Service {
    Service {
        service_type: ServiceType::LoadBalancer,
        external_policy: TrafficPolicy::Local,
        health_check_node_port: NonZeroU16::new(health_port),
        ..service("cargo/crane", &["10.96.7.2"], &["web:80:31007"])
    }
}

fn on_node_port(full_name: &str, cluster_ip: &str, port: &str) -> Service {
    Service {
        service_type: ServiceType::NodePort,
        ..service(full_name, &[cluster_ip], &[port])
    }
}

fn deleted(full_name: &str) -> Event {
    Event::Service(Change::Deleted(name(full_name)))
}

fn east_deleted() -> Event {
    Event::Node(Change::Deleted("east".into()))
}

fn warnings(planner: &mut Planner) -> Vec<String> {
    let warnings = planner.take_warnings();
    warnings.iter().map(ToString::to_string).collect()
}

/// Apply events in one batch and return the new warnings.
fn after(planner: &mut Planner, events: impl IntoIterator<Item = Event>) -> Vec<String> {
    planner.apply_all(events);
    planner.take_diff();
    warnings(planner)
}

const DEPOT_ON_EAST: &str = "Service cargo/depot: spec.externalIPs: 198.51.100.8 is an address of \
    Node east: connections to the Service's ports on it reach the Service instead of the node, and \
    in ipvs mode other nodes cannot reach the node at this address at all; use an address that no \
    node has, or a NodePort";

const CRANE_ON_WINCH: &str = "Service cargo/crane: spec.healthCheckNodePort: 32055 is also the \
    NodePort of cargo/winch:ctl: health checks of load balancers reach that Service instead of the \
    proxy; give one of the two another port";

#[test]
fn external_ip_of_a_node_is_reported_whatever_the_order() {
    let service = || depot(&["203.0.113.4", "198.51.100.8"]).applied();
    let node = || east(&["10.0.0.8", "198.51.100.8"]).applied();
    for events in [[service(), node()], [node(), service()]] {
        let mut together = planner(events.clone());
        assert_eq!(warnings(&mut together), [DEPOT_ON_EAST]);
        let [first, second] = events;
        let mut apart = planner([first]);
        assert!(warnings(&mut apart).is_empty());
        assert_eq!(after(&mut apart, [second]), [DEPOT_ON_EAST]);
        // It is planned nevertheless, as in kube-proxy.
        let ports = &apart.plan(IpFamily::V4).ports;
        let mut frontends = ports.values().flat_map(|port| port.frontends());
        assert!(frontends.any(|f| f.ip == Some(ips(&["198.51.100.8"])[0])));
    }
}

#[test]
fn clash_with_a_node_is_reported_again_only_after_it_ended() {
    let clash = || depot(&["198.51.100.8"]).applied();
    let node = || east(&["198.51.100.8"]).applied();
    let mut planner = planner([clash(), node()]);
    assert_eq!(warnings(&mut planner), [DEPOT_ON_EAST]);
    // Unrelated changes of all objects involved.
    let pods = vec![endpoint("10.244.3.3", "node1")];
    let unrelated = [
        depot(&["203.0.113.4", "198.51.100.8"]).applied(),
        east(&["10.0.0.8", "198.51.100.8"]).applied(),
        slice("depot-a", "cargo/depot", &["web:8443"], pods).applied(),
    ];
    for event in unrelated {
        assert!(after(&mut planner, [event]).is_empty());
    }
    planner.refresh();
    assert!(after(&mut planner, []).is_empty());
    // Each side ends the clash and restores it.
    let ends = [
        deleted("cargo/depot"),
        depot(&[]).applied(),
        east(&["10.0.0.8"]).applied(),
        east_deleted(),
    ];
    for end in ends {
        assert!(after(&mut planner, [end]).is_empty());
        assert_eq!(after(&mut planner, [clash(), node()]), [DEPOT_ON_EAST]);
    }
    // Changes that are reverted before they are planned end nothing.
    let reverted = [deleted("cargo/depot"), east_deleted(), node(), clash()];
    assert!(after(&mut planner, reverted).is_empty());
}

#[test]
fn deleted_own_node_keeps_its_addresses() {
    let own = || node("node1", &["198.51.100.8"], &[]).applied();
    let gone = Event::Node(Change::Deleted("node1".into()));
    let mut planner = planner([own(), depot(&["198.51.100.8"]).applied()]);
    assert_eq!(warnings(&mut planner).len(), 1);
    assert!(after(&mut planner, [gone]).is_empty());
    assert!(after(&mut planner, [own()]).is_empty());
}

#[test]
fn address_that_moves_to_another_node_is_reported_for_that_node() {
    let mut planner = planner([
        depot(&["198.51.100.8"]).applied(),
        east(&["198.51.100.8"]).applied(),
    ]);
    assert_eq!(warnings(&mut planner).len(), 1);
    let west = node("west", &["198.51.100.8"], &[]).applied();
    assert!(after(&mut planner, [west]).is_empty(), "reported already");
    let found = after(&mut planner, [east_deleted()]);
    assert!(found[0].contains("an address of Node west:"), "{found:?}");
    assert_eq!(found.len(), 1);
}

#[test]
fn load_balancer_ips_may_be_node_addresses() {
    let balanced = Service {
        service_type: ServiceType::LoadBalancer,
        ingress: vec![IngressIp {
            ip: ips(&["198.51.100.8"])[0],
            mode: IpMode::Vip,
        }],
        ..service("cargo/ferry", &["10.96.7.3"], &["web:80"])
    };
    let mut planner = planner([east(&["198.51.100.8"]).applied(), balanced.applied()]);
    assert!(warnings(&mut planner).is_empty());
}

#[test]
fn health_check_port_that_is_a_node_port_is_reported_whatever_the_order() {
    let winch = || on_node_port("cargo/winch", "10.96.7.4", "ctl:9000:32055").applied();
    for events in [
        [crane(32055).applied(), winch()],
        [winch(), crane(32055).applied()],
    ] {
        let mut together = planner(events.clone());
        assert_eq!(warnings(&mut together), [CRANE_ON_WINCH]);
        let [first, second] = events;
        let mut apart = planner([first]);
        assert!(warnings(&mut apart).is_empty());
        assert_eq!(after(&mut apart, [second]), [CRANE_ON_WINCH]);
    }
}

#[test]
fn health_check_clash_is_reported_again_only_after_it_ended() {
    let winch = || on_node_port("cargo/winch", "10.96.7.4", "ctl:9000:32055");
    let clash = || [crane(32055).applied(), winch().applied()];
    let mut planner = planner(clash());
    assert_eq!(warnings(&mut planner), [CRANE_ON_WINCH]);
    let unrelated = [
        on_node_port("cargo/winch", "10.96.7.4", "ctl:9001:32055"),
        on_node_port("cargo/barge", "10.96.7.5", "ctl:9000:32056"),
        Service {
            source_ranges: Vec::new(),
            uid: "u".into(),
            ..crane(32055)
        },
    ];
    for service in unrelated {
        assert!(after(&mut planner, [service.applied()]).is_empty());
    }
    let ends = [
        deleted("cargo/winch"),
        deleted("cargo/crane"),
        crane(32057).applied(),
        on_node_port("cargo/winch", "10.96.7.4", "ctl:9000:32058").applied(),
        Service {
            external_policy: TrafficPolicy::Cluster,
            ..crane(32055)
        }
        .applied(),
        Service {
            proxy_name: Some("other".into()),
            ..crane(32055)
        }
        .applied(),
    ];
    for end in ends {
        assert!(after(&mut planner, [end]).is_empty());
        assert_eq!(after(&mut planner, clash()), [CRANE_ON_WINCH]);
    }
}

#[test]
fn health_checks_clash_with_tcp_only() {
    let mut planner = planner([
        crane(32055).applied(),
        on_node_port("cargo/winch", "10.96.7.4", "ctl:9000:32055/UDP").applied(),
    ]);
    assert!(warnings(&mut planner).is_empty());
}

#[test]
fn equal_health_check_ports_are_reported_for_the_later_name() {
    let davit = || Service {
        service_type: ServiceType::LoadBalancer,
        external_policy: TrafficPolicy::Local,
        health_check_node_port: NonZeroU16::new(32055),
        ..service("cargo/davit", &["10.96.7.9"], &["web:80:31008"])
    };
    let expected = "Service cargo/davit: spec.healthCheckNodePort: 32055 is also the \
                    healthCheckNodePort of cargo/crane: the proxy answers health checks for only one \
                    of the two; give one of them another port";
    for events in [
        [crane(32055).applied(), davit().applied()],
        [davit().applied(), crane(32055).applied()],
    ] {
        let mut planner = planner(events);
        assert_eq!(warnings(&mut planner), [expected]);
        // Reported again only after it ended.
        assert!(after(&mut planner, [davit().applied()]).is_empty());
        assert!(after(&mut planner, [deleted("cargo/crane")]).is_empty());
        assert_eq!(after(&mut planner, [crane(32055).applied()]), [expected]);
    }
}
