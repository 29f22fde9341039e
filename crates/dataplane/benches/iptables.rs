//! Time from objects to plan, from plan to rules, and from one change to its transaction, at 1,000
//! and 10,000 Services of 10 endpoints, without the kernel's part. Prints a table of medians.
//!
//! `cargo bench -p dataplane --bench iptables`. A folder after `--` receives the inputs for
//! iptables-restore.

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use dataplane::iptables::{Mode, Observation, Options, RestoreText, Transaction};
use model::{Change, Event, IpFamily};
use netfilter::iptables::{Family, Flush, Restore, TableSet};
use plan::testing::{big_cluster, big_cluster_settings};
use plan::{Plan, Planner};
use support::{cpu_time, median, one_endpoint, planned, resident_mib, show, slices};

const ENDPOINTS: usize = 10;
/// Rounds over the whole cluster.
const ROUNDS: usize = 9;
/// Rounds of single changes.
const CHANGES: usize = 301;

fn main() {
    let folder = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    println!("Times are medians: of CPU time of one thread for the first four, of wall-clock time");
    println!(
        "for single changes. Resident: objects, plan and mode; then with the first input too."
    );
    println!(
        "{:>13} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10} {:>10} {:>14}",
        "Services",
        "plan",
        "rules",
        "both",
        "read",
        "no drift",
        "1 endpoint",
        "1 Service",
        "resident"
    );
    for services in [1_000, 10_000] {
        measure(services, folder.as_deref().map(Path::new));
    }
}

fn measure(services: usize, folder: Option<&Path>) {
    let memory = Memory::measure(services);
    let events = big_cluster(services, ENDPOINTS);
    let mut times = Vec::new();
    let mut last = None;
    for _ in 0..ROUNDS {
        // One round in memory at a time.
        drop(last.take());
        let round = Round::run(&events);
        times.push((round.planning, round.lowering));
        last = Some(round);
    }
    let planning = median(times.iter().map(|(planning, _)| *planning));
    let lowering = median(times.iter().map(|(_, lowering)| *lowering));
    let both = median(
        times
            .iter()
            .map(|(planning, lowering)| *planning + *lowering),
    );
    let Round {
        mut planner,
        mut mode,
        text,
        ..
    } = last.expect("a round");
    let (read, drift) = read_back(&planner, &text);

    let slices = slices(&events);
    let mut endpoint_text = String::new();
    let endpoint = median((0..CHANGES).map(|round| {
        let event = one_endpoint(slices[round * 7 % slices.len()], round);
        let (time, text) = step(&mut planner, &mut mode, event);
        endpoint_text = text;
        time
    }));
    let all = support::services(&events);
    let mut service_text = String::new();
    let service = median((0..CHANGES).map(|round| {
        let name = all[round * 3 % all.len()].name.clone();
        let (time, text) = step(
            &mut planner,
            &mut mode,
            Event::Service(Change::Deleted(name)),
        );
        service_text = text;
        time
    }));
    println!(
        "{:>13} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10} {:>10} {:>14}",
        format!("{services} x {ENDPOINTS}"),
        show(planning),
        show(lowering),
        show(both),
        show(read),
        show(drift),
        show(endpoint),
        show(service),
        format!("{}, {} MiB", memory.settled, memory.with_text),
    );
    if let Some(folder) = folder {
        for (name, text) in [
            ("full", &text),
            ("endpoint", &endpoint_text),
            ("service", &service_text),
        ] {
            let path = folder.join(format!("{services}.{name}"));
            std::fs::write(path, text).expect("a writable folder");
        }
    }
}

/// Write the difference to the plan.
fn write(mode: &mut Mode, plan: &Plan) -> (Transaction, String) {
    let mut text = RestoreText::default();
    let transaction = mode.transaction(plan, &BTreeSet::new(), &mut text);
    (transaction.expect("observed"), text.finish())
}

/// One load of the whole cluster.
struct Round {
    planning: Duration,
    lowering: Duration,
    planner: Planner,
    mode: Mode,
    text: String,
}

impl Round {
    fn run(events: &[Event]) -> Self {
        let (planner, _, planning) = planned(events);
        let start = cpu_time();
        let mut mode = Mode::new(IpFamily::V4, Options::default());
        mode.observe(Observation::nothing());
        let plan = planner.plan(IpFamily::V4);
        let (transaction, text) = write(&mut mode, plan);
        let lowering = cpu_time() - start;
        mode.committed(plan, transaction, &[]);
        Self {
            planning,
            lowering,
            planner,
            mode,
            text,
        }
    }
}

/// Resident memory in MiB.
struct Memory {
    settled: u64,
    with_text: u64,
}

impl Memory {
    fn measure(services: usize) -> Self {
        let mut planner = Planner::new(big_cluster_settings());
        planner.apply_all(big_cluster(services, ENDPOINTS));
        drop(planner.take_diff());
        let mut mode = Mode::new(IpFamily::V4, Options::default());
        mode.observe(Observation::nothing());
        let plan = planner.plan(IpFamily::V4);
        let (transaction, text) = write(&mut mode, plan);
        let with_text = resident_mib();
        drop(text);
        mode.committed(plan, transaction, &[]);
        Self {
            settled: resident_mib(),
            with_text,
        }
    }
}

/// The cost of a start on a programmed node: parse the kernel's rules and compare them.
fn read_back(planner: &Planner, text: &str) -> (Duration, Duration) {
    let mut tables = TableSet::new(Family::Ipv4);
    let restore = Restore::parse(Family::Ipv4, text).expect("readable");
    tables.apply(restore, Flush::Nothing).expect("applicable");
    let save = tables.to_string();
    drop(tables);
    let mut mode = Mode::new(IpFamily::V4, Options::default());
    let plan = planner.plan(IpFamily::V4);
    let times = (0..3).map(|_| {
        let start = cpu_time();
        let observation = Observation::read(IpFamily::V4, &save).expect("readable");
        let read = cpu_time();
        mode.observe(observation);
        let (transaction, _) = write(&mut mode, plan);
        let compared = cpu_time();
        assert!(transaction.is_empty(), "nothing to write");
        (read - start, compared - read)
    });
    let times: Vec<_> = times.collect();
    let read = median(times.iter().map(|(read, _)| *read));
    (read, median(times.iter().map(|(_, compared)| *compared)))
}

/// One change, from the event to its transaction.
fn step(planner: &mut Planner, mode: &mut Mode, event: Event) -> (Duration, String) {
    let start = Instant::now();
    planner.apply(event);
    let diff = planner.take_diff();
    let changed = &diff.family(IpFamily::V4).ports;
    mode.mark_changed(changed.iter().filter_map(plan::PortChange::key));
    let plan = planner.plan(IpFamily::V4);
    let (transaction, text) = write(mode, plan);
    // Too short for the scheduler's count.
    let time = start.elapsed();
    assert!((1..10_000).contains(&text.len()), "only this change");
    mode.committed(plan, transaction, &[]);
    (time, text)
}
