//! What the nftables mode costs on this machine's kernel, in a network namespace of its own:
//! `cargo bench -p sluice-kernel --bench nftables [SERVICES]`.

#[path = "../tests/support/nft.rs"]
mod nft;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::nftables::{Options, Sync};
use model::{Change, EndpointSlice, Event, IpFamily};
use nix::sched::{CloneFlags, unshare};
use plan::Planner;
use plan::testing::{big_cluster, big_cluster_settings};

use nft::Live;

const ENDPOINTS: usize = 10;
const CHANGES: usize = 250;
const LIMIT: usize = 100_000;

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find(|l| l.starts_with("VmRSS:"));
    let kib = line.and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

/// A cluster in a planner, with the table that it makes.
struct Bench {
    planner: Planner,
    slices: Vec<Arc<EndpointSlice>>,
    sync: Sync,
    live: Live,
}

impl Bench {
    fn load(services: usize) -> (Self, Duration, u64) {
        let mut planner = Planner::new(big_cluster_settings());
        let events = big_cluster(services, ENDPOINTS);
        let slices = events
            .iter()
            .filter_map(|e| match e {
                Event::EndpointSlice(Change::Applied(slice)) => Some(slice.clone()),
                _ => None,
            })
            .collect();
        planner.apply_all(events);
        planner.take_diff();
        let mut live = Live::open(IpFamily::V4);
        let mut sync = Sync::new(IpFamily::V4, Options::default());
        let start = Instant::now();
        sync.set_plan(planner.plan(IpFamily::V4));
        sync.run(&mut live, LIMIT).expect("a load");
        let took = start.elapsed();
        let bench = Bench {
            planner,
            slices,
            sync,
            live,
        };
        (bench, took, resident())
    }

    /// From the object arriving to the committed transaction.
    fn apply(&mut self, event: Event) -> Duration {
        let start = Instant::now();
        self.planner.apply(event);
        let diff = self.planner.take_diff();
        self.sync.change(&diff.v4);
        let steps = self.sync.run(&mut self.live, LIMIT).expect("a change");
        let took = start.elapsed();
        assert!(steps > 0, "the change changed nothing");
        took
    }

    fn changed(&mut self, number: usize, change: impl Fn(&mut EndpointSlice, usize)) -> Event {
        let at = number * 7919 % self.slices.len();
        let mut slice = (*self.slices[at]).clone();
        change(&mut slice, number);
        let slice = Arc::new(slice);
        self.slices[at] = slice.clone();
        Event::EndpointSlice(Change::Applied(slice))
    }

    fn changes(&mut self, what: &str, change: impl Fn(&mut EndpointSlice, usize) + Copy) {
        let mut took: Vec<Duration> = (0..CHANGES)
            .map(|number| {
                let event = self.changed(number, change);
                self.apply(event)
            })
            .collect();
        took.sort_unstable();
        let (median, high) = (took[CHANGES / 2], took[CHANGES * 99 / 100]);
        println!("  {what}: median {median:.2?}, 99th percentile {high:.2?}");
    }
}

fn measure(services: usize) {
    println!("{services} Services x {ENDPOINTS} endpoints");
    let (mut bench, took, resident) = Bench::load(services);
    println!("  full load from empty: {took:.2?}; {resident} MiB resident");
    bench.changes("one endpoint replaced", |slice, number| {
        let fresh = u32::from(Ipv4Addr::new(10, 254, 0, 0)) + number as u32;
        slice.endpoints[0].address = IpAddr::V4(fresh.into());
    });
    bench.changes("one endpoint less", |slice, _| {
        slice.endpoints.pop();
    });
    let start = Instant::now();
    let mut again = Sync::new(IpFamily::V4, Options::default());
    again.set_plan(bench.planner.plan(IpFamily::V4));
    again.run(&mut bench.live, LIMIT).expect("a readback");
    println!(
        "  restart, read back, nothing to do: {:.2?}",
        start.elapsed()
    );
    drop(again);
    let gone = services / 2;
    let names: Vec<_> = {
        let plan = bench.planner.plan(IpFamily::V4);
        plan.ports
            .keys()
            .take(gone)
            .map(|(name, _)| name.service.clone())
            .collect()
    };
    let start = Instant::now();
    for name in names {
        bench.planner.apply(Event::Service(Change::Deleted(name)));
    }
    let diff = bench.planner.take_diff();
    bench.sync.change(&diff.v4);
    bench.sync.run(&mut bench.live, LIMIT).expect("a removal");
    println!("  {gone} Services removed: {:.2?}", start.elapsed());
}

fn main() {
    let asked: Vec<usize> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let sizes = if asked.is_empty() {
        vec![1_000, 10_000, 100_000]
    } else {
        asked
    };
    for services in sizes {
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace (run as root)");
            measure(services);
        })
        .join()
        .expect("measured");
    }
}
