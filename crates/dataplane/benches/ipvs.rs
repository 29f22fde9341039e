//! Objects to plan, plan to the ipvs mode's transaction, and single changes to theirs, at 1,000 and
//! 10,000 Services of 10 endpoints: all that is done but the kernel's part. Every load balancer has
//! a source range that the node is not in, which costs rules too. Prints a table of medians.
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
/// Of what takes the whole cluster.
const ROUNDS: usize = 9;
/// Of single changes.
const CHANGES: usize = 301;
/// The node's own.
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
            // Goes, and comes back with the next round over all.
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

/// The cluster, with source ranges where there is a load balancer.
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

/// Everything from nothing, once.
struct Round {
    planning: Duration,
    lowering: Duration,
    planner: Planner,
    mode: Mode,
    transaction: Transaction,
}

impl Round {
    fn run(events: &[Event]) -> Self {
        let (planner, diff, planning) = planned(events);
        let start = cpu_time();
        let mut mode = Mode::new(IpFamily::V4, Options::default());
        mode.set_addresses(ips(&[ADDRESS]));
        mode.apply(diff.family(IpFamily::V4));
        mode.observe(Observation::nothing());
        let transaction = mode.transaction().expect("observed");
        Self {
            planning,
            lowering: cpu_time() - start,
            planner,
            mode,
            transaction,
        }
    }

    /// The kernel has it.
    fn settle(&mut self) {
        let transaction = std::mem::take(&mut self.transaction);
        self.mode.committed(transaction, Duration::ZERO);
    }

    /// From an event to its transaction.
    fn step(&mut self, event: Event) -> Duration {
        // Too short for the scheduler's count.
        let start = Instant::now();
        self.planner.apply(event);
        let diff = self.planner.take_diff();
        self.mode.apply(diff.family(IpFamily::V4));
        self.transaction = self.mode.transaction().expect("known");
        let time = start.elapsed();
        let t = &self.transaction;
        let parts = t.servers.len() + t.old_servers.len() + t.sets.len() + t.old_members.len();
        assert!((1..50).contains(&parts), "only this change: {t:?}");
        self.settle();
        time
    }
}

/// What a start on a node where all is in force already costs, once it is read: finding out that
/// nothing is to do.
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
    mode.set_addresses(addresses);
    mode.replace_plan(plan);
    median((0..3).map(|_| {
        let seen = seen.clone();
        let start = cpu_time();
        let observation = Observation::new(IpFamily::V4, seen).expect("readable");
        mode.observe(observation);
        let transaction = mode.transaction().expect("observed");
        let time = cpu_time() - start;
        assert!(transaction.is_empty(), "all is in force");
        time
    }))
}
