//! What each mode makes of a plan, as text.

use model::IpFamily;
use netfilter::iptables::Family;
use netfilter::nft::text::table_text;
use plan::{Plan, PortPlan};

use dataplane::userspace::{RelayPorts, State, TABLE, Target, listeners};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Iptables,
    Nftables,
    Ipvs,
    Userspace,
}

/// Where the relay listens in userspace mode.
pub fn relay_ip(family: IpFamily) -> std::net::IpAddr {
    super::ip(match family {
        IpFamily::V4 => "10.200.1.2",
        IpFamily::V6 => "fd00:200:1::2",
    })
}

/// The relay's ports for a Service port, as if each listener had got the next free one.
pub fn relay_ports(plan: &Plan, of: &PortPlan) -> RelayPorts {
    let mut free = 20_000_u16;
    let mut found = RelayPorts::default();
    for port in plan.ports.values() {
        for listener in listeners(port) {
            if port.key() == of.key() {
                found.set(listener.spread, free);
            }
            free += 1;
        }
    }
    found
}

fn userspace(plan: &Plan) -> String {
    let options = dataplane::userspace::Options {
        relay_ip: relay_ip(plan.family),
        relay_mark: 0x4000,
        localhost_node_ports: true,
    };
    let mut state = State::new(plan.family, options, plan.node.clone());
    let target = |port: &std::sync::Arc<PortPlan>| -> Target {
        (port.key(), Some((port.clone(), relay_ports(plan, port))))
    };
    let change = state.change(plan.ports.values().map(target).collect(), None);
    state.commit(change);
    let family = dataplane::nftables::table_family(plan.family);
    table_text(family, TABLE, &state.contents())
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
