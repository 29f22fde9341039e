//! The Kubernetes API server as a source.
//!
//! A [`reflector`](reflector) watches each of four kinds: Services, EndpointSlices, this node's
//! Node, and ServiceCIDRs if the server has them. Reflectors decide the next request and interpret
//! the answers without I/O or clock; one thread sends and receives. An unreachable server changes
//! nothing: delivered objects stay valid until the server reports a change.

mod addresses;
mod backoff;
mod client;
mod events;
mod outbox;
mod reflector;
mod request;
mod run;
mod store;
#[cfg(test)]
mod tests;
mod time;
pub mod wire;

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use model::{Interner, Kind};
use tokio::sync::oneshot;

pub use client::{ConfigError, Sent, credential_plugin};
pub use events::{EventType, NewEvent, Recorder, Regarding};
pub use reflector::Timing;
use wire::Format;

use crate::{Batch, Running, Source, StopSignal};

/// Options of the API client: kube-proxy's flags and `clientConnection`.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// `--kubeconfig`. Without it and `master`, the Pod's service account is used.
    pub kubeconfig: Option<PathBuf>,
    /// `--master`: overrides the kubeconfig's server.
    pub master: Option<String>,
    /// A kubeconfig of the node (the kubelet's). In a Pod without `kubeconfig` and `master`, its
    /// server is tried before the Service `kubernetes`.
    pub node_kubeconfig: Option<PathBuf>,
    /// File for the real addresses of the API servers, which are tried before the Service
    /// `kubernetes` after a reboot.
    pub address_file: Option<PathBuf>,
    /// `contentType`, `--kube-api-content-type`: `application/vnd.kubernetes.protobuf` or
    /// `application/json`; empty means the latter, as with client-go.
    pub content_type: String,
    /// `acceptContentTypes`: the `Accept` header; derived from `content_type` if empty.
    pub accept_content_types: String,
    /// `qps`, `--kube-api-qps`: requests per second. 0 means 5, a negative value no limit.
    pub qps: f32,
    /// `burst`, `--kube-api-burst`: size of a burst. 0 means 10.
    pub burst: i32,
    /// Delays and timeouts.
    pub timing: Timing,
}

/// kube-proxy's defaults.
impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            master: None,
            node_kubeconfig: None,
            address_file: None,
            content_type: Format::Protobuf.media_type().into(),
            accept_content_types: String::new(),
            qps: 5.0,
            burst: 10,
            timing: Timing::default(),
        }
    }
}

/// The API server as a [`Source`].
pub struct ApiServer {
    config: client::ServerConfig,
    options: ClientOptions,
    format: Format,
    node_name: String,
    recorder: Recorder,
    queue: events::Queue,
    observer: client::Observer,
    watches: Watches,
}

/// Receives whether the watch of a kind fails, with the reason, and each sign of life of the server.
pub type Watches = Box<dyn Fn(Kind, WatchState<'_>) + Send>;

/// The state of the watch of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchState<'a> {
    /// The server has answered, or sent an event or a bookmark.
    Heard,
    /// Requests fail, for this reason. The known objects are kept.
    Failing(&'a str),
    /// Requests succeed again.
    Recovered,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer")
            .field("config", &self.config)
            .field("node_name", &self.node_name)
            .finish_non_exhaustive()
    }
}

impl ApiServer {
    /// Read the kubeconfig or the Pod's service account, without contacting the server. The only
    /// Node that is watched is `node_name`.
    ///
    /// # Errors
    /// If the configuration can never work. An unreachable server or a missing token file is
    /// retried instead.
    pub fn new(options: ClientOptions, node_name: &str) -> Result<Self, ConfigError> {
        Self::with_environment(options, node_name, &client::Environment::of_this_process())
    }

    fn with_environment(
        options: ClientOptions,
        node_name: &str,
        environment: &client::Environment,
    ) -> Result<Self, ConfigError> {
        let config = client::find_server(
            options.kubeconfig.as_deref(),
            options.master.as_deref(),
            options.node_kubeconfig.as_deref(),
            environment,
        )?;
        let format = match options.content_type.as_str() {
            "" => Format::Json,
            other => Format::of_content_type(other)
                .ok_or_else(|| ConfigError::ContentType(other.to_owned()))?,
        };
        // Reports unusable certificates at startup.
        client::Client::new(config.clone(), options.qps, options.burst, Instant::now())?;
        let (recorder, queue) = events::recorder();
        Ok(Self {
            config,
            options,
            format,
            node_name: node_name.to_owned(),
            recorder,
            queue,
            observer: Box::new(|_| {}),
            watches: Box::new(|_, _| {}),
        })
    }

    /// Call `observer` for each request, at the head of its answer or on failure.
    pub fn observe(&mut self, observer: impl Fn(&Sent<'_>) + Send + 'static) {
        self.observer = Box::new(observer);
    }

    /// Call `watches` when the state of a watch changes.
    pub fn observe_watches(&mut self, watches: impl Fn(Kind, WatchState<'_>) + Send + 'static) {
        self.watches = Box::new(watches);
    }

    /// The URL of the server.
    pub fn url(&self) -> &str {
        &self.config.server
    }

    /// Return a recorder that sends Kubernetes Events through the same client once the source runs.
    pub fn recorder(&self) -> Recorder {
        self.recorder.clone()
    }

    fn run(
        self,
        deliver: impl FnMut(Batch) -> ControlFlow<()> + 'static,
        stop: oneshot::Receiver<()>,
    ) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let now = Instant::now();
        let ClientOptions {
            accept_content_types: accept,
            qps,
            burst,
            timing,
            address_file,
            ..
        } = self.options;
        let client = client::Client::new(self.config, qps, burst, now).map_err(io::Error::other)?;
        let client = Rc::new(client.observed_by(self.observer));
        let addresses = address_file
            .filter(|_| client.is_service())
            .map(addresses::ServerAddresses::open);
        if let Some(addresses) = &addresses {
            client.set_addresses(addresses.get());
        }
        let shared = Rc::new(run::Shared {
            client: client.clone(),
            node_name: self.node_name.clone(),
            accept: (!accept.is_empty()).then_some(accept),
            interner: Interner::new().into(),
            outbox: outbox::Outbox::new(Box::new(deliver)).into(),
            addresses: addresses.into(),
            closed: tokio::sync::Notify::new(),
            watches: self.watches,
        });
        let tasks = tokio::task::LocalSet::new();
        for kind in Kind::ALL {
            let jitter = jitter(kind);
            let reflector =
                reflector::Reflector::new(kind, self.format, timing.clone(), jitter, now);
            tasks.spawn_local(run::watch_kind(shared.clone(), reflector));
        }
        drop(self.recorder); // The queue ends with the last recorder outside.
        let (queue, node_name) = (self.queue, self.node_name);
        tasks.spawn_local(async move { events::send_all(client, queue, &node_name).await });
        tasks.block_on(&runtime, async {
            tokio::select! {
                _ = stop => {}
                () = shared.closed.notified() => {}
            }
        });
        Ok(())
    }
}

impl Source for ApiServer {
    fn start<F>(self, deliver: F) -> io::Result<Running>
    where
        F: FnMut(Batch) -> ControlFlow<()> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("apiserver".into())
            .spawn(move || {
                if let Err(e) = self.run(deliver, stopped) {
                    tracing::error!(error = %e, "Cannot watch the API server");
                }
            })?;
        Ok(Running {
            stop: Some(Box::new(Stop(stop))),
            thread: Some(thread),
        })
    }
}

#[derive(Debug)]
struct Stop(oneshot::Sender<()>);

impl StopSignal for Stop {
    fn stop(self: Box<Self>) {
        // Fails if the thread has ended already.
        let _ = self.0.send(());
    }
}

/// Format an error with its causes, each once.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let causes: Vec<_> = causes.map(ToString::to_string).collect();
    causes.join(": ")
}

/// Return a source of jitter that differs between nodes and between starts.
fn jitter(kind: Kind) -> backoff::Jitter {
    use std::hash::{BuildHasher, RandomState};
    let seed = RandomState::new();
    let mut count = 0_u64;
    Box::new(move || {
        count += 1;
        let bits = seed.hash_one((kind, count)) >> 11;
        // 53 bits fit into an f64 without rounding.
        #[allow(clippy::cast_precision_loss)]
        let number = bits as f64 / (1_u64 << 53) as f64;
        number
    })
}
