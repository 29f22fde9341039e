//! The names of a lab's namespaces.
//!
//! `sluice.LAB.net` (the router), `sluice.LAB.client`, `sluice.LAB.node.NODE` and
//! `sluice.LAB.pod.NAMESPACE.POD`. A lab's name contains no dot, so no lab's prefix is the start of
//! another's, and a lab's namespaces are found by their prefix after any crash.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::control::{Pod, PodId};

/// The name of a lab: a DNS label of at most 30 characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LabName(String);

/// An invalid name for a lab.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot name a lab: use 1 to 30 lower-case letters, digits and '-', beginning with a letter"
)]
pub struct BadLabName(String);

impl LabName {
    /// Check a name.
    ///
    /// # Errors
    /// The name is invalid.
    pub fn new(name: &str) -> Result<Self, BadLabName> {
        let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let good = name.len() <= 30
            && name.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
            && name.bytes().all(letters);
        if good {
            Ok(Self(name.to_owned()))
        } else {
            Err(BadLabName(name.to_owned()))
        }
    }

    /// Return the lab that a namespace belongs to, if any.
    pub fn of_netns(netns: &str) -> Option<Self> {
        let (lab, rest) = netns.strip_prefix("sluice.")?.split_once('.')?;
        let known = matches!(rest, "net" | "client")
            || rest.starts_with("node.")
            || rest.starts_with("pod.");
        known.then(|| Self::new(lab).ok()).flatten()
    }

    /// Return the router's namespace.
    pub fn router(&self) -> String {
        format!("sluice.{self}.net")
    }

    /// Return the outside client's namespace.
    pub fn client(&self) -> String {
        format!("sluice.{self}.client")
    }

    /// Return a node's namespace.
    pub fn node(&self, node: &str) -> String {
        format!("sluice.{self}.node.{node}")
    }

    /// Return a pod's namespace, which for `hostNetwork` is the node's. The id distinguishes a pod from
    /// a terminating one of the same name.
    pub fn pod(&self, id: PodId, pod: &Pod) -> String {
        if pod.template.host_network {
            return self.node(&pod.node);
        }
        let mut name = format!("sluice.{self}.pod.{}.{}", pod.name.namespace, pod.name.name);
        // File names end at 255 bytes; the id makes the rest unambiguous.
        name.truncate(240);
        format!("{name}.{id}")
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Return the name of the node's end of a pod's veth pair.
pub fn veth(id: PodId) -> String {
    format!("veth{id}")
}
