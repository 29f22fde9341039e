//! Service ports that the kernel refuses: a new one leaves nothing in the table, a changed one keeps
//! its former version.

use std::net::IpAddr;

use model::{Change, Event, IpFamily, Service, ServiceType, SessionAffinity};
use netfilter::nft::Value;
use netfilter::nft::table::Contents;
use plan::Planner;
use plan::testing::{Applied, endpoint, name, node, service, service_cidr, settings, slice};

use super::super::*;
use super::sync::{Kernel, LIMIT, keys, settled};

const PORTS: [&str; 1] = ["http:80:30080"];

fn address(family: IpFamily, last: u8) -> String {
    match family {
        IpFamily::V4 => format!("10.96.0.{last}"),
        IpFamily::V6 => format!("fd00:10:96::{last:x}"),
    }
}

/// A NodePort Service with affinity and two external addresses.
fn web(family: IpFamily, external: &[u8]) -> Service {
    let parse = |last: &u8| address(family, *last).parse().expect("an address");
    Service {
        service_type: ServiceType::NodePort,
        external_ips: external.iter().map(parse).collect::<Vec<IpAddr>>(),
        affinity: SessionAffinity::ClientIp {
            timeout_seconds: 600,
        },
        ..service("demo/web", &[&address(family, 1)], &PORTS)
    }
}

/// Endpoints on this node.
fn local(family: IpFamily, name: &str, last: &[u8]) -> Event {
    let endpoints = last.iter().map(|n| endpoint(&address(family, *n), "node1"));
    slice(
        name,
        &format!("demo/{name}"),
        &["http:8080"],
        endpoints.collect(),
    )
    .applied()
}

/// A cluster with that Service, and another Service that shares an endpoint with it.
struct World {
    family: IpFamily,
    planner: Planner,
    kernel: Kernel,
    sync: Sync,
}

impl World {
    fn new(family: IpFamily) -> Self {
        let mut world = Self {
            family,
            planner: Planner::new(settings("node1")),
            kernel: Kernel::default(),
            sync: Sync::new(Options::default()),
        };
        world.apply(vec![
            node("node1", &["192.0.2.1", "2001:db8::1"], &[]).applied(),
            service_cidr("all", &["10.96.0.0/16", "fd00:10:96::/112"]).applied(),
            service("demo/shares", &[&address(family, 2)], &["http:80"]).applied(),
            local(family, "shares", &[101]),
        ]);
        world
    }

    fn apply(&mut self, events: Vec<Event>) {
        self.planner.apply_all(events);
        let diff = self.planner.take_diff();
        self.sync.change(&keys(diff.family(self.family)));
        self.run();
    }

    fn run(&mut self) {
        let plan = self.planner.plan(self.family);
        self.sync
            .run(plan, &mut self.kernel, LIMIT)
            .expect("no death");
    }

    fn add_web(&mut self) {
        let web = web(self.family, &[11, 12]);
        let endpoints = local(self.family, "web", &[101, 102, 103]);
        self.apply(vec![web.applied(), endpoints]);
    }

    /// From now on the kernel refuses a first endpoint for the first external address.
    fn poison(&mut self) {
        let external: IpAddr = address(self.family, 11).parse().expect("an address");
        let frontend = Value::ip(external).with_protocol(6).with_port(80);
        self.kernel.poison = Some(frontend.with_host_u32(0));
    }

    fn table(&self) -> Contents {
        self.kernel.table.clone().expect("a table")
    }

    fn settled(&self) {
        settled(&self.sync, &self.kernel, self.planner.plan(self.family));
    }
}

#[test]
fn a_refused_new_service_leaves_no_elements() {
    for family in IpFamily::ALL {
        let mut world = World::new(family);
        let before = world.table();
        world.poison();
        world.add_web();
        assert_eq!(world.sync.refused().len(), 1);
        let state = world.sync.state().expect("known");
        assert_eq!(super::swept(world.table(), state), before);
        world.kernel.poison = None;
        world.sync.retry();
        world.run();
        world.settled();
    }
}

/// A served Service with a refused change: one endpoint is replaced, and one address removed.
fn with_refused_change(family: IpFamily) -> World {
    let mut world = World::new(family);
    world.add_web();
    let before = world.table();
    world.poison();
    let endpoints = local(family, "web", &[102, 103, 104]);
    world.apply(vec![web(family, &[11]).applied(), endpoints]);
    assert_eq!(world.sync.refused().len(), 1);
    assert_eq!(world.table(), before);
    world
}

#[test]
fn a_refused_change_keeps_every_element_of_the_previous_version() {
    for family in IpFamily::ALL {
        let mut world = with_refused_change(family);
        let before = world.table();
        // Reading the table again, in this process or the next, changes nothing.
        world.sync.mark_unverified();
        world.run();
        assert_eq!(world.table(), before);
        world.sync = Sync::new(Options::default());
        world.run();
        assert_eq!(world.sync.refused().len(), 1);
        assert_eq!(world.table(), before);
        world.kernel.poison = None;
        world.sync.retry();
        world.run();
        world.settled();
    }
}

#[test]
fn elements_of_the_previous_version_survive_the_removal_of_another_service() {
    for family in IpFamily::ALL {
        let mut world = with_refused_change(family);
        let mut before = world.table();
        world.apply(vec![Event::Service(Change::Deleted(name("demo/shares")))]);
        let shares: IpAddr = address(family, 2).parse().expect("an address");
        let mut after = world.table();
        for contents in [&mut before, &mut after] {
            for set in contents.sets.values_mut() {
                let of_it = Value::ip(shares);
                set.elements
                    .retain(|(key, _), _| !key.as_bytes().starts_with(of_it.as_bytes()));
            }
        }
        assert_eq!(after.sets, before.sets);
        // The shared elements are removed with the former version.
        world.apply(vec![Event::Service(Change::Deleted(name("demo/web")))]);
        world.settled();
    }
}

#[test]
fn a_refused_service_is_retried_when_it_changes() {
    for family in IpFamily::ALL {
        let mut world = with_refused_change(family);
        let fine = Service {
            external_ips: Vec::new(),
            ..web(family, &[])
        };
        world.apply(vec![fine.applied()]);
        world.settled();
    }
}
