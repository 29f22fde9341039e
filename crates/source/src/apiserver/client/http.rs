//! Requests over HTTP/1.1 and TLS.
//!
//! Each request has its own connection, which is kept for the next one. A watch holds a connection
//! for minutes, so multiplexing gains little, and closing a connection ends exactly one watch.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::credentials::{CredentialError, Identity};
use super::limit::Limiter;
use super::tls::{Pems, client_config};
use super::{ConfigError, Credentials, ServerConfig};
use crate::apiserver::wire::{self, Format, Status};
use crate::apiserver::with_causes;

/// Timeout of name resolution, TCP and TLS handshake together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
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
    #[error("cannot connect to {server}: {reason}")]
    Connect { server: String, reason: String },
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

/// The parsed address of the server.
struct Target {
    tls: bool,
    host: String,
    port: u16,
    /// Path of the server's URL without a trailing slash.
    prefix: String,
    name: ServerName<'static>,
    proxy: Option<(String, u16, Option<HeaderValue>)>,
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
    target: Target,
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
        let target = Target::parse(&config)?;
        let pems = Pems::read(&config)?;
        let connector = TlsConnector::from(Arc::new(client_config(&pems, config.insecure)?));
        let credentials = Credentials::new(&config, pems.ca.as_deref());
        let agent = concat!("sluice/", env!("CARGO_PKG_VERSION"), " (linux)");
        Ok(Self {
            target,
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
        let connecting = async {
            let tcp = self.target.tcp().await?;
            if !self.target.tls {
                return self.handshake(tcp).await;
            }
            let connector = self.connector(identity)?;
            let tls = connector.connect(self.target.name.clone(), tcp).await;
            let tls = tls.map_err(|e| self.target.error(&e))?;
            self.handshake(tls).await
        };
        tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .unwrap_or_else(|_| {
                let seconds = CONNECT_TIMEOUT.as_secs();
                Err(self.target.error(&format!("timed out after {seconds} s")))
            })
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

    /// The TLS configuration, rebuilt after certificates have changed.
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

impl Target {
    fn parse(config: &ServerConfig) -> Result<Self, ConfigError> {
        let fail = |reason: &str| ConfigError::Server {
            url: config.server.clone(),
            reason: reason.into(),
        };
        // Without a scheme, client-go uses https if TLS is configured.
        let tls_configured = config.ca.is_some() || config.identity.is_some() || config.insecure;
        let url = match (config.server.contains("://"), tls_configured) {
            (true, _) => config.server.clone(),
            (false, true) => format!("https://{}", config.server),
            (false, false) => format!("http://{}", config.server),
        };
        let uri: Uri = url.parse().map_err(|_| fail("not a URL"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(fail("the scheme is neither http nor https")),
        };
        let host = uri.host().ok_or_else(|| fail("the host is missing"))?;
        let host = host.trim_matches(['[', ']']).to_owned();
        let name = config.tls_server_name.clone().unwrap_or(host.clone());
        let proxy = config.proxy_url.as_deref().map(parse_proxy).transpose()?;
        Ok(Self {
            tls,
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            name: ServerName::try_from(name)
                .map_err(|_| fail("the host is neither a DNS name nor an address"))?,
            host,
            proxy,
        })
    }

    /// `host:port`, with IPv6 addresses in brackets.
    fn authority(&self) -> String {
        authority(&self.host, self.port)
    }

    fn error(&self, reason: &dyn std::fmt::Display) -> SendError {
        SendError::Connect {
            server: self.authority(),
            reason: reason.to_string(),
        }
    }

    async fn tcp(&self) -> Result<TcpStream, SendError> {
        let (host, port) = match &self.proxy {
            Some((host, port, _)) => (host.as_str(), *port),
            None => (self.host.as_str(), self.port),
        };
        let stream = TcpStream::connect((host, port)).await;
        let mut stream = stream.map_err(|e| self.error(&e))?;
        stream.set_nodelay(true).map_err(|e| self.error(&e))?;
        // Detects a server that vanished (power loss) within about 30 seconds, whether the
        // connection is idle or a request is in flight.
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(15))
            .with_interval(Duration::from_secs(5))
            .with_retries(3);
        let socket = SockRef::from(&stream);
        socket
            .set_tcp_keepalive(&keepalive)
            .and_then(|()| socket.set_tcp_user_timeout(Some(Duration::from_secs(30))))
            .map_err(|e| self.error(&e))?;
        if let Some((_, _, authorization)) = &self.proxy {
            self.tunnel(&mut stream, authorization.as_ref()).await?;
        }
        Ok(stream)
    }

    /// Ask a proxy for a tunnel to the server (RFC 9110, CONNECT).
    async fn tunnel(
        &self,
        stream: &mut TcpStream,
        authorization: Option<&HeaderValue>,
    ) -> Result<(), SendError> {
        let authority = self.authority();
        let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
        if let Some(value) = authorization.and_then(|v| v.to_str().ok()) {
            request.push_str(&format!("Proxy-Authorization: {value}\r\n"));
        }
        request.push_str("\r\n");
        let fail = |e: std::io::Error| self.error(&format!("proxy: {e}"));
        stream.write_all(request.as_bytes()).await.map_err(fail)?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() > 8192 {
                return Err(self.error(&"the proxy's answer is too long"));
            }
            head.push(stream.read_u8().await.map_err(fail)?);
        }
        let head = String::from_utf8_lossy(&head);
        let first = head.lines().next().unwrap_or_default();
        if first
            .split(' ')
            .nth(1)
            .is_some_and(|code| code.starts_with('2'))
        {
            return Ok(());
        }
        Err(self.error(&format!("the proxy answers {first:?}")))
    }
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Parse a proxy's URL into host, port and `Proxy-Authorization`.
fn parse_proxy(url: &str) -> Result<(String, u16, Option<HeaderValue>), ConfigError> {
    let fail = |reason: &str| ConfigError::Server {
        url: url.into(),
        reason: reason.into(),
    };
    let uri: Uri = url.parse().map_err(|_| fail("not a URL"))?;
    if uri.scheme_str() != Some("http") {
        return Err(fail("only http:// proxies are supported as proxy-url"));
    }
    let authority = uri.authority().ok_or_else(|| fail("the host is missing"))?;
    let authorization = authority.as_str().rsplit_once('@').map(|(user, _)| {
        let pair = data_encoding::BASE64.encode(user.as_bytes());
        HeaderValue::from_str(&format!("Basic {pair}"))
            .map_err(|_| fail("the user or password contains invalid characters"))
    });
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let port = authority.port_u16().unwrap_or(80);
    Ok((host, port, authorization.transpose()?))
}
