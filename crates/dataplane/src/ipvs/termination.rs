//! Endpoints on their way out.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use netfilter::ipvs::ServiceId;

/// How long after the first look the second one comes; each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause: how often kube-proxy looks.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Destinations that get no new connections (weight 0) and are to be removed when the last of
/// their connections has ended.
///
/// A pure state machine: time is an argument (since any fixed moment), and what connections there
/// are is told to it. A destination that comes back is taken off the list, and where the list is
/// lost with a restart, whoever reads the kernel's state finds the weight 0 and puts it there
/// again, or back to 1: it is never left at 0 (kubernetes/kubernetes 92019, 108319).
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
    /// A destination is going. It is looked at as soon as possible: many have no connection.
    pub fn leave(&mut self, id: ServiceId, address: SocketAddr, now: Duration) {
        let leaving = Leaving {
            check_at: now,
            pause: FIRST_PAUSE,
        };
        let of_server = self.leaving.entry(id).or_default();
        of_server.entry(address).or_insert(leaving);
    }

    /// No destination of a virtual server is going any more, unless it is said again.
    pub fn stay(&mut self, id: &ServiceId) {
        self.leaving.remove(id);
    }

    /// Nothing is going.
    pub fn is_empty(&self) -> bool {
        self.leaving.is_empty()
    }

    /// The virtual servers that have destinations to look at.
    pub fn due(&self, now: Duration) -> Vec<ServiceId> {
        let due = |going: &BTreeMap<SocketAddr, Leaving>| going.values().any(|l| l.check_at <= now);
        let servers = self.leaving.iter().filter(|(_, going)| due(going));
        servers.map(|(id, _)| *id).collect()
    }

    /// When there will be one.
    pub fn next(&self) -> Option<Duration> {
        let all = self.leaving.values().flat_map(BTreeMap::values);
        all.map(|l| l.check_at).min()
    }

    /// The connections of a virtual server's destinations, active and inactive, as of now. Returns
    /// the destinations that have none left, or are not there any more; they are forgotten.
    pub fn checked(
        &mut self,
        id: &ServiceId,
        connections: &HashMap<SocketAddr, u64>,
        now: Duration,
    ) -> Vec<SocketAddr> {
        let Some(going) = self.leaving.get_mut(id) else {
            return Vec::new();
        };
        let mut gone = Vec::new();
        going.retain(|address, leaving| {
            let busy = connections.get(address).is_some_and(|count| *count > 0);
            if !busy {
                gone.push(*address);
                return false;
            }
            if leaving.check_at <= now {
                leaving.check_at = now.saturating_add(leaving.pause);
                leaving.pause = leaving.pause.saturating_mul(2).min(LONGEST_PAUSE);
            }
            true
        });
        if going.is_empty() {
            self.leaving.remove(id);
        }
        gone
    }
}
