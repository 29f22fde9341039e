//! Removal of connection-tracking entries of endpoints that no longer serve, on a thread of its own,
//! so that no sync waits for it.

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kernel::conntrack::{Conntrack, Filter, IpProtocol, StaleFlows};
use model::IpFamily;
use observe::{Metrics, family_label};
use plan::FlowFrontend;

use crate::system::kernel_family;

/// The host's own addresses, on which NodePorts answer.
pub(crate) type HostAddresses = Arc<Mutex<Vec<IpAddr>>>;

/// Flows to remove, by family.
pub(crate) type Order = (IpFamily, Vec<plan::StaleFlows>);

/// How long to gather orders, so that one dump serves them all.
const GATHER: Duration = Duration::from_millis(20);

/// Start the thread. It ends with the sender.
pub(crate) fn start(addresses: HostAddresses, metrics: Metrics) -> std::io::Result<Sender<Order>> {
    let (sender, orders) = channel();
    std::thread::Builder::new()
        .name("conntrack".to_owned())
        .spawn(move || run(&orders, &addresses, &metrics))?;
    Ok(sender)
}

/// Return a sender of orders that are discarded, for modes without rules.
pub(crate) fn discard() -> Sender<Order> {
    channel().0
}

fn run(orders: &Receiver<Order>, addresses: &HostAddresses, metrics: &Metrics) {
    let mut reported = false;
    while let Ok(first) = orders.recv() {
        std::thread::sleep(GATHER);
        let gathered: Vec<Order> = std::iter::once(first).chain(orders.try_iter()).collect();
        let host = addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for family in IpFamily::ALL {
            let of_family = gathered.iter().filter(|(f, _)| *f == family);
            let stale = resolve(&host, of_family.flat_map(|(_, flows)| flows));
            if stale.is_empty() {
                continue;
            }
            let started = Instant::now();
            let label = [family_label(family)];
            match sweep(family, &stale) {
                Ok(deleted) => {
                    metrics
                        .conntrack_deleted
                        .with_label_values(&label)
                        .inc_by(deleted);
                    if reported {
                        tracing::info!(%family, "Stale flows are removed again");
                        reported = false;
                    }
                }
                Err(error) => {
                    if !reported {
                        tracing::error!(
                            %family,
                            %error,
                            "Cannot remove stale flows; clients may keep using removed endpoints"
                        );
                    }
                    reported = true;
                }
            }
            metrics
                .conntrack_duration
                .with_label_values(&label)
                .observe(started.elapsed().as_secs_f64());
        }
    }
}

/// Convert to the kernel's terms. If a frontend is named more than once, the last entry counts, as
/// the newest.
fn resolve<'a>(host: &[IpAddr], flows: impl Iterator<Item = &'a plan::StaleFlows>) -> StaleFlows {
    let mut stale = StaleFlows::new(host.iter().copied());
    for flow in flows {
        let protocol = IpProtocol(flow.protocol.number());
        let keep = flow.keep.iter().map(|e| SocketAddr::new(e.ip, e.port));
        let keep = Arc::new(keep.collect());
        for frontend in &flow.frontends {
            match frontend {
                FlowFrontend::Address(ip, port) => {
                    let address = SocketAddr::new(*ip, port.get());
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
