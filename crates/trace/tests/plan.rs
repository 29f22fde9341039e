//! The rules of each mode do what the plan states: for any cluster, any frontend, and every kind of
//! client.
//!
//! The expectation is derived from the plan alone. The tracer knows nothing about plans, and the modes
//! nothing about the tracer.
#![allow(missing_docs)]

mod common;

use std::net::IpAddr;

use common::modes::{self, Mode};
use dataplane::userspace::{Spread, unserved};
use model::{IpFamily, Protocol};
use plan::{Endpoint, FrontendKind, LocalDetector, Plan, PortPlan, Traffic};
use proptest::prelude::*;
use trace::{Facts, Fraction, Origin, Packet, Proto, Verdict, World, reply_to, walk};

/// The result of a connection for the client, in any mode.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    verdict: Verdict,
    dnat: Option<(IpAddr, u16)>,
    masquerade: bool,
    odds: (u128, u128),
}

fn seen(verdict: Verdict, to: Option<&Endpoint>, masquerade: bool, odds: Fraction) -> Seen {
    Seen {
        verdict,
        dnat: to.map(|e| (e.ip, e.port)),
        masquerade,
        odds: (odds.numerator(), odds.denominator()),
    }
}

/// A host with the addresses that generated clusters use.
fn facts() -> Facts {
    let mut facts = common::node_facts();
    let eth0 = &mut facts.interfaces[1].addresses;
    eth0.push("192.0.2.1/32".parse().unwrap());
    // These addresses belong to no generated endpoint.
    facts.interfaces[2].addresses = vec![
        "10.244.1.254/24".parse().unwrap(),
        "fd00:10:244:1::fe/64".parse().unwrap(),
    ];
    facts
}

fn world(mode: Mode, plan: &Plan) -> World {
    modes::world(mode, plan, &facts())
}

/// A client.
#[derive(Clone, Debug)]
struct Client {
    from: Origin,
    ip: IpAddr,
    iface: Option<&'static str>,
}

fn clients(plan: &Plan, port: &PortPlan) -> Vec<Client> {
    let v6 = plan.family == IpFamily::V6;
    let pick = |a: &str, b: &str| common::ip(if v6 { b } else { a });
    let pod_iface = match &plan.node.local {
        LocalDetector::InterfacePrefix(_) => "veth11",
        _ => "cbr0",
    };
    let pod = |ip| Client {
        from: Origin::Pod,
        ip,
        iface: Some(pod_iface),
    };
    let outside = |ip| Client {
        from: Origin::Outside,
        ip,
        iface: Some("eth0"),
    };
    let mut all = vec![
        pod(pick("10.244.1.250", "fd00:10:244:1::250")),
        Client {
            from: Origin::Node,
            ip: pick("10.200.1.2", "fd00:200:1::2"),
            iface: None,
        },
        outside(pick("198.51.100.9", "2001:db9::9")),
        outside(pick("203.0.113.99", "2001:db8::9")),
        outside(pick("10.200.1.77", "fd00:200:1::77")),
        // A pod of another node, its address kept.
        outside(pick("10.244.2.250", "fd00:10:244:2::250")),
    ];
    // Endpoints as clients of their own Service.
    for e in port.reachable().iter().take(2) {
        let own = common::node_facts();
        if own
            .interfaces
            .iter()
            .any(|i| i.addresses.iter().any(|a| a.addr() == e.ip))
        {
            continue;
        }
        all.push(if e.is_local { pod(e.ip) } else { outside(e.ip) });
    }
    all
}

fn is_pod(plan: &Plan, client: &Client) -> bool {
    match &plan.node.local {
        LocalDetector::None => false,
        LocalDetector::Source(net) => net.contains(&client.ip),
        LocalDetector::Interface(name) => client.iface == Some(name),
        LocalDetector::InterfacePrefix(p) => client.iface.is_some_and(|i| i.starts_with(p)),
    }
}

/// Whether a client that reaches itself is masqueraded, so that the answer comes from the Service. nftables and ipvs mode have one list of this node's endpoints for all Services.
fn sent_to_itself(mode: Mode, plan: &Plan, port: &PortPlan, client: &Client, e: &Endpoint) -> bool {
    let listed = || {
        let of_protocol = plan.ports.values().filter(|p| p.protocol == port.protocol);
        of_protocol
            .flat_map(|p| p.cluster.iter().chain(p.local.iter()))
            .any(|x| x.is_local && x.ip == e.ip && x.port == e.port)
    };
    e.ip == client.ip && (mode == Mode::Iptables || listed())
}

fn spread(
    (mode, plan, port): (Mode, &Plan, &PortPlan),
    client: &Client,
    which: Spread,
    masquerade: bool,
) -> Vec<Seen> {
    if mode == Mode::Userspace {
        // The relay has a port for each list of endpoints.
        let at = modes::relay_ports(plan, port).get(which).unwrap();
        let relay = Some((modes::relay_ip(plan.family), at));
        return vec![Seen {
            dnat: relay,
            ..seen(Verdict::Accept, None, false, Fraction::ONE)
        }];
    }
    let endpoints = match which {
        Spread::Cluster => &port.cluster,
        Spread::Local => &port.local,
    };
    let n = u64::try_from(endpoints.len()).unwrap();
    let Some(odds) = Fraction::new(1, n) else {
        panic!("traffic to no endpoints");
    };
    let mut all: Vec<Seen> = endpoints
        .iter()
        .map(|e| {
            let itself = sent_to_itself(mode, plan, port, client, e);
            seen(Verdict::Accept, Some(e), masquerade || itself, odds)
        })
        .collect();
    all.sort();
    all
}

/// IPVS does not distinguish pods and the node from other clients, and uses other nodes' endpoints if
/// this node has none; a virtual server without destinations refuses. Source ranges apply to incoming
/// packets.
fn expected_of_ipvs(
    plan: &Plan,
    port: &PortPlan,
    kind: FrontendKind,
    client: &Client,
    refused: bool,
) -> Vec<Seen> {
    let alone = |verdict| vec![seen(verdict, None, false, Fraction::ONE)];
    if refused && client.from != Origin::Node {
        return alone(Verdict::Drop);
    }
    let internal = kind == FrontendKind::ClusterIp;
    let local = if internal {
        port.internal_local
    } else {
        port.external_local
    };
    let which = if local && !port.local.is_empty() {
        Spread::Local
    } else if port.cluster.is_empty() {
        return alone(Verdict::Reject);
    } else {
        Spread::Cluster
    };
    let masquerade = if internal {
        let detects = plan.node.local != LocalDetector::None;
        plan.node.masquerade_all || (detects && !is_pod(plan, client))
    } else {
        !local
    };
    spread((Mode::Ipvs, plan, port), client, which, masquerade)
}

/// Whether packets leave although the plan refuses them, as in kube-proxy's iptables mode: the rules
/// that refuse external addresses are not in OUTPUT, so that packets of the node itself to another
/// host's address leave unchanged.
fn leaves_unrefused(mode: Mode, kind: FrontendKind, client: &Client, dst: IpAddr) -> bool {
    let own = facts();
    let is_own = own
        .interfaces
        .iter()
        .any(|i| i.addresses.iter().any(|a| a.addr() == dst));
    mode == Mode::Iptables
        && client.from == Origin::Node
        && kind != FrontendKind::ClusterIp
        && !is_own
}

fn expected(
    mode: Mode,
    plan: &Plan,
    port: &PortPlan,
    (kind, dst): (FrontendKind, IpAddr),
    client: &Client,
) -> Vec<Seen> {
    let alone = |verdict| vec![seen(verdict, None, false, Fraction::ONE)];
    let refused = kind == FrontendKind::LoadBalancerIp
        && !port.source_ranges.is_empty()
        && !port
            .source_ranges
            .iter()
            .any(|net| net.contains(&client.ip));
    if mode == Mode::Ipvs {
        return expected_of_ipvs(plan, port, kind, client, refused);
    }
    if mode == Mode::Userspace && unserved(port).is_some() {
        return alone(if refused {
            Verdict::Drop
        } else {
            Verdict::Reject
        });
    }
    let detects = plan.node.local != LocalDetector::None;
    let pod = is_pod(plan, client);
    if kind == FrontendKind::ClusterIp {
        let masquerade = plan.node.masquerade_all || (detects && !pod);
        return match port.internal_traffic() {
            Traffic::Reject => alone(Verdict::Reject),
            Traffic::Drop => alone(Verdict::Drop),
            Traffic::Cluster => spread((mode, plan, port), client, Spread::Cluster, masquerade),
            Traffic::Local => spread((mode, plan, port), client, Spread::Local, masquerade),
        };
    }
    let external = port.external_traffic();
    match external {
        // Source ranges apply to Services without endpoints in nftables and userspace mode, and not
        // in iptables mode, as in kube-proxy.
        Traffic::Reject if refused && mode != Mode::Iptables => alone(Verdict::Drop),
        Traffic::Reject if leaves_unrefused(mode, kind, client, dst) => alone(Verdict::Accept),
        Traffic::Reject => alone(Verdict::Reject),
        _ if refused => alone(Verdict::Drop),
        Traffic::Cluster => spread((mode, plan, port), client, Spread::Cluster, true),
        // Pods and the node itself reach all endpoints.
        Traffic::Local | Traffic::Drop if pod => {
            spread((mode, plan, port), client, Spread::Cluster, false)
        }
        Traffic::Local | Traffic::Drop if client.from == Origin::Node => {
            spread((mode, plan, port), client, Spread::Cluster, true)
        }
        Traffic::Local => spread((mode, plan, port), client, Spread::Local, false),
        Traffic::Drop => alone(Verdict::Drop),
    }
}

fn traced(world: &World, packet: &Packet) -> Vec<Seen> {
    let trace = walk(world, packet).unwrap();
    // The lists for affinity are not in iptables dumps: the client is new.
    let known = |w: &String| w.starts_with("recent: ");
    assert!(trace.warnings.iter().all(known), "{:?}", trace.warnings);
    let mut all: Vec<Seen> = trace
        .summary()
        .iter()
        .map(|s| Seen {
            verdict: s.verdict,
            dnat: s
                .dnat
                .filter(|_| s.verdict == Verdict::Accept)
                .map(|e| (e.ip, e.port)),
            masquerade: s.snat.is_some() && s.verdict == Verdict::Accept,
            odds: (s.probability.numerator(), s.probability.denominator()),
        })
        .collect();
    all.sort();
    all
}

/// Return the address of a frontend; `None` if it has none.
fn address(plan: &Plan, kind: FrontendKind, ip: Option<IpAddr>) -> Option<IpAddr> {
    if kind != FrontendKind::NodePort {
        return ip;
    }
    let v6 = plan.family == IpFamily::V6;
    let node = common::ip(if v6 { "fd00:200:1::2" } else { "10.200.1.2" });
    // A Node may state addresses that this host lacks.
    match &plan.node.node_port_ips {
        None => Some(node),
        Some(all) => all.iter().copied().find(|ip| *ip == node),
    }
}

fn check(mode: Mode, plan: &Plan) -> Result<(), TestCaseError> {
    let world = world(mode, plan);
    for port in plan.ports.values() {
        let proto = match port.protocol {
            Protocol::Tcp => Proto::TCP,
            Protocol::Udp => Proto::UDP,
            Protocol::Sctp => Proto::SCTP,
        };
        for frontend in port.frontends() {
            let Some(dst) = address(plan, frontend.kind, frontend.ip) else {
                continue;
            };
            for client in clients(plan, port) {
                let mut packet =
                    Packet::new(client.from, client.ip, dst, proto, frontend.port.get());
                packet.in_iface = client.iface.map(str::to_owned);
                let wanted = expected(mode, plan, port, (frontend.kind, dst), &client);
                let got = traced(&world, &packet);
                prop_assert_eq!(
                    got,
                    wanted,
                    "{:?} {:?} of {:?}, client {:?}\n{}",
                    mode,
                    frontend,
                    port,
                    client,
                    trace::render_tree(
                        &packet,
                        &walk(&world, &packet).unwrap(),
                        trace::Style::Plain
                    )
                );
                answers(&world, &packet)?;
            }
        }
    }
    Ok(())
}

/// Check that the client receives the answer from the address to which it connected.
fn answers(world: &World, question: &Packet) -> Result<(), TestCaseError> {
    let trace = walk(world, question).unwrap();
    for outcome in &trace.outcomes {
        let Some(answer) = reply_to(&world.host, question, outcome) else {
            prop_assert!(outcome.verdict != Verdict::Accept);
            continue;
        };
        let back = walk(world, &answer).unwrap();
        let [one] = back.outcomes.as_slice() else {
            return Err(TestCaseError::fail(format!("{answer:?}: {back:?}")));
        };
        let ends = |ip, port| trace::Endpoint { ip, port };
        prop_assert_eq!(
            (one.verdict, one.src, one.dst),
            (
                Verdict::Accept,
                ends(question.dst, question.dport),
                ends(question.src, question.sport)
            ),
            "{:?} answered by {:?}\n{}",
            question,
            answer,
            trace::render_tree(&answer, &back, trace::Style::Plain)
        );
    }
    Ok(())
}

fn check_both(mode: Mode, cluster: &plan::testing::Cluster) -> Result<(), TestCaseError> {
    let planner = cluster.planner();
    IpFamily::ALL
        .into_iter()
        .try_for_each(|family| check(mode, planner.plan(family)))
}

/// Defines the test of each mode. A mode without a test does not compile.
macro_rules! test_each_mode {
    ($($mode:ident => $test:ident,)+) => {
        proptest! {
            #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]
            $(
                #[test]
                fn $test(cluster in plan::testing::cluster()) {
                    check_both(Mode::$mode, &cluster)?;
                }
            )+
        }

        const _: fn(Mode) = |mode| match mode {
            $(Mode::$mode => {})+
        };
    };
}

test_each_mode! {
    Iptables => iptables_rules_give_the_answers_of_the_plan,
    Nftables => nftables_rules_give_the_answers_of_the_plan,
    Ipvs => ipvs_state_gives_the_answers_of_the_plan,
    Userspace => userspace_rules_give_the_answers_of_the_plan,
}
