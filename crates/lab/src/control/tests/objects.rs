//! Completion of Services, and refused documents.

use super::*;

fn service(spec: &str) -> String {
    format!("{{apiVersion: v1, kind: Service, metadata: {{name: s}}, spec: {spec}}}")
}

/// A Service alone, completed.
fn completed(spec: &str) -> Value {
    good(&service(spec)).services[&name("s")].clone()
}

#[test]
fn omitted_service_fields_get_defaults() {
    let table = [
        (
            "{ports: [{port: 80}]}",
            json!({
                "type": "ClusterIP", "clusterIP": "10.96.1.0", "clusterIPs": ["10.96.1.0"],
                "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
                "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            }),
        ),
        (
            "{type: NodePort, ipFamilies: [IPv6], sessionAffinity: ClientIP, ports: [{port: 53, protocol: UDP, targetPort: dns}]}",
            json!({
                "type": "NodePort", "clusterIP": "fd00:10:96::100", "clusterIPs": ["fd00:10:96::100"],
                "ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack",
                "ports": [{"port": 53, "protocol": "UDP", "targetPort": "dns", "nodePort": 30086}],
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
                "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Cluster",
            }),
        ),
        (
            "{clusterIP: None, ipFamilyPolicy: RequireDualStack, ports: []}",
            json!({
                "type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"],
                "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack", "ports": [],
                "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            }),
        ),
        (
            "{type: ExternalName, externalName: example.com}",
            json!({"type": "ExternalName", "externalName": "example.com"}),
        ),
    ];
    for (spec, expected) in table {
        assert_eq!(completed(spec)["spec"], expected, "{spec}");
    }
}

#[test]
fn a_load_balancer_gets_addresses_ports_and_a_health_check() {
    let service = completed(
        "{type: LoadBalancer, externalTrafficPolicy: Local, ipFamilyPolicy: PreferDualStack, ports: [{port: 80}]}",
    );
    assert_eq!(service["spec"]["ports"][0]["nodePort"], 30086);
    assert_eq!(service["spec"]["healthCheckNodePort"], 30087);
    assert_eq!(
        service["status"]["loadBalancer"]["ingress"],
        json!([{"ip": "198.51.100.1", "ipMode": "VIP"}, {"ip": "2001:db8:100::1", "ipMode": "VIP"}])
    );
    let without = completed(
        "{type: LoadBalancer, allocateLoadBalancerNodePorts: false, loadBalancerIP: 198.51.100.9, ports: [{port: 80}]}",
    );
    assert_eq!(without["spec"]["ports"][0].get("nodePort"), None);
    assert_eq!(
        without["status"]["loadBalancer"]["ingress"][0]["ip"],
        "198.51.100.9"
    );
}

#[test]
fn applying_again_keeps_allocated_addresses_and_ports() {
    let mut cluster = good(&service("{type: LoadBalancer, ports: [{port: 80}]}"));
    let before = cluster.services.clone();
    let mut more = service("{type: LoadBalancer, ports: [{port: 80}]}");
    let note = cluster.apply(&Documents::from_text("x", &more), 0).notes;
    assert_eq!(
        (note, &cluster.services),
        (vec!["service/s unchanged".to_owned()], &before)
    );
    more = service("{type: LoadBalancer, ports: [{port: 81, name: b}, {port: 80, name: a}]}");
    cluster.apply(&Documents::from_text("x", &more), 0);
    let after = &cluster.services[&name("s")];
    assert_eq!(
        after["spec"]["clusterIP"],
        before[&name("s")]["spec"]["clusterIP"]
    );
    assert_eq!(after["spec"]["ports"][1]["nodePort"], 30086);
}

/// A spec, its invalid field, and the error.
const BAD_SERVICES: &[(&str, &str, &str)] = &[
    (
        "{type: NodePort, ports: [{port: 80, nodePort: 80}]}",
        "spec.ports[0].nodePort",
        "not from 30000",
    ),
    (
        "{type: NodePort, ports: [{port: 80, nodePort: 30008}]}",
        "spec.ports[0].nodePort",
        "taken by Service default/other",
    ),
    (
        "{type: ClusterIP, ports: [{port: 80, nodePort: 30009}]}",
        "spec.ports[0].nodePort",
        "type ClusterIP",
    ),
    (
        "{clusterIP: 10.96.0.10, ports: [{port: 80}]}",
        "spec.clusterIP",
        "taken by Service default/other",
    ),
    (
        "{clusterIP: 192.168.0.1, ports: [{port: 80}]}",
        "spec.clusterIP",
        "not in the Service CIDR",
    ),
    (
        "{clusterIP: banana, ports: [{port: 80}]}",
        "spec.clusterIP",
        "not an IP address",
    ),
    (
        "{ipFamilies: [IPv6], clusterIP: 10.96.0.11, ports: [{port: 80}]}",
        "spec.clusterIPs",
        "not IPv6",
    ),
    (
        "{ipFamilyPolicy: SingleStack, ipFamilies: [IPv4, IPv6], ports: [{port: 80}]}",
        "spec.ipFamilyPolicy",
        "two IP families",
    ),
    ("{ports: []}", "spec.ports", "at least one"),
    ("{ports: [{port: 0}]}", "spec.ports[0].port", "1 to 65535"),
    (
        "{ports: [{port: 80}, {port: 81}]}",
        "spec.ports[0].name",
        "must name each",
    ),
    (
        "{ports: [{port: 80, protocol: tcp}]}",
        "spec.ports[0].protocol",
        "TCP, UDP, SCTP",
    ),
    (
        "{ports: [nonsense]}",
        "spec.ports[0].port",
        "must be a port",
    ),
    (
        "{type: Nonsense, ports: [{port: 80}]}",
        "spec.type",
        "not one of",
    ),
    (
        "{selector: {app: 5}, ports: [{port: 80}]}",
        "spec.selector.app",
        "quotes",
    ),
    (
        "{loadBalancerSourceRanges: [x], ports: [{port: 80}]}",
        "spec.loadBalancerSourceRanges[0]",
        "range",
    ),
];

#[test]
fn invalid_documents_are_refused_with_name_and_field_and_affect_no_other() {
    let other = "{apiVersion: v1, kind: Service, metadata: {name: other}, spec: {type: NodePort, clusterIP: 10.96.0.10, ports: [{port: 80, nodePort: 30008}]}}";
    for (spec, field, reason) in BAD_SERVICES {
        let (cluster, applied) = cluster(&format!("{other}\n---\n{}", service(spec)));
        assert!(cluster.services.contains_key(&name("other")), "{spec}");
        assert!(!cluster.services.contains_key(&name("s")), "{spec}");
        let [error] = &applied.errors[..] else {
            panic!("{spec}: {:?}", applied.errors);
        };
        let place = format!("test.yaml: document 2 (Service default/s): {field}");
        assert_eq!(error.place, place, "{spec}");
        assert!(error.reason.contains(reason), "{spec}: {}", error.reason);
    }
}

#[test]
fn invalid_pods_and_slices_are_refused_with_their_field() {
    let table = [
        (
            "{kind: Pod, metadata: {name: p}, spec: {}}",
            "spec.containers",
        ),
        (
            "{kind: Pod, metadata: {name: p}, spec: {containers: [{ports: [{containerPort: 70000}]}]}}",
            "containerPort",
        ),
        (
            "{kind: Pod, metadata: {name: p}, spec: {nodeName: nowhere, containers: []}}",
            "node nowhere does not exist",
        ),
        (
            "{kind: Deployment, metadata: {name: d}, spec: {replicas: 1, selector: {matchLabels: {a: b}}, template: {spec: {containers: []}}}}",
            "spec.selector.matchLabels",
        ),
        ("{kind: Pod, metadata: {name: UPPER}}", "metadata.name"),
        ("{kind: Pod, metadata: {}}", "metadata.name"),
        ("{metadata: {name: p}}", "kind"),
        (
            "{kind: Service, metadata: {name: s}, spec: {type: LoadBalancer, ports: [{port: 1}]}, status: 5}",
            "status",
        ),
        ("just text", "kind"),
        ("[1, 2", "test.yaml: document 1"),
    ];
    for (text, part) in table {
        let (cluster, applied) = cluster(text);
        assert!(
            cluster.pods.is_empty() && cluster.services.is_empty(),
            "{text}"
        );
        let [error] = &applied.errors[..] else {
            panic!("{text}: {:?}", applied.errors);
        };
        assert!(error.to_string().contains(part), "{text}: {error}");
    }
}

#[test]
fn lists_are_expanded_and_ignored_kinds_are_named() {
    let (cluster, applied) = cluster(
        "
kind: List
items:
- {kind: ConfigMap, metadata: {name: c}}
- {kind: Service, metadata: {name: s, namespace: prod}, spec: {ports: [{port: 1}]}}
- {kind: Service, metadata: {name: t}}
",
    );
    assert!(cluster.services.contains_key(&name("prod/s")));
    assert!(
        applied.notes[0].contains("configmap/c ignored"),
        "{:?}",
        applied.notes
    );
    assert!(
        applied.errors[0].place.contains("document 1: items[2]"),
        "{:?}",
        applied.errors
    );
}

#[test]
fn slices_hold_at_most_a_hundred_endpoints() {
    let cluster = good(&WEB.replace("replicas: 3", "replicas: 205"));
    let sizes: Vec<usize> = cluster
        .endpoint_slices()
        .values()
        .filter(|s| s["addressType"] == "IPv6")
        .map(|s| s["endpoints"].as_array().unwrap().len())
        .collect();
    assert_eq!(sizes, [100, 100, 5]);
}

#[test]
fn hints_follow_traffic_distribution() {
    let table = [
        ("PreferClose", json!({"forZones": [{"name": "zone1"}]})),
        ("PreferSameZone", json!({"forZones": [{"name": "zone1"}]})),
        (
            "PreferSameNode",
            json!({"forZones": [{"name": "zone1"}], "forNodes": [{"name": "node1"}]}),
        ),
    ];
    for (word, hints) in table {
        let text = WEB.replace(
            "  selector: {app: web}",
            &format!("  trafficDistribution: {word}\n  selector: {{app: web}}"),
        );
        let mut cluster = good(&text);
        let first = |cluster: &Cluster| {
            cluster.endpoint_slices()[&name("web-ipv4-1")]["endpoints"][0].clone()
        };
        assert_eq!(first(&cluster)["hints"], hints, "{word}");
        cluster.set_ready(&name("web-1"), false).unwrap();
        assert_eq!(first(&cluster).get("hints"), None, "{word}");
    }
}

#[test]
fn unready_addresses_are_published_and_slices_are_kept_as_given() {
    let text = WEB.replace("  selector: {app: web}", "  publishNotReadyAddresses: true\n  selector: {app: web}")
        + "---
{kind: EndpointSlice, metadata: {name: own, labels: {kubernetes.io/service-name: own}}, addressType: IPv4, endpoints: [{addresses: [192.0.2.1]}]}
";
    let mut cluster = good(&text);
    cluster.set_ready(&name("web-1"), false).unwrap();
    assert_eq!(
        cluster.endpoint_slices()[&name("web-ipv4-1")]["endpoints"][0]["conditions"]["ready"],
        true
    );
    let published = cluster.published();
    assert_eq!(
        published["endpointslice.default.own.json"]["endpoints"][0]["addresses"][0],
        "192.0.2.1"
    );
    assert_eq!(
        published["servicecidr.kubernetes.json"]["spec"]["cidrs"],
        json!(["10.96.0.0/12", "fd00:10:96::/112"])
    );
}
