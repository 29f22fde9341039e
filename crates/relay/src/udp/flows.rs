//! The flows of one frontend.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

use super::{Client, Upstream, lock};
use crate::limits::Place;

/// Size of the random sample in which an idle flow is searched: its longest idle flow is probably
/// among the longest idle of all.
const SAMPLE: usize = 8;

/// A flow used within this time is not replaced.
const BUSY: Duration = Duration::from_secs(1);

/// Flows by client.
#[derive(Default)]
pub(super) struct Flows {
    by_client: HashMap<Client, Flow>,
    /// The clients, unordered, for random samples.
    clients: Vec<Client>,
}

pub(super) struct Flow {
    upstream: Arc<Upstream>,
    task: AbortHandle,
    /// Index of the client in [`Flows::clients`].
    at: usize,
    _place: Place,
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Flow {
    pub(super) fn new(upstream: Arc<Upstream>, task: AbortHandle, place: Place) -> Self {
        Self {
            upstream,
            task,
            at: 0,
            _place: place,
        }
    }

    fn last_used(&self) -> Instant {
        *lock(&self.upstream.last_used)
    }
}

impl Flows {
    pub(super) fn get(&self, client: Client) -> Option<Arc<Upstream>> {
        let flow = self.by_client.get(&client)?;
        Some(Arc::clone(&flow.upstream))
    }

    /// Insert the flow of a client without one.
    pub(super) fn insert(&mut self, client: Client, mut flow: Flow) {
        flow.at = self.clients.len();
        self.clients.push(client);
        self.by_client.insert(client, flow);
    }

    /// End this flow of the client, unless another has replaced it.
    pub(super) fn remove(&mut self, client: Client, upstream: &Arc<Upstream>) {
        let flow = self.by_client.get(&client);
        if flow.is_some_and(|flow| Arc::ptr_eq(&flow.upstream, upstream)) {
            self.take_out(client);
        }
    }

    /// End an idle flow, if the sample contains one.
    pub(super) fn evict(&mut self, now: Instant) {
        let sample = (0..SAMPLE.min(self.clients.len()))
            .filter_map(|_| fastrand::choice(&self.clients).copied())
            .filter_map(|client| Some((self.by_client.get(&client)?.last_used(), client)));
        if let Some((last_used, client)) = sample.min_by_key(|(last_used, _)| *last_used)
            && last_used + BUSY <= now
        {
            self.take_out(client);
        }
    }

    fn take_out(&mut self, client: Client) {
        let Some(flow) = self.by_client.remove(&client) else {
            return;
        };
        self.clients.swap_remove(flow.at);
        if let Some(moved) = self.clients.get(flow.at)
            && let Some(moved) = self.by_client.get_mut(moved)
        {
            moved.at = flow.at;
        }
    }
}
