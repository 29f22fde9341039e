//! When to sync. Pure: time is an argument.
//!
//! - A change is written at once while the [`Budget`] of sync time lasts; once it is used up, as
//!   soon as it allows, and at the latest `min_interval` (`minSyncPeriod`) after the last sync
//!   began. Changes that arrive meanwhile are written together.
//! - A failed sync is repeated with growing pauses, at least every `max_retry` (`syncPeriod`):
//!   first the changes, then, as the known state may be wrong, a resync.
//! - Every `check_interval` (`syncPeriod`) the mode checks for foreign changes, and every hour it
//!   compares everything with the kernel.

use std::time::{Duration, Instant};

use super::budget::Budget;

/// Upstream's `FullSyncPeriod`.
const FULL_SYNC_PERIOD: Duration = Duration::from_secs(3600);

/// The first pause after a failure; each further one is twice as long.
const FIRST_RETRY: Duration = Duration::from_millis(100);

/// After this many failed syncs of changes in a row the next one is a resync.
const PARTIAL_ATTEMPTS: u32 = 2;

/// The intervals, from the configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Intervals {
    /// The longest time from the start of a sync to the start of the next, if changes are waiting.
    pub(crate) min: Duration,
    /// Interval between checks for foreign changes; also the longest pause before a retry.
    pub(crate) check: Duration,
}

/// Work that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Write what changed.
    Changes,
    /// Compare everything with the kernel and write the difference.
    Everything,
    /// Check whether another program changed the rules.
    Check,
}

impl Work {
    /// Return the kind of sync, for the log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Work::Changes => "changes",
            Work::Everything | Work::Check => "resync",
        }
    }
}

/// Decides when to do what for one address family.
#[derive(Debug)]
pub(crate) struct Schedule {
    intervals: Intervals,
    /// When this schedule was made; always in the past.
    since: Instant,
    /// Changes are waiting to be written.
    pending: bool,
    /// The next sync must be a resync.
    full: bool,
    last_start: Option<Instant>,
    retry_at: Option<Instant>,
    failures: u32,
    next_check: Instant,
    next_full: Instant,
}

impl Schedule {
    /// Return a schedule without pending changes, whose first sync is a resync.
    pub(crate) fn new(intervals: Intervals, now: Instant) -> Self {
        Self {
            intervals,
            since: now,
            pending: false,
            full: true,
            last_start: None,
            retry_at: None,
            failures: 0,
            next_check: now + intervals.check,
            next_full: now + FULL_SYNC_PERIOD,
        }
    }

    /// Changes are waiting to be written.
    pub(crate) fn changed(&mut self) {
        self.pending = true;
    }

    /// The known state may be wrong: everything must be compared soon.
    pub(crate) fn mark_unverified(&mut self) {
        self.pending = true;
        self.full = true;
    }

    /// Return the next time at which [`Schedule::due`] returns work.
    pub(crate) fn next(&self, budget: &Budget) -> Instant {
        let idle = self.next_check.min(self.next_full);
        match self.write_at(budget) {
            Some(at) => at.min(idle),
            None => idle,
        }
    }

    /// When pending changes may be written; `None` if there are none.
    fn write_at(&self, budget: &Budget) -> Option<Instant> {
        if !self.pending {
            return None;
        }
        let limit = self.last_start.map(|start| start + self.intervals.min);
        let paced = limit
            .zip(budget.ready_at())
            .map(|(limit, at)| limit.min(at));
        Some(self.retry_at.max(paced).unwrap_or(self.since))
    }

    /// Return the work that is due; `None` until [`Schedule::next`].
    pub(crate) fn due(&mut self, budget: &Budget, now: Instant) -> Option<Work> {
        if now >= self.next_full {
            self.next_full = now + FULL_SYNC_PERIOD;
            self.mark_unverified();
        }
        if self.write_at(budget).is_some_and(|at| now >= at) {
            let exhausted = self.failures >= PARTIAL_ATTEMPTS;
            return Some(if self.full || exhausted {
                Work::Everything
            } else {
                Work::Changes
            });
        }
        if now >= self.next_check {
            self.next_check = now + self.intervals.check;
            return Some(Work::Check);
        }
        None
    }

    /// A sync that [`Schedule::due`] asked for begins.
    pub(crate) fn started(&mut self, now: Instant) {
        self.last_start = Some(now);
        self.retry_at = None;
        self.pending = false;
    }

    /// The sync succeeded.
    pub(crate) fn succeeded(&mut self, work: Work, now: Instant) {
        self.failures = 0;
        if work == Work::Everything {
            self.full = false;
            self.next_full = now + FULL_SYNC_PERIOD;
            self.next_check = now + self.intervals.check;
        }
    }

    /// Record that the sync failed, and return the delay until the next attempt.
    pub(crate) fn failed(&mut self, now: Instant) -> Duration {
        let pause = FIRST_RETRY
            .saturating_mul(1 << self.failures.min(16))
            .min(self.intervals.check);
        self.failures += 1;
        self.pending = true;
        self.retry_at = Some(now + pause);
        pause
    }

    /// Nothing is pending and the last sync succeeded.
    pub(crate) fn is_settled(&self) -> bool {
        !self.pending && self.failures == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    /// A schedule with a simulated clock.
    struct Simulation {
        schedule: Schedule,
        budget: Budget,
        now: Instant,
    }

    impl Simulation {
        fn new() -> Self {
            let intervals = Intervals {
                min: SECOND,
                check: 30 * SECOND,
            };
            // Far enough from the start of the clock for an overdrawn budget.
            let now = Instant::now() + 3600 * SECOND;
            Self {
                schedule: Schedule::new(intervals, now),
                budget: Budget::new(now),
                now,
            }
        }

        /// A schedule whose first sync has succeeded.
        fn settled() -> Self {
            let mut s = Self::new();
            s.schedule.changed();
            assert_eq!(s.due(), Some(Work::Everything));
            s.sync(Work::Everything, Duration::ZERO);
            s
        }

        fn due(&mut self) -> Option<Work> {
            self.schedule.due(&self.budget, self.now)
        }

        fn next(&self) -> Instant {
            self.schedule.next(&self.budget)
        }

        fn sync(&mut self, work: Work, cost: Duration) {
            self.schedule.started(self.now);
            self.now += cost;
            self.budget.spend(cost, self.now);
            self.schedule.succeeded(work, self.now);
        }

        /// Let time pass until something is to be written.
        fn next_write(&mut self) -> Work {
            loop {
                self.now = self.now.max(self.next());
                match self.due() {
                    Some(Work::Check) | None => {}
                    Some(work) => return work,
                }
            }
        }

        /// One change every `every`, each sync of them takes `cost`, for `time`. Returns the delays
        /// from a change to the start of its sync, sorted, and the number of syncs.
        fn changes(
            &mut self,
            every: Duration,
            cost: Duration,
            time: Duration,
        ) -> (Vec<Duration>, u32) {
            let (end, mut next_change) = (self.now + time, self.now);
            let (mut waiting, mut delays, mut syncs) = (Vec::new(), Vec::new(), 0);
            while self.now < end {
                while next_change <= self.now {
                    self.schedule.changed();
                    waiting.push(next_change);
                    next_change += every;
                }
                match self.due() {
                    Some(Work::Check) => {}
                    Some(work) => {
                        delays.extend(waiting.drain(..).map(|at| self.now - at));
                        self.sync(work, cost);
                        syncs += 1;
                    }
                    None => self.now = self.next().min(next_change),
                }
            }
            delays.sort_unstable();
            (delays, syncs)
        }
    }

    fn percentile(sorted: &[Duration], percent: usize) -> Duration {
        sorted[(sorted.len() - 1) * percent / 100]
    }

    #[test]
    fn no_sync_is_due_before_a_change() {
        let mut s = Simulation::new();
        assert_eq!(s.due(), None);
        assert_eq!(s.next(), s.now + 30 * SECOND);
    }

    #[test]
    fn cheap_syncs_run_at_once_and_bursts_are_one_sync() {
        let mut s = Simulation::settled();
        for _ in 0..100 {
            s.schedule.changed();
            s.schedule.changed();
            assert_eq!(s.due(), Some(Work::Changes));
            s.sync(Work::Changes, MS);
            assert_eq!(s.due(), None, "both changes were one sync");
        }
    }

    #[test]
    fn a_hundred_cheap_changes_a_second_wait_20_ms_at_most() {
        let mut s = Simulation::settled();
        let (delays, _) = s.changes(10 * MS, MS, 120 * SECOND);
        assert!(percentile(&delays, 50) <= 20 * MS);
        assert!(delays[delays.len() - 1] <= 21 * MS);
    }

    #[test]
    fn short_series_of_costly_syncs_runs_at_once() {
        let mut s = Simulation::settled();
        let (delays, syncs) = s.changes(100 * MS, 40 * MS, 2 * SECOND);
        assert_eq!(syncs, 20);
        assert_eq!(delays[delays.len() - 1], Duration::ZERO);
    }

    #[test]
    fn sustained_costly_syncs_are_paced_by_the_minimum_interval() {
        let mut s = Simulation::settled();
        s.changes(10 * MS, 400 * MS, 60 * SECOND);
        let (delays, syncs) = s.changes(10 * MS, 400 * MS, 60 * SECOND);
        assert!((58..=61).contains(&syncs), "{syncs} syncs in a minute");
        assert!(delays[delays.len() - 1] <= SECOND);
    }

    #[test]
    fn a_failure_is_retried_with_growing_delays_and_then_with_a_resync() {
        let mut s = Simulation::settled();
        s.now += 2 * SECOND;
        s.schedule.changed();
        let mut seen = Vec::new();
        for _ in 0..12 {
            let work = s.next_write();
            s.schedule.started(s.now);
            seen.push((work, s.schedule.failed(s.now)));
        }
        assert_eq!(seen[0], (Work::Changes, 100 * MS));
        assert_eq!(seen[1], (Work::Changes, 200 * MS));
        assert_eq!(seen[2], (Work::Everything, 400 * MS));
        assert_eq!(seen[11], (Work::Everything, 30 * SECOND));
        assert!(!s.schedule.is_settled());
        assert_eq!(s.next_write(), Work::Everything);
        s.sync(Work::Everything, MS);
        s.now += 2 * SECOND;
        assert_eq!(s.due(), None);
    }

    #[test]
    fn checks_find_foreign_changes_and_a_resync_repairs_them() {
        let mut s = Simulation::settled();
        let check = s.now + 30 * SECOND;
        assert_eq!(s.next(), check);
        s.now = check;
        assert_eq!(s.due(), Some(Work::Check));
        assert_eq!(s.due(), None);
        s.schedule.mark_unverified();
        assert_eq!(s.due(), Some(Work::Everything));
    }

    #[test]
    fn a_resync_is_due_every_hour() {
        let mut s = Simulation::settled();
        let hour = s.now + 3600 * SECOND;
        while s.now < hour - 30 * SECOND {
            s.now = s.next();
            assert_eq!(s.due(), Some(Work::Check));
        }
        s.now = hour;
        assert_eq!(s.due(), Some(Work::Everything));
    }
}
