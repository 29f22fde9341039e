//! Several Services that claim one address, and addresses that no Service can have.

use model::{Change, Event, IngressIp, IpFamily, IpMode, Key, Service, ServiceType};
use plan::testing::{Applied, ips, name, service};
use plan::{Planner, Reason, Warning};

use super::planner;

/// Return the owners of addresses as `address:port/protocol service`.
fn holders(planner: &Planner) -> Vec<String> {
    let ports = planner.plan(IpFamily::V4).ports.values();
    let frontends = ports.flat_map(|port| {
        port.frontends().map(move |f| {
            let at = f.ip.map_or("*".to_owned(), |ip| ip.to_string());
            format!("{at}:{}/{} {}", f.port, port.protocol.lower(), port.name)
        })
    });
    let mut holders: Vec<_> = frontends.collect();
    holders.sort();
    holders
}

fn external(full_name: &str, cluster_ip: &str, external: &[&str]) -> Service {
    Service {
        external_ips: ips(external),
        ..service(full_name, &[cluster_ip], &["http:80"])
    }
}

fn delete(full_name: &str) -> Event {
    Event::Service(Change::Deleted(name(full_name)))
}

#[test]
fn the_smaller_name_wins_among_equal_claims_in_any_order() {
    let a = || external("demo/a", "10.96.0.1", &["192.0.2.1"]).applied();
    let b = || external("demo/b", "10.96.0.2", &["192.0.2.1", "192.0.2.2"]).applied();
    let expected = [
        "10.96.0.1:80/tcp demo/a:http",
        "10.96.0.2:80/tcp demo/b:http",
        "192.0.2.1:80/tcp demo/a:http",
        "192.0.2.2:80/tcp demo/b:http",
    ];
    for events in [[a(), b()], [b(), a()]] {
        let mut planner = planner(events);
        assert_eq!(holders(&planner), expected);
        let warnings = planner.take_warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!(
            warnings[0].to_string(),
            "Service demo/b: spec.externalIPs: 192.0.2.1 port 80/TCP is ignored: \
             demo/a:http already uses it"
        );
        // Reported once, even if the Service is planned again.
        planner.apply(delete("demo/c"));
        planner.apply(external("demo/c", "10.96.0.3", &["192.0.2.1"]).applied());
        planner.take_diff();
        let objects: Vec<_> = planner
            .take_warnings()
            .into_iter()
            .map(|w| w.object)
            .collect();
        assert_eq!(objects, [Key::Service(name("demo/c"))]);
        // The next claimant receives a free address.
        planner.apply(delete("demo/a"));
        planner.take_diff();
        let at = |planner: &Planner| {
            let mut holders = holders(planner).into_iter();
            holders.find(|text| text.starts_with("192.0.2.1:"))
        };
        assert_eq!(
            at(&planner).as_deref(),
            Some("192.0.2.1:80/tcp demo/b:http")
        );
        planner.apply(a());
        planner.take_diff();
        assert_eq!(
            at(&planner).as_deref(),
            Some("192.0.2.1:80/tcp demo/a:http")
        );
    }
}

#[test]
fn other_ports_and_protocols_of_an_address_do_not_conflict() {
    let on = |full_name, cluster_ip, port| Service {
        service_type: ServiceType::NodePort,
        external_ips: ips(&["192.0.2.1"]),
        ..service(full_name, &[cluster_ip], &[port])
    };
    let mut planner = planner([
        on("demo/a", "10.96.0.1", "x:53:30053/UDP").applied(),
        on("demo/b", "10.96.0.2", "x:53:30053/TCP").applied(),
        on("demo/c", "10.96.0.3", "x:54:30054/UDP").applied(),
    ]);
    assert_eq!(holders(&planner).len(), 9);
    assert!(planner.take_warnings().is_empty());
}

#[test]
fn external_ips_never_win_against_allocated_addresses() {
    let balanced = Service {
        service_type: ServiceType::LoadBalancer,
        ingress: vec![IngressIp {
            ip: ips(&["203.0.113.1"])[0],
            mode: IpMode::Vip,
        }],
        ..service("demo/z", &["10.96.0.9"], &["http:80"])
    };
    let grabbing = external("demo/a", "10.96.0.1", &["10.96.0.9", "203.0.113.1"]);
    let mut planner = planner([grabbing.applied(), balanced.applied()]);
    assert_eq!(
        holders(&planner),
        [
            "10.96.0.1:80/tcp demo/a:http",
            "10.96.0.9:80/tcp demo/z:http",
            "203.0.113.1:80/tcp demo/z:http",
        ]
    );
    assert_eq!(planner.take_warnings().len(), 2);
}

#[test]
fn the_first_name_wins_a_node_port() {
    let on = |full_name, cluster_ip| Service {
        service_type: ServiceType::NodePort,
        ..service(full_name, &[cluster_ip], &["http:80:30080"])
    };
    let mut planner = planner([
        on("demo/b", "10.96.0.2").applied(),
        on("demo/a", "10.96.0.1").applied(),
    ]);
    let node_ports: Vec<_> = holders(&planner)
        .into_iter()
        .filter(|h| h.starts_with('*'))
        .collect();
    assert_eq!(node_ports, ["*:30080/tcp demo/a:http"]);
    let warnings = planner.take_warnings();
    assert_eq!(warnings[0].field, "spec.ports[0].nodePort");
}

#[test]
fn a_port_that_lost_its_cluster_ip_claims_no_other_frontend() {
    let first = external("demo/a", "10.96.0.1", &[]);
    let same = external("demo/b", "10.96.0.1", &["192.0.2.1"]);
    let other = external("demo/c", "10.96.0.3", &["192.0.2.1"]);
    let mut planner = planner([same.applied(), other.applied(), first.applied()]);
    assert_eq!(
        holders(&planner),
        [
            "10.96.0.1:80/tcp demo/a:http",
            "10.96.0.3:80/tcp demo/c:http",
            "192.0.2.1:80/tcp demo/c:http",
        ]
    );
    planner.apply(delete("demo/a"));
    planner.take_diff();
    assert_eq!(
        holders(&planner),
        [
            "10.96.0.1:80/tcp demo/b:http",
            "10.96.0.3:80/tcp demo/c:http",
            "192.0.2.1:80/tcp demo/b:http",
        ]
    );
}

#[test]
fn ports_of_one_service_conflict_with_each_other() {
    let twice = service("demo/a", &["10.96.0.1"], &["y:80", "x:80", "x:81", "z:82"]);
    let mut planner = planner([twice.applied()]);
    assert_eq!(
        holders(&planner),
        ["10.96.0.1:80/tcp demo/a:x", "10.96.0.1:82/tcp demo/a:z"]
    );
    let reasons: Vec<_> = planner
        .take_warnings()
        .into_iter()
        .map(|w| (w.field, w.reason))
        .collect();
    assert_eq!(reasons.len(), 2);
    assert!(
        matches!(reasons[0], (ref field, Reason::DuplicatePort(..)) if field == "spec.ports[2].name")
    );
    assert!(matches!(reasons[1].1, Reason::Taken { ip: Some(_), .. }));
}

#[test]
fn an_address_in_two_fields_of_one_port_is_not_a_conflict() {
    let both = Service {
        service_type: ServiceType::LoadBalancer,
        external_ips: ips(&["203.0.113.1"]),
        ingress: vec![IngressIp {
            ip: ips(&["203.0.113.1"])[0],
            mode: IpMode::Vip,
        }],
        ..service("demo/a", &["10.96.0.1"], &["http:80"])
    };
    let mut planner = planner([both.applied()]);
    assert_eq!(holders(&planner).len(), 3);
    assert!(planner.take_warnings().is_empty());
}

#[test]
fn addresses_of_a_family_without_cluster_ip_are_omitted() {
    let v4_only = Service {
        service_type: ServiceType::LoadBalancer,
        external_ips: ips(&["192.0.2.1", "2001:db8::1"]),
        ingress: ips(&["2001:db8::2", "203.0.113.1"])
            .into_iter()
            .map(|ip| IngressIp {
                ip,
                mode: IpMode::Vip,
            })
            .collect(),
        ..service("demo/a", &["10.96.0.1"], &["http:80"])
    };
    let mut planner = planner([v4_only.applied()]);
    assert_eq!(holders(&planner).len(), 3);
    assert!(planner.plan(IpFamily::V6).ports.is_empty());
    let object = Key::Service(name("demo/a"));
    let warning = |field: &str, ip: &str| Warning {
        object: object.clone(),
        field: field.to_owned(),
        reason: Reason::NoClusterIp(ips(&[ip])[0]),
    };
    assert_eq!(
        planner.take_warnings(),
        [
            warning("spec.externalIPs[1]", "2001:db8::1"),
            warning("status.loadBalancer.ingress[0].ip", "2001:db8::2"),
        ]
    );
}
