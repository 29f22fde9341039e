//! Terminating endpoints.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use model::{Change, Event, IpFamily};
use netfilter::ipvs::ServiceId;
use plan::testing::{endpoint, service, slice};

use super::host::Host;
use super::*;

struct Bench {
    planner: Planner,
    mode: Mode,
    host: Host,
}

impl Bench {
    fn new() -> Self {
        let mut planner = Planner::new(plan::testing::settings("node1"));
        let web = service("demo/web", &["10.96.0.1"], &["http:80", "dns:53/UDP"]);
        planner.apply(Event::Service(Change::Applied(Arc::new(web))));
        let mut mode = Mode::new(IpFamily::V4, Options::default());
        let host = Host::new(IpFamily::V4);
        mode.observe(host.observe());
        Self {
            planner,
            mode,
            host,
        }
    }

    fn pods(&mut self, pods: &[&str], now: u64) {
        let pods = pods.iter().map(|ip| endpoint(ip, "node2")).collect();
        let slice = slice("web-a", "demo/web", &["http:80", "dns:53/UDP"], pods);
        self.planner
            .apply(Event::EndpointSlice(Change::Applied(Arc::new(slice))));
        self.sync(now);
    }

    fn sync(&mut self, now: u64) {
        let ports = self.planner.take_diff().v4.ports;
        let changed = ports.iter().filter_map(plan::PortChange::key).collect();
        let plan = self.planner.plan(IpFamily::V4);
        self.mode.update(plan, &changed);
        self.host.sync(&mut self.mode, plan, now);
    }

    /// Check the due destinations, each with this number of connections.
    fn check(&mut self, connections: u64, now: u64) -> usize {
        let now = Duration::from_secs(now);
        let due = self.mode.due(now);
        for id in &due {
            let service = &self.host.services[id];
            let all = service.destinations.iter();
            let found: HashMap<SocketAddr, u64> = all.map(|d| (d.address, connections)).collect();
            for op in self.mode.checked(id, &found, now) {
                self.host.server(&op);
            }
        }
        due.len()
    }

    fn weights(&self, server: &str) -> Vec<String> {
        let id = |id: &&ServiceId| id.to_string() == server;
        let id = self.host.services.keys().find(id).unwrap();
        let all = self.host.services[id].destinations.iter();
        all.map(|d| format!("{}={}", d.address.ip(), d.weight))
            .collect()
    }
}

const TCP: &str = "-t 10.96.0.1:80";
const UDP: &str = "-u 10.96.0.1:53";

#[test]
fn a_tcp_endpoint_is_removed_when_its_last_connection_ends() {
    let mut bench = Bench::new();
    bench.pods(&["10.1.0.1", "10.1.0.2"], 0);
    bench.pods(&["10.1.0.2"], 10);
    assert_eq!(bench.weights(TCP), ["10.1.0.1=0", "10.1.0.2=1"]);
    assert_eq!(bench.weights(UDP), ["10.1.0.2=1"]);
    assert_eq!(bench.check(3, 10), 1);
    assert_eq!(bench.weights(TCP), ["10.1.0.1=0", "10.1.0.2=1"]);
    // Checked again soon, then less and less often.
    assert_eq!(bench.check(3, 10), 0);
    assert_eq!(bench.check(3, 11), 1);
    assert_eq!(bench.check(3, 12), 0);
    assert_eq!(bench.mode.next_due(), Some(Duration::from_secs(13)));
    for minute in 1..10 {
        bench.check(3, 60 * minute);
    }
    let next = bench.mode.next_due().unwrap();
    assert_eq!(next, Duration::from_secs(600));
    bench.check(0, 600);
    assert_eq!(bench.weights(TCP), ["10.1.0.2=1"]);
    assert_eq!(bench.mode.next_due(), None);
    let plan = bench.planner.plan(IpFamily::V4);
    assert!(bench.mode.transaction(plan).unwrap().is_empty());
}

#[test]
fn an_endpoint_without_connections_is_removed_by_the_first_check() {
    let mut bench = Bench::new();
    bench.pods(&["10.1.0.1", "10.1.0.2"], 0);
    bench.pods(&[], 1);
    bench.check(0, 1);
    assert_eq!(bench.weights(TCP), [""; 0]);
}

#[test]
fn an_endpoint_that_returns_gets_new_connections() {
    let mut bench = Bench::new();
    bench.pods(&["10.1.0.1", "10.1.0.2"], 0);
    bench.pods(&["10.1.0.2"], 1);
    bench.check(1, 1);
    bench.pods(&["10.1.0.1", "10.1.0.2"], 2);
    assert_eq!(bench.weights(TCP), ["10.1.0.1=1", "10.1.0.2=1"]);
    assert_eq!(bench.check(0, 100), 0);
    assert_eq!(bench.weights(TCP), ["10.1.0.1=1", "10.1.0.2=1"]);
}

/// kubernetes/kubernetes 92019 and 108319: after a restart the weight stayed 0 forever.
#[test]
fn no_weight_stays_at_0_over_a_restart() {
    let mut bench = Bench::new();
    bench.pods(&["10.1.0.1", "10.1.0.2", "10.1.0.3"], 0);
    bench.pods(&["10.1.0.3"], 1);
    bench.check(1, 1);
    assert_eq!(
        bench.weights(TCP),
        ["10.1.0.1=0", "10.1.0.2=0", "10.1.0.3=1"]
    );
    // A new process; the first endpoint returns meanwhile.
    bench.mode = Mode::new(IpFamily::V4, Options::default());
    bench.mode.update_all(bench.planner.plan(IpFamily::V4));
    bench.mode.observe(bench.host.observe());
    bench.pods(&["10.1.0.1", "10.1.0.3"], 5);
    assert_eq!(
        bench.weights(TCP),
        ["10.1.0.1=1", "10.1.0.2=0", "10.1.0.3=1"]
    );
    bench.check(0, 5);
    assert_eq!(bench.weights(TCP), ["10.1.0.1=1", "10.1.0.3=1"]);
}

#[test]
fn a_deleted_service_has_no_terminating_endpoints() {
    let mut bench = Bench::new();
    bench.pods(&["10.1.0.1", "10.1.0.2"], 0);
    bench.pods(&["10.1.0.2"], 1);
    let gone = Event::Service(Change::Deleted(plan::testing::name("demo/web")));
    bench.planner.apply(gone);
    bench.sync(2);
    assert!(bench.host.services.is_empty());
    assert_eq!(bench.mode.next_due(), None);
}
