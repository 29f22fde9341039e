//! The choice of an endpoint for a connection.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::frontend::Backends;

/// Number of affinity entries from which expired ones are removed.
const SWEEP_AT: usize = 1024;

/// Upper bound on remembered clients: an IPv6 client can use any number of addresses.
const MAX_CLIENTS: usize = 65_536;

/// Chooses endpoints for the connections of one frontend.
pub(crate) struct Balancer {
    choice: watch::Receiver<Choice>,
}

/// The endpoints to choose from.
pub(crate) struct Choice {
    endpoints: Arc<[SocketAddr]>,
    affinity: Option<(Duration, Arc<Mutex<Sticky>>)>,
}

/// Client affinity shared by frontends, kept while one of them uses it.
#[derive(Default)]
pub(crate) struct Memories(HashMap<Arc<str>, Weak<Mutex<Sticky>>>);

impl Memories {
    pub(crate) fn choice(&mut self, backends: Backends) -> Choice {
        let affinity = backends.affinity.map(|affinity| {
            let shared = self.0.entry(affinity.of).or_default();
            let memory = shared.upgrade().unwrap_or_default();
            *shared = Arc::downgrade(&memory);
            (affinity.timeout, memory)
        });
        Choice {
            endpoints: backends.endpoints,
            affinity,
        }
    }

    /// Remove entries that no frontend uses.
    pub(crate) fn sweep(&mut self) {
        self.0.retain(|_, memory| memory.strong_count() > 0);
    }
}

/// The endpoint of each client.
#[derive(Default)]
pub(crate) struct Sticky {
    by_client: HashMap<IpAddr, (SocketAddr, Instant)>,
    sweep_at: usize,
}

impl Balancer {
    pub(crate) fn new(choice: watch::Receiver<Choice>) -> Self {
        Self { choice }
    }

    /// Return all endpoints in the order in which a connection of this client tries them: first the
    /// client's endpoint by affinity, if it still exists, then the others in random order.
    pub(crate) fn candidates(&self, client: IpAddr, now: Instant) -> Vec<SocketAddr> {
        let choice = self.choice.borrow();
        let mut order = choice.endpoints.to_vec();
        fastrand::shuffle(&mut order);
        if let Some((_, memory)) = &choice.affinity
            && let Some(endpoint) = lock(memory).get(client, now)
            && let Some(at) = order.iter().position(|e| *e == endpoint)
        {
            order.swap(0, at);
        }
        order
    }

    /// Record that a connection of this client uses this endpoint.
    pub(crate) fn used(&self, client: IpAddr, endpoint: SocketAddr, now: Instant) {
        if let Some((timeout, memory)) = &self.choice.borrow().affinity {
            lock(memory).set(client, endpoint, now, *timeout);
        }
    }

    /// Remove the affinity of a client whose endpoint refused it.
    pub(crate) fn refused(&self, client: IpAddr, endpoint: SocketAddr) {
        if let Some((_, memory)) = &self.choice.borrow().affinity {
            lock(memory).forget(client, endpoint);
        }
    }

    /// Return whether new datagrams may still be sent to this endpoint.
    pub(crate) fn has(&self, endpoint: SocketAddr) -> bool {
        self.choice.borrow().endpoints.contains(&endpoint)
    }
}

fn lock(memory: &Mutex<Sticky>) -> std::sync::MutexGuard<'_, Sticky> {
    // The map is valid after every step, even after a panic.
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sticky {
    fn get(&self, client: IpAddr, now: Instant) -> Option<SocketAddr> {
        let (endpoint, until) = self.by_client.get(&client)?;
        (*until > now).then_some(*endpoint)
    }

    fn set(&mut self, client: IpAddr, endpoint: SocketAddr, now: Instant, timeout: Duration) {
        if self.by_client.len() >= self.sweep_at.max(SWEEP_AT) {
            self.by_client.retain(|_, (_, until)| *until > now);
            // Twice the remaining entries, so that sweeping stays cheap with many active clients.
            self.sweep_at = self.by_client.len() * 2;
        }
        if self.by_client.len() >= MAX_CLIENTS
            && !self.by_client.contains_key(&client)
            && let Some(any) = self.by_client.keys().next().copied()
        {
            self.by_client.remove(&any);
        }
        self.by_client.insert(client, (endpoint, now + timeout));
    }

    fn forget(&mut self, client: IpAddr, endpoint: SocketAddr) {
        if self
            .by_client
            .get(&client)
            .is_some_and(|(e, _)| *e == endpoint)
        {
            self.by_client.remove(&client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::Affinity;

    fn endpoint(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 80))
    }

    fn balancer(endpoints: &[u8], affinity: Option<u64>) -> (watch::Sender<Choice>, Balancer) {
        let choice = Memories::default().choice(backends(endpoints, affinity));
        let (sender, receiver) = watch::channel(choice);
        (sender, Balancer::new(receiver))
    }

    fn backends(endpoints: &[u8], affinity: Option<u64>) -> Backends {
        let endpoints = endpoints.iter().copied().map(endpoint);
        Backends {
            endpoints: endpoints.collect(),
            affinity: affinity.map(|seconds| Affinity {
                timeout: Duration::from_secs(seconds),
                of: "demo/web".into(),
            }),
        }
    }

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn candidates_contain_every_endpoint_once_in_random_order() {
        let (_keep, balancer) = balancer(&[1, 2, 3], None);
        let mut first = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let mut order = balancer.candidates(CLIENT, Instant::now());
            first.insert(order[0]);
            order.sort();
            assert_eq!(order, [endpoint(1), endpoint(2), endpoint(3)]);
        }
        assert_eq!(first.len(), 3);
    }

    #[test]
    fn affinity_lasts_until_the_timeout() {
        let (_keep, balancer) = balancer(&[1, 2, 3, 4, 5, 6, 7, 8], Some(10));
        let start = Instant::now();
        balancer.used(CLIENT, endpoint(5), start);
        for _ in 0..50 {
            let order = balancer.candidates(CLIENT, start + Duration::from_secs(9));
            assert_eq!(order[0], endpoint(5));
            assert_eq!(order.len(), 8);
        }
        let later = start + Duration::from_secs(10);
        let first: std::collections::BTreeSet<_> = (0..200)
            .map(|_| balancer.candidates(CLIENT, later)[0])
            .collect();
        assert!(first.len() > 1);
    }

    #[test]
    fn affinity_ends_with_a_removed_endpoint() {
        let mut memories = Memories::default();
        let mut choice = |endpoints| memories.choice(backends(endpoints, Some(10)));
        let (sender, receiver) = watch::channel(choice(&[1, 2]));
        let balancer = Balancer::new(receiver);
        let now = Instant::now();
        balancer.used(CLIENT, endpoint(1), now);
        sender.send(choice(&[2, 3])).ok().unwrap();
        for _ in 0..50 {
            assert!(!balancer.candidates(CLIENT, now).contains(&endpoint(1)));
        }
        assert!(!balancer.has(endpoint(1)));
    }

    #[test]
    fn affinity_ends_when_the_endpoint_refuses() {
        let (_keep, balancer) = balancer(&[1, 2], Some(10));
        let now = Instant::now();
        balancer.used(CLIENT, endpoint(1), now);
        balancer.refused(CLIENT, endpoint(2));
        assert_eq!(balancer.candidates(CLIENT, now)[0], endpoint(1));
        balancer.refused(CLIENT, endpoint(1));
        let first: std::collections::BTreeSet<_> = (0..200)
            .map(|_| balancer.candidates(CLIENT, now)[0])
            .collect();
        assert_eq!(first.len(), 2);
    }

    #[test]
    fn frontends_of_one_service_port_share_affinity_while_one_exists() {
        let mut memories = Memories::default();
        let all = [1, 2, 3, 4, 5, 6, 7, 8];
        let mut served = |endpoints: &[u8]| {
            let choice = memories.choice(backends(endpoints, Some(10)));
            let (sender, receiver) = watch::channel(choice);
            (sender, Balancer::new(receiver))
        };
        let (one, other) = (served(&all), served(&all[4..]));
        let now = Instant::now();
        one.1.used(CLIENT, endpoint(6), now);
        for _ in 0..50 {
            assert_eq!(other.1.candidates(CLIENT, now)[0], endpoint(6));
        }
        other.1.refused(CLIENT, endpoint(6));
        other.1.used(CLIENT, endpoint(7), now);
        assert_eq!(one.1.candidates(CLIENT, now)[0], endpoint(7));
        drop((one, other));
        memories.sweep();
        assert!(memories.0.is_empty());
    }

    #[test]
    fn the_number_of_remembered_clients_is_bounded() {
        let mut sticky = Sticky::default();
        let now = Instant::now();
        for n in 0..u32::try_from(MAX_CLIENTS).unwrap() + 5_000 {
            let client = IpAddr::from(n.to_be_bytes());
            sticky.set(client, endpoint(1), now, Duration::from_secs(10_800));
            assert_eq!(sticky.get(client, now), Some(endpoint(1)));
        }
        assert_eq!(sticky.by_client.len(), MAX_CLIENTS);
    }

    #[test]
    fn expired_clients_are_removed() {
        let mut sticky = Sticky::default();
        let start = Instant::now();
        for n in 0..10_000_u32 {
            let client = IpAddr::from(n.to_be_bytes());
            let now = start + Duration::from_millis(u64::from(n));
            sticky.set(client, endpoint(1), now, Duration::from_millis(100));
        }
        assert!(sticky.by_client.len() <= SWEEP_AT);
    }
}
