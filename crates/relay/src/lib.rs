//! An asynchronous relay: accepts connections for Services and carries them to endpoints itself.
//!
//! Used by userspace mode, and by nftables mode for NodePorts on loopback. The relay knows addresses
//! and ports, not Services: it receives [`Frontend`]s with their [`Backends`], and a change does not
//! affect unchanged frontends. An open connection keeps its endpoint until it ends.

mod balance;
mod buffer;
mod frontend;
mod limits;
mod tcp;
mod udp;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use model::Protocol;
use socket2::Socket;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

pub use crate::frontend::{Affinity, Backends, Frontend};
pub use crate::limits::Limits;

use crate::balance::{Balancer, Choice, Memories};
use crate::limits::{Places, RateLimited, Shared};

/// Why a request to the relay failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The thread or its runtime cannot be created.
    #[error("cannot start the relay: {0}")]
    Start(std::io::Error),
    /// A frontend cannot be opened; the others are served.
    #[error("cannot listen on {} for {}: {error}", frontend.address, frontend.protocol)]
    Listen {
        /// The frontend.
        frontend: Frontend,
        /// The system's error.
        error: std::io::Error,
    },
    /// The relay does not support SCTP.
    #[error("{} for {}: only TCP and UDP can be relayed", frontend.address, frontend.protocol)]
    Unsupported {
        /// The frontend.
        frontend: Frontend,
    },
    /// The relay has stopped.
    #[error("the relay has stopped")]
    Stopped,
}

/// A running relay. Dropping it stops it at once; [`Relay::stop`] lets connections end.
pub struct Relay {
    commands: mpsc::UnboundedSender<Command>,
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Desired backends of frontends; `None` closes a frontend.
type Changes = BTreeMap<Frontend, Option<Backends>>;

enum Command {
    Reserve(Vec<Frontend>, oneshot::Sender<Vec<Result<Frontend, Error>>>),
    Change(Changes, oneshot::Sender<Vec<Error>>),
    Serve(
        BTreeMap<Frontend, Backends>,
        oneshot::Sender<(Vec<Bound>, Vec<Error>)>,
    ),
    Stop(oneshot::Sender<()>),
}

/// A listening frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The frontend as requested.
    pub frontend: Frontend,
    /// The address it listens on: the requested one, with the port that the system chose for 0.
    pub address: SocketAddr,
}

impl Relay {
    /// Start a relay without frontends.
    ///
    /// # Errors
    ///
    /// [`Error::Start`].
    pub fn start(limits: Limits) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(std::thread::available_parallelism().map_or(1, usize::from))
            .thread_name("relay")
            .enable_all()
            .build()
            .map_err(Error::Start)?;
        let (commands, receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            limits,
            connections: Places::new(limits.connections),
            flows: Places::new(limits.flows),
            pipes: Places::new(limits.pipes),
            full: RateLimited::default(),
            starved: RateLimited::default(),
        });
        let for_tasks = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("relay-main".to_owned())
            .spawn(move || {
                runtime.block_on(run(for_tasks, receiver));
                runtime.shutdown_background();
            })
            .map_err(Error::Start)?;
        Ok(Self {
            commands,
            shared,
            thread: Some(thread),
        })
    }

    fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Error> {
        let (done, answer) = oneshot::channel();
        self.commands
            .send(command(done))
            .map_err(|_| Error::Stopped)?;
        answer.blocking_recv().map_err(|_| Error::Stopped)
    }

    /// Reserve ports without answering on them yet: connections are refused. For port 0 the system
    /// chooses a port; the returned frontend contains it. [`Relay::change`] opens or releases a
    /// frontend.
    ///
    /// Used to protect a port with rules before it answers.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`]; a frontend that cannot be bound has its own error in the result.
    pub fn reserve(&self, frontends: Vec<Frontend>) -> Result<Vec<Result<Frontend, Error>>, Error> {
        self.ask(|done| Command::Reserve(frontends, done))
    }

    /// Serve these frontends, close those with `None`, and leave all others unchanged. A frontend
    /// that was served before keeps its listener, client affinity and connections. Open TCP
    /// connections of a closed frontend continue. Returns the errors of frontends that cannot be
    /// opened; the others are served.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`].
    pub fn change(
        &self,
        changes: BTreeMap<Frontend, Option<Backends>>,
    ) -> Result<Vec<Error>, Error> {
        self.ask(|done| Command::Change(changes, done))
    }

    /// Like [`Relay::change`], with the complete set of frontends. Returns the listening addresses
    /// and the errors.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`].
    pub fn serve(
        &self,
        frontends: BTreeMap<Frontend, Backends>,
    ) -> Result<(Vec<Bound>, Vec<Error>), Error> {
        self.ask(|done| Command::Serve(frontends, done))
    }

    /// Return the number of open connections and flows.
    pub fn open_connections(&self) -> usize {
        self.shared.connections.taken() + self.shared.flows.taken()
    }

    /// Wait for open connections to end, at most [`Limits::drain`], and stop. New connections are
    /// served for most of that time, since no other process would serve them, and rejected for the
    /// rest, so that short ones can end.
    pub fn stop(mut self) {
        let _ = self.ask(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An open frontend; dropping it closes the listener.
struct Served {
    choice: watch::Sender<Choice>,
    address: SocketAddr,
    task: JoinHandle<()>,
    /// Ends when the last owner of the socket has dropped it.
    closed: oneshot::Receiver<Infallible>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Served {
    /// Close the listener; the address is free afterwards.
    async fn close(mut self) {
        self.task.abort();
        // The errors only report the abort and the dropped sender.
        let _ = (&mut self.task).await;
        let _ = (&mut self.closed).await;
    }
}

/// All frontends.
#[derive(Default)]
struct Frontends {
    served: BTreeMap<Frontend, Served>,
    reserved: BTreeMap<Frontend, Socket>,
    memories: Memories,
}

async fn run(shared: Arc<Shared>, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut frontends = Frontends::default();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Reserve(wanted, done) => {
                let taken = wanted.into_iter().map(|f| frontends.reserve(f));
                let _ = done.send(taken.collect());
            }
            Command::Change(changes, done) => {
                let _ = done.send(frontends.change(&shared, changes).await);
            }
            Command::Serve(wanted, done) => {
                let errors = frontends.serve(&shared, wanted).await;
                let _ = done.send((frontends.bound(), errors));
            }
            Command::Stop(done) => {
                let drain = shared.limits.drain;
                drained(&shared, drain * 4 / 5).await;
                for served in frontends.served.into_values() {
                    served.close().await;
                }
                drop(frontends.reserved);
                drained(&shared, drain / 5).await;
                let _ = done.send(());
                return;
            }
        }
    }
}

/// Wait until no connection is open, at most `longest`.
async fn drained(shared: &Shared, longest: Duration) {
    let deadline = tokio::time::Instant::now() + longest;
    // UDP flows have no end to wait for.
    while shared.connections.taken() > 0 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Frontends {
    fn reserve(&mut self, frontend: Frontend) -> Result<Frontend, Error> {
        let (frontend, socket) = bind(frontend)?;
        self.reserved.insert(frontend, socket);
        Ok(frontend)
    }

    async fn serve(
        &mut self,
        shared: &Arc<Shared>,
        wanted: BTreeMap<Frontend, Backends>,
    ) -> Vec<Error> {
        let here = self.served.keys().chain(self.reserved.keys());
        let mut changes: Changes = here.map(|frontend| (*frontend, None)).collect();
        changes.extend(wanted.into_iter().map(|(f, backends)| (f, Some(backends))));
        self.change(shared, changes).await
    }

    async fn change(&mut self, shared: &Arc<Shared>, changes: Changes) -> Vec<Error> {
        let (mut removed, mut added) = (Vec::new(), Vec::new());
        for (frontend, backends) in changes {
            let Some(backends) = backends.filter(|b| !b.endpoints.is_empty()) else {
                removed.extend(self.served.remove(&frontend));
                self.reserved.remove(&frontend);
                continue;
            };
            let choice = self.memories.choice(backends);
            match self.served.get(&frontend) {
                Some(old) => drop(old.choice.send_replace(choice)),
                None => added.push((frontend, choice)),
            }
        }
        let some_removed = !removed.is_empty();
        for old in removed {
            old.close().await;
        }
        if some_removed {
            self.memories.sweep();
        }
        let mut errors = Vec::new();
        for (frontend, choice) in added {
            let reserved = self.reserved.remove(&frontend);
            match open(shared, frontend, reserved, choice) {
                Ok(new) => {
                    self.served.insert(frontend, new);
                }
                Err(error) => errors.push(error),
            }
        }
        errors
    }

    fn bound(&self) -> Vec<Bound> {
        let served = self.served.iter();
        let bound = served.map(|(frontend, s)| Bound {
            frontend: *frontend,
            address: s.address,
        });
        bound.collect()
    }
}

/// Bind the frontend's address. Returns the frontend with the port that the system chose for 0.
fn bind(frontend: Frontend) -> Result<(Frontend, Socket), Error> {
    let Frontend { address, protocol } = frontend;
    let bound = match protocol {
        Protocol::Tcp => tcp::bind(address),
        Protocol::Udp => udp::bind(address),
        Protocol::Sctp => return Err(Error::Unsupported { frontend }),
    };
    let failed = |error| Error::Listen { frontend, error };
    let socket = bound.map_err(failed)?;
    let address = socket.local_addr().map_err(failed)?;
    let address = address.as_socket().unwrap_or(frontend.address);
    Ok((Frontend { address, protocol }, socket))
}

fn open(
    shared: &Arc<Shared>,
    frontend: Frontend,
    reserved: Option<Socket>,
    choice: Choice,
) -> Result<Served, Error> {
    let socket = match reserved {
        Some(socket) => socket,
        None => bind(frontend)?.1,
    };
    let (sender, receiver) = watch::channel(choice);
    let shared = Arc::clone(shared);
    let balancer = Balancer::new(receiver);
    let failed = |error| Error::Listen { frontend, error };
    let (open, closed) = oneshot::channel();
    let (address, task) = match frontend.protocol {
        Protocol::Tcp => {
            let listener = tcp::listen(socket).map_err(failed)?;
            let address = listener.local_addr().map_err(failed)?;
            (
                address,
                tokio::spawn(tcp::serve(listener, balancer, shared)),
            )
        }
        Protocol::Udp => {
            let socket = udp::open(socket).map_err(failed)?;
            let address = socket.local_addr().map_err(failed)?;
            let serve = udp::serve(socket, open, balancer, shared);
            (address, tokio::spawn(serve))
        }
        Protocol::Sctp => return Err(Error::Unsupported { frontend }),
    };
    Ok(Served {
        choice: sender,
        address,
        task,
        closed,
    })
}
