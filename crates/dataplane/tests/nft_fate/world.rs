//! The objects and rules of the observed kube-proxy, and a translation of both to IPv6: only one of the
//! observed Services has IPv6 addresses.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use model::IpFamily;
use plan::{NodePortAddresses, Plan, Planner, Settings};
use serde_json::json;

/// A configuration of kube-proxy, and the link through which its local traffic enters.
#[derive(Clone)]
pub(crate) struct Configuration {
    pub(crate) name: &'static str,
    settings: Settings,
    /// The name of the pods' link.
    pub(crate) link: &'static str,
}

/// The objects and their family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum World {
    /// As observed.
    V4,
    /// As observed.
    V6,
    /// The objects observed for IPv4, with IPv6 addresses.
    V4InV6,
}

impl World {
    pub(crate) fn family(self) -> IpFamily {
        match self {
            World::V4 => IpFamily::V4,
            World::V6 | World::V4InV6 => IpFamily::V6,
        }
    }

    /// Return the address with the role of this IPv4 address.
    pub(crate) fn address(self, v4: Ipv4Addr) -> IpAddr {
        match self {
            World::V4 => v4.into(),
            World::V6 | World::V4InV6 => in_v6(v4),
        }
    }

    /// Return kube-proxy's rules for the objects, for `nft -f`.
    pub(crate) fn kube_proxy_rules(self, configuration: &Configuration) -> String {
        let read = |family| observed::configuration(configuration.name).nft(family);
        match self {
            World::V4 => read(IpFamily::V4),
            World::V6 => read(IpFamily::V6),
            World::V4InV6 => text_in_v6(&read(IpFamily::V4)),
        }
    }

    /// Return sluice's plan for the objects.
    pub(crate) fn plan(self, configuration: &Configuration) -> Plan {
        let batch = match self {
            World::V4 | World::V6 => source::read_once([observed::path("objects.json")]),
            World::V4InV6 => {
                let items = observed::objects_json();
                let mut list = json!({"apiVersion": "v1", "kind": "List", "items": items});
                objects_in_v6(&mut list);
                let folder = tempfile::tempdir().expect("a folder");
                let file = folder.path().join("objects.json");
                std::fs::write(&file, list.to_string()).expect("room");
                source::read_once([file])
            }
        };
        assert!(batch.initial_list_complete, "{:?}", batch.problems);
        let mut planner = Planner::new(configuration.settings.clone());
        let addresses = NODE_ADDRESSES.into_iter().map(|ip| self.address(ip));
        planner.set_host_addresses(addresses.collect());
        planner.apply_all(batch.events);
        planner.take_diff();
        planner.plan(self.family()).clone()
    }
}

/// The addresses of the node: the observed one, and others on both of its links that are in no range
/// of any configuration.
pub(crate) const NODE_ADDRESSES: [Ipv4Addr; 3] = [
    Ipv4Addr::new(10, 200, 1, 2),
    Ipv4Addr::new(10, 201, 1, 2),
    Ipv4Addr::new(10, 244, 1, 1),
];

/// Translate an address to IPv6 by its decimal digits: the observed pods and nodes have such addresses,
/// and those of the Service range use the last two numbers.
fn in_v6(v4: Ipv4Addr) -> IpAddr {
    let [a, b, c, d] = v4.octets();
    let text = match (a, b) {
        _ if v4.is_loopback() => "::1".to_owned(),
        (10, 96..112) => format!("fd00:10:96::{c:x}{d:02x}"),
        (10, 244) => format!("fd00:10:244:{c}::{d}"),
        (10, _) => format!("fd00:{b}:{c}::{d}"),
        _ => format!("2001:db8:{a}:{b}:{c}::{d}"),
    };
    text.parse().expect("an address")
}

fn range_in_v6(v4: Ipv4Net) -> IpNet {
    let len = match (v4.network().octets(), v4.prefix_len()) {
        ([10, 244, 0, 0], 16) => 56,
        (_, 12) => 112,
        (_, 24) => 64 + 16 * u8::from(v4.network().octets()[0] != 10),
        (_, 32) => 128,
        other => panic!("what is {other:?}?"),
    };
    IpNet::new(in_v6(v4.network()), len).expect("a range")
}

/// Translate a word to IPv6 if it is an IPv4 address or range.
fn word_in_v6(word: &str) -> Option<String> {
    let range = word.parse().map(|range| range_in_v6(range).to_string());
    let address = || word.parse().map(|address| in_v6(address).to_string());
    range.ok().or_else(|| address().ok())
}

fn text_in_v6(text: &str) -> String {
    let text = text
        .replace("table ip ", "table ip6 ")
        .replace("ipv4_addr", "ipv6_addr")
        .replace("dnat ip to", "dnat ip6 to")
        .replace("ip saddr", "ip6 saddr")
        .replace("ip daddr", "ip6 daddr");
    let mut translated = String::new();
    for piece in text.split_inclusive(|c: char| !c.is_ascii_digit() && c != '.' && c != '/') {
        let end = piece.trim_end_matches(|c: char| !c.is_ascii_digit());
        // `dnat to ADDRESS:PORT`.
        let to_port = piece.ends_with(':');
        match word_in_v6(end) {
            Some(v6) if to_port => translated += &format!("[{v6}]:"),
            Some(v6) => translated += &(v6 + piece.get(end.len()..).unwrap_or_default()),
            None => translated += piece,
        }
    }
    translated
}

/// Remove the IPv6 parts of the objects, and translate the IPv4 parts to IPv6.
fn objects_in_v6(value: &mut serde_json::Value) {
    use serde_json::Value;
    let is_v6 = |value: &Value| match value {
        Value::String(text) => {
            text == "IPv6"
                || text.parse::<std::net::Ipv6Addr>().is_ok()
                || text.parse::<ipnet::Ipv6Net>().is_ok()
        }
        other => other["addressType"] == "IPv6",
    };
    match value {
        Value::Array(items) => {
            items.retain(|item| !is_v6(item));
            items.iter_mut().for_each(objects_in_v6);
        }
        Value::Object(fields) => fields.values_mut().for_each(objects_in_v6),
        Value::String(text) if text == "IPv4" => *text = "IPv6".to_owned(),
        Value::String(text) if text == "RequireDualStack" => *text = "SingleStack".to_owned(),
        Value::String(text) => *text = word_in_v6(text).unwrap_or(std::mem::take(text)),
        _ => {}
    }
}

pub(crate) fn configurations() -> Vec<Configuration> {
    let with_link = |observed: observed::Configuration| {
        let mut settings = observed.settings();
        // The default of nftables mode.
        if settings.node_port_addresses == NodePortAddresses::All {
            settings.node_port_addresses = NodePortAddresses::Primary;
        }
        Configuration {
            name: observed.name,
            settings,
            link: match observed.name {
                "bridge" => "cbr0",
                "prefix" => "veth7",
                _ => "pods0",
            },
        }
    };
    observed::NFTABLES.map(with_link).to_vec()
}

/// Check the translation: kube-proxy's constant IPv6 rules equal its translated IPv4 rules.
#[test]
fn ipv4_rules_translated_to_ipv6_equal_those_of_kube_proxy() {
    let fixed = |text: String| -> Vec<String> {
        let start = text.find("chain filter-prerouting").expect("base chains");
        let end = text.find("chain reject-chain").expect("the last of them");
        text[start..end].lines().map(str::to_owned).collect()
    };
    for configuration in configurations() {
        let ours = fixed(World::V4InV6.kube_proxy_rules(&configuration));
        let theirs = fixed(World::V6.kube_proxy_rules(&configuration));
        assert_eq!(ours, theirs, "{}", configuration.name);
    }
}
