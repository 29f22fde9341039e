//! A fake host, which panics on operations that a kernel would refuse.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use model::IpFamily;
use netfilter::ipset::{self, Element, Set, Sets};
use netfilter::iptables::{Chain, Flush, Restore, Rule, Table, TableSet};
use netfilter::ipvs::{Destination, Op, Service, ServiceId, Services};

use plan::Plan;

use super::*;
use crate::terms::rule_family;

#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) family: IpFamily,
    pub(super) device: Option<BTreeSet<IpAddr>>,
    pub(super) sets: BTreeMap<String, Set>,
    pub(super) services: BTreeMap<ServiceId, Service>,
    pub(super) tables: TableSet,
}

/// The comparable state: without the order of sets, elements and destinations.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Comparable {
    addresses: BTreeSet<IpAddr>,
    sets: BTreeMap<String, (String, BTreeSet<String>)>,
    services: BTreeMap<ServiceId, (String, BTreeMap<SocketAddr, String>)>,
    rules: BTreeMap<(Table, Chain), Vec<Rule>>,
}

impl Host {
    /// A host with another program's rules, set and chain.
    pub(super) fn new(family: IpFamily) -> Self {
        let save = "*filter\n:INPUT DROP [0:0]\n:OTHER - [0:0]\n-A INPUT -j OTHER\n-A OTHER -j ACCEPT\nCOMMIT\n\
            *nat\n:OTHER - [0:0]\n-A POSTROUTING -j OTHER\nCOMMIT\n";
        let sets = Sets::parse("create THEIRS hash:ip family inet\nadd THEIRS 10.0.0.1\n").unwrap();
        let sets = sets.sets.into_iter();
        Self {
            family,
            device: None,
            sets: sets.map(|s| (s.name.to_string(), s)).collect(),
            services: BTreeMap::new(),
            tables: TableSet::parse(rule_family(family), save).unwrap(),
        }
    }

    pub(super) fn observe(&self) -> Observation {
        let seen = Seen {
            device: self.device.clone().map(|d| d.into_iter().collect()),
            sets: Sets {
                sets: self.sets.values().cloned().collect(),
            },
            services: Services {
                services: self.services.values().cloned().collect(),
            },
            rules: self.tables.to_string(),
        };
        Observation::new(self.family, seen).unwrap()
    }

    /// Run and commit the mode's transaction. Return the number of changes.
    pub(super) fn sync(&mut self, mode: &mut Mode, plan: &Plan, now: u64) -> usize {
        let transaction = mode.transaction(plan).unwrap();
        let count = self.run(&transaction);
        mode.committed(transaction, Duration::from_secs(now));
        count
    }

    pub(super) fn run(&mut self, t: &Transaction) -> usize {
        if t.device {
            assert_eq!(self.device, None);
            self.device = Some(BTreeSet::new());
        }
        self.set_ops(&t.sets);
        self.restore(&t.rules);
        t.servers.iter().for_each(|op| self.server(op));
        let device = self.device.as_mut().expect("kube-ipvs0");
        for ip in &t.new_addresses {
            assert!(device.insert(*ip), "{ip} already exists");
        }
        for ip in &t.old_addresses {
            assert!(device.remove(ip), "{ip} does not exist");
        }
        t.old_servers.iter().for_each(|op| self.server(op));
        self.set_ops(&t.old_members);
        let lines = t.rules.lines().filter(|l| l.starts_with('-')).count();
        lines
            + t.servers.len()
            + t.old_servers.len()
            + t.new_addresses.len()
            + t.old_addresses.len()
            + t.sets.len()
            + t.old_members.len()
    }

    pub(super) fn clean(&mut self, cleanup: &Cleanup) {
        cleanup.servers.iter().for_each(|op| self.server(op));
        if cleanup.device {
            assert!(self.device.take().is_some());
        }
        self.restore(&cleanup.rules);
        self.set_ops(&cleanup.sets);
    }

    pub(super) fn restore(&mut self, text: &str) {
        let restore = Restore::parse(self.tables.family, text)
            .unwrap_or_else(|error| panic!("{error}\n{text}"));
        if let Err(error) = self.tables.apply(restore, Flush::Nothing) {
            panic!("{error}\n{text}");
        }
        self.check_set_names();
    }

    /// The kernel rejects a rule whose set does not exist.
    fn check_set_names(&self) {
        let text = self.tables.to_string();
        for line in text.lines().filter(|l| l.contains("--match-set")) {
            let name = line.split("--match-set ").nth(1).unwrap();
            let name = name.split(' ').next().unwrap();
            assert!(self.sets.contains_key(name), "no set {name}");
        }
    }

    pub(super) fn set_ops(&mut self, ops: &[ipset::Op]) {
        for op in ops {
            match op {
                ipset::Op::Create(set) => {
                    let before = self.sets.insert(set.name.to_string(), set.clone());
                    assert_eq!(before, None);
                }
                ipset::Op::Add { set, elements } => {
                    let set = self.sets.get_mut(&**set).expect("the set exists");
                    for element in elements {
                        assert!(!set.elements.contains(element), "{element} already exists");
                        set.elements.push(element.clone());
                    }
                    let room = set.option("maxelem").map(|n| n.parse::<usize>().unwrap());
                    assert!(room.is_none_or(|room| set.elements.len() <= room), "full");
                }
                ipset::Op::Delete { set, elements } => {
                    let set = self.sets.get_mut(&**set).expect("the set exists");
                    set.elements.retain(|e: &Element| !elements.contains(e));
                }
                ipset::Op::Swap(a, b) => {
                    let mut first = self.sets.remove(&**a).expect("the set exists");
                    let mut second = self.sets.remove(&**b).expect("the set exists");
                    std::mem::swap(&mut first.name, &mut second.name);
                    self.sets.insert(first.name.to_string(), first);
                    self.sets.insert(second.name.to_string(), second);
                }
                ipset::Op::Destroy(name) => {
                    assert!(self.sets.remove(&**name).is_some(), "no set {name}");
                }
            }
        }
        self.check_set_names();
    }

    pub(super) fn server(&mut self, op: &Op) {
        let header = |s: &Service| Service {
            destinations: Vec::new(),
            ..s.clone()
        };
        if let Op::AddService(service) = op {
            let before = self.services.insert(service.id, header(service));
            assert_eq!(before, None, "{op}");
            return;
        }
        let id = op.service();
        let service = self.services.get_mut(&id).expect("the server exists");
        let position = |a: SocketAddr, all: &[Destination]| all.iter().position(|d| d.address == a);
        match op {
            Op::AddService(_) => {}
            Op::SetService(new) => {
                let destinations = std::mem::take(&mut service.destinations);
                *service = Service {
                    destinations,
                    ..header(new)
                };
            }
            Op::DeleteService(_) => {
                self.services.remove(&id);
            }
            Op::AddDestination(_, d) => {
                assert_eq!(position(d.address, &service.destinations), None, "{op}");
                service.destinations.push(d.clone());
            }
            Op::SetDestination(_, d) => {
                let at =
                    position(d.address, &service.destinations).expect("the destination exists");
                service.destinations[at] = d.clone();
            }
            Op::DeleteDestination(_, address) => {
                let at = position(*address, &service.destinations).expect("the destination exists");
                service.destinations.remove(at);
            }
        }
    }

    pub(super) fn comparable(&self) -> Comparable {
        let device = self.device.clone().unwrap_or_default();
        let chains = self.tables.tables.iter().flat_map(|(table, state)| {
            let chains = state.chains.iter();
            chains.map(move |(chain, state)| {
                let mut rules = state.rules.clone();
                // The order of these rules has no meaning.
                if *chain == names::IPVS_OUT_FILTER {
                    rules.sort_by_key(|rule| format!("{rule:?}"));
                }
                ((*table, *chain), rules)
            })
        });
        Comparable {
            addresses: device,
            sets: sets(self.sets.values()),
            services: services(self.services.values()),
            rules: chains.collect(),
        }
    }
}

pub(super) fn sets<'a>(
    all: impl Iterator<Item = &'a Set>,
) -> BTreeMap<String, (String, BTreeSet<String>)> {
    all.map(|set| {
        // Chosen by the kernel.
        let counts = |name: &str| !["bucketsize", "initval"].contains(&name);
        let options = set.options.iter().filter(|(name, _)| counts(name));
        let header = format!("{} {:?}", set.type_name(), options.collect::<Vec<_>>());
        let elements = set.elements.iter().map(ToString::to_string).collect();
        (set.name.to_string(), (header, elements))
    })
    .collect()
}

pub(super) fn services<'a>(
    all: impl Iterator<Item = &'a Service>,
) -> BTreeMap<ServiceId, (String, BTreeMap<SocketAddr, String>)> {
    all.map(|service| {
        let header = Service {
            destinations: Vec::new(),
            ..service.clone()
        };
        let destinations = service.destinations.iter();
        let destinations = destinations
            .map(|d| (d.address, format!("{d:?}")))
            .collect();
        (service.id, (header.to_string(), destinations))
    })
    .collect()
}
