//! Terminating endpoints.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use netfilter::ipvs::ServiceId;

/// The pause between the first and the second check; each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause: kube-proxy's interval.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Destinations that get no new connections (weight 0) and are removed when their last connection
/// ends.
///
/// A pure state machine: the time (since any fixed moment) and the number of connections are
/// arguments. A destination that returns is removed from the list. After a restart, the weight 0 in
/// the kernel adds a destination to the list again or is set back to 1: it never stays 0
/// (kubernetes/kubernetes 92019, 108319).
#[derive(Debug, Default)]
pub struct Termination {
    leaving: BTreeMap<ServiceId, BTreeMap<SocketAddr, Leaving>>,
}

#[derive(Clone, Copy, Debug)]
struct Leaving {
    check_at: Duration,
    pause: Duration,
}

impl Termination {
    /// Add a destination. It is due at once, since many have no connection.
    pub fn leave(&mut self, id: ServiceId, address: SocketAddr, now: Duration) {
        let leaving = Leaving {
            check_at: now,
            pause: FIRST_PAUSE,
        };
        let of_server = self.leaving.entry(id).or_default();
        of_server.entry(address).or_insert(leaving);
    }

    /// Remove all destinations of a virtual server.
    pub fn stay(&mut self, id: &ServiceId) {
        self.leaving.remove(id);
    }

    /// Return whether no destination is terminating.
    pub fn is_empty(&self) -> bool {
        self.leaving.is_empty()
    }

    /// Return the virtual servers with due destinations.
    pub fn due(&self, now: Duration) -> Vec<ServiceId> {
        let due = |terminating: &BTreeMap<SocketAddr, Leaving>| {
            terminating.values().any(|l| l.check_at <= now)
        };
        let servers = self
            .leaving
            .iter()
            .filter(|(_, terminating)| due(terminating));
        servers.map(|(id, _)| *id).collect()
    }

    /// Return the time of the next due destination.
    pub fn next(&self) -> Option<Duration> {
        let all = self.leaving.values().flat_map(BTreeMap::values);
        all.map(|l| l.check_at).min()
    }

    /// Record the number of active and inactive connections of a virtual server's destinations.
    /// Remove and return the destinations without connections and those that no longer exist.
    pub fn checked(
        &mut self,
        id: &ServiceId,
        connections: &HashMap<SocketAddr, u64>,
        now: Duration,
    ) -> Vec<SocketAddr> {
        let Some(terminating) = self.leaving.get_mut(id) else {
            return Vec::new();
        };
        let mut ended = Vec::new();
        terminating.retain(|address, leaving| {
            let busy = connections.get(address).is_some_and(|count| *count > 0);
            if !busy {
                ended.push(*address);
                return false;
            }
            if leaving.check_at <= now {
                leaving.check_at = now.saturating_add(leaving.pause);
                leaving.pause = leaving.pause.saturating_mul(2).min(LONGEST_PAUSE);
            }
            true
        });
        if terminating.is_empty() {
            self.leaving.remove(id);
        }
        ended
    }
}
