//! What each mode makes of a plan, as text.

pub use model::Mode;

use model::IpFamily;
use netfilter::iptables::Family;
use plan::{Plan, PortPlan};

use dataplane::userspace::RelayPorts;

/// Where the relay listens in userspace mode.
pub fn relay_ip(family: IpFamily) -> std::net::IpAddr {
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
