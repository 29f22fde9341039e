//! A client keeps its endpoint until the timeout after its last connection, or until the endpoint is
//! removed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use plan::{Affinity, Plan, PortKey};

use crate::fabric::{Fabric, Fate};
use crate::flows::{Flow, From};
use crate::packet::{Packet, TCP};
use crate::world::{World, configurations};
use crate::{bring, load, support};

struct Stage {
    fabric: Fabric,
    plan: Plan,
    key: PortKey,
    frontend: SocketAddr,
    world: World,
}

impl Stage {
    fn raise(name: &str, world: World) -> Self {
        let configuration = &configurations()[0];
        let plan = world.plan(configuration);
        let (key, port) = plan
            .ports
            .iter()
            .find(|(_, port)| port.affinity.is_some())
            .expect("one with affinity");
        Stage {
            fabric: Fabric::raise(name, configuration.link, world),
            key: key.clone(),
            frontend: SocketAddr::new(port.cluster_ip, port.port.get()),
            plan,
            world,
        }
    }

    /// Sync the table to the plan with this port changed.
    fn bring(&self, change: impl FnOnce(&mut plan::PortPlan)) {
        let mut plan = self.plan.clone();
        let port = plan.ports.get_mut(&self.key).expect("the port");
        change(Arc::make_mut(port));
        self.fabric.node.run(|| bring(&plan)).expect("the node");
    }

    /// Return the endpoints of ten connections.
    fn endpoints(&self, from: From, round: usize) -> BTreeSet<IpAddr> {
        let flow = Flow {
            from,
            protocol: TCP,
            destination: self.frontend,
        };
        let fates = self
            .fabric
            .fates(&[flow], round)
            .remove(&flow)
            .expect("asked");
        let endpoints = fates.into_iter().map(|fate| match fate {
            Fate::To { endpoint, .. } => endpoint.ip(),
            other => panic!("{other:?}"),
        });
        endpoints.collect()
    }

    /// Return the endpoint of ten connections of one client, which must be the same.
    fn kept(&self, round: usize) -> IpAddr {
        let endpoints = self.endpoints(From::Node, round);
        assert_eq!(endpoints.len(), 1, "{endpoints:?}");
        endpoints.into_iter().next().expect("one")
    }
}

fn keeps_endpoint_until_removal(world: World) {
    let stage = Stage::raise("affinity", world);
    stage.bring(|_| {});
    let first = stage.kept(0);
    assert_eq!(stage.kept(1), first);
    // The endpoint is removed, and the client gets another. The endpoint is added again, and the client
    // keeps the new one.
    stage.bring(|port| {
        let others = port.cluster.iter().filter(|e| e.ip != first);
        port.cluster = others.copied().collect();
        assert!(!port.cluster.is_empty());
    });
    let second = stage.kept(2);
    assert_ne!(second, first);
    stage.bring(|_| {});
    assert_eq!(stage.kept(3), second);
}

#[test]
fn a_client_keeps_its_endpoint_until_the_endpoint_is_removed() {
    keeps_endpoint_until_removal(World::V4);
    keeps_endpoint_until_removal(World::V4InV6);
}

/// nft cannot express learning from registers, so a reloaded listing lacks it: the Service is served
/// without affinity.
#[test]
fn a_reloaded_listing_balances_connections() {
    let stage = Stage::raise("saved", World::V4);
    stage.bring(|_| {});
    stage.kept(0);
    let reload = || {
        let saved = support::run("nft list table ip kube-proxy");
        support::run("nft delete table ip kube-proxy");
        load(&saved);
    };
    stage.fabric.node.run(reload).expect("the node");
    let mut seen = BTreeSet::new();
    let more = (1..60).any(|round| {
        seen.extend(stage.endpoints(From::Node, round));
        seen.len() > 1
    });
    assert!(more, "always {seen:?}");
}

/// The timeout of affinity in these tests.
const LIMIT: Duration = Duration::from_secs(4);

/// The number of clients: practically never do all of them get the same endpoints again by chance.
const CLIENTS: u8 = 40;

impl Stage {
    /// Return the endpoint of each of many clients, with one connection each.
    fn by_client(&self, port: u16) -> BTreeMap<IpAddr, IpAddr> {
        let flow = Flow {
            from: From::OtherNode,
            protocol: TCP,
            destination: self.frontend,
        };
        let packets = (0..CLIENTS).map(|number| {
            let ip = self.world.address([10, 200, 1, 40 + number].into());
            let source = SocketAddr::new(ip, port);
            let packet = Packet {
                source,
                ..flow.packet(0, self.world)
            };
            (flow, packet)
        });
        let fates = self.fabric.send(packets.collect()).into_iter();
        let endpoints = fates.map(|(_, packet, fate)| match fate {
            Fate::To { endpoint, .. } => (packet.source.ip(), endpoint.ip()),
            other => panic!("{other:?}"),
        });
        endpoints.collect()
    }

    /// Check that the timeout counts from the last connection, and that a client is forgotten after it.
    fn check_expiry(&self) {
        let mut ports = 10_000..;
        let mut next = || {
            (
                Instant::now(),
                self.by_client(ports.next().expect("a port")),
            )
        };
        // Start over if a busy machine missed the timeout.
        for _ in 0..20 {
            let (start, first) = next();
            let mut last = start;
            let mut in_time = true;
            while in_time && start.elapsed() < 2 * LIMIT {
                std::thread::sleep(LIMIT / 5);
                let (asked, again) = next();
                in_time = last.elapsed() < LIMIT;
                assert!(!in_time || again == first, "{first:?}\n{again:?}");
                last = asked;
            }
            if in_time {
                std::thread::sleep(LIMIT + Duration::from_secs(1));
                let (_, after) = next();
                assert_ne!(after, first, "the client still has its first endpoint");
                return;
            }
        }
        panic!("this machine never found the time");
    }
}

#[test]
fn affinity_timeout_starts_at_the_last_connection() {
    std::thread::scope(|scope| {
        for world in [World::V4, World::V4InV6] {
            scope.spawn(move || {
                let stage = Stage::raise("again", world);
                stage.bring(|port| {
                    let timeout_seconds = LIMIT.as_secs() as u32;
                    port.affinity = Some(Affinity { timeout_seconds });
                });
                stage.check_expiry();
            });
            // kube-proxy does the same.
            scope.spawn(move || {
                let stage = Stage::raise("theirs", world);
                let table = world.kube_proxy_rules(&configurations()[0]);
                let table = table.replace("timeout 10m", &format!("timeout {LIMIT:?}"));
                stage.fabric.node.run(|| load(&table)).expect("the node");
                stage.check_expiry();
            });
        }
    });
}
