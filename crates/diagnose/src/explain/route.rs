//! Routes to endpoints that lead elsewhere.

use std::collections::BTreeSet;
use std::net::IpAddr;

use model::Node;
use trace::{Facts, Host, Interface, Origin, Outcome, RouteKind, Towards, Verdict};

use super::finding::{Cause, Finding, Weight};
use super::flows::KnownFlow;
use super::probe::Probe;
use super::subject::{Cluster, Subject};

/// Return the weight of a finding about one outcome: others may arrive.
fn weight(probe: &Probe) -> Weight {
    match probe.trace.outcomes.len() {
        1 => Weight::Broken,
        _ => Weight::Partly,
    }
}

/// Find an endpoint on this node to which only the default route leads, as when its pod's interface is
/// down.
pub(crate) fn misled(probe: &Probe) -> Option<Finding> {
    let delivered = |o: &&Outcome| o.verdict == Verdict::Accept && o.out_iface.is_some();
    for outcome in probe.trace.outcomes.iter().filter(delivered) {
        let to = outcome.dst;
        if !probe.local.contains(&to.ip) {
            continue;
        }
        let mut routes = outcome.path.iter().filter(|s| s.hook == "routing");
        let Some(step) = routes.next_back().filter(|s| s.rule.starts_with("default")) else {
            continue;
        };
        let out = outcome.out_iface.as_deref().unwrap_or_default();
        let finding = Finding::new(
            weight(probe),
            Cause::NoRoute,
            format!(
                "{}: endpoint {to} is on this node, but no route leads to its pod: the packet leaves \
                 through {out} ({})",
                probe.question(),
                step.rule
            ),
            "check that the pod runs and that its interface on this node is up (ip link, ip route); the CNI \
             has to add a route to it",
        );
        return Some(finding.decided_by(&*step.rule));
    }
    None
}

/// Find an endpoint on this node whose address is also the node's own, so that its packets do not reach the
/// pod.
fn hidden(facts: &Facts, probe: &Probe) -> Option<Finding> {
    let stays = |o: &&Outcome| o.verdict == Verdict::Accept && o.out_iface.is_none();
    let mut outcomes = probe.trace.outcomes.iter().filter(stays);
    outcomes.find_map(|outcome| {
        let to = outcome.dnat.or(probe.is_relays.then_some(outcome.dst))?;
        let is_pods = |r: &&trace::Route| {
            r.kind == RouteKind::Unicast && r.via.is_none() && r.range() == Some(to.ip.into())
        };
        let pod = facts.routes.iter().find(is_pods)?.dev.as_deref()?;
        let has = |i: &&Interface| i.addresses.iter().any(|net| net.addr() == to.ip);
        let own = &facts.interfaces.iter().find(has)?.name;
        let finding = Finding::new(
            weight(probe),
            Cause::NoRoute,
            format!(
                "{}: endpoint {to} is the pod behind {pod}, but interface {own} of this node has its \
                 address too: packets stay on the node",
                probe.question()
            ),
            format!("remove the address from the node: ip addr del {} dev {own}", to.ip),
        );
        Some(finding.decided_by(format!("{} on {own}", to.ip)))
    })
}

/// Run every check of routes that needs more than the walk.
pub(crate) fn findings(
    subject: &Subject<'_>,
    facts: &Facts,
    host: &Host,
    probes: &[Probe],
    known: &[KnownFlow],
) -> Vec<Finding> {
    let routes = Routes {
        cluster: subject.cluster,
        facts,
        host,
        known,
    };
    let mut found = elsewhere(subject.cluster, &routes, probes);
    found.extend(probes.iter().find_map(|probe| hidden(facts, probe)));
    found
}

/// Find pods on other nodes, endpoints or clients, to which no route leads but one to somewhere else.
fn elsewhere(cluster: &Cluster, routes: &Routes<'_>, probes: &[Probe]) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    let mut checked: BTreeSet<IpAddr> = BTreeSet::new();
    for probe in probes {
        let outcomes = || probe.trace.outcomes.iter();
        let leaves = |o: &&Outcome| o.verdict == Verdict::Accept && o.out_iface.is_some();
        let mut pods: Vec<IpAddr> = outcomes().filter(leaves).map(|o| o.dst.ip).collect();
        let is_answered = outcomes().any(|o| o.verdict != Verdict::Drop);
        if probe.packet.from == Origin::Outside && is_answered {
            pods.push(probe.packet.src);
        }
        for ip in pods {
            if !checked.insert(ip) {
                continue;
            }
            let node = cluster.other_node_of(ip);
            let Some((node, (route, leads))) = node.and_then(|n| Some((n, routes.wrong(ip, n)?)))
            else {
                continue;
            };
            if !found.iter().any(|f| f.decides == route.text) {
                found.push(astray(probe, ip, node, (&route, &leads)));
            }
        }
    }
    found
}

fn astray(probe: &Probe, ip: IpAddr, node: &Node, (route, leads): (&Towards, &str)) -> Finding {
    let who = if ip == probe.packet.src {
        "the client"
    } else {
        "the endpoint"
    };
    let finding = Finding::new(
        weight(probe),
        Cause::NoRoute,
        format!(
            "{}: {who} {ip} is a pod of node {}, but no route leads to that node's pods: the route `{}` \
             {leads}",
            probe.question(),
            node.name,
            route.text
        ),
        format!(
            "check the pod network of this node and of {} (its CNI adds the routes to other nodes' pods): \
             ip route get {ip}",
            node.name
        ),
    );
    finding.decided_by(&*route.text)
}

/// The node's routes to other nodes' pods.
struct Routes<'a> {
    cluster: &'a Cluster,
    facts: &'a Facts,
    host: &'a Host,
    /// Known connections to the Service.
    known: &'a [KnownFlow],
}

impl Routes<'_> {
    /// Return the route to a pod of another node and where it leads, if that is not the other node.
    ///
    /// A default route is right where the network routes pods, as in clouds. It is not if other nodes'
    /// pods have routes of their own, if another interface leads to the node itself, or if the node is a
    /// neighbour and its pods do not answer.
    fn wrong(&self, ip: IpAddr, node: &Node) -> Option<(Towards, String)> {
        let route = self.host.towards(ip)?;
        if route.kind != RouteKind::Unicast || self.is_neighbour(&route, ip) {
            return None;
        }
        let leads = self
            .to_third(&route, node)
            .or_else(|| self.to_nothing(&route, node))
            .or_else(|| self.by_default(&route, ip, node))?;
        Some((route, leads))
    }

    fn interface(&self, name: Option<&str>) -> Option<&Interface> {
        self.facts
            .interfaces
            .iter()
            .find(|i| Some(&*i.name) == name)
    }

    /// Whether an address is in the network of the route's interface.
    fn is_neighbour(&self, route: &Towards, ip: IpAddr) -> bool {
        let interface = self.interface(route.dev.as_deref());
        interface.is_some_and(|i| i.addresses.iter().any(|net| net.contains(&ip)))
    }

    fn to_third(&self, route: &Towards, node: &Node) -> Option<String> {
        let is_peers = |via: &IpAddr| node.addresses.iter().any(|a| a.ip == *via);
        let via = route.via.filter(|via| !is_peers(via))?;
        let has = |n: &&std::sync::Arc<Node>| n.addresses.iter().any(|a| a.ip == via);
        let third = self.cluster.objects.nodes.iter().find(has)?;
        Some(format!("leads to node {}", third.name))
    }

    /// Packets end on this node, or at one of its pods: a link without a gateway, which does not lead to
    /// the other node itself.
    fn to_nothing(&self, route: &Towards, node: &Node) -> Option<String> {
        let dev = route.dev.as_deref()?;
        let kind = self.interface(Some(dev))?.kind.as_deref();
        let leads_there = |ip: IpAddr| self.host.iface_towards(ip).as_deref() == Some(dev);
        let is_peers = node.addresses.iter().any(|a| leads_there(a.ip));
        if dev == "lo" || kind == Some("dummy") {
            Some(format!("leads to {dev}, where packets end"))
        } else if route.via.is_none() && matches!(kind, Some("veth" | "bridge")) && !is_peers {
            Some(format!("leads to {dev}, to pods of this node"))
        } else {
            None
        }
    }

    fn by_default(&self, route: &Towards, ip: IpAddr, node: &Node) -> Option<String> {
        if !route.is_default {
            return None;
        }
        let is_v4 = ip.is_ipv4();
        let others = self.cluster.objects.nodes.iter();
        let others = others.filter(|n| n.name != node.name && *n.name != *self.cluster.node_name);
        let mut pods = others.flat_map(|n| &n.pod_cidrs).map(ipnet::IpNet::addr);
        let has_own = |pods: IpAddr| {
            let route = self.host.towards(pods);
            route.is_some_and(|r| !r.is_default && r.kind == RouteKind::Unicast)
        };
        let out = route.dev.as_deref().unwrap_or("the default gateway");
        if pods.any(|pods| pods.is_ipv4() == is_v4 && has_own(pods)) {
            return Some(format!(
                "leads through {out}, and other nodes' pods have routes of their own"
            ));
        }
        let mut addresses = node.addresses.iter().map(|a| a.ip);
        let address = addresses.find(|a| a.is_ipv4() == is_v4)?;
        let direct = self.host.towards(address).filter(|r| !r.is_default)?;
        if direct.dev != route.dev {
            return Some(format!(
                "leads through {out}, and the node itself ({address}) is reached through {}",
                direct.dev.as_deref().unwrap_or("another interface")
            ));
        }
        let is_neighbour = direct.via.is_none();
        (is_neighbour && self.is_silent(ip)).then(|| {
            format!(
                "leads to a gateway instead of the node itself ({address}), and none of the known \
                 connections to this endpoint was answered"
            )
        })
    }

    /// Whether known TCP connections went to an endpoint, and none of them was answered.
    fn is_silent(&self, ip: IpAddr) -> bool {
        let given = |flow: &&KnownFlow| flow.given.ip() == ip && flow.protocol == 6;
        let mut all = self.known.iter().filter(given).peekable();
        all.peek().is_some() && !all.any(|flow| flow.is_answered)
    }
}
