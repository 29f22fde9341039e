//! What the kernel has refused of a transaction that it has taken otherwise. Every further
//! transaction tries it again.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use netfilter::ipset::{self, Element};
use netfilter::ipvs::{Service, ServiceId};
use plan::PortKey;

use super::super::sets::{Member, SetKind};
use super::{Applied, Item, Mode, Transaction};

#[derive(Debug, Default)]
pub(super) struct Refused {
    servers: BTreeSet<ServiceId>,
    items: HashSet<Item>,
}

impl Mode {
    /// The kernel has refused something of a virtual server: this is what it has of it. Returns
    /// the Service port that it is there for; `None` for one that was to go.
    pub fn found(&mut self, id: ServiceId, service: Option<Service>) -> Option<PortKey> {
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

    /// The kernel has refused an address of the interface. Returns the Service ports that it was to
    /// be there for; none for one that was to go.
    pub fn lacks_address(&mut self, ip: IpAddr) -> Vec<PortKey> {
        self.lacks(Item::Address(ip))
    }

    /// The kernel has refused an element of a set. Returns the Service ports that it was to be
    /// there for; none for one that was to go.
    pub fn lacks_element(&mut self, set: &str, element: &Element) -> Vec<PortKey> {
        let kind = SetKind::of_name(self.wanted.plan.family, set);
        let member = Member::of(element);
        match kind.zip(member) {
            Some((kind, member)) => self.lacks(Item::Member(kind, member.in_set(kind))),
            None => Vec::new(),
        }
    }

    fn lacks(&mut self, item: Item) -> Vec<PortKey> {
        let owners = self.wanted.owners(&item);
        let owners: Vec<PortKey> = owners.into_iter().map(|port| port.key()).collect();
        if let Some(known) = self.known.as_mut().filter(|_| !owners.is_empty()) {
            known.items.remove(&item);
            self.wanted.touched.items.insert(item);
            self.refused.items.insert(item);
        }
        owners
    }

    /// Whether there is nothing to do but what the kernel has refused already.
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

    /// Whether a virtual server is for some clients only, which rules see to.
    pub fn is_guarded(&self, id: &ServiceId) -> bool {
        let owner = self.wanted.owner(id).zip(id.ip());
        owner.is_some_and(|(port, ip)| {
            !port.source_ranges.is_empty() && port.load_balancer_ips.contains(&ip)
        })
    }
}
