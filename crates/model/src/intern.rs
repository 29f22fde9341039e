//! Strings that many objects share.

use std::collections::HashSet;
use std::sync::Arc;

/// Returns one shared copy of each string.
///
/// A cluster's 100,000 endpoints name the same few hundred nodes and the same three zones; with one
/// interner for all objects each name is stored once. Unused names are removed as the interner
/// grows.
#[derive(Debug, Default)]
pub struct Interner {
    known: HashSet<Arc<str>>,
    /// Size at which unused strings are removed: twice the size after the last removal, for a
    /// constant cost per new string.
    sweep_at: usize,
}

impl Interner {
    /// Return an empty interner.
    pub fn new() -> Self {
        Self::default()
    }

    /// Return the number of strings.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Return whether the interner is empty.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Return the shared copy of a string.
    pub fn intern(&mut self, s: &str) -> Arc<str> {
        if let Some(known) = self.known.get(s) {
            return known.clone();
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|s| Arc::strong_count(s) > 1);
            self.sweep_at = (2 * self.known.len()).max(1024);
        }
        let new: Arc<str> = s.into();
        self.known.insert(new.clone());
        new
    }
}
