//! The part of the kernel's state that belongs to this mode.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use model::IpFamily;
use netfilter::iptables::{Chain, Command, Line, ParseError, Rule, Table, Target};
use netfilter::{ipset, ipvs};

use super::names;
use super::sets::{Member, SetKind};
use crate::terms::rule_family;

/// The kernel's state as read.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The addresses of `kube-ipvs0`; `None` if the interface does not exist.
    pub device: Option<Vec<IpAddr>>,
    /// All ipsets.
    pub sets: ipset::Sets,
    /// All virtual servers.
    pub services: ipvs::Services,
    /// The output of `iptables-save` (or `ip6tables-save`) for the tables filter and nat.
    pub rules: String,
}

/// The state of this mode in one family.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    pub(super) device: bool,
    pub(super) addresses: BTreeSet<IpAddr>,
    pub(super) sets: BTreeMap<SetKind, SeenSet>,
    /// Whether an interrupted growth left a spare set.
    pub(super) spare: bool,
    pub(super) services: HashMap<ipvs::ServiceId, ipvs::Service>,
    pub(super) rules: SeenRules,
}

/// One set.
#[derive(Clone, Debug, Default)]
pub(super) struct SeenSet {
    pub(super) members: BTreeSet<Member>,
    /// Elements of a form that this mode never writes.
    pub(super) foreign: Vec<ipset::Element>,
    /// The capacity; `None` if it is unlimited.
    pub(super) room: Option<usize>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct SeenRules {
    /// Our chains; `None` if a rule cannot be parsed.
    pub(super) chains: BTreeMap<(Table, Chain), Option<Vec<Rule>>>,
    /// The jumps from built-in chains to ours.
    pub(super) jumps: Vec<(Table, Chain, Rule)>,
    /// Our chains to which other rules jump: they cannot be deleted.
    pub(super) referenced: BTreeSet<(Table, Chain)>,
}

impl Observation {
    /// Return the observation of a fresh node.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Extract the state of this mode in one family.
    ///
    /// # Errors
    /// The rules are truncated: chains after the cut must not be taken for absent.
    pub fn new(family: IpFamily, seen: Seen) -> Result<Self, ParseError> {
        let mut observation = Self {
            device: seen.device.is_some(),
            rules: SeenRules::read(family, &seen.rules)?,
            ..Self::default()
        };
        let usable = |ip: &IpAddr| match ip {
            IpAddr::V4(_) => family == IpFamily::V4,
            // The kernel assigns one to each interface.
            IpAddr::V6(ip) => family == IpFamily::V6 && !ip.is_unicast_link_local(),
        };
        let addresses = seen.device.into_iter().flatten();
        observation.addresses = addresses.filter(usable).collect();
        for set in seen.sets.sets {
            observation.spare |= &*set.name == super::sets::SPARE;
            if let Some(kind) = SetKind::of_name(family, &set.name) {
                observation.sets.insert(kind, SeenSet::new(kind, set));
            }
        }
        for service in seen.services.services {
            let ours = service.id.ip().is_some_and(|ip| IpFamily::of(ip) == family);
            if ours {
                observation.services.insert(service.id, service);
            }
        }
        Ok(observation)
    }

    /// Return whether this mode never ran here.
    pub fn is_nothing(&self) -> bool {
        !self.device && self.sets.is_empty() && !self.spare
    }
}

impl SeenSet {
    fn new(kind: SetKind, set: ipset::Set) -> Self {
        let room = set.option("maxelem").and_then(|n| n.parse().ok());
        let mut seen = Self {
            room,
            ..Self::default()
        };
        for element in set.elements {
            match Member::of(&element) {
                Some(member) => {
                    seen.members.insert(member.in_set(kind));
                }
                None => seen.foreign.push(element),
            }
        }
        seen
    }
}

impl SeenRules {
    fn read(family: IpFamily, save: &str) -> Result<Self, ParseError> {
        let mut seen = Self::default();
        let mut open: Option<Option<Table>> = None;
        let mut last = 0;
        for (number, line) in (1u32..).zip(save.lines()) {
            last = number;
            match line.as_bytes().first() {
                None | Some(b'#') => {}
                Some(b'*') => open = Some(line.get(1..).and_then(|t| t.trim_end().parse().ok())),
                _ if line.trim_end() == "COMMIT" => open = None,
                Some(_) => {
                    if let Some(Some(table)) = open {
                        seen.line(family, table, line, number);
                    }
                }
            }
        }
        match open {
            None => Ok(seen),
            Some(_) => Err(ParseError {
                line: last,
                column: 1,
                message: "the text ends before the COMMIT of its table".to_owned(),
            }),
        }
    }

    fn line(&mut self, family: IpFamily, table: Table, line: &str, number: u32) {
        let parsed = Line::parse(rule_family(family), line, number);
        let command = match parsed {
            Ok(Line::Command(command)) => command,
            _ => return self.unreadable(table, line),
        };
        match command {
            Command::Declare { chain, .. } if names::is_ours(table, chain) => {
                self.chains.insert((table, chain), Some(Vec::new()));
            }
            Command::Append { chain, rule } => {
                if names::is_ours(table, chain) {
                    if let Some(Some(rules)) = self.chains.get_mut(&(table, chain)) {
                        rules.push(rule);
                    }
                    return;
                }
                let to = rule.target.as_ref().and_then(Target::chain);
                let Some(to) = to.filter(|to| names::is_ours(table, *to)) else {
                    return;
                };
                if table.is_built_in(chain) {
                    self.jumps.push((table, chain, rule));
                } else {
                    self.referenced.insert((table, to));
                }
            }
            _ => {}
        }
    }

    /// A line that cannot be parsed: mostly another program's rule. A chain of ours is rewritten.
    fn unreadable(&mut self, table: Table, line: &str) {
        let mut words = line.split_ascii_whitespace();
        let is_rule = words.any(|w| w == "-A");
        let chain = words.next().and_then(|name| Chain::new(name).ok());
        if let Some(chain) = chain.filter(|c| is_rule && names::is_ours(table, *c)) {
            self.chains.insert((table, chain), None);
            return;
        }
        for (_, to) in names::CHAINS.iter().filter(|(t, _)| *t == table) {
            if line.split_ascii_whitespace().any(|w| w == to.as_str()) {
                self.referenced.insert((table, *to));
            }
        }
    }
}
