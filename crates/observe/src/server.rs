//! The serving thread and its inputs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use model::{IpFamily, NamespacedName};
use prometheus::IntCounterVec;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::pages::Form;
use crate::service_health::Ports;
use crate::shared::{Options, Services, Shared, lock};
use crate::{Health, Metrics, NodeEligibility, Restriction, ServiceHealth};

/// Interval between attempts to bind an address, as upstream.
const REBIND: Duration = Duration::from_secs(5);

/// Serving failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address could not be bound and `bindAddressHardFail` is set.
    #[error("cannot listen on {address} for {what}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The server: `healthz` or `metrics`.
        what: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// The thread or its runtime could not be created.
    #[error("cannot start the thread that serves health and metrics")]
    Thread(#[source] std::io::Error),
}

/// A handle of the serving thread, which runs until the process ends.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

impl Server {
    /// Start the thread. Return once the addresses are bound or a retry is scheduled.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn start(options: Options, metrics: Metrics) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            health: Mutex::new(Health::new(options.health_timeout)),
            services: Mutex::new(Services {
                by_name: BTreeMap::new(),
                addresses: vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            }),
            restrictions: Mutex::default(),
            services_changed: Notify::new(),
            pings: AtomicU64::new(0),
            options,
            metrics,
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Thread)?;
        let routes = [
            (
                shared.options.healthz,
                "healthz",
                health_routes as fn(Arc<Shared>) -> Router,
            ),
            (shared.options.metrics, "metrics", metrics_routes),
        ];
        for (address, what, router) in routes {
            let Some(address) = address else { continue };
            let bound = runtime.block_on(TcpListener::bind(address));
            let bound = match bound {
                Err(source) if shared.options.bind_hard_fail => {
                    return Err(Error::Bind {
                        address,
                        what,
                        source,
                    });
                }
                other => other,
            };
            runtime.spawn(serve(address, what, bound, router(Arc::clone(&shared))));
        }
        let server = Self {
            shared: Arc::clone(&shared),
        };
        std::thread::Builder::new()
            .name("observe".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let mut ports = Ports::default();
                    loop {
                        ports.sync(&shared).await;
                        // A port in use may be free later.
                        let changed = shared.services_changed.notified();
                        let _ = tokio::time::timeout(REBIND, changed).await;
                    }
                });
            })
            .map_err(Error::Thread)?;
        Ok(server)
    }

    /// Return the metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Record that a change waits for the kernel.
    pub fn queued(&self, family: IpFamily, now: Instant) {
        lock(&self.shared.health).queued(family, now);
    }

    /// Record that the kernel has all changes.
    pub fn synced(&self, family: IpFamily) {
        lock(&self.shared.health).synced(family, SystemTime::now());
    }

    /// Set the state of the Node object.
    pub fn set_node(&self, node: NodeEligibility) {
        lock(&self.shared.health).set_node(node);
    }

    /// Return whether every change reaches the kernel in time, as `/livez` reports it.
    pub fn is_healthy(&self) -> bool {
        self.shared.is_healthy()
    }

    /// Return the restrictions of this process.
    pub fn restrictions(&self) -> Vec<Restriction> {
        lock(&self.shared.restrictions).clone()
    }

    /// Replace the restrictions of this process, for `/statusz` and the metric.
    pub fn set_restrictions(&self, restrictions: Vec<Restriction>) {
        for restriction in &restrictions {
            self.shared
                .metrics
                .restrictions
                .with_label_values(&[restriction.name])
                .set(i64::from(restriction.enforced));
        }
        *lock(&self.shared.restrictions) = restrictions;
    }

    /// Set the addresses on which health-check ports are open.
    pub fn set_service_health_addresses(&self, addresses: Vec<IpAddr>) {
        lock(&self.shared.services).addresses = addresses;
        self.shared.services_changed.notify_one();
    }

    /// Add, change or (`None`) remove health-check ports of Services.
    pub fn change_services(
        &self,
        changes: impl IntoIterator<Item = (NamespacedName, Option<ServiceHealth>)>,
    ) {
        let mut ports_changed = false;
        let mut services = lock(&self.shared.services);
        for (name, after) in changes {
            let before = match after {
                Some(health) => services.by_name.insert(name, health),
                None => services.by_name.remove(&name),
            };
            ports_changed |= before.map(|s| s.port) != after.map(|s| s.port);
        }
        drop(services);
        if ports_changed {
            self.shared.services_changed.notify_one();
        }
    }
}

async fn serve(
    address: SocketAddr,
    what: &'static str,
    mut bound: std::io::Result<TcpListener>,
    router: Router,
) {
    let mut reported = false;
    loop {
        match bound {
            Ok(listener) => {
                if reported {
                    tracing::info!(%address, server = what, "Listening after a failure");
                }
                let served = axum::serve(listener, router.clone()).await;
                tracing::error!(%address, server = what, error = ?served, "Server stopped; restarting");
            }
            Err(error) if !reported => {
                tracing::error!(%address, server = what, %error, "Cannot listen; retrying");
                reported = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(REBIND).await;
        bound = TcpListener::bind(address).await;
    }
}

// For any method, like upstream's handlers.
fn health_routes(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/healthz", any(healthz))
        .route("/livez", any(livez))
        .fallback(not_found)
        .with_state(shared)
}

fn metrics_routes(shared: Arc<Shared>) -> Router {
    let mut router = Router::new()
        .route("/healthz", any(ping))
        .route("/healthz/ping", any(ping))
        .fallback(not_found)
        .route("/metrics", any(metrics))
        .route("/metrics/slis", any(slis))
        .route("/proxyMode", any(proxy_mode))
        .route("/configz", any(configz));
    if shared.options.pages.flags.is_some() {
        router = router.route("/flagz", any(flagz));
    }
    if shared.options.pages.statusz {
        router = router.route("/statusz", any(statusz));
    }
    if shared.options.set_verbosity.is_some() {
        router = router
            .route("/debug/flags/{flag}", any(set_flag))
            .route("/debug/pprof/{*profile}", any(no_profile))
            .route("/debug/pprof/", any(no_profile));
    }
    router.with_state(shared)
}

async fn healthz(State(shared): State<Arc<Shared>>) -> Response {
    probe(&shared, true, &shared.metrics.healthz_total)
}

async fn livez(State(shared): State<Arc<Shared>>) -> Response {
    probe(&shared, false, &shared.metrics.livez_total)
}

fn probe(shared: &Shared, with_node: bool, count: &IntCounterVec) -> Response {
    let report = lock(&shared.health).report(Instant::now(), SystemTime::now(), with_node);
    let status = if report.serving() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    count.with_label_values(&[status.as_str()]).inc();
    let no_sniff = (header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    (status, [no_sniff], axum::Json(report)).into_response()
}

fn text(content_type: &'static str, body: String) -> Response {
    (
        [
            (header::CONTENT_TYPE, content_type),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ],
        body,
    )
        .into_response()
}

const PLAIN: &str = "text/plain; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    (shared.options.before_scrape)(&shared.metrics);
    match shared.metrics.text() {
        Ok(body) => text(PROMETHEUS, body),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn not_found() -> Response {
    let page = text(PLAIN, "404 page not found\n".to_owned());
    (StatusCode::NOT_FOUND, page).into_response()
}

/// Return the health check of every component: the server answers.
async fn ping(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    shared.pings.fetch_add(1, Ordering::Relaxed);
    let mut query = uri.query().unwrap_or("").split('&');
    let verbose = query.any(|word| word.split('=').next() == Some("verbose"));
    let page = match verbose && uri.path() == "/healthz" {
        true => "[+]ping ok\nhealthz check passed\n",
        false => "ok",
    };
    text(PLAIN, page.to_owned())
}

/// Return the health checks as metrics (KEP-3466).
async fn slis(State(shared): State<Arc<Shared>>) -> Response {
    let (pings, started) = (
        shared.pings.load(Ordering::Relaxed),
        shared.metrics.process_start.get(),
    );
    let page = format!(
        "# HELP kubernetes_healthcheck [STABLE] This metric records the result of a single healthcheck.\n\
         # TYPE kubernetes_healthcheck gauge\n\
         kubernetes_healthcheck{{name=\"ping\",type=\"healthz\"}} 1\n\
         # HELP kubernetes_healthchecks_total [STABLE] This metric records the results of all healthcheck.\n\
         # TYPE kubernetes_healthchecks_total counter\n\
         kubernetes_healthchecks_total{{name=\"ping\",status=\"success\",type=\"healthz\"}} {pings}\n\
         # HELP process_start_time_seconds [ALPHA] Start time of the process since unix epoch in seconds.\n\
         # TYPE process_start_time_seconds gauge\n\
         process_start_time_seconds {started}\n"
    );
    text(PROMETHEUS, page)
}

async fn proxy_mode(State(shared): State<Arc<Shared>>) -> Response {
    text(PLAIN, shared.options.pages.proxy_mode.clone())
}

async fn configz(State(shared): State<Arc<Shared>>) -> Response {
    axum::Json(&shared.options.pages.configz).into_response()
}

async fn flagz(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let pages = &shared.options.pages;
    match form(&headers, "Flagz") {
        Some(Form::Text) => text(PLAIN, pages.flagz()),
        Some(Form::Object(version)) => object("Flagz", version, &pages.flagz_object(version)),
        None => not_acceptable(),
    }
}

async fn statusz(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let (pages, now) = (&shared.options.pages, SystemTime::now());
    let restrictions = lock(&shared.restrictions).clone();
    match form(&headers, "Statusz") {
        Some(Form::Text) => text(PLAIN, pages.statusz(now, &restrictions)),
        Some(Form::Object(version)) => {
            let status = pages.statusz_object(version, now, &restrictions);
            object("Statusz", version, &status)
        }
        None => not_acceptable(),
    }
}

fn object(kind: &str, version: &str, object: &Value) -> Response {
    let media_type = format!("application/json;g=config.k8s.io;v={version};as={kind}");
    ([(header::CONTENT_TYPE, media_type)], axum::Json(object)).into_response()
}

fn not_acceptable() -> Response {
    let status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "only the following media types are accepted: application/json, text/plain",
        "reason": "NotAcceptable",
        "code": 406,
    });
    (StatusCode::NOT_ACCEPTABLE, axum::Json(status)).into_response()
}

fn form(headers: &HeaderMap, kind: &str) -> Option<Form> {
    let accept = headers.get(header::ACCEPT);
    Form::asked_for(accept.and_then(|a| a.to_str().ok()), kind)
}

/// Refuse profiles: their tools read only Go's format.
async fn no_profile() -> Response {
    let instead = "sluice has no Go profiles; on the node, `perf record -g -p PID` takes one\n";
    (StatusCode::NOT_FOUND, instead).into_response()
}

async fn set_flag(
    State(shared): State<Arc<Shared>>,
    Path(flag): Path<String>,
    method: Method,
    value: String,
) -> Response {
    if method != Method::PUT {
        return (StatusCode::NOT_ACCEPTABLE, "unsupported http method\n").into_response();
    }
    let Some(set) = shared
        .options
        .set_verbosity
        .as_ref()
        .filter(|_| flag == "v")
    else {
        return (
            StatusCode::NOT_FOUND,
            format!("no flag {flag:?} can be set\n"),
        )
            .into_response();
    };
    match set(value.trim()) {
        Ok(()) => format!(
            "successfully set klog.logging.verbosity to {}\n",
            value.trim()
        )
        .into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, error).into_response(),
    }
}
