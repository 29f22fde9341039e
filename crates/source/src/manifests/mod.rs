//! A state machine for manifests: contents of files in, changes and problems out.
//!
//! The objects of the files are used, with these exceptions:
//! - An invalid object with a readable kind and name keeps its last valid version.
//! - If the identity is unknown (a syntax error, an object without a name, an unreadable file), all
//!   objects read from that file earlier and not replaced by its readable rest are kept. A typo
//!   therefore deletes nothing; intended deletions take effect when the file has been corrected.
//! - Of several definitions of an object the last is used: files in the order of the arguments, then
//!   by path, then by place in the file.

mod decode;
mod read;
mod split;
#[cfg(test)]
mod tests;
mod tree;

pub use read::{Tree, trees};

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use model::{Event, Interner, Key};

use crate::{Batch, Place, Problem, What};

/// A manifest file, ordered by precedence: the last one wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// Index of the path argument that it belongs to.
    pub argument: usize,
    /// Path of the file.
    pub path: Arc<Path>,
}

/// The new state of a file.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// Its content.
    Bytes(&'a [u8]),
    /// It exists but is unreadable for this reason.
    Unreadable(&'a str),
    /// It no longer exists.
    Removed,
}

/// All manifests and the objects in use.
#[derive(Debug, Default)]
pub struct Manifests {
    files: BTreeMap<FileId, File>,
    objects: HashMap<Key, Known>,
    /// Keys of files changed since the last commit.
    touched: BTreeSet<Key>,
    problems: Vec<Problem>,
    resolved: Vec<Problem>,
    duplicates: HashMap<Key, Problem>,
    interner: Interner,
}

#[derive(Debug, Default)]
struct File {
    /// The objects of the file, including those kept from before an error.
    objects: BTreeMap<Key, (Event, Place)>,
    bad: Vec<Key>,
    problems: Vec<Problem>,
}

/// The definitions of one object.
#[derive(Debug, Default)]
struct Known {
    /// The files with a valid version.
    valid: BTreeSet<FileId>,
    /// The files with an invalid version.
    invalid: BTreeSet<FileId>,
    current: Option<Event>,
}

/// Read the content of one file. The path selects JSON or YAML and appears in messages.
pub fn read_bytes(path: &Path, bytes: &[u8]) -> Batch {
    let mut manifests = Manifests::new();
    let id = FileId {
        argument: 0,
        path: path.into(),
    };
    manifests.update(&id, Content::Bytes(bytes));
    manifests.commit()
}

impl Manifests {
    /// Without files.
    pub fn new() -> Self {
        Self::default()
    }

    /// Note the new state of one file. [`Manifests::commit`] applies it, so that an object that moves
    /// from one file to another is not deleted in between.
    pub fn update(&mut self, id: &FileId, content: Content<'_>) {
        let old = self.files.remove(id).unwrap_or_default();
        self.forget(id, &old);
        let new = match content {
            Content::Removed => File::default(),
            Content::Bytes(bytes) => {
                let reading = read::read(&id.path, bytes, &mut self.interner);
                carry_over(reading, &old)
            }
            Content::Unreadable(why) => File {
                objects: old.objects.clone(),
                bad: old.bad.clone(),
                problems: vec![Problem {
                    place: Some(Place {
                        path: id.path.clone(),
                        document: None,
                        item: String::new(),
                    }),
                    what: What::Unreadable(why.into()),
                }],
            },
        };
        self.report(&old.problems, &new.problems);
        if matches!(content, Content::Removed) {
            return;
        }
        for key in new.objects.keys() {
            let known = self.objects.entry(key.clone()).or_default();
            known.valid.insert(id.clone());
            self.touched.insert(key.clone());
        }
        for key in &new.bad {
            let known = self.objects.entry(key.clone()).or_default();
            known.invalid.insert(id.clone());
            self.touched.insert(key.clone());
        }
        self.files.insert(id.clone(), new);
    }

    /// Return the changes since the last commit. The caller sets `initial_list_complete`.
    pub fn commit(&mut self) -> Batch {
        let mut deleted = Vec::new();
        let mut applied = Vec::new();
        for key in std::mem::take(&mut self.touched) {
            self.check_duplicate(&key);
            let Some(known) = self.objects.get_mut(&key) else {
                continue;
            };
            let last = known.valid.last().and_then(|id| self.files.get(id));
            match last.and_then(|file| file.objects.get(&key)) {
                Some((event, _)) if known.current.as_ref() == Some(event) => {}
                Some((event, _)) => {
                    known.current = Some(event.clone());
                    applied.push(event.clone());
                }
                None if known.invalid.is_empty() => {
                    if known.current.is_some() {
                        deleted.push(key.deleted());
                    }
                    self.objects.remove(&key);
                }
                None => {} // Only invalid versions: keep the current one.
            }
        }
        deleted.append(&mut applied);
        Batch {
            events: deleted,
            problems: std::mem::take(&mut self.problems),
            resolved: std::mem::take(&mut self.resolved),
            initial_list_complete: false,
        }
    }

    /// Return the known files, in order of precedence.
    pub fn files(&self) -> impl Iterator<Item = &FileId> {
        self.files.keys()
    }

    /// Remove a file from the definitions of its objects.
    fn forget(&mut self, id: &FileId, file: &File) {
        for key in file.objects.keys().chain(&file.bad) {
            if let Some(known) = self.objects.get_mut(key) {
                known.valid.remove(id);
                known.invalid.remove(id);
            }
            self.touched.insert(key.clone());
        }
    }

    fn report(&mut self, old: &[Problem], new: &[Problem]) {
        let identities = |problems: &[Problem]| -> HashSet<String> {
            problems.iter().map(Problem::identity).collect()
        };
        let only_in = |these: &[Problem], not_those: HashSet<String>| -> Vec<Problem> {
            let only = |p: &&Problem| !not_those.contains(&p.identity());
            these.iter().filter(only).cloned().collect()
        };
        self.problems.append(&mut only_in(new, identities(old)));
        self.resolved.append(&mut only_in(old, identities(new)));
    }

    /// Report that an object is defined in two files, or no longer is.
    fn check_duplicate(&mut self, key: &Key) {
        let place = |id| Some(self.files.get(id)?.objects.get(key)?.1.clone());
        let mut places = self
            .objects
            .get(key)
            .into_iter()
            .flat_map(|known| known.valid.iter().rev().take(2))
            .filter_map(place);
        let new = match (places.next(), places.next()) {
            (Some(place), Some(ignored)) => Some(Problem {
                place: Some(place),
                what: What::Duplicate {
                    key: key.clone(),
                    ignored: Box::new(ignored),
                },
            }),
            _ => None,
        };
        drop(places);
        let old = match new.clone() {
            Some(new) => self.duplicates.insert(key.clone(), new),
            None => self.duplicates.remove(key),
        };
        self.report(old.as_slice(), new.as_slice());
    }
}

/// Add the earlier objects of a file that are kept because of errors.
fn carry_over(reading: read::Reading, old: &File) -> File {
    let read::Reading {
        mut objects,
        mut bad,
        incomplete,
        problems,
    } = reading;
    if incomplete {
        // An object that was invalid here keeps its version from another file.
        let unusable = old.bad.iter().filter(|key| !objects.contains_key(*key));
        bad.extend(unusable.cloned());
    }
    for (key, object) in &old.objects {
        if (incomplete || bad.contains(key)) && !objects.contains_key(key) {
            objects.insert(key.clone(), object.clone());
        }
    }
    File {
        objects,
        bad,
        problems,
    }
}
