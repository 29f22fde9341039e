//! Deletes half-open TCP connections whose endpoint was removed or no longer serves, on a thread of
//! its own: a sync never waits for it.
//!
//! Connection tracking sends repeated SYNs to the endpoint of the first. Without the entry, the next
//! repetition reaches an endpoint that serves.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use kernel::conntrack::{Conntrack, Flow};
use model::IpFamily;
use observe::{Metrics, family_label};
use plan::{FlowFrontend, StaleFlows};

use super::flows::{HostAddresses, Order, Outcome, gather};
use crate::system::kernel_family;

/// How long a connection must stay half open after it was found before it is deleted. An endpoint
/// that still runs answers within this time.
const CONFIRM: Duration = Duration::from_millis(200);
/// The largest number of connections deleted in one pass. The rest follows in the next pass.
const LIMIT: usize = 10_000;
/// Pause after a pass, as a multiple of its cost: with a table of a million connections, one pass
/// takes a core a tenth of a second.
const PAUSE: u32 = 9;
/// The shortest pause. Each pass walks the kernel's whole hash table, 3 ms of processor time even if it
/// is empty. With [`CONFIRM`], the sum stays below the first retransmission time-out of TCP, 1 s
/// (RFC 6298), so that the first repeated SYN finds the entry deleted.
const LEAST_PAUSE: Duration = Duration::from_millis(400);

/// Start the thread. It ends with the sender.
pub(crate) fn start(addresses: HostAddresses, metrics: Metrics) -> std::io::Result<Sender<Order>> {
    let (sender, orders) = channel();
    std::thread::Builder::new()
        .name("half-open".to_owned())
        .spawn(move || run(&orders, &addresses, &metrics))?;
    Ok(sender)
}

fn run(orders: &Receiver<Order>, addresses: &HostAddresses, metrics: &Metrics) {
    let mut outcome = Outcome::default();
    while let Ok(first) = orders.recv() {
        let gathered = gather(first, orders);
        let host = addresses.current();
        let mut cost = Duration::ZERO;
        for family in IpFamily::ALL {
            let of_family = gathered.iter().filter(|(f, _)| *f == family);
            let stale: Vec<&StaleFlows> = of_family.flat_map(|(_, flows)| flows).collect();
            if stale.is_empty() {
                continue;
            }
            let swept = sweep(family, &host, &stale, &mut cost);
            if let Ok(deleted) = &swept {
                metrics
                    .conntrack_deleted
                    .with_label_values(&[family_label(family)])
                    .inc_by(*deleted);
            }
            outcome.report(swept, "half-open TCP connections");
        }
        std::thread::sleep((cost * PAUSE).max(LEAST_PAUSE));
    }
}

fn sweep(
    family: IpFamily,
    host: &[IpAddr],
    orders: &[&StaleFlows],
    cost: &mut Duration,
) -> Result<u64, kernel::netlink::Error> {
    let stale = Stale::new(host, orders);
    let mut conntrack = Conntrack::open()?;
    let mut deleted = 0;
    loop {
        let started = Instant::now();
        let found =
            conntrack.half_open(kernel_family(family), LIMIT, |flow| stale.contains(flow))?;
        *cost += started.elapsed();
        if found.is_empty() {
            return Ok(deleted);
        }
        std::thread::sleep(CONFIRM);
        let started = Instant::now();
        deleted += conntrack.delete_half_open(&found)?;
        *cost += started.elapsed();
        if found.len() < LIMIT {
            return Ok(deleted);
        }
    }
}

/// The latest order for each frontend.
struct Stale<'a> {
    host: &'a [IpAddr],
    orders: HashMap<FlowFrontend, &'a StaleFlows>,
}

impl<'a> Stale<'a> {
    fn new(host: &'a [IpAddr], orders: &[&'a StaleFlows]) -> Self {
        let frontends = orders
            .iter()
            .flat_map(|order| order.frontends().map(move |f| (f, *order)));
        Stale {
            host,
            orders: frontends.collect(),
        }
    }

    fn contains(&self, flow: &Flow) -> bool {
        let (ip, port) = (flow.original.destination, flow.original.destination_port);
        let Some(port) = std::num::NonZeroU16::new(port) else {
            return false;
        };
        let order = self
            .orders
            .get(&FlowFrontend::Address(ip, port))
            .or_else(|| {
                let on_node = self.host.contains(&ip);
                let order = self.orders.get(&FlowFrontend::NodePort(port));
                order.filter(|_| on_node)
            });
        let endpoint: SocketAddr = flow.reply.source();
        flow.zone == kernel::conntrack::Zone::default()
            && order.is_some_and(|order| {
                let mut keep = order.keep.iter();
                !keep.any(|e| e.ip == endpoint.ip() && e.port == endpoint.port())
            })
    }
}
