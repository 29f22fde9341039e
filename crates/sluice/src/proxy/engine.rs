//! The sync state machine: events in, syncs out.
//!
//! Decides when each family is synced, with [`Schedule`]; time is an argument and the kernel is behind
//! [`Driver`]. Nothing is written before the first list of all objects is complete.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use dataplane::Refusals;
use kernel::process::processor_time;
use model::{Event, IpFamily};
use plan::{NodeFacts, Plan, Planner, PortKey, PortPlan};

use super::budget::Budget;
use super::driver::{Chain, Driver, SyncError, Synced};
use super::pending::Pending;
use super::schedule::{Intervals, Schedule, Work};

/// Receives what the engine did, for health, metrics and connection tracking.
pub(crate) trait Observer {
    /// Called when this many Services and EndpointSlices have changed.
    fn received(&mut self, services: usize, slices: usize);
    /// Called when all objects, this many Services and EndpointSlices, have been planned again.
    fn refreshed(&mut self, _services: usize, _slices: usize) {}
    /// Called when a change is waiting to be written.
    fn queued(&mut self, family: IpFamily, now: Instant);
    /// Called when a sync begins.
    fn started(&mut self, _family: IpFamily, _work: Work) {}
    /// Called when a sync has succeeded.
    fn synced(&mut self, report: &mut SyncReport<'_>);
    /// Called when a sync has failed.
    fn failed(&mut self, family: IpFamily, work: Work, error: &SyncError);
}

/// Observes nothing, for a single sync.
pub(crate) struct Unobserved;

impl Observer for Unobserved {
    fn received(&mut self, _: usize, _: usize) {}
    fn queued(&mut self, _: IpFamily, _: Instant) {}
    fn synced(&mut self, _: &mut SyncReport<'_>) {}
    fn failed(&mut self, _: IpFamily, _: Work, _: &SyncError) {}
}

/// A successful sync.
pub(crate) struct SyncReport<'a> {
    pub(crate) family: IpFamily,
    pub(crate) work: Work,
    pub(crate) started: Instant,
    pub(crate) ended: Instant,
    pub(crate) synced: &'a Synced,
    pub(crate) node: &'a NodeFacts,
    /// The changes since the last successful sync. Not the whole plan: the cost of observing a sync
    /// must not grow with the cluster.
    pub(crate) changes: Pending,
}

/// The objects and the plan at one time.
pub(crate) struct Snapshot {
    /// Events that add the objects.
    pub(crate) objects: Vec<Event>,
    /// All objects have been received once.
    pub(crate) is_complete: bool,
    /// The kernel contains everything.
    pub(crate) is_settled: bool,
    /// The planned Service ports of each served family.
    pub(crate) plans: Vec<(IpFamily, Vec<Arc<PortPlan>>)>,
}

/// Sizes of the plan of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) family: IpFamily,
    pub(crate) ports: usize,
    pub(crate) endpoints: usize,
    /// Service ports that changed since the last successful sync.
    pub(crate) pending: usize,
}

/// The state machine.
pub(crate) struct Engine {
    planner: Planner,
    families: Vec<Family>,
    /// Families that the kernel lacks.
    unserved: Vec<IpFamily>,
    budget: Budget,
    complete: bool,
    observer: Box<dyn Observer>,
}

struct Family {
    family: IpFamily,
    driver: Box<dyn Driver>,
    schedule: Schedule,
    pending: Pending,
    quarantined: BTreeSet<PortKey>,
    last_error: Option<String>,
    /// No sync has succeeded yet.
    starting: bool,
}

impl Engine {
    /// Return an engine without objects.
    pub(crate) fn new(
        planner: Planner,
        drivers: Vec<(IpFamily, Box<dyn Driver>)>,
        intervals: Intervals,
        observer: Box<dyn Observer>,
        now: Instant,
    ) -> Self {
        let families = drivers
            .into_iter()
            .map(|(family, driver)| Family {
                family,
                driver,
                schedule: Schedule::new(intervals, now),
                pending: Pending::default(),
                quarantined: BTreeSet::new(),
                last_error: None,
                starting: true,
            })
            .collect();
        Self {
            planner,
            families,
            unserved: Vec::new(),
            budget: Budget::new(now),
            complete: false,
            observer,
        }
    }

    /// Apply changed objects.
    pub(crate) fn events(&mut self, events: Vec<Event>, now: Instant) {
        let services = events.iter().filter(|e| matches!(e, Event::Service(_)));
        let slices = events
            .iter()
            .filter(|e| matches!(e, Event::EndpointSlice(_)));
        self.observer.received(services.count(), slices.count());
        self.planner.apply_all(events);
        self.settle(now);
    }

    /// Plan all objects again (`configSyncPeriod`). The kernel is written only if the result differs.
    pub(crate) fn refresh(&mut self, now: Instant) {
        let (services, slices) = self.planner.refresh();
        tracing::trace!(services, slices, "Planned all objects again");
        self.observer.refreshed(services, slices);
        self.settle(now);
    }

    /// Leave out address families, before anything is written.
    pub(crate) fn leave_out(&mut self, unserved: Vec<IpFamily>) {
        self.families.retain(|f| !unserved.contains(&f.family));
        self.unserved = unserved;
    }

    /// The first list of all objects is complete: from now on the kernel is written.
    pub(crate) fn complete(&mut self, now: Instant) {
        if !self.complete {
            self.complete = true;
            for family in &mut self.families {
                family.schedule.mark_unverified();
                self.observer.queued(family.family, now);
            }
        }
        self.settle(now);
    }

    /// Apply the host's addresses.
    pub(crate) fn host_addresses(&mut self, addresses: Vec<IpAddr>, now: Instant) {
        self.planner.set_host_addresses(addresses);
        self.settle(now);
        if self.complete {
            for family in &mut self.families {
                if family
                    .driver
                    .host_addresses_changed(self.planner.plan(family.family))
                {
                    family.schedule.changed();
                }
            }
        }
    }

    /// Compare and restore the rules of a family, which another program changed.
    pub(crate) fn disturbed(&mut self, family: IpFamily) {
        for f in self.families.iter_mut().filter(|f| f.family == family) {
            f.restore();
        }
    }

    /// Plan the changes.
    fn settle(&mut self, now: Instant) {
        let mut diff = self.planner.take_diff();
        for warning in self.planner.take_warnings() {
            tracing::warn!(%warning, "Object conflict or part of an object ignored");
        }
        for family in &mut self.families {
            let diff = std::mem::take(match family.family {
                IpFamily::V4 => &mut diff.v4,
                IpFamily::V6 => &mut diff.v6,
            });
            if diff.is_empty() {
                continue;
            }
            family.pending.add(diff);
            if self.complete {
                family.schedule.changed();
                self.observer.queued(family.family, now);
            }
        }
    }

    /// When to call [`Engine::run`] next, if no input arrives before.
    pub(crate) fn next(&self) -> Option<Instant> {
        let syncs = self.families.iter().map(|f| f.schedule.next(&self.budget));
        let chores = self.families.iter().filter_map(|f| f.driver.due());
        let next = syncs.chain(chores).min();
        next.filter(|_| self.complete)
    }

    /// Do the work that is due. Families are independent of each other's success.
    pub(crate) fn run(&mut self) {
        if !self.complete {
            return;
        }
        for family in &mut self.families {
            let plan = self.planner.plan(family.family);
            if family.driver.due().is_some_and(|due| due <= Instant::now()) {
                family.driver.attend(plan);
            }
            while let Some(work) = family.schedule.due(&self.budget, Instant::now()) {
                if work == Work::Check {
                    if family.driver.disturbed(plan) {
                        family.restore();
                    } else if !family.quarantined.is_empty() {
                        // The kernel may accept now what it rejected before.
                        family.schedule.changed();
                    }
                    continue;
                }
                family.sync(work, plan, &mut self.budget, &mut *self.observer);
                break;
            }
        }
    }

    /// Return the objects and the plan. Only references are copied.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let plans = self.families.iter().map(|f| {
            let plan = self.planner.plan(f.family);
            (f.family, plan.ports.values().cloned().collect())
        });
        Snapshot {
            objects: self.planner.objects(),
            is_complete: self.complete,
            is_settled: self.settled() == Ok(true),
            plans: plans.collect(),
        }
    }

    /// Return the number of Services, and the sizes of each family's plan, served or not. The cost does
    /// not depend on the number of objects.
    pub(crate) fn sizes(&self) -> (usize, impl Iterator<Item = Sizes> + '_) {
        let served = self.families.iter();
        let served = served.map(|f| (f.family, f.pending.ports.len()));
        let all = served.chain(self.unserved.iter().map(|family| (*family, 0)));
        let sizes = all.map(|(family, pending)| {
            let plan = self.planner.plan(family);
            Sizes {
                family,
                ports: plan.ports.len(),
                endpoints: plan.endpoint_count,
                pending,
            }
        });
        (self.planner.service_count(), sizes)
    }

    /// Return whether every family is in sync, which `--once` waits for.
    pub(crate) fn settled(&self) -> Result<bool, String> {
        if let Some(error) = self.families.iter().find_map(|f| f.last_error.as_ref()) {
            return Err(error.clone());
        }
        Ok(self.complete && self.families.iter().all(|f| f.schedule.is_settled()))
    }
}

impl Family {
    fn restore(&mut self) {
        tracing::warn!(family = %self.family, "Another program changed the rules; restoring them");
        self.schedule.mark_unverified();
    }

    fn sync(&mut self, work: Work, plan: &Plan, budget: &mut Budget, observer: &mut dyn Observer) {
        let (started, before) = (Instant::now(), processor_time());
        self.schedule.started(started);
        observer.started(self.family, work);
        let result = match work {
            Work::Changes => self.driver.sync(plan, &self.pending.ports),
            Work::Everything | Work::Check => self.driver.resync(plan),
        };
        let ended = Instant::now();
        budget.spend(processor_time().saturating_sub(before), ended);
        match result {
            Ok(synced) => {
                self.schedule.succeeded(work, ended);
                if self.last_error.take().is_some() {
                    tracing::info!(family = %self.family, "Sync succeeded again");
                }
                if std::mem::take(&mut self.starting)
                    && let Some(found) = synced.found
                {
                    tracing::info!(
                        family = %self.family,
                        found = %found.origin,
                        kept = found.kept,
                        written = found.written,
                        took = ?ended.duration_since(started),
                        "Adopted the kernel state"
                    );
                }
                self.note_quarantined(&synced.quarantined);
                let mut changes = std::mem::take(&mut self.pending);
                changes.stale_flows = self.driver.stale_flows(changes.stale_flows);
                tracing::debug!(
                    family = %self.family,
                    work = work.name(),
                    took = ?ended.duration_since(started),
                    "Synced"
                );
                observer.synced(&mut SyncReport {
                    family: self.family,
                    work,
                    started,
                    ended,
                    synced: &synced,
                    node: &plan.node,
                    changes,
                });
            }
            Err(error) => {
                let pause = self.schedule.failed(ended);
                observer.failed(self.family, work, &error);
                let message = format!("{}: {}", self.family, Chain(&error));
                if self.last_error.as_ref() != Some(&message) {
                    tracing::error!(
                        family = %self.family,
                        error = %Chain(&error),
                        retry_in = ?pause,
                        "Sync failed; retrying"
                    );
                    self.last_error = Some(message);
                }
            }
        }
    }

    fn note_quarantined(&mut self, quarantined: &Refusals) {
        for (key, reason) in quarantined {
            if self.quarantined.insert(key.clone()) {
                tracing::error!(
                    family = %self.family,
                    port = %key.0,
                    error = %reason,
                    "Service port rejected; serving all others"
                );
            }
        }
        let family = self.family;
        self.quarantined.retain(|key| {
            let still = quarantined.contains(key);
            if !still {
                tracing::info!(%family, port = %key.0, "Service port accepted or removed");
            }
            still
        });
    }
}
