//! A Kubernetes API server to test and measure against.
//!
//! It speaks list, watch, streaming lists (KEP-3157), bookmarks, 410, paging, JSON and protobuf
//! over TLS as the real one does, for Services, EndpointSlices, Nodes and ServiceCIDRs, and takes
//! Events. It is filled and changed from the test ([`Sim::apply`], [`Sim::delete`]), and can be
//! told to misbehave ([`Sim::misbehave`] and the methods after it).
//!
//! Objects are JSON values, so that a test can state any that the real server could hold, and some
//! that it could not. Their encodings are made once, when they are applied.

mod acts;
mod encode;
mod response;
mod selector;
mod server;
mod store;
mod synthetic;
mod tls;
mod watch;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tokio::sync::watch as signal;

pub use acts::{Act, acts};
use store::State;
pub use synthetic::{service_cidr, slice_of, synthetic_cluster};

/// The kinds that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // The API's own words.
pub enum Resource {
    Services,
    EndpointSlices,
    Nodes,
    ServiceCidrs,
}

impl Resource {
    /// All of them.
    pub const ALL: [Resource; 4] = [
        Resource::Services,
        Resource::EndpointSlices,
        Resource::Nodes,
        Resource::ServiceCidrs,
    ];

    /// The path of the collection over all namespaces.
    pub fn path(self) -> &'static str {
        match self {
            Resource::Services => "/api/v1/services",
            Resource::EndpointSlices => "/apis/discovery.k8s.io/v1/endpointslices",
            Resource::Nodes => "/api/v1/nodes",
            Resource::ServiceCidrs => "/apis/networking.k8s.io/v1/servicecidrs",
        }
    }

    /// `kind`.
    pub fn kind(self) -> &'static str {
        match self {
            Resource::Services => "Service",
            Resource::EndpointSlices => "EndpointSlice",
            Resource::Nodes => "Node",
            Resource::ServiceCidrs => "ServiceCIDR",
        }
    }

    /// `apiVersion`.
    pub fn api_version(self) -> &'static str {
        match self {
            Resource::Services | Resource::Nodes => "v1",
            Resource::EndpointSlices => "discovery.k8s.io/v1",
            Resource::ServiceCidrs => "networking.k8s.io/v1",
        }
    }

    /// The resource of an object, by its `kind`.
    pub fn of(object: &Value) -> Option<Self> {
        let kind = object.get("kind")?.as_str()?;
        Resource::ALL.into_iter().find(|r| r.kind() == kind)
    }

    fn namespaced(self) -> bool {
        matches!(self, Resource::Services | Resource::EndpointSlices)
    }
}

/// How an object is spoilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corruption {
    /// What follows its metadata cannot be read.
    Body,
    /// Nothing of it can be read.
    Whole,
}

/// An answer that refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status code.
    pub code: u16,
    /// The Status' reason.
    pub reason: String,
    /// The header `Retry-After`.
    pub retry_after: Option<u32>,
    /// How many requests are refused so.
    pub times: usize,
    /// Only requests of this kind.
    pub resource: Option<Resource>,
}

/// What is wrong with the server for as long as it is set.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Refuses streaming lists with 422, as servers do that have them switched off.
    pub no_streaming_lists: bool,
    /// Takes a streaming list for a plain watch, as servers do that have never heard of it.
    pub ignores_initial_events: bool,
    /// Does not know ServiceCIDRs.
    pub no_service_cidrs: bool,
    /// Answers in JSON only: 406 where nothing else is accepted.
    pub no_protobuf: bool,
    /// Accepts requests, and is silent.
    pub stalled: bool,
    /// Events of these kinds are held back.
    pub held: HashSet<Resource>,
    /// An expired watch is refused with HTTP status 410; else with an ERROR event, as the real
    /// server does.
    pub http_gone: bool,
    /// Answers in pieces of so many bytes; 0: as they come.
    pub chunk: usize,
    /// Requests that are refused, each so many times.
    pub refusals: Vec<Refusal>,
}

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens; port 0 chooses one.
    pub listen: SocketAddr,
    /// Bearer tokens that are taken. Empty, and no client certificate required: all are welcome.
    pub tokens: Vec<String>,
    /// Clients must have a certificate of the server's CA.
    pub require_client_certificate: bool,
    /// Time between bookmarks; the real server's is a minute.
    pub bookmark_period: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tokens: Vec::new(),
            require_client_certificate: false,
            bookmark_period: Duration::from_secs(60),
        }
    }
}

/// State and what to wake up when it changes.
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Bumped by every change.
    changed: signal::Sender<u64>,
    /// Bumped to cut all connections.
    cut: signal::Sender<u64>,
    tokens: Mutex<Vec<String>>,
    config: Config,
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.changed.send_modify(|n| *n += 1);
    }
}

/// A server at work; dropping it ends it.
pub struct Sim {
    shared: Arc<Shared>,
    address: SocketAddr,
    tls: tls::Certificates,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Sim {
    /// Starts a server on a thread of its own, with a CA of its own.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(config: Config) -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind(config.listen).context("cannot listen")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let tls = tls::Certificates::generate(address.ip())?;
        let acceptor = tls.acceptor(config.require_client_certificate)?;
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: signal::Sender::new(0),
            cut: signal::Sender::new(0),
            tokens: Mutex::new(config.tokens.clone()),
            config,
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let serving = shared.clone();
        let thread = std::thread::Builder::new()
            .name("apiserver-sim".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = stopped => {}
                        () = server::serve(listener, acceptor, serving) => {}
                    }
                });
            })?;
        Ok(Self {
            shared,
            address,
            tls,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The CA's certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        self.tls.ca_pem()
    }

    /// A new client certificate, and its key, PEM.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn client_pem(&self, name: &str) -> anyhow::Result<(String, String)> {
        self.tls.client_pem(name)
    }

    /// Writes the CA and a kubeconfig for this server into a folder; `user` is the YAML of the
    /// kubeconfig's user, such as `{token: abc}`. Returns the kubeconfig's path.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_kubeconfig(&self, folder: &Path, user: &str) -> anyhow::Result<PathBuf> {
        std::fs::write(folder.join("ca.crt"), self.ca_pem())?;
        let path = folder.join("kubeconfig");
        let server = self.address;
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: sim\n\
             contexts: [{{name: sim, context: {{cluster: sim, user: sim}}}}]\n\
             clusters: [{{name: sim, cluster: \
             {{server: \"https://{server}\", certificate-authority: ca.crt}}}}]\n\
             users: [{{name: sim, user: {user}}}]\n"
        );
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// Adds or replaces objects; `apiVersion`, and the metadata that a server fills in, may be
    /// left out.
    ///
    /// # Panics
    /// When an object's `kind` is none that is served.
    pub fn apply(&self, objects: impl IntoIterator<Item = Value>) {
        let mut state = self.shared.state();
        for object in objects {
            let Some(resource) = Resource::of(&object) else {
                panic!("an object of a kind that is not served: {object}");
            };
            state.apply(resource, object);
        }
        drop(state);
        self.shared.wake();
    }

    /// Removes an object; `false` if it was not there.
    pub fn delete(&self, resource: Resource, namespace: &str, name: &str) -> bool {
        let key = (namespace.to_owned(), name.to_owned());
        let there = self.shared.state().delete(resource, &key);
        self.shared.wake();
        there
    }

    /// The objects as they are, in the order of their names.
    pub fn objects(&self, resource: Resource) -> Vec<Value> {
        let mut state = self.shared.state();
        let objects = state.collection(resource).objects.values();
        objects
            .map(|version| serde_json::from_slice(&version.json).unwrap_or_default())
            .collect()
    }

    /// Changes what is wrong with the server.
    pub fn misbehave(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.shared.state().faults);
        self.shared.wake();
    }

    /// Spoils an object: lists and watches send it so until it is applied anew.
    pub fn corrupt(&self, resource: Resource, namespace: &str, name: &str, how: Corruption) {
        let key = (namespace.to_owned(), name.to_owned());
        self.shared.state().corrupt(resource, &key, how);
        self.shared.wake();
    }

    /// Has every open watch of a kind send an event about an object that cannot be read, once. No
    /// object is that way.
    pub fn send_garbage(&self, resource: Resource, how: Corruption) {
        let mut state = self.shared.state();
        state.garbage = (state.garbage.0 + 1, Some((resource, how)));
        drop(state);
        self.shared.wake();
    }

    /// Has every open watch send its last events once more.
    pub fn repeat_events(&self, count: usize) {
        let mut state = self.shared.state();
        state.repeats = (state.repeats.0 + 1, count);
        drop(state);
        self.shared.wake();
    }

    /// Forgets history: watches that are behind, and lists that are at a page, get 410.
    pub fn expire(&self) {
        self.shared.state().expire();
        self.shared.wake();
    }

    /// Cuts all connections, in the middle of whatever is sent.
    pub fn cut_connections(&self) {
        self.shared.cut.send_modify(|n| *n += 1);
    }

    /// Replaces the tokens that are taken.
    pub fn set_tokens(&self, tokens: Vec<String>) {
        *self
            .shared
            .tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = tokens;
    }

    /// The Events (`events.k8s.io/v1`) that have been posted, and the patches to them, as sent.
    pub fn posted_events(&self) -> Vec<Value> {
        self.shared.state().posted.clone()
    }

    /// The requests so far: method, path and query, and the `Accept` header.
    pub fn requests(&self) -> Vec<String> {
        self.shared.state().requests.clone()
    }

    /// How many watches are open.
    pub fn open_watches(&self) -> usize {
        self.shared.changed.receiver_count()
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // A server that has ended already needs no telling.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // What went wrong in it the test has seen from outside.
            let _ = thread.join();
        }
    }
}
