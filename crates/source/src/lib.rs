//! Sources of Kubernetes objects.
//!
//! A [`Source`] runs on its own thread and delivers [`Batch`]es of checked changes. There are two:
//! manifest files ([`follow::ManifestFiles`], with its logic in the state machine
//! [`manifests::Manifests`]) and the Kubernetes API server ([`apiserver::ApiServer`]).

pub mod apiserver;
pub mod follow;
pub mod manifests;
mod problem;

use std::io;
use std::ops::ControlFlow;

pub use follow::{ManifestFiles, read_once};
pub use problem::{Place, Problem, Severity, What};

/// One delivery of a source.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// The changed objects, each once; deletions first.
    pub events: Vec<model::Event>,
    /// New problems since the last batch.
    pub problems: Vec<Problem>,
    /// Earlier problems that have been resolved.
    pub resolved: Vec<Problem>,
    /// Whether every object of the source has been delivered at least once. Until then, an object
    /// that was not delivered may exist, so its absence must not remove anything.
    pub initial_list_complete: bool,
}

/// A source of objects.
pub trait Source {
    /// Start the source on its own thread, which passes batches to `deliver` until it returns
    /// [`ControlFlow::Break`] or the [`Running`] is dropped. The first batch with
    /// `initial_list_complete` may be empty; later ones never are.
    ///
    /// # Errors
    /// If the operating system refuses a thread or the means to watch for changes.
    fn start<F>(self, deliver: F) -> io::Result<Running>
    where
        F: FnMut(Batch) -> ControlFlow<()> + Send + 'static;
}

/// A running source; dropping it stops the source and waits for its thread.
#[derive(Debug)]
pub struct Running {
    stop: Option<Box<dyn StopSignal>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Ends a source's thread.
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
            tracing::error!("Thread of a source panicked");
        }
    }
}
