//! The known objects of one kind; only real changes are passed on.

use std::collections::HashMap;

use model::{Checked, Event, Interner, Key, Kind, Subject, object::Object};

use super::wire::{Stated, Unreadable};
use crate::What;

/// The result of applying objects, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Objects added, changed or deleted.
    pub(super) events: Vec<Changed>,
    /// New problems.
    pub(super) problems: Vec<What>,
    /// Resolved problems.
    pub(super) resolved: Vec<What>,
}

/// A change of an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Changed {
    /// The last valid version before, as an event.
    pub(super) before: Option<Event>,
    /// The event to deliver.
    pub(super) event: Event,
}

/// The objects of one kind.
///
/// Objects are shared with the receiver of the events (`Arc`): keeping them for comparison costs a
/// table entry, not a copy.
#[derive(Debug, Default)]
pub(super) struct Store {
    known: HashMap<Key, Known>,
    /// Number of the current list. When it ends, objects missing from it are deleted.
    list: u64,
    /// The list contains an object whose name cannot be read.
    nameless: bool,
}

#[derive(Debug)]
struct Known {
    /// The last valid version.
    object: Option<Event>,
    /// Problems of the server's version.
    problems: Vec<What>,
    /// The last list that contained it.
    list: u64,
}

impl Store {
    /// Begin a list.
    pub(super) fn begin_list(&mut self) {
        self.list += 1;
        self.nameless = false;
    }

    /// End the list and delete the objects missing from it.
    ///
    /// Returns `false` and deletes nothing if an object in the list has no readable name: another
    /// list is needed.
    pub(super) fn end_list(&mut self, changes: &mut Changes) -> bool {
        if self.nameless {
            return false;
        }
        let list = self.list;
        let missing = self.known.extract_if(|_, known| known.list != list);
        for (key, known) in missing {
            remove(&key, known, changes);
        }
        true
    }

    /// Apply an object of a list or event.
    pub(super) fn apply(&mut self, object: Object, interner: &mut Interner, changes: &mut Changes) {
        match object.check(interner) {
            Ok(Checked { value, warnings }) => {
                let known = self.known.entry(value.key()).or_insert_with(Known::new);
                known.list = self.list;
                if known.object.as_ref() != Some(&value) {
                    changes.events.push(Changed {
                        before: known.object.replace(value.clone()),
                        event: value,
                    });
                }
                known.set_problems(warnings.into_iter().map(What::Partial).collect(), changes);
            }
            Err(invalid) => {
                let key = invalid.object.key();
                self.unusable(key, What::Invalid(invalid), changes);
            }
        }
    }

    /// Note an unreadable object; its last valid version is kept.
    pub(super) fn unreadable(&mut self, unreadable: Unreadable, changes: &mut Changes) {
        let Unreadable {
            subject, reason, ..
        } = unreadable;
        let what = What::Undecodable {
            object: subject.clone(),
            reason,
        };
        self.unusable(subject.key(), what, changes);
    }

    fn unusable(&mut self, key: Option<Key>, what: What, changes: &mut Changes) {
        if let Some(key) = key {
            let known = self.known.entry(key).or_insert_with(Known::new);
            known.list = self.list;
            known.set_problems(vec![what], changes);
        } else {
            self.nameless = true;
            changes.problems.push(what);
        }
    }

    /// Apply a deletion.
    pub(super) fn delete(&mut self, stated: &Stated, changes: &mut Changes) {
        let Some(key) = subject(&stated.object).key() else {
            return;
        };
        if let Some(known) = self.known.remove(&key) {
            remove(&key, known, changes);
        }
        if self.known.len() * 4 < self.known.capacity() {
            self.known.shrink_to(self.known.len() * 2);
        }
    }
}

impl Known {
    fn new() -> Self {
        Self {
            object: None,
            problems: Vec::new(),
            list: 0,
        }
    }

    /// Replace the problems, and note the new and the resolved ones.
    fn set_problems(&mut self, problems: Vec<What>, changes: &mut Changes) {
        for old in self.problems.extract_if(.., |old| !problems.contains(old)) {
            changes.resolved.push(old);
        }
        for new in problems {
            if !self.problems.contains(&new) {
                changes.problems.push(new.clone());
                self.problems.push(new);
            }
        }
    }
}

fn remove(key: &Key, mut known: Known, changes: &mut Changes) {
    if let before @ Some(_) = known.object.take() {
        let event = key.deleted();
        changes.events.push(Changed { before, event });
    }
    known.set_problems(Vec::new(), changes);
}

/// Return the kind, namespace and name of an object.
fn subject(object: &Object) -> Subject {
    let (kind, metadata) = match object {
        Object::Service(o) => (Kind::Service, &o.metadata),
        Object::EndpointSlice(o) => (Kind::EndpointSlice, &o.metadata),
        Object::Node(o) => (Kind::Node, &o.metadata),
        Object::ServiceCidr(o) => (Kind::ServiceCidr, &o.metadata),
    };
    Subject::new(kind, &metadata.namespace, &metadata.name)
}
