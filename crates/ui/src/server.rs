//! The server of the page, on loopback.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::answers::Question;
use crate::nodes::{Given, Nodes};
use crate::page::{document, export};

/// Reads the nodes, at the start and when the page asks for it.
type Load = dyn Fn() -> anyhow::Result<Vec<Given>> + Send + Sync;

/// The input of the server.
pub struct Ui {
    /// Loopback address and port; port 0 for a free one.
    pub listen: SocketAddr,
    /// Reads the nodes.
    pub load: Box<Load>,
}

/// A server whose address is known.
pub struct Running {
    /// The URL of the page, with its token.
    pub url: String,
    runtime: tokio::runtime::Runtime,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
}

struct Shared {
    address: SocketAddr,
    token: String,
    load: Box<Load>,
    nodes: Mutex<Nodes>,
}

/// Read the nodes and start to serve the page.
///
/// # Errors
/// The address is not a loopback address or in use, or the nodes cannot be read.
pub fn serve(ui: Ui) -> anyhow::Result<Running> {
    if !ui.listen.ip().is_loopback() {
        bail!(
            "{} is not a loopback address: the page shows the rules of the node to everybody who can reach \
             it; forward a port instead, for example with ssh -L",
            ui.listen.ip()
        );
    }
    let nodes = Nodes::new((ui.load)()?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let listener = runtime
        .block_on(TcpListener::bind(ui.listen))
        .with_context(|| format!("cannot listen on {}", ui.listen))?;
    let address = listener.local_addr()?;
    let token = token()?;
    let url = format!("http://{address}/{token}/");
    let shared = Arc::new(Shared {
        address,
        token,
        load: ui.load,
        nodes: Mutex::new(nodes),
    });
    let served = runtime.spawn(async move { axum::serve(listener, routes(shared)).await });
    Ok(Running {
        url,
        runtime,
        served,
    })
}

impl Running {
    /// Serve until the process ends.
    ///
    /// # Errors
    /// The socket fails.
    pub fn wait(self) -> anyhow::Result<()> {
        Ok(self.runtime.block_on(self.served)??)
    }
}

/// Return a token that cannot be guessed.
fn token() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(HEXLOWER.encode(&bytes))
}

fn routes(shared: Arc<Shared>) -> Router {
    let guard = middleware::from_fn_with_state(Arc::clone(&shared), guard);
    Router::new()
        .route("/{token}/", get(page))
        .route("/{token}/api/{kind}", get(answer))
        .route("/{token}/refresh", post(refresh))
        .route("/{token}/export", post(exported))
        .layer(guard)
        .with_state(shared)
}

/// Refuse requests without the token, requests of other sites' pages, and host names that resolve to
/// loopback (DNS rebinding); add the headers that all answers have.
async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let first = request.uri().path().split('/').nth(1).unwrap_or_default();
    let mut response = if !is_own_host(headers, shared.address) {
        let reason = format!("the host of this page is {}\n", shared.address);
        (StatusCode::MISDIRECTED_REQUEST, reason).into_response()
    } else if !is_equal(first, &shared.token) || is_cross_site(headers) {
        let reason = "open the URL that sluice ui prints; it contains a token\n";
        (StatusCode::FORBIDDEN, reason).into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'"));
    response
}

fn is_own_host(headers: &HeaderMap, address: SocketAddr) -> bool {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let localhost = format!("localhost:{}", address.port());
    host.is_some_and(|host| host == address.to_string() || host == localhost)
}

/// Whether another site's page makes the request (Fetch Metadata). A link from there may open the page.
fn is_cross_site(headers: &HeaderMap) -> bool {
    let value = |name| {
        headers
            .get(name)
            .and_then(|v: &HeaderValue| v.to_str().ok())
    };
    let is_other = matches!(value("sec-fetch-site"), Some("cross-site" | "same-site"));
    is_other && value("sec-fetch-mode") != Some("navigate")
}

/// Compare in a time that does not depend on where the texts differ.
fn is_equal(a: &str, b: &str) -> bool {
    let differences = a
        .bytes()
        .zip(b.bytes())
        .fold(0, |sum, (x, y)| sum | (x ^ y));
    a.len() == b.len() && differences == 0
}

async fn page() -> Response {
    let document = document(None);
    let mut response = axum::response::Html(document.html).into_response();
    // `frame-ancestors` has no effect in the document itself.
    let policy = format!("{}; frame-ancestors 'none'", document.policy);
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        response
            .headers_mut()
            .insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// Run work that takes long; an error is an answer too.
async fn blocking<T: IntoResponse + Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Response {
    let failed = |status, error: String| (status, json(&json!({ "error": error }))).into_response();
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(answer)) => answer.into_response(),
        Ok(Err(error)) => failed(StatusCode::BAD_REQUEST, format!("{error:#}")),
        Err(error) => failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn json(value: &Value) -> impl IntoResponse + use<> {
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], value.to_string())
}

fn nodes(shared: &Shared) -> Nodes {
    let nodes = shared.nodes.lock();
    nodes.unwrap_or_else(PoisonError::into_inner).clone()
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    Path((_, kind)): Path<(String, String)>,
    Query(parameters): Query<BTreeMap<String, String>>,
) -> Response {
    blocking(move || {
        let question = Question::of(kind, parameters);
        Ok(json(&nodes(&shared).answer(&question)?))
    })
    .await
}

/// Read the nodes again.
async fn refresh(State(shared): State<Arc<Shared>>) -> Response {
    blocking(move || {
        let new = Nodes::new((shared.load)()?);
        let answer = new.answer(&Question::new("nodes", []))?;
        *shared.nodes.lock().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(json(&answer))
    })
    .await
}

/// Return the page with the answers whose keys are in the request.
async fn exported(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    blocking(move || {
        let keys: Vec<String> =
            serde_json::from_slice(&body).context("not a list of keys of answers")?;
        let questions = keys.iter().map(|key| Question::of_key(key));
        let questions = questions.collect::<anyhow::Result<Vec<_>>>()?;
        Ok(axum::response::Html(export(&nodes(&shared), &questions)))
    })
    .await
}
