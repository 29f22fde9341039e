//! inotify watches that keep up with what the paths lead to.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::mpsc::Sender;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::Message;
use super::scan::FileNumber;

/// The watches that are set.
pub(super) struct Watch {
    /// `None` where the system has no watches to give; then looking again has to do.
    watcher: Option<RecommendedWatcher>,
    /// Folders, each with the number that it had when the watch was set: another folder of the
    /// same name needs a watch of its own.
    watched: HashMap<PathBuf, FileNumber>,
    failed: bool,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("watched", &self.watched)
            .finish_non_exhaustive()
    }
}

impl Watch {
    pub(super) fn new(sender: Sender<Message>) -> Self {
        let watcher = notify::recommended_watcher(move |event| {
            // If nobody listens any more, the follower is ending.
            let _ = sender.send(Message::Changed(event));
        });
        let watcher = watcher
            .inspect_err(|error| {
                tracing::warn!(%error, "changes of manifests cannot be watched; looking every second");
            })
            .ok();
        Self {
            failed: watcher.is_none(),
            watcher,
            watched: HashMap::new(),
        }
    }

    /// Whether everything that should be watched is.
    pub(super) fn works(&self) -> bool {
        !self.failed
    }

    /// Watches these folders, and no others.
    pub(super) fn follow(&mut self, folders: &BTreeSet<PathBuf>) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        self.watched.retain(|folder, number| {
            let keep = folders.contains(folder) && FileNumber::of(folder) == Some(*number);
            if !keep {
                // Where the folder itself is gone, so is its watch.
                let _ = watcher.unwatch(folder);
            }
            keep
        });
        let failed_before = std::mem::take(&mut self.failed);
        for folder in folders {
            if self.watched.contains_key(folder) {
                continue;
            }
            let Some(number) = FileNumber::of(folder) else {
                continue; // Gone in this moment; the next look sees that.
            };
            match watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(folder.clone(), number);
                }
                Err(error) => {
                    self.failed = true;
                    if !failed_before {
                        let folder = folder.display();
                        tracing::warn!(%folder, %error, "cannot be watched; looking every second");
                    }
                }
            }
        }
    }
}
