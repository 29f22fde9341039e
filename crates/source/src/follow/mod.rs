//! Manifest files followed as they change.
//!
//! Changes are noticed through inotify and looked at a moment later, so that a burst of them comes
//! as one batch; a slow rescan covers what inotify missed. Editors, `kubectl`, `cp` and the
//! kubelet's symlink swap of a ConfigMap mount all replace files in different ways, hence:
//! - What counts is what the paths lead to when looked at, symlinks followed, never what an event
//!   claims to have happened.
//! - A file that is open for writing is not read before the writer has closed it (or has been
//!   silent for a while): a half-written file could read as one that lacks objects.
//! - A file that has gone from a folder is believed gone only at the second look, since some
//!   programs replace a file by deleting it first.
//! - A path asked for that vanishes altogether is a source that is away, not one that is empty:
//!   its objects stay in force. To remove them, empty the file or the folder.

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
/// A folder stands for the files directly in it whose names end in `.yaml`, `.yml` or `.json` and
/// do not start with a dot; folders in it are not entered (as with `kubectl apply -f`).
#[derive(Clone, Debug)]
pub struct ManifestFiles {
    paths: Vec<PathBuf>,
    timing: Timing,
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From the first sign of a change to looking at it.
    pub settle: Duration,
    /// For a file that is gone to come back.
    pub absence: Duration,
    /// For a writer that does not close its file, from its last write.
    pub writing: Duration,
    /// From one look without any sign to the next. While changes cannot be watched, or a path
    /// is away, looks come ten times as often.
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
    /// Follows these files and folders. Where an object stands in several, the last one wins.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self {
            paths: paths.into_iter().collect(),
            timing: Timing::default(),
        }
    }

    /// With other waiting times.
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

/// What wakes the follower.
enum Message {
    Changed(notify::Result<Event>),
    Stop,
}

#[derive(Debug)]
struct Stop(Sender<Message>);

impl StopSignal for Stop {
    fn stop(self: Box<Self>) {
        // A thread that has ended already needs no telling.
        let _ = self.0.send(Message::Stop);
    }
}

struct Follower {
    timing: Timing,
    manifests: Manifests,
    scan: Scan,
    watch: Watch,
    /// When to look next.
    due: Instant,
    /// Files that somebody is writing, and how long to wait for that.
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
                && let Some(batch) = self.look()
                && deliver(batch).is_break()
            {
                return;
            }
            let wait = self.due.saturating_duration_since(Instant::now());
            match messages.recv_timeout(wait) {
                Ok(Message::Changed(event)) => self.noticed(event),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Looks at everything, and says what has come of it, if anything.
    fn look(&mut self) -> Option<Batch> {
        let now = Instant::now();
        self.writing.retain(|_, until| *until > now);
        // The watch comes before the look, so that a change after the look is noticed; and a look
        // can show that more must be watched, which then may have changed unnoticed.
        for _ in 0..3 {
            self.watch.follow(&self.scan.to_watch());
            let paths = self.scan.to_watch();
            self.scan.look(
                &mut self.manifests,
                &self.writing,
                now + self.timing.absence,
            );
            if self.scan.to_watch() == paths {
                break;
            }
        }
        let eager = self.scan.away() || !self.watch.works();
        let rescan = now + self.timing.rescan / if eager { 10 } else { 1 };
        self.due = [self.scan.next_look(), self.writing.values().min().copied()]
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

    /// Takes note of a sign that something changed.
    fn noticed(&mut self, event: notify::Result<Event>) {
        let now = Instant::now();
        let event = match event {
            Ok(event) if event.need_rescan() => {
                self.scan.force_all();
                event
            }
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(%error, "watching manifests");
                self.scan.force_all();
                Event::new(EventKind::Other)
            }
        };
        let writing = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
            EventKind::Access(_) => return, // Somebody reads; perhaps this very thread.
            // Links are created whole.
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
