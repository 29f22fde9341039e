//! What is held of one kind, so that only real changes are passed on.

use std::collections::HashMap;

use model::{Checked, Event, Interner, Key, Kind, Subject, object::Object};

use super::wire::{Stated, Unreadable};
use crate::What;

/// What came of taking objects in, in the order in which it came.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Objects added, changed or gone.
    pub(super) events: Vec<Changed>,
    /// What is wrong with objects, each told once.
    pub(super) problems: Vec<What>,
    /// What was wrong and is no more.
    pub(super) resolved: Vec<What>,
}

/// What has become of an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Changed {
    /// The last good version before, as the event that it was there.
    pub(super) before: Option<Event>,
    /// What is to be told.
    pub(super) event: Event,
}

/// The objects of one kind.
///
/// Held objects are shared with whoever took the event (`Arc`), so that holding them for comparison
/// costs a table entry, not a copy.
#[derive(Debug, Default)]
pub(super) struct Store {
    held: HashMap<Key, Held>,
    /// Which list is being taken in: what it did not name is gone when it ends.
    list: u64,
    /// The list had an object of which not even the name could be read.
    nameless: bool,
}

#[derive(Debug)]
struct Held {
    /// The last good version.
    object: Option<Event>,
    /// What is wrong with the version that the server has.
    problems: Vec<What>,
    /// The last list that named it.
    list: u64,
}

impl Store {
    /// A list begins.
    pub(super) fn begin_list(&mut self) {
        self.list += 1;
        self.nameless = false;
    }

    /// The list has been taken in whole: what it did not name is gone.
    ///
    /// Returns `false` where that cannot be told, because an object in it could not even be named;
    /// nothing is taken for gone then, and another list is needed.
    pub(super) fn end_list(&mut self, changes: &mut Changes) -> bool {
        if self.nameless {
            return false;
        }
        let list = self.list;
        let gone = self.held.extract_if(|_, held| held.list != list);
        for (key, held) in gone {
            forget(&key, held, changes);
        }
        true
    }

    /// Takes in an object that is there.
    pub(super) fn apply(&mut self, object: Object, interner: &mut Interner, changes: &mut Changes) {
        match object.check(interner) {
            Ok(Checked { value, warnings }) => {
                let held = self.held.entry(value.key()).or_insert_with(Held::new);
                held.list = self.list;
                if held.object.as_ref() != Some(&value) {
                    changes.events.push(Changed {
                        before: held.object.replace(value.clone()),
                        event: value,
                    });
                }
                held.say(warnings.into_iter().map(What::Partial).collect(), changes);
            }
            Err(invalid) => {
                let key = invalid.object.key();
                self.unusable(key, What::Invalid(invalid), changes);
            }
        }
    }

    /// Takes in an object that is there but cannot be read: its last good version stays.
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
            let held = self.held.entry(key).or_insert_with(Held::new);
            held.list = self.list;
            held.say(vec![what], changes);
        } else {
            self.nameless = true;
            changes.problems.push(what);
        }
    }

    /// Takes in that an object is gone.
    pub(super) fn delete(&mut self, stated: &Stated, changes: &mut Changes) {
        let Some(key) = subject(&stated.object).key() else {
            return;
        };
        if let Some(held) = self.held.remove(&key) {
            forget(&key, held, changes);
        }
        if self.held.len() * 4 < self.held.capacity() {
            self.held.shrink_to(self.held.len() * 2);
        }
    }
}

impl Held {
    fn new() -> Self {
        Self {
            object: None,
            problems: Vec::new(),
            list: 0,
        }
    }

    /// Says what has come to be wrong, and what is no more.
    fn say(&mut self, problems: Vec<What>, changes: &mut Changes) {
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

fn forget(key: &Key, mut held: Held, changes: &mut Changes) {
    if let before @ Some(_) = held.object.take() {
        let event = key.deleted();
        changes.events.push(Changed { before, event });
    }
    held.say(Vec::new(), changes);
}

/// Which object this says to be.
fn subject(object: &Object) -> Subject {
    let (kind, metadata) = match object {
        Object::Service(o) => (Kind::Service, &o.metadata),
        Object::EndpointSlice(o) => (Kind::EndpointSlice, &o.metadata),
        Object::Node(o) => (Kind::Node, &o.metadata),
        Object::ServiceCidr(o) => (Kind::ServiceCidr, &o.metadata),
    };
    Subject::new(kind, &metadata.namespace, &metadata.name)
}
