//! What planning costs: everything from nothing, and one changed endpoint, as a table.
//!
//! `cargo bench -p sluice-plan`

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{Change, EndpointSlice, Event, IpFamily};
use plan::Planner;
use plan::testing::{big_cluster, big_cluster_settings};

const ROUNDS: usize = 9;

fn main() {
    println!("Services x endpoints   from nothing   one endpoint   one Service   resident");
    for (services, endpoints) in [(1_000, 10), (10_000, 10), (100_000, 10)] {
        let before = resident();
        let events = big_cluster(services, endpoints);
        let fresh = || {
            let start = Instant::now();
            let mut planner = Planner::new(big_cluster_settings());
            planner.apply_all(events.iter().cloned());
            let diff = planner.take_diff();
            assert_eq!(diff.v4.ports.len(), services);
            (start.elapsed(), planner)
        };
        let (first, mut planner) = fresh();
        // With the events, which share their objects with the planner.
        let held = resident().saturating_sub(before);
        let rounds = if services > 10_000 { 2 } else { ROUNDS };
        let from_nothing = median((0..rounds).map(|_| fresh().0).chain([first]));
        let endpoint = median((0..ROUNDS * 100).map(|n| one_endpoint(&mut planner, &events, n)));
        let service = median((0..ROUNDS * 100).map(|n| one_service(&mut planner, &events, n)));
        assert_eq!(planner.plan(IpFamily::V4).ports.len(), services);
        println!(
            "{:20}   {:9.1} ms   {:9.1} us   {:8.1} us   {:4} MiB",
            format!("{services} x {endpoints}"),
            from_nothing.as_secs_f64() * 1e3,
            endpoint.as_secs_f64() * 1e6,
            service.as_secs_f64() * 1e6,
            held >> 20,
        );
    }
}

/// From an EndpointSlice with one address changed to the diff.
fn one_endpoint(planner: &mut Planner, events: &[Event], round: usize) -> Duration {
    let slices: Vec<&Arc<EndpointSlice>> = events
        .iter()
        .filter_map(|event| match event {
            Event::EndpointSlice(Change::Applied(slice)) => Some(slice),
            _ => None,
        })
        .skip(round * 7 % 900)
        .take(1)
        .collect();
    let mut slice = EndpointSlice::clone(slices[0]);
    slice.endpoints[0].address = std::net::IpAddr::from([10, 1, (round >> 8) as u8, round as u8]);
    let event = Event::EndpointSlice(Change::Applied(Arc::new(slice)));
    measure(planner, event)
}

/// From a Service with another affinity to the diff.
fn one_service(planner: &mut Planner, events: &[Event], round: usize) -> Duration {
    let service = events
        .iter()
        .filter_map(|event| match event {
            Event::Service(Change::Applied(service)) => Some(service),
            _ => None,
        })
        .nth(round * 7 % 900)
        .expect("a Service");
    let mut service = model::Service::clone(service);
    service.affinity = model::SessionAffinity::ClientIp {
        timeout_seconds: 1 + u32::try_from(round).unwrap_or(0),
    };
    measure(planner, Event::Service(Change::Applied(Arc::new(service))))
}

fn measure(planner: &mut Planner, event: Event) -> Duration {
    let start = Instant::now();
    planner.apply(event);
    let diff = planner.take_diff();
    let took = start.elapsed();
    assert_eq!(diff.v4.ports.len(), 1);
    took
}

fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// Bytes that the process has in memory (`VmRSS`); 0 where that cannot be read.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    kib.unwrap_or(0) << 10
}
