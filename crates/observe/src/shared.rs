//! State shared between the serving thread and its inputs.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use model::{IpFamily, NamespacedName};
use tokio::sync::Notify;

use crate::{Health, Metrics, Pages, Restriction, ServiceHealth};

/// Sets the log verbosity from the value of a `-v` flag; the error is returned to the client.
pub type SetVerbosity = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Called with a Service, its health-check port, and the reason why the port cannot be opened.
pub type ListenFailed = Box<dyn Fn(&NamespacedName, u16, &str) + Send + Sync>;

/// Addresses and contents of the servers.
pub struct Options {
    /// `healthzBindAddress`; `None` serves no health.
    pub healthz: Option<SocketAddr>,
    /// `metricsBindAddress`; `None` serves no metrics.
    pub metrics: Option<SocketAddr>,
    /// `bindAddressHardFail`: [`Server::start`] fails if an address cannot be bound; otherwise it
    /// retries every five seconds.
    pub bind_hard_fail: bool,
    /// Time that a change may wait before health fails.
    pub health_timeout: Duration,
    /// The pages that describe the process.
    pub pages: Pages,
    /// Sets the log verbosity (PUT `/debug/flags/v`); `None` disables the path.
    pub set_verbosity: Option<SetVerbosity>,
    /// Called before each scrape, to update metrics that are counted elsewhere.
    pub before_scrape: Box<dyn Fn(&Metrics) + Send + Sync>,
    /// Called for each health-check port that cannot be opened.
    pub listen_failed: ListenFailed,
}

/// The state behind every answer.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) metrics: Metrics,
    pub(crate) health: Mutex<Health>,
    pub(crate) restrictions: Mutex<Vec<Restriction>>,
    pub(crate) services: Mutex<Services>,
    pub(crate) services_changed: Notify,
    /// Answers of the metrics server's `/healthz`.
    pub(crate) pings: AtomicU64,
}

/// The Services with a health-check port.
pub(crate) struct Services {
    pub(crate) by_name: BTreeMap<NamespacedName, ServiceHealth>,
    pub(crate) addresses: Vec<IpAddr>,
}

/// Lock a mutex, even if poisoned: its content is valid after every step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn is_healthy(&self) -> bool {
        lock(&self.health).is_healthy(Instant::now())
    }

    /// Return the number of local endpoints that a check over `family` reports.
    pub(crate) fn local_endpoints(&self, name: &NamespacedName, family: IpFamily) -> usize {
        let services = lock(&self.services);
        let listens = |family| {
            services
                .addresses
                .iter()
                .any(|ip| IpFamily::of(*ip) == family)
        };
        let both_listen = IpFamily::ALL.into_iter().all(listens);
        let health = services.by_name.get(name);
        health.map_or(0, |health| health.count(family, both_listen))
    }

    pub(crate) fn service_ports(&self) -> (BTreeMap<NamespacedName, u16>, Vec<IpAddr>) {
        let services = lock(&self.services);
        let ports = services
            .by_name
            .iter()
            .map(|(name, s)| (name.clone(), s.port))
            .collect();
        (ports, services.addresses.clone())
    }

    pub(crate) fn listen_failed(
        &self,
        name: &NamespacedName,
        port: u16,
        address: SocketAddr,
        error: &std::io::Error,
    ) {
        let message = format!("cannot listen on {address}: {error}");
        tracing::warn!(service = %name, port, error = message, "Health-check node port not open; retrying");
        (self.options.listen_failed)(name, port, &message);
    }
}
