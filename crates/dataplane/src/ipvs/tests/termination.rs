//! Endpoints on their way out.

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
        self.mode.apply(&self.planner.take_diff().v4);
        self.host.sync(&mut self.mode, now);
    }

    /// Looks at what is due, with these connections on every destination.
    fn look(&mut self, connections: u64, now: u64) -> usize {
        let now = Duration::from_secs(now);
        let due = self.mode.due(now);
        for id in &due {
            let service = &self.host.services[id];
            let all = service.destinations.iter();
            let found: HashMap<SocketAddr, u64> = all.map(|d| (d.address, connections)).collect();
            for op in self.mode.looked(id, &found, now) {
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
fn a_tcp_endpoint_goes_when_its_last_connection_has_ended() {
    let mut bench = Bench::new();
    bench.pods(&["10.1.0.1", "10.1.0.2"], 0);
    bench.pods(&["10.1.0.2"], 10);
    assert_eq!(bench.weights(TCP), ["10.1.0.1=0", "10.1.0.2=1"]);
    assert_eq!(bench.weights(UDP), ["10.1.0.2=1"]);
    assert_eq!(bench.look(3, 10), 1);
    assert_eq!(bench.weights(TCP), ["10.1.0.1=0", "10.1.0.2=1"]);
    // Not again at once, but soon, and then ever less often.
    assert_eq!(bench.look(3, 10), 0);
    assert_eq!(bench.look(3, 11), 1);
    assert_eq!(bench.look(3, 12), 0);
    assert_eq!(bench.mode.next_due(), Some(Duration::from_secs(13)));
    for minute in 1..10 {
        bench.look(3, 60 * minute);
    }
    let next = bench.mode.next_due().unwrap();
    assert_eq!(next, Duration::from_secs(600));
    bench.look(0, 600);
    assert_eq!(bench.weights(TCP), ["10.1.0.2=1"]);
    assert_eq!(bench.mode.next_due(), None);
    assert!(bench.mode.transaction().unwrap().is_empty());
}

#[test]
fn one_without_connections_goes_with_the_first_look() {
    let mut bench = Bench::new();
    bench.pods(&["10.1.0.1", "10.1.0.2"], 0);
    bench.pods(&[], 1);
    bench.look(0, 1);
    assert_eq!(bench.weights(TCP), [""; 0]);
}

#[test]
fn one_that_comes_back_gets_connections_again() {
    let mut bench = Bench::new();
    bench.pods(&["10.1.0.1", "10.1.0.2"], 0);
    bench.pods(&["10.1.0.2"], 1);
    bench.look(1, 1);
    bench.pods(&["10.1.0.1", "10.1.0.2"], 2);
    assert_eq!(bench.weights(TCP), ["10.1.0.1=1", "10.1.0.2=1"]);
    assert_eq!(bench.look(0, 100), 0);
    assert_eq!(bench.weights(TCP), ["10.1.0.1=1", "10.1.0.2=1"]);
}

/// kubernetes/kubernetes 92019 and 108319: after a restart a weight of 0 stayed for ever.
#[test]
fn no_weight_stays_at_0_over_a_restart() {
    let mut bench = Bench::new();
    bench.pods(&["10.1.0.1", "10.1.0.2", "10.1.0.3"], 0);
    bench.pods(&["10.1.0.3"], 1);
    bench.look(1, 1);
    assert_eq!(
        bench.weights(TCP),
        ["10.1.0.1=0", "10.1.0.2=0", "10.1.0.3=1"]
    );
    // A new process; meanwhile the first has come back.
    bench.mode = Mode::new(IpFamily::V4, Options::default());
    bench.mode.replace_plan(bench.planner.plan(IpFamily::V4));
    bench.mode.observe(bench.host.observe());
    bench.pods(&["10.1.0.1", "10.1.0.3"], 5);
    assert_eq!(
        bench.weights(TCP),
        ["10.1.0.1=1", "10.1.0.2=0", "10.1.0.3=1"]
    );
    bench.look(0, 5);
    assert_eq!(bench.weights(TCP), ["10.1.0.1=1", "10.1.0.3=1"]);
}

#[test]
fn a_service_that_goes_takes_its_list_along() {
    let mut bench = Bench::new();
    bench.pods(&["10.1.0.1", "10.1.0.2"], 0);
    bench.pods(&["10.1.0.2"], 1);
    let gone = Event::Service(Change::Deleted(plan::testing::name("demo/web")));
    bench.planner.apply(gone);
    bench.mode.apply(&bench.planner.take_diff().v4);
    bench.host.sync(&mut bench.mode, 2);
    assert!(bench.host.services.is_empty());
    assert_eq!(bench.mode.next_due(), None);
}
