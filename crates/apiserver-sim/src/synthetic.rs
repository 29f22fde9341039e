//! Synthetic clusters of any size.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// Generate `services` Services of one port, each with a slice of `endpoints` endpoints on ten nodes;
/// the Nodes `node-0` to `node-9`; and a ServiceCIDR. The objects have the other fields of real ones:
/// selectors, owners, target references.
pub fn synthetic_cluster(services: u32, endpoints: u32) -> impl Iterator<Item = Value> {
    let nodes = (0..10).map(|n| {
        json!({
            "kind": "Node",
            "metadata": {
                "name": format!("node-{n}"),
                "labels": {"kubernetes.io/hostname": format!("node-{n}")},
            },
            "spec": {"podCIDR": format!("10.{n}.0.0/16"), "podCIDRs": [format!("10.{n}.0.0/16")]},
            "status": {"addresses": [{"type": "InternalIP", "address": format!("172.16.0.{n}")}]},
        })
    });
    let cidr = service_cidr("kubernetes", "172.30.0.0/16");
    let pairs = (0..services).flat_map(move |n| [service(n), slice_of(n, endpoints, 0)]);
    nodes.chain([cidr]).chain(pairs)
}

/// Return a ServiceCIDR with one range.
pub fn service_cidr(name: &str, range: &str) -> Value {
    json!({
        "kind": "ServiceCIDR",
        "metadata": {"name": name},
        "spec": {"cidrs": [range]},
    })
}

fn service(n: u32) -> Value {
    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 30, 0, 0)) + 10 + n).to_string();
    json!({
        "kind": "Service",
        "metadata": {
            "name": format!("svc-{n}"),
            "namespace": format!("ns-{}", n % 100),
            "uid": format!("00000000-0000-4000-8000-{n:012}"),
            "creationTimestamp": "2026-11-01T00:00:00Z",
            "labels": {"app": format!("svc-{n}")},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": ip,
            "clusterIPs": [ip],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None",
            "selector": {"app": format!("svc-{n}")},
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
        },
        "status": {"loadBalancer": {}},
    })
}

/// Return the slice of Service `n`; its endpoints differ between generations.
pub fn slice_of(n: u32, endpoints: u32, generation: u32) -> Value {
    let endpoint = |i: u32| {
        let node = (n + i) % 10;
        let number = n.wrapping_mul(endpoints).wrapping_add(i) + generation * 7;
        let ip = Ipv4Addr::from((10 << 24) | (node << 20) | (number & 0xf_ffff).max(1));
        json!({
            "addresses": [ip.to_string()],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("node-{node}"),
            "zone": format!("zone-{}", node % 3),
            "targetRef": {
                "kind": "Pod",
                "namespace": format!("ns-{}", n % 100),
                "name": format!("svc-{n}-{i}"),
                "uid": format!("00000000-0000-4000-9000-{number:012}"),
            },
        })
    };
    let endpoints: Vec<Value> = (0..endpoints).map(endpoint).collect();
    json!({
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("svc-{n}-abcde"),
            "namespace": format!("ns-{}", n % 100),
            "uid": format!("00000000-0000-4000-a000-{n:012}"),
            "creationTimestamp": "2026-11-01T00:00:00Z",
            "labels": {
                "kubernetes.io/service-name": format!("svc-{n}"),
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
            "ownerReferences": [{
                "apiVersion": "v1",
                "kind": "Service",
                "name": format!("svc-{n}"),
                "uid": format!("00000000-0000-4000-8000-{n:012}"),
                "controller": true,
                "blockOwnerDeletion": true,
            }],
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": endpoints,
    })
}
