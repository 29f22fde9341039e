//! The rules that sluice would write for the objects, and the first difference from the kernel's that
//! a connection meets.
//!
//! Whether a difference matters is decided by walks (`differ`, `source`); this module only names it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::OnceLock;

use dataplane::nftables::SetId;
use model::{IpFamily, Mode};
use netfilter::iptables::{self, Chain, Table};
use netfilter::nft_lang::{
    ElementDecl, Item, Literal, Mapped, RuleDecl, SetDecl, TableDecl, TermType, VerdictStatement,
};
use plan::Plan;
use trace::{Facts, Step, Trace, World};

use super::owner;
use super::probe::Probe;
use super::subject::Cluster;

/// The desired rules, rendered when they are first needed.
#[derive(Debug)]
pub(crate) struct Desired<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) mode: Mode,
    pub(crate) facts: &'a Facts,
    world: OnceLock<Option<World>>,
}

/// A rule of either kind.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rule<'w> {
    Iptables(&'w iptables::Rule),
    Nft(&'w RuleDecl),
}

impl Rule<'_> {
    fn is(&self, other: &Rule<'_>) -> bool {
        match (self, other) {
            (Rule::Iptables(a), Rule::Iptables(b)) => a == b,
            (Rule::Nft(a), Rule::Nft(b)) => a.statements == b.statements,
            _ => false,
        }
    }

    fn has_text(&self, text: &str) -> bool {
        match self {
            Rule::Iptables(rule) => rule.to_string() == text,
            Rule::Nft(rule) => *rule.text == *text,
        }
    }
}

impl<'a> Desired<'a> {
    pub(crate) fn new(cluster: &'a Cluster, mode: Mode, facts: &'a Facts) -> Self {
        Self {
            cluster,
            mode,
            facts,
            world: OnceLock::new(),
        }
    }

    fn world(&self) -> Option<&World> {
        let render = || render(self.cluster, self.mode, self.facts);
        self.world.get_or_init(render).as_ref()
    }

    /// Return the difference between the desired and the existing rules on the path of a connection: a missing,
    /// additional or moved rule, or an element; `None` if that cannot be determined.
    pub(crate) fn difference(&self, probe: &Probe, actual: &World) -> Option<Difference> {
        if self.mode == Mode::Nftables && has_service_chains(actual) {
            return None;
        }
        let desired = self.world()?;
        let wanted = trace::walk(desired, &probe.packet).ok()?;
        let compared = Compared {
            mode: self.mode,
            probe,
            desired,
            actual,
        };
        let what = compared
            .missing_server()
            .or_else(|| compared.missing_rule(&wanted))
            .or_else(|| compared.element(&wanted))
            .or_else(|| compared.additional_rule())
            .or_else(|| compared.order(&wanted))?;
        let node = self.answering_node(actual);
        Some(Difference { what, node })
    }

    /// Return the name of the other Node whose addresses answer for NodePorts here, as in the rules of a
    /// proxy with a wrong node name.
    fn answering_node(&self, actual: &World) -> Option<String> {
        let tables = actual.nft.tables.iter();
        let sets = tables.filter_map(|t| t.set(SetId::NodePortIps.name()));
        let keys = sets.flat_map(|s| &s.elements).flat_map(|e| &e.key);
        let addresses: Vec<IpAddr> = keys
            .filter_map(|item| match item {
                Item::Value(Literal::Ip(ip)) => Some(*ip),
                _ => None,
            })
            .collect();
        if addresses
            .iter()
            .any(|ip| self.cluster.own_addresses.contains(ip))
        {
            return None;
        }
        let has = |n: &&std::sync::Arc<model::Node>| {
            n.addresses.iter().any(|a| addresses.contains(&a.ip))
        };
        let node = self.cluster.objects.nodes.iter().find(has)?;
        Some(node.name.to_string())
    }
}

/// A difference between the desired rules and the kernel's.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    /// The rule or element.
    pub(crate) what: String,
    /// The Node for which the kernel's rules were made, if it is another.
    pub(crate) node: Option<String>,
}

/// Whether the table is in kube-proxy's layout, with chains for each Service.
fn has_service_chains(world: &World) -> bool {
    let mut tables = world.nft.tables.iter();
    tables.any(|t| {
        *t.name == *dataplane::nftables::TABLE
            && t.chains.iter().any(|c| c.name.starts_with("service-"))
            && t.chain("pick").is_none()
            && t.set("endpoints").is_none()
    })
}

/// Render the rules of both families for this host.
fn render(cluster: &Cluster, mode: Mode, facts: &Facts) -> Option<World> {
    let mut facts = facts.clone();
    facts.dumps = trace::Dumps::default();
    let mut world = World::from_facts(&facts).ok()?;
    for family in IpFamily::ALL {
        render_family(cluster.plan(family), mode, &facts, &mut world)?;
    }
    Some(world)
}

fn render_family(plan: &Plan, mode: Mode, facts: &Facts, world: &mut World) -> Option<()> {
    let family = match plan.family {
        IpFamily::V4 => iptables::Family::Ipv4,
        IpFamily::V6 => iptables::Family::Ipv6,
    };
    match mode {
        Mode::Iptables => {
            let options = dataplane::iptables::Options::default();
            let rendered = dataplane::iptables::render(plan, &options).ok()?;
            world
                .add_iptables(family, &rendered.tables.to_string())
                .ok()
        }
        Mode::Nftables => {
            let options = dataplane::nftables::Options::default();
            world
                .add_nft(&dataplane::nftables::render(plan, options))
                .ok()
        }
        Mode::Userspace => {
            let Some(relay_ip) = plan.node.node_ip else {
                return Some(());
            };
            let options = dataplane::userspace::Options {
                relay_ip,
                relay_mark: 0x4000,
                localhost_node_ports: true,
            };
            world
                .add_nft(&dataplane::userspace::render(plan, options))
                .ok()
        }
        Mode::Ipvs => {
            let is_own = |i: &&trace::Interface| i.name != dataplane::ipvs::DEVICE;
            let interfaces = facts.interfaces.iter().filter(is_own);
            let own = interfaces.flat_map(|i| &i.addresses);
            let own: Vec<IpAddr> = own.map(ipnet::IpNet::addr).collect();
            let options = dataplane::ipvs::Options::default();
            let rendered = dataplane::ipvs::render(plan, &options, &own).ok()?;
            world
                .add_iptables(family, &rendered.tables.to_string())
                .ok()?;
            world.ipsets.sets.extend(rendered.sets.sets);
            world.ipvs.services.extend(rendered.services.services);
            Some(())
        }
    }
}

/// A probe with both rule sets.
struct Compared<'a> {
    mode: Mode,
    probe: &'a Probe,
    desired: &'a World,
    actual: &'a World,
}

/// Return the steps of Service rules, each rule once.
fn service_steps(trace: &Trace) -> Vec<&Step> {
    let mut all: Vec<&Step> = Vec::new();
    let steps = trace.outcomes.iter().flat_map(|o| &o.path);
    for step in steps.filter(|s| !s.chain.is_empty() && s.rule != "policy") {
        let is_same =
            |s: &&&Step| (&s.table, &s.chain, &s.rule) == (&step.table, &step.chain, &step.rule);
        if !all.iter().any(|s| is_same(&s)) {
            all.push(step);
        }
    }
    all
}

/// Return the rules of a chain in every back end; `None` if the chain does not exist.
fn chain_rules<'w>(world: &'w World, step: &Step) -> Option<Vec<Rule<'w>>> {
    let mut found: Option<Vec<Rule<'w>>> = None;
    let tables = world.nft.tables.iter();
    let tables = tables.filter(|t| *t.name == *step.table && t.family.name() == step.family);
    for chain in tables
        .filter(|t| !t.dormant)
        .filter_map(|t| t.chain(&step.chain))
    {
        let all = found.get_or_insert_default();
        all.extend(chain.rules.iter().map(Rule::Nft));
    }
    let family = match step.family {
        "ip6" => iptables::Family::Ipv6,
        _ => iptables::Family::Ipv4,
    };
    let table = Table::ALL.into_iter().find(|t| t.name() == step.table);
    let chain = step.chain.parse::<Chain>().ok();
    if let (Some(table), Some(chain)) = (table, chain) {
        let sets = world.all_iptables().filter(|set| set.family == family);
        for state in sets.filter_map(|set| set.chain(table, chain)) {
            let all = found.get_or_insert_default();
            all.extend(state.rules.iter().map(Rule::Iptables));
        }
    }
    found
}

fn table_of<'w>(world: &'w World, step: &Step) -> Option<&'w TableDecl> {
    let mut tables = world.nft.tables.iter();
    tables.find(|t| *t.name == *step.table && t.family.name() == step.family)
}

impl Compared<'_> {
    fn missing_rule(&self, wanted: &Trace) -> Option<String> {
        for step in service_steps(wanted) {
            let Some(rules) = chain_rules(self.desired, step) else {
                continue;
            };
            let count = rules.len();
            let Some(rule) = rules.into_iter().find(|r| r.has_text(&step.rule)) else {
                continue;
            };
            let Some(existing) = chain_rules(self.actual, step) else {
                return Some(match table_of(self.actual, step) {
                    Some(table) if table.dormant => {
                        format!("table {} is dormant: its chains are not called", step.table)
                    }
                    Some(_) => format!("table {} lacks chain {}", step.table, step.chain),
                    None => {
                        format!(
                            "chain {} of table {} does not exist",
                            step.chain, step.table
                        )
                    }
                });
            };
            // nft lists the translation of userspace mode differently from what it was given.
            let is_complete = self.mode == Mode::Userspace && existing.len() == count;
            if !is_complete && !existing.iter().any(|r| r.is(&rule)) {
                return Some(format!(
                    "chain {} of table {} lacks the rule `{}`",
                    step.chain, step.table, step.rule
                ));
            }
        }
        None
    }

    fn additional_rule(&self) -> Option<String> {
        for step in service_steps(&self.probe.trace) {
            if !owner::is_service_rule(step) {
                continue;
            }
            let Some(rules) = chain_rules(self.actual, step) else {
                continue;
            };
            let rule = rules.into_iter().find(|r| r.has_text(&step.rule));
            let wanted = chain_rules(self.desired, step);
            if let (Some(rule), Some(wanted)) = (rule, wanted)
                && !wanted.iter().any(|r| r.is(&rule))
            {
                return Some(format!(
                    "the rule `{}` in chain {} of table {} is not one that the objects require",
                    step.rule, step.chain, step.table
                ));
            }
        }
        None
    }

    fn order(&self, wanted: &Trace) -> Option<String> {
        for step in service_steps(wanted) {
            let (Some(a), Some(b)) = (
                chain_rules(self.desired, step),
                chain_rules(self.actual, step),
            ) else {
                continue;
            };
            // Rules that both contain.
            let known = |all: &[Rule<'_>], rule: &Rule<'_>| all.iter().any(|r| r.is(rule));
            let first: Vec<_> = a.iter().filter(|r| known(&b, r)).collect();
            let second: Vec<_> = b.iter().filter(|r| known(&a, r)).collect();
            if first.len() == second.len() && !first.iter().zip(&second).all(|(x, y)| x.is(y)) {
                return Some(format!(
                    "the rules of chain {} of table {} are in another order",
                    step.chain, step.table
                ));
            }
        }
        None
    }

    /// Whether an element concerns the connection.
    fn is_related(&self, element: &ElementDecl, types: &[TermType]) -> bool {
        let packet = &self.probe.packet;
        let is_other_protocol = |(item, kind): (&Item, &TermType)| {
            *kind == TermType::InetProto
                && matches!(item, Item::Value(Literal::Int(n)) if *n != u64::from(packet.proto.0))
        };
        if element.key.iter().zip(types).any(is_other_protocol) {
            return false;
        }
        let endpoints = self.probe.endpoints();
        let has = |ip: &IpAddr| *ip == packet.dst || endpoints.contains(ip);
        let is_it = |item: &Item| match item {
            Item::Value(Literal::Ip(ip)) => has(ip),
            Item::Value(Literal::Int(port)) => *port == u64::from(packet.dport),
            _ => false,
        };
        element.key.iter().any(is_it)
    }

    /// Return the first difference among the elements of the sets that the rules name.
    fn element(&self, wanted: &Trace) -> Option<String> {
        let mut seen: BTreeSet<(&str, &str)> = BTreeSet::new();
        let steps = service_steps(wanted);
        let steps = steps.into_iter().chain(service_steps(&self.probe.trace));
        for step in steps.filter(|s| owner::is_service_rule(s)) {
            let tables = (table_of(self.desired, step), table_of(self.actual, step));
            for name in set_names(&step.rule) {
                if !seen.insert((&step.table, name)) {
                    continue;
                }
                if let (Some(desired), Some(actual)) = tables {
                    let sets = (desired.set(name), actual.set(name));
                    let (Some(desired), Some(actual)) = sets else {
                        continue;
                    };
                    if let Some(found) = self.in_set(desired, actual) {
                        return Some(found);
                    }
                }
            }
            for name in ipset_names(&step.rule) {
                if let Some(found) = self.in_ipset(name) {
                    return Some(found);
                }
            }
        }
        None
    }

    fn in_set(&self, desired: &SetDecl, actual: &SetDecl) -> Option<String> {
        let name = &desired.name;
        let kind = if desired.data.is_empty() {
            "set"
        } else {
            "map"
        };
        let related = |set: &'_ SetDecl| {
            let all = set.elements.iter().filter(|e| self.is_related(e, &set.key));
            all.cloned().collect::<Vec<_>>()
        };
        let (wanted, there) = (related(desired), related(actual));
        for element in &wanted {
            let key = shown_items(&element.key, &desired.key);
            match there.iter().find(|e| e.key == element.key) {
                None => return Some(format!("{kind} {name} lacks the element {key}")),
                // The relay's ports differ between processes.
                Some(_) if self.mode == Mode::Userspace => {}
                Some(other) if other.data != element.data => {
                    return Some(format!(
                        "in {kind} {name}, the element {key} leads to {} instead of {}",
                        shown_data(other.data.as_ref(), &desired.data),
                        shown_data(element.data.as_ref(), &desired.data)
                    ));
                }
                Some(_) => {}
            }
        }
        let mut extra = there
            .iter()
            .filter(|e| !wanted.iter().any(|w| w.key == e.key));
        extra.next().map(|element| {
            let key = shown_items(&element.key, &desired.key);
            format!("{kind} {name} has the element {key}, which the objects do not require")
        })
    }

    /// Compare the elements of an ipset that contain the destination or an endpoint.
    fn in_ipset(&self, name: &str) -> Option<String> {
        let of = |world: &World| {
            let set = world.ipsets.get(name)?;
            let all = set.elements.iter().map(|e| format!("{e}"));
            let packet = &self.probe.packet;
            let words: Vec<String> = self
                .probe
                .endpoints()
                .into_iter()
                .chain([packet.dst])
                .map(|ip| ip.to_string())
                .chain([format!(":{}", packet.dport), packet.dport.to_string()])
                .collect();
            let related = |e: &String| {
                let parts: Vec<&str> = e.split([',', ' ']).collect();
                words
                    .iter()
                    .any(|w| parts.contains(&w.as_str()) || e.ends_with(w.as_str()))
            };
            Some(all.filter(related).collect::<BTreeSet<String>>())
        };
        let wanted = of(self.desired)?;
        let there = of(self.actual).unwrap_or_default();
        if let Some(missing) = wanted.difference(&there).next() {
            return Some(format!("ipset {name} lacks the element {missing}"));
        }
        let extra = there.difference(&wanted).next()?;
        Some(format!(
            "ipset {name} has the element {extra}, which the objects do not require"
        ))
    }

    /// Compare the virtual server for the destination.
    fn missing_server(&self) -> Option<String> {
        if self.mode != Mode::Ipvs {
            return None;
        }
        let packet = &self.probe.packet;
        let of = |world: &World| {
            let is_it = |s: &&netfilter::ipvs::Service| {
                matches!(&s.id, netfilter::ipvs::ServiceId::Address { protocol, address }
                    if address.ip() == packet.dst && address.port() == packet.dport
                        && protocol.number() == packet.proto.0)
            };
            world.ipvs.services.iter().find(is_it).cloned()
        };
        let wanted = of(self.desired)?;
        let Some(there) = of(self.actual) else {
            return Some(format!("IPVS lacks the virtual server {}", wanted.id));
        };
        for destination in &wanted.destinations {
            let same = there.destinations.iter();
            let mut same = same.filter(|d| d.address == destination.address);
            match same.next() {
                None => {
                    return Some(format!(
                        "the virtual server {} lacks the destination {}",
                        wanted.id, destination.address
                    ));
                }
                Some(other) if other.weight != destination.weight => {
                    return Some(format!(
                        "destination {} of the virtual server {} has weight {} instead of {}",
                        destination.address, wanted.id, other.weight, destination.weight
                    ));
                }
                Some(_) => {}
            }
        }
        let known = |d: &&netfilter::ipvs::Destination| {
            let mut all = wanted.destinations.iter();
            !all.any(|w| w.address == d.address) && d.weight > 0
        };
        let extra = there.destinations.iter().find(known)?;
        Some(format!(
            "the virtual server {} has the destination {}, which the objects do not require",
            wanted.id, extra.address
        ))
    }
}

/// Return the names after `@`.
fn set_names(rule: &str) -> impl Iterator<Item = &str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    rule.split('@').skip(1).filter_map(move |rest| {
        let end = rest.find(|c: char| !is_name(c)).unwrap_or(rest.len());
        rest.get(..end).filter(|name| !name.is_empty())
    })
}

/// Return the names after `--match-set`.
fn ipset_names(rule: &str) -> impl Iterator<Item = &str> {
    let all = rule.split("--match-set ").skip(1);
    all.filter_map(|rest| rest.split_whitespace().next())
}

fn shown_items(items: &[Item], types: &[TermType]) -> String {
    let literal = |value: &Literal, kind: Option<&TermType>| match (value, kind) {
        (Literal::Ip(ip), _) => ip.to_string(),
        (Literal::Int(number), Some(TermType::InetProto)) => u8::try_from(*number)
            .map_or_else(|_| number.to_string(), |n| trace::Proto(n).to_string()),
        (Literal::Int(number), _) => number.to_string(),
        (Literal::Text(text), _) => text.to_string(),
        (Literal::Wildcard(prefix), _) => format!("{prefix}*"),
    };
    let shown = items.iter().enumerate().map(|(place, item)| {
        let kind = types.get(place);
        match item {
            Item::Value(value) => literal(value, kind),
            Item::Range(from, to) => format!("{}-{}", literal(from, kind), literal(to, kind)),
            Item::Prefix(net) => net.to_string(),
        }
    });
    format!("{{ {} }}", shown.collect::<Vec<_>>().join(" . "))
}

fn shown_data(data: Option<&Mapped>, types: &[TermType]) -> String {
    match data {
        None => "nothing".to_owned(),
        Some(Mapped::Items(items)) => shown_items(items, types),
        Some(Mapped::Verdict(verdict)) => match verdict {
            VerdictStatement::Jump(to) | VerdictStatement::Goto(to) => format!("chain {to}"),
            other => format!("{other:?}").to_lowercase(),
        },
    }
}
