//! A Kubernetes API server for tests and benches.
//!
//! It serves Services, EndpointSlices, Nodes and ServiceCIDRs over TLS with list, watch, streaming
//! lists (KEP-3157), bookmarks, 410, paging, JSON and protobuf like the real server, and accepts
//! Events. For `kubectl` it serves discovery, and Pods with their subresource `exec`. Tests change its objects ([`Sim::apply`], [`Sim::delete`]) and inject faults
//! ([`Sim::misbehave`] and the methods after it).
//!
//! Objects are JSON values, so that tests can use valid and invalid ones. They are encoded once, when
//! they are applied.

mod acts;
mod encode;
mod exec;
mod faults;
mod pods;
mod query;
mod resource;
mod response;
mod selector;
mod server;
mod shared;
mod store;
mod synthetic;
mod tls;
mod watch;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::Context;
use serde_json::Value;
use tokio::sync::watch as signal;

pub use acts::{Act, acts};
pub use faults::{Corruption, Faults, Refusal};
pub use pods::Exec;
pub use resource::Resource;
pub use shared::Config;
use shared::Shared;
pub use synthetic::{service_cidr, slice_of, synthetic_cluster};

/// A running server; dropping it stops it.
pub struct Sim {
    shared: Arc<Shared>,
    address: SocketAddr,
    tls: tls::Certificates,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Sim {
    /// Start a server on its own thread, with its own CA.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn start(config: Config) -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind(config.listen).context("cannot listen")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let tls = tls::Certificates::generate(address.ip(), &config.certificate_addresses)?;
        let acceptor = tls.acceptor(config.require_client_certificate)?;
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: signal::Sender::new(0),
            cut: signal::Sender::new(0),
            tokens: Mutex::new(config.tokens.clone()),
            pods: Mutex::default(),
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

    /// Return the address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Return the CA's certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        self.tls.ca_pem()
    }

    /// Create a client certificate and its key, PEM.
    ///
    /// # Errors
    /// If the certificate cannot be created.
    pub fn client_pem(&self, name: &str) -> anyhow::Result<(String, String)> {
        self.tls.client_pem(name)
    }

    /// Write the CA and a kubeconfig for this server into a folder; `user` is the YAML of the
    /// kubeconfig's user, such as `{token: abc}`. Returns the path of the kubeconfig.
    ///
    /// # Errors
    /// If a file cannot be written.
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

    /// Add or replace objects. `apiVersion` and metadata set by the server are optional.
    ///
    /// # Panics
    /// If an object's `kind` is not served.
    pub fn apply(&self, objects: impl IntoIterator<Item = Value>) {
        let mut state = self.shared.state();
        for object in objects {
            let Some(resource) = Resource::of(&object) else {
                panic!("kind not served: {object}");
            };
            state.apply(resource, object);
        }
        drop(state);
        self.shared.wake();
    }

    /// Delete an object; `false` if it does not exist.
    pub fn delete(&self, resource: Resource, namespace: &str, name: &str) -> bool {
        let key = (namespace.to_owned(), name.to_owned());
        let there = self.shared.state().delete(resource, &key);
        self.shared.wake();
        there
    }

    /// Return the current objects, sorted by name.
    pub fn objects(&self, resource: Resource) -> Vec<Value> {
        let mut state = self.shared.state();
        let objects = state.collection(resource).objects.values();
        objects
            .map(|version| serde_json::from_slice(&version.json).unwrap_or_default())
            .collect()
    }

    /// Change the faults.
    pub fn misbehave(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.shared.state().faults);
        self.shared.wake();
    }

    /// Damage an object: lists and watches contain the damaged one until it is applied again.
    pub fn corrupt(&self, resource: Resource, namespace: &str, name: &str, how: Corruption) {
        let key = (namespace.to_owned(), name.to_owned());
        self.shared.state().corrupt(resource, &key, how);
        self.shared.wake();
    }

    /// Send one event with an unreadable object, which does not exist, on every open watch of a kind.
    pub fn send_garbage(&self, resource: Resource, how: Corruption) {
        let mut state = self.shared.state();
        state.garbage = (state.garbage.0 + 1, Some((resource, how)));
        drop(state);
        self.shared.wake();
    }

    /// Repeat the last events on every open watch.
    pub fn repeat_events(&self, count: usize) {
        let mut state = self.shared.state();
        state.repeats = (state.repeats.0 + 1, count);
        drop(state);
        self.shared.wake();
    }

    /// Drop the history: watches that lag and paged lists in progress get 410.
    pub fn expire(&self) {
        self.shared.state().expire();
        self.shared.wake();
    }

    /// Cut all connections, even in the middle of an event.
    pub fn cut_connections(&self) {
        self.shared.cut.send_modify(|n| *n += 1);
    }

    /// Replace the accepted tokens.
    pub fn set_tokens(&self, tokens: Vec<String>) {
        *self
            .shared
            .tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = tokens;
    }

    /// Replace the Pods, which are neither watched nor checked.
    pub fn set_pods(&self, pods: Vec<Value>) {
        self.shared.pods().set(pods);
    }

    /// Set the function that makes a command of a request to `exec`; `None` refuses the request.
    pub fn on_exec(
        &self,
        command: impl Fn(&Exec) -> Option<std::process::Command> + Send + Sync + 'static,
    ) {
        self.shared.pods().on_exec(command);
    }

    /// Return the posted Events (`events.k8s.io/v1`) and their patches.
    pub fn posted_events(&self) -> Vec<Value> {
        self.shared.state().posted.clone()
    }

    /// Return the requests so far: method, path with query, and `Accept` header.
    pub fn requests(&self) -> Vec<String> {
        self.shared.state().requests.clone()
    }

    /// Number of open watches.
    pub fn open_watches(&self) -> usize {
        self.shared.changed.receiver_count()
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // Fails if the server has ended already.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // A panic shows in the test's output.
            let _ = thread.join();
        }
    }
}
