//! Grouping, and the choice of Pods.

use serde_json::json;

use super::group::common;
use super::pods::{Pod, parse};

fn pod(node: &str, address: &str) -> Pod {
    Pod {
        node: node.to_owned(),
        addresses: vec![address.to_owned()],
        ..Pod::default()
    }
}

#[test]
fn answers_that_differ_in_the_node_only_are_equal() {
    let text = |node: &str, ip: &str, client: &str| {
        format!(
            "no endpoint is on {node} (see {node}.): a pod of this node ({client}) to {ip}:30080, \
             this node ({ip}) to 10.96.0.1:80"
        )
    };
    let one = common(
        &text("node1", "10.0.0.1", "10.244.1.5"),
        &pod("node1", "10.0.0.1"),
    );
    let two = common(
        &text("node2", "10.0.0.2", "10.244.2.9"),
        &pod("node2", "10.0.0.2"),
    );
    assert_eq!(one, two);
    assert!(one.contains("this node to 10.96.0.1:80"), "{one}");
    assert!(one.contains("NODE-IP:30080"), "{one}");
}

#[test]
fn names_and_addresses_within_longer_ones_are_kept() {
    for (text, node, address) in [
        ("pods on node10 and my-node1", "node1", "192.0.2.1"),
        ("to node1.example", "node1", "192.0.2.1"),
        ("to 10.0.0.11:80, 110.0.0.1", "n", "10.0.0.1"),
        ("to fd00::1:2, fd00::1f", "n", "fd00::1"),
    ] {
        assert_eq!(common(text, &pod(node, address)), text);
    }
    assert_eq!(
        common("to [fd00::1]:80", &pod("n", "fd00::1")),
        "to [NODE-IP]:80"
    );
}

#[test]
fn running_pod_is_preferred_during_an_update() {
    let item = |name: &str, phase: &str, deleted: bool| {
        let mut item = json!({
            "metadata": {"name": name, "namespace": "kube-system"},
            "spec": {"nodeName": "node1", "containers": [
                {"name": "other", "image": "other"}, {"name": "sluice", "image": "sluice:1"},
            ]},
            "status": {"phase": phase, "hostIP": "10.0.0.1", "hostIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
        });
        if deleted {
            item["metadata"]["deletionTimestamp"] = "2026-12-01T00:00:00Z".into();
        }
        item
    };
    let chosen = |items: Vec<serde_json::Value>| {
        let list = json!({"items": items}).to_string();
        let found = parse(&list, None, false).unwrap();
        found["node1"].clone()
    };
    let new = item("new", "Running", false);
    assert_eq!(
        chosen(vec![item("old", "Running", true), new.clone()]).name,
        "new"
    );
    assert_eq!(
        chosen(vec![new.clone(), item("old", "Running", true)]).name,
        "new"
    );
    assert_eq!(
        chosen(vec![new, item("late", "Pending", false)]).name,
        "new"
    );
    let pending = chosen(vec![item("late", "Pending", false)]);
    assert_eq!(pending.unusable.unwrap(), "Pod kube-system/late is Pending");
    let running = chosen(vec![item("one", "Running", false)]);
    assert_eq!(running.container, "sluice");
    assert_eq!(running.addresses, ["10.0.0.1", "fd00::1"]);
}

#[test]
fn image_decides_among_pods_with_the_label_of_kube_proxy() {
    let item = |node: &str, image: &str| {
        json!({
            "metadata": {"name": node, "namespace": "kube-system"},
            "spec": {"nodeName": node, "containers": [{"name": "kube-proxy", "image": image}]},
            "status": {"phase": "Running"},
        })
    };
    let items = [
        item("node1", "registry.k8s.io/kube-proxy:v1.36.0"),
        item("node2", "example.com/sluice:0.1.0"),
    ];
    let list = json!({"items": items}).to_string();
    let nodes = |needs_image| -> Vec<String> {
        let found = parse(&list, None, needs_image).unwrap();
        found.into_keys().collect()
    };
    assert_eq!(nodes(true), ["node2"]);
    assert_eq!(nodes(false), ["node1", "node2"]);
    assert_eq!(
        parse(&list, None, true).unwrap()["node2"].container,
        "kube-proxy"
    );
    assert_eq!(
        parse(&list, Some("x"), true).unwrap()["node2"].container,
        "x"
    );
}
