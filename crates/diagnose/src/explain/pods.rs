//! The pods of this node, as clients.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use trace::{Facts, Host, Origin};

use super::subject::Cluster;

/// Settings of an interface that decide about packets that enter through it.
const SETTINGS: [(&str, &str); 5] = [
    ("ipv4", "forwarding"),
    ("ipv4", "rp_filter"),
    ("ipv4", "accept_local"),
    ("ipv4", "src_valid_mark"),
    ("ipv6", "forwarding"),
];
/// How many pods with settings of their own are clients.
const MOST: usize = 8;

/// The pods of this node: those that the node treats alike, and one of each other kind.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    usual: Vec<IpAddr>,
    special: Vec<IpAddr>,
}

impl Pods {
    /// Find the pods by the objects and by the routes to single addresses behind pods' interfaces.
    pub(crate) fn of(cluster: &Cluster, facts: &Facts, host: &Host) -> Self {
        let mut all: BTreeSet<IpAddr> = cluster.pods.clone();
        let single = facts
            .routes
            .iter()
            .filter(|r| r.via.is_none() && r.dev.is_some());
        all.extend(single.filter_map(|r| {
            let net: ipnet::IpNet = r.dst.parse().ok()?;
            (net.prefix_len() == net.max_prefix_len()).then_some(net.addr())
        }));
        all.extend(
            facts
                .routes
                .iter()
                .filter_map(|r| r.dst.parse::<IpAddr>().ok()),
        );
        let is_pod =
            |ip: &IpAddr| host.guess_origin(*ip) == Origin::Pod && is_in_pod_range(cluster, *ip);
        let mut kinds: BTreeMap<(bool, Vec<String>), Vec<IpAddr>> = BTreeMap::new();
        for ip in all.into_iter().filter(is_pod) {
            let kind = (ip.is_ipv4(), treatment(ip, facts, host));
            kinds.entry(kind).or_default().push(ip);
        }
        let mut pods = Self::default();
        for is_v4 in [true, false] {
            let of_family = kinds.iter().filter(|((v4, _), _)| *v4 == is_v4);
            let mut groups: Vec<&Vec<IpAddr>> = of_family.map(|(_, ips)| ips).collect();
            groups.sort_by_key(|ips| std::cmp::Reverse(ips.len()));
            let mut groups = groups.into_iter();
            pods.usual.extend(groups.next().into_iter().flatten());
            pods.special
                .extend(groups.take(MOST).filter_map(|ips| ips.first()));
        }
        pods
    }

    /// Return a pod that the node treats as most others.
    pub(crate) fn usual(&self, is_v4: bool, not: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let mut all = self.usual.iter().chain(&self.special).copied();
        all.find(|ip| ip.is_ipv4() == is_v4 && !not(*ip))
    }

    /// Return one pod of each other kind.
    pub(crate) fn special(&self, is_v4: bool) -> impl Iterator<Item = IpAddr> {
        let all = self.special.iter().copied();
        all.filter(move |ip| ip.is_ipv4() == is_v4)
    }
}

/// Whether an address is a pod's by the Node's ranges; unknown ranges exclude nothing.
fn is_in_pod_range(cluster: &Cluster, ip: IpAddr) -> bool {
    let ranges = cluster.node.iter().flat_map(|n| &n.pod_cidrs);
    let mut of_family = ranges
        .filter(|r| r.addr().is_ipv4() == ip.is_ipv4())
        .peekable();
    of_family.peek().is_none() || of_family.any(|r| r.contains(&ip)) || cluster.pods.contains(&ip)
}

/// Describe what the node's settings and policy rules make of packets from a pod.
fn treatment(ip: IpAddr, facts: &Facts, host: &Host) -> Vec<String> {
    let mut all = Vec::new();
    if let Some(iface) = host.iface_towards(ip) {
        for (version, setting) in SETTINGS {
            let key = format!("net.{version}.conf.{}.{setting}", iface.replace('.', "/"));
            all.push(facts.sysctls.get(&key).cloned().unwrap_or_default());
        }
    }
    let is_usual = |net: &ipnet::IpNet| net.prefix_len() == 0;
    for rule in &facts.rules {
        let from = rule.from.filter(|net| !is_usual(net) && net.contains(&ip));
        let to = rule.to.filter(|net| !is_usual(net) && net.contains(&ip));
        if from.is_some() || to.is_some() {
            all.push(format!("rule {}", rule.priority));
        }
    }
    all
}
