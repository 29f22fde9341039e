//! From objects to plans; the cost follows the change.

mod claims;
mod clashes;
mod endpoints;
mod facts;
mod flows;
mod ports;
mod service;
mod store;
mod warn;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use model::{
    Change, EndpointSlice, Event, IpFamily, Node, NodeAddress, NodeAddressType, Service,
    TopologyLabels,
};

use self::claims::Claims;
use self::clashes::Clashes;
use self::facts::Facts;
use self::ports::Builder;
use self::store::{EntryId, Store};
use crate::{HealthChange, Plan, PlanDiff, Settings, Warning};

/// Turns events into plans.
///
/// Events are only recorded. [`take_diff`](Self::take_diff) replans each affected Service once. So
/// a burst of events costs no more than its final state, a change that is reverted before has no
/// effect, and an endpoint that moves between slices is never missing.
///
/// The order of events on different objects does not matter: slices may precede their Service, and
/// the Node may be last.
#[derive(Debug)]
pub struct Planner {
    store: Store,
    claims: Claims,
    clashes: Clashes,
    facts: Facts,
    plans: [Plan; 2],
    /// Parts of [`PlanDiff`] that are not in the plan.
    triggers: [Vec<i64>; 2],
    warnings: Vec<Warning>,
    builder: Builder,
}

impl Planner {
    /// Return a planner without objects.
    pub fn new(settings: Settings) -> Self {
        Self {
            store: Store::default(),
            claims: Claims::default(),
            clashes: Clashes::default(),
            builder: Builder::new(&settings.node_name),
            facts: Facts::new(settings),
            plans: IpFamily::ALL.map(Plan::empty),
            triggers: Default::default(),
            warnings: Vec::new(),
        }
    }

    /// Record one event.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Service(Change::Applied(service)) => self.apply_service(service),
            Event::Service(Change::Deleted(name)) => self.store.remove_service(&name),
            Event::EndpointSlice(Change::Applied(slice)) => self.apply_slice(slice),
            Event::EndpointSlice(Change::Deleted(name)) => self.store.remove_slice(&name),
            Event::Node(Change::Applied(node)) => {
                let addresses = node.addresses.iter().map(|a| a.ip).collect();
                self.clashes.set_node(&node.name, addresses);
                if self.facts.set_node(node) {
                    self.builder.set_zone(self.facts.zone());
                    self.store.touch_zone_hinted();
                }
            }
            // The last known own Node stays in force: a deleted Node object does not stop the node's
            // pods, and forgetting its pod range would break their connections.
            Event::Node(Change::Deleted(name)) => {
                if !self.facts.is_own(&name) {
                    self.clashes.set_node(&name, BTreeSet::new());
                }
            }
            Event::ServiceCidr(Change::Applied(cidr)) => self.facts.set_service_cidr(cidr),
            Event::ServiceCidr(Change::Deleted(name)) => self.facts.remove_service_cidr(&name),
        }
    }

    /// Record several events.
    pub fn apply_all(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.apply(event);
        }
    }

    /// Mark every object, so that [`take_diff`](Self::take_diff) replans everything. Return the
    /// numbers of Services and EndpointSlices.
    pub fn refresh(&mut self) -> (usize, usize) {
        self.store.touch_all()
    }

    /// Set the addresses of the host's interfaces, from which `nodePortAddresses` selects.
    pub fn set_host_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.facts.set_host_addresses(addresses);
    }

    /// Set the configured node addresses (`--bind-address`, `--node-ip`), at most one per family.
    /// They override those of the Node.
    pub fn set_node_ips(&mut self, ips: Vec<IpAddr>) {
        self.facts.set_node_ips(ips);
    }

    /// Return events that add the known objects. Other Nodes than this node's have only their name and
    /// addresses, all as InternalIP.
    pub fn objects(&self) -> Vec<Event> {
        let services = self.store.services().cloned();
        let services = services.map(|o| Event::Service(Change::Applied(o)));
        let slices = self.store.slices().cloned();
        let slices = slices.map(|o| Event::EndpointSlice(Change::Applied(o)));
        let own = self.facts.node().cloned().into_iter();
        let others = self.clashes.nodes();
        let others = others.filter(|(name, _)| !self.facts.is_own(name));
        let others = others.map(|(name, addresses)| Arc::new(other_node(name, addresses)));
        let nodes = own.chain(others).map(|o| Event::Node(Change::Applied(o)));
        let cidrs = self.facts.service_cidrs().cloned();
        let cidrs = cidrs.map(|o| Event::ServiceCidr(Change::Applied(o)));
        services.chain(slices).chain(nodes).chain(cidrs).collect()
    }

    /// Return the number of Services.
    pub fn service_count(&self) -> usize {
        self.store.service_count()
    }

    /// Return the plan of a family as of the last [`take_diff`](Self::take_diff).
    pub fn plan(&self, family: IpFamily) -> &Plan {
        &self.plans[family as usize]
    }

    /// Apply all events since the last call to [`plan`](Self::plan) and return the change.
    pub fn take_diff(&mut self) -> PlanDiff {
        let mut diff = PlanDiff::default();
        self.settle_claims();
        for id in self.store.take_dirty() {
            for family in IpFamily::ALL {
                if self.store.entry(id).is_dirty(family) {
                    self.replan(id, family, &mut diff);
                }
            }
            self.store.clean(id);
        }
        for family in IpFamily::ALL {
            let plan = &mut self.plans[family as usize];
            let diff = diff.family_mut(family);
            let node = self.facts.resolve(family);
            if *plan.node != node {
                plan.node = Arc::new(node);
                diff.node = Some(plan.node.clone());
            }
            let count = self.store.endpoint_count(family);
            if plan.endpoint_count != count {
                plan.endpoint_count = count;
                diff.endpoint_count = Some(count);
            }
            diff.triggers = std::mem::take(&mut self.triggers[family as usize]);
        }
        diff
    }

    /// Return the new warnings since the last call. Warnings about a single object follow from
    /// [`apply`](Self::apply), those about conflicts between objects
    /// ([`Taken`](crate::Reason::Taken), [`NodeAddress`](crate::Reason::NodeAddress),
    /// [`HealthCheckNodePort`](crate::Reason::HealthCheckNodePort)) from
    /// [`take_diff`](Self::take_diff).
    pub fn take_warnings(&mut self) -> Vec<Warning> {
        std::mem::take(&mut self.warnings)
    }

    fn apply_service(&mut self, service: Arc<Service>) {
        if let Some(service) = self.store.put_service(service) {
            warn::service(&service, &mut self.warnings);
        }
    }

    fn apply_slice(&mut self, slice: Arc<EndpointSlice>) {
        if let Some((slice, family)) = self.store.put_slice(slice) {
            warn::slice(&slice, &mut self.warnings);
            self.triggers[family as usize].extend(slice.last_change_trigger);
        }
    }

    /// Update the claims on addresses and ports, and mark the Services that gain or lose one.
    fn settle_claims(&mut self) {
        for id in self.store.unsettled() {
            let entry = self.store.entry(id);
            let (before, after) = (entry.claimed().cloned(), entry.service().cloned());
            let rivals = self.claims.replace(id, before.as_deref(), after.as_deref());
            for rival in rivals {
                self.store.touch(rival);
                // A rival that gains or loses its cluster IP gains or loses its other frontends
                // too, which affects further Services.
                if let Some(service) = self.store.entry(rival).service() {
                    for other in self.claims.rivals_of(rival, service) {
                        self.store.touch(other);
                    }
                }
            }
            self.clashes
                .replace(id, before.as_deref(), after.as_deref());
            self.store.settled(id, after);
        }
        let clashes = self.clashes.take_new(&self.claims, &self.store);
        self.warnings.extend(clashes);
    }

    fn replan(&mut self, id: EntryId, family: IpFamily, diff: &mut PlanDiff) {
        let entry = self.store.entry(id);
        let name = entry.name().clone();
        let planned = self
            .builder
            .service(id, entry, family, &self.claims, &self.store);
        self.store
            .set_endpoint_count(id, family, planned.endpoint_count);
        let taken = self.store.new_taken(id, family, planned.taken);
        self.warnings.extend(taken);
        let plan = &mut self.plans[family as usize];
        let diff = diff.family_mut(family);
        self.builder.replace_ports(plan, &name, planned.ports, diff);
        let after = planned.health;
        let before = match after {
            Some(check) => plan.health_checks.insert(name.clone(), check),
            None => plan.health_checks.remove(&name),
        };
        if before != after {
            diff.health.push(HealthChange {
                service: name,
                before,
                after,
            });
        }
    }
}

/// Return another node's Node as far as it is known.
fn other_node(name: &Arc<str>, addresses: &BTreeSet<IpAddr>) -> Node {
    let internal = |ip: &IpAddr| NodeAddress {
        kind: NodeAddressType::InternalIp,
        ip: *ip,
    };
    Node {
        name: name.clone(),
        uid: "".into(),
        addresses: addresses.iter().map(internal).collect(),
        pod_cidrs: Vec::new(),
        topology: TopologyLabels::new(),
        deleting: false,
    }
}
