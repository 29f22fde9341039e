//! Manifests as a state machine: files' contents in, changes and problems out.
//!
//! What is in force is what the files state, but for what is broken:
//! - An object that cannot be used, but can be told by kind and name, keeps its last good version.
//! - Where not even that can be told (a syntax error, an object without a name, a file that cannot
//!   be read), every object that was read from that file before, and that the rest of the file
//!   does not state anew, stays in force. So a slip of the pen never deletes anything; what really
//!   was to be deleted goes once the file is mended.
//! - An object that stands in several places is taken from the last: files in the order of the
//!   arguments, then by path, then by place in the file.

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

/// Names a manifest file. The order is that of precedence: the last one wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// Which of the paths asked for it belongs to.
    pub argument: usize,
    /// The file.
    pub path: Arc<Path>,
}

/// What has become of a file.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// It holds this.
    Bytes(&'a [u8]),
    /// It is there but cannot be read, for this reason.
    Unreadable(&'a str),
    /// It is not there any more.
    Gone,
}

/// All manifests, and what of them is in force.
#[derive(Debug, Default)]
pub struct Manifests {
    files: BTreeMap<FileId, File>,
    objects: HashMap<Key, Known>,
    /// Keys whose files changed since the last commit.
    touched: BTreeSet<Key>,
    problems: Vec<Problem>,
    resolved: Vec<Problem>,
    duplicates: HashMap<Key, Problem>,
    interner: Interner,
}

#[derive(Debug, Default)]
struct File {
    /// What the file states, or stated before what is there now was broken.
    objects: BTreeMap<Key, (Event, Place)>,
    bad: Vec<Key>,
    problems: Vec<Problem>,
}

/// What is known of one object.
#[derive(Debug, Default)]
struct Known {
    /// The files that have a usable version.
    stated: BTreeSet<FileId>,
    /// The files that have an unusable one.
    bad: BTreeSet<FileId>,
    in_force: Option<Event>,
}

/// Reads one file's content by itself. The path is for messages, and tells JSON from YAML.
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
    /// No files.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what has become of one file. Nothing comes of it before [`Manifests::commit`], so
    /// that an object that moves from one file to another is never gone in between.
    pub fn update(&mut self, id: &FileId, content: Content<'_>) {
        let old = self.files.remove(id).unwrap_or_default();
        self.forget(id, &old);
        let new = match content {
            Content::Gone => File::default(),
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
        if matches!(content, Content::Gone) {
            return;
        }
        for key in new.objects.keys() {
            let known = self.objects.entry(key.clone()).or_default();
            known.stated.insert(id.clone());
            self.touched.insert(key.clone());
        }
        for key in &new.bad {
            let known = self.objects.entry(key.clone()).or_default();
            known.bad.insert(id.clone());
            self.touched.insert(key.clone());
        }
        self.files.insert(id.clone(), new);
    }

    /// What the updates since the last commit come to. `initial_list_complete` is left false, for
    /// the caller knows.
    pub fn commit(&mut self) -> Batch {
        let mut deleted = Vec::new();
        let mut applied = Vec::new();
        for key in std::mem::take(&mut self.touched) {
            self.check_duplicate(&key);
            let Some(known) = self.objects.get_mut(&key) else {
                continue;
            };
            let last = known.stated.last().and_then(|id| self.files.get(id));
            match last.and_then(|file| file.objects.get(&key)) {
                Some((event, _)) if known.in_force.as_ref() == Some(event) => {}
                Some((event, _)) => {
                    known.in_force = Some(event.clone());
                    applied.push(event.clone());
                }
                None if known.bad.is_empty() => {
                    if known.in_force.is_some() {
                        deleted.push(key.deleted());
                    }
                    self.objects.remove(&key);
                }
                None => {} // Stated, but unusable: what is in force stays so.
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

    /// The files that are known, in order of precedence.
    pub fn files(&self) -> impl Iterator<Item = &FileId> {
        self.files.keys()
    }

    /// Takes a file out of the objects' books.
    fn forget(&mut self, id: &FileId, file: &File) {
        for key in file.objects.keys().chain(&file.bad) {
            if let Some(known) = self.objects.get_mut(key) {
                known.stated.remove(id);
                known.bad.remove(id);
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

    /// Reports an object that has come to stand in two files, or does so no more.
    fn check_duplicate(&mut self, key: &Key) {
        let place = |id| Some(self.files.get(id)?.objects.get(key)?.1.clone());
        let mut places = self
            .objects
            .get(key)
            .into_iter()
            .flat_map(|known| known.stated.iter().rev().take(2))
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

/// Adds to what a file states what it stated before and must not lose.
fn carry_over(reading: read::Reading, old: &File) -> File {
    let read::Reading {
        mut objects,
        mut bad,
        incomplete,
        problems,
    } = reading;
    if incomplete {
        // An object that was unusable here keeps a version that came from elsewhere: it still does.
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
