//! Addresses, their changes, routes and policy rules against the real kernel.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use kernel::Family;
use kernel::address::{AddressWatch, InterfaceAddress, addresses};
use kernel::link::RtNetlink;
use kernel::link::routing::{Hop, RouteType, RuleAction};
use support::{in_namespace, run};

fn listed() -> Vec<String> {
    let show = |a: &InterfaceAddress| format!("{} {} {:?}", a.interface, a.address, a.scope);
    let mut all: Vec<String> = addresses().unwrap().iter().map(show).collect();
    all.sort();
    all
}

#[test]
fn addresses_are_listed_with_their_interfaces() {
    in_namespace(|| {
        assert_eq!(listed(), ["lo 127.0.0.1/8 Host", "lo ::1/128 Host"]);
        run("ip link add kern-a type veth peer name kern-b");
        run("ip addr add 10.1.2.3/24 dev kern-a");
        run("ip addr add 10.9.0.1 peer 10.9.0.2/30 dev kern-a");
        run("ip addr add fd00::5/64 dev kern-b nodad");
        let expected = [
            "kern-a 10.1.2.3/24 Global",
            "kern-a 10.9.0.1/30 Global",
            "kern-b fd00::5/64 Global",
            "lo 127.0.0.1/8 Host",
            "lo ::1/128 Host",
        ];
        assert_eq!(listed(), expected);
        assert!(
            addresses()
                .unwrap()
                .iter()
                .all(|a| a.up == (a.interface == "lo"))
        );
    });
}

#[test]
fn a_long_address_list_is_read_from_several_messages() {
    in_namespace(|| {
        let mut commands = String::new();
        for at in 0..1500 {
            commands += &format!("addr add 10.{}.{}.1/32 dev lo\n", at / 250, at % 250);
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), commands).unwrap();
        run(&format!("ip -batch {}", file.path().display()));
        assert_eq!(addresses().unwrap().len(), 1502);
    });
}

#[test]
fn address_changes_wake_the_watch() {
    in_namespace(|| {
        let mut watch = AddressWatch::open().unwrap();
        assert!(!watch.changed().unwrap());
        for change in [
            "ip addr add 10.1.2.3/32 dev lo",
            "ip addr add fd00::1/128 dev lo",
            "ip addr del 10.1.2.3/32 dev lo",
            "ip link set lo down",
        ] {
            run(change);
            assert!(watch.wait(Duration::from_secs(5)).unwrap(), "{change}");
            assert!(watch.changed().unwrap(), "{change}");
            assert!(!watch.changed().unwrap(), "{change}");
        }
    });
}

#[test]
fn routes_and_policy_rules_are_listed_with_hops_and_conditions() {
    in_namespace(|| {
        run("ip link set lo up; ip link add kern-a type veth peer name kern-b");
        run("ip link set kern-a up; ip link set kern-b up; ip addr add 10.1.0.1/24 dev kern-a");
        run("ip addr add fd01::1/64 dev kern-a nodad");
        run("ip route add 10.2.0.0/16 metric 7 src 10.1.0.1 \
             nexthop via 10.1.0.2 weight 3 nexthop via inet6 fe80::9 dev kern-a");
        run("ip route add unreachable 10.3.0.0/16 table 300");
        run("ip -6 route add default via fd01::2");
        run(
            "ip rule add priority 9 not from 10.4.0.0/16 to 10.5.0.1 iif kern-b fwmark 0x10/0xf0 table 300",
        );
        run("ip -6 rule add priority 8 ipproto tcp dport 80 prohibit");
        let mut netlink = RtNetlink::open().unwrap();
        let index = netlink.index("kern-a").unwrap();
        let routes = netlink.routes().unwrap();
        let route = |to: &str| {
            let to: ipnet::IpNet = to.parse().unwrap();
            routes.iter().find(|r| r.destination == to).unwrap()
        };
        let hop = |via: &str, weight| Hop {
            interface: Some(index),
            via: Some(via.parse().unwrap()),
            weight,
        };
        let many = route("10.2.0.0/16");
        assert_eq!((many.metric, many.table), (7, 254));
        assert_eq!(many.source, Some("10.1.0.1".parse().unwrap()));
        assert_eq!(many.hops, [hop("10.1.0.2", 3), hop("fe80::9", 1)]);
        let unreachable = route("10.3.0.0/16");
        assert_eq!(
            (unreachable.kind, unreachable.table),
            (RouteType::Unreachable, 300)
        );
        assert_eq!(route("::/0").hops, [hop("fd01::2", 1)]);
        assert_eq!(route("10.1.0.1/32").kind, RouteType::Local);

        let rules = netlink.rules().unwrap();
        let rule = |priority| rules.iter().find(|r| r.priority == priority).unwrap();
        let marked = rule(9);
        assert_eq!(marked.from, Some("10.4.0.0/16".parse().unwrap()));
        assert_eq!(marked.to, Some("10.5.0.1/32".parse().unwrap()));
        assert_eq!(marked.iif.as_deref(), Some("kern-b"));
        assert_eq!((marked.mark, marked.mask), (Some(0x10), Some(0xf0)));
        assert_eq!((marked.not, marked.table), (true, 300));
        assert_eq!(marked.action, RuleAction::ToTable);
        assert_eq!(marked.other, [""; 0]);
        let prohibit = rule(8);
        assert_eq!(
            (prohibit.family, prohibit.action),
            (Family::Ipv6, RuleAction::Prohibit)
        );
        let other: BTreeSet<&str> = prohibit.other.iter().map(String::as_str).collect();
        assert_eq!(other, BTreeSet::from(["ipproto", "dport"]));
    });
}
