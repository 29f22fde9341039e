//! The host's addresses, routes and sysctls, and the kernel's decisions that depend on them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::facts::{Facts, FactsError, Interface, RouteKind, RoutingRule};
use crate::packet::Origin;

const LOCAL: u32 = 255;
const MAIN: u32 = 254;
const DEFAULT: u32 = 253;

/// Everything that routing decisions depend on.
#[derive(Clone, Debug, Default)]
pub struct Host {
    interfaces: Vec<Interface>,
    routes: BTreeMap<u32, Vec<Entry>>,
    rules: Vec<RoutingRule>,
    sysctls: BTreeMap<String, String>,
    /// Addresses of this host on unknown interfaces.
    assigned: BTreeSet<IpAddr>,
    /// Whether facts exist: without interfaces and routes, routing is unknown.
    known: bool,
}

/// A route, its destination parsed.
#[derive(Clone, Debug)]
struct Entry {
    range: IpNet,
    kind: RouteKind,
    metric: u32,
    src: Option<IpAddr>,
    hops: Vec<Hop>,
}

#[derive(Clone, Debug)]
struct Hop {
    dev: Option<String>,
    via: Option<IpAddr>,
    weight: u32,
}

/// One next hop of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouteHop {
    pub(crate) kind: RouteKind,
    pub(crate) dev: Option<String>,
    pub(crate) via: Option<IpAddr>,
    pub(crate) src: Option<IpAddr>,
    pub(crate) weight: u32,
    /// The route in the syntax of `ip route`.
    pub(crate) text: String,
}

/// The route that leads to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Towards {
    /// Its kind.
    pub kind: RouteKind,
    /// Whether it is the default route.
    pub is_default: bool,
    /// The interface.
    pub dev: Option<String>,
    /// The gateway.
    pub via: Option<IpAddr>,
    /// The route in the syntax of `ip route`.
    pub text: String,
}

/// The key of a route lookup.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lookup<'a> {
    pub(crate) dst: IpAddr,
    pub(crate) src: Option<IpAddr>,
    /// `lo` for packets of this host.
    pub(crate) iif: Option<&'a str>,
    pub(crate) mark: u32,
}

/// Why the kernel drops a packet before it routes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Martian {
    pub(crate) why: String,
    /// Dropped by `rp_filter`, not because of the address.
    pub(crate) reverse_path: bool,
}

impl Martian {
    fn new(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            reverse_path: false,
        }
    }

    fn reverse_path(why: String) -> Self {
        Self {
            why,
            reverse_path: true,
        }
    }
}

impl Host {
    /// Build a host from facts.
    ///
    /// # Errors
    /// A route cannot be parsed.
    pub fn new(facts: &Facts) -> Result<Self, FactsError> {
        let mut host = Self {
            interfaces: facts.interfaces.clone(),
            rules: facts.rules.clone(),
            sysctls: facts.sysctls.clone(),
            assigned: BTreeSet::new(),
            known: !facts.interfaces.is_empty() || !facts.routes.is_empty(),
            routes: BTreeMap::new(),
        };
        host.rules.sort_by_key(|r| r.priority);
        for (index, route) in facts.routes.iter().enumerate() {
            let range = route.range().ok_or_else(|| FactsError::RouteDst {
                index,
                dst: route.dst.clone(),
            })?;
            let mut hops: Vec<Hop> = route
                .nexthops
                .iter()
                .map(|n| Hop {
                    dev: n.dev.clone(),
                    via: n.via,
                    weight: n.weight.max(1),
                })
                .collect();
            if hops.is_empty() {
                hops.push(Hop {
                    dev: route.dev.clone(),
                    via: route.via,
                    weight: 1,
                });
            }
            host.routes.entry(route.table).or_default().push(Entry {
                range,
                kind: route.kind,
                metric: route.metric,
                src: route.src,
                hops,
            });
        }
        host.derive_local();
        for table in host.routes.values_mut() {
            table.sort_by_key(|e| (std::cmp::Reverse(e.range.prefix_len()), e.metric));
        }
        Ok(host)
    }

    /// Derive from the addresses the routes that the kernel maintains itself: the `local` table, and in
    /// `main` a route to the network of each interface that is up.
    fn derive_local(&mut self) {
        let has_local = |routes: &BTreeMap<u32, Vec<Entry>>, v6| {
            routes
                .get(&LOCAL)
                .is_some_and(|t| t.iter().any(|e| is_v6(e.range.addr()) == v6))
        };
        let skip = [
            has_local(&self.routes, false),
            has_local(&self.routes, true),
        ];
        let mut local = Vec::new();
        for iface in &self.interfaces {
            for net in &iface.addresses {
                if skip[usize::from(is_v6(net.addr()))] {
                    continue;
                }
                let mut add = |range, kind| {
                    local.push(Entry {
                        range,
                        kind,
                        metric: 0,
                        src: Some(net.addr()),
                        hops: vec![Hop {
                            dev: Some(iface.name.clone()),
                            via: None,
                            weight: 1,
                        }],
                    });
                };
                add(IpNet::from(net.addr()), RouteKind::Local);
                if let IpNet::V4(v4) = net {
                    if v4.addr().is_loopback() {
                        add(net.trunc(), RouteKind::Local);
                    } else if v4.prefix_len() < 31 {
                        add(
                            IpNet::from(IpAddr::V4(v4.broadcast())),
                            RouteKind::Broadcast,
                        );
                    }
                }
            }
        }
        if !local.is_empty() {
            self.routes.entry(LOCAL).or_default().extend(local);
        }
    }

    /// Return whether anything is known about addresses and routes.
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// Return all interfaces' names.
    pub fn interface_names(&self) -> impl Iterator<Item = &str> {
        self.interfaces.iter().map(|i| i.name.as_str())
    }

    /// Return an interface by name.
    pub(crate) fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|i| i.name == name)
    }

    /// Return a sysctl as a number; `None` where it is not known.
    pub(crate) fn sysctl(&self, name: &str) -> Option<i64> {
        self.sysctls.get(name)?.trim().parse().ok()
    }

    /// Return the larger of `net.ipv4.conf.{iface}.{name}` and `all`, as the kernel does for these
    /// settings (`include/linux/inetdevice.h`).
    fn conf(&self, iface: &str, name: &str) -> Option<i64> {
        let one = self.sysctl(&format!("net.ipv4.conf.{}.{name}", iface.replace('.', "/")));
        let all = self.sysctl(&format!("net.ipv4.conf.all.{name}"));
        match (one, all) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        }
    }

    /// Return whether `route_localnet` is on for an interface (`IN_DEV_NET_ROUTE_LOCALNET`). The default is
    /// off, as in the kernel.
    pub(crate) fn route_localnet(&self, iface: Option<&str>) -> bool {
        let name = "route_localnet";
        match iface {
            Some(i) => self.conf(i, name),
            None => self.sysctl("net.ipv4.conf.all.route_localnet"),
        }
        .is_some_and(|v| v != 0)
    }

    /// Return whether packets from this interface are forwarded; `None` if that is not known. For IPv6,
    /// only the setting of the whole host decides, except that an interface can force forwarding
    /// (`ip6_forward`).
    pub(crate) fn forwarding(&self, iface: Option<&str>, v6: bool) -> Option<bool> {
        let of_iface = |version: &str, name: &str| {
            let iface = iface?.replace('.', "/");
            self.sysctl(&format!("net.{version}.conf.{iface}.{name}"))
        };
        let setting = if v6 {
            let forced = of_iface("ipv6", "force_forwarding").filter(|v| *v != 0);
            forced.or_else(|| self.sysctl("net.ipv6.conf.all.forwarding"))
        } else {
            let all = || self.sysctl("net.ipv4.conf.all.forwarding");
            let global = || self.sysctl("net.ipv4.ip_forward").or_else(all);
            of_iface("ipv4", "forwarding").or_else(global)
        };
        setting.map(|v| v != 0)
    }

    /// Return the sysctl that decides about [`Self::forwarding`]: the interface's, unless the whole host
    /// does not forward.
    pub(crate) fn forwarding_sysctl(&self, iface: Option<&str>, v6: bool) -> String {
        let all = if v6 {
            "net.ipv6.conf.all.forwarding"
        } else {
            "net.ipv4.ip_forward"
        };
        let is_on = self.forwarding(None, v6) == Some(true);
        match iface {
            Some(name) if is_on && !v6 => {
                format!("net.ipv4.conf.{}.forwarding", name.replace('.', "/"))
            }
            _ => all.to_owned(),
        }
    }

    /// Return the type of an address for `addrtype` and `fib … type`, from the `local` table
    /// (`inet_addr_type` of `net/ipv4/fib_frontend.c`).
    pub(crate) fn addr_type(&self, ip: IpAddr) -> RouteKind {
        match ip {
            IpAddr::V4(v4) if v4.octets()[0] == 0 || v4.is_broadcast() => RouteKind::Broadcast,
            _ if ip.is_multicast() => RouteKind::Multicast,
            _ if self.assigned.contains(&ip) => RouteKind::Local,
            _ => self.find(LOCAL, ip).map_or(RouteKind::Unicast, |e| e.kind),
        }
    }

    /// Return whether an address is this host's own. Loopback always is.
    pub fn is_local(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.addr_type(ip) == RouteKind::Local
    }

    /// Take an address to be one of this host's own, without knowing on which interface.
    pub fn assign(&mut self, ip: IpAddr) {
        self.assigned.insert(ip);
    }

    /// Return the addresses that were [assigned](Self::assign).
    pub fn assigned(&self) -> impl Iterator<Item = &IpAddr> {
        self.assigned.iter()
    }

    fn find(&self, table: u32, ip: IpAddr) -> Option<&Entry> {
        let up = |h: &Hop| {
            h.dev
                .as_deref()
                .and_then(|d| self.interface(d))
                .is_none_or(|i| i.up || table == LOCAL)
        };
        self.routes.get(&table)?.iter().find(|e| {
            e.range.contains(&ip)
                && (e.hops.iter().any(up) || !matches!(e.kind, RouteKind::Unicast))
        })
    }

    /// Look a destination up by the policy rules; return all next hops of a multipath route, or nothing
    /// if no route exists.
    pub(crate) fn lookup(&self, key: &Lookup<'_>) -> Vec<RouteHop> {
        let usual =
            [(0, LOCAL), (32766, MAIN), (32767, DEFAULT)].map(|(priority, table)| RoutingRule {
                priority,
                table,
                ..RoutingRule::default()
            });
        let v6 = is_v6(key.dst);
        let has_rules = self
            .rules
            .iter()
            .any(|r| r.family == if v6 { 6 } else { 4 } || r.family == 0);
        let rules: &[RoutingRule] = if has_rules { &self.rules } else { &usual };
        for rule in rules {
            if !rule_matches(rule, key) {
                continue;
            }
            if let Some(kind) = rule.action {
                return vec![RouteHop {
                    kind,
                    dev: None,
                    via: None,
                    src: None,
                    weight: 1,
                    text: format!("rule {}", rule.priority),
                }];
            }
            match self.find(rule.table, key.dst) {
                Some(e) if e.kind == RouteKind::Throw => {}
                Some(e) => return hops(e),
                None => {}
            }
        }
        Vec::new()
    }

    /// Return the interface that leads to an address.
    pub fn iface_towards(&self, ip: IpAddr) -> Option<String> {
        self.towards(ip)?.dev
    }

    /// Return the route that leads to an address, its first next hop if it has several.
    pub fn towards(&self, ip: IpAddr) -> Option<Towards> {
        let key = Lookup {
            dst: ip,
            src: None,
            iif: None,
            mark: 0,
        };
        let hop = self.lookup(&key).into_iter().next()?;
        Some(Towards {
            kind: hop.kind,
            is_default: hop.text.starts_with("default"),
            dev: hop.dev,
            via: hop.via,
            text: hop.text,
        })
    }

    /// Return whether two addresses are neighbours on a bridge of this host, and reach each other without it:
    /// both are in one of the bridge's ranges, and neither is this host's own.
    pub(crate) fn are_bridged(&self, iface: &str, src: IpAddr, dst: IpAddr) -> bool {
        let Some(bridge) = self.interface(iface).filter(|_| self.is_bridge(iface)) else {
            return false;
        };
        let on_link = |net: &IpNet| net.contains(&src) && net.contains(&dst);
        src != dst
            && !self.is_local(src)
            && !self.is_local(dst)
            && bridge.addresses.iter().any(on_link)
    }

    /// Return whether an interface is a bridge, by its kind or because it has ports.
    pub(crate) fn is_bridge(&self, iface: &str) -> bool {
        let kind = self.interface(iface).and_then(|i| i.kind.as_deref());
        let port = |i: &Interface| i.master.as_deref() == Some(iface);
        kind == Some("bridge") || (kind.is_none() && self.interfaces.iter().any(port))
    }

    /// Return the sysctl that makes packets between a bridge's ports pass netfilter's IP hooks, and
    /// whether it is on. It does not exist without the module br_netfilter.
    pub(crate) fn bridge_calls(&self, v6: bool) -> (&'static str, bool) {
        let name = if v6 {
            "net.bridge.bridge-nf-call-ip6tables"
        } else {
            "net.bridge.bridge-nf-call-iptables"
        };
        (name, self.sysctl(name).is_some_and(|v| v != 0))
    }

    /// Guess where packets from an address start: at the node for its own addresses, at a pod for
    /// addresses that are reached without a gateway through a bridge or a veth, else outside.
    pub fn guess_origin(&self, src: IpAddr) -> Origin {
        if self.is_local(src) {
            return Origin::Node;
        }
        let key = Lookup {
            dst: src,
            src: None,
            iif: None,
            mark: 0,
        };
        let hops = self.lookup(&key);
        let Some(hop) = hops.first().filter(|w| w.via.is_none()) else {
            return Origin::Outside;
        };
        let Some(dev) = hop.dev.as_deref() else {
            return Origin::Outside;
        };
        let iface = self.interface(dev);
        let kind = iface.and_then(|i| i.kind.as_deref());
        let is_bridge = || {
            self.interfaces
                .iter()
                .any(|i| i.master.as_deref() == Some(dev))
        };
        // Names of the node's end of a pod's link, for facts without kinds.
        const PREFIXES: [&str; 6] = ["veth", "cali", "lxc", "cni", "cbr", "docker"];
        let pod = match kind {
            Some(kind) => matches!(kind, "bridge" | "veth" | "netkit"),
            None => is_bridge() || PREFIXES.iter().any(|p| dev.starts_with(p)),
        };
        if pod { Origin::Pod } else { Origin::Outside }
    }

    /// Check a packet's addresses as the kernel does before it routes an incoming packet
    /// (`ip_route_input_slow`, `net/ipv4/route.c`). IPv6 only checks for loopback.
    pub(crate) fn martian(&self, src: IpAddr, dst: IpAddr, iif: &str) -> Option<Martian> {
        if iif == "lo" {
            return None;
        }
        let (IpAddr::V4(s), IpAddr::V4(d)) = (src, dst) else {
            return (src.is_loopback() || dst.is_loopback() || src.is_multicast())
                .then(|| Martian::new("a loopback or multicast address from outside"));
        };
        if s.is_multicast() || s.is_broadcast() {
            return Some(Martian::new(format!("martian source {s}")));
        }
        if s.octets()[0] == 0 && !(s == Ipv4Addr::UNSPECIFIED && d.is_broadcast()) {
            return Some(Martian::new(format!("martian source {s}")));
        }
        if d.octets()[0] == 0 {
            return Some(Martian::new(format!("martian destination {d}")));
        }
        if !self.route_localnet(Some(iif)) {
            if s.is_loopback() {
                return Some(Martian::new(format!(
                    "martian source {s}: a loopback address from {iif}, and route_localnet is off there"
                )));
            }
            if d.is_loopback() {
                return Some(Martian::new(format!(
                    "martian destination {d}: a loopback address from {iif}, and route_localnet is off there"
                )));
            }
        }
        None
    }

    /// Check the source of a routed packet: `rp_filter`, and the host's own addresses
    /// (`fib_validate_source`). The reverse path is that of an answer that enters where the packet
    /// leaves, or through `lo` if the packet stays.
    pub(crate) fn spoofed(
        &self,
        (src, dst): (IpAddr, IpAddr),
        iif: &str,
        oif: &str,
        mark: u32,
    ) -> Option<Martian> {
        if !self.known || iif == "lo" || src.is_ipv6() {
            return None;
        }
        let accept_local = self.conf(iif, "accept_local").unwrap_or(0) != 0;
        if self.is_local(src) && !src.is_loopback() && !accept_local {
            return Some(Martian::new(format!(
                "martian source {src}: this host's own address, from {iif}"
            )));
        }
        let mode = self.conf(iif, "rp_filter").unwrap_or(0);
        if mode == 0 {
            return None;
        }
        let use_mark = self.conf(iif, "src_valid_mark").unwrap_or(0) != 0;
        let key = Lookup {
            dst: src,
            src: Some(dst),
            iif: Some(oif),
            mark: if use_mark { mark } else { 0 },
        };
        let back = self.lookup(&key);
        let same = back
            .iter()
            .any(|w| w.kind == RouteKind::Unicast && w.dev.as_deref() == Some(iif));
        let any = back.iter().any(|w| w.kind == RouteKind::Unicast) || src.is_loopback();
        let text = back
            .first()
            .map_or("no route".to_owned(), |w| w.text.clone());
        match mode {
            1 if !same => Some(Martian::reverse_path(format!(
                "rp_filter is strict on {iif} and the route back to {src} is different: {text}"
            ))),
            2 if !any => Some(Martian::reverse_path(format!(
                "rp_filter is loose on {iif} and no route leads back to {src}"
            ))),
            _ => None,
        }
    }

    /// Return the address to which MASQUERADE translates. IPv4: the outgoing interface's primary
    /// address in the next hop's network, else its first address, else another interface's
    /// (`inet_select_addr`). IPv6: the source address of a new socket.
    pub(crate) fn masquerade_addr(&self, out: &str, towards: IpAddr) -> Option<IpAddr> {
        if let IpAddr::V6(dst) = towards {
            return self.source6(out, dst);
        }
        let pick = |i: &Interface| {
            let usable = |a: &&IpNet| a.addr().is_ipv4() && global(a.addr());
            let all = || i.addresses.iter().filter(usable);
            let near = all().find(|a| a.contains(&towards));
            near.or_else(|| all().next()).map(IpNet::addr)
        };
        let own = self.interface(out).and_then(pick);
        own.or_else(|| self.interfaces.iter().filter(|i| i.up).find_map(pick))
    }

    /// Return the preferred source address. In this order: the destination itself, an address of the
    /// outgoing interface, one of the same kind (unique local or not), the one with the longest common
    /// prefix (RFC 6724, rules 1, 5, 6 and 8).
    fn source6(&self, out: &str, dst: std::net::Ipv6Addr) -> Option<IpAddr> {
        let up = self.interfaces.iter().filter(|i| i.up);
        let all = up.flat_map(|i| i.addresses.iter().map(move |net| (i, net)));
        let mut best = None;
        for (iface, net) in all {
            let IpAddr::V6(ip) = net.addr() else { continue };
            if !global(net.addr()) {
                continue;
            }
            let common = (ip.to_bits() ^ dst.to_bits()).leading_zeros();
            let fit = (
                ip == dst,
                iface.name == out,
                ip.is_unique_local() == dst.is_unique_local(),
                common.min(u32::from(net.prefix_len())),
            );
            // The first of equal candidates.
            if best.is_none_or(|(before, _)| fit > before) {
                best = Some((fit, ip));
            }
        }
        best.map(|(_, ip)| ip.into())
    }
}

fn global(ip: IpAddr) -> bool {
    !ip.is_loopback() && !is_link_local(ip)
}

pub(crate) fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn is_v6(ip: IpAddr) -> bool {
    ip.is_ipv6()
}

fn rule_matches(rule: &RoutingRule, key: &Lookup<'_>) -> bool {
    let family = if is_v6(key.dst) { 6 } else { 4 };
    if rule.family != 0 && rule.family != family {
        return false;
    }
    let fwmark = rule.fwmark.is_none_or(|mark| {
        let mask = rule.fwmask.unwrap_or(u32::MAX);
        key.mark & mask == mark & mask
    });
    let from = rule
        .from
        .is_none_or(|net| net.prefix_len() == 0 || key.src.is_some_and(|ip| net.contains(&ip)));
    let to = rule.to.is_none_or(|net| net.contains(&key.dst));
    let iif = rule.iif.as_deref().is_none_or(|i| key.iif == Some(i));
    // `oif` only matches sockets that are bound to an interface.
    let oif = rule.oif.is_none();
    (fwmark && from && to && iif && oif) != rule.not
}

fn hops(e: &Entry) -> Vec<RouteHop> {
    e.hops
        .iter()
        .map(|h| {
            let mut text = if e.kind == RouteKind::Unicast {
                String::new()
            } else {
                format!("{:?} ", e.kind).to_lowercase()
            };
            if e.range.prefix_len() == 0 {
                text.push_str("default");
            } else if e.range.prefix_len() == e.range.max_prefix_len() {
                text.push_str(&e.range.addr().to_string());
            } else {
                text.push_str(&e.range.to_string());
            }
            if let Some(via) = h.via {
                text.push_str(&format!(" via {via}"));
            }
            if let Some(dev) = &h.dev {
                text.push_str(&format!(" dev {dev}"));
            }
            RouteHop {
                kind: e.kind,
                dev: h.dev.clone(),
                via: h.via,
                src: e.src,
                weight: h.weight,
                text,
            }
        })
        .collect()
}
