//! Manifests with any of their values replaced by junk: errors, never a panic.

use super::*;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: s, namespace: n, labels: {a: b}}
spec:
  type: LoadBalancer
  clusterIPs: [10.96.0.7, 'fd00:10:96::7']
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  externalTrafficPolicy: Local
  healthCheckNodePort: 30001
  loadBalancerIP: 198.51.100.3
  loadBalancerSourceRanges: [10.0.0.0/8]
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}
  selector: {app: web}
  ports: [{name: a, port: 80, targetPort: http, nodePort: 30002}, {name: b, port: 53, protocol: UDP}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.4}]}}
---
{kind: EndpointSlice, metadata: {name: e}, addressType: IPv4, endpoints: [{addresses: [1.2.3.4]}], ports: []}
---
{kind: Node, metadata: {name: node1, labels: {x: y}}, spec: {taints: [{key: k}]}}
---
";

/// Every value of a document, by JSON pointer.
fn pointers(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let key = key.replace('~', "~0").replace('/', "~1");
                pointers(value, &format!("{at}/{key}"), all);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                pointers(value, &format!("{at}/{index}"), all);
            }
        }
        _ => {}
    }
}

#[test]
fn junk_values_are_errors_or_ignored() {
    let junk = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1e300),
        json!(u64::MAX),
        json!(""),
        json!("None"),
        json!("ÿ/..\u{0}"),
        json!([]),
        json!([null]),
        json!([[1]]),
        json!({}),
        json!({"": {"": 1}}),
    ];
    let documents = Documents::from_text("junk.yaml", &format!("{SERVICE}{WEB}"));
    assert_eq!(documents.errors, []);
    let mut tried = 0;
    for (index, document) in documents.good.iter().enumerate() {
        let mut all = Vec::new();
        pointers(&document.value, "", &mut all);
        for pointer in &all {
            for value in &junk {
                let mut bent = document.value.clone();
                *bent.pointer_mut(pointer).unwrap() = value.clone();
                let bent = Documents::from_text("bent.json", &bent.to_string());
                // Alone; then replacing valid documents, and in addition to them.
                let mut cluster = Cluster::new(&Documents::default(), 3).unwrap();
                cluster.apply(&bent, 0);
                cluster.apply(&documents, 1);
                cluster.apply(&bent, 2);
                let published = cluster.published();
                let stands = documents.good.len() - 1;
                assert!(published.len() > stands, "{index} {pointer} {value}");
                tried += 1;
            }
        }
    }
    assert!(tried > 1000, "{tried}");
}
