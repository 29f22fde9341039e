//! The Kubernetes API server as a source.
//!
//! Four kinds are followed, each by a [`reflector`](reflector) of its own: Services,
//! EndpointSlices, this node's Node, and ServiceCIDRs where the server has them. What a reflector
//! does next, and what the server's answers mean, is decided without input, output or clock; a
//! thread sends and receives. A server that is away changes nothing: what was delivered stays
//! true until the server says otherwise.

mod backoff;
mod client;
mod events;
mod outbox;
mod reflector;
mod request;
mod run;
mod store;
mod time;
pub mod wire;

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use model::{Interner, Kind};
use tokio::sync::oneshot;

pub use client::{ConfigError, Sent};
pub use events::{EventType, NewEvent, Recorder, Regarding};
pub use reflector::Timing;
use wire::Format;

use crate::{Batch, Running, Source, StopSignal};

/// How to reach the API server: kube-proxy's flags and `clientConnection`.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// `--kubeconfig`. Without it and `master`, the pod's own account is used.
    pub kubeconfig: Option<PathBuf>,
    /// `--master`: goes before the kubeconfig's server.
    pub master: Option<String>,
    /// `contentType`, `--kube-api-content-type`: `application/vnd.kubernetes.protobuf` or
    /// `application/json`; empty means the latter, as with client-go.
    pub content_type: String,
    /// `acceptContentTypes`: the `Accept` header, where it is not to follow from `content_type`.
    pub accept_content_types: String,
    /// `qps`, `--kube-api-qps`: requests a second. 0 means 5, less than 0 no limit.
    pub qps: f32,
    /// `burst`, `--kube-api-burst`: requests at once. 0 means 10.
    pub burst: i32,
    /// Waiting times.
    pub timing: Timing,
}

/// kube-proxy's defaults.
impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            master: None,
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
    /// Reads the kubeconfig, or finds the pod's account; the server itself is not asked yet. Of
    /// Nodes, `node_name` is followed.
    ///
    /// # Errors
    /// A configuration that can never work. A server that is away, or a token file that is not
    /// there yet, is none: that is retried.
    pub fn new(options: ClientOptions, node_name: &str) -> Result<Self, ConfigError> {
        let surroundings = client::Surroundings::of_this_process();
        let config = client::find_server(
            options.kubeconfig.as_deref(),
            options.master.as_deref(),
            &surroundings,
        )?;
        let format = match options.content_type.as_str() {
            "" => Format::Json,
            other => Format::of_content_type(other)
                .ok_or_else(|| ConfigError::ContentType(other.to_owned()))?,
        };
        // Certificates that cannot be used are better found out now.
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
        })
    }

    /// Has each request told, once its answer begins or is known not to come.
    pub fn observe(&mut self, observer: impl Fn(&Sent<'_>) + Send + 'static) {
        self.observer = Box::new(observer);
    }

    /// Sends Kubernetes Events through the same client, from when the source has been started.
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
            ..
        } = self.options;
        let client = client::Client::new(self.config, qps, burst, now).map_err(io::Error::other)?;
        let client = Rc::new(client.observed_by(self.observer));
        let shared = Rc::new(run::Shared {
            client: client.clone(),
            node_name: self.node_name.clone(),
            accept: (!accept.is_empty()).then_some(accept),
            interner: Interner::new().into(),
            outbox: outbox::Outbox::new(Box::new(deliver)).into(),
            closed: tokio::sync::Notify::new(),
        });
        let tasks = tokio::task::LocalSet::new();
        for kind in Kind::ALL {
            let jitter = jitter(kind);
            let reflector =
                reflector::Reflector::new(kind, self.format, timing.clone(), jitter, now);
            tasks.spawn_local(run::follow(shared.clone(), reflector));
        }
        drop(self.recorder); // So that the queue ends when the last one outside is gone.
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
                    tracing::error!("the API server cannot be followed: {e}");
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
        // A thread that has ended already needs no telling.
        let _ = self.0.send(());
    }
}

/// Format an error with its causes, each once.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let causes: Vec<_> = causes.map(ToString::to_string).collect();
    causes.join(": ")
}

/// Numbers that differ from node to node and from start to start; nothing depends on their quality.
fn jitter(kind: Kind) -> backoff::Jitter {
    use std::hash::{BuildHasher, RandomState};
    let seed = RandomState::new();
    let mut count = 0_u64;
    Box::new(move || {
        count += 1;
        let bits = seed.hash_one((kind, count)) >> 11;
        // 53 bits: all that an f64 takes without rounding.
        #[allow(clippy::cast_precision_loss)]
        let number = bits as f64 / (1_u64 << 53) as f64;
        number
    })
}
