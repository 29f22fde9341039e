//! An asynchronous relay: accepts connections for Services and carries them to endpoints itself.
//!
//! What the userspace mode consists of, and what serves NodePorts on loopback in nftables mode.
//! The relay knows addresses and ports, nothing of Services: it is given [`Frontend`]s, each with
//! its [`Backends`], and changes from one set to the next without touching what stays. A
//! connection that is open keeps its endpoint for as long as it lives, whatever changes.

mod balance;
mod tcp;
mod udp;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use model::Protocol;
use socket2::Socket;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::balance::Balancer;

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
    /// The endpoints. Empty: connections are refused.
    pub endpoints: Arc<[SocketAddr]>,
    /// For how long a client keeps to its endpoint; `None` balances every connection on its own.
    pub affinity: Option<Duration>,
}

/// Bounds, so that no client can exhaust the process.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open TCP connections and UDP flows, all frontends together. Beyond it new ones are refused
    /// (TCP) or dropped (UDP).
    pub connections: usize,
    /// How long to wait for an endpoint to accept before trying the next.
    pub dial: Duration,
    /// A UDP flow without a datagram for this long is over. kube-proxy's userspace mode took
    /// 250 ms; conntrack takes 30 s for one that was never answered.
    pub udp_idle: Duration,
    /// How long open connections get to end when the relay stops.
    pub drain: Duration,
    /// The mark of packets that go to endpoints (`SO_MARK`, needs `CAP_NET_ADMIN`), by which rules
    /// that lead connections here can tell the relay's own from others. 0: none.
    pub mark: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 65_536,
            dial: Duration::from_secs(2),
            udp_idle: Duration::from_secs(30),
            drain: Duration::from_secs(5),
            mark: 0,
        }
    }
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
    open: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<()>>,
}

enum Command {
    Reserve(Vec<Frontend>, oneshot::Sender<Vec<Result<Frontend, Error>>>),
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
    open: Arc<AtomicUsize>,
}

/// One open connection or flow, as far as the limit is concerned.
pub(crate) struct Slot(Arc<AtomicUsize>);

impl Shared {
    /// Takes a place under the limit, or `None` where there is none.
    pub(crate) fn slot(&self) -> Option<Slot> {
        let limit = self.limits.connections;
        self.open
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
                (n < limit).then_some(n + 1)
            })
            .ok()
            .map(|_| Slot(Arc::clone(&self.open)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
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
        let open = Arc::new(AtomicUsize::new(0));
        let shared = Arc::new(Shared {
            limits,
            open: Arc::clone(&open),
        });
        let thread = std::thread::Builder::new()
            .name("relay-main".to_owned())
            .spawn(move || {
                runtime.block_on(run(shared, receiver));
                runtime.shutdown_background();
            })
            .map_err(Error::Start)?;
        Ok(Self {
            commands,
            open,
            thread: Some(thread),
        })
    }

    /// Takes ports without answering on them yet: connections are refused. Where the port is 0 the
    /// system chooses one, and it is in the frontend that comes back. The next [`Relay::serve`]
    /// opens those that it is given and lets go of the others.
    ///
    /// For whoever has to keep others away from a port before it answers.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`]; what could not be taken is an error in its place.
    pub fn reserve(&self, frontends: Vec<Frontend>) -> Result<Vec<Result<Frontend, Error>>, Error> {
        let (done, answer) = oneshot::channel();
        self.commands
            .send(Command::Reserve(frontends, done))
            .map_err(|_| Error::Stopped)?;
        answer.blocking_recv().map_err(|_| Error::Stopped)
    }

    /// Serves these frontends and no others. What was served before and still is keeps its
    /// listener, its clients' affinity and its connections; open connections of a frontend that
    /// goes live on. Returns what is served, and what could not be opened.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`].
    pub fn serve(
        &self,
        frontends: BTreeMap<Frontend, Backends>,
    ) -> Result<(Vec<Bound>, Vec<Error>), Error> {
        let (done, answer) = oneshot::channel();
        self.commands
            .send(Command::Serve(frontends, done))
            .map_err(|_| Error::Stopped)?;
        answer.blocking_recv().map_err(|_| Error::Stopped)
    }

    /// Open connections and flows.
    pub fn open_connections(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Accepts nothing more, waits for open connections to end, at most [`Limits::drain`], and
    /// stops.
    pub fn stop(mut self) {
        let (done, answer) = oneshot::channel();
        if self.commands.send(Command::Stop(done)).is_ok() {
            let _ = answer.blocking_recv();
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One frontend that is being served; dropping it closes the listener.
struct Served {
    backends: watch::Sender<Backends>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(shared: Arc<Shared>, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut served: BTreeMap<Frontend, Served> = BTreeMap::new();
    let mut reserved: BTreeMap<Frontend, Socket> = BTreeMap::new();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Reserve(frontends, done) => {
                let taken = frontends.into_iter().map(|frontend| {
                    let (frontend, socket) = reserve(frontend)?;
                    reserved.insert(frontend, socket);
                    Ok(frontend)
                });
                let _ = done.send(taken.collect());
            }
            Command::Serve(wanted, done) => {
                let reserved = std::mem::take(&mut reserved);
                let errors = change(&shared, &mut served, reserved, wanted);
                let bound = served.iter().map(|(frontend, s)| Bound {
                    frontend: *frontend,
                    address: s.address,
                });
                let _ = done.send((bound.collect(), errors));
            }
            Command::Stop(done) => {
                served.clear();
                drain(&shared).await;
                let _ = done.send(());
                return;
            }
        }
    }
}

/// Binds the frontend's address; where its port is 0, the frontend with the port that it got.
fn reserve(frontend: Frontend) -> Result<(Frontend, Socket), Error> {
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

async fn drain(shared: &Shared) {
    let deadline = tokio::time::Instant::now() + shared.limits.drain;
    while shared.open.load(Ordering::Acquire) > 0 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn change(
    shared: &Arc<Shared>,
    served: &mut BTreeMap<Frontend, Served>,
    mut reserved: BTreeMap<Frontend, Socket>,
    wanted: BTreeMap<Frontend, Backends>,
) -> Vec<Error> {
    let mut errors = Vec::new();
    served.retain(|frontend, _| wanted.contains_key(frontend));
    for (frontend, backends) in wanted {
        if let Some(old) = served.get(&frontend) {
            old.backends.send_if_modified(|current| {
                let differs = *current != backends;
                *current = backends;
                differs
            });
            continue;
        }
        match open(shared, frontend, reserved.remove(&frontend), backends) {
            Ok(new) => {
                served.insert(frontend, new);
            }
            Err(error) => errors.push(error),
        }
    }
    errors
}

fn open(
    shared: &Arc<Shared>,
    frontend: Frontend,
    reserved: Option<Socket>,
    backends: Backends,
) -> Result<Served, Error> {
    let socket = match reserved {
        Some(socket) => socket,
        None => reserve(frontend)?.1,
    };
    let (sender, receiver) = watch::channel(backends);
    let shared = Arc::clone(shared);
    let balancer = Balancer::new(receiver);
    let failed = |source| Error::Listen { frontend, source };
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
            (address, tokio::spawn(udp::serve(socket, balancer, shared)))
        }
        Protocol::Sctp => return Err(Error::Unsupported { frontend }),
    };
    Ok(Served {
        backends: sender,
        address,
        task,
    })
}
