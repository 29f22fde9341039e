//! Watches manifest files for changes.
//!
//! inotify reports changes; a scan follows a moment later, so that a burst of changes becomes one
//! batch. A slow periodic scan covers missed events. Editors, `kubectl`, `cp` and the kubelet's
//! symlink swap of a ConfigMap mount replace files in different ways. Therefore:
//! - A scan relies on the files that the paths lead to, through symlinks, not on the content of
//!   inotify events.
//! - A file that is open for writing is not read until the writer has closed it or been silent for
//!   a while: a half-written file could appear to lack objects.
//! - A file missing from a folder counts as removed at the second scan only, since some programs
//!   replace a file by deleting it first.
//! - A path argument that vanishes counts as unavailable, not as empty: its objects are kept. To
//!   remove them, empty the file or folder.

mod scan;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind};
use notify::{Event, EventKind};

use crate::manifests::Manifests;
use crate::{Batch, Running, Source, StopSignal};
use scan::{FileNumber, Scan};
use watch::Watch;

pub use scan::read_once;

/// Files and folders of manifests as a [`Source`].
///
/// A folder stands for the files directly in it with names that end in `.yaml`, `.yml` or `.json` and
/// do not start with a dot, as with `kubectl apply -f`.
#[derive(Clone, Debug)]
pub struct ManifestFiles {
    paths: Vec<PathBuf>,
    timing: Timing,
}

/// Delays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From the first event of a change to the scan.
    pub settle: Duration,
    /// Wait for a missing file to reappear.
    pub absence: Duration,
    /// Wait for a writer to close its file, from its last write.
    pub writing: Duration,
    /// Period of scans without events; a tenth of it if inotify is not available or a path is
    /// missing.
    pub rescan: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            settle: Duration::from_millis(20),
            absence: Duration::from_millis(100),
            writing: Duration::from_secs(1),
            rescan: Duration::from_secs(10),
        }
    }
}

impl ManifestFiles {
    /// Watch these files and folders. Of several definitions of an object, the last one wins.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self {
            paths: paths.into_iter().collect(),
            timing: Timing::default(),
        }
    }

    /// Set the delays.
    pub fn with_timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }
}

impl Source for ManifestFiles {
    fn start<F>(self, mut deliver: F) -> io::Result<Running>
    where
        F: FnMut(Batch) -> ControlFlow<()> + Send + 'static,
    {
        let (sender, receiver) = channel();
        let stop = Stop(sender.clone());
        let thread = std::thread::Builder::new()
            .name("manifests".into())
            .spawn(move || {
                let mut follower = Follower::new(self, sender);
                follower.run(&receiver, &mut deliver);
            })?;
        Ok(Running {
            stop: Some(Box::new(stop)),
            thread: Some(thread),
        })
    }
}

/// A message to the follower.
enum Message {
    Changed(notify::Result<Event>),
    Stop,
}

#[derive(Debug)]
struct Stop(Sender<Message>);

impl StopSignal for Stop {
    fn stop(self: Box<Self>) {
        // Fails if the thread has ended already.
        let _ = self.0.send(Message::Stop);
    }
}

struct Follower {
    timing: Timing,
    manifests: Manifests,
    scan: Scan,
    watch: Watch,
    /// Time of the next scan.
    due: Instant,
    /// Files that are being written, and the time to stop waiting.
    writing: HashMap<FileNumber, Instant>,
    complete: bool,
}

impl Follower {
    fn new(source: ManifestFiles, sender: Sender<Message>) -> Self {
        Self {
            timing: source.timing,
            manifests: Manifests::new(),
            scan: Scan::new(source.paths),
            watch: Watch::new(sender),
            due: Instant::now(),
            writing: HashMap::new(),
            complete: false,
        }
    }

    fn run(
        &mut self,
        messages: &Receiver<Message>,
        deliver: &mut impl FnMut(Batch) -> ControlFlow<()>,
    ) {
        loop {
            if self.due <= Instant::now()
                && let Some(batch) = self.scan()
                && deliver(batch).is_break()
            {
                return;
            }
            let wait = self.due.saturating_duration_since(Instant::now());
            match messages.recv_timeout(wait) {
                Ok(Message::Changed(event)) => self.on_event(event),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Scan all paths and return the changes, if any.
    fn scan(&mut self) -> Option<Batch> {
        let now = Instant::now();
        self.writing.retain(|_, until| *until > now);
        // Watching before the scan catches changes after it. The scan may add folders to watch,
        // which may have changed before they were watched.
        for _ in 0..3 {
            self.watch.follow(&self.scan.to_watch());
            let paths = self.scan.to_watch();
            self.scan.run(
                &mut self.manifests,
                &self.writing,
                now + self.timing.absence,
            );
            if self.scan.to_watch() == paths {
                break;
            }
        }
        let eager = self.scan.unavailable() || !self.watch.works();
        let rescan = now + self.timing.rescan / if eager { 10 } else { 1 };
        self.due = [self.scan.next_run(), self.writing.values().min().copied()]
            .into_iter()
            .flatten()
            .fold(rescan, Instant::min);
        let first_complete = !self.complete && self.scan.complete();
        self.complete |= first_complete;
        let mut batch = self.manifests.commit();
        batch.initial_list_complete = self.complete;
        let empty =
            batch.events.is_empty() && batch.problems.is_empty() && batch.resolved.is_empty();
        (first_complete || !empty).then_some(batch)
    }

    /// Handle an inotify event.
    fn on_event(&mut self, event: notify::Result<Event>) {
        let now = Instant::now();
        let event = match event {
            Ok(event) if event.need_rescan() => {
                self.scan.force_all();
                event
            }
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(%error, "Watching manifests failed; scanning all");
                self.scan.force_all();
                Event::new(EventKind::Other)
            }
        };
        let writing = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
            EventKind::Access(_) => return, // A reader, perhaps this thread.
            // Links are complete when created.
            EventKind::Create(CreateKind::File) => event
                .paths
                .iter()
                .all(|path| path.symlink_metadata().is_ok_and(|m| scan::is_new_file(&m))),
            EventKind::Modify(ModifyKind::Data(_)) => true,
            _ => false,
        };
        for path in &event.paths {
            let Some(file) = FileNumber::of(path) else {
                continue;
            };
            self.scan.force(file);
            if writing {
                self.writing.insert(file, now + self.timing.writing);
            } else {
                self.writing.remove(&file);
            }
        }
        self.due = self.due.min(now + self.timing.settle);
    }
}
