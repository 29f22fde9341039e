//! The whole program against an API server, in a network namespace: from start to
//! the first complete sync, from a watch event to the kernel's commit, processor time for a change,
//! resident memory, the answers of its socket, and a soak.
//!
//! `cargo bench -p sluice --bench apiserver`, followed by `--` and any of
//! - `1000x10`: 1,000 Services of 10 endpoints; may be repeated (default: 1000x10 and 10000x10, for
//!   which a change must have the same cost);
//! - `iptables`: iptables mode over nf_tables instead of nftables mode, and only the default configuration;
//! - `quick`: 500 Services and few changes, as a check of the bench itself;
//! - `soak`: 100,000 further endpoint changes (1,000 with `quick`), with the memory before and after.
//!
//! The environment variable `KUBE_PROXY` names a kube-proxy whose rows are printed too.
//!
//! The simulated server runs on the same processors, in the process of the bench. The bench reads the
//! table back to check that it is complete.

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use apiserver_sim::{Config, Sim, slice_of, synthetic_cluster};
use kernel::nfnetlink::{GenerationInfo, Monitor, NfTables, Notice, TableId};
use netfilter::nft::Family;
use serde_json::json;
use support::{Host, Running, SLUICE};

/// Time limit for every step.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time without a commit after which a sync is complete.
const QUIET: Duration = Duration::from_millis(1500);

/// The measurements and their counts.
struct Sizes {
    services: u32,
    endpoints: u32,
    starts: usize,
    /// Changes one after the other, with a minimal minSyncPeriod.
    changes: u32,
    /// Changes with the default minSyncPeriod, two per second.
    paced_changes: u32,
    /// Changes with the default minSyncPeriod, each after five seconds without any.
    idle_changes: u32,
    /// Changes at a constant rate, with the default minSyncPeriod.
    stream: u32,
    soak: u32,
    /// The value of `--proxy-mode`.
    mode: &'static str,
}

impl Sizes {
    fn of(services: u32, endpoints: u32) -> Self {
        Self {
            services,
            endpoints,
            starts: 3,
            changes: 300,
            paced_changes: 100,
            idle_changes: 15,
            stream: 1000,
            soak: 0,
            mode: "nftables",
        }
    }

    fn from_arguments() -> anyhow::Result<Vec<Self>> {
        let words: Vec<String> = std::env::args().skip(1).collect();
        let has = |word: &str| words.iter().any(|w| w == word);
        let mut all = Vec::new();
        for word in &words {
            // Skip the flags that cargo adds.
            if word.starts_with("--") || ["quick", "soak", "iptables"].contains(&&**word) {
                continue;
            }
            let (services, endpoints) = word
                .split_once('x')
                .with_context(|| format!("{word:?} is no size, such as 10000x10"))?;
            all.push(Self::of(services.parse()?, endpoints.parse()?));
        }
        if has("quick") {
            all = vec![Self {
                starts: 1,
                changes: 30,
                paced_changes: 3,
                idle_changes: 2,
                stream: 100,
                ..Self::of(500, 10)
            }];
        } else if all.is_empty() {
            all = vec![Self::of(1_000, 10), Self::of(10_000, 10)];
        }
        if has("iptables") {
            all.iter_mut().for_each(|sizes| sizes.mode = "iptables");
        }
        if let Some(last) = all.last_mut().filter(|_| has("soak")) {
            last.soak = if has("quick") { 1_000 } else { 100_000 };
        }
        Ok(all)
    }
}

fn main() -> anyhow::Result<()> {
    Sizes::from_arguments()?.iter().try_for_each(measure)
}

fn measure(sizes: &Sizes) -> anyhow::Result<()> {
    let host = Host::new();
    let bench = Bench::new(&host, sizes)?;
    println!(
        "{} Services of {} endpoints, {}",
        sizes.services, sizes.endpoints, sizes.mode
    );
    if sizes.mode == "nftables" {
        without_limit(&host, &bench)?;
    }
    let done = sizes.changes + sizes.soak;
    default_configuration(&host, &bench, &Program::Sluice(&[]), done)?;
    if let Some(path) = std::env::var_os(KUBE_PROXY) {
        let path = PathBuf::from(path);
        default_configuration(&host, &bench, &Program::KubeProxy(&path), done)?;
    }
    Ok(())
}

/// Measure starts, and changes that no limit delays.
fn without_limit(host: &Host, bench: &Bench<'_>) -> anyhow::Result<()> {
    let sizes = bench.sizes;
    let proxy = starts(host, bench)?;
    let before = processor_time(&proxy)?;
    let mut times = host.run(|| bench.changes(0, sizes.changes, Duration::ZERO))?;
    let busy = all(&processor_time(&proxy)?) - all(&before);
    let median = quantile(&mut times, 0.5);
    row(
        "event to commit, 1 ms minSyncPeriod, median",
        &ms(median),
        "10 ms",
    );
    row(
        "event to commit, 1 ms minSyncPeriod, p99",
        &ms(quantile(&mut times, 0.99)),
        "",
    );
    row(
        "processor time for one change, all threads",
        &ms(busy / sizes.changes),
        "",
    );
    if sizes.soak > 0 {
        soak(host, bench, &proxy)?;
    }
    Ok(())
}

/// Measure changes in the default configuration: single ones, a constant rate for many Services, and a
/// rollout of one. `done` continues the numbering, since a repeated change would have no effect.
fn default_configuration(
    host: &Host,
    bench: &Bench<'_>,
    program: &Program<'_>,
    mut done: u32,
) -> anyhow::Result<()> {
    let sizes = bench.sizes;
    host.sh("nft flush ruleset");
    let (proxy, started) = host.run(|| bench.start(program))?;
    println!("default configuration, {program}: event to commit");
    row("  start to first complete sync", &ms(started), "");
    let second = Duration::from_secs(1);
    for (name, count, per_second, one) in [
        ("single changes", sizes.paced_changes, 2, false),
        ("100 changes/s", sizes.stream, 100, false),
        ("rollout, 30 changes/s", sizes.stream, 30, true),
    ] {
        let before = all(&processor_time(&proxy)?) + children_time(&proxy)?;
        let started = Instant::now();
        let every = second / per_second;
        let mut times = host.run(|| bench.stream(done, count, every, one))?;
        done += count;
        let used = all(&processor_time(&proxy)?) + children_time(&proxy)? - before;
        let share = 100.0 * used.as_secs_f64() / started.elapsed().as_secs_f64();
        for (label, q, target) in [("median", 0.5, "20 ms"), ("p99", 0.99, "50 ms")] {
            let value = ms(quantile(&mut times, q));
            row(&format!("  {name}, {label}"), &value, target);
        }
        row("    share of one core", &format!("{share:.1} %"), "");
    }
    row("  most resident", &mib(peak(&proxy)?), "");
    let idle = Duration::from_secs(5);
    let mut times = host.run(|| bench.changes(done, sizes.idle_changes, idle))?;
    for (label, q) in [("median", 0.5), ("p99", 0.99)] {
        let label = format!("  first change after 5 s of idling, {label}");
        row(&label, &ms(quantile(&mut times, q)), "");
    }
    match program {
        Program::Sluice(_) if sizes.mode == "nftables" => answers(host, &proxy),
        Program::Sluice(_) | Program::KubeProxy(_) => Ok(()),
    }
}

/// Start the program a few times; return the last process, still running.
fn starts(host: &Host, bench: &Bench<'_>) -> anyhow::Result<Running> {
    let mut starts = Vec::new();
    let mut last = None;
    for _ in 0..bench.sizes.starts {
        drop(last.take());
        host.sh("nft delete table ip kube-proxy 2>/dev/null; true");
        let (process, took) =
            host.run(|| bench.start(&Program::Sluice(&["--iptables-min-sync-period=1ms"])))?;
        starts.push(took);
        last = Some(process);
    }
    let proxy = last.context("nothing to measure")?;
    row(
        "start to first complete sync, median",
        &ms(quantile(&mut starts, 0.5)),
        "2 s",
    );
    for (thread, time) in processor_time(&proxy)? {
        if time > Duration::from_millis(1) {
            row(
                &format!("  processor time of thread {thread}"),
                &ms(time),
                "",
            );
        }
    }
    row("resident after the sync", &mib(resident(&proxy)?), "80 MiB");
    row("most resident until then", &mib(peak(&proxy)?), "");
    Ok(proxy)
}

/// Measure the answers of the proxy's socket.
fn answers(host: &Host, proxy: &Running) -> anyhow::Result<()> {
    let before = peak(proxy)?;
    for words in [
        &["status", "-o", "json"][..],
        &["status", "--objects"],
        &["status", "--plan"],
        &["explain", "ns-0/svc-0"],
    ] {
        let started = Instant::now();
        let output = host.sluice(words);
        let took = started.elapsed();
        ensure!(
            output.status.code() != Some(2),
            "{words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let kib = output.stdout.len() as u64 / 1024;
        row(&format!("sluice {}", words.join(" ")), &ms(took), "");
        row("  size of the answer", &mib(kib), "");
    }
    row("  most resident before", &mib(before), "");
    row("  most resident after", &mib(peak(proxy)?), "");
    Ok(())
}

/// Check that changes do not make the memory grow.
fn soak(host: &Host, bench: &Bench<'_>, proxy: &Running) -> anyhow::Result<()> {
    let Sizes { changes, soak, .. } = *bench.sizes;
    row("resident before the soak", &mib(resident(proxy)?), "");
    for (from, to, what) in [(0, soak / 2, "half of the"), (soak / 2, soak, "all")] {
        host.run(|| bench.soak(changes + from, to - from))?;
        row(
            &format!("resident after {what} {soak} changes"),
            &mib(resident(proxy)?),
            "as before",
        );
    }
    Ok(())
}

/// Names a kube-proxy to compare with.
const KUBE_PROXY: &str = "KUBE_PROXY";

/// The measured program.
enum Program<'a> {
    /// With these flags.
    Sluice(&'a [&'a str]),
    KubeProxy(&'a Path),
}

impl fmt::Display for Program<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Program::Sluice(_) => f.write_str("sluice"),
            Program::KubeProxy(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A server with the objects, and the kubeconfig for the program.
struct Bench<'a> {
    host: &'a Host,
    sizes: &'a Sizes,
    sim: Sim,
    folder: tempfile::TempDir,
    kubeconfig: PathBuf,
}

impl<'a> Bench<'a> {
    fn new(host: &'a Host, sizes: &'a Sizes) -> anyhow::Result<Self> {
        // Its sockets must be in the namespace.
        let sim = host.run(|| Sim::start(Config::default()))?;
        sim.apply(synthetic_cluster(sizes.services, sizes.endpoints));
        let folder = tempfile::tempdir()?;
        let kubeconfig = sim.write_kubeconfig(folder.path(), "{token: abc}")?;
        Ok(Self {
            host,
            sizes,
            sim,
            folder,
            kubeconfig,
        })
    }

    /// Start a program; return the time until the table was complete. To be called in the namespace.
    fn start(&self, program: &Program<'_>) -> anyhow::Result<(Running, Duration)> {
        let mut nft = NfTables::open()?;
        let before = nft.generation()?.generation;
        let log = fs::File::create(self.folder.path().join("log"))?;
        let started = Instant::now();
        let mut command = match program {
            Program::Sluice(flags) => {
                let mut command = self.host.command(SLUICE);
                command.arg("proxy").args(*flags);
                command
            }
            Program::KubeProxy(path) => {
                let mut command = self.host.command(&path.to_string_lossy());
                // The limit can only be set outside the namespace, and kube-proxy ends if it cannot.
                command.args(["--conntrack-max-per-core=0", "--conntrack-min=0"]);
                command
            }
        };
        let process = command
            .arg(format!("--proxy-mode={}", self.sizes.mode))
            .arg("--hostname-override=node-1")
            .arg("--cluster-cidr=10.0.0.0/8")
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .stderr(Stdio::from(log))
            .spawn()?;
        let process = Running(process);
        // Poll instead of listening: notifications about every element would slow the commit down.
        let (mut last, mut changed) = (before, None);
        while changed.is_none_or(|at: Instant| at.elapsed() < QUIET) {
            let now = nft.generation()?.generation;
            if now != last {
                (last, changed) = (now, Some(Instant::now()));
            }
            ensure!(started.elapsed() < PATIENCE, "no sync\n{}", self.log());
            std::thread::sleep(Duration::from_millis(1));
        }
        let complete = changed.map_or(PATIENCE, |at| at - started);
        if matches!(program, Program::KubeProxy(_)) || self.sizes.mode != "nftables" {
            return Ok((process, complete));
        }
        let (services, endpoints) = self.elements(&mut nft)?;
        let (wanted, each) = (self.sizes.services as usize, self.sizes.endpoints as usize);
        ensure!(
            services >= wanted && endpoints >= wanted * each,
            "{services} services and {endpoints} endpoints in the table\n{}",
            self.log()
        );
        Ok((process, complete))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Return the number of elements in the sets of frontends, and in all others together.
    fn elements(&self, nft: &mut NfTables) -> anyhow::Result<(usize, usize)> {
        let (read, _) = nft.read_table(&TableId::new(Family::Ip, "kube-proxy"))?;
        let contents = read.context("there is no table")?.contents;
        let count = |of: bool| {
            let sets = contents
                .sets
                .iter()
                .filter(|(n, _)| ["cluster-ip-ports", "service-ips"].contains(&n.as_str()) == of);
            sets.map(|(_, set)| set.elements.len()).sum::<usize>()
        };
        Ok((count(true), count(false)))
    }

    /// Change one endpoint of one slice after the other, starting with change number `first`. Return for
    /// each the time until the kernel reported the commit. To be called in the namespace.
    fn changes(&self, first: u32, count: u32, quiet: Duration) -> anyhow::Result<Vec<Duration>> {
        let mut monitor = Monitor::open()?;
        let mut times = Vec::new();
        for n in first..first + count {
            std::thread::sleep(quiet + Duration::from_millis(5));
            while monitor.receive()?.is_some() {}
            let slice = self.changed(n);
            let applied = Instant::now();
            self.sim.apply([slice]);
            wait_for_commit(&mut monitor).with_context(|| self.log())?;
            times.push(applied.elapsed());
        }
        Ok(times)
    }

    /// Change an endpoint every `every`, of one Service or of different ones. Return for each change the
    /// time until the commit that contains it. To be called in the namespace.
    fn stream(
        &self,
        first: u32,
        count: u32,
        every: Duration,
        one_service: bool,
    ) -> anyhow::Result<Vec<Duration>> {
        let mut monitor = Monitor::open()?;
        let (mut waiting, mut seen) = (HashMap::new(), Vec::new());
        let (mut times, start) = (Vec::new(), Instant::now());
        let mut next = 0;
        while next < count || !waiting.is_empty() {
            ensure!(
                start.elapsed() < PATIENCE,
                "changes are missing\n{}",
                self.log()
            );
            if next < count && start.elapsed() >= every * next {
                let slice = self.changed_slice(first + next, one_service);
                waiting.insert(new_address(first + next), Instant::now());
                self.sim.apply([slice]);
                next += 1;
            }
            monitor.wait(Duration::from_millis(1))?;
            while let Some(notice) = monitor.receive()? {
                let Notice::Changes(messages) = notice else {
                    bail!("notifications were lost");
                };
                for message in messages {
                    let message = message?;
                    if GenerationInfo::read(&message)?.is_some() {
                        let now = Instant::now();
                        let committed = seen.drain(..).filter_map(|a| waiting.remove(&a));
                        let committed: Vec<Instant> = committed.collect();
                        times.extend(committed.iter().map(|at| now - *at));
                        // A later change of the same slice contains the earlier ones.
                        if let Some(last) = committed.iter().max().filter(|_| one_service) {
                            let before = waiting.extract_if(|_, at| *at < *last);
                            times.extend(before.map(|(_, at)| now - at));
                        }
                        continue;
                    }
                    let windows = message.payload.windows(4);
                    let addresses = windows.filter_map(|w| <[u8; 4]>::try_from(w).ok());
                    seen.extend(addresses.filter(|a| waiting.contains_key(a)));
                }
            }
        }
        Ok(times)
    }

    /// Return a slice with one changed endpoint, whose address no other slice has.
    fn changed(&self, n: u32) -> serde_json::Value {
        self.changed_slice(n, false)
    }

    /// Return a slice with one changed endpoint: always of the same Service, or of a different one each
    /// time.
    fn changed_slice(&self, n: u32, one_service: bool) -> serde_json::Value {
        let number = if one_service {
            0
        } else {
            n.wrapping_mul(7919) % self.sizes.services
        };
        let mut slice = slice_of(number, self.sizes.endpoints, 0);
        let address = std::net::Ipv4Addr::from(new_address(n)).to_string();
        slice["endpoints"][0]["addresses"][0] = json!(address);
        slice
    }

    /// Make many changes and wait for the last one. To be called in the namespace.
    fn soak(&self, first: u32, changes: u32) -> anyhow::Result<()> {
        const AT_ONCE: u32 = 100;
        for n in first..first + changes {
            self.sim.apply([self.changed(n)]);
            if n % AT_ONCE == 0 {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        let last = self.changed(first + changes - 1);
        let address = last["endpoints"][0]["addresses"][0].as_str();
        let address = address.context("an endpoint without an address")?;
        let deadline = Instant::now() + PATIENCE;
        let look = format!("nft list table ip kube-proxy | grep -c -F '{address} ' || true");
        while self.host.sh(&look).trim() == "0" {
            ensure!(
                Instant::now() < deadline,
                "{address} never came\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
        std::thread::sleep(QUIET);
        Ok(())
    }
}

/// Return the address of the endpoint that change number `n` adds.
fn new_address(n: u32) -> [u8; 4] {
    [10, 240, (n >> 8) as u8, n as u8]
}

/// Wait for a commit.
fn wait_for_commit(monitor: &mut Monitor) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if !monitor.wait(Duration::from_secs(1))? {
            continue;
        }
        while let Some(notice) = monitor.receive()? {
            let Notice::Changes(messages) = notice else {
                bail!("notifications were lost");
            };
            for message in messages {
                if GenerationInfo::read(&message?)?.is_some() {
                    return Ok(());
                }
            }
        }
    }
    bail!("a change never came to the kernel")
}

fn quantile(times: &mut [Duration], q: f64) -> Duration {
    times.sort_unstable();
    let at = (times.len() as f64 * q) as usize;
    times[at.min(times.len() - 1)]
}

/// `VmRSS`, in KiB.
fn resident(process: &Running) -> anyhow::Result<u64> {
    status(process, "VmRSS:")
}

/// `VmHWM`, in KiB.
fn peak(process: &Running) -> anyhow::Result<u64> {
    status(process, "VmHWM:")
}

fn all(times: &BTreeMap<String, Duration>) -> Duration {
    times.values().sum()
}

/// Return the processor time of each thread, including the kernel's work for it.
fn processor_time(process: &Running) -> anyhow::Result<BTreeMap<String, Duration>> {
    let mut times = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{}/task", process.0.id()))? {
        let folder = task?.path();
        let name = fs::read_to_string(folder.join("comm"))?.trim().to_owned();
        let stat = fs::read_to_string(folder.join("schedstat"))?;
        let nanoseconds = stat.split(' ').next().unwrap_or_default().parse()?;
        *times.entry(name).or_insert(Duration::ZERO) += Duration::from_nanos(nanoseconds);
    }
    Ok(times)
}

/// Return the processor time of the process's children that have ended, such as `nft`
/// (proc_pid_stat(5), `cutime` and `cstime`).
fn children_time(process: &Running) -> anyhow::Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{}/stat", process.0.id()))?;
    let (_, fields) = text.rsplit_once(") ").context("no stat")?;
    let fields = fields.split(' ').skip(13).take(2).map(str::parse::<u64>);
    let ticks: u64 = fields.sum::<Result<u64, _>>()?;
    // USER_HZ is 100.
    Ok(Duration::from_millis(ticks * 10))
}

fn status(process: &Running, name: &str) -> anyhow::Result<u64> {
    let path = Path::new("/proc")
        .join(process.0.id().to_string())
        .join("status");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("no such line in the status")?.parse()?)
}

fn row(what: &str, value: &str, aim: &str) {
    println!("{what:<54} {value:>12} {aim:>10}");
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn mib(kib: u64) -> String {
    format!("{:.1} MiB", kib as f64 / 1024.0)
}
