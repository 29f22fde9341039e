//! An asynchronous relay: accepts connections for Services and carries them to endpoints itself.
//!
//! What the userspace mode consists of, and what serves NodePorts on loopback in nftables mode.
//! The relay knows addresses and ports, nothing of Services: it is given [`Frontend`]s, each with
//! its [`Backends`], and changes from one set to the next without touching what stays. A
//! connection that is open keeps its endpoint for as long as it lives, whatever changes.

mod balance;
mod buffer;
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

pub use crate::limits::Limits;

use crate::balance::{Balancer, Choice, Memories};
use crate::limits::{Places, Seldom};

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The address and port.
    pub address: SocketAddr,
    /// TCP or UDP; SCTP has no relay.
    pub protocol: Protocol,
}

/// Where connections go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backends {
    /// The endpoints. While there are none nobody listens, so that the system refuses connections
    /// and datagrams.
    pub endpoints: Arc<[SocketAddr]>,
    /// Clients keep to their endpoints; `None` balances every connection on its own.
    pub affinity: Option<Affinity>,
}

/// How clients keep to their endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// For how long after its last connection a client does.
    pub timeout: Duration,
    /// Of what: frontends for which this is the same share what they remember.
    pub of: Arc<str>,
}

/// What could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The thread or its runtime could not be made.
    #[error("cannot start the relay: {0}")]
    Start(std::io::Error),
    /// A frontend could not be opened; the others are.
    #[error("cannot listen on {} for {}: {source}", frontend.address, frontend.protocol)]
    Listen {
        /// The frontend.
        frontend: Frontend,
        /// The system's answer.
        source: std::io::Error,
    },
    /// SCTP has no relay.
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

/// What is to become of frontends; `None` for those that shall go.
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

/// A frontend that is being served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// As it was asked for.
    pub frontend: Frontend,
    /// Where it listens: the same, with the port that the system chose where 0 was asked for.
    pub address: SocketAddr,
}

/// What every connection shares.
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) connections: Arc<Places>,
    pub(crate) flows: Arc<Places>,
    pub(crate) pipes: Arc<Places>,
    /// Messages of limits that are reached.
    pub(crate) full: Seldom,
    /// Messages of a system that gives no more sockets.
    pub(crate) starved: Seldom,
}

impl Relay {
    /// Starts a relay that serves nothing yet.
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
            full: Seldom::default(),
            starved: Seldom::default(),
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

    /// Takes ports without answering on them yet: connections are refused. Where the port is 0 the
    /// system chooses one, and it is in the frontend that comes back. [`Relay::change`] opens a
    /// frontend, or lets go of it.
    ///
    /// For whoever has to keep others away from a port before it answers.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`]; what could not be taken is an error in its place.
    pub fn reserve(&self, frontends: Vec<Frontend>) -> Result<Vec<Result<Frontend, Error>>, Error> {
        self.ask(|done| Command::Reserve(frontends, done))
    }

    /// Serves these frontends, closes those with `None`, and leaves all others as they are. What
    /// was served before and still is keeps its listener, its clients' affinity and its
    /// connections; open TCP connections of a frontend that goes live on. Returns what could not be
    /// opened; the rest is served.
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

    /// As [`Relay::change`], for all frontends that there shall be. Returns where they listen, and
    /// what could not be opened.
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

    /// Open connections and flows.
    pub fn open_connections(&self) -> usize {
        self.shared.connections.taken() + self.shared.flows.taken()
    }

    /// Waits for open connections to end, at most [`Limits::drain`], and stops. Most of that time
    /// new ones are still served, for nobody else would; in the rest none is accepted, so that
    /// short ones are not cut off.
    pub fn stop(mut self) {
        let _ = self.ask(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One frontend that is being served; dropping it closes the listener.
struct Served {
    choice: watch::Sender<Choice>,
    address: SocketAddr,
    task: JoinHandle<()>,
    /// Ends when the last who has the socket has let go of it.
    closed: oneshot::Receiver<Infallible>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Served {
    /// Closes the listener; the address is free afterwards.
    async fn close(mut self) {
        self.task.abort();
        // Errors say that the task was aborted, and that nobody will ever say a word.
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
                quiet(&shared, drain * 4 / 5).await;
                drop(frontends);
                quiet(&shared, drain / 5).await;
                let _ = done.send(());
                return;
            }
        }
    }
}

/// Waits until there is no connection, or for so long.
async fn quiet(shared: &Shared, longest: Duration) {
    let deadline = tokio::time::Instant::now() + longest;
    // A flow has no end that could be waited for.
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
        let (mut going, mut coming) = (Vec::new(), Vec::new());
        for (frontend, backends) in changes {
            let Some(backends) = backends.filter(|b| !b.endpoints.is_empty()) else {
                going.extend(self.served.remove(&frontend));
                self.reserved.remove(&frontend);
                continue;
            };
            let choice = self.memories.choice(backends);
            match self.served.get(&frontend) {
                Some(old) => drop(old.choice.send_replace(choice)),
                None => coming.push((frontend, choice)),
            }
        }
        let some_went = !going.is_empty();
        for old in going {
            old.close().await;
        }
        if some_went {
            self.memories.sweep();
        }
        let mut errors = Vec::new();
        for (frontend, choice) in coming {
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

/// Binds the frontend's address; where its port is 0, the frontend with the port that it got.
fn bind(frontend: Frontend) -> Result<(Frontend, Socket), Error> {
    let Frontend { address, protocol } = frontend;
    let bound = match protocol {
        Protocol::Tcp => tcp::bind(address),
        Protocol::Udp => udp::bind(address),
        Protocol::Sctp => return Err(Error::Unsupported { frontend }),
    };
    let failed = |source| Error::Listen { frontend, source };
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
    let failed = |source| Error::Listen { frontend, source };
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
