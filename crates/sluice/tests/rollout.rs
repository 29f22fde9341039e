//! Rollouts of a Deployment under load: no connection fails, in either kernel mode and with either
//! `externalTrafficPolicy`.

#[path = "support/modes.rs"]
mod modes;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lab::control::address::{POD_CIDRS, node_ips};
use lab::manifest::ObjectName;
use lab::probe::{Outcome, Probe};
use lab::{Documents, Host, Lab, LabName, Options, ProxyCommand};
use model::Mode;

const SLUICE: &str = env!("CARGO_BIN_EXE_sluice");
const REPLICAS: u32 = 10;
/// Indices of the lab's nodes.
const NODES: RangeInclusive<u8> = 1..=3;
const ROLLOUTS: u32 = 5;
const GRACE_SECONDS: u32 = 5;
const CLUSTER_PORT: u16 = 30081;
const LOCAL_PORT: u16 = 30082;
const CLUSTER_IP: [u8; 4] = [10, 96, 81, 81];

/// One version of the Deployment. Terminating pods keep serving for some seconds, as behind any load
/// balancer that learns of changes with a delay.
fn deployment(version: u32, grace_seconds: u32) -> Documents {
    Documents::from_text(
        "deployment.yaml",
        &format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  \
             replicas: {REPLICAS}\n  selector: {{matchLabels: {{app: web}}}}\n  template:\n    \
             metadata: {{labels: {{app: web, version: v{version}}}}}\n    spec:\n      \
             terminationGracePeriodSeconds: {grace_seconds}\n      \
             containers: [{{name: c, ports: [{{containerPort: 8080}}]}}]\n"
        ),
    )
}

fn services() -> String {
    let service = |name: &str, policy: &str, ip: &str, port: u16| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  \
             type: NodePort\n  clusterIP: {ip}\n  externalTrafficPolicy: {policy}\n  \
             selector: {{app: web}}\n  \
             ports: [{{port: 80, targetPort: 8080, nodePort: {port}}}]\n"
        )
    };
    let client = "apiVersion: v1\nkind: Pod\nmetadata: {name: client-pod}\n\
                  spec: {containers: [{name: c, ports: [{containerPort: 80}]}]}\n";
    let ip = IpAddr::from(CLUSTER_IP).to_string();
    client.to_owned()
        + &service("web-cluster", "Cluster", &ip, CLUSTER_PORT)
        + &service("web-local", "Local", "10.96.81.82", LOCAL_PORT)
}

/// A client that connects to one address repeatedly.
struct Client {
    to: SocketAddr,
    seen: Arc<Mutex<Vec<Outcome>>>,
    thread: JoinHandle<()>,
}

impl Client {
    fn start(host: Host, to: SocketAddr, stop: &Arc<AtomicBool>) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (ours, stop) = (Arc::clone(&seen), Arc::clone(stop));
        let thread = thread::spawn(move || {
            host.run(|| {
                while !stop.load(Ordering::Relaxed) {
                    let outcome = Probe::http(to).timeout(Duration::from_secs(10)).ask();
                    ours.lock().unwrap().push(outcome);
                    thread::sleep(Duration::from_millis(5));
                }
            })
            .unwrap();
        });
        Self { to, seen, thread }
    }

    /// The pods of the last answers.
    fn last(&self, count: usize) -> BTreeSet<String> {
        let seen = self.seen.lock().unwrap();
        let answers = seen.iter().rev().take(count).filter_map(Outcome::answer);
        answers.map(|answer| answer.pod.clone()).collect()
    }

    fn connections(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

/// A lab with clients.
struct Stage {
    lab: Lab,
    stop: Arc<AtomicBool>,
    clients: Vec<Client>,
}

impl Stage {
    fn new(mode: Mode, grace_seconds: u32) -> Self {
        let text = services();
        let argv = [
            SLUICE.to_owned(),
            "proxy".to_owned(),
            format!("--proxy-mode={mode}"),
            format!(
                "--cluster-cidr={}",
                POD_CIDRS.map(|net| net.to_string()).join(",")
            ),
            "--iptables-min-sync-period=100ms".to_owned(),
        ];
        let (mut lab, applied) = Lab::up(Options {
            name: LabName::new(&format!(
                "roll-{mode}{grace_seconds}-{}",
                std::process::id()
            ))
            .unwrap(),
            nodes: 3,
            documents: Documents::from_text("services.yaml", &text),
            echo: vec![SLUICE.to_owned(), "lab-echo".to_owned()],
            proxy: Some(ProxyCommand { argv: argv.into() }),
        })
        .expect("needs root");
        assert_eq!(applied.errors, []);
        assert_eq!(lab.apply(&deployment(0, grace_seconds)).unwrap().errors, []);
        lab.wait_synced(Duration::from_secs(30)).unwrap();
        let mut stage = Self {
            lab,
            stop: Arc::default(),
            clients: Vec::new(),
        };
        stage.wait_until_reachable();
        let client = || stage.lab.client().unwrap();
        let mut targets = vec![(
            stage.lab.host("client-pod").unwrap(),
            SocketAddr::from((CLUSTER_IP, 80)),
        )];
        for index in NODES {
            let node = node_ips(index)[0];
            targets.push((client(), SocketAddr::new(node, LOCAL_PORT)));
        }
        targets.push((client(), SocketAddr::new(node_ips(1)[0], CLUSTER_PORT)));
        let clients = targets
            .into_iter()
            .map(|(host, to)| Client::start(host, to, &stage.stop));
        let clients = clients.collect();
        stage.clients = clients;
        stage
    }

    fn wait_until_reachable(&self) {
        let client = self.lab.client().unwrap();
        for index in NODES {
            for port in [CLUSTER_PORT, LOCAL_PORT] {
                let to = SocketAddr::new(node_ips(index)[0], port);
                let probe = Probe::http(to).timeout(Duration::from_secs(1));
                wait_until(&format!("{to} answers"), || {
                    client.probe(probe).unwrap().answer().is_some()
                });
            }
        }
    }

    fn live_pods(&self) -> BTreeSet<String> {
        let pods = self.lab.state().unwrap().cluster.pods;
        pods.into_values()
            .filter(|pod| pod.gone_at.is_none() && pod.name.name.starts_with("web-"))
            .map(|pod| pod.name.name)
            .collect()
    }

    /// Wait until only these pods have answered every client for a while.
    fn wait_for_only(&self, pods: &BTreeSet<String>) {
        let before: Vec<usize> = self.clients.iter().map(Client::connections).collect();
        for (client, before) in self.clients.iter().zip(before) {
            wait_until(
                &format!("{} is served by {pods:?} alone", client.to),
                || client.connections() >= before + 20 && client.last(20).is_subset(pods),
            );
        }
    }

    /// Stop the clients. No connection failed, and there were many.
    fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        let nodes: Vec<String> = self
            .lab
            .state()
            .unwrap()
            .cluster
            .nodes
            .into_keys()
            .collect();
        for client in self.clients {
            client.thread.join().unwrap();
            let seen = client.seen.lock().unwrap();
            let failed: Vec<String> = seen
                .iter()
                .enumerate()
                .filter(|(_, outcome)| outcome.answer().is_none())
                .map(|(n, outcome)| format!("connection {n}: {outcome}"))
                .collect();
            assert!(
                failed.is_empty(),
                "{} of {} connections to {}: {failed:?}",
                failed.len(),
                seen.len(),
                client.to
            );
            assert!(seen.len() > 100, "only {} connections", seen.len());
            let pods: BTreeSet<_> = seen
                .iter()
                .filter_map(Outcome::answer)
                .map(|a| &a.pod)
                .collect();
            assert!(pods.len() > ROLLOUTS as usize, "{}: {pods:?}", client.to);
            if client.to.port() == LOCAL_PORT {
                let index = NODES
                    .into_iter()
                    .find(|i| node_ips(*i)[0] == client.to.ip())
                    .unwrap();
                let at: BTreeSet<_> = seen
                    .iter()
                    .filter_map(Outcome::answer)
                    .map(|a| &a.node)
                    .collect();
                let own = &nodes[usize::from(index) - 1];
                assert!(at.into_iter().eq([own]), "{}: not only {own}", client.to);
            }
        }
    }
}

fn wait_until(what: &str, mut wanted: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !wanted() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn roll_over(mode: Mode) {
    let mut stage = Stage::new(mode, GRACE_SECONDS);
    for version in 1..=ROLLOUTS {
        assert_eq!(
            stage
                .lab
                .apply(&deployment(version, GRACE_SECONDS))
                .unwrap()
                .errors,
            []
        );
        let pods = stage.live_pods();
        assert_eq!(pods.len(), REPLICAS as usize);
        stage.wait_for_only(&pods);
    }
    // Pods that are not ready get no connections while others are ready.
    let all = stage.live_pods();
    let unready: BTreeSet<String> = all.iter().take(2).cloned().collect();
    for ready in [false, true] {
        for pod in &unready {
            stage.lab.set_ready(&ObjectName::parse(pod), ready).unwrap();
        }
        if !ready {
            stage.wait_for_only(&all.difference(&unready).cloned().collect());
        }
    }
    stage.finish();
}

in_each_mode!(no_connection_fails_during_a_rollout, super::roll_over);

/// The last ready endpoint is removed while terminating ones still serve: those get the connections
/// (KEP-1669) until new endpoints are ready.
fn fall_back(mode: Mode) {
    // Longer than the rest of the test.
    let mut stage = Stage::new(mode, 600);
    let deployment = ObjectName::parse("web");
    let all = stage.live_pods();
    // One on each node; the terminating ones get no connections.
    stage.lab.begin_scale(&deployment, 3).unwrap();
    let last = stage.live_pods();
    assert_eq!(last.len(), 3);
    stage.wait_for_only(&last);
    stage.lab.begin_scale(&deployment, 0).unwrap();
    assert!(stage.live_pods().is_empty());
    let ending: BTreeSet<String> = all.difference(&last).cloned().collect();
    for client in &stage.clients {
        let what = format!("{} is served by terminating pods", client.to);
        let before = client.connections();
        wait_until(&what, || {
            !client.last(20).is_disjoint(&ending) && client.connections() >= before + 100
        });
    }
    stage.lab.begin_scale(&deployment, REPLICAS).unwrap();
    let new = stage.live_pods();
    assert!(new.is_disjoint(&all));
    stage.wait_for_only(&new);
    stage.finish();
}

in_each_mode!(
    terminating_endpoints_serve_while_none_is_ready,
    super::fall_back
);
