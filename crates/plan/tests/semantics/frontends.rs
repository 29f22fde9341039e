//! Frontends of a Service.

use model::{IngressIp, IpFamily, IpMode, Service, ServiceType, SessionAffinity};
use plan::testing::{Applied, endpoint, ips, service, slice};
use plan::{Affinity, FrontendKind, Planner, Traffic};

use super::{only, planner, texts};

/// `kind address port` of every frontend of a family.
fn frontends(planner: &Planner, family: IpFamily) -> Vec<String> {
    let ports = planner.plan(family).ports.values();
    let frontends = ports.flat_map(|port| port.frontends());
    let text = |f: plan::Frontend| match f.ip {
        Some(ip) => format!("{:?} {ip} {}", f.kind, f.port),
        None => format!("{:?} {}", f.kind, f.port),
    };
    frontends.map(text).collect()
}

fn vip(ip: &str, mode: IpMode) -> IngressIp {
    let ip = ips(&[ip])[0];
    IngressIp { ip, mode }
}

#[test]
fn each_service_type_has_its_frontends() {
    let cluster_ip = || service("demo/web", &["10.96.0.1"], &["http:80"]);
    let cases: [(&str, Service, &[&str]); 7] = [
        ("ClusterIP", cluster_ip(), &["ClusterIp 10.96.0.1 80"]),
        (
            "NodePort",
            Service {
                service_type: ServiceType::NodePort,
                ..service("demo/web", &["10.96.0.1"], &["http:80:30080"])
            },
            &["ClusterIp 10.96.0.1 80", "NodePort 30080"],
        ),
        (
            "LoadBalancer, both delivery modes",
            Service {
                service_type: ServiceType::LoadBalancer,
                ingress: vec![
                    vip("203.0.113.2", IpMode::Vip),
                    vip("203.0.113.3", IpMode::Proxy),
                    vip("203.0.113.1", IpMode::Vip),
                    vip("203.0.113.2", IpMode::Vip),
                ],
                ..service("demo/web", &["10.96.0.1"], &["http:80"])
            },
            &[
                "ClusterIp 10.96.0.1 80",
                "LoadBalancerIp 203.0.113.2 80",
                "LoadBalancerIp 203.0.113.1 80",
            ],
        ),
        (
            "external IPs",
            Service {
                external_ips: ips(&["192.0.2.2", "192.0.2.1", "192.0.2.2"]),
                ..cluster_ip()
            },
            &[
                "ClusterIp 10.96.0.1 80",
                "ExternalIp 192.0.2.2 80",
                "ExternalIp 192.0.2.1 80",
            ],
        ),
        (
            "headless",
            Service {
                headless: true,
                ..service("demo/web", &[], &["http:80"])
            },
            &[],
        ),
        (
            "headless by its label alone",
            Service {
                headless: true,
                ..cluster_ip()
            },
            &[],
        ),
        (
            "ExternalName",
            Service {
                service_type: ServiceType::ExternalName,
                ..cluster_ip()
            },
            &[],
        ),
    ];
    for (case, service, expected) in cases {
        let planner = planner([service.applied()]);
        assert_eq!(frontends(&planner, IpFamily::V4), expected, "{case}");
        assert!(frontends(&planner, IpFamily::V6).is_empty(), "{case}");
    }
}

#[test]
fn services_of_another_proxy_are_not_planned() {
    let theirs = Service {
        proxy_name: Some("other".into()),
        ..service("demo/web", &["10.96.0.1"], &["http:80"])
    };
    let mut planner = planner([theirs.applied()]);
    assert!(planner.plan(IpFamily::V4).ports.is_empty());
    // Even if it belonged to this proxy before, and does again.
    planner.apply(service("demo/web", &["10.96.0.1"], &["http:80"]).applied());
    assert_eq!(planner.take_diff().v4.ports.len(), 1);
    assert_eq!(frontends(&planner, IpFamily::V4).len(), 1);
}

#[test]
fn each_port_and_protocol_is_planned_separately() {
    let service = service(
        "demo/dns",
        &["10.96.0.10"],
        &["dns:53/UDP", "dns-tcp:53/TCP", "sig:9999/SCTP"],
    );
    let slice = slice(
        "dns-a",
        "demo/dns",
        &["dns:5353/UDP", "dns-tcp:53/TCP", "sig:9998/SCTP"],
        vec![endpoint("10.244.1.1", "node1")],
    );
    let planner = planner([service.applied(), slice.applied()]);
    let ports = &planner.plan(IpFamily::V4).ports;
    let targets: Vec<_> = ports
        .values()
        .map(|port| {
            (
                port.name.to_string(),
                port.protocol.lower(),
                texts(&port.cluster),
            )
        })
        .collect();
    let to = |target: &str| vec![target.to_owned()];
    assert_eq!(
        targets,
        [
            ("demo/dns:dns".to_owned(), "udp", to("10.244.1.1:5353")),
            ("demo/dns:dns-tcp".to_owned(), "tcp", to("10.244.1.1:53")),
            ("demo/dns:sig".to_owned(), "sctp", to("10.244.1.1:9998")),
        ]
    );
    let named = |port: &plan::PortPlan| ports.get(&port.key()).map(|p| p.name.clone());
    assert!(
        ports
            .values()
            .all(|port| named(port) == Some(port.name.clone()))
    );
}

#[test]
fn each_family_has_its_own_part_of_a_dual_stack_service() {
    let service = Service {
        service_type: ServiceType::LoadBalancer,
        external_ips: ips(&["192.0.2.1", "2001:db8::1"]),
        ingress: vec![
            vip("2001:db8::2", IpMode::Vip),
            vip("203.0.113.1", IpMode::Vip),
        ],
        ..service("demo/web", &["fd00::1", "10.96.0.1"], &["http:80:30080"])
    };
    let v4 = slice(
        "a",
        "demo/web",
        &["http:80"],
        vec![endpoint("10.244.1.1", "node1")],
    );
    let v6 = slice(
        "b",
        "demo/web",
        &["http:81"],
        vec![endpoint("fd00:1::1", "node1")],
    );
    let planner = planner([service.applied(), v4.applied(), v6.applied()]);
    assert_eq!(
        frontends(&planner, IpFamily::V4),
        [
            "ClusterIp 10.96.0.1 80",
            "ExternalIp 192.0.2.1 80",
            "LoadBalancerIp 203.0.113.1 80",
            "NodePort 30080",
        ]
    );
    assert_eq!(
        frontends(&planner, IpFamily::V6),
        [
            "ClusterIp fd00::1 80",
            "ExternalIp 2001:db8::1 80",
            "LoadBalancerIp 2001:db8::2 80",
            "NodePort 30080",
        ]
    );
    let targets = IpFamily::ALL.map(|family| {
        let mut ports = planner.plan(family).ports.values();
        ports.next().map(|port| texts(&port.cluster))
    });
    assert_eq!(targets[0], Some(vec!["10.244.1.1:80".to_owned()]));
    assert_eq!(targets[1], Some(vec!["[fd00:1::1]:81".to_owned()]));
}

#[test]
fn affinity_has_its_timeout() {
    let sticky = Service {
        affinity: SessionAffinity::ClientIp {
            timeout_seconds: 600,
        },
        ..service("demo/web", &["10.96.0.1"], &["http:80"])
    };
    let planner = planner([sticky.applied()]);
    let affinity = Some(Affinity {
        timeout_seconds: 600,
    });
    assert_eq!(only(&planner).affinity, affinity);
}

#[test]
fn every_frontend_has_the_traffic_of_its_policy() {
    let service = Service {
        service_type: ServiceType::NodePort,
        external_ips: ips(&["192.0.2.1"]),
        ..service("demo/web", &["10.96.0.1"], &["http:80:30080"])
    };
    let planner = planner([service.applied()]);
    for frontend in only(&planner).frontends() {
        assert_eq!(frontend.traffic, Traffic::Reject, "{:?}", frontend.kind);
        let by_address = frontend.kind != FrontendKind::NodePort;
        assert_eq!(frontend.ip.is_some(), by_address);
    }
}
