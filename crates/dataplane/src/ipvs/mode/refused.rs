//! What the kernel has refused of a transaction that it has taken otherwise. Every further
//! transaction tries it again.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use netfilter::ipset::{self, Element};
use netfilter::ipvs::{Service, ServiceId};
use plan::PortKey;

use super::super::sets::{Member, SetKind};
use super::{Applied, Item, Mode, Transaction};

/// Something that the kernel has refused.
#[derive(Clone, Copy, Debug)]
pub enum Lost<'a> {
    /// An address of the interface.
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

    /// The kernel has refused these. Returns for each the Service ports that it was to be there for;
    /// none for one that was to go.
    pub fn lacks(&mut self, lost: &[Lost<'_>]) -> Vec<Vec<PortKey>> {
        let family = self.wanted.plan.family;
        let item = |lost: &Lost<'_>| match lost {
            Lost::Address(ip) => Some(Item::Address(*ip)),
            Lost::Element(set, element) => {
                let kind = SetKind::of_name(family, set)?;
                Some(Item::Member(kind, Member::of(element)?.in_set(kind)))
            }
        };
        let items: Vec<Option<Item>> = lost.iter().map(item).collect();
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
