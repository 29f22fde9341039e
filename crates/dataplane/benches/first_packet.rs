//! The cost of the first packet of a connection: connections per second from a pod through a cluster IP,
//! and directly to the endpoints, with tables of few and of many Services:
//! `cargo bench -p dataplane --bench first_packet [SERVICES...]`.
//!
//! A client, a node and pods, each in a network namespace. Each table is on a node of its own. Both paths
//! of all tables are measured alternately, so that other load on the machine affects all of them alike.

#[path = "../tests/support/nft.rs"]
mod nft;
#[path = "../../kernel/tests/support/mod.rs"]
mod support;

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use dataplane::nftables::{Options, Sync};
use kernel::netns::NetNs;
use model::{IpFamily, Protocol};
use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};
use plan::testing::{big_cluster, big_cluster_settings};
use plan::{Plan, Planner, PortPlan};

use nft::Live;
use support::run;

const ENDPOINTS: usize = 10;
/// The largest number of Services to which connections are made.
const SPREAD: usize = 100;
const ROUNDS: usize = 200;
/// Connections over one path in one round.
const BLOCK: usize = 100;
const LIMIT: usize = 10_000;
const POD_PORT: u16 = 8080;

/// The destinations: the cluster IPs of some Services, and these Services' endpoints.
struct Targets {
    frontends: Vec<SocketAddr>,
    endpoints: Vec<SocketAddr>,
}

impl Targets {
    fn of(plan: &Plan) -> Self {
        let plain = |port: &&std::sync::Arc<PortPlan>| {
            port.protocol == Protocol::Tcp && !port.externally_accessible()
        };
        let ports: Vec<&PortPlan> = plan.ports.values().filter(plain).map(|p| &**p).collect();
        let ports: Vec<&PortPlan> = ports
            .iter()
            .step_by((ports.len() / SPREAD).max(1))
            .copied()
            .collect();
        let frontend = |port: &&PortPlan| SocketAddr::new(port.cluster_ip, port.port.get());
        let endpoints = ports.iter().flat_map(|port| port.cluster.iter());
        Targets {
            frontends: ports.iter().map(frontend).collect(),
            endpoints: endpoints.map(|e| SocketAddr::new(e.ip, e.port)).collect(),
        }
    }
}

/// A client, a node with or without a table, and pods; removed on drop.
struct Stage {
    services: usize,
    node: NetNs,
    client: NetNs,
    pods: NetNs,
    targets: Targets,
    /// Microseconds per connection in each round: through the cluster IP, and directly.
    times: [Vec<f64>; 2],
}

impl Stage {
    /// Build the stage; without a table if `services` is 0.
    fn build(services: usize) -> Self {
        let make = |role| {
            let name = format!("first-packet-{services}-{role}-{}", std::process::id());
            NetNs::create(&name).expect("a new network namespace (run as root)")
        };
        let mut planner = Planner::new(big_cluster_settings());
        planner.apply_all(big_cluster(services.max(1), ENDPOINTS));
        planner.take_diff();
        let plan = planner.plan(IpFamily::V4);
        let stage = Stage {
            services,
            node: make("node"),
            client: make("client"),
            pods: make("pods"),
            targets: Targets::of(plan),
            times: [Vec::new(), Vec::new()],
        };
        stage.wire();
        stage.pods.run(serve).expect("the pods");
        if services > 0 {
            let load = || {
                let mut sync = Sync::new(Options::default());
                sync.run(plan, &mut Live::open(IpFamily::V4), LIMIT)
                    .expect("a table");
            };
            stage.node.run(load).expect("the node");
        }
        stage
    }

    fn wire(&self) {
        let (client, pods) = (self.client.name(), self.pods.name());
        let node = format!(
            "set -e
            sysctl -qw net.ipv4.ip_forward=1
            ip link add client0 type veth peer name eth0 netns {client}
            ip link add pods0 type veth peer name eth0 netns {pods}
            ip addr add 169.254.1.1/30 dev client0
            ip addr add 169.254.2.1/30 dev pods0
            ip link set lo up; ip link set client0 up; ip link set pods0 up
            ip route add 10.128.0.0/9 via 169.254.2.2 dev pods0 onlink
            ip route add 10.255.0.2 dev client0"
        );
        // A pod, so that nothing is masqueraded.
        let client = "set -e
            ip addr add 10.255.0.2/32 dev eth0; ip link set lo up; ip link set eth0 up
            ip route add default via 169.254.1.1 dev eth0 onlink";
        let pods = "set -e
            ip addr add 169.254.2.2/30 dev eth0; ip link set lo up; ip link set eth0 up
            ip route add local 10.128.0.0/9 dev lo table main
            ip route add 10.255.0.2 via 169.254.2.1";
        self.node.run(|| run(&node)).expect("the node");
        self.client.run(|| run(client)).expect("the client");
        self.pods.run(|| run(pods)).expect("the pods");
    }

    /// Measure both paths once.
    fn round(&mut self, number: usize) {
        let Targets {
            frontends,
            endpoints,
        } = &self.targets;
        let ways: &[&Vec<SocketAddr>] = match self.services {
            0 => &[endpoints],
            _ => &[endpoints, frontends],
        };
        for (targets, times) in ways.iter().zip(&mut self.times) {
            let took = self.client.run(|| connect_to(targets, number * BLOCK));
            times.push(took.expect("the client"));
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for netns in [&self.node, &self.client, &self.pods] {
            let _ = NetNs::delete(netns.name());
        }
    }
}

/// Accept connections for every pod while this program runs.
fn serve() {
    let any = IpAddr::from([0, 0, 0, 0]);
    let listener = TcpListener::bind(SocketAddr::new(any, POD_PORT)).expect("a port");
    thread::spawn(move || listener.incoming().for_each(drop));
}

/// Open a block of connections, each to the next target. Return the microseconds for one, from
/// `connect` to close.
fn connect_to(targets: &[SocketAddr], first: usize) -> f64 {
    // Close by a reset, so that no port stays in TIME_WAIT.
    let at_once = linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let start = Instant::now();
    for target in targets
        .iter()
        .cycle()
        .skip(first % targets.len())
        .take(BLOCK)
    {
        let stream = TcpStream::connect(target).expect("a connection");
        setsockopt(&stream, sockopt::Linger, &at_once).expect("an option");
    }
    start.elapsed().as_secs_f64() * 1e6 / BLOCK as f64
}

/// Return the shortest of the times, and their median.
fn summary(times: &[f64]) -> [f64; 2] {
    let mut times = times.to_vec();
    times.sort_unstable_by(f64::total_cmp);
    [times[0], times[times.len() / 2]]
}

fn main() {
    let asked: Vec<usize> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let sizes = if asked.is_empty() {
        vec![10, 1_000, 10_000]
    } else {
        asked
    };
    let mut stages: Vec<Stage> = [0].into_iter().chain(sizes).map(Stage::build).collect();
    for number in 0..ROUNDS {
        for stage in &mut stages {
            stage.round(number);
        }
    }
    println!("From connect to closed, best / median of {ROUNDS} rounds of {BLOCK} connections:");
    println!("| Services x {ENDPOINTS} | straight | through the cluster IP | ratio | per second |");
    println!("| --- | --- | --- | --- | --- |");
    for stage in &stages {
        let [straight, through] = &stage.times;
        let straight = summary(straight);
        let us = |times: [f64; 2]| format!("{:.1} / {:.1} µs", times[0], times[1]);
        if through.is_empty() {
            println!("| no table | {} | | | |", us(straight));
            continue;
        }
        let through = summary(through);
        println!(
            "| {} | {} | {} | {:.2} / {:.2} | {:.0} against {:.0} |",
            stage.services,
            us(straight),
            us(through),
            through[0] / straight[0],
            through[1] / straight[1],
            1e6 / through[1],
            1e6 / straight[1],
        );
    }
}
