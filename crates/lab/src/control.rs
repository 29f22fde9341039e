//! The control plane as pure functions over one [`Cluster`]: the decisions of the API server, the
//! scheduler, the controllers and a cloud's load balancer. Time is an argument.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::manifest::{Document, Documents, ManifestError, ObjectName};

pub mod address;
mod node;
mod reconcile;
pub(crate) mod service;
mod slices;
#[cfg(test)]
mod tests;
mod workload;

pub use node::Node;
pub use workload::{ContainerPort, Pod, PodTemplate, Workload, WorkloadKind, WorkloadName};
pub(crate) use workload::{protocol, protocol_of};

/// The default grace period, in seconds. Shorter than the API's 30 s, because users of the lab wait for
/// it.
pub const GRACE_SECONDS: u32 = 2;

/// Identifies one incarnation of a pod.
pub type PodId = u32;

/// The state of the control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// Services, with all defaults and addresses.
    pub services: BTreeMap<ObjectName, Value>,
    /// EndpointSlices of the manifests; those from selectors are computed.
    pub slices: BTreeMap<ObjectName, Value>,
    /// Deployments, StatefulSets and DaemonSets.
    pub workloads: BTreeMap<WorkloadName, Workload>,
    /// Pods.
    pub pods: BTreeMap<PodId, Pod>,
    /// The id of the next pod.
    pub next_pod: PodId,
}

/// The result of applying manifests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// A line for each object, such as `service/web created`.
    pub notes: Vec<String>,
    /// The errors of the other documents, which had no effect.
    pub errors: Vec<ManifestError>,
}

/// The reason why an operation is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// An object to delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its kind, in any case, singular, plural or short (`svc`).
    pub kind: String,
    /// Its name.
    pub name: ObjectName,
}

impl Cluster {
    /// Create a cluster with the nodes of the manifests, or with `count` nodes if there are none.
    pub fn new(documents: &Documents, count: u8) -> Result<Self, ManifestError> {
        let mut nodes = BTreeMap::new();
        for document in documents.good.iter().filter(|d| d.kind == "Node") {
            let index = u8::try_from(nodes.len() + 1)
                .ok()
                .filter(|&index| index <= address::MAX_NODES)
                .ok_or_else(|| {
                    let at_most = format!("a lab has at most {} nodes", address::MAX_NODES);
                    document.root().get("metadata").error(at_most)
                })?;
            nodes.insert(document.name.name.clone(), Node::read(document, index)?);
        }
        if nodes.is_empty() {
            nodes = Node::default_ones(count);
        }
        Ok(Self {
            nodes,
            next_pod: 1,
            ..Self::default()
        })
    }

    /// Apply documents one by one. An invalid one is reported and does not affect the others.
    /// `now` is in milliseconds since the epoch.
    pub fn apply(&mut self, documents: &Documents, now: u64) -> Applied {
        let mut applied = Applied {
            notes: Vec::new(),
            errors: documents.errors.clone(),
        };
        for document in &documents.good {
            // On a copy, so that a document takes effect as a whole or not at all.
            let mut next = self.clone();
            match next.apply_one(document, now) {
                Ok(note) => {
                    *self = next;
                    applied.notes.push(note);
                }
                Err(e) => applied.errors.push(e),
            }
        }
        applied
    }

    fn apply_one(&mut self, document: &Document, now: u64) -> Result<String, ManifestError> {
        let name = &document.name;
        let done = |known: bool, changed: bool| {
            let word = match (known, changed) {
                (false, _) => "created",
                (true, true) => "configured",
                (true, false) => "unchanged",
            };
            format!("{}/{} {word}", document.kind.to_lowercase(), name.name)
        };
        match document.kind.as_str() {
            "Service" => {
                let old = self.services.get(name);
                let taken = service::Taken::by_others(&self.services, name);
                let new = service::complete(document, old, &taken)?;
                let note = done(old.is_some(), old != Some(&new));
                self.services.insert(name.clone(), new);
                Ok(note)
            }
            "EndpointSlice" => {
                let mut new = document.value.clone();
                new["metadata"]["namespace"] = json!(name.namespace);
                let old = self.slices.insert(name.clone(), new.clone());
                Ok(done(old.is_some(), old != Some(new)))
            }
            "Pod" => self
                .apply_pod(document, now)
                .map(|(known, changed)| done(known, changed)),
            "Node" => self
                .apply_node(document, now)
                .map(|changed| done(true, changed)),
            other if WorkloadKind::named(other).is_some() => {
                let kind = WorkloadKind::named(other).unwrap_or(WorkloadKind::Deployment);
                self.apply_workload(kind, document, now)
                    .map(|(known, changed)| done(known, changed))
            }
            other => Ok(format!(
                "{}/{} ignored: a lab has no use for {other}",
                other.to_lowercase(),
                name.name
            )),
        }
    }

    fn apply_node(&mut self, document: &Document, now: u64) -> Result<bool, ManifestError> {
        let name = &document.name.name;
        let Some(old) = self.nodes.get(name) else {
            let known: Vec<&str> = self.nodes.keys().map(String::as_str).collect();
            return Err(document.root().get("metadata.name").error(format!(
                "the nodes of a lab are fixed when it is created; this one has {}",
                known.join(", ")
            )));
        };
        let mut new = Node::read(document, old.index)?;
        new.last_host = old.last_host;
        let changed = *old != new;
        self.nodes.insert(name.clone(), new);
        self.reconcile_daemon_sets(now)
            .map_err(|e| document.root().error(e.0))?;
        Ok(changed)
    }

    fn apply_pod(&mut self, document: &Document, now: u64) -> Result<(bool, bool), ManifestError> {
        let root = document.root();
        let template = PodTemplate::read(&root)?;
        let old = self.live_pod(&document.name);
        if let Some(id) = old {
            let pod = &self.pods[&id];
            if pod.template == template {
                return Ok((true, false));
            }
            // Only the labels of a running pod can change. The API server refuses other changes; the lab
            // replaces the pod.
            if (PodTemplate {
                labels: pod.template.labels.clone(),
                ..template.clone()
            }) == pod.template
            {
                if let Some(pod) = self.pods.get_mut(&id) {
                    pod.template.labels = template.labels;
                }
                return Ok((true, true));
            }
            self.terminate(id, None, now);
        }
        self.add_pod(document.name.clone(), template, None)
            .map_err(|e| root.get("spec").error(e.0))?;
        Ok((old.is_some(), true))
    }

    fn add_pod(
        &mut self,
        name: ObjectName,
        template: PodTemplate,
        owner: Option<WorkloadName>,
    ) -> Result<PodId, Refused> {
        let node_name = self.schedule(&template, owner.as_ref())?;
        let used: Vec<[std::net::IpAddr; 2]> = self.pods.values().map(|pod| pod.ips).collect();
        let Some(node) = self.nodes.get_mut(&node_name) else {
            return Err(Refused(format!("node {node_name} does not exist")));
        };
        let ips = if template.host_network {
            node.ips()
        } else {
            // .1 is reserved for a bridge, as in most pod networks.
            let next = (1..=253u16).filter_map(|step| {
                u8::try_from((u16::from(node.last_host) + 251 + step) % 253 + 2).ok()
            });
            let mut free = next.filter(|&host| !used.contains(&address::pod_ips(node.index, host)));
            let host = free
                .next()
                .ok_or_else(|| Refused(format!("node {node_name} has no pod address left")))?;
            node.last_host = host;
            address::pod_ips(node.index, host)
        };
        let id = self.next_pod;
        self.next_pod += 1;
        let pod = Pod {
            name,
            template,
            owner,
            node: node_name,
            ips,
            ready: true,
            gone_at: None,
        };
        self.pods.insert(id, pod);
        Ok(id)
    }

    /// Return the node that fits and has the fewest pods of the same owner, then the fewest pods.
    fn schedule(
        &self,
        template: &PodTemplate,
        owner: Option<&WorkloadName>,
    ) -> Result<String, Refused> {
        if let Some(wanted) = &template.node_name {
            return if self.nodes.contains_key(wanted) {
                Ok(wanted.clone())
            } else {
                Err(Refused(format!("nodeName: node {wanted} does not exist")))
            };
        }
        let load = |name: &String| {
            let here = || {
                self.pods
                    .values()
                    .filter(|p| p.node == *name && p.gone_at.is_none())
            };
            let siblings = here()
                .filter(|p| owner.is_some() && p.owner.as_ref() == owner)
                .count();
            (siblings, here().count())
        };
        self.nodes
            .iter()
            .filter(|(_, node)| template.fits(node))
            .map(|(name, _)| name)
            .min_by_key(|name| load(name))
            .cloned()
            .ok_or_else(|| Refused("nodeSelector: no node has these labels".to_owned()))
    }

    /// Return the pod of a name that is not terminating.
    pub fn live_pod(&self, name: &ObjectName) -> Option<PodId> {
        self.pods
            .iter()
            .find(|(_, pod)| pod.name == *name && pod.gone_at.is_none())
            .map(|(id, _)| *id)
    }

    fn terminate(&mut self, id: PodId, grace_seconds: Option<u32>, now: u64) {
        if let Some(pod) = self.pods.get_mut(&id)
            && pod.gone_at.is_none()
        {
            let grace = grace_seconds
                .or(pod.template.grace_seconds)
                .unwrap_or(GRACE_SECONDS);
            pod.gone_at = Some(now + u64::from(grace) * 1000);
        }
    }

    /// Remove the pods whose grace period is over.
    pub fn reap(&mut self, now: u64) -> Vec<PodId> {
        let gone: Vec<PodId> = self
            .pods
            .iter()
            .filter(|(_, pod)| pod.gone_at.is_some_and(|at| at <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in &gone {
            self.pods.remove(id);
        }
        gone
    }

    /// Return when the next grace period ends.
    pub fn next_end(&self) -> Option<u64> {
        self.pods.values().filter_map(|pod| pod.gone_at).min()
    }

    /// Delete an object. Pods terminate; those of a workload are replaced.
    pub fn delete(
        &mut self,
        target: &Target,
        grace_seconds: Option<u32>,
        now: u64,
    ) -> Result<String, Refused> {
        let name = &target.name;
        let kind = target.kind.to_lowercase();
        let found = match kind.as_str() {
            "service" | "services" | "svc" => self.services.remove(name).is_some(),
            "endpointslice" | "endpointslices" => self.slices.remove(name).is_some(),
            "pod" | "pods" | "po" => match self.live_pod(name) {
                None => false,
                Some(id) => {
                    let owner = self.pods[&id].owner.clone();
                    self.terminate(id, grace_seconds, now);
                    if let Some(owner) = owner {
                        self.reconcile(&owner, now)?;
                    }
                    true
                }
            },
            "node" | "nodes" => {
                return Err(Refused("nodes exist as long as their lab".to_owned()));
            }
            other => {
                let Some(kind) = WorkloadKind::named(other) else {
                    return Err(Refused(format!(
                        "a lab has no {kind}: it has service, endpointslice, pod, deployment, \
                         statefulset and daemonset"
                    )));
                };
                let name = name.clone();
                self.delete_workload(&WorkloadName { kind, name }, grace_seconds, now)
            }
        };
        if found {
            Ok(format!("{kind}/{} deleted", name.name))
        } else {
            Err(Refused(format!("{kind} {name} does not exist")))
        }
    }

    /// Set a pod's condition Ready.
    pub fn set_ready(&mut self, name: &ObjectName, ready: bool) -> Result<String, Refused> {
        let id = self
            .live_pod(name)
            .ok_or_else(|| Refused(format!("pod {name} does not exist")))?;
        if let Some(pod) = self.pods.get_mut(&id) {
            pod.ready = ready;
        }
        let word = if ready { "ready" } else { "not ready" };
        Ok(format!("pod/{} is {word}", name.name))
    }

    /// Return the EndpointSlices of the manifests and those from selectors.
    pub fn endpoint_slices(&self) -> BTreeMap<ObjectName, Value> {
        let mut all = self.slices.clone();
        for (name, service) in &self.services {
            all.extend(slices::of_service(self, name, service));
        }
        all
    }

    /// Return all objects that a node's proxy follows, by file name.
    pub fn published(&self) -> BTreeMap<String, Value> {
        let file =
            |kind: &str, name: &ObjectName| format!("{kind}.{}.{}.json", name.namespace, name.name);
        let services = self
            .services
            .iter()
            .map(|(name, value)| (file("service", name), value.clone()));
        let slices = self.endpoint_slices().into_iter();
        let slices = slices.map(|(name, value)| (file("endpointslice", &name), value));
        let nodes = self
            .nodes
            .iter()
            .map(|(name, node)| (format!("node.{name}.json"), node.object(name)));
        let cidrs = address::SERVICE_CIDRS.map(|net| net.to_string());
        let cidr = json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "ServiceCIDR",
            "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": cidrs},
        });
        services
            .chain(slices)
            .chain(nodes)
            .chain([("servicecidr.kubernetes.json".to_owned(), cidr)])
            .collect()
    }
}

/// Return the node that receives traffic to load balancers' addresses: the first.
pub(crate) fn node_of_load_balancers(cluster: &Cluster) -> Option<String> {
    cluster.nodes.keys().next().cloned()
}
