//! Shared by the tests of the program: namespaces to run it in, and comparison of rules.

#![allow(dead_code)] // Each test file uses its own part.

pub(crate) mod machine;
pub(crate) mod manifests;
mod modes;
pub(crate) mod vm;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use kernel::netns::NetNs;
use model::Mode;
use netfilter::iptables::{Chain, Family, TableSet};
use tempfile::TempDir;

/// The program under test.
pub(crate) const SLUICE: &str = env!("CARGO_BIN_EXE_sluice");

pub(crate) use observed::CLUSTER_CIDR;

/// Return the iptables back end of ipvs mode in these tests. User Mode Linux lacks NAT in nf_tables.
pub(crate) fn ipvs_backend() -> String {
    std::env::var("SLUICE_TEST_BACKEND").unwrap_or_else(|_| "legacy".to_owned())
}

/// A network namespace with the addresses of the observed node, deleted on drop.
pub(crate) struct Host {
    pub(crate) name: String,
    netns: NetNs,
}

impl Host {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sluice-test-{}-{number}", std::process::id());
        let netns = NetNs::create(&name).expect("tests need root, to make network namespaces");
        let host = Self { name, netns };
        for command in [
            "ip link set lo up",
            "ip link add eth0 type veth peer name uplink",
            "ip link set uplink up",
            "ip link set eth0 up",
            "ip addr add 10.200.1.2/24 dev eth0",
            "ip addr add fd00:200:1::2/64 dev eth0 nodad",
        ] {
            host.sh(command);
        }
        host
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        self.netns
            .command(program)
            .expect("a command in the namespace")
    }

    /// Start a proxy for node1 in nftables mode that follows an API server. Its log is discarded.
    pub(crate) fn follow(&self, kubeconfig: &Path, flags: &[&str]) -> Running {
        let mut command = self.command(SLUICE);
        command.args([
            "proxy",
            "--proxy-mode=nftables",
            "--hostname-override=node1",
        ]);
        command.arg("--kubeconfig").arg(kubeconfig).args(flags);
        Running(command.stderr(Stdio::null()).spawn().unwrap())
    }

    pub(crate) fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Run a closure on a thread in the namespace, where its threads and sockets are too.
    pub(crate) fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.netns.run(f).expect("a thread in the namespace")
    }

    /// Run a shell line, which must succeed, and return its output.
    pub(crate) fn sh(&self, line: &str) -> String {
        let output = self.command("sh").args(["-c", line]).output().unwrap();
        assert!(output.status.success(), "{line}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Run `sluice` to its end.
    pub(crate) fn sluice(&self, words: &[&str]) -> Output {
        self.command(SLUICE).args(words).output().unwrap()
    }

    /// Program the observed cluster in a mode, once.
    pub(crate) fn program_observed(&self, mode: Mode) {
        let objects = observed::path("objects.json");
        let output = self.sluice(&[
            "proxy",
            "--once",
            &format!("--proxy-mode={mode}"),
            "--iptables-backend=nft",
            "--hostname-override=node1",
            "--cluster-cidr=10.244.0.0/16,fd00:10:244::/56",
            "--manifests",
            objects.to_str().unwrap(),
        ]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    /// Return the rules of a family, as a save tool prints them.
    pub(crate) fn rules(&self, save: &str, family: Family) -> TableSet {
        let saved = self.sh(save);
        TableSet::parse(family, &saved).unwrap_or_else(|e| panic!("{save}: {e}\n{saved}"))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Also after a panic.
        let _ = NetNs::delete(&self.name);
    }
}

/// A running `sluice`, killed on drop.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Tests may choose the back end of iptables.
const BACKEND_FLAG: &str = "--iptables-backend=";

/// A host with a proxy that follows a folder.
pub(crate) struct Proxy {
    pub(crate) host: Host,
    pub(crate) folder: TempDir,
    pub(crate) process: Running,
    mode: Mode,
    flags: Vec<String>,
}

/// Return a Service with one endpoint.
pub(crate) fn web(name: &str, last: u8, endpoint: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: demo}}\n\
         spec: {{clusterIP: 10.96.10.{last}, ports: [{{name: http, port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}-a, namespace: demo, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: 8080, protocol: TCP}}]\n\
         endpoints: [{{addresses: [{endpoint}], conditions: {{ready: true}}}}]\n"
    )
}

impl Proxy {
    pub(crate) fn start(mode: Mode, files: &[(&str, &str)], flags: &[&str]) -> Self {
        let host = Host::new();
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
        }
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let process = Self::spawn(mode, &host, folder.path(), &flags);
        Self {
            host,
            folder,
            process,
            mode,
            flags,
        }
    }

    fn spawn(mode: Mode, host: &Host, folder: &Path, flags: &[String]) -> Running {
        let backend = match mode {
            Mode::Iptables | Mode::Nftables | Mode::Userspace => "nft".to_owned(),
            Mode::Ipvs => ipvs_backend(),
        };
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(folder.join(".log"))
            .unwrap();
        let mut command = host.command(SLUICE);
        command.arg("proxy");
        if !flags.iter().any(|flag| flag.starts_with(BACKEND_FLAG)) {
            command.arg(format!("{BACKEND_FLAG}{backend}"));
        }
        let process = command
            .args(["--proxy-mode=iptables", "--hostname-override=node1"])
            .arg("--iptables-min-sync-period=10ms")
            .arg(format!("--cluster-cidr={CLUSTER_CIDR}"))
            .arg(format!("--proxy-mode={mode}"))
            .arg("--manifests")
            .arg(folder)
            .args(flags)
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        Running(process)
    }

    /// Kill the process, as a crash would.
    pub(crate) fn kill(&mut self) {
        let _ = self.process.0.kill();
        let _ = self.process.0.wait();
    }

    /// Start a new process.
    pub(crate) fn respawn(&mut self) {
        self.process = Self::spawn(self.mode, &self.host, self.folder.path(), &self.flags);
    }

    /// Replace the process by one in another mode.
    pub(crate) fn switch(&mut self, mode: Mode) {
        self.kill();
        self.mode = mode;
        self.respawn();
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join(".log")).unwrap()
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        fs::write(self.folder.path().join(name), content).unwrap();
    }

    /// Return the mode's IPv4 rules for Services.
    pub(crate) fn rules(&self) -> String {
        self.host.sh(&match self.mode {
            Mode::Nftables => "nft list table ip kube-proxy 2>/dev/null || true".to_owned(),
            Mode::Userspace => "nft list table ip sluice-userspace 2>/dev/null || true".to_owned(),
            Mode::Iptables => "iptables-nft-save -t nat".to_owned(),
            Mode::Ipvs => format!("iptables-{}-save -t nat", ipvs_backend()),
        })
    }

    /// Wait until the rules contain a text, or no longer contain it.
    pub(crate) fn wait_for(&self, what: &str, there: bool) {
        eventually(&format!("{what} {there}\n{}", self.log()), || {
            self.rules().contains(what) == there
        });
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Wait until a condition holds.
pub(crate) fn eventually(what: &str, wanted: impl FnMut() -> bool) {
    eventually_or(&|| what.to_owned(), wanted);
}

/// Wait until a condition holds; `what` describes it if it does not.
pub(crate) fn eventually_or(what: &dyn Fn() -> String, mut wanted: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !wanted() {
        assert!(Instant::now() < deadline, "did not happen: {}", what());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Return one line per rule. Rules are sorted in the chains in which the order of different Services'
/// rules does not matter (see the README of the observations); the rule that must be last stays last.
pub(crate) fn comparable(set: &TableSet) -> Vec<String> {
    const UNORDERED: [&str; 4] = [
        "KUBE-SERVICES",
        "KUBE-NODEPORTS",
        "KUBE-EXTERNAL-SERVICES",
        "KUBE-PROXY-FIREWALL",
    ];
    let mut lines = Vec::new();
    for (table, state) in &set.tables {
        for (chain, contents) in &state.chains {
            lines.push(format!("{} :{chain}", table.name()));
            let mut rules: Vec<String> =
                contents.rules.iter().map(|r| written(*chain, r)).collect();
            if UNORDERED.contains(&chain.as_str()) {
                let tail = rules
                    .iter()
                    .position(|r| r.contains("this must be the last rule"))
                    .unwrap_or(rules.len());
                rules[..tail].sort();
            }
            lines.extend(rules.into_iter().map(|r| format!("{} {r}", table.name())));
        }
    }
    lines
}

fn written(chain: Chain, rule: &netfilter::iptables::Rule) -> String {
    let mut line = String::new();
    rule.write_append(&mut line, chain);
    line
}

/// Fail with the lines that differ.
pub(crate) fn assert_same(ours: &TableSet, theirs: &TableSet, what: &str) {
    let (ours, theirs) = (comparable(ours), comparable(theirs));
    if ours == theirs {
        return;
    }
    let only = |a: &[String], b: &[String], sign: char| -> String {
        a.iter()
            .filter(|l| !b.contains(l))
            .map(|l| format!("{sign} {}\n", l.trim_end()))
            .collect()
    };
    panic!(
        "{what} differs (- expected, + got; nothing listed: another order)\n{}{}",
        only(&theirs, &ours, '-'),
        only(&ours, &theirs, '+')
    );
}
