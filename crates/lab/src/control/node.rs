//! Nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::address::{node_ips, node_pod_cidrs};
use crate::manifest::{Document, ManifestError};

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its number, from 1, which determines its addresses.
    pub index: u8,
    /// `metadata.labels`, with `kubernetes.io/hostname`.
    pub labels: BTreeMap<String, String>,
    /// `spec.taints`, unchanged.
    pub taints: Value,
    /// The host number of the latest pod. Numbers are used in turn, so that addresses are not reused
    /// immediately.
    pub last_host: u8,
}

impl Node {
    /// Return `node1` to `nodeN`, each in its own zone.
    pub(super) fn default_ones(count: u8) -> BTreeMap<String, Self> {
        (1..=count)
            .map(|index| {
                let zone = format!("zone{index}");
                let labels = [("topology.kubernetes.io/zone".to_owned(), zone)].into();
                let name = format!("node{index}");
                (name.clone(), Self::new(&name, index, labels, Value::Null))
            })
            .collect()
    }

    fn new(name: &str, index: u8, mut labels: BTreeMap<String, String>, taints: Value) -> Self {
        labels
            .entry("kubernetes.io/hostname".to_owned())
            .or_insert_with(|| name.to_owned());
        Self {
            index,
            labels,
            taints,
            last_host: 1,
        }
    }

    pub(super) fn read(document: &Document, index: u8) -> Result<Self, ManifestError> {
        let root = document.root();
        let labels = root.get("metadata").get("labels").map()?;
        let taints = root.get("spec").get("taints");
        taints.items()?;
        let taints = taints.value().cloned().unwrap_or(Value::Null);
        Ok(Self::new(&document.name.name, index, labels, taints))
    }

    /// Return its zone.
    pub fn zone(&self) -> Option<&str> {
        self.labels
            .get("topology.kubernetes.io/zone")
            .map(String::as_str)
    }

    /// Return its addresses, IPv4 first.
    pub fn ips(&self) -> [IpAddr; 2] {
        node_ips(self.index)
    }

    /// Return the Node object.
    pub(super) fn object(&self, name: &str) -> Value {
        let cidrs = node_pod_cidrs(self.index).map(|net| net.to_string());
        let mut addresses: Vec<Value> = self
            .ips()
            .iter()
            .map(|ip| json!({"type": "InternalIP", "address": ip.to_string()}))
            .collect();
        addresses.push(json!({"type": "Hostname", "address": name}));
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": self.labels},
            "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
            "status": {"addresses": addresses},
        });
        if !self.taints.is_null() {
            object["spec"]["taints"] = self.taints.clone();
        }
        object
    }
}
