//! The parts of a committed transaction that the kernel refused. Every further transaction tries
//! them again.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use netfilter::ipset::{self, Element};
use netfilter::ipvs::{Service, ServiceId};
use plan::PortKey;

use super::super::sets::{Member, SetKind};
use super::{Applied, Item, Mode, Transaction};

/// An item that the kernel refused.
#[derive(Clone, Copy, Debug)]
pub enum Unprogrammed<'a> {
    /// An address of the device.
    Address(IpAddr),
    /// An element of the set of this name.
    Element(&'a str, &'a Element),
}

#[derive(Debug, Default)]
pub(super) struct Refused {
    servers: BTreeSet<ServiceId>,
    items: HashSet<Item>,
}

impl Mode {
    /// Set the state of a virtual server of which the kernel refused an operation. Return the Service
    /// port that owns the server; `None` for a stale one.
    pub fn on_read(&mut self, id: ServiceId, service: Option<Service>) -> Option<PortKey> {
        if let Some(known) = &mut self.known {
            match service {
                Some(service) => known.servers.insert(id, Applied::found(service)),
                None => known.servers.remove(&id),
            };
            self.wanted.touched.servers.insert(id);
            self.refused.servers.insert(id);
        }
        self.wanted.owner(&id).map(|port| port.key())
    }

    /// Record that the kernel lacks these items. Return the Service ports that own each; none for a
    /// stale one.
    pub fn missing(&mut self, refused: &[Unprogrammed<'_>]) -> Vec<Vec<PortKey>> {
        let family = self.wanted.family();
        let item = |item: &Unprogrammed<'_>| match item {
            Unprogrammed::Address(ip) => Some(Item::Address(*ip)),
            Unprogrammed::Element(set, element) => {
                let kind = SetKind::of_name(family, set)?;
                Some(Item::Member(kind, Member::of(element)?.in_set(kind)))
            }
        };
        let items: Vec<Option<Item>> = refused.iter().map(item).collect();
        let known_items = items.iter().flatten().copied().collect();
        let mut owners = self.wanted.owners(&known_items);
        if let Some(known) = &mut self.known {
            for item in owners.keys() {
                known.items.remove(item);
                self.wanted.touched.items.insert(*item);
                self.refused.items.insert(*item);
            }
        }
        let owners = items.iter().map(|item| owners.remove(item.as_ref()?));
        owners.map(Option::unwrap_or_default).collect()
    }

    /// Return whether the transaction contains only what the kernel has already refused.
    pub fn is_only_refused(&self, transaction: &Transaction) -> bool {
        let t = transaction;
        let mut servers = t.servers.iter().chain(&t.old_servers);
        let items = t.next.items.iter().map(|(item, _)| item);
        // Rules are compared as such.
        let mut items = items.filter(|i| !matches!(i, Item::NoNodeAccess(..)));
        let adds = |op: &ipset::Op| matches!(op, ipset::Op::Add { .. });
        !t.device
            && t.rules.is_empty()
            && t.old_members.is_empty()
            && t.sets.iter().all(adds)
            && servers.all(|op| self.refused.servers.contains(&op.service()))
            && items.all(|item| self.refused.items.contains(item))
    }

    /// Return whether rules restrict a virtual server to some clients.
    pub fn is_guarded(&self, id: &ServiceId) -> bool {
        let owner = self.wanted.owner(id).zip(id.ip());
        owner.is_some_and(|(port, ip)| {
            !port.source_ranges.is_empty() && port.load_balancer_ips.contains(&ip)
        })
    }
}
