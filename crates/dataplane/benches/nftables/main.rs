//! The cost of nftables mode on this machine's kernel, in separate network namespaces:
//! `cargo bench -p dataplane --bench nftables [ipv6] [SERVICES...]`.
//!
//! Single changes are made at all sizes alternately, so that other load on the machine affects all alike.

mod cluster;

use std::process::Command;
use std::time::Duration;

use model::IpFamily;

use cluster::{Cluster, Took};

const ENDPOINTS: usize = 10;
const CHANGES: usize = 1_000;
const REMOVED: usize = 5_000;
const RESTARTS: usize = 3;
/// The size that is also measured with IPv6.
const SIZE_V6: usize = 10_000;
/// Time for the kernel's hash tables to grow to the size that their elements need.
const SETTLING: Duration = Duration::from_secs(3);

fn show(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    match ms {
        ..1.0 => format!("{ms:.3} ms"),
        ..100.0 => format!("{ms:.1} ms"),
        ..1000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.2} s", ms / 1e3),
    }
}

/// Return a quantile of the times of one size.
fn at(times: &[Took], share: f64, of: impl Fn(&Took) -> Duration) -> Duration {
    let mut times: Vec<Duration> = times.iter().map(of).collect();
    times.sort_unstable();
    times[((times.len() - 1) as f64 * share).round() as usize]
}

fn row(what: &str, cells: impl IntoIterator<Item = String>) {
    let cells: Vec<String> = cells.into_iter().collect();
    println!("| {what} | {} |", cells.join(" | "));
}

/// Measure one kind of change, at all sizes alternately.
fn changes(clusters: &mut [Cluster], what: &str, change: fn(&mut Cluster, usize) -> Took) {
    let mut times: Vec<Vec<Took>> = vec![Vec::new(); clusters.len()];
    for round in 0..CHANGES {
        for (cluster, times) in clusters.iter_mut().zip(&mut times) {
            times.push(change(cluster, round));
        }
    }
    let ours = |took: &Took| took.all.saturating_sub(took.kernel);
    let median = |times: &Vec<Took>| at(times, 0.5, |t| t.all);
    let cells = times
        .iter()
        .map(|t| format!("{} / {}", show(median(t)), show(at(t, 0.99, |t| t.all))));
    row(&format!("{what}, median / 99th percentile"), cells);
    let cells = times
        .iter()
        .map(|t| format!("{} / {}", show(at(t, 0.5, ours)), show(at(t, 0.99, ours))));
    row("... of it ours", cells);
    let kernel = |took: &Took| took.kernel;
    let cells = times.iter().map(|t| {
        let (median, high) = (at(t, 0.5, kernel), at(t, 0.99, kernel));
        format!("{} / {}", show(median), show(high))
    });
    row("... of it the kernel's", cells);
    if let Some(first) = times.first().map(median) {
        let ratio = |t| median(t).as_secs_f64() / first.as_secs_f64();
        row(
            "... median by that of the first size",
            times.iter().map(|t| format!("{:.2}", ratio(t))),
        );
    }
}

fn table(family: IpFamily, sizes: &[usize]) {
    let mut clusters: Vec<Cluster> = sizes
        .iter()
        .map(|services| Cluster::load(family, *services, ENDPOINTS))
        .collect();
    let names = clusters
        .iter()
        .map(|c| format!("{} x {ENDPOINTS}", c.services));
    row(&format!("{family:?}"), names);
    row("---", clusters.iter().map(|_| "---".to_owned()));
    let cells = clusters
        .iter()
        .map(|c| format!("{} ({})", show(c.load.all), show(c.load.kernel)));
    row("load from empty (the kernel's part)", cells);
    row(
        "longest transaction of it",
        clusters.iter().map(|c| show(c.longest)),
    );
    let mib = |c: &Cluster| format!("{:.0} MiB", c.resident as f64 / 1024.0);
    row("resident", clusters.iter().map(mib));
    std::thread::sleep(SETTLING);
    changes(&mut clusters, "one endpoint replaced", Cluster::replace);
    changes(&mut clusters, "one endpoint less", Cluster::lessen);
    let restart = |c: &mut Cluster| (0..RESTARTS).map(|_| c.restart()).min().unwrap_or_default();
    row(
        "restart, read back, nothing to do (best of three)",
        clusters.iter_mut().map(|c| show(restart(c))),
    );
    let cells = clusters.iter_mut().map(|c| {
        let count = REMOVED.min(c.services / 2);
        let took = c.remove(count);
        format!("{count}: {} ({})", show(took.all), show(took.kernel))
    });
    row("Services removed at once (the kernel's part)", cells);
    println!();
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let asked: Vec<usize> = args.iter().filter_map(|a| a.parse().ok()).collect();
    let v6 = args.iter().any(|a| a == "ipv6");
    match (asked.is_empty(), v6) {
        (false, true) => table(IpFamily::V6, &asked),
        (false, false) => table(IpFamily::V4, &asked),
        (true, true) => table(IpFamily::V6, &[SIZE_V6]),
        (true, false) => {
            table(IpFamily::V4, &[1_000, 10_000, 100_000]);
            // In a process of its own: memory that IPv4 has freed would be reused, and the figure would be
            // too low.
            let this = std::env::current_exe().expect("this program's file");
            let child = Command::new(this).arg("ipv6").status();
            assert!(child.expect("started again").success());
        }
    }
}
