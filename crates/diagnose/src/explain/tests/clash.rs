//! Claims of two Services, of which one cuts the other off.

use super::*;

/// `demo/web` with NodePort 30080.
fn node_port() -> Service {
    Service {
        service_type: model::ServiceType::NodePort,
        ..service("demo/web", &["10.96.0.1"], &["http:80:30080"])
    }
}

/// A Service with this external IP.
fn other(name: &str, ip: &str, ports: &[&str]) -> Service {
    Service {
        external_ips: ips(&[ip]),
        ..service(name, &["10.96.0.2"], ports)
    }
}

fn of_both(web: Service, other: Service, mode: Mode) -> Vec<Finding> {
    let all = vec![web.applied(), other.applied(), slice_of(pods()).applied()];
    let mut subject = subject(all);
    subject.mode = mode;
    objects::findings(&subject, None)
}

#[test]
fn external_ip_with_the_number_of_a_node_port_cuts_the_node_port_off() {
    let at =
        |ip: &str, port: &str, mode| of_both(node_port(), other("demo/edge", ip, &[port]), mode);
    let found = at("10.200.1.2", "proxy:30080", Mode::Nftables);
    let words = [
        "NodePort 10.200.1.2:30080/TCP",
        "demo/edge:proxy",
        "precede",
        "externalIPs",
    ];
    assert_found(&found, Cause::CutOff, Weight::Partly, &words);
    for (ip, port) in [
        ("10.200.1.2", "proxy:30081"),
        ("10.200.1.2", "proxy:30080/UDP"),
        ("192.0.2.9", "proxy:30080"),
    ] {
        assert_healthy(&at(ip, port, Mode::Nftables));
    }
}

#[test]
fn in_ipvs_mode_the_smaller_name_decides() {
    let edge = |name: &str| {
        let edge = other(name, "10.200.1.2", &["proxy:30080"]);
        of_both(node_port(), edge, Mode::Ipvs)
    };
    assert_found(
        &edge("demo/edge"),
        Cause::CutOff,
        Weight::Partly,
        &["sorts first"],
    );
    assert!(!edge("demo/zone").iter().any(|f| f.cause == Cause::CutOff));
    // The other side.
    let web = other("demo/web", "10.200.1.2", &["http:30080"]);
    let first = Service {
        service_type: model::ServiceType::NodePort,
        ..service("demo/a", &["10.96.0.9"], &["http:80:30080"])
    };
    let found = of_both(web, first, Mode::Ipvs);
    let words = ["externalIP", "NodePort of demo/a:http"];
    assert_found(&found, Cause::CutOff, Weight::Partly, &words);
}

#[test]
fn node_port_that_another_service_receives_is_no_difference_of_rules() {
    let edge = other("demo/edge", "10.200.1.2", &["proxy:30080"]);
    let edge_slice = slice("edge-a", "demo/edge", &["proxy:8080"], pods());
    let all = vec![
        node_port().applied(),
        edge.applied(),
        slice_of(pods()).applied(),
        edge_slice.applied(),
    ];
    let subject = subject(all);
    let world = World::from_facts(&facts(&[])).unwrap();
    let probes = walk(&subject, &facts(&[]), &world);
    assert!(probes.iter().any(|p| p.packet.dport == 80));
    assert!(probes.iter().all(|p| p.packet.dport != 30080));
}

fn local(name: &str, ip: &str, node_port: &str) -> Service {
    Service {
        service_type: model::ServiceType::LoadBalancer,
        external_policy: TrafficPolicy::Local,
        health_check_node_port: std::num::NonZeroU16::new(30073),
        ..service(name, &[ip], &[node_port])
    }
}

#[test]
fn health_check_port_is_reported_at_both_services() {
    let edge = local("demo/edge", "10.96.0.2", "http:80:31162");
    let clashing = Service {
        service_type: model::ServiceType::NodePort,
        ..service("demo/web", &["10.96.0.1"], &["http:80:30073"])
    };
    let found = of_both(clashing, edge.clone(), Mode::Nftables);
    let words = ["NodePort 30073", "Service demo/edge", "health checks"];
    assert_found(&found, Cause::HealthCheckPort, Weight::Note, &words);
    // Reported by the plan at the Service whose name sorts last.
    let web = local("demo/web", "10.96.0.1", "http:80:31163");
    let found = of_both(web, edge, Mode::Nftables);
    assert_found(
        &found,
        Cause::LeftOut,
        Weight::Partly,
        &["demo/edge", "30073"],
    );
    let web = local("demo/web", "10.96.0.1", "http:80:31163");
    let zone = local("demo/zone", "10.96.0.2", "http:80:31162");
    let found = of_both(web, zone, Mode::Nftables);
    let words = ["30073", "Service demo/zone", "only one"];
    assert_found(&found, Cause::HealthCheckPort, Weight::Partly, &words);
}

#[test]
fn external_ip_that_is_a_pods_address_is_reported_at_both_services() {
    let edge = other("demo/edge", "10.244.2.11", &["http:8080"]);
    let found = of_both(web(), edge.clone(), Mode::Iptables);
    let words = [
        "endpoint 10.244.2.11",
        "externalIP of demo/edge",
        "direct connections",
    ];
    assert_found(&found, Cause::ExternalIpIsPod, Weight::Note, &words);
    assert_healthy(&found);
    // Clients of a headless Service connect to its endpoints directly.
    let headless = Service {
        headless: true,
        ..web()
    };
    let found = of_both(headless, edge, Mode::Iptables);
    assert_found(&found, Cause::ExternalIpIsPod, Weight::Partly, &words);
    let hijacking = other("demo/web", "10.244.3.7", &["http:80"]);
    let victim = slice(
        "db-a",
        "demo/db",
        &["db:5432"],
        vec![endpoint("10.244.3.7", "node2")],
    );
    let all = vec![
        hijacking.applied(),
        victim.applied(),
        slice_of(pods()).applied(),
    ];
    let found = objects::findings(&subject(all), None);
    let words = ["10.244.3.7", "endpoint of demo/db"];
    assert_found(&found, Cause::ExternalIpIsPod, Weight::Partly, &words);
}

#[test]
fn node_name_of_another_machine_is_recognised_by_the_addresses() {
    let mut facts = facts(&[]);
    let other = node("node2", &["10.200.1.3"], &[]);
    let all = vec![other.applied(), web().applied(), slice_of(pods()).applied()];
    let subject = subject(all);
    let found = host::settings(&subject, &facts, &[]);
    assert!(
        !found.iter().any(|f| f.cause == Cause::NodeName),
        "{found:?}"
    );
    for interface in &mut facts.interfaces {
        interface.addresses.retain(|a| a.addr().is_loopback());
    }
    let found = host::settings(&subject, &facts, &[]);
    assert!(
        !found.iter().any(|f| f.cause == Cause::NodeName),
        "{found:?}"
    );
    facts.interfaces[0]
        .addresses
        .push("10.200.1.3/24".parse().unwrap());
    let found = host::settings(&subject, &facts, &[]);
    let words = [
        "node1",
        "10.200.1.2",
        "Node node2",
        "--hostname-override=node2",
    ];
    assert_found(&found, Cause::NodeName, Weight::Broken, &words);
}
