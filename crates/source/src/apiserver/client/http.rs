//! Requests over HTTP/1.1 and TLS.
//!
//! Each request has its own connection, which is kept for the next one. A watch holds a connection
//! for minutes, so multiplexing gains little, and closing a connection ends exactly one watch.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::credentials::{CredentialError, Identity};
use super::limit::Limiter;
use super::routes::{Route, Routes};
use super::target::Target;
use super::tls::{Pems, client_config};
use super::{ConfigError, Credentials, ServerConfig};
use crate::apiserver::wire::{self, Format, Status};
use crate::apiserver::with_causes;

/// Timeout of name resolution, TCP and TLS handshake together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for each of several routes.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(3);
/// Period for rereading certificate files.
const RELOAD_PERIOD: Duration = Duration::from_secs(10);
/// Upper bound on the body of an error answer, in bytes.
const MAX_ERROR_BODY: usize = 64 << 10;
/// Idle connections to keep: one for each kind.
const MAX_IDLE: usize = 4;

/// A request without an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("no credential for the API server")]
    Credential(#[from] CredentialError),
    #[error("{0}")]
    Connect(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the connection to {server} failed")]
    Http {
        server: String,
        source: hyper::Error,
    },
    #[error("invalid request")]
    Request(#[from] hyper::http::Error),
}

/// Permission to send one request, with its credential.
pub(crate) struct Admission {
    authorization: Option<HeaderValue>,
    identity: Option<Identity>,
}

/// The server's answer.
pub(crate) enum Answer {
    /// 2xx, with the body still unread.
    Accepted {
        /// `None`: neither protobuf nor JSON.
        format: Option<Format>,
        body: Body,
    },
    /// Any other status code.
    Refused {
        code: u16,
        status: Option<Status>,
        /// The header `Retry-After`, if it is a number of seconds.
        retry_after: Option<u32>,
    },
}

/// The body of an answer. Dropping it before its end closes its connection.
pub(crate) struct Body {
    incoming: Incoming,
    connection: Option<SendRequest<Full<Bytes>>>,
    server: String,
}

impl Body {
    /// Read the next part; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, SendError> {
        while let Some(frame) = self.incoming.frame().await {
            let frame = frame.map_err(|source| SendError::Http {
                server: self.server.clone(),
                source,
            })?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

/// A sent request and its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent<'a> {
    /// The server's address, as in the `Host` header.
    pub host: &'a str,
    /// `GET`, `POST`, `PATCH`.
    pub method: &'a str,
    /// Whether the request is a watch.
    pub watch: bool,
    /// The status code; `None` without an answer.
    pub code: Option<u16>,
    /// Time from sending the request, including connecting, to the head of the answer.
    pub took: Duration,
}

/// Called for each request.
pub(crate) type Observer = Box<dyn Fn(&Sent<'_>) + Send>;

/// A client of one API server, for use on one thread.
pub(crate) struct Client {
    config: ServerConfig,
    target: Rc<Target>,
    routes: RefCell<Routes>,
    /// A connection has succeeded, or the hint about the configuration has been logged.
    hinted: Cell<bool>,
    tls: RefCell<Tls>,
    credentials: tokio::sync::Mutex<Credentials>,
    limiter: RefCell<Limiter>,
    idle: RefCell<Vec<SendRequest<Full<Bytes>>>>,
    user_agent: HeaderValue,
    observer: Observer,
}

struct Tls {
    connector: TlsConnector,
    pems: Pems,
    /// A plugin's certificate, which overrides the configured one.
    identity: Option<Identity>,
    read_at: Instant,
}

impl Client {
    /// Read certificates and check the configuration without contacting the server.
    pub(crate) fn new(
        config: ServerConfig,
        qps: f32,
        burst: i32,
        now: Instant,
    ) -> Result<Self, ConfigError> {
        let target = Rc::new(Target::parse(&config)?);
        let routes = Routes::new(target.clone(), node_target(&config), rotation());
        let pems = Pems::read(&config)?;
        let connector = TlsConnector::from(Arc::new(client_config(&pems, config.insecure)?));
        let credentials = Credentials::new(&config, pems.ca.as_deref());
        let agent = concat!("sluice/", env!("CARGO_PKG_VERSION"), " (linux)");
        Ok(Self {
            target,
            routes: RefCell::new(routes),
            hinted: Cell::new(false),
            credentials: tokio::sync::Mutex::new(credentials),
            tls: RefCell::new(Tls {
                connector,
                pems,
                identity: None,
                read_at: now,
            }),
            limiter: RefCell::new(Limiter::new(qps, burst)),
            idle: RefCell::default(),
            user_agent: HeaderValue::from_static(agent),
            observer: Box::new(|_| {}),
            config,
        })
    }

    /// Set the observer.
    pub(crate) fn observed_by(self, observer: Observer) -> Self {
        Self { observer, ..self }
    }

    /// Return whether the server is the Service `kubernetes`, which works only behind a proxy.
    pub(crate) fn is_service(&self) -> bool {
        self.config.is_service
    }

    /// Set the real addresses of the API servers, which are tried before the Service.
    pub(crate) fn set_addresses(&self, addresses: &[SocketAddr]) {
        self.routes.borrow_mut().set_addresses(addresses);
    }

    /// Wait for the rate limit and for a credential. Separate from [`Client::send`] because a slow
    /// plugin does not count as silence of the server.
    pub(crate) async fn admit(&self) -> Result<Admission, SendError> {
        let wait = self.limiter.borrow_mut().take(Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let (authorization, identity) = self.credentials.lock().await.get(Instant::now()).await?;
        Ok(Admission {
            authorization,
            identity,
        })
    }

    /// Send a request and wait for the head of the answer. The caller sets the timeout.
    pub(crate) async fn send(
        &self,
        admission: Admission,
        method: Method,
        path_and_query: &str,
        accept: &str,
        content: Option<(&'static str, Bytes)>,
    ) -> Result<Answer, SendError> {
        let started = Instant::now();
        let sending = self.exchange(admission, &method, path_and_query, accept, content);
        let response = sending.await;
        (self.observer)(&Sent {
            host: &self.target.authority(),
            method: method.as_str(),
            watch: path_and_query.contains("watch=true"),
            code: response.as_ref().ok().map(|(r, _)| r.status().as_u16()),
            took: started.elapsed(),
        });
        let (response, connection) = response?;
        self.answer(response, connection).await
    }

    async fn exchange(
        &self,
        admission: Admission,
        method: &Method,
        path_and_query: &str,
        accept: &str,
        content: Option<(&'static str, Bytes)>,
    ) -> Result<(Response<Incoming>, SendRequest<Full<Bytes>>), SendError> {
        let Admission {
            authorization,
            identity,
        } = admission;
        let request = || -> Result<_, SendError> {
            let (media_type, body) = content.clone().unzip();
            let uri: Uri = format!("{}{path_and_query}", self.target.prefix)
                .parse()
                .map_err(hyper::http::Error::from)?;
            let mut request = hyper::Request::builder()
                .method(method.clone())
                .uri(uri)
                .header(header::HOST, self.target.authority())
                .header(header::ACCEPT, accept)
                .header(header::USER_AGENT, self.user_agent.clone());
            if let Some(value) = &authorization {
                request = request.header(header::AUTHORIZATION, value.clone());
            }
            if let Some(media_type) = media_type {
                request = request.header(header::CONTENT_TYPE, media_type);
            }
            Ok(request.body(Full::new(body.unwrap_or_default()))?)
        };
        // The server may have closed a kept connection: retry on a new one.
        let kept = self.idle.borrow_mut().pop();
        if let Some(mut connection) = kept
            && connection.is_ready()
            && let Ok(response) = connection.send_request(request()?).await
        {
            return Ok((response, connection));
        }
        let mut connection = self.connect(identity).await?;
        let response = connection.send_request(request()?).await;
        let response = response.map_err(|source| self.failed(source))?;
        Ok((response, connection))
    }

    /// Discard the credential after a 401.
    pub(crate) async fn unauthorized(&self) {
        self.credentials.lock().await.refused();
    }

    /// Keep the connection of an answer that has been read to its end.
    pub(crate) fn keep(&self, mut body: Body) {
        let mut idle = self.idle.borrow_mut();
        if let Some(connection) = body.connection.take()
            && idle.len() < MAX_IDLE
        {
            idle.push(connection);
        }
    }

    fn failed(&self, source: hyper::Error) -> SendError {
        SendError::Http {
            server: self.target.authority(),
            source,
        }
    }

    async fn answer(
        &self,
        response: Response<Incoming>,
        connection: SendRequest<Full<Bytes>>,
    ) -> Result<Answer, SendError> {
        let (head, incoming) = response.into_parts();
        let text = |name| head.headers.get(name).and_then(|v| v.to_str().ok());
        let format = text(header::CONTENT_TYPE).and_then(Format::of_content_type);
        let retry_after = text(header::RETRY_AFTER).and_then(|v| v.trim().parse().ok());
        let mut body = Body {
            incoming,
            connection: Some(connection),
            server: self.target.authority(),
        };
        if head.status.is_success() {
            return Ok(Answer::Accepted { format, body });
        }
        let mut bytes = Vec::new();
        while let Some(part) = body.next().await? {
            if bytes.len() + part.len() > MAX_ERROR_BODY {
                break;
            }
            bytes.extend_from_slice(&part);
        }
        if head.status == StatusCode::UNAUTHORIZED {
            self.unauthorized().await;
        }
        Ok(Answer::Refused {
            code: head.status.as_u16(),
            status: format.and_then(|format| wire::decode_status(format, &bytes)),
            retry_after,
        })
    }

    async fn connect(
        &self,
        identity: Option<Identity>,
    ) -> Result<SendRequest<Full<Bytes>>, SendError> {
        let count = self.routes.borrow().count();
        let mut failures = Vec::new();
        for _ in 0..count {
            let Some(route) = self.routes.borrow().current() else {
                break;
            };
            let limit = if count > 1 {
                ROUTE_TIMEOUT
            } else {
                CONNECT_TIMEOUT
            };
            let connecting = self.connect_by(&route, identity.clone());
            let error = match tokio::time::timeout(limit, connecting).await {
                Ok(Ok(connection)) => {
                    self.hinted.set(true);
                    return Ok(connection);
                }
                Ok(Err(error @ SendError::Config(_))) => return Err(error),
                Ok(Err(error)) => with_causes(&error),
                Err(_) => format!(
                    "cannot connect to {route}: timed out after {} s",
                    limit.as_secs()
                ),
            };
            failures.push(error);
            self.routes.borrow_mut().failed(&route);
        }
        let error = SendError::Connect(failures.join("; "));
        if self.is_service() && count == 1 && !self.hinted.replace(true) {
            tracing::error!(
                %error,
                "Cannot reach the API server through its Service, and this node has no stored \
                 address of it, because no proxy has run here; retrying. Set --master=https://HOST:PORT \
                 (Helm: apiServer), or mount a kubeconfig for --node-kubeconfig"
            );
        }
        Err(error)
    }

    async fn connect_by(
        &self,
        route: &Route,
        identity: Option<Identity>,
    ) -> Result<SendRequest<Full<Bytes>>, SendError> {
        let target = &route.target;
        let tcp = target.tcp(route.address).await;
        let tcp = tcp.map_err(|e| route.error(&e))?;
        if !target.tls {
            return self.handshake(tcp).await;
        }
        let connector = self.connector(identity)?;
        let tls = connector.connect(target.name.clone(), tcp).await;
        self.handshake(tls.map_err(|e| route.error(&e))?).await
    }

    async fn handshake(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    ) -> Result<SendRequest<Full<Bytes>>, SendError> {
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|source| self.failed(source))?;
        // Ends when sender and body are dropped; they also receive its error.
        tokio::task::spawn_local(connection);
        Ok(sender)
    }

    /// Return the TLS configuration, rebuilt after certificates have changed.
    fn connector(&self, identity: Option<Identity>) -> Result<TlsConnector, ConfigError> {
        let mut tls = self.tls.borrow_mut();
        let now = Instant::now();
        let mut changed = tls.identity != identity;
        if now.saturating_duration_since(tls.read_at) >= RELOAD_PERIOD {
            tls.read_at = now;
            match Pems::read(&self.config) {
                Ok(pems) => {
                    changed |= tls.pems != pems;
                    tls.pems = pems;
                }
                Err(e) => {
                    let error = with_causes(&e);
                    tracing::warn!(error, "Certificates not reloaded; using the previous ones");
                }
            }
        }
        if changed {
            tls.identity = identity;
            let mut pems = tls.pems.clone();
            if tls.identity.is_some() {
                pems.identity.clone_from(&tls.identity);
            }
            match client_config(&pems, self.config.insecure) {
                Ok(config) => tls.connector = TlsConnector::from(Arc::new(config)),
                // A certificate and its key may be replaced one after the other: try again.
                Err(e) => {
                    tls.pems = Pems::default();
                    let error = with_causes(&e);
                    tracing::warn!(error, "Certificates not usable; using the previous ones");
                }
            }
        }
        Ok(tls.connector.clone())
    }
}

/// Return the server of a node's kubeconfig, if the configured one is the Service.
fn node_target(config: &ServerConfig) -> Option<Target> {
    let (server, tls_server_name) = config.node_server.clone()?;
    let node = ServerConfig {
        server,
        tls_server_name,
        ..config.clone()
    };
    Target::parse(&node).ok().filter(|target| target.tls)
}

/// Return a random number that spreads the nodes over the API servers.
fn rotation() -> usize {
    use std::hash::{BuildHasher, RandomState};
    usize::try_from(RandomState::new().hash_one(0) >> 33).unwrap_or(0)
}
