//! The cost of iptables mode in legacy tables on this machine's kernel, beside `iptables-legacy-restore` with the
//! same input: `cargo bench -p dataplane --bench iptables_legacy [SERVICESxENDPOINTS...]`.
//!
//! All figures are processor time, which excludes other work on the machine: of the program or of this thread, in
//! user mode and in the kernel.

#[path = "../tests/support/ipt.rs"]
mod ipt;
mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use dataplane::iptables::{Mode, Observation, Options, RestoreText};
use ipt::kernel_family;
use kernel::iptables::legacy::Legacy;
use kernel::netns::NetNs;
use model::IpFamily;
use nix::sys::resource::UsageWho;
use plan::testing::big_cluster;
use plan::{Planner, PortChange};
use support::{one_endpoint, planned, show, slices, spent};

const SIZES: [&str; 2] = ["1000x10", "10000x10"];
const CHANGES: usize = 10;

fn main() {
    let args = std::env::args().skip(1).filter(|arg| !arg.starts_with('-'));
    let mut sizes: Vec<String> = args.collect();
    if sizes.is_empty() {
        sizes = SIZES.map(str::to_owned).into();
    }
    for size in sizes {
        let (services, endpoints) = size.split_once('x').expect("SERVICESxENDPOINTS");
        let number = |text: &str| text.parse().expect("a number");
        measure(number(services), number(endpoints));
    }
}

/// Processor time in user mode and in the kernel.
type Times = [Duration; 2];

/// The two writers, each with tables of its own.
struct Writers {
    own: NetNs,
    program: NetNs,
}

impl Writers {
    /// Apply the same text with both. Return the times of sluice and of the program.
    fn apply(&self, text: &str) -> [Times; 2] {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        let own = self.own.run(|| {
            let legacy = Legacy::open(kernel_family(IpFamily::V4)).expect("legacy tables");
            spent(UsageWho::RUSAGE_THREAD, || {
                legacy.restore(text).expect("accepted");
            })
        });
        let program = spent(UsageWho::RUSAGE_CHILDREN, || {
            let command = self.program.command("iptables-legacy-restore");
            let mut command = command.expect("a namespace");
            let input = std::fs::File::open(file.path()).expect("the file");
            let status = command.arg("--noflush").stdin(input).status();
            assert!(status.expect("iptables").success());
        });
        [own.expect("the namespace exists"), program]
    }
}

fn measure(services: usize, endpoints: usize) {
    println!("\n{services} x {endpoints}: user mode + kernel");
    let events = big_cluster(services, endpoints);
    let (mut planner, ..) = planned(&events);
    let names = ["own", "prg"].map(|name| format!("bench-leg-{name}-{}", std::process::id()));
    let [own, program] = names
        .each_ref()
        .map(|name| NetNs::create(name).expect("root"));
    let writers = Writers { own, program };
    let mut mode = Mode::new(IpFamily::V4, Options::default());
    mode.observe(Observation::nothing());
    print("load", &[writers.apply(&write(&mut mode, &planner))]);
    let slices = slices(&events);
    let changes: Vec<_> = (0..CHANGES)
        .map(|round| {
            planner.apply_all([one_endpoint(slices[round * 7 % slices.len()], round)]);
            let ports = planner.take_diff().v4.ports;
            mode.mark_changed(ports.iter().filter_map(PortChange::key));
            writers.apply(&write(&mut mode, &planner))
        })
        .collect();
    print("one endpoint replaced, median", &changes);
    for name in &names {
        NetNs::delete(name).expect("the namespace exists");
    }
}

fn write(mode: &mut Mode, planner: &Planner) -> String {
    let plan = planner.plan(IpFamily::V4);
    let mut text = RestoreText::default();
    let transaction = mode.transaction(plan, &BTreeSet::new(), &mut text);
    mode.committed(plan, transaction.expect("observed"), &[]);
    text.finish()
}

fn print(what: &str, all: &[[Times; 2]]) {
    for (writer, name) in ["sluice", "iptables-legacy-restore"].iter().enumerate() {
        let mut sorted: Vec<Times> = all.iter().map(|both| both[writer]).collect();
        sorted.sort_unstable_by_key(|[user, kernel]| *user + *kernel);
        let [user, kernel] = sorted[sorted.len() / 2];
        println!("{what:<32} {name:<26} {} + {}", show(user), show(kernel));
    }
}
