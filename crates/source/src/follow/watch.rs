//! inotify watches of the folders that the paths lead through.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::mpsc::Sender;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::Message;
use super::scan::FileNumber;

/// The active watches.
pub(super) struct Watch {
    /// `None` if inotify is not available; periodic scans replace it.
    watcher: Option<RecommendedWatcher>,
    /// The watched folders with their file numbers: another folder of the same name needs a new
    /// watch.
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
            // Fails while the follower ends.
            let _ = sender.send(Message::Changed(event));
        });
        let watcher = watcher
            .inspect_err(|error| {
                tracing::warn!(%error, "Manifests cannot be watched; scanning every second");
            })
            .ok();
        Self {
            failed: watcher.is_none(),
            watcher,
            watched: HashMap::new(),
        }
    }

    /// Return whether all folders are watched.
    pub(super) fn works(&self) -> bool {
        !self.failed
    }

    /// Watch exactly these folders.
    pub(super) fn follow(&mut self, folders: &BTreeSet<PathBuf>) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        self.watched.retain(|folder, number| {
            let keep = folders.contains(folder) && FileNumber::of(folder) == Some(*number);
            if !keep {
                // The kernel has already removed the watch of a removed folder.
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
                continue; // Just removed: the next scan handles it.
            };
            match watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(folder.clone(), number);
                }
                Err(error) => {
                    self.failed = true;
                    if !failed_before {
                        let path = folder.display();
                        tracing::warn!(%path, %error, "Folder cannot be watched; scanning every second");
                    }
                }
            }
        }
    }
}
