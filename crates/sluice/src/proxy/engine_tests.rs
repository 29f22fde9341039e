//! The state machine against a mode that records its calls, and fails on request.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{
    Change, Event, IpFamily, NamespacedName, Protocol, Service, ServicePort, ServicePortName,
    ServiceType, SessionAffinity, TrafficPolicy,
};
use plan::{LocalTraffic, NodePortAddresses, Plan, Planner, PortKey, Settings};

use super::driver::{Driver, SyncError, Synced};
use super::engine::{Engine, Observer, SyncReport};
use super::schedule::{Intervals, Work};

/// Recorded calls, and the answers to give.
#[derive(Default)]
struct Script {
    log: Vec<String>,
    fail: usize,
    disturbed: bool,
    quarantine: Option<PortKey>,
    observed: Vec<String>,
}

#[derive(Clone, Default)]
struct Fake(Rc<RefCell<Script>>);

impl Fake {
    fn answer(&self, entry: String) -> Result<Synced, SyncError> {
        let mut script = self.0.borrow_mut();
        script.log.push(entry);
        if script.fail > 0 {
            script.fail -= 1;
            return Err(SyncError::Rejected {
                what: "the table",
                message: "refused".to_owned(),
            });
        }
        let mut synced = Synced::default();
        if let Some(key) = &script.quarantine {
            synced.quarantined.reject(key.clone(), "too long");
        }
        Ok(synced)
    }

    fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.0.borrow_mut().log)
    }
}

impl Driver for Fake {
    fn sync(&mut self, plan: &Plan, changed: &BTreeSet<PortKey>) -> Result<Synced, SyncError> {
        let sign = |key| {
            if plan.ports.contains_key(key) {
                '~'
            } else {
                '-'
            }
        };
        let names = changed.iter().map(|key| format!("{}{}", sign(key), key.0));
        self.answer(format!("changes {}", Vec::from_iter(names).join(" ")))
    }

    fn resync(&mut self, plan: &Plan) -> Result<Synced, SyncError> {
        self.answer(format!("everything {}", plan.ports.len()))
    }

    fn disturbed(&mut self, _: &Plan) -> bool {
        std::mem::take(&mut self.0.borrow_mut().disturbed)
    }
}

impl Observer for Fake {
    fn received(&mut self, services: usize, slices: usize) {
        let entry = format!("received {services} {slices}");
        self.0.borrow_mut().observed.push(entry);
    }

    fn queued(&mut self, family: IpFamily, _: Instant) {
        self.0
            .borrow_mut()
            .observed
            .push(format!("queued {family}"));
    }

    fn synced(&mut self, report: &mut SyncReport<'_>) {
        let entry = format!("synced {:?} {}", report.work, report.changes.triggers.len());
        self.0.borrow_mut().observed.push(entry);
    }

    fn failed(&mut self, _: IpFamily, work: Work, _: &SyncError) {
        self.0
            .borrow_mut()
            .observed
            .push(format!("failed {work:?}"));
    }
}

fn engine(fake: &Fake, min: Duration) -> Engine {
    engine_with(
        fake,
        Intervals {
            min,
            check: Duration::from_secs(30),
        },
    )
}

fn engine_checking_every(fake: &Fake, check: Duration) -> Engine {
    engine_with(
        fake,
        Intervals {
            min: Duration::ZERO,
            check,
        },
    )
}

fn engine_with(fake: &Fake, intervals: Intervals) -> Engine {
    engine_of(&[(IpFamily::V4, fake)], fake, intervals)
}

fn engine_of(drivers: &[(IpFamily, &Fake)], observer: &Fake, intervals: Intervals) -> Engine {
    let planner = Planner::new(Settings {
        node_name: "node1".to_owned(),
        local_traffic: LocalTraffic::ClusterCidr(Vec::new()),
        masquerade_all: false,
        node_port_addresses: NodePortAddresses::All,
    });
    let drivers = drivers.iter().map(|(family, fake)| {
        let driver: Box<dyn Driver> = Box::new((*fake).clone());
        (*family, driver)
    });
    Engine::new(
        planner,
        drivers.collect(),
        intervals,
        Box::new(observer.clone()),
        Instant::now(),
    )
}

fn service(name: &str, port: u16) -> Event {
    Event::Service(Change::Applied(Arc::new(Service {
        name: NamespacedName::new("demo", name),
        uid: "".into(),
        service_type: ServiceType::ClusterIp,
        cluster_ips: vec!["10.96.0.10".parse().unwrap()],
        headless: false,
        proxy_name: None,
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: port.try_into().unwrap(),
            node_port: None,
        }],
        external_ips: Vec::new(),
        ingress: Vec::new(),
        load_balancer_names: Box::default(),
        has_selector: true,
        source_ranges: Vec::new(),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        health_check_node_port: None,
        affinity: SessionAffinity::None,
    })))
}

fn gone(name: &str) -> Event {
    Event::Service(Change::Deleted(NamespacedName::new("demo", name)))
}

/// Run until nothing is due for a while.
fn run_for(engine: &mut Engine, time: Duration) {
    let end = Instant::now() + time;
    while let Some(next) = engine.next().filter(|n| *n <= end) {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        engine.run();
    }
}

#[test]
fn nothing_reaches_the_kernel_before_the_first_list_is_complete() {
    let fake = Fake::default();
    let mut engine = engine(&fake, Duration::ZERO);
    engine.events(vec![service("web", 80)], Instant::now());
    engine.run();
    assert_eq!(engine.next(), None);
    assert!(fake.take_log().is_empty());

    engine.complete(Instant::now());
    engine.run();
    assert_eq!(fake.take_log(), ["everything 1"]);
    assert_eq!(engine.settled(), Ok(true));
}

#[test]
fn a_family_that_is_left_out_is_counted_but_never_synced() {
    let (v4, v6) = (Fake::default(), Fake::default());
    let drivers = [(IpFamily::V4, &v4), (IpFamily::V6, &v6)];
    let intervals = Intervals {
        min: Duration::ZERO,
        check: Duration::from_secs(30),
    };
    let mut engine = engine_of(&drivers, &v4, intervals);
    engine.events(vec![service("web", 80)], Instant::now());
    engine.leave_out(vec![IpFamily::V4]);
    engine.complete(Instant::now());
    engine.events(vec![service("other", 81)], Instant::now());
    run_for(&mut engine, Duration::from_millis(20));
    assert!(v4.take_log().is_empty());
    assert_eq!(v6.take_log(), ["everything 0"]);
    assert_eq!(engine.settled(), Ok(true));
    let observed = &v4.0.borrow().observed;
    assert!(
        !observed.contains(&"queued IPv4".to_owned()),
        "{observed:?}"
    );
    let (_, sizes) = engine.sizes();
    let ports: Vec<_> = sizes.map(|sizes| (sizes.family, sizes.ports)).collect();
    assert_eq!(ports, [(IpFamily::V6, 0), (IpFamily::V4, 2)]);
    assert_eq!(engine.snapshot().plans.len(), 1);
}

#[test]
fn a_complete_empty_list_is_synced() {
    let fake = Fake::default();
    let mut engine = engine(&fake, Duration::ZERO);
    engine.complete(Instant::now());
    engine.run();
    assert_eq!(fake.take_log(), ["everything 0"]);
    // Upstream counts the first sync as queued too, so that the metric exists from then on.
    let observed = &fake.0.borrow().observed;
    assert_eq!(observed[..], ["queued IPv4", "synced Everything 0"]);
}

#[test]
fn changes_close_together_are_one_sync() {
    let fake = Fake::default();
    let mut engine = engine(&fake, Duration::from_millis(50));
    engine.complete(Instant::now());
    engine.run();
    fake.take_log();
    engine.events(vec![service("a", 80)], Instant::now());
    engine.events(vec![service("b", 81)], Instant::now());
    engine.events(vec![service("c", 82)], Instant::now());
    engine.events(vec![gone("b")], Instant::now());
    run_for(&mut engine, Duration::from_millis(200));
    assert_eq!(
        fake.take_log(),
        ["changes ~demo/a:http -demo/b:http ~demo/c:http"]
    );
}

#[test]
fn a_failed_sync_is_retried_and_followed_by_a_resync() {
    let fake = Fake::default();
    let mut engine = engine(&fake, Duration::ZERO);
    engine.complete(Instant::now());
    engine.run();
    fake.take_log();

    fake.0.borrow_mut().fail = 2;
    engine.events(vec![service("a", 80)], Instant::now());
    engine.run();
    assert_eq!(
        engine.settled(),
        Err("IPv4: the kernel rejects the table: refused".to_owned())
    );
    // Changes that arrive before the retry are written with it.
    engine.events(vec![service("b", 81)], Instant::now());
    run_for(&mut engine, Duration::from_secs(2));
    assert_eq!(
        fake.take_log(),
        [
            "changes ~demo/a:http",
            "changes ~demo/a:http ~demo/b:http",
            "everything 2"
        ]
    );
    assert_eq!(engine.settled(), Ok(true));
    let observed = std::mem::take(&mut fake.0.borrow_mut().observed);
    assert_eq!(
        observed.iter().filter(|o| o.starts_with("failed")).count(),
        2
    );
    assert_eq!(observed.last().unwrap(), "synced Everything 0");
}

#[test]
fn foreign_changes_cause_a_resync() {
    let fake = Fake::default();
    let mut engine = engine_checking_every(&fake, Duration::from_millis(20));
    engine.complete(Instant::now());
    engine.run();
    fake.take_log();
    run_for(&mut engine, Duration::from_millis(100));
    assert!(fake.take_log().is_empty(), "no foreign change");
    fake.0.borrow_mut().disturbed = true;
    run_for(&mut engine, Duration::from_millis(100));
    assert_eq!(fake.take_log(), ["everything 0"]);
}

#[test]
fn quarantined_ports_are_retried_at_every_check() {
    let fake = Fake::default();
    let mut engine = engine_checking_every(&fake, Duration::from_millis(20));
    engine.complete(Instant::now());
    engine.run();
    let name = ServicePortName {
        service: NamespacedName::new("demo", "a"),
        port: "http".into(),
    };
    fake.0.borrow_mut().quarantine = Some((name, Protocol::Tcp));
    engine.events(vec![service("a", 80)], Instant::now());
    engine.run();
    fake.take_log();
    run_for(&mut engine, Duration::from_millis(100));
    let log = fake.take_log();
    assert!(
        !log.is_empty() && log.iter().all(|l| l == "changes "),
        "{log:?}"
    );
    fake.0.borrow_mut().quarantine = None;
    run_for(&mut engine, Duration::from_millis(100));
    fake.take_log();
    run_for(&mut engine, Duration::from_millis(100));
    assert!(fake.take_log().is_empty(), "it is served");
}
