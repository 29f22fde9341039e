//! Connections that fail while pods stop before their endpoints are removed, with kube-proxy and with
//! sluice, in nftables mode, in a network namespace.
//!
//! `KUBE_PROXY=path cargo bench -p sluice --bench half_open`. Without the variable only sluice is measured.
//!
//! Eight clients on the node open 240 connections per second to a Service with six pods. A pod becomes
//! silent, and after 50 ms the API server replaces its endpoint by a new one. A connection that is not
//! established after five seconds has failed; until then a client repeats its SYN twice.

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use apiserver_sim::{Config, Sim};
use kernel::netns::NetNs;
use serde_json::{Value, json};
use support::{CLUSTER_CIDR, Host, Running, SLUICE};

const CLIENTS: u32 = 8;
/// Of all clients together.
const PER_SECOND: u32 = 240;
const PODS: u8 = 6;
const TIMEOUT: Duration = Duration::from_secs(5);
/// The time from the end of a pod to the removal of its endpoint.
const LATE: Duration = Duration::from_millis(50);
/// Time between two pods of a rollout.
const PAUSE: Duration = Duration::from_millis(500);
const REPETITIONS: usize = 5;
const SERVICE: &str = "10.96.10.1:80";

fn main() -> anyhow::Result<()> {
    let mut programs = vec![
        ("sluice, half-open deleted", None, "delete"),
        ("sluice, half-open kept", None, "keep"),
    ];
    let kube_proxy = std::env::var_os("KUBE_PROXY").map(PathBuf::from);
    if let Some(path) = &kube_proxy {
        programs.push(("kube-proxy", Some(path), ""));
    }
    for (name, kube_proxy, half_open) in programs {
        let mut node = Node::new()?;
        let _proxy = node.start(kube_proxy, half_open)?;
        for (what, count) in [("one of six pods deleted", 1), ("rollout", PODS)] {
            let mut failed = Vec::new();
            let mut slow = Vec::new();
            for _ in 0..REPETITIONS {
                let counts = node.stop_pods(count);
                failed.push(counts.failed.into_inner());
                slow.push(counts.slow.into_inner());
            }
            println!("{name}: {what}: failed {failed:?}, established after 1 s or more {slow:?}");
        }
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Counts {
    failed: AtomicUsize,
    /// Established with a repeated SYN.
    slow: AtomicUsize,
}

struct Node {
    host: Host,
    pods: NetNs,
    sim: Sim,
    folder: tempfile::TempDir,
    kubeconfig: PathBuf,
    /// The last byte of the endpoints' addresses.
    endpoints: Vec<u8>,
    next: u8,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = NetNs::delete(self.pods.name());
    }
}

impl Node {
    fn new() -> anyhow::Result<Self> {
        let host = Host::new();
        let pods = NetNs::create(&format!("{}-pods", host.name))?;
        host.sh(&format!(
            "sysctl -qw net.ipv4.ip_forward=1; ip link add pods0 type veth peer name wan netns {pods}
             ip addr add 10.244.1.1/24 dev pods0; ip link set pods0 up
             ip -n {pods} link set lo up; ip -n {pods} link set wan up
             ip -n {pods} addr add 10.244.1.2/24 dev wan; ip -n {pods} route add default via 10.244.1.1
             ip netns exec {pods} nft 'add table ip pods; add chain ip pods in {{ type filter hook input priority 0; }}'",
            pods = pods.name()
        ));
        let sim = host.run(|| Sim::start(Config::default()))?;
        let folder = tempfile::tempdir()?;
        let kubeconfig = sim.write_kubeconfig(folder.path(), "{token: abc}")?;
        let mut node = Self {
            host,
            pods,
            sim,
            folder,
            kubeconfig,
            endpoints: Vec::new(),
            next: 10,
        };
        for _ in 0..PODS {
            let pod = node.new_pod();
            node.endpoints.push(pod);
        }
        node.sim.apply([
            json!({"kind": "Node", "metadata": {"name": "node1"}, "status": {"addresses": [
                {"type": "InternalIP", "address": "10.200.1.2"}]}}),
            json!({"kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
                "spec": {"cidrs": ["10.96.0.0/16"]}}),
            json!({"kind": "Service", "metadata": {"name": "web", "namespace": "demo"}, "spec": {
                "type": "ClusterIP", "clusterIP": "10.96.10.1", "clusterIPs": ["10.96.10.1"],
                "ipFamilies": ["IPv4"], "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
                "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}]}}),
        ]);
        node.publish();
        Ok(node)
    }

    /// Start a pod that accepts connections.
    fn new_pod(&mut self) -> u8 {
        let number = self.next;
        self.next += 1;
        let name = self.pods.name();
        self.host.sh(&format!(
            "ip -n {name} addr add 10.244.1.{number}/24 dev wan"
        ));
        self.pods
            .run(move || {
                let at = SocketAddr::from(([10, 244, 1, number], 8080));
                let listener = TcpListener::bind(at).expect("a pod");
                std::thread::spawn(move || while listener.accept().is_ok() {});
            })
            .expect("the pods");
        number
    }

    fn publish(&self) {
        let endpoint = |number: &u8| -> Value {
            json!({"addresses": [format!("10.244.1.{number}")], "nodeName": "node1",
                "conditions": {"ready": true, "serving": true, "terminating": false}})
        };
        let endpoints: Vec<Value> = self.endpoints.iter().map(endpoint).collect();
        self.sim.apply([
            json!({"kind": "EndpointSlice", "metadata": {"name": "web-a",
                "namespace": "demo", "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": "IPv4", "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
                "endpoints": endpoints}),
        ]);
    }

    /// Start a proxy, and wait until the Service answers.
    fn start(&self, kube_proxy: Option<&PathBuf>, half_open: &str) -> anyhow::Result<Running> {
        let mut command = match kube_proxy {
            Some(path) => {
                let mut command = self.host.command(&path.to_string_lossy());
                command.args(["--conntrack-max-per-core=0", "--conntrack-min=0"]);
                command
            }
            None => {
                let mut command = self.host.command(SLUICE);
                command.arg("proxy");
                command.arg(format!("--conntrack-half-open={half_open}"));
                command
            }
        };
        let log = fs::File::create(self.folder.path().join("log"))?;
        let process = command
            .args(["--proxy-mode=nftables", "--hostname-override=node1"])
            .arg(format!("--cluster-cidr={CLUSTER_CIDR}"))
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .stderr(Stdio::from(log))
            .spawn()?;
        let process = Running(process);
        let to: SocketAddr = SERVICE.parse()?;
        let second = Duration::from_secs(1);
        self.host.sh("ip route replace default dev eth0");
        while self
            .host
            .run(|| TcpStream::connect_timeout(&to, second))
            .is_err()
        {
            std::thread::sleep(Duration::from_millis(100));
        }
        std::thread::sleep(second * 2);
        Ok(process)
    }

    /// Replace this many pods, one after the other, under load.
    fn stop_pods(&mut self, count: u8) -> Counts {
        let (counts, stop) = (Counts::default(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for number in 0..CLIENTS {
                let netns = NetNs::open(&self.host.name).expect("the node");
                let (counts, stop) = (&counts, &stop);
                scope.spawn(move || {
                    let client = || client(number, counts, stop);
                    netns.run(client).expect("a thread in the namespace");
                });
            }
            std::thread::sleep(Duration::from_secs(1));
            for _ in 0..count {
                let new = self.new_pod();
                let old = self.endpoints.remove(0);
                self.host.sh(&format!(
                    "ip netns exec {} nft add rule ip pods in ip daddr 10.244.1.{old} drop",
                    self.pods.name()
                ));
                std::thread::sleep(LATE);
                self.endpoints.push(new);
                self.publish();
                std::thread::sleep(PAUSE);
            }
            std::thread::sleep(Duration::from_secs(2));
            stop.store(true, Ordering::Relaxed);
        });
        counts
    }
}

/// Connect at a constant rate; connections that wait do not delay others.
fn client(number: u32, counts: &Counts, stop: &AtomicBool) {
    let to: SocketAddr = SERVICE.parse().expect("an address");
    let every = Duration::from_secs(1) * CLIENTS / PER_SECOND;
    let mut next = Instant::now() + every * number / CLIENTS;
    std::thread::scope(|scope| {
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            next += every;
            scope.spawn(|| {
                let begun = Instant::now();
                let counter = match TcpStream::connect_timeout(&to, TIMEOUT) {
                    Err(_) => &counts.failed,
                    Ok(_) if begun.elapsed() >= Duration::from_secs(1) => &counts.slow,
                    Ok(_) => return,
                };
                counter.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
}
