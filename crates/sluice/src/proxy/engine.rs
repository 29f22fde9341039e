//! The sync state machine: events in, syncs out.
//!
//! Everything that decides is here and in [`Schedule`]; time is an argument, and the kernel is
//! behind [`Driver`]. Nothing is written before every object has been seen once.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use dataplane::Refusals;
use model::{Event, IpFamily};
use plan::{NodeFacts, Plan, Planner, PortKey};

use super::budget::Budget;
use super::driver::{Chain, Driver, SyncError, Synced};
use super::pending::Pending;
use super::schedule::{Intervals, Schedule, Work};

/// Told what the engine did; health, metrics, conntrack and Events hang on it.
pub(crate) trait Observer {
    /// Objects changed: so many Services, so many EndpointSlices.
    fn received(&mut self, services: usize, slices: usize);
    /// All objects were looked at again: so many Services, so many EndpointSlices.
    fn refreshed(&mut self, _services: usize, _slices: usize) {}
    /// A change is waiting for the kernel.
    fn queued(&mut self, family: IpFamily, now: Instant);
    /// A sync ended well.
    fn synced(&mut self, report: &mut SyncReport<'_>);
    /// A sync failed.
    fn failed(&mut self, family: IpFamily, work: Work, error: &SyncError);
}

/// Nobody looks: for a single sync.
pub(crate) struct Unobserved;

impl Observer for Unobserved {
    fn received(&mut self, _: usize, _: usize) {}
    fn queued(&mut self, _: IpFamily, _: Instant) {}
    fn synced(&mut self, _: &mut SyncReport<'_>) {}
    fn failed(&mut self, _: IpFamily, _: Work, _: &SyncError) {}
}

/// A sync that ended well.
pub(crate) struct SyncReport<'a> {
    pub(crate) family: IpFamily,
    pub(crate) work: Work,
    pub(crate) started: Instant,
    pub(crate) ended: Instant,
    pub(crate) synced: &'a Synced,
    pub(crate) node: &'a NodeFacts,
    /// What is in the kernel now and was not after the last sync that ended well. Not the whole
    /// plan: nobody who hears of a sync may take longer for it the larger the cluster is.
    pub(crate) changes: Pending,
}

/// The state machine.
pub(crate) struct Engine {
    planner: Planner,
    families: Vec<Family>,
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
    /// An engine that has seen nothing yet.
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
            budget: Budget::new(now),
            complete: false,
            observer,
        }
    }

    /// Objects changed.
    pub(crate) fn events(&mut self, events: Vec<Event>, now: Instant) {
        let services = events.iter().filter(|e| matches!(e, Event::Service(_)));
        let slices = events
            .iter()
            .filter(|e| matches!(e, Event::EndpointSlice(_)));
        self.observer.received(services.count(), slices.count());
        self.planner.apply_all(events);
        self.settle(now);
    }

    /// Works out again what all objects mean, as if each had come anew (`configSyncPeriod`). The
    /// kernel is written to only if that is something else than before.
    pub(crate) fn refresh(&mut self, now: Instant) {
        let (services, slices) = self.planner.refresh();
        tracing::trace!("looked at {services} Services and {slices} EndpointSlices again");
        self.observer.refreshed(services, slices);
        self.settle(now);
    }

    /// Every object has been seen once: from now on the kernel is written to.
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

    /// The host's addresses changed.
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

    /// Somebody else has changed a family's rules: they are compared and put right.
    pub(crate) fn disturbed(&mut self, family: IpFamily) {
        for f in self.families.iter_mut().filter(|f| f.family == family) {
            f.put_back();
        }
    }

    /// Works out what the events mean.
    fn settle(&mut self, now: Instant) {
        let mut diff = self.planner.take_diff();
        for warning in self.planner.take_warnings() {
            tracing::warn!("{warning}");
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

    /// When [`Engine::run`] should be called next, if nothing happens before.
    pub(crate) fn next(&self) -> Option<Instant> {
        let syncs = self.families.iter().map(|f| f.schedule.next(&self.budget));
        let chores = self.families.iter().filter_map(|f| f.driver.due());
        let next = syncs.chain(chores).min();
        next.filter(|_| self.complete)
    }

    /// Does what it is time for. Families do not wait for each other's success.
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
                        family.put_back();
                    } else if !family.quarantined.is_empty() {
                        // What was refused may be taken by now.
                        family.schedule.changed();
                    }
                    continue;
                }
                family.sync(work, plan, &mut self.budget, &mut *self.observer);
                break;
            }
        }
    }

    /// Whether every family has everything. The answer that `--once` waits for.
    pub(crate) fn settled(&self) -> Result<bool, String> {
        if let Some(error) = self.families.iter().find_map(|f| f.last_error.as_ref()) {
            return Err(error.clone());
        }
        Ok(self.complete && self.families.iter().all(|f| f.schedule.is_settled()))
    }
}

impl Family {
    fn put_back(&mut self) {
        tracing::warn!(
            "{}: somebody else changed the rules; putting them back",
            self.family
        );
        self.schedule.mark_unverified();
    }

    fn sync(&mut self, work: Work, plan: &Plan, budget: &mut Budget, observer: &mut dyn Observer) {
        let started = Instant::now();
        self.schedule.started(started);
        let result = match work {
            Work::Changes => self.driver.sync(plan, &self.pending.ports),
            Work::Everything | Work::Check => self.driver.resync(plan),
        };
        let ended = Instant::now();
        budget.spend(ended.duration_since(started), ended);
        match result {
            Ok(synced) => {
                self.schedule.succeeded(work, ended);
                if self.last_error.take().is_some() {
                    tracing::info!("{}: synced again", self.family);
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
                let (family, took) = (self.family, ended.duration_since(started));
                tracing::debug!("{family}: wrote {} in {took:?}", work.name());
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
                    tracing::error!("sync failed, trying again in {pause:?}: {message}");
                    self.last_error = Some(message);
                }
            }
        }
    }

    fn note_quarantined(&mut self, quarantined: &Refusals) {
        for (key, reason) in quarantined {
            if self.quarantined.insert(key.clone()) {
                tracing::error!("{}: {} is left out: {reason}", self.family, key.0);
            }
        }
        let family = self.family;
        self.quarantined.retain(|key| {
            let still = quarantined.contains(key);
            if !still {
                tracing::info!("{family}: {} is served again, or gone", key.0);
            }
            still
        });
    }
}
