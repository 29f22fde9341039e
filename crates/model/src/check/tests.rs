//! Refusals, ignored parts and defaults.

use super::address::{parse_cidr, parse_ip};
use super::time::parse_rfc3339;

#[test]
fn addresses_parse_as_in_the_api_server() {
    let ip = |s: &str| parse_ip(s).map(|ip| ip.to_string());
    assert_eq!(ip("10.0.0.1").as_deref(), Some("10.0.0.1"));
    assert_eq!(ip("010.000.0.08").as_deref(), Some("10.0.0.8"));
    assert_eq!(ip("::ffff:10.0.0.1").as_deref(), Some("10.0.0.1"));
    assert_eq!(ip("FD00::1").as_deref(), Some("fd00::1"));
    for bad in [
        "",
        " ",
        "10.0.0",
        "10.0.0.1.2",
        "10.0.0.256",
        "10.0.0.-1",
        "10.0.0.1/32",
        "a.b.c.d",
        "1.2.3.",
        "fe80::1%eth0",
        ":::",
        "10.0.0.1 ",
        "１.2.3.4",
    ] {
        assert_eq!(ip(bad), None, "{bad:?}");
    }
}

#[test]
fn ranges_are_masked() {
    let cidr = |s: &str| parse_cidr(s).map(|c| c.to_string());
    assert_eq!(cidr("10.1.2.3/8").as_deref(), Some("10.0.0.0/8"));
    assert_eq!(cidr("fd00::1/64").as_deref(), Some("fd00::/64"));
    assert_eq!(cidr("0.0.0.0/0").as_deref(), Some("0.0.0.0/0"));
    for bad in [
        "",
        "10.0.0.0",
        "10.0.0.0/33",
        "fd00::/129",
        "10.0.0.0/",
        "10.0.0.0/+8",
        "10.0.0.0/-1",
        "10.0.0.0/08x",
        " 10.0.0.0/8",
        "10.0.0.0/8 ",
        "::ffff:10.0.0.0/104",
        "/8",
    ] {
        assert_eq!(cidr(bad), None, "{bad:?}");
    }
}

#[test]
fn times_are_counted_from_the_epoch() {
    assert_eq!(parse_rfc3339("1970-01-01T00:00:00Z"), Some(0));
    assert_eq!(parse_rfc3339("2026-11-21T09:19:25Z"), Some(1_795_252_765));
    assert_eq!(
        parse_rfc3339("2026-11-21T09:19:25.123456789Z"),
        Some(1_795_252_765)
    );
    assert_eq!(
        parse_rfc3339("2026-11-21T10:19:25+01:00"),
        Some(1_795_252_765)
    );
    assert_eq!(
        parse_rfc3339("2000-02-29T23:59:59-00:30"),
        Some(951_870_599)
    );
    for bad in [
        "",
        "2026",
        "2026-11-21",
        "2026-13-01T00:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:00:00",
        "2026-01-01T00:00:00.Z",
        "2026-01-01T00:00:00+1:00",
        "-026-01-01T00:00:00Z",
        "2026-01-01T00:00:00Zé",
    ] {
        assert_eq!(parse_rfc3339(bad), None, "{bad:?}");
    }
}

mod objects {
    use crate::object::{self, Metadata};
    use crate::{
        Checked, EndpointSlice, Interner, IpMode, Node, Service, SessionAffinity, TrafficPolicy,
    };

    fn metadata(name: &str) -> Metadata {
        Metadata {
            name: name.into(),
            namespace: "demo".into(),
            ..Metadata::default()
        }
    }

    fn strings(of: &[&str]) -> Vec<String> {
        of.iter().map(ToString::to_string).collect()
    }

    fn service(change: impl FnOnce(&mut object::Service)) -> Checked<Service> {
        let mut service = object::Service {
            metadata: metadata("web"),
            ..object::Service::default()
        };
        service.spec.cluster_ip = "10.96.0.1".into();
        service.spec.ports = vec![object::ServicePort {
            port: Some(80),
            ..object::ServicePort::default()
        }];
        change(&mut service);
        Service::check(service, &mut Interner::new()).expect("a Service that can be used")
    }

    fn ingress(ips: &[&str]) -> Vec<object::LoadBalancerIngress> {
        let one = |ip: &&str| object::LoadBalancerIngress {
            ip: ip.to_string(),
            ip_mode: None,
            hostname: String::new(),
        };
        ips.iter().map(one).collect()
    }

    #[test]
    fn omitted_fields_have_the_defaults_of_the_api() {
        let service = service(|s| s.spec.session_affinity = "ClientIP".into()).value;
        assert_eq!(service.name.to_string(), "demo/web");
        assert_eq!(service.ports[0].protocol, crate::Protocol::Tcp);
        assert_eq!(service.ports[0].node_port, None);
        assert_eq!(service.internal_policy, TrafficPolicy::Cluster);
        assert_eq!(service.external_policy, TrafficPolicy::Cluster);
        let timeout_seconds = 10_800;
        assert_eq!(
            service.affinity,
            SessionAffinity::ClientIp { timeout_seconds }
        );
        assert!(!service.headless && service.proxy_name.is_none());
    }

    #[test]
    fn labels_with_any_value_mark_services_headless_or_of_another_proxy() {
        let service = service(|s| {
            s.metadata.labels = ["headless", "service-proxy-name"]
                .map(|l| (format!("service.kubernetes.io/{l}"), String::new()))
                .into();
        });
        assert!(service.value.headless);
        assert_eq!(service.value.proxy_name.as_deref(), Some(""));
    }

    #[test]
    fn services_without_addresses_need_no_ports() {
        for (service_type, cluster_ip) in [("ExternalName", ""), ("", "None")] {
            let checked = service(|s| {
                s.spec.service_type = service_type.into();
                s.spec.cluster_ip = cluster_ip.into();
                s.spec.ports.clear();
            });
            assert_eq!(checked.warnings, []);
            assert_eq!(checked.value.headless, cluster_ip == "None");
        }
    }

    /// Return the remaining load-balancer addresses and ranges.
    fn guarded(ranges: &[&str]) -> (Vec<String>, Vec<String>) {
        let checked = service(|s| {
            s.spec.load_balancer_source_ranges = strings(ranges);
            s.status.load_balancer.ingress = ingress(&["192.0.2.1", "2001:db8::1"]);
        });
        let ips = checked.value.ingress.iter().map(|i| i.ip.to_string());
        let ranges = checked.value.source_ranges.iter().map(ToString::to_string);
        (ips.collect(), ranges.collect())
    }

    #[test]
    fn source_ranges_that_do_not_parse_never_open_a_service() {
        let (v4, v6) = ("192.0.2.1", "2001:db8::1");
        let none: [&str; 0] = [];
        let check = |ranges: &[&str], ips: &[&str], left: &[&str]| {
            assert_eq!(guarded(ranges), (strings(ips), strings(left)), "{ranges:?}");
        };
        // No range: open, as intended.
        check(&[], &[v4, v6], &none);
        // A valid range of the family remains: it applies.
        check(&["10.0.0.0/8", "10.0.0.0/x"], &[v4, v6], &["10.0.0.0/8"]);
        // No valid range of the family remains: closed.
        check(&["10.0.0.0/x"], &[v6], &none);
        check(&["fd00::/x", "10.0.0.0/8"], &[v4], &["10.0.0.0/8"]);
        // The intended family is unknown.
        check(&["office"], &none, &none);
        check(&[""], &none, &none);
        check(&["office", "10.0.0.0/8"], &[v4], &["10.0.0.0/8"]);
        // A range of one family does not restrict the other, as in kube-proxy.
        check(&["10.0.0.0/8"], &[v4, v6], &["10.0.0.0/8"]);
    }

    #[test]
    fn the_mode_of_an_ingress_address_is_kept() {
        let checked = service(|s| {
            s.status.load_balancer.ingress = ingress(&["192.0.2.1", "192.0.2.2"]);
            s.status.load_balancer.ingress[1].ip_mode = Some("Proxy".into());
        });
        let modes: Vec<_> = checked.value.ingress.iter().map(|i| i.mode).collect();
        assert_eq!(modes, [IpMode::Vip, IpMode::Proxy]);
    }

    #[test]
    fn omitted_conditions_have_the_defaults_of_the_api() {
        let conditions = |ready, serving, terminating| {
            let slice = object::EndpointSlice {
                metadata: metadata("a"),
                address_type: "IPv4".into(),
                endpoints: vec![object::Endpoint {
                    addresses: strings(&["10.0.0.1"]),
                    conditions: object::EndpointConditions {
                        ready,
                        serving,
                        terminating,
                    },
                    ..object::Endpoint::default()
                }],
                ..object::EndpointSlice::default()
            };
            let slice = EndpointSlice::check(slice, &mut Interner::new()).expect("a slice");
            let c = slice.value.endpoints[0].conditions;
            (c.ready, c.serving, c.terminating)
        };
        assert_eq!(conditions(None, None, None), (true, true, false));
        assert_eq!(conditions(Some(false), None, None), (false, true, false));
        let draining = conditions(Some(false), Some(true), Some(true));
        assert_eq!(draining, (false, true, true));
    }

    #[test]
    fn unready_endpoints_keep_their_pod_name() {
        let endpoint = |address: &str, ready, kind: &str| object::Endpoint {
            addresses: strings(&[address]),
            conditions: object::EndpointConditions {
                ready,
                ..object::EndpointConditions::default()
            },
            target_ref: object::TargetRef {
                kind: kind.into(),
                name: format!("of-{address}"),
            },
            ..object::Endpoint::default()
        };
        let slice = object::EndpointSlice {
            metadata: metadata("a"),
            address_type: "IPv4".into(),
            endpoints: vec![
                endpoint("10.0.0.1", None, "Pod"),
                endpoint("10.0.0.2", Some(false), "Pod"),
                endpoint("10.0.0.3", Some(false), "VirtualMachine"),
            ],
            ..object::EndpointSlice::default()
        };
        let slice = EndpointSlice::check(slice, &mut Interner::new()).expect("a slice");
        let expected = ("10.0.0.2".parse().unwrap(), Box::from("of-10.0.0.2"));
        assert_eq!(*slice.value.unready_pods, [expected]);
    }

    #[test]
    fn an_invalid_endpoint_affects_no_other() {
        let endpoint = |address: &str| object::Endpoint {
            addresses: strings(&[address]),
            node_name: Some("node1".into()),
            ..object::Endpoint::default()
        };
        let slice = object::EndpointSlice {
            metadata: metadata("a"),
            address_type: "IPv6".into(),
            endpoints: ["fd00::1", "10.0.0.1", "?", "::1", "fd00::2"]
                .map(endpoint)
                .into(),
            ..object::EndpointSlice::default()
        };
        let mut interner = Interner::new();
        let checked = EndpointSlice::check(slice, &mut interner).expect("a slice");
        let endpoints = &checked.value.endpoints;
        assert_eq!((endpoints.len(), checked.warnings.len()), (2, 3));
        // The node's name is stored once.
        let node = |i: usize| endpoints[i].node_name.clone().expect("a node");
        assert!(std::sync::Arc::ptr_eq(&node(0), &node(1)));
    }

    #[test]
    fn deleted_or_tainted_nodes_are_marked_as_leaving() {
        let node = |change: fn(&mut object::Node)| {
            let mut node = object::Node {
                metadata: metadata("n"),
                ..object::Node::default()
            };
            change(&mut node);
            Node::check(node, &mut Interner::new())
                .expect("a Node")
                .value
        };
        assert!(!node(|_| ()).deleting);
        assert!(
            node(|n| n.metadata.deletion_timestamp = Some("2026-01-01T00:00:00Z".into())).deleting
        );
        assert!(
            node(|n| {
                let key = "ToBeDeletedByClusterAutoscaler".into();
                n.spec.taints.push(object::Taint { key });
            })
            .deleting
        );
        // `podCIDRs` precedes `podCIDR`.
        let ranges = node(|n| {
            n.spec.pod_cidr = "10.0.0.0/24".into();
            n.spec.pod_cidrs = strings(&["10.1.0.0/24", "fd00::/64"]);
        });
        assert_eq!(ranges.pod_cidrs.len(), 2);
    }

    #[test]
    fn unused_strings_are_dropped() {
        let mut interner = Interner::new();
        let kept = interner.intern("kept");
        for i in 0..5000 {
            interner.intern(&i.to_string());
        }
        assert!(interner.len() <= 1025);
        assert!(std::sync::Arc::ptr_eq(&kept, &interner.intern("kept")));
    }
}
