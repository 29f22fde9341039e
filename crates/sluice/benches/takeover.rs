//! kube-proxy and sluice replace each other on one node under load, in a network namespace, with one API
//! server.
//!
//! `KUBE_PROXY=path cargo bench -p sluice --bench takeover`, followed by `--` and any of
//! - `iptables-nft`, `iptables-legacy`, `nftables`: only these modes (default: all three);
//! - `quick`: one round.
//!
//! The load: new connections and flows, and connections and flows that last for a whole case, through
//! cluster IPs and NodePorts, in both families. The bench prints what failed, and compares the rules before
//! and after.

#[path = "../../dataplane/tests/support/objects.rs"]
mod objects;
#[path = "../tests/support/mod.rs"]
mod support;
#[path = "../../dataplane/tests/support/traffic.rs"]
mod traffic;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use apiserver_sim::{Config, Sim};
use kernel::nfnetlink::NfTables;
use netfilter::iptables::Family;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::{CLUSTER_CIDR, Host, Running, SLUICE, comparable};
use traffic::{Load, Stage};

/// Time limit for every step.
const PATIENCE: Duration = Duration::from_secs(120);
/// Requests between two steps.
const REQUESTS: u64 = 400;
/// Time without a sync after which the rules are complete.
const SETTLED: Duration = Duration::from_secs(3);
/// Services beside those of the recorded cluster.
const OTHERS: usize = 100;
/// How long both programs run at the same time, with changes and without. Longer than kube-proxy's
/// `syncPeriod`.
const TOGETHER: Duration = Duration::from_secs(35);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rules {
    IptablesNft,
    IptablesLegacy,
    Nftables,
}

impl Rules {
    const ALL: [Self; 3] = [Self::IptablesNft, Self::IptablesLegacy, Self::Nftables];

    fn name(self) -> &'static str {
        match self {
            Self::IptablesNft => "iptables-nft",
            Self::IptablesLegacy => "iptables-legacy",
            Self::Nftables => "nftables",
        }
    }

    fn mode(self) -> &'static str {
        match self {
            Self::IptablesNft | Self::IptablesLegacy => "iptables",
            Self::Nftables => "nftables",
        }
    }

    fn backend(self) -> &'static str {
        match self {
            Self::IptablesLegacy => "legacy",
            Self::IptablesNft | Self::Nftables => "nft",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    KubeProxy,
    Sluice,
}

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let kube_proxy = std::env::var_os("KUBE_PROXY").context("KUBE_PROXY names no program")?;
    let rounds = if words.iter().any(|w| w == "quick") {
        1
    } else {
        4
    };
    let named = |rules: &Rules| words.iter().any(|w| w == rules.name());
    let all = Rules::ALL.into_iter();
    let chosen: Vec<Rules> = all.clone().filter(named).collect();
    let chosen = if chosen.is_empty() {
        all.collect()
    } else {
        chosen
    };
    for rules in chosen {
        Node::new(rules, kube_proxy.clone().into())?.run(rounds)?;
    }
    Ok(())
}

/// A node with an API server.
struct Node {
    rules: Rules,
    kube_proxy: PathBuf,
    host: Host,
    sim: Sim,
    folder: tempfile::TempDir,
    kubeconfig: PathBuf,
    version: usize,
}

impl Node {
    fn new(rules: Rules, kube_proxy: PathBuf) -> anyhow::Result<Self> {
        let host = Host::new();
        let sim = host.run(|| Sim::start(Config::default()))?;
        let recorded: Value = serde_json::from_slice(&fs::read(observed::path("objects.json"))?)?;
        let items = recorded["items"].as_array().context("a List")?;
        sim.apply(items.iter().cloned());
        let folder = tempfile::tempdir()?;
        let kubeconfig = sim.write_kubeconfig(folder.path(), "{token: abc}")?;
        // kube-proxy runs what it finds under these names.
        for family in ["iptables", "ip6tables"] {
            for suffix in ["", "-save", "-restore"] {
                let program = format!("/usr/sbin/{family}-{}{suffix}", rules.backend());
                symlink(program, folder.path().join(format!("{family}{suffix}")))?;
            }
        }
        let mut node = Self {
            rules,
            kube_proxy,
            host,
            sim,
            folder,
            kubeconfig,
            version: 0,
        };
        node.change();
        Ok(node)
    }

    /// Change the endpoints of every other Service.
    fn change(&mut self) {
        self.version += 1;
        for number in 0..OTHERS {
            let text = objects::other(number, 1 + (number + self.version) % 3);
            for document in text.split("---\n").filter(|d| !d.is_empty()) {
                let mut object: Value = serde_saphyr::from_str(document).expect("an object");
                set_defaults(&mut object);
                self.sim.apply([object]);
            }
        }
    }

    fn log_of(&self, program: Program) -> PathBuf {
        self.folder.path().join(format!("{program:?}.log"))
    }

    /// Start a program, and wait until it has written its rules.
    fn start(&self, program: Program) -> anyhow::Result<Running> {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_of(program))?;
        let mut command = match program {
            Program::KubeProxy => {
                let mut command = self.host.command(&self.kube_proxy.to_string_lossy());
                let path = std::env::var("PATH")?;
                command.env("PATH", format!("{}:{path}", self.folder.path().display()));
                // The limit can only be set outside the namespace, and kube-proxy ends if it cannot.
                command.args(["--conntrack-max-per-core=0", "--conntrack-min=0", "-v=2"]);
                command
            }
            Program::Sluice => {
                let mut command = self.host.command(SLUICE);
                command.arg("proxy");
                command.arg(format!("--iptables-backend={}", self.rules.backend()));
                command
            }
        };
        let before = self.synced(program)?;
        let process = command
            .args(["--hostname-override=node1", "--nodeport-addresses=primary"])
            .arg(format!("--proxy-mode={}", self.rules.mode()))
            .arg(format!("--cluster-cidr={CLUSTER_CIDR}"))
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .stderr(Stdio::from(log))
            .spawn()?;
        let process = Running(process);
        let started = Instant::now();
        // Both families, and no further sync for longer than the usual pause between two.
        let (mut last, mut since) = (before, Instant::now());
        while last < before + 2 || since.elapsed() < SETTLED {
            let now = self.synced(program)?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
            ensure!(
                started.elapsed() < PATIENCE,
                "{program:?} did not start within {PATIENCE:?}\n{}",
                fs::read_to_string(self.log_of(program))?
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(process)
    }

    /// Return the number of syncs in the log: the first of a family, with kube-proxy all of them.
    fn synced(&self, program: Program) -> anyhow::Result<usize> {
        let log = fs::read_to_string(self.log_of(program)).unwrap_or_default();
        let word = match program {
            Program::KubeProxy => "SyncProxyRules complete",
            Program::Sluice => "Adopted the kernel state",
        };
        Ok(log.lines().filter(|line| line.contains(word)).count())
    }

    /// Return the rules, in an order that does not depend on the order of Services.
    fn saved(&self) -> Vec<String> {
        if self.rules == Rules::Nftables {
            return Vec::new();
        }
        let families = [(Family::Ipv4, "iptables"), (Family::Ipv6, "ip6tables")];
        let saved = families.map(|(family, tool)| {
            let save = format!("{tool}-{}-save", self.rules.backend());
            comparable(&self.host.rules(&save, family))
        });
        saved.concat()
    }

    fn generation(&self) -> anyhow::Result<u32> {
        self.host
            .run(|| Ok(NfTables::open()?.generation()?.generation.0))
    }

    fn run(mut self, rounds: usize) -> anyhow::Result<()> {
        println!("{}, {OTHERS} further Services", self.rules.name());
        let stage = Stage::around(self.host.netns());
        let mut kube_proxy = self.start(Program::KubeProxy)?;
        let original = self.saved();
        let load = stage.load();
        load.wait_for_all();
        for round in 0..rounds {
            let sluice = self.replace(kube_proxy, Program::Sluice, round, &load)?;
            self.report(&original, &load, "sluice");
            kube_proxy = self.replace(sluice, Program::KubeProxy, round, &load)?;
            self.report(&original, &load, "kube-proxy");
        }
        let sluice = self.start(Program::Sluice)?;
        self.together(&load)?;
        self.restore(&original);
        self.report(&original, &load, "both");
        stop(kube_proxy, Signal::SIGTERM);
        load.wait(REQUESTS);
        self.report(&original, &load, "sluice");
        stop(sluice, Signal::SIGTERM);
        let seen = load.finish(&stage);
        let requests: u64 = seen.asked.values().sum();
        println!(
            "  {requests} requests, {} failed, {} SYNs repeated",
            seen.failures.len(),
            seen.retransmitted
        );
        for failure in seen.failures.iter().take(10) {
            println!("    {}", failure.what);
        }
        Ok(())
    }

    /// Start the next program beside the running one, or after it has been killed.
    fn replace(
        &self,
        running: Running,
        next: Program,
        round: usize,
        load: &Load,
    ) -> anyhow::Result<Running> {
        let next = if round.is_multiple_of(2) {
            let next = self.start(next)?;
            load.wait(REQUESTS);
            stop(running, Signal::SIGTERM);
            next
        } else {
            stop(running, Signal::SIGKILL);
            self.start(next)?
        };
        load.wait(REQUESTS);
        Ok(next)
    }

    fn report(&self, original: &[String], load: &Load, after: &str) {
        let now = self.saved();
        let failed = if load.failed() {
            ", failures so far"
        } else {
            ""
        };
        if self.rules == Rules::Nftables {
            return;
        }
        if now == *original {
            println!("  {after}: rules unchanged ({}){failed}", now.len());
            return;
        }
        println!("  {after}: rules differ{failed}");
        for (sign, of, without) in [('+', &now[..], original), ('-', original, &now[..])] {
            for line in of.iter().filter(|l| !without.contains(l)).take(5) {
                println!("    {sign} {}", line.trim_end());
            }
        }
    }

    /// Restore the objects of the beginning, and wait for their rules.
    fn restore(&mut self, original: &[String]) {
        self.version = 0;
        self.change();
        let started = Instant::now();
        while self.saved() != *original && started.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Let both programs follow changes.
    fn together(&mut self, load: &Load) -> anyhow::Result<()> {
        let reports = |node: &Self| {
            let log = fs::read_to_string(node.log_of(Program::Sluice)).unwrap_or_default();
            let lines = log.lines();
            lines
                .filter(|l| l.contains("Another program changed"))
                .count()
        };
        let (generation, before) = (self.generation()?, reports(self));
        let end = Instant::now() + TOGETHER;
        let mut changes = 0;
        while Instant::now() < end {
            self.change();
            changes += 1;
            load.wait(REQUESTS);
        }
        println!(
            "  both together: {changes} changes of {OTHERS} Services each, {} commits, {} repairs",
            self.generation()?.wrapping_sub(generation),
            reports(self) - before
        );
        std::thread::sleep(SETTLED * 2);
        let (generation, before) = (self.generation()?, reports(self));
        std::thread::sleep(TOGETHER);
        println!(
            "  both together, {} s without changes: {} commits, {} repairs",
            TOGETHER.as_secs(),
            self.generation()?.wrapping_sub(generation),
            reports(self) - before
        );
        Ok(())
    }
}

/// Set what the real API server sets; kube-proxy relies on it.
fn set_defaults(object: &mut Value) {
    if object["kind"] == "EndpointSlice" {
        object["ports"][0]["name"] = json!("");
        object["ports"][0]["protocol"] = json!("TCP");
        return;
    }
    let spec = &mut object["spec"];
    spec["externalTrafficPolicy"] = json!("Cluster");
    spec["internalTrafficPolicy"] = json!("Cluster");
    spec["sessionAffinity"] = json!("None");
    spec["ports"][0]["protocol"] = json!("TCP");
}

fn stop(mut process: Running, signal: Signal) {
    let id = Pid::from_raw(process.0.id() as i32);
    let _ = kill(id, signal);
    let _ = process.0.wait();
}
