//! Deletes stale connection-tracking entries, on a thread of its own: a sync never waits for it.

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kernel::conntrack::{Conntrack, Filter, IpProtocol, StaleFlows};
use model::{IpFamily, Protocol};
use observe::{Metrics, family_label};
use plan::FlowFrontend;

use super::half_open;
use crate::system::kernel_family;

/// The host's own addresses, at which NodePorts are reached.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostAddresses(Arc<Mutex<Vec<IpAddr>>>);

impl HostAddresses {
    /// Return the addresses.
    pub(crate) fn current(&self) -> Vec<IpAddr> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Replace the addresses.
    pub(crate) fn set(&self, addresses: Vec<IpAddr>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }
}

/// The stale flows of a family.
pub(crate) type Order = (IpFamily, Vec<plan::StaleFlows>);

/// The two threads that delete flows.
#[derive(Debug)]
pub(crate) struct Flows {
    datagrams: Sender<Order>,
    half_open: Option<Sender<Order>>,
}

impl Flows {
    /// Start the threads; that for TCP only if `half_open` is set. They end with this.
    pub(crate) fn start(
        addresses: &HostAddresses,
        metrics: &Metrics,
        half_open: bool,
    ) -> std::io::Result<Self> {
        let (datagrams, orders) = channel();
        let (host, counters) = (addresses.clone(), metrics.clone());
        std::thread::Builder::new()
            .name("conntrack".to_owned())
            .spawn(move || run(&orders, &host, &counters))?;
        let half_open = half_open
            .then(|| half_open::start(addresses.clone(), metrics.clone()))
            .transpose()?;
        Ok(Flows {
            datagrams,
            half_open,
        })
    }

    /// Delete nothing: without rules there are no stale flows.
    pub(crate) fn none() -> Self {
        Flows {
            datagrams: channel().0,
            half_open: None,
        }
    }

    /// Have stale flows deleted.
    pub(crate) fn delete(&self, family: IpFamily, flows: Vec<plan::StaleFlows>) {
        let (tcp, others): (Vec<_>, Vec<_>) = flows
            .into_iter()
            .partition(|f| f.protocol() == Protocol::Tcp);
        // The receivers live as long as the process.
        if !others.is_empty() {
            let _ = self.datagrams.send((family, others));
        }
        if let Some(half_open) = &self.half_open
            && !tcp.is_empty()
        {
            let _ = half_open.send((family, tcp));
        }
    }
}

/// How long to gather orders, so that one dump serves all of them.
const GATHER: Duration = Duration::from_millis(20);

/// Return an order and those that follow it shortly.
pub(super) fn gather(first: Order, orders: &Receiver<Order>) -> Vec<Order> {
    std::thread::sleep(GATHER);
    std::iter::once(first).chain(orders.try_iter()).collect()
}

/// Reports the first of a series of failures, and its end.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    failed: bool,
}

impl Outcome {
    pub(super) fn report<T>(&mut self, result: Result<T, kernel::netlink::Error>, entries: &str) {
        match result {
            Ok(_) if self.failed => {
                tracing::info!(
                    entries,
                    "Deleting stale connection-tracking entries works again"
                );
                self.failed = false;
            }
            Err(error) if !self.failed => {
                tracing::error!(
                    entries,
                    %error,
                    "Cannot delete stale connection-tracking entries; clients may keep sending to removed endpoints"
                );
                self.failed = true;
            }
            _ => {}
        }
    }
}

fn run(orders: &Receiver<Order>, addresses: &HostAddresses, metrics: &Metrics) {
    let mut outcome = Outcome::default();
    while let Ok(first) = orders.recv() {
        let gathered = gather(first, orders);
        let host = addresses.current();
        for family in IpFamily::ALL {
            let of_family = gathered.iter().filter(|(f, _)| *f == family);
            let stale = resolve(&host, of_family.flat_map(|(_, flows)| flows));
            if stale.is_empty() {
                continue;
            }
            let started = Instant::now();
            let label = [family_label(family)];
            let swept = sweep(family, &stale);
            if let Ok(deleted) = &swept {
                metrics
                    .conntrack_deleted
                    .with_label_values(&label)
                    .inc_by(*deleted);
            }
            outcome.report(swept, "UDP and SCTP flows");
            metrics
                .conntrack_duration
                .with_label_values(&label)
                .observe(started.elapsed().as_secs_f64());
        }
    }
}

/// Translate orders into the kernel's terms. Of several orders for one frontend the last, which is the
/// newest, counts.
fn resolve<'a>(host: &[IpAddr], flows: impl Iterator<Item = &'a plan::StaleFlows>) -> StaleFlows {
    let mut stale = StaleFlows::new(host.iter().copied());
    for flow in flows {
        let protocol = IpProtocol(flow.protocol().number());
        let keep = flow.keep.iter().map(|e| SocketAddr::new(e.ip, e.port));
        let keep = Arc::new(keep.collect());
        for frontend in flow.frontends() {
            match frontend {
                FlowFrontend::Address(ip, port) => {
                    let address = SocketAddr::new(ip, port.get());
                    stale.frontend(protocol, address, Arc::clone(&keep));
                }
                FlowFrontend::NodePort(port) => {
                    stale.node_port(protocol, port.get(), Arc::clone(&keep));
                }
            }
        }
    }
    stale
}

fn sweep(family: IpFamily, stale: &StaleFlows) -> Result<u64, kernel::netlink::Error> {
    let mut conntrack = Conntrack::open()?;
    let mut deleted = 0;
    for protocol in stale.protocols() {
        let filter = Filter::protocol(kernel_family(family), protocol);
        deleted += conntrack
            .sweep(&filter, |flow| stale.is_stale(flow))?
            .deleted;
    }
    Ok(deleted)
}
