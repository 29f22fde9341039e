//! Bounds, so that no client can exhaust the process.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What the relay allows itself and its clients.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open TCP connections, all frontends together. Beyond it new ones are reset.
    pub connections: usize,
    /// UDP flows, all frontends together. Beyond it a new one takes the place of one that has been
    /// idle for some time.
    pub flows: usize,
    /// Bulk transfers, all frontends together, that get a pipe to splice through.
    pub pipes: usize,
    /// How long to wait for an endpoint to accept before trying the next: time for one SYN to be
    /// sent again.
    pub dial: Duration,
    /// How long to try at all before the client is reset.
    pub dial_all: Duration,
    /// A UDP flow without a datagram for this long is over. kube-proxy's userspace mode took
    /// 250 ms; conntrack takes 30 s for one that was never answered.
    pub udp_idle: Duration,
    /// How long open connections get to end when the relay stops.
    pub drain: Duration,
    /// The mark of packets that go to endpoints (`SO_MARK`, needs `CAP_NET_ADMIN`), by which rules
    /// that lead connections here can tell the relay's own from others. 0: none.
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
    /// For a process that may have so many files open. A connection takes two, and so does a pipe; a
    /// flow takes one. An eighth is left for listeners and whatever else there is.
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

/// So many places, and how many of them are taken.
pub(crate) struct Places {
    limit: usize,
    taken: AtomicUsize,
}

/// A place that is taken until this is dropped.
pub(crate) struct Place(Arc<Places>);

impl Places {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        let taken = AtomicUsize::new(0);
        Arc::new(Self { limit, taken })
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }

    /// Takes a place, or `None` where all are.
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

/// Lets through one message in a while, where a flood of clients would make a flood of messages.
#[derive(Default)]
pub(crate) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    const PAUSE: Duration = Duration::from_secs(30);

    /// Whether it is time for another.
    pub(crate) fn now(&self) -> bool {
        let now = Instant::now();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| now.duration_since(last) >= Self::PAUSE);
        if due {
            *last = Some(now);
        }
        due
    }
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
    fn places_are_given_back() {
        let places = Places::new(2);
        let (one, two) = (places.take(), places.take());
        assert!(one.is_some() && two.is_some() && places.take().is_none());
        drop(one);
        assert!(places.take().is_some());
        drop(two);
        assert_eq!(places.taken(), 0);
    }

    #[test]
    fn messages_come_seldom() {
        let seldom = Seldom::default();
        assert!(seldom.now());
        assert!(!seldom.now());
    }
}
