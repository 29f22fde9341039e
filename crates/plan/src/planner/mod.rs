//! From objects to plans, at a cost that follows the change.

mod claims;
mod endpoints;
mod facts;
mod flows;
mod ports;
mod service;
mod store;
mod warn;

use std::net::IpAddr;
use std::sync::Arc;

use model::{Change, EndpointSlice, Event, IpFamily, Service};

use self::claims::Claims;
use self::facts::Facts;
use self::ports::Builder;
use self::store::{EntryId, Store};
use crate::{HealthChange, Plan, PlanDiff, Settings, Warning};

/// Turns events into plans.
///
/// Events are only taken note of; [`take_diff`](Self::take_diff) works out what they mean, once
/// for each Service that any of them touched. So a burst of events costs no more than its last
/// state, a change that is undone before it is looked at leaves no trace, and an endpoint that
/// moves from one slice to another is never missing in between.
///
/// The order of events on different objects makes no difference: slices may come before their
/// Service, and the Node may come last.
#[derive(Debug)]
pub struct Planner {
    store: Store,
    claims: Claims,
    facts: Facts,
    plans: [Plan; 2],
    /// What [`PlanDiff`] carries beside the plan.
    triggers: [Vec<i64>; 2],
    warnings: Vec<Warning>,
    builder: Builder,
}

impl Planner {
    /// A planner that has seen nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            store: Store::default(),
            claims: Claims::default(),
            builder: Builder::new(&settings.node_name),
            facts: Facts::new(settings),
            plans: IpFamily::ALL.map(Plan::empty),
            triggers: Default::default(),
            warnings: Vec::new(),
        }
    }

    /// Takes note of one event.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Service(Change::Applied(service)) => self.apply_service(service),
            Event::Service(Change::Deleted(name)) => self.store.remove_service(&name),
            Event::EndpointSlice(Change::Applied(slice)) => self.apply_slice(slice),
            Event::EndpointSlice(Change::Deleted(name)) => self.store.remove_slice(&name),
            Event::Node(Change::Applied(node)) => {
                if self.facts.set_node(node) {
                    self.builder.set_zone(self.facts.zone());
                    self.store.touch_zone_hinted();
                }
            }
            // The last known Node stays in force: a deleted Node object does not stop the node's
            // pods, and forgetting its pod range would break their connections.
            Event::Node(Change::Deleted(_)) => {}
            Event::ServiceCidr(Change::Applied(cidr)) => self.facts.set_service_cidr(cidr),
            Event::ServiceCidr(Change::Deleted(name)) => self.facts.remove_service_cidr(&name),
        }
    }

    /// Takes note of several events.
    pub fn apply_all(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.apply(event);
        }
    }

    /// Has [`take_diff`](Self::take_diff) work out everything again, as if each object had come anew.
    /// Returns how many Services and EndpointSlices there are.
    pub fn refresh(&mut self) -> (usize, usize) {
        self.store.touch_all()
    }

    /// The addresses of the host's own interfaces, which ranges in `nodePortAddresses` are matched
    /// against.
    pub fn set_host_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.facts.set_host_addresses(addresses);
    }

    /// What the operator says that the node's addresses are (`--bind-address`, `--node-ip`), at
    /// most one a family; they go before those of the Node.
    pub fn set_node_ips(&mut self, ips: Vec<IpAddr>) {
        self.facts.set_node_ips(ips);
    }

    /// The plan of a family as of the last [`take_diff`](Self::take_diff).
    pub fn plan(&self, family: IpFamily) -> &Plan {
        &self.plans[family as usize]
    }

    /// Works out what all events since the last call change, and brings [`plan`](Self::plan) up to
    /// it.
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

    /// What was found wrong with objects since the last call, in the order of finding: as soon as
    /// an object is applied, except for what takes other objects to tell (addresses that are
    /// [`Taken`](crate::Reason::Taken)), which comes with the diff.
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

    /// Brings the claims on addresses and ports up to the Services, and marks whoever wins or
    /// loses one by it.
    fn settle_claims(&mut self) {
        for id in self.store.unsettled() {
            let entry = self.store.entry(id);
            let (before, after) = (entry.claimed().cloned(), entry.service().cloned());
            let rivals = self.claims.replace(id, before.as_deref(), after.as_deref());
            for rival in rivals {
                self.store.touch(rival);
                // A rival that gains or loses its cluster IP gains or loses its other frontends
                // with it, to others again.
                if let Some(service) = self.store.entry(rival).service() {
                    for other in self.claims.rivals_of(rival, service) {
                        self.store.touch(other);
                    }
                }
            }
            self.store.settled(id, after);
        }
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
