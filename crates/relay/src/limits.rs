//! Bounds that keep clients from exhausting the process.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Limits of the relay and its clients.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open TCP connections of all frontends. Further ones are reset.
    pub connections: usize,
    /// UDP flows of all frontends. A further one replaces an idle one.
    pub flows: usize,
    /// Bulk transfers of all frontends that use a pipe for splice(2).
    pub pipes: usize,
    /// Timeout for one endpoint before the next is tried: long enough for one retransmitted SYN.
    pub dial: Duration,
    /// Timeout for all endpoints, after which the client is reset.
    pub dial_all: Duration,
    /// Idle timeout of a UDP flow. kube-proxy's userspace mode used 250 ms; conntrack uses 30 s for
    /// an unreplied flow.
    pub udp_idle: Duration,
    /// Time for open connections to end when the relay stops.
    pub drain: Duration,
    /// Mark of packets to endpoints (`SO_MARK`, needs `CAP_NET_ADMIN`), by which redirecting rules
    /// recognise the relay's own connections. 0: no mark.
    pub mark: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 65_536,
            flows: 65_536,
            pipes: 128,
            dial: Duration::from_secs(2),
            dial_all: Duration::from_secs(10),
            udp_idle: Duration::from_secs(30),
            drain: Duration::from_secs(5),
            mark: 0,
        }
    }
}

impl Limits {
    /// Limits for a process with this limit of open files. A connection and a pipe take two files, a
    /// flow one. An eighth is left for listeners and everything else.
    pub fn for_open_files(files: u64) -> Self {
        let eighth = usize::try_from(files / 8).unwrap_or(usize::MAX);
        let most = Self::default();
        Self {
            connections: most.connections.min(eighth.saturating_mul(3)),
            flows: most.flows.min(eighth / 2),
            pipes: most.pipes.min(eighth / 4),
            ..most
        }
    }
}

/// A bounded number of places.
pub(crate) struct Places {
    limit: usize,
    taken: AtomicUsize,
}

/// A taken place; dropping it frees the place.
pub(crate) struct Place(Arc<Places>);

impl Places {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        let taken = AtomicUsize::new(0);
        Arc::new(Self { limit, taken })
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }

    /// Take a place; `None` if all are taken.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Place> {
        let one_more = |n| (n < self.limit).then_some(n + 1);
        self.taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more)
            .ok()
            .map(|_| Place(Arc::clone(self)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Limits the rate of a log message that many clients may cause.
#[derive(Default)]
pub(crate) struct RateLimited(Mutex<Option<Instant>>);

impl RateLimited {
    const PAUSE: Duration = Duration::from_secs(30);

    /// Return whether a message is due.
    pub(crate) fn is_due(&self) -> bool {
        let now = Instant::now();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| now.duration_since(last) >= Self::PAUSE);
        if due {
            *last = Some(now);
        }
        due
    }
}

/// State shared by all connections.
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) connections: Arc<Places>,
    pub(crate) flows: Arc<Places>,
    pub(crate) pipes: Arc<Places>,
    /// Limits log messages about reached limits.
    pub(crate) full: RateLimited,
    /// Limits log messages about missing sockets or memory.
    pub(crate) starved: RateLimited,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_fit_into_the_open_files() {
        for files in [256, 1024, 20_000, 1 << 20, u64::MAX] {
            let limits = Limits::for_open_files(files);
            let worst = 2 * (limits.connections + limits.pipes) + limits.flows;
            assert!(limits.pipes > 0 && (worst as u64) < files, "{limits:?}");
        }
        assert_eq!(Limits::for_open_files(1 << 20).connections, 65_536);
    }

    #[test]
    fn dropped_places_are_reusable() {
        let places = Places::new(2);
        let (one, two) = (places.take(), places.take());
        assert!(one.is_some() && two.is_some() && places.take().is_none());
        drop(one);
        assert!(places.take().is_some());
        drop(two);
        assert_eq!(places.taken(), 0);
    }

    #[test]
    fn messages_are_rate_limited() {
        let limited = RateLimited::default();
        assert!(limited.is_due());
        assert!(!limited.is_due());
    }
}
