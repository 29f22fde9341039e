//! The known and the desired state, and the transaction from one to the other.

mod refused;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use model::IpFamily;
use netfilter::ipset;
use netfilter::iptables::{Rule, Table};
use netfilter::ipvs::{self, Destination, Op, ServiceId};
use plan::{Plan, PortKey};

use self::refused::Refused;
pub use self::refused::Unprogrammed;
use super::lower::Item;
use super::names::IPVS_OUT_FILTER;
use super::observe::{Observation, SeenRules};
use super::rules::{Inputs, node_access};
use super::sets::{COUNT, MAX_ELEMENTS, Member, SPARE, SetKind};
use super::transaction::{Applied, Before, Elements, Next, rules_text, socket};
use super::wanted::{Wanted, WantedServer};
use super::{Options, Termination, Transaction};

/// The state of one family.
///
/// [`Sync`](super::Sync) drives it: [`update`](Self::update) for every change,
/// [`observe`](Self::observe) whenever [`needs_observation`](Self::needs_observation), then
/// [`transaction`](Self::transaction), and [`committed`](Self::committed) or
/// [`forget`](Self::forget) with its outcome. Destinations that are [`due`](Self::due) are
/// [`checked`](Self::checked) until they are removed.
#[derive(Debug)]
pub struct Mode {
    options: Options,
    wanted: Wanted,
    known: Option<Known>,
    termination: Termination,
    refused: Refused,
}

/// The known state of the kernel.
#[derive(Debug, Default)]
struct Known {
    device: bool,
    items: HashSet<Item>,
    servers: HashMap<ServiceId, Applied>,
    /// The capacity of each set; `None` if the set does not exist.
    rooms: [Option<usize>; COUNT],
    rules: KnownRules,
    /// Removals of elements and sets that no [`Item`] represents.
    foreign: Vec<ipset::Op>,
}

#[derive(Debug)]
enum KnownRules {
    Seen(SeenRules),
    Written(Inputs),
}

impl Default for KnownRules {
    fn default() -> Self {
        KnownRules::Seen(SeenRules::default())
    }
}

/// A transaction was requested although the kernel's state is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel's state must be read before the next transaction")]
pub struct NeedsObservation;

impl Mode {
    /// Return a mode without desired state and without knowledge of the kernel.
    pub fn new(family: IpFamily, options: Options) -> Self {
        Self {
            options,
            wanted: Wanted::new(family),
            known: None,
            termination: Termination::default(),
            refused: Refused::default(),
        }
    }

    /// Return the address family.
    pub fn family(&self) -> IpFamily {
        self.wanted.family()
    }

    /// Update the desired state of these Service ports.
    pub fn update(&mut self, plan: &Plan, changed: &BTreeSet<PortKey>) {
        self.wanted.update(plan, changed.iter());
    }

    /// Update the desired state of every Service port.
    pub fn update_all(&mut self, plan: &Plan) {
        self.wanted.update_all(plan);
    }

    /// Set the addresses of the node's interfaces without those of [`DEVICE`](super::DEVICE).
    /// NodePorts answer there, and an external address among them is not added to the device.
    pub fn set_addresses(&mut self, plan: &Plan, addresses: Vec<IpAddr>) {
        self.wanted.set_addresses(plan, addresses);
    }

    /// Return whether the kernel must be read before the next transaction.
    pub fn needs_observation(&self) -> bool {
        self.known.is_none()
    }

    /// Set the kernel's state, from which the next transaction starts.
    pub fn observe(&mut self, observation: Observation) {
        let family = self.wanted.family();
        let touched = &mut self.wanted.touched;
        let mut known = Known {
            device: observation.device,
            rules: KnownRules::Seen(observation.rules),
            ..Known::default()
        };
        known
            .items
            .extend(observation.addresses.into_iter().map(Item::Address));
        if observation.spare {
            known.foreign.push(ipset::Op::Destroy(SPARE.into()));
        }
        for (kind, set) in observation.sets {
            known.rooms[kind.index()] = Some(set.room.unwrap_or(usize::MAX));
            let members = set.members.into_iter();
            known.items.extend(members.map(|m| Item::Member(kind, m)));
            if !set.foreign.is_empty() {
                known.foreign.push(ipset::Op::Delete {
                    set: kind.name(family).into(),
                    elements: set.foreign,
                });
            }
        }
        touched.servers.extend(observation.services.keys());
        let services = observation.services.into_iter();
        known.servers = services.map(|(id, s)| (id, Applied::found(s))).collect();
        touched.items.extend(known.items.iter());
        let wanted = &mut self.wanted;
        let items: Vec<Item> = wanted.items().copied().collect();
        wanted.touched.items.extend(items);
        let servers: Vec<ServiceId> = wanted.server_ids().copied().collect();
        wanted.touched.servers.extend(servers);
        self.known = Some(known);
    }

    /// Derive the transaction from the known to the desired state.
    ///
    /// # Errors
    /// The kernel must be read first.
    pub fn transaction(&mut self, plan: &Plan) -> Result<Transaction, NeedsObservation> {
        let known = self.known.as_ref().ok_or(NeedsObservation)?;
        let mut transaction = Transaction {
            device: !known.device,
            ..Transaction::default()
        };
        self.items(known, &mut transaction);
        self.servers(known, &mut transaction);
        self.rules(plan, known, &mut transaction);
        Ok(transaction)
    }

    fn items(&self, known: &Known, out: &mut Transaction) {
        let (mut added, mut removed) = (Elements::default(), Elements::default());
        let mut touched: Vec<Item> = self.wanted.touched.items.iter().copied().collect();
        touched.sort_unstable();
        for item in touched {
            let (is, was) = (self.wanted.has(&item), known.items.contains(&item));
            if is == was {
                continue;
            }
            out.next.items.push((item, is));
            match (item, is) {
                (Item::Address(ip), true) => out.new_addresses.push(ip),
                (Item::Address(ip), false) => out.old_addresses.push(ip),
                (Item::Member(kind, member), true) => added.push(kind, member.element()),
                (Item::Member(kind, member), false) => removed.push(kind, member.element()),
                // A rule.
                (Item::NoNodeAccess(..), _) => {}
            }
        }
        out.old_members.clone_from(&known.foreign);
        self.sets(known, added, out);
        let family = self.wanted.family();
        out.old_members.extend(
            removed
                .into_sets()
                .map(|(kind, elements)| ipset::Op::Delete {
                    set: kind.name(family).into(),
                    elements,
                }),
        );
    }

    /// Create the sets that are missing or too small, and add elements.
    fn sets(&self, known: &Known, added: Elements, out: &mut Transaction) {
        let family = self.wanted.family();
        let mut added: HashMap<SetKind, Vec<ipset::Element>> = added.into_sets().collect();
        out.next.rooms = known.rooms;
        for kind in SetKind::all() {
            let size = self.wanted.size(kind);
            let name = kind.name(family);
            let room = known.rooms[kind.index()];
            let elements = added.remove(&kind).unwrap_or_default();
            // Elements are added before others are removed: the set holds both for a moment.
            let overflows = known.rooms[kind.index()].is_some_and(|room| {
                let hold = size.saturating_add(elements.len());
                room != usize::MAX && hold > room
            });
            if room.is_some() && !overflows {
                if !elements.is_empty() {
                    let set = name.into();
                    out.sets.push(ipset::Op::Add { set, elements });
                }
                continue;
            }
            let bitmap = kind.create(family, name, 0).option("maxelem").is_none();
            let fit = room_for(size);
            out.next.rooms[kind.index()] = Some(if bitmap { usize::MAX } else { fit });
            let under = if room.is_some() { SPARE } else { name };
            out.sets
                .push(ipset::Op::Create(kind.create(family, under, fit)));
            let elements = if room.is_some() {
                self.members(kind)
            } else {
                elements
            };
            if !elements.is_empty() {
                let set = under.into();
                out.sets.push(ipset::Op::Add { set, elements });
            }
            if room.is_some() {
                out.sets.push(ipset::Op::Swap(SPARE.into(), name.into()));
                out.sets.push(ipset::Op::Destroy(SPARE.into()));
            }
        }
    }

    fn members(&self, kind: SetKind) -> Vec<ipset::Element> {
        let mut members: Vec<Member> = self
            .wanted
            .items()
            .filter_map(|item| match item {
                Item::Member(k, member) if *k == kind => Some(*member),
                _ => None,
            })
            .collect();
        members.sort_unstable();
        members.into_iter().map(Member::element).collect()
    }

    fn servers(&self, known: &Known, out: &mut Transaction) {
        let mut touched: Vec<ServiceId> = self.wanted.touched.servers.iter().copied().collect();
        touched.sort_unstable();
        for id in touched {
            match (self.wanted.server(&id), known.servers.get(&id)) {
                (None, None) => {}
                (None, Some(_)) => {
                    if !id.ip().is_some_and(|ip| self.options.excludes(ip)) {
                        out.old_servers.push(Op::DeleteService(id));
                        out.next.servers.push((id, None));
                    }
                }
                (Some(wanted), applied) => self.server(&wanted, applied, out),
            }
        }
    }

    fn server(&self, wanted: &WantedServer<'_>, applied: Option<&Applied>, out: &mut Transaction) {
        let id = wanted.id;
        let service = wanted.service(&self.options);
        let before = out.servers.len();
        let fresh;
        let applied = match applied {
            Some(applied) => {
                if applied.service != service {
                    out.servers.push(Op::SetService(service.clone()));
                }
                applied
            }
            None => {
                out.servers.push(Op::AddService(service.clone()));
                fresh = Applied::new(service.clone());
                &fresh
            }
        };
        let mut next = Applied {
            service,
            plain: wanted.endpoints.clone(),
            odd: applied.odd.clone(),
        };
        let same = applied.odd.is_empty() && Arc::ptr_eq(&applied.plain, wanted.endpoints);
        if !same {
            destinations(id, applied, &mut next, out);
        }
        // Also without any operation: the destinations found are then those of the plan.
        if out.servers.len() > before || !same {
            out.next.servers.push((id, Some(next)));
        }
    }

    fn rules(&self, plan: &Plan, known: &Known, out: &mut Transaction) {
        let inputs = self.wanted.rules(plan, &self.options);
        let no_access = out.next.items.iter();
        let no_access = no_access.filter_map(|(item, is)| match item {
            Item::NoNodeAccess(ip, protocol, port) => {
                Some((node_access(*ip, *protocol, *port), *is))
            }
            _ => None,
        });
        match &known.rules {
            KnownRules::Written(before) => {
                let single: Vec<(Rule, bool)> = no_access.collect();
                let (is, was) = if *before == inputs {
                    (Vec::new(), Vec::new())
                } else {
                    (inputs.chains(), before.chains())
                };
                out.rules = rules_text(&is, Before::Written(&was), &single);
            }
            // All of these items are touched after an observation.
            KnownRules::Seen(seen) => {
                let mut chains = inputs.chains();
                let no_access = no_access.map(|(rule, _)| rule);
                chains.push((Table::Filter, IPVS_OUT_FILTER, no_access.collect()));
                out.rules = rules_text(&chains, Before::Seen(seen), &[]);
            }
        }
        out.next.rules = Some(inputs);
    }

    /// Record that the kernel committed the transaction at this time.
    pub fn committed(&mut self, transaction: Transaction, now: Duration) {
        let Some(known) = &mut self.known else {
            return;
        };
        let Next {
            items,
            servers,
            rooms,
            rules,
            leaving,
        } = transaction.next;
        known.device = true;
        known.rooms = rooms;
        known.foreign.clear();
        for (item, is) in items {
            if is {
                known.items.insert(item);
            } else {
                known.items.remove(&item);
            }
        }
        for (id, applied) in servers {
            self.termination.stay(&id);
            match applied {
                Some(applied) => known.servers.insert(id, applied),
                None => known.servers.remove(&id),
            };
        }
        for (id, address) in leaving {
            self.termination.leave(id, address, now);
        }
        if let Some(rules) = rules {
            known.rules = KnownRules::Written(rules);
        }
        let wanted = &mut self.wanted;
        let mut touched = std::mem::take(&mut wanted.touched);
        let differs = |i: &Item| wanted.has(i) != known.items.contains(i);
        touched.items.retain(differs);
        touched
            .servers
            .retain(|id| match (wanted.server(id), known.servers.get(id)) {
                (None, None) => false,
                (Some(w), Some(a)) => {
                    !Arc::ptr_eq(w.endpoints, &a.plain) || w.persistent != a.service.persistent
                }
                _ => true,
            });
        wanted.touched = touched;
        self.refused = Refused::default();
    }

    /// Return the number of Service ports that the transaction leaves unchanged, and of those that it writes.
    pub fn count_kept(&self, transaction: &Transaction) -> (usize, usize) {
        let servers = transaction.servers.iter().map(Op::service).collect();
        let items = transaction.next.items.iter();
        // Rules are compared as such, not by port.
        let items = items.filter(|(item, is)| *is && !matches!(item, Item::NoNodeAccess(..)));
        let items = items.map(|(item, _)| *item).collect();
        let written = self.wanted.count_owners(&servers, &items);
        (self.wanted.ports() - written, written)
    }

    /// Return the known destinations of a virtual server; `None` if the server is not known.
    pub fn destinations(&self, id: &ServiceId) -> Option<Vec<Destination>> {
        let applied = self.known.as_ref()?.servers.get(id)?;
        let plain = applied.plain.iter();
        let plain = plain.map(|endpoint| Destination::new(socket(endpoint), 1));
        Some(plain.chain(applied.odd.values().cloned()).collect())
    }

    /// Discard the known state.
    pub fn forget(&mut self) {
        self.known = None;
    }

    /// Return the virtual servers with terminating destinations that must be checked now.
    pub fn due(&self, now: Duration) -> Vec<ServiceId> {
        self.termination.due(now)
    }

    /// Return the time at which [`due`](Self::due) returns the next one.
    pub fn next_due(&self) -> Option<Duration> {
        self.termination.next()
    }

    /// Record the number of connections of each destination of a virtual server. Return the removals
    /// of terminating destinations without connections.
    pub fn checked(
        &mut self,
        id: &ServiceId,
        connections: &HashMap<SocketAddr, u64>,
        now: Duration,
    ) -> Vec<Op> {
        let gone = self.termination.checked(id, connections, now);
        let applied = self
            .known
            .as_mut()
            .and_then(|known| known.servers.get_mut(id));
        if let Some(applied) = applied {
            for address in &gone {
                applied.odd.remove(address);
            }
        }
        let there = |a: &SocketAddr| connections.contains_key(a);
        gone.into_iter()
            .filter(there)
            .map(|address| Op::DeleteDestination(*id, address))
            .collect()
    }
}

/// Return the capacity for twice as many elements as there are, at least that of kube-proxy.
fn room_for(elements: usize) -> usize {
    elements
        .saturating_mul(2)
        .next_power_of_two()
        .max(MAX_ELEMENTS)
}

/// Return whether a removed endpoint keeps its connections until they end. For UDP and SCTP, kube-proxy
/// removes it at once: the kernel drops its connections with their next packet.
fn is_graceful(id: &ServiceId) -> bool {
    matches!(
        id,
        ServiceId::Address {
            protocol: ipvs::Protocol::Tcp,
            ..
        }
    )
}

/// Turn the destinations of `applied` into those of `next.plain`. New ones are added before others
/// are removed, so that there is always one.
fn destinations(id: ServiceId, applied: &Applied, next: &mut Applied, out: &mut Transaction) {
    let (plain, wanted) = (&applied.plain, &next.plain);
    let before: HashSet<SocketAddr> = plain.iter().map(socket).collect();
    let after: HashSet<SocketAddr> = wanted.iter().map(socket).collect();
    for address in wanted.iter().map(socket) {
        let destination = Destination::new(address, 1);
        match next.odd.remove(&address) {
            Some(found) if found == destination => {}
            Some(_) => out.servers.push(Op::SetDestination(id, destination)),
            None if before.contains(&address) => {}
            None => out.servers.push(Op::AddDestination(id, destination)),
        }
    }
    let removed = plain.iter().map(socket).filter(|a| !after.contains(a));
    for address in removed {
        next.odd.insert(address, Destination::new(address, 1));
    }
    if is_graceful(&id) {
        for (address, destination) in &mut next.odd {
            if destination.weight != 0 {
                destination.weight = 0;
                let quiet = destination.clone();
                out.servers.push(Op::SetDestination(id, quiet));
            }
            out.next.leaving.push((id, *address));
        }
    } else {
        let gone = std::mem::take(&mut next.odd).into_keys();
        out.servers
            .extend(gone.map(|address| Op::DeleteDestination(id, address)));
    }
}
