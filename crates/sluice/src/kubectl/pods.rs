//! Finds sluice's Pods.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use serde::Deserialize;

use super::cli::Scope;
use super::exec::Kubectl;

/// The labels of `deploy/`, and those of kube-proxy's DaemonSet, in which only the image was replaced.
const SELECTORS: [&str; 2] = ["app.kubernetes.io/name=sluice", "k8s-app=kube-proxy"];
/// Upper bound on the number of nodes that an error names.
const MOST: usize = 10;

/// The Pod of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) node: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) container: String,
    /// The node's addresses.
    pub(super) addresses: Vec<String>,
    /// Why no command can run in it.
    pub(super) unusable: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct List {
    items: Vec<Item>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Item {
    metadata: Metadata,
    spec: Spec,
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    name: String,
    namespace: String,
    deletion_timestamp: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    node_name: String,
    containers: Vec<Container>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Container {
    name: String,
    image: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    phase: String,
    #[serde(rename = "hostIP")]
    host_ip: String,
    #[serde(rename = "hostIPs")]
    host_ips: Vec<HostIp>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct HostIp {
    ip: String,
}

/// Return the Pods to ask, one for each node, sorted by node.
///
/// # Errors
/// kubectl fails, or a node has no Pod.
pub(super) fn find(
    kubectl: &Kubectl,
    scope: &Scope,
    is_namespace_of_service: bool,
) -> anyhow::Result<Vec<Pod>> {
    let namespace = scope.namespace.as_deref();
    let namespace = namespace.filter(|_| !is_namespace_of_service);
    let path = match namespace {
        Some(namespace) => format!("/api/v1/namespaces/{namespace}/pods"),
        None => "/api/v1/pods".to_owned(),
    };
    let selectors: Vec<&str> = match &scope.selector {
        Some(selector) => vec![selector],
        None => SELECTORS.to_vec(),
    };
    for selector in &selectors {
        let query = format!("{path}?labelSelector={}", encoded(selector));
        let list = kubectl.get(&query).context("cannot list sluice's Pods")?;
        // Real kube-proxies have the second default label.
        let needs_image = scope.selector.is_none() && *selector != SELECTORS[0];
        let found = parse(&list, scope.container.as_deref(), needs_image)?;
        if !found.is_empty() {
            return chosen(found, &scope.node);
        }
    }
    let place = namespace.map_or("in any namespace".to_owned(), |n| {
        format!("in namespace {n}")
    });
    bail!(
        "found no Pod of sluice {place} with the labels {}; pass --selector, and --container if the \
         container is not called sluice",
        selectors.join(" or ")
    )
}

/// Percent-encode a label selector.
fn encoded(selector: &str) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-._~/".contains(b);
    let byte = |b: u8| match plain(&b) {
        true => char::from(b).to_string(),
        false => format!("%{b:02X}"),
    };
    selector.bytes().map(byte).collect()
}

/// Return the Pod of each node in a PodList.
pub(super) fn parse(
    list: &str,
    container: Option<&str>,
    needs_image: bool,
) -> anyhow::Result<BTreeMap<String, Pod>> {
    let list: List = serde_json::from_str(list).context("cannot read the list of Pods")?;
    let mut found: BTreeMap<String, Pod> = BTreeMap::new();
    for item in list.items {
        let containers = &item.spec.containers;
        let is_sluice = |c: &&Container| c.image.contains("sluice");
        if item.spec.node_name.is_empty()
            || (needs_image && !containers.iter().any(|c| is_sluice(&c)))
        {
            continue;
        }
        let default = containers
            .iter()
            .find(|c| c.name == "sluice")
            .or_else(|| containers.iter().find(is_sluice))
            .or(containers.first());
        let name = container.or(default.map(|c| &*c.name)).unwrap_or_default();
        let unusable = (item.status.phase != "Running").then(|| {
            let phase = &item.status.phase;
            format!(
                "Pod {}/{} is {phase}",
                item.metadata.namespace, item.metadata.name
            )
        });
        let mut addresses = vec![item.status.host_ip];
        addresses.extend(item.status.host_ips.into_iter().map(|host| host.ip));
        addresses.retain(|ip| !ip.is_empty());
        addresses.dedup();
        let pod = Pod {
            node: item.spec.node_name,
            namespace: item.metadata.namespace,
            name: item.metadata.name,
            container: name.to_owned(),
            addresses,
            unusable,
        };
        // During an update a node may have two.
        let is_leaving = item.metadata.deletion_timestamp.is_some();
        match found.get(&pod.node) {
            Some(known) if known.unusable.is_none() && (is_leaving || pod.unusable.is_some()) => {}
            _ => drop(found.insert(pod.node.clone(), pod)),
        }
    }
    Ok(found)
}

/// Return the Pods of the named nodes, or all.
fn chosen(mut found: BTreeMap<String, Pod>, nodes: &[String]) -> anyhow::Result<Vec<Pod>> {
    if nodes.is_empty() {
        return Ok(found.into_values().collect());
    }
    let missing = nodes.iter().find(|node| !found.contains_key(*node));
    if let Some(missing) = missing {
        let more = found.len().saturating_sub(MOST);
        let mut names: Vec<&str> = found.keys().map(String::as_str).take(MOST).collect();
        let more = format!("… and {more} more");
        if found.len() > MOST {
            names.push(&more);
        }
        bail!(
            "no Pod of sluice is on node {missing}; nodes with one: {}",
            names.join(", ")
        );
    }
    found.retain(|node, _| nodes.contains(node));
    Ok(found.into_values().collect())
}
