//! The pods of this node, as clients.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use trace::{Facts, Host, Origin};

use super::sources::Sources;
use super::subject::Cluster;

/// Settings of an interface that decide about packets that enter through it.
const SETTINGS: [(&str, &str); 5] = [
    ("ipv4", "forwarding"),
    ("ipv4", "rp_filter"),
    ("ipv4", "accept_local"),
    ("ipv4", "src_valid_mark"),
    ("ipv6", "force_forwarding"),
];
/// How many pods with settings of their own are clients.
const MOST: usize = 8;

/// The pods of this node: those that the node treats alike, and one of each other kind.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    usual: Vec<IpAddr>,
    special: Vec<Special>,
}

/// A pod that the node treats differently from most.
#[derive(Clone, Copy, Debug)]
struct Special {
    ip: IpAddr,
    /// Whether rules name its range, which may concern one Service only.
    is_by_rule: bool,
}

impl Pods {
    /// Find the pods by the objects and by the routes to single addresses behind pods' interfaces.
    pub(crate) fn of(cluster: &Cluster, facts: &Facts, host: &Host, sources: &Sources) -> Self {
        let mut all: BTreeSet<IpAddr> = cluster.pods.clone();
        let single = facts
            .routes
            .iter()
            .filter(|r| r.via.is_none() && r.dev.is_some());
        all.extend(single.filter_map(|r| {
            let net: IpNet = r.dst.parse().ok()?;
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
        all.retain(is_pod);
        let imagined = sources.pods(cluster, &all);
        let mut kinds: BTreeMap<(bool, Treatment), Vec<IpAddr>> = BTreeMap::new();
        for ip in all {
            let kind = (ip.is_ipv4(), treatment(ip, facts, host, sources));
            kinds.entry(kind).or_default().push(ip);
        }
        let mut pods = Self::default();
        for is_v4 in [true, false] {
            let of_family = kinds.iter().filter(|((v4, _), _)| *v4 == is_v4);
            let mut groups: Vec<_> = of_family.collect();
            groups.sort_by_key(|(_, ips)| std::cmp::Reverse(ips.len()));
            let mut groups = groups.into_iter();
            let usual = groups.next();
            pods.usual
                .extend(usual.into_iter().flat_map(|(_, ips)| ips));
            let ranges = usual.map(|((_, treatment), _)| &treatment.ranges);
            let special = groups.take(MOST).filter_map(|((_, treatment), ips)| {
                let is_by_rule = Some(&treatment.ranges) != ranges;
                ips.first().map(|ip| Special {
                    ip: *ip,
                    is_by_rule,
                })
            });
            pods.special.extend(special);
            let imagined = imagined.iter().filter(|ip| ip.is_ipv4() == is_v4);
            pods.special.extend(imagined.map(|ip| Special {
                ip: *ip,
                is_by_rule: true,
            }));
        }
        pods
    }

    /// Return a pod that the node treats as most others.
    pub(crate) fn usual(&self, is_v4: bool, not: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let special = self.special.iter().map(|pod| pod.ip);
        let mut all = self.usual.iter().copied().chain(special);
        all.find(|ip| ip.is_ipv4() == is_v4 && !not(*ip))
    }

    /// Return one pod of each other kind; with `only_by_rules`, of those that rules distinguish.
    pub(crate) fn special(&self, is_v4: bool, only_by_rules: bool) -> impl Iterator<Item = IpAddr> {
        let all = self.special.iter();
        let all = all.filter(move |pod| pod.ip.is_ipv4() == is_v4);
        let all = all.filter(move |pod| pod.is_by_rule || !only_by_rules);
        all.map(|pod| pod.ip)
    }
}

/// Whether an address is a pod's by the Node's ranges; unknown ranges exclude nothing.
fn is_in_pod_range(cluster: &Cluster, ip: IpAddr) -> bool {
    let mut of_family = cluster
        .pod_ranges()
        .filter(|r| r.addr().is_ipv4() == ip.is_ipv4())
        .peekable();
    of_family.peek().is_none() || of_family.any(|r| r.contains(&ip)) || cluster.pods.contains(&ip)
}

/// How the node treats packets from a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Treatment {
    /// By settings and policy rules.
    settings: Vec<String>,
    /// The ranges that rules name.
    ranges: Vec<IpNet>,
}

fn treatment(ip: IpAddr, facts: &Facts, host: &Host, sources: &Sources) -> Treatment {
    let mut settings = Vec::new();
    if let Some(iface) = host.iface_towards(ip) {
        for (version, setting) in SETTINGS {
            let key = format!("net.{version}.conf.{}.{setting}", iface.replace('.', "/"));
            settings.push(facts.sysctls.get(&key).cloned().unwrap_or_default());
        }
    }
    let is_usual = |net: &IpNet| net.prefix_len() == 0;
    for rule in &facts.rules {
        let from = rule.from.filter(|net| !is_usual(net) && net.contains(&ip));
        let to = rule.to.filter(|net| !is_usual(net) && net.contains(&ip));
        if from.is_some() || to.is_some() {
            settings.push(format!("rule {}", rule.priority));
        }
    }
    let ranges = sources.by_rules.iter().filter(|net| net.contains(&ip));
    Treatment {
        settings,
        ranges: ranges.copied().collect(),
    }
}
