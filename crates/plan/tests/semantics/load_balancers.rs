//! Source ranges and health check ports.

use std::num::NonZeroU16;

use model::{
    Change, Endpoint, Event, IngressIp, IpFamily, IpMode, Service, ServiceType, TrafficPolicy,
};
use plan::testing::{Applied, cidrs, endpoint, ips, name, service, slice};
use plan::{HealthCheck, Planner, Reason};

use super::planner;

fn balanced() -> Service {
    Service {
        service_type: ServiceType::LoadBalancer,
        ingress: ips(&["203.0.113.1", "2001:db8::1"])
            .into_iter()
            .map(|ip| IngressIp {
                ip,
                mode: IpMode::Vip,
            })
            .collect(),
        ..service(
            "demo/web",
            &["10.96.0.1", "fd00::1"],
            &["http:80", "https:443"],
        )
    }
}

#[test]
fn source_ranges_contain_only_the_family() {
    let unrestricted = Reason::NoSourceRange;
    let every_client = |range| Reason::EveryClientAllowed(cidrs(&[range])[0]);
    // Ranges; the valid ones for IPv4 and IPv6; the warning.
    let cases = [
        (&[][..], &[][..], &[][..], vec![]),
        (
            &[
                "198.51.100.0/24",
                "2001:db8:1::/48",
                "10.0.0.0/8",
                "198.51.100.0/24",
            ],
            &["198.51.100.0/24", "10.0.0.0/8", "198.51.100.0/24"],
            &["2001:db8:1::/48"],
            vec![],
        ),
        (
            &["198.51.100.7/24", "::/0"],
            &["198.51.100.0/24"],
            &[],
            vec![],
        ),
        (
            &["10.0.0.0/8"],
            &["10.0.0.0/8"],
            &[],
            vec![unrestricted(IpFamily::V6)],
        ),
        (
            &["10.0.0.0/8", "0.0.0.0/0"],
            &[],
            &[],
            vec![every_client("0.0.0.0/0"), unrestricted(IpFamily::V6)],
        ),
    ];
    for (given, v4, v6, reasons) in cases {
        let service = Service {
            source_ranges: cidrs(given),
            ..balanced()
        };
        let mut planner = planner([service.clone().applied()]);
        for (family, expected) in [(IpFamily::V4, v4), (IpFamily::V6, v6)] {
            for port in planner.plan(family).ports.values() {
                assert_eq!(port.source_ranges, cidrs(expected), "{given:?} {family}");
            }
        }
        let warnings = planner.take_warnings();
        let got: Vec<_> = warnings.into_iter().map(|w| w.reason).collect();
        assert_eq!(got, reasons, "{given:?}");
        planner.apply(service.applied());
        planner.take_diff();
        assert!(planner.take_warnings().is_empty(), "once for each version");
    }
}

fn unready(ip: &str, terminating: bool) -> Endpoint {
    let mut endpoint = endpoint(ip, "node1");
    endpoint.conditions.ready = false;
    endpoint.conditions.terminating = terminating;
    endpoint.conditions.serving = terminating;
    endpoint
}

fn local() -> Service {
    Service {
        external_policy: TrafficPolicy::Local,
        health_check_node_port: NonZeroU16::new(30999),
        ..balanced()
    }
}

fn check(planner: &Planner, family: IpFamily) -> Option<HealthCheck> {
    planner
        .plan(family)
        .health_checks
        .get(&name("demo/web"))
        .copied()
}

fn counting(local_ready: usize) -> Option<HealthCheck> {
    let port = NonZeroU16::new(30999)?;
    Some(HealthCheck { port, local_ready })
}

#[test]
fn ready_endpoints_here_are_counted_by_address() {
    let endpoints = vec![
        endpoint("10.244.1.1", "node1"),
        endpoint("10.244.1.2", "node1"),
        endpoint("10.244.2.1", "node2"),
        unready("10.244.1.3", false),
        unready("10.244.1.4", true),
    ];
    let ports = ["http:8080", "https:8443", "metrics:9100"];
    let mut planner = planner([
        local().applied(),
        slice("a", "demo/web", &ports, endpoints).applied(),
        slice(
            "b",
            "demo/web",
            &["http:8081"],
            vec![endpoint("10.244.1.1", "node1")],
        )
        .applied(),
    ]);
    assert_eq!(check(&planner, IpFamily::V4), counting(2));
    assert_eq!(check(&planner, IpFamily::V6), counting(0));
    // Only terminating endpoints remain: traffic falls back to them, the health check does not.
    let leaving = vec![unready("10.244.1.1", true)];
    planner.apply(slice("a", "demo/web", &ports, leaving).applied());
    planner.apply(Event::EndpointSlice(Change::Deleted(name("demo/b"))));
    let diff = planner.take_diff();
    assert_eq!(diff.v4.health.len(), 1);
    assert_eq!(diff.v4.health[0].before, counting(2));
    assert_eq!(diff.v4.health[0].after, counting(0));
    let ports = planner.plan(IpFamily::V4).ports.values();
    assert_eq!(
        ports.map(|port| port.local.len()).collect::<Vec<_>>(),
        [1, 1]
    );
    assert!(diff.v6.is_empty());
    planner.apply(Event::Service(Change::Deleted(name("demo/web"))));
    let gone = planner.take_diff().v4.health;
    assert_eq!(
        gone.iter().map(|change| change.after).collect::<Vec<_>>(),
        [None]
    );
    assert_eq!(check(&planner, IpFamily::V4), None);
}

#[test]
fn only_load_balancers_with_local_policy_have_a_health_check() {
    let cases = [
        ("Local", local(), true),
        (
            "Cluster",
            Service {
                external_policy: TrafficPolicy::Cluster,
                ..local()
            },
            false,
        ),
        (
            "NodePort",
            Service {
                service_type: ServiceType::NodePort,
                ..local()
            },
            false,
        ),
        (
            "no port",
            Service {
                health_check_node_port: None,
                ..local()
            },
            false,
        ),
        (
            "headless",
            Service {
                headless: true,
                ..local()
            },
            false,
        ),
    ];
    for (case, service, checked) in cases {
        let mut planner = planner([service.applied()]);
        assert_eq!(check(&planner, IpFamily::V4).is_some(), checked, "{case}");
        let ports: Vec<_> = planner.plan(IpFamily::V4).ports.values().cloned().collect();
        assert!(
            ports
                .iter()
                .all(|p| p.health_check_node_port.is_some() == checked),
            "{case}"
        );
        let reasons: Vec<_> = planner
            .take_warnings()
            .into_iter()
            .map(|w| w.reason)
            .collect();
        let expected = if case == "no port" {
            vec![Reason::NoHealthCheckPort]
        } else {
            vec![]
        };
        assert_eq!(reasons, expected, "{case}");
    }
}
