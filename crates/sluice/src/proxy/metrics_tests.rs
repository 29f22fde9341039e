//! Every metric changes when what it measures happens.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant, SystemTime};

use dataplane::Refusal;
use model::{Endpoint, IpFamily, Mode, TrafficPolicy};
use observe::{Metrics, Options, Pages, Restriction, Server};
use plan::Planner;
use plan::testing::{Applied as _, endpoint, service, settings, slice};
use source::apiserver::Sent;

use super::driver::{RuleCount, SyncError, Synced};
use super::engine::{Observer as _, SyncReport};
use super::flows;
use super::pending::Pending;
use super::report::Reporter;
use super::schedule::Work;
use crate::socket::{Board, Status};
use crate::wiring::setup;

/// Metrics that change only with the kernel, and the integration test that shows it.
const SHOWN_ELSEWHERE: &[(&str, &str)] = &[
    (
        "kubeproxy_iptables_ct_state_invalid_dropped_packets_total",
        include_str!("../../tests/metrics.rs"),
    ),
    (
        "kubeproxy_iptables_localhost_nodeports_accepted_packets_total",
        include_str!("../../tests/metrics.rs"),
    ),
    (
        "kubeproxy_conntrack_reconciler_sync_duration_seconds",
        include_str!("../../tests/metrics.rs"),
    ),
    (
        "sluice_verify_problems",
        include_str!("../../tests/verify_period.rs"),
    ),
    (
        "sluice_verify_last_timestamp_seconds",
        include_str!("../../tests/verify_period.rs"),
    ),
    (
        "kubeproxy_conntrack_reconciler_deleted_entries_total",
        include_str!("../../tests/metrics.rs"),
    ),
];

/// A server for health on a free port, and its address.
fn server(mode: Mode) -> (Server, SocketAddr) {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let options = Options {
        healthz: Some(address),
        metrics: None,
        bind_hard_fail: true,
        health_timeout: Duration::from_secs(60),
        pages: Pages {
            proxy_mode: mode.to_string(),
            configz: serde_json::Value::Null,
            flags: None,
            statusz: false,
            version: String::new(),
            started: SystemTime::UNIX_EPOCH,
        },
        set_verbosity: None,
        before_scrape: Box::new(|_| {}),
        listen_failed: Box::new(|_, _, _| {}),
    };
    let server = Server::start(options, Metrics::new(mode).unwrap()).unwrap();
    (server, address)
}

fn get(address: SocketAddr, path: &str) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
}

/// The samples of each metric, in the text format.
fn samples(metrics: &Metrics) -> BTreeMap<String, BTreeSet<String>> {
    let names = metrics
        .names()
        .map(|name| (name.to_owned(), BTreeSet::new()));
    let mut all: BTreeMap<_, BTreeSet<String>> = names.collect();
    for line in metrics.text().unwrap().lines() {
        let name = line.split(['{', ' ']).next().unwrap();
        let name = ["", "_sum", "_count"].iter().find_map(|suffix| {
            let name = name.strip_suffix(suffix)?;
            all.contains_key(name).then_some(name)
        });
        if let Some(name) = name {
            all.get_mut(name).unwrap().insert(line.to_owned());
        }
    }
    all
}

/// The plan's change when Services are added that drop traffic because they have no local endpoint.
fn planned() -> (Planner, Pending) {
    let mut planner = Planner::new(settings("node1"));
    let mut local = service("demo/local", &["10.96.0.1"], &["http:80"]);
    local.internal_policy = TrafficPolicy::Local;
    let elsewhere: Vec<Endpoint> = vec![endpoint("10.244.2.1", "node2")];
    let mut elsewhere = slice("local-a", "demo/local", &["http:8080"], elsewhere);
    elsewhere.last_change_trigger = Some(1);
    planner.apply_all([local.applied(), elsewhere.applied()]);
    let mut pending = Pending::default();
    pending.add(planner.take_diff().v4);
    (planner, pending)
}

/// Everything that a proxy measures, once.
fn happen(mode: Mode, server: &Server, address: SocketAddr) {
    let board = Board::new(Status::starting("node1", mode, serde_json::Value::Null));
    let mut reporter = Reporter::new(server.clone(), mode, flows::Flows::none(), board);
    reporter.refreshed(1, 1);
    server.set_restrictions(vec![Restriction {
        name: "seccomp",
        enforced: true,
        detail: String::new(),
    }]);
    reporter.queued(IpFamily::V4, Instant::now());
    let (planner, changes) = planned();
    let refused = changes.ports.iter().cloned();
    let synced = Synced {
        cleanup_failures: 1,
        quarantined: refused
            .map(|key| (key, Refusal::Rejected("too long".into())))
            .collect(),
        rules: vec![RuleCount {
            table: "nat",
            total: 2,
            written: 1,
        }],
        ..Synced::default()
    };
    let started = Instant::now();
    let works = [Work::Everything, Work::Changes];
    for (work, changes) in works.into_iter().zip([changes, Pending::default()]) {
        reporter.synced(&mut SyncReport {
            family: IpFamily::V4,
            work,
            started,
            ended: started + Duration::from_millis(1),
            synced: &synced,
            node: &planner.plan(IpFamily::V4).node,
            changes,
        });
    }
    reporter.failed(IpFamily::V4, Work::Changes, &SyncError::Contended);
    reporter.received(1, 1);
    get(address, "/healthz");
    get(address, "/livez");
    let sent = Sent {
        host: "10.96.0.1:443",
        method: "GET",
        code: Some(200),
        watch: false,
        took: Duration::from_millis(1),
    };
    setup::count_request(server.metrics(), &sent);
    setup::scrape_process(server.metrics());
    let constant = setup::metrics(mode).unwrap();
    let start = constant.process_start.get();
    server.metrics().process_start.set(start);
    assert!(constant.text().unwrap().contains("kubernetes_build_info{"));
    server
        .metrics()
        .build_info
        .with_label_values(&[""; 9])
        .set(1);
}

#[test]
fn every_metric_changes() {
    for mode in Mode::ALL {
        let (server, address) = server(mode);
        let before = samples(server.metrics());
        happen(mode, &server, address);
        let after = samples(server.metrics());
        let unchanged: Vec<&str> = after
            .iter()
            .filter(|(name, now)| now.is_empty() || before[*name] == **now)
            .map(|(name, _)| name.as_str())
            .filter(|name| {
                let shown = SHOWN_ELSEWHERE.iter().find(|(shown, _)| shown == name);
                !shown.is_some_and(|(name, test)| test.contains(name))
            })
            .collect();
        assert_eq!(unchanged, [""; 0], "{mode}: no test changes these");
    }
}
