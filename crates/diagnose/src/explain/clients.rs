//! The clients whose connections are walked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::Mode;
use netfilter::iptables::{Chain, Family, Table, Target};
use plan::FrontendKind;
use trace::Origin;

use super::probe::{Asked, Setting};
use super::ranges;
use super::sources::Outside;
use super::subject::Subject;

/// How many clients that only the rules admit are walked.
const MOST: usize = 5;

/// Whether loopback addresses may be routed.
const ROUTE_LOCALNET: &str = "net.ipv4.conf.all.route_localnet";
pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Return a documentation address (RFC 5737, RFC 3849), which no host has and no rule knows.
fn unknown(is_v4: bool) -> IpAddr {
    if is_v4 {
        Ipv4Addr::new(198, 51, 100, 7).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7).into()
    }
}

/// A client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) from: Origin,
    pub(crate) src: IpAddr,
    /// The interface through which its packets enter; `None` for the one that leads to it.
    pub(crate) iface: Option<String>,
}

impl Client {
    pub(crate) fn new(from: Origin, src: IpAddr) -> Self {
        Self {
            from,
            src,
            iface: None,
        }
    }
}

/// Return the clients to probe: a pod of this node that is no endpoint, an endpoint itself, the node,
/// and hosts outside. Cluster IPs are not meant for clients outside.
pub(crate) fn of(
    subject: &Subject<'_>,
    asked: Asked<'_>,
    node_ip: Option<IpAddr>,
    setting: Setting<'_>,
) -> Vec<Client> {
    let Asked { plan, frontend, .. } = asked;
    let is_v4 = plan.cluster_ip.is_ipv4();
    let known = setting.pods.usual(is_v4, |ip| subject.is_endpoint(ip));
    let pod = known.or_else(|| subject.pod(is_v4)).or_else(|| {
        // The last but one address of the node's range: the last that a pod gets.
        let ranges = subject.cluster.node.as_ref()?.pod_cidrs.iter();
        let range = ranges.into_iter().find(|r| r.addr().is_ipv4() == is_v4)?;
        match (range.broadcast(), is_v4) {
            (IpAddr::V4(last), true) => Some(Ipv4Addr::from_bits(last.to_bits() - 1).into()),
            (last, _) => Some(last),
        }
    });
    let mut all = Vec::new();
    let special = setting.pods.special(is_v4, !setting.is_thorough);
    all.extend(pod);
    all.extend(special.filter(|ip| Some(*ip) != pod));
    if frontend.kind == FrontendKind::ClusterIp {
        let reachable = plan.reachable();
        let mut own = reachable.iter().filter(|e| e.is_local);
        let endpoint = own.find(|e| !subject.is_own(e.ip)).map(|e| e.ip);
        all.extend(endpoint.filter(|ip| !all.contains(ip)));
    }
    let pods = all.into_iter().map(|ip| Client::new(Origin::Pod, ip));
    let mut all: Vec<Client> = pods.collect();
    all.extend(node_ip.map(|ip| Client::new(Origin::Node, ip)));
    if frontend.kind != FrontendKind::ClusterIp {
        all.extend(outside(asked, node_ip, setting));
    }
    all
}

/// Return the clients outside: one that no rule knows, those in and out of the source ranges, the one in
/// question, and those that the node treats differently.
fn outside(asked: Asked<'_>, node_ip: Option<IpAddr>, setting: Setting<'_>) -> Vec<Client> {
    let Asked { plan, frontend, .. } = asked;
    let is_v4 = asked.dst.is_ipv4();
    let mut all = vec![unknown(is_v4)];
    if frontend.kind == FrontendKind::LoadBalancerIp && !plan.source_ranges.is_empty() {
        all.extend(plan.source_ranges.first().map(ipnet::IpNet::network));
        let others = ranges::admitted(setting.world, asked.dst);
        let others = others.filter(|ip| !plan.source_ranges.iter().any(|r| r.contains(ip)));
        all.extend(others.filter(|ip| Some(*ip) != node_ip).take(MOST));
    }
    all.extend(setting.client.filter(|ip| ip.is_ipv4() == is_v4));
    let sources = setting.sources.outside.iter();
    let sources = sources.filter(|o| o.ip.is_ipv4() == is_v4);
    let sources: Vec<&Outside> = sources
        .filter(|o| setting.is_thorough || o.is_by_rule || o.detour.is_some())
        .collect();
    for client in &sources {
        if !all.contains(&client.ip) {
            all.push(client.ip);
        }
    }
    let clients = all.into_iter().map(|ip| Client::new(Origin::Outside, ip));
    let entrances = entrances(asked.dst, node_ip, setting);
    let mut clients: Vec<Client> = clients.collect();
    for client in sources {
        let Some(detour) = client.detour.as_ref() else {
            continue;
        };
        if entrances.first() == Some(detour) {
            continue;
        }
        for iface in entrances.iter().filter(|iface| *iface != detour) {
            clients.push(Client {
                iface: Some(iface.clone()),
                ..Client::new(Origin::Outside, client.ip)
            });
        }
    }
    clients
}

/// Return the interfaces through which clients outside may send to an address: the one that has it or
/// the node's address, and the one that leads to the default gateway.
fn entrances(dst: IpAddr, node_ip: Option<IpAddr>, setting: Setting<'_>) -> Vec<String> {
    let is_of_network =
        |i: &&trace::Interface| i.name != "lo" && i.kind.as_deref() != Some("dummy");
    let with = |ip: IpAddr| {
        let mut all = setting.facts.interfaces.iter().filter(is_of_network);
        all.find(|i| i.addresses.iter().any(|net| net.addr() == ip))
    };
    let own = with(dst).or_else(|| node_ip.and_then(with));
    let mut found: Vec<String> = own.map(|i| i.name.clone()).into_iter().collect();
    let default = setting.world.host.iface_towards(unknown(dst.is_ipv4()));
    found.extend(default.filter(|name| own.is_none_or(|i| i.name != *name)));
    found
}

/// Whether the rules serve a NodePort on loopback addresses, as in iptables mode unless
/// `localhostNodePorts` is false.
pub(crate) fn is_loopback_served(
    subject: &Subject<'_>,
    asked: Asked<'_>,
    setting: Setting<'_>,
) -> bool {
    let is_node_port = asked.frontend.kind == FrontendKind::NodePort && asked.dst.is_ipv4();
    let is_known = setting.facts.sysctls.contains_key(ROUTE_LOCALNET);
    if subject.mode != Mode::Iptables
        || !is_node_port
        || !is_known
        || asked.node.node_port_ips.is_some()
    {
        return false;
    }
    let services = const { Chain::literal("KUBE-SERVICES") };
    let node_ports = const { Chain::literal("KUBE-NODEPORTS") };
    let mut sets = setting.world.all_iptables();
    sets.any(|set| {
        let chain = set
            .chain(Table::Nat, services)
            .filter(|_| set.family == Family::Ipv4);
        let mut rules = chain.into_iter().flat_map(|chain| &chain.rules);
        rules.any(|rule| {
            let leads = matches!(&rule.target, Some(Target::Jump(to)) if *to == node_ports);
            leads && rule.header.destination.is_none()
        })
    })
}
