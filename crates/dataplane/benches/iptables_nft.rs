//! The cost of iptables mode in nf_tables over netlink on this machine's kernel, beside
//! `iptables-nft-restore` with the same rules: `cargo bench -p dataplane --bench iptables_nft
//! [SERVICESxENDPOINTS...]`. Each size is measured in a process and a network namespace of its own.
//!
//! Loads and restarts are processor time of the thread, which excludes other work on the machine. Single
//! changes are wall-clock time, from the event to the commit. The kernel's part is that of the calls
//! that carry transactions or listings.

#[path = "../tests/support/ipt.rs"]
mod ipt;
mod support;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use dataplane::iptables::{
    BatchFailure, Guard, Kernel, Mode, Netlink, Observation, Options, RestoreText, Sync,
};
use ipt::Live;
use kernel::netns::NetNs;
use kernel::nfnetlink::TransactionError;
use model::{Change, Event, IpFamily};
use nix::sys::resource::UsageWho;
use plan::testing::{Applied as _, big_cluster};
use plan::{PlanDiff, Planner, PortChange};
use support::{cpu_time, median, one_endpoint, planned, resident_mib, show, slices, spent};

const SIZES: [&str; 3] = ["1000x10", "10000x10", "5000x50"];
const CHANGES: usize = 200;
/// The largest number of rules for which the program is measured too: it needs minutes for more.
const RULES_OF_PROGRAM: usize = 50_000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let sizes: Vec<&str> = args
        .iter()
        .map(String::as_str)
        .filter(|a| !a.starts_with('-'))
        .collect();
    if let [size] = sizes.as_slice() {
        let (services, endpoints) = size.split_once('x').expect("SERVICESxENDPOINTS");
        let number = |text: &str| text.parse().expect("a number");
        return measure(number(services), number(endpoints));
    }
    let sizes = if sizes.is_empty() {
        SIZES.to_vec()
    } else {
        sizes
    };
    for size in sizes {
        let this = std::env::current_exe().expect("this program's file");
        let child = Command::new(this).arg(size).status();
        assert!(child.expect("started again").success());
    }
}

/// The kernel's part of a measurement.
#[derive(Clone, Default)]
struct Spent(Rc<Cell<(Duration, Duration, usize)>>);

impl Spent {
    fn call<T>(&self, call: impl FnOnce() -> T) -> T {
        let (start, cpu) = (Instant::now(), cpu_time());
        let result = call();
        let (wall, time, calls) = self.0.get();
        let time = time + (cpu_time() - cpu);
        self.0.set((wall + start.elapsed(), time, calls + 1));
        result
    }

    /// Return wall-clock time, processor time and number of calls since the last call.
    fn take(&self) -> (Duration, Duration, usize) {
        self.0.take()
    }
}

/// Measures the calls that carry transactions.
struct Timed {
    live: Live,
    spent: Spent,
}

impl Kernel for Timed {
    type Error = TransactionError;

    fn read(&mut self, family: IpFamily) -> Result<Observation, TransactionError> {
        self.live.read(family)
    }

    fn commit(
        &mut self,
        batch: &mut [u8],
        guard: Guard,
    ) -> Result<Vec<(usize, u64)>, BatchFailure<TransactionError>> {
        self.spent.call(|| self.live.commit(batch, guard))
    }
}

struct Node {
    planner: Planner,
    sync: Sync,
    netlink: Netlink<Timed>,
    spent: Spent,
}

impl Node {
    fn start(planner: Planner) -> Self {
        let spent = Spent::default();
        let live = Live::open(IpFamily::V4);
        let timed = Timed {
            live,
            spent: spent.clone(),
        };
        let mut node = Self {
            planner,
            sync: Sync::new(IpFamily::V4, Options::default()),
            netlink: Netlink::new(IpFamily::V4, timed),
            spent,
        };
        node.resync();
        node
    }

    fn resync(&mut self) {
        let plan = self.planner.plan(IpFamily::V4);
        self.sync.resync(plan, &mut self.netlink).expect("a sync");
        self.netlink.kernel().live.0.end_observation();
    }

    /// Return the time of a change and of the kernel's part.
    fn change(&mut self, events: impl IntoIterator<Item = Event>) -> (Duration, Duration) {
        self.spent.take();
        let start = Instant::now();
        self.planner.apply_all(events);
        let diff: PlanDiff = self.planner.take_diff();
        let changed = &diff.family(IpFamily::V4).ports;
        let changed: BTreeSet<_> = changed.iter().filter_map(PortChange::key).collect();
        let plan = self.planner.plan(IpFamily::V4);
        self.sync
            .sync(plan, &changed, &mut self.netlink)
            .expect("a sync");
        (start.elapsed(), self.spent.take().0)
    }
}

fn row(what: &str, value: &str) {
    println!("{what:<58} {value}");
}

fn changes(what: &str, times: &[(Duration, Duration)]) {
    let at = |of: fn(&(Duration, Duration)) -> Duration| median(times.iter().map(of));
    let (all, kernel) = (at(|t| t.0), at(|t| t.1));
    let high = {
        let mut all: Vec<_> = times.iter().map(|t| t.0).collect();
        all.sort_unstable();
        all[all.len() * 99 / 100]
    };
    let ratio = all.as_secs_f64() / kernel.as_secs_f64();
    row(
        what,
        &format!(
            "{} / {} (kernel {}; {ratio:.2} times)",
            show(all),
            show(high),
            show(kernel)
        ),
    );
}

fn measure(services: usize, endpoints: usize) {
    println!("\n{services} x {endpoints}");
    let events = big_cluster(services, endpoints);
    let (planner, _, planning) = planned(&events);
    let name = format!("bench-ipt-{}", std::process::id());
    let namespace = NetNs::create(&name).expect("root");
    let entered = namespace.run(|| in_namespace(planner, planning, &events));
    NetNs::delete(&name).expect("the namespace exists");
    entered.expect("the namespace exists");
}

fn in_namespace(planner: Planner, planning: Duration, events: &[Event]) {
    let start = cpu_time();
    let wall = Instant::now();
    let mut node = Node::start(planner);
    let (all, wall) = (cpu_time() - start + planning, wall.elapsed() + planning);
    let (_, kernel, parts) = node.spent.take();
    let share = kernel.as_secs_f64() / all.as_secs_f64() * 100.0;
    row(
        "load, processor time (kernel's part, transactions)",
        &format!(
            "{} ({}, {share:.0} %, {parts}); {} on the clock",
            show(all),
            show(kernel),
            show(wall)
        ),
    );
    row(
        "resident, peak",
        &format!("{} MiB, {} MiB", resident_mib(), peak_mib()),
    );
    single_changes(&mut node, events);
    let planner = node.planner;
    let mut again = None;
    let [user, kernel] = spent(UsageWho::RUSAGE_THREAD, || {
        again = Some(Node::start(planner));
    });
    let mut again = again.expect("started");
    let (all, share) = (user + kernel, kernel.as_secs_f64() * 100.0);
    let share = share / all.as_secs_f64();
    assert_eq!(again.spent.take().2, 0, "nothing to write");
    row(
        "restart without changes, processor time (kernel's part)",
        &format!("{} ({}, {share:.0} %)", show(all), show(kernel)),
    );
    let start = cpu_time();
    again
        .netlink
        .kernel()
        .live
        .0
        .read(&ipt::TABLES, || (), |(), _| {})
        .expect("a listing");
    row("... of it the listing, decoded", &show(cpu_time() - start));
    let plan = again.planner.plan(IpFamily::V4);
    let rules = again
        .sync
        .counts()
        .map_or(0, |counts| counts.total.nat + counts.total.filter);
    row("rules", &rules.to_string());
    if rules > RULES_OF_PROGRAM {
        return;
    }
    let mut mode = Mode::new(IpFamily::V4, Options::default());
    mode.observe(Observation::nothing());
    let mut text = RestoreText::default();
    mode.transaction(plan, &BTreeSet::new(), &mut text)
        .expect("observed");
    drop(again);
    program(&text.finish());
}

fn single_changes(node: &mut Node, events: &[Event]) {
    let slices = slices(events);
    let replaced: Vec<_> = (0..CHANGES)
        .map(|round| {
            let event = one_endpoint(slices[round * 7 % slices.len()], round);
            node.change([event])
        })
        .collect();
    changes("one endpoint replaced, median / 99th percentile", &replaced);
    let all = support::services(events);
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    for round in 0..CHANGES / 2 {
        let service = all[round * 3 % all.len()];
        let gone = Event::Service(Change::Deleted(service.name.clone()));
        removed.push(node.change([gone]));
        added.push(node.change([service.clone().applied()]));
    }
    changes("one Service removed", &removed);
    changes("one Service added", &added);
    let many: Vec<Event> = (0..100)
        .map(|n| one_endpoint(slices[n * 11 % slices.len()], 1000 + n))
        .collect();
    changes("100 Services changed at once", &[node.change(many)]);
}

/// Load the rules with the program, into a namespace of its own.
fn program(text: &str) {
    let name = format!("bench-prg-{}", std::process::id());
    let namespace = NetNs::create(&name).expect("root");
    let start = Instant::now();
    let mut command = namespace
        .command("iptables-nft-restore")
        .expect("a namespace");
    let mut child = command
        .arg("--noflush")
        .stdin(Stdio::piped())
        .spawn()
        .expect("iptables");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(text.as_bytes()).expect("iptables reads");
    drop(input);
    let status = child.wait().expect("iptables ends");
    row(
        "iptables-nft-restore, the same rules, on the clock",
        &show(start.elapsed()),
    );
    NetNs::delete(&name).expect("the namespace exists");
    assert!(status.success());
}

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}
