//! The current objects, grouped by Service, and the set of changed ones.

use std::collections::HashMap;
use std::sync::Arc;

use model::{AddressType, EndpointSlice, IpFamily, NamespacedName, Service};

use crate::Warning;

/// Identifies an entry of the [`Store`] for its lifetime.
pub(super) type EntryId = u32;

/// One Service with its slices; either may be missing.
#[derive(Debug)]
pub(super) struct Entry {
    name: NamespacedName,
    service: Option<Arc<Service>>,
    /// The version whose claims are registered.
    claimed: Option<Arc<Service>>,
    /// Both families, sorted by name, so that the result does not depend on the order of events.
    slices: Vec<Arc<EndpointSlice>>,
    /// Number of endpoints of planned ports, by family.
    counts: [u32; 2],
    /// Whether to replan, by family.
    dirty: [bool; 2],
    /// The Service has changed since its claims were registered.
    unsettled: bool,
}

impl Entry {
    pub(super) fn name(&self) -> &NamespacedName {
        &self.name
    }

    pub(super) fn service(&self) -> Option<&Arc<Service>> {
        self.service.as_ref()
    }

    pub(super) fn claimed(&self) -> Option<&Arc<Service>> {
        self.claimed.as_ref()
    }

    /// Return the slices of a family.
    pub(super) fn slices(&self, family: IpFamily) -> impl Iterator<Item = &EndpointSlice> + Clone {
        self.slices
            .iter()
            .map(|slice| &**slice)
            .filter(move |slice| family_of(slice) == Some(family))
    }

    pub(super) fn is_dirty(&self, family: IpFamily) -> bool {
        self.dirty[family as usize]
    }

    fn find_slice(&self, name: &NamespacedName) -> Result<usize, usize> {
        self.slices
            .binary_search_by(|slice| slice.name.name.cmp(&name.name))
    }
}

/// Return the family of a slice's addresses; `None` for host names, which are not proxied.
pub(super) fn family_of(slice: &EndpointSlice) -> Option<IpFamily> {
    match slice.address_type {
        AddressType::Ipv4 => Some(IpFamily::V4),
        AddressType::Ipv6 => Some(IpFamily::V6),
        AddressType::Fqdn => None,
    }
}

/// Return the Service and family that a slice serves through this proxy, if any.
fn serves(slice: &EndpointSlice) -> Option<(&NamespacedName, IpFamily)> {
    if slice.headless || slice.proxy_name.is_some() {
        return None;
    }
    Some((slice.service.as_ref()?, family_of(slice)?))
}

/// The entries of all Services.
#[derive(Debug, Default)]
pub(super) struct Store {
    entries: Vec<Entry>,
    /// Unused entries.
    free: Vec<EntryId>,
    ids: HashMap<NamespacedName, EntryId>,
    /// The entry of each slice.
    slices: HashMap<NamespacedName, EntryId>,
    /// Slices that serve no Service through this proxy. Sources rarely deliver any.
    unused: HashMap<NamespacedName, Arc<EndpointSlice>>,
    dirty: Vec<EntryId>,
    service_count: usize,
    counts: [usize; 2],
    /// Last warnings about addresses that a Service does not receive.
    taken: HashMap<(EntryId, IpFamily), Vec<Warning>>,
}

impl Store {
    pub(super) fn entry(&self, id: EntryId) -> &Entry {
        &self.entries[id as usize]
    }

    fn entry_mut(&mut self, id: EntryId) -> &mut Entry {
        &mut self.entries[id as usize]
    }

    fn entry_of(&mut self, name: &NamespacedName) -> EntryId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let entry = Entry {
            name: name.clone(),
            service: None,
            claimed: None,
            slices: Vec::new(),
            counts: [0; 2],
            dirty: [false; 2],
            unsettled: false,
        };
        let id = match self.free.pop() {
            Some(id) => {
                *self.entry_mut(id) = entry;
                id
            }
            None => {
                let id = EntryId::try_from(self.entries.len()).expect("more than 2^32 Services");
                self.entries.push(entry);
                id
            }
        };
        self.ids.insert(name.clone(), id);
        id
    }

    /// Store a Service; return it if it changed.
    pub(super) fn put_service(&mut self, service: Arc<Service>) -> Option<Arc<Service>> {
        let id = self.entry_of(&service.name);
        let entry = self.entry_mut(id);
        if entry.service.as_ref() == Some(&service) {
            return None;
        }
        let is_new = entry.service.replace(service.clone()).is_none();
        entry.unsettled = true;
        self.service_count += usize::from(is_new);
        self.forget_taken(id);
        self.touch(id);
        Some(service)
    }

    pub(super) fn remove_service(&mut self, name: &NamespacedName) {
        let Some(id) = self.ids.get(name).copied() else {
            return;
        };
        let entry = self.entry_mut(id);
        if entry.service.take().is_some() {
            entry.unsettled = true;
            self.service_count -= 1;
            self.forget_taken(id);
            self.touch(id);
        }
    }

    /// Store a slice; return it with its family if it affects a Service.
    pub(super) fn put_slice(
        &mut self,
        slice: Arc<EndpointSlice>,
    ) -> Option<(Arc<EndpointSlice>, IpFamily)> {
        let Some((service, family)) = serves(&slice) else {
            self.remove_slice(&slice.name);
            self.unused.insert(slice.name.clone(), slice);
            return None;
        };
        self.unused.remove(&slice.name);
        let id = self.entry_of(service);
        if let Some(before) = self.slices.get(&slice.name).copied() {
            if before != id {
                self.remove_slice(&slice.name);
            } else if let Ok(at) = self.entry(id).find_slice(&slice.name) {
                let known = &mut self.entry_mut(id).slices[at];
                if *known == slice {
                    return None;
                }
                let before = std::mem::replace(known, slice.clone());
                if let Some(family) = family_of(&before) {
                    self.touch_family(id, family);
                }
                self.touch_family(id, family);
                return Some((slice, family));
            }
        }
        self.slices.insert(slice.name.clone(), id);
        let entry = self.entry_mut(id);
        let (Ok(at) | Err(at)) = entry.find_slice(&slice.name);
        entry.slices.insert(at, slice.clone());
        self.touch_family(id, family);
        Some((slice, family))
    }

    pub(super) fn remove_slice(&mut self, name: &NamespacedName) {
        self.unused.remove(name);
        let Some(id) = self.slices.remove(name) else {
            return;
        };
        let entry = self.entry_mut(id);
        if let Ok(at) = entry.find_slice(name) {
            let slice = entry.slices.remove(at);
            if let Some(family) = family_of(&slice) {
                self.touch_family(id, family);
            }
        }
    }

    pub(super) fn service_count(&self) -> usize {
        self.service_count
    }

    /// Return all Services.
    pub(super) fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.entries.iter().filter_map(Entry::service)
    }

    /// Return all slices.
    pub(super) fn slices(&self) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        let used = self.entries.iter().flat_map(|entry| &entry.slices);
        used.chain(self.unused.values())
    }

    /// Mark the entries that depend on this node's zone.
    pub(super) fn touch_zone_hinted(&mut self) {
        let hinted = |slice: &EndpointSlice| {
            let mut endpoints = slice.endpoints.iter();
            endpoints.any(|endpoint| !endpoint.zone_hints.is_empty())
        };
        let ids: Vec<EntryId> = self.ids.values().copied().collect();
        for id in ids {
            for family in IpFamily::ALL {
                if self.entry(id).slices(family).any(hinted) {
                    self.touch_family(id, family);
                }
            }
        }
    }

    /// Mark every entry; return the numbers of Services and slices.
    pub(super) fn touch_all(&mut self) -> (usize, usize) {
        let ids: Vec<EntryId> = self.ids.values().copied().collect();
        for id in &ids {
            self.touch(*id);
        }
        let services = ids.iter().filter(|id| self.entry(**id).service.is_some());
        (services.count(), self.slices.len())
    }

    /// Mark an entry for replanning.
    pub(super) fn touch(&mut self, id: EntryId) {
        for family in IpFamily::ALL {
            self.touch_family(id, family);
        }
    }

    fn touch_family(&mut self, id: EntryId, family: IpFamily) {
        let dirty = &mut self.entry_mut(id).dirty;
        let first = *dirty == [false; 2];
        dirty[family as usize] = true;
        if first {
            self.dirty.push(id);
        }
    }

    /// Return the entries whose Service changed.
    pub(super) fn unsettled(&self) -> Vec<EntryId> {
        let dirty = self.dirty.iter().copied();
        dirty.filter(|id| self.entry(*id).unsettled).collect()
    }

    pub(super) fn settled(&mut self, id: EntryId, claimed: Option<Arc<Service>>) {
        let entry = self.entry_mut(id);
        entry.claimed = claimed;
        entry.unsettled = false;
    }

    /// Return the marked entries, by name. Each stays dirty until [`clean`](Self::clean).
    pub(super) fn take_dirty(&mut self) -> Vec<EntryId> {
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.sort_unstable_by(|a, b| self.entry(*a).name.cmp(&self.entry(*b).name));
        dirty
    }

    pub(super) fn clean(&mut self, id: EntryId) {
        let entry = self.entry_mut(id);
        entry.dirty = [false; 2];
        if entry.service.is_none() && entry.slices.is_empty() {
            let name = entry.name.clone();
            self.ids.remove(&name);
            self.free.push(id);
        }
    }

    pub(super) fn set_endpoint_count(&mut self, id: EntryId, family: IpFamily, count: usize) {
        let total = &mut self.counts[family as usize];
        let known = &mut self.entries[id as usize].counts[family as usize];
        *total = *total + count - *known as usize;
        *known = u32::try_from(count).unwrap_or(u32::MAX);
    }

    /// Return the number of endpoints of planned ports of a family.
    pub(super) fn endpoint_count(&self, family: IpFamily) -> usize {
        self.counts[family as usize]
    }

    /// Return the warnings in `now` that were absent the last time.
    pub(super) fn new_taken(
        &mut self,
        id: EntryId,
        family: IpFamily,
        now: Vec<Warning>,
    ) -> Vec<Warning> {
        let before = self.taken.remove(&(id, family)).unwrap_or_default();
        let new = now.iter().filter(|warning| !before.contains(warning));
        let new = new.cloned().collect();
        if !now.is_empty() {
            self.taken.insert((id, family), now);
        }
        new
    }

    fn forget_taken(&mut self, id: EntryId) {
        for family in IpFamily::ALL {
            self.taken.remove(&(id, family));
        }
    }
}
