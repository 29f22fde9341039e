//! The EndpointSlice controller: slices from selectors.

use std::collections::BTreeMap;

use model::{IpFamily, Protocol};
use serde_json::{Value, json};

use super::Cluster;
use super::address::slot;
use super::workload::{Pod, protocol_of};
use crate::manifest::ObjectName;

/// Upstream's default for `--max-endpoints-per-slice`.
pub(super) const MAX_ENDPOINTS: usize = 100;

/// Return the slices of one Service in both families.
pub(super) fn of_service(
    cluster: &Cluster,
    name: &ObjectName,
    service: &Value,
) -> Vec<(ObjectName, Value)> {
    let Some(selector) = service.pointer("/spec/selector").and_then(Value::as_object) else {
        return Vec::new();
    };
    if selector.is_empty() {
        return Vec::new();
    }
    let pods: Vec<&Pod> = cluster
        .pods
        .values()
        .filter(|pod| pod.name.namespace == name.namespace)
        .filter(|pod| {
            selector
                .iter()
                .all(|(k, v)| pod.template.labels.get(k).map(String::as_str) == v.as_str())
        })
        .collect();
    let mut slices = Vec::new();
    for family in IpFamily::ALL {
        if has_family(service, family) {
            slices.extend(of_family(cluster, name, service, &pods, family));
        }
    }
    slices
}

fn has_family(service: &Value, family: IpFamily) -> bool {
    service
        .pointer("/spec/ipFamilies")
        .and_then(Value::as_array)
        .is_some_and(|families| families.contains(&json!(family.to_string())))
}

/// Pods whose named ports have the same numbers share slices.
fn of_family(
    cluster: &Cluster,
    name: &ObjectName,
    service: &Value,
    pods: &[&Pod],
    family: IpFamily,
) -> Vec<(ObjectName, Value)> {
    let wanted = service.pointer("/spec/ports").and_then(Value::as_array);
    let wanted = wanted.map(Vec::as_slice).unwrap_or_default();
    let mut groups: BTreeMap<Vec<(String, &'static str, u16)>, Vec<&Pod>> = BTreeMap::new();
    for pod in pods {
        let ports: Vec<_> = wanted
            .iter()
            .filter_map(|port| resolved(port, pod))
            .collect();
        if !ports.is_empty() || wanted.is_empty() {
            groups.entry(ports).or_default().push(pod);
        }
    }
    let chunks = groups
        .iter()
        .flat_map(|(ports, pods)| pods.chunks(MAX_ENDPOINTS).map(move |chunk| (ports, chunk)));
    chunks
        .enumerate()
        .map(|(index, (ports, pods))| {
            let ending = family.to_string().to_lowercase();
            let slice_name = ObjectName {
                namespace: name.namespace.clone(),
                name: format!("{}-{ending}-{}", name.name, index + 1),
            };
            let endpoints: Vec<Value> = pods
                .iter()
                .map(|pod| endpoint(cluster, service, pod, family))
                .collect();
            let value = slice(name, &slice_name, service, family, ports, &endpoints);
            (slice_name, value)
        })
        .collect()
}

/// Resolve a Service port for a pod: name, protocol, number. A named target port is the pod's container
/// port with that name and protocol.
fn resolved(port: &Value, pod: &Pod) -> Option<(String, &'static str, u16)> {
    let text = |key: &str| port.get(key).and_then(Value::as_str);
    let protocol = text("protocol")
        .and_then(protocol_of)
        .unwrap_or(Protocol::Tcp);
    let number = match port.get("targetPort").or_else(|| port.get("port"))? {
        Value::String(wanted) => pod
            .template
            .ports
            .iter()
            .find(|p| p.name.as_ref() == Some(wanted) && p.protocol == protocol)
            .map(|p| p.port)?,
        number => u16::try_from(number.as_u64()?).ok()?,
    };
    Some((
        text("name").unwrap_or_default().to_owned(),
        protocol.upper(),
        number,
    ))
}

fn slice(
    service_name: &ObjectName,
    name: &ObjectName,
    service: &Value,
    family: IpFamily,
    ports: &[(String, &'static str, u16)],
    endpoints: &[Value],
) -> Value {
    let mut labels = json!({
        "kubernetes.io/service-name": service_name.name,
        "endpointslice.kubernetes.io/managed-by": "sluice-lab",
    });
    // The controller copies the Service's labels; these two decide which proxy uses the slice.
    for label in [
        "service.kubernetes.io/service-proxy-name",
        "service.kubernetes.io/headless",
    ] {
        if let Some(value) = service
            .get("metadata")
            .and_then(|m| m.get("labels")?.get(label))
        {
            labels[label] = value.clone();
        }
    }
    if service.pointer("/spec/clusterIP") == Some(&json!("None")) {
        labels["service.kubernetes.io/headless"] = json!("");
    }
    let ports: Vec<Value> = ports
        .iter()
        .map(|(name, protocol, port)| json!({"name": name, "protocol": protocol, "port": port}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name.name, "namespace": name.namespace, "labels": labels},
        "addressType": family.to_string(),
        "ports": ports,
        "endpoints": endpoints,
    })
}

fn endpoint(cluster: &Cluster, service: &Value, pod: &Pod, family: IpFamily) -> Value {
    let terminating = pod.gone_at.is_some();
    // publishNotReadyAddresses makes every endpoint ready, even a terminating one.
    let publish = service.pointer("/spec/publishNotReadyAddresses") == Some(&json!(true));
    let ready = publish || (pod.ready && !terminating);
    let zone = cluster.nodes.get(&pod.node).and_then(|node| node.zone());
    let mut endpoint = json!({
        "addresses": [pod.ips[slot(family)].to_string()],
        "conditions": {"ready": ready, "serving": publish || pod.ready, "terminating": terminating},
        "nodeName": pod.node,
        "targetRef": {"kind": "Pod", "namespace": pod.name.namespace, "name": pod.name.name},
    });
    if let Some(zone) = zone {
        endpoint["zone"] = json!(zone);
    }
    let distribution = service
        .pointer("/spec/trafficDistribution")
        .and_then(Value::as_str);
    // KEP-3015: an endpoint is for its own node or zone. Only ready ones get hints.
    if ready && let Some(wanted) = distribution {
        let mut hints = json!({});
        if let Some(zone) = zone {
            hints["forZones"] = json!([{"name": zone}]);
        }
        if wanted == "PreferSameNode" {
            hints["forNodes"] = json!([{"name": pod.node}]);
        }
        endpoint["hints"] = hints;
    }
    endpoint
}
