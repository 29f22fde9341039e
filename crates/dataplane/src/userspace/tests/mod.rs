mod sync;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use model::{IpFamily, Protocol};
use netfilter::nft::table::Contents;
use netfilter::nft::{Data, Encoder, Value, Verdict};
use plan::testing::{Applied, cluster, endpoint, history, service, settings, slice};
use plan::{FamilyDiff, Plan, Planner, PortKey, PortPlan, Traffic};
use proptest::prelude::*;

use super::*;
use crate::nftables::table_family;

fn options(family: IpFamily) -> Options {
    Options {
        relay_ip: match family {
            IpFamily::V4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            IpFamily::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        },
        relay_mark: 0x4000,
        localhost_node_ports: true,
    }
}

/// Assigns ports as the relay does: a different one for each listener.
#[derive(Default)]
struct Relay {
    ports: BTreeMap<(PortKey, Spread), u16>,
}

impl Relay {
    fn ports(&mut self, port: &PortPlan) -> RelayPorts {
        let mut ports = RelayPorts::default();
        for listener in listeners(port) {
            let free = 40_000 + u16::try_from(self.ports.len()).unwrap();
            let place = self.ports.entry((port.key(), listener.spread));
            ports.set(listener.spread, *place.or_insert(free));
        }
        ports
    }

    fn target(&mut self, key: PortKey, port: Option<Arc<PortPlan>>) -> Target {
        let target = port.map(|port| {
            let ports = self.ports(&port);
            (port, ports)
        });
        (key, target)
    }

    fn targets(&mut self, diff: &FamilyDiff) -> Vec<Target> {
        let changes = diff.ports.iter();
        changes
            .filter_map(|c| Some(self.target(c.key()?, c.after.clone())))
            .collect()
    }

    fn lower(&mut self, plan: &Plan) -> State {
        let mut state = State::new(plan.family, options(plan.family), plan.node.clone());
        let ports = plan.ports.iter();
        let all = ports.map(|(k, p)| self.target(k.clone(), Some(p.clone())));
        let change = state.change(all.collect(), None);
        state.commit(change);
        state
    }
}

fn apply(table: &mut Option<Contents>, ops: &[netfilter::nft::Op]) {
    if let Err((number, refusal)) = Contents::apply(table, ops) {
        panic!("{refusal}: {:?}", ops.get(number));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A sequence of changes leads to the table of the last plan, in a kernel that checks references
    /// and duplicates.
    #[test]
    fn incremental_changes_equal_lowering_the_last_plan((settings, events) in history()) {
        let mut planner = Planner::new(settings);
        let mut relay = Relay::default();
        let mut states: Vec<_> = IpFamily::ALL.iter().map(|family| {
            let state = relay.lower(planner.plan(*family));
            let mut table = None;
            apply(&mut table, &state.replace());
            (*family, table, state)
        }).collect();
        for event in events {
            planner.apply(event);
            let diff = planner.take_diff();
            for (family, table, state) in &mut states {
                let diff = diff.family(*family);
                let targets = relay.targets(diff);
                let new = targets.iter().filter_map(|((_, protocol), port)| {
                    let (_, ports) = port.as_ref()?;
                    Some(ports.iter().map(|port| (*protocol, port)))
                });
                apply(table, &State::guard(new.flatten()));
                let change = state.change(targets, diff.node.clone());
                apply(table, &change.ops);
                state.commit(change);
                let lowered = relay.lower(planner.plan(*family));
                prop_assert_eq!(table.as_ref(), Some(&lowered.contents()));
                prop_assert_eq!(&*state, &lowered);
            }
        }
    }

    #[test]
    fn every_feature_is_probed_at_startup(cluster in cluster()) {
        let planner = cluster.planner();
        for family in IpFamily::ALL {
            let table = Relay::default().lower(planner.plan(family)).contents();
            let tried = super::features(family);
            let untried = features::untried(&table, &tried);
            prop_assert_eq!(untried, Vec::<&netfilter::nft::Expr>::new());
        }
    }

    #[test]
    fn the_table_round_trips_through_netlink_and_replaces_another(cluster in cluster()) {
        let planner = cluster.planner();
        for family in IpFamily::ALL {
            let mut relay = Relay::default();
            let state = relay.lower(planner.plan(family));
            let encoder = Encoder { family: table_family(family), table: TABLE };
            let contents = state.contents();
            let mut read = Contents::default();
            for message in encoder.ops(&contents.create()) {
                read.add(message.decode().expect("our own message").body);
            }
            prop_assert_eq!(&read, &contents);
            let mut table = Some(relay.lower(&Plan::empty(family)).contents());
            apply(&mut table, &state.replace());
            prop_assert_eq!(table, Some(contents));
        }
    }

    /// The elements of every frontend lead to the plan's result, for both kinds of client.
    #[test]
    fn elements_lead_to_the_result_of_the_plan(cluster in cluster()) {
        let planner = cluster.planner();
        for family in IpFamily::ALL {
            let plan = planner.plan(family);
            let mut relay = Relay::default();
            let contents = relay.lower(plan).contents();
            for port in plan.ports.values() {
                let ports = relay.ports(port);
                prop_assert_eq!(ports_in(&contents, port), ports);
                for frontend in port.frontends() {
                    for outside in [false, true] {
                        let expected = expected(port, &frontend, outside, ports);
                        prop_assert_eq!(walk(&contents, port, &frontend, outside), expected);
                    }
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Relayed(Value),
    Rejected,
    Dropped,
}

fn expected(port: &PortPlan, frontend: &plan::Frontend, outside: bool, ports: RelayPorts) -> Fate {
    let at = |port: Option<u16>| Fate::Relayed(Value::port(port.expect("a listener")));
    if port.protocol == Protocol::Sctp {
        return Fate::Rejected;
    }
    let internal = frontend.kind == plan::FrontendKind::ClusterIp;
    match frontend.traffic {
        Traffic::Reject => Fate::Rejected,
        Traffic::Cluster => at(ports.cluster),
        // As the plan defines: pods and the node itself reach the cluster's endpoints.
        Traffic::Local | Traffic::Drop if !internal && !outside => at(ports.cluster),
        Traffic::Local => at(ports.local),
        Traffic::Drop => Fate::Dropped,
    }
}

/// Return the fate of a packet, derived from the sets alone.
fn walk(table: &Contents, port: &PortPlan, frontend: &plan::Frontend, outside: bool) -> Fate {
    let start = frontend.ip.map_or(Value::EMPTY, Value::ip);
    let key = start
        .with_protocol(port.protocol.number())
        .with_port(frontend.port.get());
    let [everyone, outsiders, local, no_endpoints] = match frontend.ip {
        Some(_) => [
            "frontends",
            "outside-frontends",
            "local-frontends",
            "no-endpoints",
        ],
        None => [
            "node-ports",
            "outside-node-ports",
            "local-node-ports",
            "node-port-no-endpoints",
        ],
    };
    let find = |set: &str| table.sets[set].elements.get(&(key, false));
    let led = match (outside, find(outsiders), find(local)) {
        (true, Some(element), _) => Some(element),
        (true, None, Some(_)) => None,
        _ => find(everyone),
    };
    let verdict = find(no_endpoints);
    match (led.map(|e| &e.data), verdict.map(|e| &e.data)) {
        (Some(Data::Value(port)), _) => Fate::Relayed(*port),
        (None, Some(Data::Verdict(Verdict::Drop))) => Fate::Dropped,
        (None, Some(Data::Verdict(_))) => Fate::Rejected,
        other => panic!("{}: {other:?}", port.name),
    }
}

/// The plan on node1 for one Service with endpoints on these nodes.
fn planned(edit: impl FnOnce(&mut model::Service), nodes: &[&str]) -> Plan {
    let mut planner = Planner::new(settings("node1"));
    let mut web = service("demo/web", &["10.96.0.1"], &["http:80"]);
    edit(&mut web);
    planner.apply(web.applied());
    let pods = (1_u8..).zip(nodes);
    let pods = pods.map(|(n, node)| endpoint(&format!("10.244.0.{n}"), node));
    let pods: Vec<_> = pods.collect();
    planner.apply(slice("web-a", "demo/web", &["http:8080"], pods).applied());
    planner.take_diff();
    planner.plan(IpFamily::V4).clone()
}

fn only(plan: &Plan) -> &PortPlan {
    plan.ports.values().next().expect("one port")
}

#[test]
fn a_service_has_one_listener_and_two_where_policies_differ() {
    let plan = planned(|_| {}, &["node1", "node2"]);
    let found = listeners(only(&plan));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].spread, Spread::Cluster);
    assert_eq!(found[0].endpoints.len(), 2);
    let local = |web: &mut model::Service| {
        web.service_type = model::ServiceType::NodePort;
        web.external_policy = model::TrafficPolicy::Local;
        web.ports[0].node_port = std::num::NonZeroU16::new(30_080);
    };
    let plan = planned(local, &["node1", "node2"]);
    let found = listeners(only(&plan));
    let spreads: Vec<_> = found
        .iter()
        .map(|l| (l.spread, l.endpoints.len()))
        .collect();
    assert_eq!(spreads, [(Spread::Cluster, 2), (Spread::Local, 1)]);
    // No endpoint here: only pods and the node itself are served.
    let plan = planned(local, &["node2"]);
    let found = listeners(only(&plan));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].spread, Spread::Cluster);
}

#[test]
fn service_without_endpoints_has_no_listener() {
    let plan = planned(|_| {}, &[]);
    assert_eq!(listeners(only(&plan)), []);
    let table = Relay::default().lower(&plan).contents();
    assert_eq!(table.sets["no-endpoints"].elements.len(), 1);
    assert!(table.sets["relay-ports"].elements.is_empty());
}

#[test]
fn every_port_of_the_relay_is_guarded() {
    let plan = planned(|_| {}, &["node1"]);
    let mut relay = Relay::default();
    let table = relay.lower(&plan).contents();
    let guarded: BTreeSet<Value> = table.sets["relay-ports"]
        .elements
        .keys()
        .map(|k| k.0)
        .collect();
    let opened = relay.ports.values();
    let opened = opened.map(|port| Value::EMPTY.with_protocol(6).with_port(*port));
    assert_eq!(guarded, opened.collect());
}

#[test]
fn loopback_serves_node_ports_only_if_configured() {
    let mut node = (*Plan::empty(IpFamily::V4).node).clone();
    node.node_port_ips = Some(vec![
        Ipv4Addr::LOCALHOST.into(),
        Ipv4Addr::new(192, 0, 2, 1).into(),
    ]);
    let node = Arc::new(node);
    for (asked, count) in [(true, 2), (false, 1)] {
        let options = Options {
            localhost_node_ports: asked,
            ..options(IpFamily::V4)
        };
        let table = State::new(IpFamily::V4, options, node.clone()).contents();
        assert_eq!(table.sets["node-port-ips"].elements.len(), count);
    }
}
