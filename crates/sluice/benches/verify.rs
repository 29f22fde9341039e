//! `sluice facts` and `sluice verify` beside a proxy with all objects, in a network namespace, and from
//! files: duration and largest resident size.
//!
//! `cargo bench -p sluice --bench verify`, followed by `--` and any of
//! - `1000x10`: 1,000 Services of 10 endpoints (default: 10000x10);
//! - `nftables`, `iptables`: only this mode.

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use apiserver_sim::synthetic_cluster;
use model::Mode;
use serde_json::{Value, json};
use support::{Host, Running, SLUICE, text};

/// Time limit for the first sync.
const PATIENCE: Duration = Duration::from_secs(300);
/// Interval between readings of the largest resident size.
const SAMPLE: Duration = Duration::from_millis(2);

const SETTINGS: [&str; 2] = ["--hostname-override=node-1", "--cluster-cidr=10.0.0.0/8"];

fn main() -> anyhow::Result<()> {
    // Skip the flags that cargo adds.
    let words = std::env::args().skip(1).filter(|w| !w.starts_with("--"));
    let words: Vec<String> = words.collect();
    let size = words.iter().find_map(|word| word.split_once('x'));
    let (services, endpoints) = match size {
        Some((services, endpoints)) => (services.parse()?, endpoints.parse()?),
        None => (10_000, 10),
    };
    let is_named = |mode: &Mode| words.iter().any(|word| word == mode.name());
    let modes = [Mode::Nftables, Mode::Iptables];
    let is_any = modes.iter().any(is_named);
    for mode in modes.iter().filter(|mode| !is_any || is_named(mode)) {
        measure(*mode, services, endpoints)?;
    }
    Ok(())
}

fn measure(mode: Mode, services: u32, endpoints: u32) -> anyhow::Result<()> {
    println!("{services} Services of {endpoints} endpoints, {mode}");
    let target = match mode {
        Mode::Nftables => "10 s, 300 MiB",
        _ => "30 s, 300 MiB",
    };
    let host = Host::new();
    let folder = tempfile::tempdir()?;
    let objects = folder.path().join("objects.json");
    let items: Vec<Value> = synthetic_cluster(services, endpoints)
        .map(manifest)
        .collect();
    let list = json!({"kind": "List", "apiVersion": "v1", "items": items});
    fs::write(&objects, list.to_string())?;
    // The node's own pods are in 10.16.0.0/12, those of other nodes behind the gateway.
    host.sh(
        "sysctl -qw net.ipv4.ip_forward=1; ip route add default via 10.200.1.1 dev eth0; \
         ip link add pods type veth peer name pod; ip link set pods up; ip link set pod up; \
         ip route add 10.16.0.0/12 dev pods",
    );
    let _proxy = proxy(&host, mode, &objects, services)?;

    let facts = folder.path().join("facts.json");
    row("sluice facts", &run(&host, &["facts"], &facts)?, "");
    let answer = folder.path().join("answer.json");
    let live = run(&host, &["verify", "-o", "json"], &answer)?;
    row("sluice verify beside the proxy", &live, target);
    is_complete(&answer, services)?;
    let mut words = vec!["verify", "-o", "json", "--node=node-1"];
    let paths = [&objects, &facts].map(|path| path.display().to_string());
    words.extend(["--manifests", &paths[0], "--facts", &paths[1]]);
    let config = folder.path().join("config.yaml");
    fs::write(&config, configuration(mode))?;
    let config = config.display().to_string();
    words.extend(["--config", &config]);
    row(
        "sluice verify from files",
        &run(&host, &words, &answer)?,
        target,
    );
    is_complete(&answer, services)
}

/// Add the version of the API, which the simulator's objects lack.
fn manifest(mut object: Value) -> Value {
    object["apiVersion"] = match object["kind"].as_str() {
        Some("EndpointSlice") => json!("discovery.k8s.io/v1"),
        Some("ServiceCIDR") => json!("networking.k8s.io/v1"),
        _ => json!("v1"),
    };
    object
}

/// The configuration that the proxy has through its flags.
fn configuration(mode: Mode) -> String {
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
         mode: {mode}\nclusterCIDR: 10.0.0.0/8\n"
    )
}

/// Start a proxy and wait until it has programmed all Services.
fn proxy(host: &Host, mode: Mode, objects: &Path, services: u32) -> anyhow::Result<Running> {
    let log = File::create(objects.with_extension("log"))?;
    let mut command = host.command(SLUICE);
    command.args(["proxy", "--iptables-backend=nft", "--manifests"]);
    command.arg(objects).arg(format!("--proxy-mode={mode}"));
    let process = Running(command.args(SETTINGS).stderr(log).spawn()?);
    let started = Instant::now();
    loop {
        let output = host.sluice(&["status", "-o", "json"]);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let family = &status["families"][0];
        if status["services"] == services && family["pending"] == 0 && !family["synced"].is_null() {
            return Ok(process);
        }
        ensure!(
            started.elapsed() < PATIENCE,
            "no sync: {}",
            text(&output.stdout)
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Check that an answer contains all Services and no problems.
fn is_complete(answer: &Path, services: u32) -> anyhow::Result<()> {
    let answer: Value = serde_json::from_str(&fs::read_to_string(answer)?)?;
    let (checked, problems) = (&answer["services"], &answer["problems"]);
    ensure!(
        *checked == services && *problems == json!([]),
        "{checked} Services checked, problems: {problems}"
    );
    Ok(())
}

/// The cost of a command.
struct Cost {
    took: Duration,
    /// Processor time of all threads.
    busy: Duration,
    /// The largest resident size, in KiB.
    peak: u64,
}

/// Run a command to its end, with its output in a file.
fn run(host: &Host, words: &[&str], output: &Path) -> anyhow::Result<Cost> {
    let started = Instant::now();
    let before = children_time()?;
    let mut command: Command = host.command(SLUICE);
    let command = command.args(words).stdout(File::create(output)?);
    let mut process = Running(command.spawn()?);
    let status = format!("/proc/{}/status", process.0.id());
    let mut peak = 0;
    let ended = loop {
        if let Some(ended) = process.0.try_wait()? {
            break ended;
        }
        // A high-water mark: only growth after the last reading is missed.
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let size = line.and_then(|line| line.split_whitespace().next());
        peak = size.and_then(|size| size.parse().ok()).unwrap_or(peak);
        std::thread::sleep(SAMPLE);
    };
    ensure!(
        ended.success(),
        "{words:?}: {ended}\n{}",
        fs::read_to_string(output)?
    );
    Ok(Cost {
        took: started.elapsed(),
        busy: children_time()? - before,
        peak,
    })
}

/// Return the processor time of all children that have ended (proc_pid_stat(5), `cutime` and `cstime`).
fn children_time() -> anyhow::Result<Duration> {
    let text = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = text.rsplit_once(") ").context("no stat")?;
    let fields = fields.split(' ').skip(13).take(2).map(str::parse::<u64>);
    let ticks: u64 = fields.sum::<Result<u64, _>>()?;
    // USER_HZ is 100.
    Ok(Duration::from_millis(ticks * 10))
}

fn row(what: &str, cost: &Cost, target: &str) {
    println!(
        "{what:<40} {:>7.2} s {:>7.2} s of processor time {:>6.0} MiB   {target}",
        cost.took.as_secs_f64(),
        cost.busy.as_secs_f64(),
        cost.peak as f64 / 1024.0
    );
}
