//! Node-wide parts of the plan.

use model::{Change, Event, IpFamily, Node, NodeAddress, NodeAddressType};
use plan::testing::{Applied, cidrs, ips, node, service, service_cidr, settings};
use plan::{LocalDetector, LocalTraffic, NodeFacts, NodePortAddresses, Planner, Settings};

fn facts(settings: Settings, events: impl IntoIterator<Item = Event>) -> [NodeFacts; 2] {
    let mut planner = Planner::new(settings);
    planner.set_host_addresses(ips(&[
        "127.0.0.1",
        "10.200.1.2",
        "192.0.2.9",
        "::1",
        "fd00:200:1::2",
    ]));
    planner.apply_all(events);
    planner.take_diff();
    IpFamily::ALL.map(|family| (*planner.plan(family).node).clone())
}

fn node1() -> Node {
    node(
        "node1",
        &["10.200.1.2", "fd00:200:1::2", "10.200.1.3"],
        &["10.244.1.0/24", "fd00:10:244:1::/64", "10.244.9.0/24"],
    )
}

#[test]
fn each_setting_detects_local_traffic() {
    let source = |range| LocalDetector::Source(cidrs(&[range])[0]);
    let none = || LocalDetector::None;
    let bridge = || LocalDetector::Interface("cbr0".to_owned());
    let prefix = || LocalDetector::InterfacePrefix("veth".to_owned());
    let cluster = |ranges: &[&str]| LocalTraffic::ClusterCidr(cidrs(ranges));
    let cases = [
        (cluster(&[]), [none(), none()]),
        (
            cluster(&["10.244.3.4/16", "10.0.0.0/8"]),
            [source("10.244.0.0/16"), none()],
        ),
        (
            cluster(&["fd00:10:244::/56", "10.244.0.0/16"]),
            [source("10.244.0.0/16"), source("fd00:10:244::/56")],
        ),
        (
            LocalTraffic::NodeCidr,
            [source("10.244.1.0/24"), source("fd00:10:244:1::/64")],
        ),
        (
            LocalTraffic::BridgeInterface("cbr0".to_owned()),
            [bridge(), bridge()],
        ),
        (
            LocalTraffic::InterfaceNamePrefix("veth".to_owned()),
            [prefix(), prefix()],
        ),
    ];
    for (local_traffic, expected) in cases {
        let settings = Settings {
            local_traffic: local_traffic.clone(),
            ..settings("node1")
        };
        let got = facts(settings, [node1().applied()]).map(|facts| facts.local);
        assert_eq!(got, expected, "{local_traffic:?}");
    }
    let unknown = Settings {
        local_traffic: LocalTraffic::NodeCidr,
        ..settings("node1")
    };
    let other = Node {
        name: "node2".into(),
        ..node1()
    };
    let got = facts(unknown, [other.applied()]).map(|facts| facts.local);
    assert_eq!(got, [none(), none()], "only this node's own ranges tell");
}

#[test]
fn node_ports_are_served_at_the_configured_addresses() {
    let ranges = |texts: &[&str]| NodePortAddresses::Ranges(cidrs(texts));
    let some = |texts: &[&str]| Some(ips(texts));
    let v6 = "fd00:200:1::2";
    let cases = [
        (NodePortAddresses::All, [None, None], true),
        (
            NodePortAddresses::Primary,
            [some(&["10.200.1.2"]), some(&[v6])],
            false,
        ),
        (
            ranges(&["10.200.1.0/24", "fd00:200:1::/64"]),
            [some(&["10.200.1.2"]), some(&[v6])],
            false,
        ),
        // Keywords of kube-proxy 1.37: `primary` together with ranges, independently per family.
        (
            NodePortAddresses::PrimaryAnd(cidrs(&["127.0.0.0/8", "192.0.2.0/24"])),
            [some(&["10.200.1.2", "127.0.0.1", "192.0.2.9"]), some(&[v6])],
            true,
        ),
        (
            NodePortAddresses::PrimaryAnd(cidrs(&["10.200.1.0/24"])),
            [some(&["10.200.1.2"]), some(&[v6])],
            false,
        ),
        (
            NodePortAddresses::PrimaryAnd(cidrs(&["0.0.0.0/0"])),
            [None, some(&[v6])],
            true,
        ),
        // A family without a range is not restricted.
        (
            ranges(&["192.0.2.0/24"]),
            [some(&["192.0.2.9"]), None],
            false,
        ),
        (ranges(&["::1/128"]), [None, some(&["::1"])], true),
        (ranges(&["198.51.100.0/24"]), [some(&[]), None], false),
        (ranges(&["10.200.1.0/24", "0.0.0.0/0"]), [None, None], true),
        (
            ranges(&["192.0.2.0/24", "10.0.0.0/8", "127.0.0.0/8"]),
            [some(&["10.200.1.2", "127.0.0.1", "192.0.2.9"]), None],
            true,
        ),
    ];
    for (node_port_addresses, expected, loopback) in cases {
        let case = format!("{node_port_addresses:?}");
        assert_eq!(
            node_port_addresses.contains_ipv4_loopback(),
            loopback,
            "{case}"
        );
        let settings = Settings {
            node_port_addresses,
            ..settings("node1")
        };
        let got = facts(settings, [node1().applied()]).map(|facts| facts.node_port_ips);
        assert_eq!(got, expected, "{case}");
    }
}

#[test]
fn the_node_address_is_the_first_internal_or_else_external_one() {
    let at = |kind, text: &str| NodeAddress {
        kind,
        ip: ips(&[text])[0],
    };
    let internal = |text| at(NodeAddressType::InternalIp, text);
    let external = |text| at(NodeAddressType::ExternalIp, text);
    let cases = [
        (vec![], [None, None]),
        (
            vec![external("198.51.100.1"), internal("10.0.0.1")],
            [Some("10.0.0.1"), None],
        ),
        (
            vec![
                external("198.51.100.1"),
                internal("fd00::1"),
                internal("fd00::2"),
            ],
            [Some("198.51.100.1"), Some("fd00::1")],
        ),
    ];
    for (addresses, expected) in cases {
        let node = Node {
            addresses,
            ..node1()
        };
        let got = facts(settings("node1"), [node.applied()]).map(|facts| facts.node_ip);
        assert_eq!(got, expected.map(|text| text.map(|text| ips(&[text])[0])));
    }
    let mut planner = Planner::new(Settings {
        node_port_addresses: NodePortAddresses::Primary,
        ..settings("node1")
    });
    planner.apply(node1().applied());
    planner.set_node_ips(ips(&["192.0.2.9"]));
    planner.take_diff();
    let [v4, v6] = IpFamily::ALL.map(|family| planner.plan(family).node.clone());
    assert_eq!(
        v4.node_ip,
        Some(ips(&["192.0.2.9"])[0]),
        "the operator knows best"
    );
    assert_eq!(v4.node_port_ips, Some(ips(&["192.0.2.9"])));
    assert_eq!(v6.node_ip, Some(ips(&["fd00:200:1::2"])[0]));
}

#[test]
fn service_cidrs_are_collected_by_family() {
    let kubernetes = service_cidr("kubernetes", &["10.97.0.0/16", "fd00:10:96::/108"]);
    let more = service_cidr("more", &["10.96.0.0/16"]);
    let again = service_cidr("again", &["10.96.0.0/16"]);
    let mut planner = Planner::new(settings("node1"));
    planner.apply_all([kubernetes.applied(), more.applied(), again.applied()]);
    planner.take_diff();
    let ranges = |planner: &Planner, family| planner.plan(family).node.service_cidrs.clone();
    assert_eq!(
        ranges(&planner, IpFamily::V4),
        cidrs(&["10.96.0.0/16", "10.97.0.0/16"])
    );
    assert_eq!(ranges(&planner, IpFamily::V6), cidrs(&["fd00:10:96::/108"]));
    planner.apply(Event::ServiceCidr(Change::Deleted("kubernetes".into())));
    let diff = planner.take_diff();
    assert!(diff.v4.ports.is_empty() && diff.v4.node.is_some());
    assert_eq!(ranges(&planner, IpFamily::V4), cidrs(&["10.96.0.0/16"]));
    assert!(ranges(&planner, IpFamily::V6).is_empty());
}

#[test]
fn a_node_change_affects_only_dependent_parts() {
    let mut planner = Planner::new(Settings {
        local_traffic: LocalTraffic::NodeCidr,
        masquerade_all: true,
        ..settings("node1")
    });
    planner.apply(service("demo/web", &["10.96.0.1"], &["http:80"]).applied());
    planner.apply(node1().applied());
    planner.take_diff();
    assert!(planner.plan(IpFamily::V4).node.masquerade_all);
    let mut moved = node1();
    moved.pod_cidrs = cidrs(&["10.244.7.0/24", "fd00:10:244:1::/64"]);
    planner.apply(moved.applied());
    let diff = planner.take_diff();
    let local = diff.v4.node.as_ref().map(|node| node.local.clone());
    assert_eq!(
        local,
        Some(LocalDetector::Source(cidrs(&["10.244.7.0/24"])[0]))
    );
    assert!(diff.v4.ports.is_empty());
    assert!(diff.v6.is_empty());
    // Deleting the Node object keeps the node's facts.
    planner.apply(Event::Node(Change::Deleted("node1".into())));
    assert!(planner.take_diff().is_empty());
}
