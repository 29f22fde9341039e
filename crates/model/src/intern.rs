//! Strings that many objects share.

use std::collections::HashSet;
use std::sync::Arc;

/// Hands out one shared copy of each string.
///
/// A cluster's 100,000 endpoints name the same few hundred nodes and the same three zones; with
/// one interner for all objects each name is stored once. [`Interner::sweep`] forgets the names
/// that nothing uses any more.
#[derive(Debug, Default)]
pub struct Interner {
    known: HashSet<Arc<str>>,
}

impl Interner {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The shared copy of a string.
    pub fn intern(&mut self, s: &str) -> Arc<str> {
        if let Some(known) = self.known.get(s) {
            return known.clone();
        }
        let new: Arc<str> = s.into();
        self.known.insert(new.clone());
        new
    }

    /// Forgets the strings that only the interner still holds.
    pub fn sweep(&mut self) {
        self.known.retain(|s| Arc::strong_count(s) > 1);
    }

    /// How many strings are held.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Nothing is held.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}
