use super::*;

mod junk;
mod objects;

/// A cluster of three nodes with the objects of a manifest.
fn cluster(text: &str) -> (Cluster, Applied) {
    let documents = Documents::from_text("test.yaml", text);
    let mut cluster = Cluster::new(&documents, 3).unwrap();
    let applied = cluster.apply(&documents, 0);
    (cluster, applied)
}

/// The same, for objects without errors.
fn good(text: &str) -> Cluster {
    let (cluster, applied) = cluster(text);
    assert_eq!(applied.errors, []);
    cluster
}

fn name(text: &str) -> ObjectName {
    ObjectName::parse(text)
}

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
";

/// Pod name, and the conditions ready, serving, terminating, of all endpoints of a family.
fn endpoints(cluster: &Cluster, family: &str) -> Vec<(String, [bool; 3])> {
    let mut found = Vec::new();
    for slice in cluster.endpoint_slices().values() {
        if slice["addressType"] != family {
            continue;
        }
        for endpoint in slice["endpoints"].as_array().unwrap() {
            let condition = |key: &str| endpoint["conditions"][key].as_bool().unwrap();
            found.push((
                endpoint["targetRef"]["name"].as_str().unwrap().to_owned(),
                ["ready", "serving", "terminating"].map(condition),
            ));
        }
    }
    found
}

const READY: [bool; 3] = [true, true, false];
const LEAVING: [bool; 3] = [false, true, true];

#[test]
fn replicas_spread_over_the_nodes_and_become_endpoints_of_both_families() {
    let cluster = good(WEB);
    let nodes: Vec<&str> = cluster.pods.values().map(|p| p.node.as_str()).collect();
    assert_eq!(nodes, ["node1", "node2", "node3"]);
    for family in ["IPv4", "IPv6"] {
        let expected = ["web-1", "web-2", "web-3"].map(|pod| (pod.to_owned(), READY));
        assert_eq!(endpoints(&cluster, family), expected);
    }
    let slice = &cluster.endpoint_slices()[&name("web-ipv4-1")];
    assert_eq!(
        slice["ports"],
        json!([{"name": "", "port": 8080, "protocol": "TCP"}])
    );
    let first = &slice["endpoints"][0];
    assert_eq!(first["addresses"], json!(["10.244.1.2"]));
    assert_eq!(
        (&first["nodeName"], &first["zone"]),
        (&json!("node1"), &json!("zone1"))
    );
}

#[test]
fn a_deleted_pod_serves_until_its_end_and_is_replaced_at_once() {
    let mut cluster = good(WEB);
    let target = Target {
        kind: "pod".to_owned(),
        name: name("web-2"),
    };
    cluster.delete(&target, None, 1000).unwrap();
    assert_eq!(
        endpoints(&cluster, "IPv4"),
        [
            ("web-1", READY),
            ("web-2", LEAVING),
            ("web-3", READY),
            ("web-4", READY)
        ]
        .map(|(pod, conditions)| (pod.to_owned(), conditions))
    );
    assert_eq!(cluster.next_end(), Some(3000));
    assert!(cluster.reap(2999).is_empty());
    assert_eq!(cluster.reap(3000), [2]);
    assert_eq!(endpoints(&cluster, "IPv4").len(), 3);
    assert!(cluster.delete(&target, None, 4000).is_err());
}

#[test]
fn an_unready_pod_that_terminates_does_not_serve() {
    let mut cluster = good(WEB);
    cluster.set_ready(&name("web-1"), false).unwrap();
    assert_eq!(endpoints(&cluster, "IPv4")[0].1, [false, false, false]);
    cluster.scale(&name("web"), 0, 0).unwrap();
    assert_eq!(endpoints(&cluster, "IPv4")[0].1, [false, false, true]);
    assert_eq!(endpoints(&cluster, "IPv4")[1].1, LEAVING);
}

#[test]
fn scaling_up_adds_and_scaling_down_ends_the_newest() {
    let mut cluster = good(WEB);
    cluster.scale(&name("web"), 5, 0).unwrap();
    assert_eq!(endpoints(&cluster, "IPv4").len(), 5);
    cluster.scale(&name("web"), 2, 0).unwrap();
    let leaving: Vec<String> = endpoints(&cluster, "IPv4")
        .into_iter()
        .filter(|(_, conditions)| *conditions == LEAVING)
        .map(|(pod, _)| pod)
        .collect();
    assert_eq!(leaving, ["web-3", "web-4", "web-5"]);
    assert!(cluster.scale(&name("nope"), 1, 0).is_err());
}

#[test]
fn a_moved_pod_is_replaced_before_it_leaves_and_stays_with_its_deployment() {
    let mut cluster = good(WEB);
    cluster.move_pod(&name("web-1"), "node3", 0).unwrap();
    let new = cluster.live_pod(&name("web-4")).unwrap();
    assert_eq!(cluster.pods[&new].node, "node3");
    assert_eq!(cluster.live_pod(&name("web-1")), None);
    cluster.reap(10_000);
    // The replacement counts: no other pod is created or terminated.
    let before = cluster.pods.clone();
    cluster.scale(&name("web"), 3, 0).unwrap();
    assert_eq!(cluster.pods, before);
    assert!(cluster.move_pod(&name("web-4"), "node9", 0).is_err());
    assert!(
        cluster.live_pod(&name("web-4")).is_some(),
        "a refused move changes nothing"
    );
}

#[test]
fn a_moved_bare_pod_keeps_its_name() {
    let mut cluster = good(
        "{apiVersion: v1, kind: Pod, metadata: {name: solo}, spec: {containers: [{name: c}]}}",
    );
    cluster.move_pod(&name("solo"), "node2", 0).unwrap();
    let nodes: Vec<&str> = cluster.pods.values().map(|p| p.node.as_str()).collect();
    assert_eq!(nodes, ["node1", "node2"]);
    assert_eq!(cluster.live_pod(&name("solo")), Some(2));
}

#[test]
fn pods_run_on_the_requested_node() {
    let cluster = good(
        "
{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {nodeName: node3, containers: []}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b}, spec: {nodeSelector: {kubernetes.io/hostname: node2}, hostNetwork: true, containers: []}}
",
    );
    let placed: Vec<_> = cluster
        .pods
        .values()
        .map(|p| (p.node.as_str(), p.ips[0].to_string()))
        .collect();
    assert_eq!(
        placed,
        [
            ("node3", "10.244.3.2".to_owned()),
            ("node2", "172.18.0.12".to_owned())
        ]
    );
}

#[test]
fn addresses_are_not_reused_at_once_and_a_full_node_refuses_pods() {
    let mut cluster = Cluster::new(&Documents::default(), 1).unwrap();
    let template = PodTemplate {
        labels: [].into(),
        node_name: None,
        node_selector: [].into(),
        host_network: false,
        ports: Vec::new(),
        grace_seconds: Some(0),
    };
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..253 {
        let id = cluster
            .add_pod(name(&format!("p{number}")), template.clone(), None)
            .unwrap();
        assert!(seen.insert(cluster.pods[&id].ips));
    }
    let full = cluster.add_pod(name("one-more"), template.clone(), None);
    assert!(full.unwrap_err().0.contains("no pod address left"));
    cluster.terminate(7, None, 0);
    cluster.reap(0);
    cluster.add_pod(name("again"), template, None).unwrap();
}

#[test]
fn a_changed_template_replaces_the_pods() {
    let mut cluster = good(WEB);
    let changed = WEB.replace("8080", "9090");
    cluster.apply(&Documents::from_text("test.yaml", &changed), 0);
    let live: Vec<u16> = cluster
        .pods
        .values()
        .filter(|p| p.gone_at.is_none())
        .map(|p| p.template.ports[0].port)
        .collect();
    assert_eq!(live, [9090, 9090, 9090]);
    // Until the old pods have ended, each port number has its own slices.
    let ports: Vec<u64> = cluster
        .endpoint_slices()
        .values()
        .filter(|s| s["addressType"] == "IPv4")
        .map(|s| s["ports"][0]["port"].as_u64().unwrap())
        .collect();
    assert_eq!(ports, [8080, 9090]);
}

#[test]
fn nodes_of_the_manifests_replace_the_default_ones() {
    let text = "
{apiVersion: v1, kind: Node, metadata: {name: left, labels: {topology.kubernetes.io/zone: a}}}
---
{apiVersion: v1, kind: Node, metadata: {name: right}, spec: {taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]}}
";
    let mut cluster = good(text);
    assert_eq!(cluster.nodes.keys().collect::<Vec<_>>(), ["left", "right"]);
    let published = cluster.published();
    let left = &published["node.left.json"];
    assert_eq!(
        left["spec"]["podCIDRs"],
        json!(["10.244.1.0/24", "fd00:10:244:1::/64"])
    );
    assert_eq!(left["metadata"]["labels"]["kubernetes.io/hostname"], "left");
    assert_eq!(
        published["node.right.json"]["spec"]["taints"][0]["effect"],
        "NoSchedule"
    );
    let stranger = Documents::from_text("x", "{kind: Node, metadata: {name: third}}");
    let applied = cluster.apply(&stranger, 0);
    assert!(
        applied.errors[0]
            .reason
            .contains("this one has left, right"),
        "{:?}",
        applied.errors
    );
}

/// WEB as another kind of workload.
fn web_as(kind: &str) -> Cluster {
    good(&WEB.replace("kind: Deployment", &format!("kind: {kind}")))
}

#[test]
fn stateful_set_has_numbered_pods_and_keeps_their_names() {
    let mut cluster = web_as("StatefulSet");
    let expected = ["web-0", "web-1", "web-2"].map(|pod| (pod.to_owned(), READY));
    assert_eq!(endpoints(&cluster, "IPv4"), expected);
    let id = cluster.live_pod(&name("web-1")).unwrap();
    let labels = &cluster.pods[&id].template.labels;
    assert_eq!(labels["statefulset.kubernetes.io/pod-name"], "web-1");
    assert_eq!(labels["apps.kubernetes.io/pod-index"], "1");

    let target = Target {
        kind: "pod".to_owned(),
        name: name("web-1"),
    };
    cluster.delete(&target, None, 0).unwrap();
    cluster.reap(10_000);
    assert!(
        cluster
            .live_pod(&name("web-1"))
            .is_some_and(|new| new != id)
    );
    cluster.scale(&name("web"), 1, 10_000).unwrap();
    cluster.reap(20_000);
    assert_eq!(endpoints(&cluster, "IPv6"), [("web-0".to_owned(), READY)]);
    cluster.move_pod(&name("web-0"), "node3", 20_000).unwrap();
    cluster.reap(30_000);
    let moved = cluster.live_pod(&name("web-0")).unwrap();
    assert_eq!(cluster.pods[&moved].node, "node3");
}

#[test]
fn daemon_set_has_one_pod_on_each_node_that_its_selector_admits() {
    let mut cluster = web_as("DaemonSet");
    let nodes = |cluster: &Cluster| -> Vec<String> {
        let live = cluster.pods.values().filter(|p| p.gone_at.is_none());
        live.map(|p| p.node.clone()).collect()
    };
    assert_eq!(nodes(&cluster), ["node1", "node2", "node3"]);
    assert_eq!(endpoints(&cluster, "IPv4").len(), 3);
    assert!(cluster.scale(&name("web"), 1, 0).is_err());
    let refused = cluster.move_pod(&name("web-1"), "node2", 0).unwrap_err();
    assert_eq!(
        refused.0,
        "pod default/web-1 is bound to its node by DaemonSet default/web"
    );
    let selective = WEB.replace("kind: Deployment", "kind: DaemonSet").replace(
        "spec: {containers",
        "spec: {nodeSelector: {role: web}, containers",
    );
    cluster.apply(&Documents::from_text("test.yaml", &selective), 0);
    assert_eq!(nodes(&cluster), [] as [&str; 0]);
    let label = "{kind: Node, metadata: {name: node2, labels: {role: web}}}";
    cluster.apply(&Documents::from_text("test.yaml", label), 0);
    assert_eq!(nodes(&cluster), ["node2"]);
    let target = Target {
        kind: "ds".to_owned(),
        name: name("web"),
    };
    cluster.delete(&target, None, 0).unwrap();
    assert_eq!(nodes(&cluster), [] as [&str; 0]);
}

#[test]
fn workloads_of_one_name_and_different_kinds_coexist() {
    let both = format!(
        "{WEB}---{}",
        WEB.replace("kind: Deployment", "kind: StatefulSet")
    );
    let mut cluster = good(&both);
    assert_eq!(endpoints(&cluster, "IPv4").len(), 6);
    let saved = serde_json::to_string(&cluster).unwrap();
    assert_eq!(serde_json::from_str::<Cluster>(&saved).unwrap(), cluster);
    let target = Target {
        kind: "StatefulSet".to_owned(),
        name: name("web"),
    };
    cluster.delete(&target, None, 0).unwrap();
    cluster.reap(10_000);
    let left = ["web-1", "web-2", "web-3"].map(|pod| (pod.to_owned(), READY));
    assert_eq!(endpoints(&cluster, "IPv4"), left);
}
