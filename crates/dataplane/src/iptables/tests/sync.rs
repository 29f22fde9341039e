//! The sync machine with a fake transport: rejected content, lost replies, foreign changes.

use std::sync::Arc;

use model::{Change, Event};
use plan::testing::{endpoint, service, slice};
use plan::{Planner, PortKey};

use super::observed::{options, planner};
use super::*;
use crate::{Origin, Refusals};

/// Tables behind `iptables-restore`, which fails as ordered.
struct Host {
    tables: TableSet,
    written: RestoreText,
    /// Text that no input may contain.
    rejects: Vec<&'static str>,
    /// Restores that take effect but report a failure.
    lost_replies: usize,
    /// Restores that fail without any effect.
    busy: usize,
    unreadable: bool,
    /// Writes that are refused because another program was first, with its change.
    outdated: usize,
    before_outdated: &'static str,
    restores: usize,
    reads: usize,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
struct Trouble(String);

fn trouble(text: &str) -> Trouble {
    Trouble(text.to_owned())
}

impl Host {
    fn new() -> Self {
        Self {
            tables: foreign(IpFamily::V4),
            written: RestoreText::default(),
            rejects: Vec::new(),
            lost_replies: 0,
            busy: 0,
            unreadable: false,
            outdated: 0,
            before_outdated: "",
            restores: 0,
            reads: 0,
        }
    }

    /// Another program's change.
    fn meddle(&mut self, input: &str) {
        run(&mut self.tables, input);
    }
}

impl Transport for Host {
    type Error = Trouble;

    fn read(&mut self) -> Result<Observation, ReadError<Trouble>> {
        self.reads += 1;
        if self.unreadable {
            return Err(ReadError::Transport(trouble("unreadable")));
        }
        Ok(observe(IpFamily::V4, &self.tables))
    }

    fn begin(&mut self, _: bool) -> &mut dyn Output {
        self.written = RestoreText::default();
        &mut self.written
    }

    fn commit(&mut self) -> Result<Vec<u64>, Failure<Trouble>> {
        let input = std::mem::take(&mut self.written).finish();
        self.restores += 1;
        let failure = |text: &str, kind, unchanged| {
            Err(Failure {
                error: trouble(text),
                kind,
                unchanged,
            })
        };
        if self.busy > 0 {
            self.busy -= 1;
            return failure("the lock is held", FailureKind::Unavailable, true);
        }
        if self.outdated > 0 {
            self.outdated -= 1;
            run(&mut self.tables, self.before_outdated);
            return failure("another program was first", FailureKind::Outdated, true);
        }
        if let Some(text) = self.rejects.iter().find(|text| input.contains(**text)) {
            return failure(&format!("rejected: {text}"), FailureKind::Rejected, true);
        }
        run(&mut self.tables, &input);
        if self.lost_replies > 0 {
            self.lost_replies -= 1;
            return failure("timed out", FailureKind::Unavailable, false);
        }
        Ok(Vec::new())
    }
}

struct Bench {
    planner: Planner,
    sync: Sync,
    host: Host,
}

impl Bench {
    /// The observed cluster, programmed beside another program's rules.
    fn started() -> Self {
        let mut bench = Self {
            planner: planner("default"),
            sync: Sync::new(IpFamily::V4, options("default", true)),
            host: Host::new(),
        };
        bench.resync().unwrap();
        bench
    }

    fn resync(&mut self) -> Result<(), SyncError<Trouble>> {
        let plan = self.planner.plan(IpFamily::V4);
        self.sync.resync(plan, &mut self.host)
    }

    /// Add Services and sync them.
    fn add(&mut self, names: &[&str]) -> Result<(), SyncError<Trouble>> {
        for (number, name) in names.iter().enumerate() {
            let ip = format!("10.96.77.{}", number + 1);
            let new = service(name, &[&ip], &["http:80"]);
            let pod = format!("10.244.2.{}", number + 1);
            let slice_name = format!("{}-x", name.replace('/', "-"));
            let pods = vec![endpoint(&pod, "node2")];
            let slice = slice(&slice_name, name, &["http:8080"], pods);
            self.planner
                .apply(Event::Service(Change::Applied(Arc::new(new))));
            self.planner
                .apply(Event::EndpointSlice(Change::Applied(Arc::new(slice))));
        }
        self.change()
    }

    fn change(&mut self) -> Result<(), SyncError<Trouble>> {
        let ports = self.planner.take_diff().v4.ports;
        let changed = ports.iter().filter_map(plan::PortChange::key).collect();
        self.sync_keys(&changed)
    }

    fn sync_keys(&mut self, changed: &BTreeSet<PortKey>) -> Result<(), SyncError<Trouble>> {
        let plan = self.planner.plan(IpFamily::V4);
        self.sync.sync(plan, changed, &mut self.host)
    }

    fn is_disturbed(&mut self) -> bool {
        let plan = self.planner.plan(IpFamily::V4);
        self.sync.is_disturbed(plan, &mut self.host)
    }

    fn refused(&self) -> Vec<String> {
        names_of(&self.sync.refusals())
    }

    /// Whether the kernel has the state of a fresh start.
    fn is_complete(&self) -> bool {
        let mut fresh = Host::new();
        let mut sync = Sync::new(IpFamily::V4, options("default", true));
        let plan = self.planner.plan(IpFamily::V4);
        sync.resync(plan, &mut fresh).unwrap();
        comparable(&fresh.tables) == comparable(&self.host.tables)
    }
}

fn names_of(refusals: &Refusals) -> Vec<String> {
    refusals.keys().map(|key| key.0.to_string()).collect()
}

#[test]
fn rejected_ports_are_found_by_bisection_and_left_out() {
    let mut bench = Bench::started();
    bench.host.rejects = vec!["demo/s3", "demo/s6"];
    let names: Vec<String> = (0..8).map(|n| format!("demo/s{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    bench.add(&names).unwrap();
    assert_eq!(bench.refused(), ["demo/s3:http", "demo/s6:http"]);
    let rules = bench.host.tables.to_string();
    for name in names {
        let rejected = bench.host.rejects.contains(&name);
        assert_eq!(rules.contains(name), !rejected, "{name}");
    }
    // They stay out while others change.
    let restores = bench.host.restores;
    bench.add(&["demo/other"]).unwrap();
    assert_eq!(bench.host.restores, restores + 1);
    assert_eq!(bench.refused(), ["demo/s3:http", "demo/s6:http"]);
    // A resync tries them again.
    bench.host.rejects.clear();
    bench.resync().unwrap();
    assert!(bench.refused().is_empty());
    assert!(bench.is_complete());
}

#[test]
fn a_rejected_port_is_tried_again_when_it_changes() {
    let mut bench = Bench::started();
    bench.host.rejects = vec!["demo/a"];
    bench.add(&["demo/a"]).unwrap();
    assert_eq!(bench.refused(), ["demo/a:http"]);
    bench.host.rejects.clear();
    bench.sync_keys(&BTreeSet::new()).unwrap();
    assert_eq!(bench.refused(), ["demo/a:http"]);
    bench.add(&["demo/a"]).unwrap();
    // Marked as changed with the same plan.
    let key = bench.sync.refusals().keys().next().cloned();
    bench.sync_keys(&key.into_iter().collect()).unwrap();
    assert!(bench.refused().is_empty());
    assert!(bench.is_complete());
}

#[test]
fn a_rejection_without_a_culprit_is_an_error_and_quarantines_no_port() {
    let mut bench = Bench::started();
    bench.host.rejects = vec!["COMMIT"];
    // Also wrong without the new port.
    bench.host.meddle("*nat\n-F KUBE-POSTROUTING\nCOMMIT\n");
    let error = bench.resync().unwrap_err();
    assert!(matches!(error, SyncError::Write(_)), "{error:?}");
    assert!(bench.refused().is_empty());
    bench.host.rejects.clear();
    bench.resync().unwrap();
    assert!(bench.is_complete());
}

#[test]
fn after_a_lost_reply_the_rules_are_read_and_no_rule_is_added_twice() {
    let mut bench = Bench::started();
    bench.host.lost_replies = 1;
    assert!(bench.add(&["demo/a"]).is_err());
    let reads = bench.host.reads;
    bench.sync_keys(&BTreeSet::new()).unwrap();
    assert_eq!(bench.host.reads, reads + 1);
    assert!(bench.is_complete());
}

#[test]
fn a_failure_without_effect_is_retried_from_the_same_state() {
    let mut bench = Bench::started();
    bench.host.busy = 1;
    let error = bench.add(&["demo/a"]).unwrap_err();
    assert_eq!(error.to_string(), "cannot write iptables rules");
    let reads = bench.host.reads;
    bench.sync_keys(&BTreeSet::new()).unwrap();
    assert_eq!(bench.host.reads, reads);
    assert!(bench.is_complete());
}

#[test]
fn unreadable_rules_fail_a_resync_but_are_not_a_disturbance() {
    let mut bench = Bench::started();
    bench.host.meddle("*nat\n-F KUBE-SERVICES\nCOMMIT\n");
    bench.host.unreadable = true;
    assert!(!bench.is_disturbed());
    assert!(matches!(bench.resync(), Err(SyncError::Read(_))));
    bench.host.unreadable = false;
    assert!(bench.is_disturbed());
    bench.resync().unwrap();
    assert!(bench.is_complete());
}

#[test]
fn a_write_that_another_program_preceded_starts_again_from_a_fresh_read() {
    let mut bench = Bench::started();
    let reads = bench.host.reads;
    bench.host.outdated = 3;
    bench.host.before_outdated = "*nat\n-D KUBE-SERVICES 1\nCOMMIT\n";
    bench.add(&["demo/a"]).unwrap();
    assert_eq!(bench.host.reads, reads + 3);
    assert!(bench.is_complete());
    bench.host.meddle("*nat\n-D KUBE-SERVICES 1\nCOMMIT\n");
    bench.host.outdated = usize::MAX;
    bench.host.before_outdated = "*nat\nCOMMIT\n";
    let error = bench.resync().unwrap_err();
    assert!(matches!(error, SyncError::Contended(_)), "{error:?}");
    bench.host.outdated = 0;
    bench.sync_keys(&BTreeSet::new()).unwrap();
    assert!(bench.is_complete());
}

#[test]
fn a_rejection_that_a_foreign_change_caused_quarantines_no_port() {
    let mut bench = Bench::started();
    // A change that refers to the chain.
    bench.host.meddle("*nat\n-F KUBE-SERVICES\nCOMMIT\n");
    bench.host.rejects = vec!["-I KUBE-SERVICES -d 10.96.77.1/32"];
    bench.add(&["demo/a"]).unwrap();
    assert!(bench.refused().is_empty());
    assert!(bench.is_complete());
}

#[test]
fn a_rejected_port_is_not_a_disturbance() {
    let mut bench = Bench::started();
    bench.host.rejects = vec!["demo/a"];
    bench.add(&["demo/a", "demo/b"]).unwrap();
    bench.host.meddle("*nat\n-A POSTROUTING -j OTHER\nCOMMIT\n");
    assert!(!bench.is_disturbed());
}

#[test]
fn a_start_reports_the_state_that_it_found() {
    let mut bench = Bench::started();
    let ports = bench.planner.plan(IpFamily::V4).ports.len();
    let found = bench.sync.take_found().unwrap();
    assert_eq!(found.origin, Origin::Nothing);
    assert_eq!((found.kept, found.written), (0, ports));
    // A new process finds everything in place, then one port damaged.
    for (damage, written) in [
        ("*nat\nCOMMIT\n", 0),
        ("*nat\n-D KUBE-SERVICES 1\nCOMMIT\n", 1),
    ] {
        bench.host.meddle(damage);
        bench.sync = Sync::new(IpFamily::V4, options("default", true));
        bench.resync().unwrap();
        let found = bench.sync.take_found().unwrap();
        assert_eq!(found.origin, Origin::SameLayout);
        assert_eq!((found.kept, found.written), (ports - written, written));
    }
    bench.resync().unwrap();
    assert!(
        bench
            .sync
            .take_found()
            .is_some_and(|found| found.written == 0)
    );
    assert_eq!(bench.sync.take_found(), None);
}
