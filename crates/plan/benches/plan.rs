//! What planning costs: everything from nothing, and one changed endpoint, as a table.
//!
//! `cargo bench -p plan`

use std::time::{Duration, Instant};

use model::{Change, EndpointSlice, Event, IpFamily, Service, SessionAffinity};
use plan::Planner;
use plan::testing::{Applied, big_cluster, big_cluster_settings};

const ROUNDS: usize = 9;

fn main() {
    println!("Services x endpoints   from nothing   one endpoint   one Service   resident");
    for (services, endpoints) in [(1_000, 10), (10_000, 10), (100_000, 10), (1, 10_000)] {
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
        let (all_services, slices) = objects(&events);
        let endpoint = (0..ROUNDS * 100).map(|round| {
            let slice = slices[round * 7 % slices.len()];
            measure(&mut planner, one_endpoint(slice, round))
        });
        let endpoint = median(endpoint);
        let service = (0..ROUNDS * 100).map(|round| {
            let service = all_services[round * 7 % services];
            measure(&mut planner, one_service(service, round))
        });
        let service = median(service);
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

fn objects(events: &[Event]) -> (Vec<&Service>, Vec<&EndpointSlice>) {
    let (mut services, mut slices) = (Vec::new(), Vec::new());
    for event in events {
        match event {
            Event::Service(Change::Applied(service)) => services.push(&**service),
            Event::EndpointSlice(Change::Applied(slice)) => slices.push(&**slice),
            _ => {}
        }
    }
    (services, slices)
}

/// An EndpointSlice with one address changed.
fn one_endpoint(slice: &EndpointSlice, round: usize) -> Event {
    let mut slice = slice.clone();
    slice.endpoints[0].address = std::net::IpAddr::from([10, 1, (round >> 8) as u8, round as u8]);
    slice.applied()
}

/// A Service with another affinity.
fn one_service(service: &Service, round: usize) -> Event {
    let affinity = SessionAffinity::ClientIp {
        timeout_seconds: 1 + round as u32,
    };
    Service {
        affinity,
        ..service.clone()
    }
    .applied()
}

/// From an event to the diff.
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
