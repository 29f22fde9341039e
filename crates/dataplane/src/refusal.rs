//! Service ports that a mode cannot program, with the reason.

use std::collections::BTreeMap;
use std::collections::btree_map;

use plan::PortKey;

/// Why one Service port is not programmed. All other ports are served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The kernel, or the relay, rejected the port's content; with its message.
    #[error("{0}")]
    Rejected(String),
    /// The mode cannot express the port.
    #[error("{0}")]
    Unsupported(String),
}

/// The quarantined Service ports. Each keeps its last accepted state and is tried again when it
/// changes and in every resync.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals(BTreeMap<PortKey, Refusal>);

impl Refusals {
    /// Return whether no port is quarantined.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Return the number of quarantined ports.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Return whether a port is quarantined.
    pub fn contains(&self, key: &PortKey) -> bool {
        self.0.contains_key(key)
    }

    /// Return the quarantined ports.
    pub fn keys(&self) -> impl Iterator<Item = &PortKey> {
        self.0.keys()
    }

    /// Return the quarantined ports, each with the reason.
    pub fn iter(&self) -> btree_map::Iter<'_, PortKey, Refusal> {
        self.0.iter()
    }

    /// Quarantine a port. The first reason stays: later ones tend to follow from it.
    pub fn insert(&mut self, key: PortKey, refusal: Refusal) {
        self.0.entry(key).or_insert(refusal);
    }

    /// Quarantine a port that the kernel or the relay rejected.
    pub fn reject(&mut self, key: PortKey, message: impl Into<String>) {
        self.insert(key, Refusal::Rejected(message.into()));
    }

    /// Release one port. Return whether it was quarantined.
    pub fn remove(&mut self, key: &PortKey) -> bool {
        self.0.remove(key).is_some()
    }

    /// Release every port. Return whether there were any.
    pub fn clear(&mut self) -> bool {
        !std::mem::take(&mut self.0).is_empty()
    }

    /// Release the ports for which `keep` returns false.
    pub fn retain(&mut self, mut keep: impl FnMut(&PortKey) -> bool) {
        self.0.retain(|key, _| keep(key));
    }
}

impl<'a> IntoIterator for &'a Refusals {
    type Item = (&'a PortKey, &'a Refusal);
    type IntoIter = btree_map::Iter<'a, PortKey, Refusal>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl IntoIterator for Refusals {
    type Item = (PortKey, Refusal);
    type IntoIter = btree_map::IntoIter<PortKey, Refusal>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<(PortKey, Refusal)> for Refusals {
    fn from_iter<I: IntoIterator<Item = (PortKey, Refusal)>>(iter: I) -> Self {
        let mut refusals = Self::default();
        refusals.extend(iter);
        refusals
    }
}

impl Extend<(PortKey, Refusal)> for Refusals {
    fn extend<I: IntoIterator<Item = (PortKey, Refusal)>>(&mut self, iter: I) {
        for (key, refusal) in iter {
            self.insert(key, refusal);
        }
    }
}
