//! Strings that many objects share.

use std::collections::HashSet;
use std::sync::Arc;

/// Hands out one shared copy of each string.
///
/// A cluster's 100,000 endpoints name the same few hundred nodes and the same three zones; with
/// one interner for all objects each name is stored once. Names that nothing uses any more are
/// forgotten as the interner grows.
#[derive(Debug, Default)]
pub struct Interner {
    known: HashSet<Arc<str>>,
    /// When to look for unused strings: at twice what was left the last time, so that looking
    /// costs each new string a constant.
    sweep_at: usize,
}

impl Interner {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many strings are held.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Nothing is held.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The shared copy of a string.
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
