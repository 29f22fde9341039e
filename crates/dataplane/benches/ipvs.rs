//! Time from objects to plan, from plan to the ipvs transaction, and of single changes, at 1,000 and
//! 10,000 Services of 10 endpoints, without the kernel's part. Every load balancer has a source range
//! that excludes the node, which costs a rule. Prints a table of medians.
//!
//! `cargo bench -p dataplane --bench ipvs`

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::ipvs::{Mode, Observation, Options, Rendered, Seen, Transaction, render};
use model::{Change, Event, IpFamily, Service};
use plan::Planner;
use plan::testing::{Applied, big_cluster, cidrs, ips};
use support::{cpu_time, median, one_endpoint, planned, resident_mib, show, slices};

const ENDPOINTS: usize = 10;
/// Rounds over the whole cluster.
const ROUNDS: usize = 9;
/// Rounds of single changes.
const CHANGES: usize = 301;
/// The node's address.
const ADDRESS: &str = "10.0.0.1";

fn main() {
    println!("Times are medians: of CPU time of one thread for the first four, of wall-clock time");
    println!("for single changes. Resident: objects, plan and mode.");
    println!(
        "{:>13} {:>9} {:>11} {:>9} {:>9} {:>10} {:>11} {:>10} {:>8}",
        "Services",
        "plan",
        "transaction",
        "both",
        "no drift",
        "1 endpoint",
        "1 ClusterIP",
        "1 balancer",
        "resident"
    );
    for services in [1_000, 10_000] {
        measure(services);
    }
}

fn measure(services: usize) {
    let mut round = Round::run(&events(services));
    round.settle();
    let resident = resident_mib();
    let events = events(services);
    let times: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let round = Round::run(&events);
            (round.planning, round.lowering)
        })
        .collect();
    let planning = median(times.iter().map(|(planning, _)| *planning));
    let lowering = median(times.iter().map(|(_, lowering)| *lowering));
    let both = median(
        times
            .iter()
            .map(|(planning, lowering)| *planning + *lowering),
    );
    let drift = read_back(&round.planner);

    let slices = slices(&events);
    let endpoint = median((0..CHANGES).map(|n| {
        let event = one_endpoint(slices[n * 7 % slices.len()], n);
        round.step(event)
    }));
    let of_kind = |balancer: bool| -> Vec<&Service> {
        let all = support::services(&events).into_iter();
        all.filter(|s| s.ingress.is_empty() != balancer).collect()
    };
    let [cluster_ip, balancer] = [of_kind(false), of_kind(true)].map(|services| {
        median((0..CHANGES).map(|n| {
            let service = services[n % services.len()];
            // Deleted, and created again in the next round over all.
            let event = if n / services.len() % 2 == 0 {
                Event::Service(Change::Deleted(service.name.clone()))
            } else {
                service.clone().applied()
            };
            round.step(event)
        }))
    });
    println!(
        "{:>13} {:>9} {:>11} {:>9} {:>9} {:>10} {:>11} {:>10} {:>8}",
        format!("{services} x {ENDPOINTS}"),
        show(planning),
        show(lowering),
        show(both),
        show(drift),
        show(endpoint),
        show(cluster_ip),
        show(balancer),
        format!("{resident} MiB"),
    );
}

/// The cluster, with source ranges on every load balancer.
fn events(services: usize) -> Vec<Event> {
    let mut events = big_cluster(services, ENDPOINTS);
    for event in &mut events {
        if let Event::Service(Change::Applied(service)) = event
            && !service.ingress.is_empty()
        {
            Arc::make_mut(service).source_ranges = cidrs(&["203.0.113.0/24"]);
        }
    }
    events
}

/// One load of the whole cluster.
struct Round {
    planning: Duration,
    lowering: Duration,
    planner: Planner,
    mode: Mode,
    transaction: Transaction,
}

impl Round {
    fn run(events: &[Event]) -> Self {
        let (planner, _, planning) = planned(events);
        let start = cpu_time();
        let mut mode = Mode::new(IpFamily::V4, Options::default());
        let plan = planner.plan(IpFamily::V4);
        mode.set_addresses(plan, ips(&[ADDRESS]));
        mode.update_all(plan);
        mode.observe(Observation::nothing());
        let transaction = mode.transaction(plan).expect("observed");
        Self {
            planning,
            lowering: cpu_time() - start,
            planner,
            mode,
            transaction,
        }
    }

    /// Commit the transaction.
    fn settle(&mut self) {
        let transaction = std::mem::take(&mut self.transaction);
        self.mode.committed(transaction, Duration::ZERO);
    }

    /// One change, from the event to its transaction.
    fn step(&mut self, event: Event) -> Duration {
        // Too short for the scheduler's count.
        let start = Instant::now();
        self.planner.apply(event);
        let diff = self.planner.take_diff();
        let changed = diff.family(IpFamily::V4).ports.iter();
        let changed = changed.filter_map(plan::PortChange::key).collect();
        let plan = self.planner.plan(IpFamily::V4);
        self.mode.update(plan, &changed);
        self.transaction = self.mode.transaction(plan).expect("known");
        let time = start.elapsed();
        let t = &self.transaction;
        let parts = t.servers.len() + t.old_servers.len() + t.sets.len() + t.old_members.len();
        assert!((1..50).contains(&parts), "only this change: {t:?}");
        self.settle();
        time
    }
}

/// The cost of a start on a programmed node: compare the state that was read.
fn read_back(planner: &Planner) -> Duration {
    let plan = planner.plan(IpFamily::V4);
    let addresses = ips(&[ADDRESS]);
    let Rendered {
        services,
        sets,
        tables,
        addresses: device,
    } = render(plan, &Options::default(), &addresses).expect("rules that a kernel takes");
    let seen = Seen {
        device: Some(device),
        sets,
        services,
        rules: tables.to_string(),
    };
    let mut mode = Mode::new(IpFamily::V4, Options::default());
    mode.set_addresses(plan, addresses);
    mode.update_all(plan);
    median((0..3).map(|_| {
        let seen = seen.clone();
        let start = cpu_time();
        let observation = Observation::new(IpFamily::V4, seen).expect("readable");
        mode.observe(observation);
        let transaction = mode.transaction(plan).expect("observed");
        let time = cpu_time() - start;
        assert!(transaction.is_empty(), "nothing to write");
        time
    }))
}
