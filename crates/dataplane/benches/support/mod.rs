//! Shared by the benches of the modes: changes to a big cluster, and measurement.

#![allow(dead_code)] // Each bench uses its own part.

use std::net::IpAddr;
use std::time::Duration;

use model::{Change, EndpointSlice, Event, Service};
use nix::sys::resource::{UsageWho, getrusage};
use plan::testing::{Applied, big_cluster_settings};
use plan::{PlanDiff, Planner};

/// Plan all objects; return the plan and the time that it took.
pub(crate) fn planned(events: &[Event]) -> (Planner, PlanDiff, Duration) {
    let start = cpu_time();
    let mut planner = Planner::new(big_cluster_settings());
    planner.apply_all(events.iter().cloned());
    let diff = planner.take_diff();
    (planner, diff, cpu_time() - start)
}

pub(crate) fn slices(events: &[Event]) -> Vec<&EndpointSlice> {
    let slices = events.iter().filter_map(|event| match event {
        Event::EndpointSlice(Change::Applied(slice)) => Some(&**slice),
        _ => None,
    });
    slices.collect()
}

pub(crate) fn services(events: &[Event]) -> Vec<&Service> {
    let services = events.iter().filter_map(|event| match event {
        Event::Service(Change::Applied(service)) => Some(&**service),
        _ => None,
    });
    services.collect()
}

/// An EndpointSlice with one address changed.
pub(crate) fn one_endpoint(slice: &EndpointSlice, round: usize) -> Event {
    let mut slice = slice.clone();
    slice.endpoints[0].address = IpAddr::from([10, 1, (round >> 8) as u8, round as u8]);
    slice.applied()
}

pub(crate) fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// Return the processor time of this thread, which excludes other work on the machine.
pub(crate) fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanoseconds = text.split(' ').next().and_then(|n| n.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number"))
}

/// Return the processor time so far, in user mode and in the kernel.
fn used(who: UsageWho) -> [Duration; 2] {
    let usage = getrusage(who).expect("Linux");
    [usage.user_time(), usage.system_time()].map(|time| {
        Duration::from_secs(time.tv_sec() as u64) + Duration::from_micros(time.tv_usec() as u64)
    })
}

/// Return the processor time of the work, in user mode and in the kernel.
pub(crate) fn spent(who: UsageWho, work: impl FnOnce()) -> [Duration; 2] {
    let before = used(who);
    work();
    let after = used(who);
    [after[0] - before[0], after[1] - before[1]]
}

pub(crate) fn show(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    if ms < 1.0 {
        format!("{ms:.3} ms")
    } else {
        format!("{ms:.0} ms")
    }
}

pub(crate) fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}
