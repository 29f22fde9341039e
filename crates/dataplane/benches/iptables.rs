//! Plan to rules, one change to its transaction, and a read-back, at 1,000 and 10,000 Services of
//! 10 endpoints. Prints a table. With a folder as the only argument behind `--` it also leaves the
//! restore inputs there, for trying them on a kernel.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use dataplane::iptables::{Mode, Observation, Options};
use model::{Change, Event, IpFamily};
use netfilter::iptables::{Family, Flush, Restore, TableSet};
use plan::Planner;
use plan::testing::{big_cluster, big_cluster_settings};

fn main() {
    let folder = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    println!(
        "{:>9} {:>10} {:>10} {:>12} {:>12} {:>12} {:>10} {:>10}",
        "services", "full", "text", "1 endpoint", "1 Service", "no drift", "read", "resident"
    );
    for services in [1_000, 10_000] {
        measure(services, folder.as_deref().map(Path::new));
    }
}

/// The events of `big_cluster` come in pairs: a Service's slice and the Service.
fn measure(services: usize, folder: Option<&Path>) {
    let events = big_cluster(services, 10);
    let mut planner = Planner::new(big_cluster_settings());
    let changes = endpoint_changes(&events);
    let removal = removal(&events);
    planner.apply_all(events);
    planner.take_diff();

    let mut mode = Mode::new(IpFamily::V4, Options::default());
    mode.replace_plan(planner.plan(IpFamily::V4));
    let start = cpu_time();
    mode.observe(Observation::nothing());
    let transaction = mode.transaction(&BTreeSet::new()).expect("observed");
    let full = cpu_time() - start;
    let resident = resident_mib();
    let text = transaction.text.clone();
    mode.committed(transaction);

    let (one, one_text) = step(&mut planner, &mut mode, changes);
    let (service, service_text) = step(&mut planner, &mut mode, removal);

    let mut tables = TableSet::new(Family::Ipv4);
    let restore = Restore::parse(Family::Ipv4, &text).expect("readable");
    tables.apply(restore, Flush::Nothing).expect("applicable");
    let save = tables.to_string();
    drop(tables);
    let start = cpu_time();
    let observation = Observation::read(IpFamily::V4, &save).expect("readable");
    let read = cpu_time() - start;
    mode.observe(observation);
    let start = cpu_time();
    let transaction = mode.transaction(&BTreeSet::new()).expect("observed");
    let drift = cpu_time() - start;
    println!(
        "{services:>9} {:>10} {:>7} MB {:>12} {:>12} {:>12} {:>10} {:>6} MiB",
        show(full),
        text.len() / 1_000_000,
        show(one),
        show(service),
        show(drift),
        show(read),
        resident
    );
    assert!(transaction.text.len() < 10_000, "only the two changes");
    if let Some(folder) = folder {
        let write = |name: &str, text: &str| {
            std::fs::write(folder.join(format!("{services}.{name}")), text).expect("writable");
        };
        write("full", &text);
        write("endpoint", &one_text);
        write("service", &service_text);
    }
}

/// Takes the last endpoint from the first slice.
fn endpoint_changes(events: &[Event]) -> Vec<Event> {
    let slice = events.iter().find_map(|event| match event {
        Event::EndpointSlice(Change::Applied(slice)) => Some(slice),
        _ => None,
    });
    let mut slice = (**slice.expect("a slice")).clone();
    slice.endpoints.pop();
    vec![Event::EndpointSlice(Change::Applied(slice.into()))]
}

/// Removes a Service in the middle.
fn removal(events: &[Event]) -> Vec<Event> {
    let services = events.iter().filter_map(|event| match event {
        Event::Service(Change::Applied(service)) => Some(service.name.clone()),
        _ => None,
    });
    let all: Vec<_> = services.collect();
    vec![Event::Service(Change::Deleted(all[all.len() / 2].clone()))]
}

fn step(planner: &mut Planner, mode: &mut Mode, events: Vec<Event>) -> (Duration, String) {
    planner.apply_all(events);
    let diff = planner.take_diff();
    // Too short for the scheduler's count.
    let start = Instant::now();
    mode.apply(diff.family(IpFamily::V4));
    let transaction = mode.transaction(&BTreeSet::new()).expect("known");
    let time = start.elapsed();
    let text = transaction.text.clone();
    mode.committed(transaction);
    (time, text)
}

/// What this thread has spent on a CPU: other work on the machine does not count.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanoseconds = text.split(' ').next().and_then(|n| n.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number"))
}

fn show(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1000.0)
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}
