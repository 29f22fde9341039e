//! The sync machine with a fake transport: refused pieces, failures, foreign changes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use model::{Change, Event, IngressIp, IpFamily, IpMode};
use netfilter::ipset::{self, Sets};
use netfilter::ipvs::{Destination, Op, Service, ServiceId};
use plan::PortKey;
use plan::testing::{cidrs, endpoint, ips, service, slice};

use super::host::Host;
use super::*;
use crate::{Origin, Refusals};

const NOW: Duration = Duration::ZERO;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
struct Trouble(&'static str);

/// A host that refuses and fails as ordered.
struct Fake {
    host: Host,
    interfaces: Vec<IpAddr>,
    /// Operations, elements and addresses whose text contains this are refused.
    refuses: Option<&'static str>,
    /// Tables whose rules are refused.
    refuses_table: Option<&'static str>,
    /// The next change of virtual servers takes effect, but its reply is lost.
    loses_reply: bool,
    unreadable: bool,
    /// The virtual servers whose destinations were read.
    read: Vec<ServiceId>,
    connections: u64,
    /// The number of address dumps.
    dumps: usize,
}

impl Fake {
    fn new() -> Self {
        Self {
            host: Host::new(IpFamily::V4),
            interfaces: interface_addresses(),
            refuses: None,
            refuses_table: None,
            loses_reply: false,
            unreadable: false,
            read: Vec::new(),
            connections: 0,
            dumps: 0,
        }
    }

    fn refuses(&self, text: &str) -> bool {
        self.refuses.is_some_and(|refused| text.contains(refused))
    }
}

impl Transport for Fake {
    type Error = Trouble;

    fn addresses(&mut self) -> Result<Addresses, Trouble> {
        self.dumps += 1;
        let device = self.host.device.as_ref();
        Ok(Addresses {
            interfaces: self.interfaces.clone(),
            device: device.map(|device| device.iter().copied().collect()),
        })
    }

    fn sets(&mut self) -> Result<Sets, Trouble> {
        let sets = self.host.sets.values().cloned().collect();
        Ok(Sets { sets })
    }

    fn servers(&mut self) -> Result<Vec<Service>, Trouble> {
        if self.unreadable {
            return Err(Trouble("unreadable"));
        }
        let bare = |s: &Service| Service {
            destinations: Vec::new(),
            ..s.clone()
        };
        Ok(self.host.services.values().map(bare).collect())
    }

    fn server(&mut self, id: &ServiceId) -> Result<Option<Service>, Trouble> {
        Ok(self.host.services.get(id).cloned())
    }

    fn destinations(&mut self, id: &ServiceId) -> Result<Vec<(Destination, u64)>, Trouble> {
        self.read.push(*id);
        let server = self.host.services.get(id);
        let found = server.into_iter().flat_map(|s| s.destinations.clone());
        Ok(found.map(|d| (d, self.connections)).collect())
    }

    fn rules(&mut self) -> Result<String, Trouble> {
        Ok(self.host.tables.to_string())
    }

    fn ensure_device(&mut self) -> Result<(), Trouble> {
        self.host.device.get_or_insert_default();
        Ok(())
    }

    fn change_sets(&mut self, ops: &[ipset::Op]) -> Result<Vec<RefusedElement>, Trouble> {
        let mut refused = Vec::new();
        for op in ops {
            let mut op = op.clone();
            if let ipset::Op::Create(set) = &op
                && self.refuses(&set.name)
            {
                refused.push(RefusedElement {
                    set: set.name.clone(),
                    element: None,
                    message: format!("set {}", set.name),
                });
            }
            if let ipset::Op::Add { set, elements } = &mut op {
                elements.retain(|element| {
                    let refuses = self.refuses(&element.to_string());
                    if refuses {
                        refused.push(RefusedElement {
                            set: set.clone(),
                            element: Some(element.clone()),
                            message: format!("element {element}"),
                        });
                    }
                    !refuses
                });
            }
            self.host.set_ops(&[op]);
        }
        Ok(refused)
    }

    fn restore(&mut self, input: &str) -> Result<(), RestoreFailure<Trouble>> {
        for (number, table) in input.split_inclusive("COMMIT\n").enumerate() {
            let refused = self.refuses_table.is_some_and(|t| table.starts_with(t));
            if refused {
                return Err(RestoreFailure {
                    error: Trouble("rules"),
                    rejected_after: Some(number),
                });
            }
            self.host.restore(table);
        }
        Ok(())
    }

    fn change_servers(&mut self, ops: &[Op]) -> Result<Vec<RefusedServer>, Trouble> {
        let mut refused: Vec<RefusedServer> = Vec::new();
        for op in ops {
            let id = op.service();
            let follows = refused.iter().any(|r| r.id == id);
            if follows || self.refuses(&op.to_string()) {
                let message = format!("server {op}");
                refused.push(RefusedServer { id, message });
            } else {
                self.host.server(op);
            }
        }
        if std::mem::take(&mut self.loses_reply) {
            return Err(Trouble("no reply"));
        }
        Ok(refused)
    }

    fn change_addresses(
        &mut self,
        add: &[IpAddr],
        remove: &[IpAddr],
    ) -> Result<Vec<RefusedAddress>, Trouble> {
        let mut refused = Vec::new();
        let device = self.host.device.get_or_insert_default();
        for address in add {
            let text = address.to_string();
            if self.refuses.is_some_and(|refused| text.contains(refused)) {
                let message = format!("address {address}");
                let address = *address;
                refused.push(RefusedAddress { address, message });
            } else {
                device.insert(*address);
            }
        }
        device.retain(|address| !remove.contains(address));
        Ok(refused)
    }
}

struct Bench {
    planner: Planner,
    sync: Sync,
    fake: Fake,
}

impl Bench {
    fn started() -> Self {
        let mut bench = Self {
            planner: planner("default"),
            sync: Sync::new(IpFamily::V4, options("default")),
            fake: Fake::new(),
        };
        bench.resync().unwrap();
        bench
    }

    fn resync(&mut self) -> Result<(), SyncError<Trouble>> {
        drop(self.planner.take_diff());
        let plan = self.planner.plan(IpFamily::V4);
        self.sync.resync(plan, NOW, &mut self.fake)
    }

    fn change(&mut self) -> Result<(), SyncError<Trouble>> {
        let ports = self.planner.take_diff().v4.ports;
        let changed: BTreeSet<PortKey> = ports.iter().filter_map(plan::PortChange::key).collect();
        let plan = self.planner.plan(IpFamily::V4);
        self.sync.sync(plan, &changed, NOW, &mut self.fake)
    }

    fn service(&mut self, name: &str, cluster_ip: &str) {
        let new = service(name, &[cluster_ip], &["http:80"]);
        self.apply(new);
        self.pods(name, &["10.244.2.77"]);
    }

    fn apply(&mut self, service: model::Service) {
        let event = Event::Service(Change::Applied(Arc::new(service)));
        self.planner.apply(event);
    }

    fn pods(&mut self, name: &str, pods: &[&str]) {
        let pods = pods.iter().map(|ip| endpoint(ip, "node2")).collect();
        let slice_name = format!("{}-x", name.replace('/', "-"));
        let slice = slice(&slice_name, name, &["http:8080"], pods);
        let event = Event::EndpointSlice(Change::Applied(Arc::new(slice)));
        self.planner.apply(event);
    }

    fn is_disturbed(&mut self) -> bool {
        let plan = self.planner.plan(IpFamily::V4);
        self.sync.is_disturbed(plan, NOW, &mut self.fake).unwrap()
    }

    /// Whether the kernel has the state of a fresh start.
    fn is_complete(&self) -> bool {
        let mut fresh = Fake::new();
        let mut sync = Sync::new(IpFamily::V4, options("default"));
        let plan = self.planner.plan(IpFamily::V4);
        sync.resync(plan, NOW, &mut fresh).unwrap();
        fresh.host.comparable() == self.fake.host.comparable()
    }
}

fn names_of(refusals: &Refusals) -> Vec<String> {
    refusals.keys().map(|key| key.0.to_string()).collect()
}

#[test]
fn refused_pieces_quarantine_their_port_alone() {
    // A server, an address and two elements.
    let mut bench = Bench::started();
    bench.fake.refuses = Some("10.96.77.1");
    bench.service("demo/bad", "10.96.77.1");
    bench.service("demo/good", "10.96.77.2");
    bench.change().unwrap();
    assert_eq!(names_of(bench.sync.refusals()), ["demo/bad:http"]);
    let servers = &bench.fake.host.services;
    assert!(
        servers
            .keys()
            .any(|id| id.to_string().contains("10.96.77.2"))
    );
    // Missing, but not through another program.
    assert!(!bench.is_disturbed());
    // Every sync tries again.
    bench.fake.refuses = None;
    bench.change().unwrap();
    assert!(bench.sync.refusals().is_empty());
    assert!(bench.is_complete());
}

#[test]
fn a_refused_set_is_an_error_and_quarantines_no_port() {
    let mut bench = Bench::started();
    bench.fake.host = Host::new(IpFamily::V4);
    bench.fake.refuses = Some("KUBE-NODE-PORT-UDP");
    let error = bench.resync().unwrap_err();
    assert!(
        matches!(error, SyncError::Refused { count: 1, .. }),
        "{error:?}"
    );
    assert!(bench.sync.refusals().is_empty());
    bench.fake.refuses = None;
    bench.resync().unwrap();
    assert!(bench.is_complete());
}

#[test]
fn without_its_rules_a_restricted_server_is_not_opened() {
    let mut bench = Bench::started();
    let mut balancer = service("demo/lb", &["10.96.77.1"], &["http:80"]);
    let ip = "198.51.100.77".parse().unwrap();
    balancer.ingress = vec![IngressIp {
        ip,
        mode: IpMode::Vip,
    }];
    balancer.source_ranges = cidrs(&["203.0.113.0/24"]);
    bench.apply(balancer);
    bench.pods("demo/lb", &["10.244.2.77"]);
    bench.service("demo/open", "10.96.77.2");
    bench.fake.host.tables = Host::new(IpFamily::V4).tables;
    bench.fake.refuses_table = Some("*filter");
    let error = bench.resync().unwrap_err();
    assert!(matches!(error, SyncError::Refused { .. }), "{error:?}");
    let has = |bench: &Bench, text: &str| {
        let mut ids = bench.fake.host.services.keys();
        ids.any(|id| id.to_string().contains(text))
    };
    assert!(!has(&bench, "198.51.100.77") && has(&bench, "10.96.77.2"));
    // The other table was written.
    assert!(
        bench
            .fake
            .host
            .tables
            .to_string()
            .contains("-A KUBE-POSTROUTING")
    );
    bench.fake.refuses_table = None;
    bench.resync().unwrap();
    assert!(has(&bench, "198.51.100.77"));
    assert!(bench.is_complete());
}

#[test]
fn after_a_lost_reply_the_state_is_read() {
    let mut bench = Bench::started();
    bench.service("demo/new", "10.96.77.1");
    bench.fake.loses_reply = true;
    let error = bench.change().unwrap_err();
    assert_eq!(error.to_string(), "cannot write virtual servers");
    // Adding the server again would panic in the fake host.
    bench.change().unwrap();
    assert!(bench.is_complete());
}

#[test]
fn an_unreadable_state_is_an_error_and_not_a_disturbance() {
    let mut bench = Bench::started();
    bench.fake.unreadable = true;
    let plan = bench.planner.plan(IpFamily::V4);
    let result = bench.sync.is_disturbed(plan, NOW, &mut bench.fake);
    assert!(matches!(result, Err(SyncError::Read { .. })), "{result:?}");
    assert!(bench.resync().is_err());
    bench.fake.unreadable = false;
    bench.resync().unwrap();
    assert!(bench.is_complete());
}

#[test]
fn foreign_changes_of_every_interface_are_noticed() {
    let mut bench = Bench::started();
    assert!(!bench.is_disturbed());
    let damages: [fn(&mut Host); 4] = [
        |host| {
            host.services.pop_first();
        },
        |host| {
            host.device.as_mut().unwrap().pop_first();
        },
        |host| {
            let set = host.sets.get_mut("KUBE-CLUSTER-IP").unwrap();
            set.elements.pop();
        },
        |host| host.restore("*nat\n-F KUBE-POSTROUTING\nCOMMIT\n"),
    ];
    for damage in damages {
        damage(&mut bench.fake.host);
        assert!(bench.is_disturbed());
        bench.resync().unwrap();
        assert!(!bench.is_disturbed());
        assert!(bench.is_complete());
    }
}

#[test]
fn checks_read_the_destinations_of_all_servers_in_turn() {
    let mut bench = Bench::started();
    for number in 0..1200u32 {
        let name = format!("many/s{number}");
        let ip = format!("10.98.{}.{}", number / 200, number % 200 + 1);
        bench.service(&name, &ip);
    }
    bench.change().unwrap();
    let servers = bench.fake.host.services.len();
    bench.fake.read.clear();
    assert!(!bench.is_disturbed());
    assert_eq!(bench.fake.read.len(), 1000);
    assert!(!bench.is_disturbed());
    let read: BTreeSet<ServiceId> = bench.fake.read.iter().copied().collect();
    assert_eq!(read.len(), servers);
}

#[test]
fn a_resync_dumps_the_addresses_once() {
    let mut bench = Bench::started();
    assert_eq!(bench.fake.dumps, 1);
    bench.change().unwrap();
    assert_eq!(bench.fake.dumps, 1);
    bench.resync().unwrap();
    assert_eq!(bench.fake.dumps, 2);
}

#[test]
fn terminating_destinations_are_removed_without_a_sync() {
    let mut bench = Bench::started();
    bench.service("demo/new", "10.96.77.1");
    bench.pods("demo/new", &["10.244.2.77", "10.244.2.78"]);
    bench.change().unwrap();
    bench.pods("demo/new", &["10.244.2.77"]);
    bench.fake.connections = 1;
    bench.change().unwrap();
    let count = |bench: &Bench| {
        let mut servers = bench.fake.host.services.values();
        let new = servers.find(|s| s.id.to_string().contains("10.96.77.1"));
        new.unwrap().destinations.len()
    };
    bench.sync.attend(NOW, &mut bench.fake).unwrap();
    assert_eq!(count(&bench), 2);
    let due = bench.sync.next_due().unwrap();
    assert!(due > NOW);
    bench.fake.connections = 0;
    bench.sync.attend(due, &mut bench.fake).unwrap();
    assert_eq!(count(&bench), 1);
    assert_eq!(bench.sync.next_due(), None);
}

#[test]
fn new_node_addresses_require_a_sync_only_if_they_change_something() {
    let mut bench = Bench::started();
    let changed = |bench: &mut Bench| {
        let plan = bench.planner.plan(IpFamily::V4);
        let result = bench.sync.host_addresses_changed(plan, &mut bench.fake);
        result.unwrap()
    };
    assert!(!changed(&mut bench));
    bench.fake.interfaces.extend(ips(&["10.200.7.7"]));
    assert!(changed(&mut bench));
    bench.change().unwrap();
    assert!(!changed(&mut bench));
}

#[test]
fn a_start_reports_the_state_that_it_found() {
    let mut bench = Bench::started();
    let ports = bench.planner.plan(IpFamily::V4).ports.len();
    let found = bench.sync.take_found().unwrap();
    assert_eq!(found.origin, Origin::Nothing);
    assert_eq!((found.kept, found.written), (0, ports));
    // A new process finds everything in place, then one port damaged.
    for written in [0, 1] {
        if written == 1 {
            bench.fake.host.services.pop_first();
        }
        bench.sync = Sync::new(IpFamily::V4, options("default"));
        bench.resync().unwrap();
        let found = bench.sync.take_found().unwrap();
        assert_eq!(found.origin, Origin::SameLayout);
        assert_eq!((found.kept, found.written), (ports - written, written));
    }
}
