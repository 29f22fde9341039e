//! Interfaces, addresses, routes, policy rules and sysctls.

use std::collections::{BTreeMap, HashMap};

use anyhow::Context as _;
use kernel::Family;
use kernel::link::RtNetlink;
use kernel::link::routing::{ListedRoute, ListedRule, RouteType, RuleAction};
use kernel::sysctl::{Sysctl, SysctlTree};
use trace::{Facts, Interface, NextHop, Route, RouteKind, RoutingRule};

/// Version of the format.
const VERSION: u32 = 1;

/// Sysctls of the whole host.
const SYSCTLS: [&str; 9] = [
    "net/ipv4/ip_forward",
    "net/ipv4/fib_multipath_hash_policy",
    "net/ipv4/vs/conntrack",
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
    "net/netfilter/nf_conntrack_max",
    "net/netfilter/nf_conntrack_count",
    "net/netfilter/nf_conntrack_tcp_be_liberal",
    "net/ipv6/conf/all/forwarding",
];

/// Sysctls of each interface, and of `all` and `default`.
const OF_INTERFACE: [(&str, &str); 7] = [
    ("ipv4", "accept_local"),
    ("ipv4", "forwarding"),
    ("ipv4", "route_localnet"),
    ("ipv4", "rp_filter"),
    ("ipv4", "src_valid_mark"),
    ("ipv6", "forwarding"),
    // Since Linux 6.17.
    ("ipv6", "force_forwarding"),
];

/// Collect the facts without the rules.
pub(super) fn collect() -> anyhow::Result<Facts> {
    let mut netlink = RtNetlink::open().context("cannot read this host's interfaces")?;
    let links = netlink.links()?;
    let names: HashMap<u32, &str> = links.iter().map(|l| (l.index, l.name.as_str())).collect();
    let addresses = netlink.addresses()?;
    let interfaces: Vec<Interface> = links
        .iter()
        .map(|link| Interface {
            name: link.name.clone(),
            index: link.index,
            addresses: addresses
                .iter()
                .filter(|a| a.index == link.index)
                .map(|a| a.address)
                .collect(),
            up: link.up,
            master: link
                .controller
                .and_then(|i| names.get(&i))
                .map(|n| (*n).to_owned()),
            kind: link.kind.clone(),
        })
        .collect();
    let routes = netlink
        .routes()?
        .iter()
        .filter_map(|r| route(r, &names))
        .collect();
    let mut notes = Vec::new();
    let rules = policy(netlink.rules()?, &mut notes);
    Ok(Facts {
        version: VERSION,
        hostname: read("kernel/hostname").unwrap_or_default(),
        kernel: read("kernel/osrelease").unwrap_or_default(),
        sysctls: sysctls(&interfaces),
        proxies: proxies(),
        interfaces,
        routes,
        rules,
        notes,
        ..Facts::default()
    })
}

/// The names of programs that are a node's proxy, or contain one.
const PROXIES: [&str; 9] = [
    "kube-proxy",
    "sluice",
    "k3s",
    "k3s-server",
    "k3s-agent",
    "kubelite",
    "cilium-agent",
    "kube-router",
    "calico-node",
];
/// The inode of the initial PID namespace (`PROC_PID_INIT_INO`).
const INITIAL: u64 = 0xefff_fffc;

/// Return the proxies that run in this network namespace; `None` if not all processes are visible here.
fn proxies() -> Option<Vec<String>> {
    use std::os::unix::fs::MetadataExt as _;
    let inode = |path: &str| std::fs::metadata(path).map(|m| m.ino()).ok();
    let here = inode("/proc/thread-self/ns/net")?;
    if inode("/proc/self/ns/pid")? != INITIAL {
        return None;
    }
    let own = std::process::id();
    let mut found = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(id) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<u32>().ok())
        else {
            continue;
        };
        let name = std::fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
        let name = name.trim_end();
        let is_here = || inode(&format!("/proc/{id}/ns/net")) == Some(here);
        // sluice has other commands.
        let is_proxy = || {
            let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            name != "sluice" || line.split(|b| *b == 0).nth(1) == Some(b"proxy")
        };
        if id != own && PROXIES.contains(&name) && is_here() && is_proxy() {
            found.insert(name.to_owned());
        }
    }
    Some(found.into_iter().collect())
}

/// Return a sysctl; `None` if this kernel or namespace lacks it.
fn read(path: &'static str) -> Option<String> {
    SysctlTree::default().read(&Sysctl::new(path)).ok()
}

fn sysctls(interfaces: &[Interface]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for path in SYSCTLS {
        if let Some(value) = read(path) {
            found.insert(path.replace('/', "."), value);
        }
    }
    let tree = SysctlTree::default();
    let names = ["all", "default"].into_iter();
    for name in names.chain(interfaces.iter().map(|i| i.name.as_str())) {
        for (version, setting) in OF_INTERFACE {
            let family = match version {
                "ipv4" => netfilter::iptables::Family::Ipv4,
                _ => netfilter::iptables::Family::Ipv6,
            };
            // As in sysctl(8), `/` stands for a dot in a name.
            let key = format!("net.{version}.conf.{}.{setting}", name.replace('.', "/"));
            if let Ok(value) = tree.read(&Sysctl::of_interface(family, name, setting)) {
                found.insert(key, value);
            }
        }
    }
    found
}

/// Return the kind of a route; `None` for kinds that do not decide where packets go.
fn kind(kind: RouteType) -> Option<RouteKind> {
    Some(match kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local => RouteKind::Local,
        RouteType::Broadcast => RouteKind::Broadcast,
        RouteType::Anycast => RouteKind::Anycast,
        RouteType::Multicast => RouteKind::Multicast,
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Prohibit => RouteKind::Prohibit,
        RouteType::Throw => RouteKind::Throw,
        _ => return None,
    })
}

fn route(route: &ListedRoute, names: &HashMap<u32, &str>) -> Option<Route> {
    let name = |index: Option<u32>| Some((*names.get(&index?)?).to_owned());
    let v6 = route.destination.addr().is_ipv6();
    let is_default = route.destination.prefix_len() == 0;
    let only = match route.hops.as_slice() {
        [only] => Some(*only),
        _ => None,
    };
    let several = if only.is_some() {
        &[]
    } else {
        route.hops.as_slice()
    };
    Some(Route {
        dst: if is_default {
            "default".to_owned()
        } else {
            route.destination.to_string()
        },
        table: route.table,
        kind: kind(route.kind)?,
        dev: only.and_then(|hop| name(hop.interface)),
        via: only.and_then(|hop| hop.via),
        src: route.source,
        metric: route.metric,
        nexthops: several
            .iter()
            .map(|hop| NextHop {
                dev: name(hop.interface),
                via: hop.via,
                weight: hop.weight,
            })
            .collect(),
        family: is_default.then_some(if v6 { 6 } else { 4 }),
    })
}

/// Convert the policy rules, with a note for each that facts cannot express.
fn policy(listed: Vec<ListedRule>, notes: &mut Vec<String>) -> Vec<RoutingRule> {
    let mut rules = Vec::new();
    for rule in listed {
        let action = match rule.action {
            RuleAction::ToTable => None,
            RuleAction::Blackhole => Some(RouteKind::Blackhole),
            RuleAction::Unreachable => Some(RouteKind::Unreachable),
            RuleAction::Prohibit => Some(RouteKind::Prohibit),
            _ => {
                notes.push(format!(
                    "ip rule {} is ignored: its action is unknown",
                    rule.priority
                ));
                continue;
            }
        };
        if !rule.other.is_empty() {
            let conditions = rule.other.join(", ");
            notes.push(format!(
                "ip rule {} is ignored: unknown conditions {conditions}",
                rule.priority
            ));
            continue;
        }
        rules.push(RoutingRule {
            priority: rule.priority,
            family: match rule.family {
                Family::Ipv4 => 4,
                Family::Ipv6 => 6,
            },
            from: rule.from,
            to: rule.to,
            iif: rule.iif,
            oif: rule.oif,
            fwmark: rule.mark,
            fwmask: rule.mask,
            not: rule.not,
            table: rule.table,
            action,
        });
    }
    rules
}
