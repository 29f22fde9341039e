//! The rules of each mode for a plan, as text.

use std::net::IpAddr;

use model::IpFamily;
pub use model::Mode;
use netfilter::iptables::Family;
use plan::{Plan, PortPlan};

use dataplane::userspace::RelayPorts;
use trace::{Facts, World};

/// The relay's address in userspace mode.
pub fn relay_ip(family: IpFamily) -> IpAddr {
    super::ip(match family {
        IpFamily::V4 => "10.200.1.2",
        IpFamily::V6 => "fd00:200:1::2",
    })
}

/// The relay's ports for a Service port.
pub fn relay_ports(plan: &Plan, of: &PortPlan) -> RelayPorts {
    dataplane::userspace::numbered_ports(plan)[&of.key()]
}

fn userspace(plan: &Plan) -> String {
    let options = dataplane::userspace::Options {
        relay_ip: relay_ip(plan.family),
        relay_mark: 0x4000,
        localhost_node_ports: true,
    };
    dataplane::userspace::render(plan, options)
}

/// The rules, for `iptables-restore` or for `nft`.
pub fn rules(mode: Mode, plan: &Plan) -> String {
    match mode {
        Mode::Iptables => {
            let options = dataplane::iptables::Options::default();
            let rendered = dataplane::iptables::render(plan, &options).unwrap();
            assert!(rendered.problems.is_empty(), "{:?}", rendered.problems);
            rendered.tables.to_string()
        }
        Mode::Nftables => {
            dataplane::nftables::render(plan, dataplane::nftables::Options::default())
        }
        Mode::Userspace => userspace(plan),
        Mode::Ipvs => unreachable!("ipvs is more than rules"),
    }
}

pub fn rule_family(plan: &Plan) -> Family {
    match plan.family {
        IpFamily::V4 => Family::Ipv4,
        IpFamily::V6 => Family::Ipv6,
    }
}

/// The node, with the addresses of the virtual servers on a device of their own.
fn ipvs_world(plan: &Plan, facts: &Facts) -> World {
    let mut facts = facts.clone();
    let own = facts.interfaces.iter().flat_map(|i| &i.addresses);
    let own: Vec<IpAddr> = own.map(ipnet::IpNet::addr).collect();
    let options = dataplane::ipvs::Options::default();
    let rendered = dataplane::ipvs::render(plan, &options, &own).unwrap();
    facts.interfaces.push(trace::Interface {
        name: "kube-ipvs0".into(),
        index: 9,
        addresses: rendered.addresses.iter().map(|ip| (*ip).into()).collect(),
        kind: Some("dummy".into()),
        ..trace::Interface::default()
    });
    let mut world = World::from_facts(&facts).unwrap();
    let family = rendered.tables.family;
    world
        .add_iptables(family, &rendered.tables.to_string())
        .unwrap();
    world.ipsets = netfilter::ipset::Sets::parse(&rendered.sets.to_string()).unwrap();
    world.ipvs = netfilter::ipvs::Services::parse(&rendered.services.to_string()).unwrap();
    world
}

/// The node with a mode's state, read back from its text.
pub fn world(mode: Mode, plan: &Plan, facts: &Facts) -> World {
    let mut world = World::from_facts(facts).unwrap();
    let text = match mode {
        Mode::Ipvs => return ipvs_world(plan, facts),
        Mode::Iptables | Mode::Nftables | Mode::Userspace => rules(mode, plan),
    };
    let read = match mode {
        Mode::Iptables => world.add_iptables(rule_family(plan), &text),
        _ => world.add_nft(&text),
    };
    read.unwrap_or_else(|e| panic!("{e}\n{text}"));
    world
}
