//! The sequencing with a kernel and a relay in memory, which check after every operation that
//! connections are treated correctly.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use model::{IpFamily, Protocol};
use netfilter::nft::table::Contents;
use netfilter::nft::{Data, Op, Value};
use plan::testing::{Applied, endpoint, history, service, settings, slice};
use plan::{NodeFacts, Plan, Planner, PortChange, PortKey};
use proptest::prelude::*;

use super::super::*;
use super::planned;
use crate::Refusal;

const RELAY_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const SETTINGS: Settings = Settings {
    mark: 0x4000,
    localhost_node_ports: false,
};

#[derive(Debug, PartialEq, Eq)]
struct Failed;

#[derive(Default)]
struct Host {
    table: Option<Contents>,
    /// Bound sockets, and whether they are served.
    sockets: BTreeMap<Socket, bool>,
    /// Ports in use by other programs.
    occupied: BTreeSet<u16>,
    /// Other addresses than `RELAY_IP` to listen on.
    address: Option<IpAddr>,
    operations: usize,
    /// The number of the operation that fails, and whether it takes effect nevertheless.
    fault: Option<(usize, bool)>,
    /// An earlier process left the table; nothing listens yet.
    restarting: bool,
    /// The next attempt to serve fails: another program took the port.
    stolen: bool,
}

impl Host {
    /// Count an operation. Fail before it if the fault is due without effect; return whether to fail
    /// after it.
    fn begin(&mut self) -> Result<bool, Failed> {
        let number = self.operations;
        self.operations += 1;
        match self.fault {
            Some((at, false)) if at == number => Err(Failed),
            Some((at, true)) if at == number => Ok(true),
            _ => Ok(false),
        }
    }

    /// The process ends: its sockets close, its table stays.
    fn restart(&mut self) {
        self.sockets.clear();
        self.restarting = true;
    }

    fn end(&self, fails: bool) -> Result<(), Failed> {
        self.check();
        if fails { Err(Failed) } else { Ok(()) }
    }

    /// Check that no connection is led to a socket that does not answer, and that no client reaches a
    /// socket to which it was not led.
    fn check(&self) {
        let Some(table) = &self.table else { return };
        let serving = self.sockets.iter().filter(|(_, served)| **served);
        let serving: BTreeSet<u16> = serving.map(|(s, _)| s.address.port()).collect();
        for set in [
            SetId::Frontends,
            SetId::NodePorts,
            SetId::OutsideFrontends,
            SetId::OutsideNodePorts,
        ] {
            for element in table.sets[set.name()].elements.values() {
                if self.restarting {
                    continue;
                }
                let Data::Value(port) = &element.data else {
                    panic!("{element:?}")
                };
                let port = u16::from_be_bytes(port.as_bytes().try_into().expect("a port"));
                assert!(serving.contains(&port), "led to port {port}, which refuses");
            }
        }
        for (socket, _) in self.sockets.iter().filter(|(_, served)| **served) {
            let key = Value::EMPTY
                .with_protocol(socket.protocol.number())
                .with_port(socket.address.port());
            let guarded = &table.sets[SetId::RelayPorts.name()].elements;
            assert!(
                guarded.contains_key(&(key, false)),
                "{socket:?} is open to all"
            );
        }
    }
}

impl Transport for Host {
    type Error = Failed;

    fn relay_ip(&mut self, _: &NodeFacts) -> IpAddr {
        self.address.unwrap_or(RELAY_IP)
    }

    fn read(&mut self) -> Result<Option<Table>, Failed> {
        self.begin()?;
        Ok(self.table.clone().map(|contents| Table {
            contents,
            foreign: false,
        }))
    }

    fn commit(&mut self, ops: &[Op]) -> Result<(), Failed> {
        let fails = self.begin()?;
        Contents::apply(&mut self.table, ops).map_err(|_| Failed)?;
        self.restarting &= self.sockets.values().all(|served| !served);
        self.end(fails)
    }

    fn reserve(&mut self, sockets: Vec<Socket>) -> Result<Vec<Result<Socket, String>>, Failed> {
        if self.begin()? {
            return Err(Failed);
        }
        let bound = sockets.into_iter().map(|mut socket| {
            let taken: BTreeSet<u16> = self.sockets.keys().map(|s| s.address.port()).collect();
            let free = |port: &u16| !taken.contains(port) && !self.occupied.contains(port);
            let port = match socket.address.port() {
                0 => (40_000..u16::MAX).find(free),
                port => Some(port).filter(free),
            };
            socket.address.set_port(port.ok_or("in use")?);
            self.sockets.insert(socket, false);
            Ok(socket)
        });
        let bound = bound.collect();
        self.end(false)?;
        Ok(bound)
    }

    fn serve(&mut self, changes: Served) -> Result<Vec<Failed>, Failed> {
        if self.begin()? {
            return Err(Failed);
        }
        if std::mem::take(&mut self.stolen) {
            return Ok(vec![Failed]);
        }
        for (socket, served) in changes {
            match served {
                Some(_) => self.sockets.insert(socket, true),
                None => self.sockets.remove(&socket),
            };
        }
        self.end(false)?;
        Ok(Vec::new())
    }
}

/// Check that the table is the plan's, and that each socket is served.
fn settled(sync: &Sync, host: &Host, plan: &Plan) {
    let state = sync.state().expect("known");
    assert_eq!(host.table.as_ref(), Some(&state.contents()));
    assert!(state.ports().keys().eq(plan.ports.keys()));
    for (key, (port, ports)) in state.ports() {
        assert_eq!(port, &plan.ports[key]);
        assert_eq!(ports.iter().count(), listeners(port).len());
    }
    let ports = state.ports().values().flat_map(|(_, ports)| ports.iter());
    let led_to: BTreeSet<u16> = ports.collect();
    assert!(host.sockets.values().all(|served| *served));
    assert_eq!(
        host.sockets
            .keys()
            .map(|s| s.address.port())
            .collect::<BTreeSet<_>>(),
        led_to
    );
    host.check();
}

fn load(plan: &Plan) -> (Sync, Host) {
    let (mut sync, mut host) = (Sync::new(SETTINGS), Host::default());
    sync.resync(plan, &mut host).expect("no fault");
    settled(&sync, &host, plan);
    (sync, host)
}

fn keys(plan: &Plan) -> BTreeSet<PortKey> {
    plan.ports.keys().cloned().collect()
}

fn first_socket(host: &Host) -> Socket {
    *host.sockets.keys().next().expect("a socket")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any history with one fault, which may take effect or not, ends in the state of the last plan. At
    /// no time does a connection reach a half-open frontend.
    #[test]
    fn sync_converges_for_any_history_with_faults((settings, events) in history(), at in 0..40_usize, takes_effect: bool) {
        let mut planner = Planner::new(settings);
        let (mut sync, mut host) = (Sync::new(SETTINGS), Host::default());
        host.fault = Some((at, takes_effect));
        let mut changed = BTreeSet::new();
        for event in events {
            planner.apply(event);
            let diff = planner.take_diff().v4;
            changed.extend(diff.ports.iter().filter_map(PortChange::key));
            let plan = planner.plan(IpFamily::V4);
            if sync.change(plan, &changed, &mut host).is_ok() {
                changed.clear();
                settled(&sync, &host, plan);
            }
        }
        host.fault = None;
        sync.resync(planner.plan(IpFamily::V4), &mut host).expect("no fault");
        settled(&sync, &host, planner.plan(IpFamily::V4));
    }
}

#[test]
fn restart_reuses_the_relay_ports_in_the_table() {
    let plan = planned(|_| {}, &["node1"]);
    let (_, mut host) = load(&plan);
    let before = (host.table.clone(), first_socket(&host));
    host.restart();
    let mut sync = Sync::new(SETTINGS);
    sync.resync(&plan, &mut host).expect("no fault");
    settled(&sync, &host, &plan);
    assert_eq!((host.table.clone(), first_socket(&host)), before);
}

#[test]
fn occupied_port_is_replaced_by_another() {
    let plan = planned(|_| {}, &["node1"]);
    let (_, mut host) = load(&plan);
    let before = first_socket(&host);
    host.restart();
    host.occupied.insert(before.address.port());
    let mut sync = Sync::new(SETTINGS);
    sync.resync(&plan, &mut host).expect("no fault");
    settled(&sync, &host, &plan);
    assert_ne!(first_socket(&host), before);
}

#[test]
fn service_without_a_free_port_is_quarantined_until_one_is_free() {
    let plan = planned(|_| {}, &["node1"]);
    let mut host = Host {
        occupied: (40_000..=u16::MAX).collect(),
        ..Host::default()
    };
    let mut sync = Sync::new(SETTINGS);
    sync.resync(&plan, &mut host).expect("no fault");
    let key = plan.ports.keys().next().expect("a port");
    let rejected = Refusal::Rejected("in use".to_owned());
    assert_eq!(
        sync.refused().iter().collect::<Vec<_>>(),
        [(key, &rejected)]
    );
    host.occupied.clear();
    sync.change(&plan, &keys(&plan), &mut host)
        .expect("no fault");
    assert!(sync.refused().is_empty());
    settled(&sync, &host, &plan);
}

#[test]
fn port_stolen_between_two_steps_is_replaced() {
    let plan = planned(|_| {}, &["node1"]);
    let mut host = Host {
        stolen: true,
        ..Host::default()
    };
    let mut sync = Sync::new(SETTINGS);
    assert_eq!(sync.resync(&plan, &mut host), Err(Failed));
    sync.resync(&plan, &mut host).expect("no fault");
    settled(&sync, &host, &plan);
}

#[test]
fn sockets_move_with_the_address_of_the_node() {
    let plan = planned(|_| {}, &["node1"]);
    let (mut sync, mut host) = load(&plan);
    let moved = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 99));
    host.address = Some(moved);
    let mut next = plan.clone();
    next.node = std::sync::Arc::new(NodeFacts {
        node_ip: Some(moved),
        ..(*plan.node).clone()
    });
    sync.change(&next, &BTreeSet::new(), &mut host)
        .expect("no fault");
    settled(&sync, &host, &next);
    assert_eq!(first_socket(&host).address.ip(), moved);
}

#[test]
fn sctp_is_reported_as_unsupported() {
    let plan = planned(|web| web.ports[0].protocol = Protocol::Sctp, &["node1"]);
    let (sync, host) = load(&plan);
    assert!(host.sockets.is_empty());
    let refusals: Vec<_> = sync.refused().iter().map(|(_, refusal)| refusal).collect();
    assert!(
        matches!(refusals[..], [Refusal::Unsupported(_)]),
        "{refusals:?}"
    );
}

#[test]
fn changed_table_is_noticed() {
    let plan = planned(|_| {}, &["node1"]);
    let (sync, mut host) = load(&plan);
    let found = host.read().expect("no fault");
    assert!(sync.matches(found.as_ref()));
    assert!(!sync.matches(None));
    let mut found = found.expect("a table");
    found.foreign = true;
    assert!(!sync.matches(Some(&found)));
}

#[test]
fn flows_of_a_served_port_stay_with_the_relay() {
    let mut planner = Planner::new(settings("node1"));
    let ports = ["dns:53/UDP", "dns-tcp:53"];
    planner.apply(service("demo/dns", &["10.96.0.1"], &ports).applied());
    let pods = vec![endpoint("10.244.0.1", "node1")];
    let ports = ["dns:5353/UDP", "dns-tcp:5353"];
    planner.apply(slice("dns-a", "demo/dns", &ports, pods).applied());
    planner.take_diff();
    let plan = planner.plan(IpFamily::V4);
    let (sync, host) = load(plan);
    let of = |protocol| {
        let port = plan.ports.values().find(|p| p.protocol == protocol);
        plan::StaleFlows {
            port: port.expect("a port").clone(),
            current: Vec::new(),
            keep: [].into(),
        }
    };
    // The relay answers every SYN.
    assert_eq!(sync.stale_flows(vec![of(Protocol::Tcp)]), []);
    let kept = sync.stale_flows(vec![of(Protocol::Udp)]).remove(0).keep;
    let kept: Vec<_> = kept.iter().map(|e| SocketAddr::new(e.ip, e.port)).collect();
    let mut sockets = host.sockets.keys();
    let udp = sockets.find(|socket| socket.protocol == Protocol::Udp);
    assert_eq!(kept, [udp.expect("a socket").address]);
}
