//! Where Kubernetes objects come from.
//!
//! A [`Source`] runs on a thread of its own and delivers [`Batch`]es of checked changes. There is
//! one for manifest files, [`follow::ManifestFiles`], whose logic, apart from files and threads, is
//! the state machine [`manifests::Manifests`]; and one for the Kubernetes API server,
//! [`apiserver::ApiServer`].

pub mod apiserver;
pub mod follow;
pub mod manifests;
mod problem;

use std::io;
use std::ops::ControlFlow;

pub use follow::{ManifestFiles, read_once};
pub use problem::{Place, Problem, Severity, What};

/// What a source delivers at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// What changed. Objects that stayed as they were are not mentioned, and no object is
    /// mentioned twice. Deletions come first.
    pub events: Vec<model::Event>,
    /// What has gone wrong since the last batch.
    pub problems: Vec<Problem>,
    /// Earlier problems that are no more.
    pub resolved: Vec<Problem>,
    /// Whether everything that the source has has been delivered at least once. Before that an
    /// object that was not delivered may still exist: nothing may be removed on the strength of
    /// its absence.
    pub initial_list_complete: bool,
}

/// Somewhere that objects come from.
pub trait Source {
    /// Starts the source on a thread of its own, which hands `deliver` one batch after another
    /// until it answers [`ControlFlow::Break`] or the [`Running`] is dropped. The first batch that
    /// has `initial_list_complete` set comes even if it holds no events; later ones are never
    /// empty.
    ///
    /// # Errors
    /// What the operating system refuses: a thread, or the means to follow changes.
    fn start<F>(self, deliver: F) -> io::Result<Running>
    where
        F: FnMut(Batch) -> ControlFlow<()> + Send + 'static;
}

/// A source at work; dropping it stops the source and waits for its thread.
#[derive(Debug)]
pub struct Running {
    stop: Option<Box<dyn StopSignal>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// How a source's thread is told to end.
trait StopSignal: Send + std::fmt::Debug {
    fn stop(self: Box<Self>);
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.stop();
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a source's thread panicked");
        }
    }
}
