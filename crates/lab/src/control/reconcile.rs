//! The workload controllers: the pods of Deployments, StatefulSets and DaemonSets.

use super::{
    Cluster, Document, ManifestError, Node, ObjectName, Pod, PodId, PodTemplate, Refused, Workload,
    WorkloadKind, WorkloadName,
};
use std::collections::BTreeMap;

/// A pod that a workload needs.
struct Slot {
    /// The name of a StatefulSet's pod.
    name: Option<ObjectName>,
    /// The node of a DaemonSet's pod.
    node: Option<String>,
    template: PodTemplate,
}

impl Slot {
    fn is_filled_by(&self, pod: &Pod) -> bool {
        pod.template == self.template
            && self.name.as_ref().is_none_or(|name| pod.name == *name)
            && self.node.as_ref().is_none_or(|node| pod.node == *node)
    }
}

impl Workload {
    fn slots(&self, name: &WorkloadName, nodes: &BTreeMap<String, Node>) -> Vec<Slot> {
        let slot = |name, node, template| Slot {
            name,
            node,
            template,
        };
        match name.kind {
            WorkloadKind::Deployment => (0..self.replicas)
                .map(|_| slot(None, None, self.template.clone()))
                .collect(),
            WorkloadKind::StatefulSet => (0..self.replicas)
                .map(|index| {
                    let ordinal = self.first + index;
                    let pod = numbered(&name.name, ordinal);
                    let mut template = self.template.clone();
                    let labels = [
                        ("statefulset.kubernetes.io/pod-name", pod.name.clone()),
                        ("apps.kubernetes.io/pod-index", ordinal.to_string()),
                    ];
                    let labels = labels.map(|(key, value)| (key.to_owned(), value));
                    template.labels.extend(labels);
                    slot(Some(pod), None, template)
                })
                .collect(),
            WorkloadKind::DaemonSet => nodes
                .iter()
                .filter(|(_, node)| self.template.fits(node))
                .map(|(node, _)| slot(None, Some(node.clone()), self.template.clone()))
                .collect(),
        }
    }
}

fn numbered(owner: &ObjectName, number: u32) -> ObjectName {
    ObjectName {
        namespace: owner.namespace.clone(),
        name: format!("{}-{number}", owner.name),
    }
}

impl Cluster {
    /// Apply a workload. Return whether it existed, and whether it changed.
    pub(super) fn apply_workload(
        &mut self,
        kind: WorkloadKind,
        document: &Document,
        now: u64,
    ) -> Result<(bool, bool), ManifestError> {
        let root = document.root();
        let name = WorkloadName {
            kind,
            name: document.name.clone(),
        };
        let mut new = Workload::read(&root, kind)?;
        let old = self.workloads.get(&name).cloned();
        if let Some(old) = &old {
            new.next = old.next;
        }
        let changed = old.as_ref() != Some(&new);
        self.workloads.insert(name.clone(), new);
        self.reconcile(&name, now)
            .map_err(|e| root.get("spec").error(e.0))?;
        Ok((old.is_some(), changed))
    }

    /// Create the pods that a workload lacks, then terminate those that it no longer needs, among
    /// them pods of an older template. A StatefulSet's replacement does not wait for the end of
    /// the pod whose name it has.
    pub(super) fn reconcile(&mut self, name: &WorkloadName, now: u64) -> Result<(), Refused> {
        let Some(workload) = self.workloads.get(name) else {
            return Ok(());
        };
        let mut slots = workload.slots(name, &self.nodes);
        let mut surplus = Vec::new();
        for id in self.live_pods_of(name) {
            let pod = &self.pods[&id];
            match slots.iter().position(|slot| slot.is_filled_by(pod)) {
                Some(filled) => drop(slots.remove(filled)),
                None => surplus.push(id),
            }
        }
        for slot in slots {
            self.add_replica(name, slot)?;
        }
        for id in surplus {
            self.terminate(id, None, now);
        }
        Ok(())
    }

    /// Reconcile the workloads that depend on the nodes' labels.
    pub(super) fn reconcile_daemon_sets(&mut self, now: u64) -> Result<(), Refused> {
        let names = self.workloads.keys().cloned();
        let daemon_sets: Vec<_> = names
            .filter(|name| name.kind == WorkloadKind::DaemonSet)
            .collect();
        for name in daemon_sets {
            self.reconcile(&name, now)?;
        }
        Ok(())
    }

    fn add_replica(&mut self, owner: &WorkloadName, slot: Slot) -> Result<PodId, Refused> {
        let name = slot.name.unwrap_or_else(|| {
            let number = self.workloads.get_mut(owner).map_or(1, |workload| {
                workload.next += 1;
                workload.next - 1
            });
            numbered(&owner.name, number)
        });
        let pinned = PodTemplate {
            node_name: slot.node.or(slot.template.node_name.clone()),
            ..slot.template.clone()
        };
        let id = self.add_pod(name, pinned, Some(owner.clone()))?;
        // The node is not part of the description, or the next change would find the pod outdated.
        if let Some(pod) = self.pods.get_mut(&id) {
            pod.template = slot.template;
        }
        Ok(id)
    }

    pub(super) fn live_pods_of(&self, owner: &WorkloadName) -> Vec<PodId> {
        self.pods
            .iter()
            .filter(|(_, pod)| pod.owner.as_ref() == Some(owner) && pod.gone_at.is_none())
            .map(|(id, _)| *id)
            .collect()
    }

    /// Delete a workload and its pods. Return whether it existed.
    pub(super) fn delete_workload(
        &mut self,
        name: &WorkloadName,
        grace_seconds: Option<u32>,
        now: u64,
    ) -> bool {
        for id in self.live_pods_of(name) {
            self.terminate(id, grace_seconds, now);
        }
        self.workloads.remove(name).is_some()
    }

    /// Change `spec.replicas` of a Deployment or StatefulSet.
    ///
    /// # Errors
    /// It does not exist, the number is too large, or no node has room.
    pub fn scale(&mut self, name: &ObjectName, replicas: u32, now: u64) -> Result<String, Refused> {
        let kinds = [WorkloadKind::Deployment, WorkloadKind::StatefulSet];
        let mut names = kinds.map(|kind| WorkloadName {
            kind,
            name: name.clone(),
        });
        let known = names.iter_mut().find(|n| self.workloads.contains_key(n));
        let Some(workload) = known.cloned() else {
            return Err(Refused(format!(
                "Deployment or StatefulSet {name} does not exist"
            )));
        };
        if replicas > 250 {
            return Err(Refused("a workload has at most 250 replicas".to_owned()));
        }
        if let Some(workload) = self.workloads.get_mut(&workload) {
            workload.replicas = replicas;
        }
        self.reconcile(&workload, now)?;
        let kind = workload.kind.name().to_lowercase();
        Ok(format!("{kind}/{} scaled to {replicas}", name.name))
    }

    /// Replace a pod by one on another node; the old one terminates once the new one exists. A
    /// Deployment's replacement has a new name.
    ///
    /// # Errors
    /// The pod or the node does not exist, the node is full, or the pod is bound to its node.
    pub fn move_pod(&mut self, name: &ObjectName, node: &str, now: u64) -> Result<String, Refused> {
        let id = self
            .live_pod(name)
            .ok_or_else(|| Refused(format!("pod {name} does not exist")))?;
        let old = self.pods[&id].clone();
        let slot = Slot {
            name: Some(name.clone()),
            node: Some(node.to_owned()),
            template: old.template.clone(),
        };
        let new = match &old.owner {
            Some(owner) => match owner.kind {
                WorkloadKind::Deployment => self.add_replica(owner, Slot { name: None, ..slot })?,
                WorkloadKind::StatefulSet => self.add_replica(owner, slot)?,
                WorkloadKind::DaemonSet => {
                    return Err(Refused(format!(
                        "pod {name} is bound to its node by {owner}"
                    )));
                }
            },
            None => {
                let pinned = PodTemplate {
                    node_name: Some(node.to_owned()),
                    ..old.template.clone()
                };
                let id = self.add_pod(name.clone(), pinned, None)?;
                if let Some(pod) = self.pods.get_mut(&id) {
                    pod.template = old.template;
                }
                id
            }
        };
        self.terminate(id, None, now);
        let new_name = &self.pods[&new].name.name;
        Ok(format!(
            "pod/{new_name} on {node} replaces pod/{} on {}",
            name.name, old.node
        ))
    }
}
