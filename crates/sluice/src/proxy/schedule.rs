//! When to sync. Pure: time is an argument.
//!
//! - The first change after a quiet time is synced at once, the following ones at most once every
//!   `min_interval` (`minSyncPeriod`), all that came meanwhile in one go.
//! - A failed sync is tried again with growing pauses, first with what changed, then, as its state
//!   may no longer be what we believe, with a full resync; never less often than every
//!   `max_retry` (`syncPeriod`).
//! - Every `check_interval` (`syncPeriod`) it is time to look whether somebody else changed our
//!   rules, and every `resync_interval` to compare everything with the kernel.

use std::time::{Duration, Instant};

/// How upstream calls what it does hourly whatever happens (`FullSyncPeriod`).
const FULL_SYNC_PERIOD: Duration = Duration::from_secs(3600);

/// The first pause after a failure; each further one is twice as long.
const FIRST_RETRY: Duration = Duration::from_millis(100);

/// After this many partial syncs that failed in a row the next one is full.
const PARTIAL_ATTEMPTS: u32 = 2;

/// The intervals, from the configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Intervals {
    /// At least this long between the starts of two syncs.
    pub(crate) min: Duration,
    /// How often to look for foreign changes; also the longest pause before a retry.
    pub(crate) check: Duration,
}

/// What it is time for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Write what changed.
    Changes,
    /// Compare everything with the kernel and write the difference.
    Everything,
    /// Look whether somebody else changed our rules.
    Check,
}

impl Work {
    /// For the log: what a sync of this kind writes.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Work::Changes => "changes",
            Work::Everything | Work::Check => "what differed of everything",
        }
    }
}

/// Decides when to do what for one address family.
#[derive(Debug)]
pub(crate) struct Schedule {
    intervals: Intervals,
    /// When this schedule was made: a moment that is always past.
    since: Instant,
    /// There is something to write.
    pending: bool,
    /// What is written next must be everything.
    full: bool,
    last_start: Option<Instant>,
    retry_at: Option<Instant>,
    failures: u32,
    next_check: Instant,
    next_full: Instant,
}

impl Schedule {
    /// Nothing is pending; the first sync will be a full one.
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

    /// There is something to write.
    pub(crate) fn changed(&mut self) {
        self.pending = true;
    }

    /// Our rules are no longer what we believe: everything has to be compared, soon.
    pub(crate) fn distrust(&mut self) {
        self.pending = true;
        self.full = true;
    }

    /// When [`Schedule::due`] will next say something.
    pub(crate) fn next(&self) -> Instant {
        let idle = self.next_check.min(self.next_full);
        match self.write_at() {
            Some(at) => at.min(idle),
            None => idle,
        }
    }

    /// When what is pending may be written; `None` where nothing is.
    fn write_at(&self) -> Option<Instant> {
        if !self.pending {
            return None;
        }
        let paced = self.last_start.map(|start| start + self.intervals.min);
        Some(self.retry_at.max(paced).unwrap_or(self.since))
    }

    /// What it is time for; `None` until [`Schedule::next`].
    pub(crate) fn due(&mut self, now: Instant) -> Option<Work> {
        if now >= self.next_full {
            self.next_full = now + FULL_SYNC_PERIOD;
            self.distrust();
        }
        if self.write_at().is_some_and(|at| now >= at) {
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

    /// The sync wrote everything it was to write.
    pub(crate) fn succeeded(&mut self, work: Work, now: Instant) {
        self.failures = 0;
        if work == Work::Everything {
            self.full = false;
            self.next_full = now + FULL_SYNC_PERIOD;
            self.next_check = now + self.intervals.check;
        }
    }

    /// The sync failed. Returns how long until the next attempt.
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

    fn schedule(now: Instant) -> Schedule {
        let intervals = Intervals {
            min: Duration::from_secs(1),
            check: Duration::from_secs(30),
        };
        Schedule::new(intervals, now)
    }

    /// A schedule whose first, full sync has succeeded at `now`.
    fn settled(now: Instant) -> Schedule {
        let mut s = schedule(now);
        s.changed();
        assert_eq!(s.due(now), Some(Work::Everything));
        s.started(now);
        s.succeeded(Work::Everything, now);
        s
    }

    /// Lets time pass until something is to be written.
    fn next_write(s: &mut Schedule, now: &mut Instant) -> Work {
        loop {
            *now = (*now).max(s.next());
            match s.due(*now) {
                Some(Work::Check) | None => {}
                Some(work) => return work,
            }
        }
    }

    #[test]
    fn nothing_is_written_before_something_changed() {
        let start = Instant::now();
        let mut s = schedule(start);
        assert_eq!(s.due(start), None);
        assert_eq!(s.next(), start + Duration::from_secs(30));
    }

    #[test]
    fn the_first_change_after_a_quiet_time_is_written_at_once_and_the_next_are_paced() {
        let start = Instant::now();
        let mut s = settled(start);
        let quiet = start + Duration::from_secs(5);
        s.changed();
        assert!(s.next() <= quiet);
        assert_eq!(s.due(quiet), Some(Work::Changes));
        s.started(quiet);
        s.succeeded(Work::Changes, quiet);

        s.changed();
        s.changed();
        assert_eq!(s.next(), quiet + Duration::from_secs(1));
        assert_eq!(s.due(quiet + 999 * MS), None);
        assert_eq!(s.due(quiet + 1000 * MS), Some(Work::Changes));
        s.started(quiet + 1000 * MS);
        s.succeeded(Work::Changes, quiet + 1000 * MS);
        assert_eq!(s.due(quiet + 2000 * MS), None);
    }

    #[test]
    fn a_failure_is_retried_with_growing_pauses_and_then_with_everything() {
        let start = Instant::now();
        let mut s = settled(start);
        let mut now = start + Duration::from_secs(2);
        s.changed();
        let mut seen = Vec::new();
        for _ in 0..12 {
            let work = next_write(&mut s, &mut now);
            s.started(now);
            seen.push((work, s.failed(now)));
        }
        assert_eq!(seen[0], (Work::Changes, 100 * MS));
        assert_eq!(seen[1], (Work::Changes, 200 * MS));
        assert_eq!(seen[2], (Work::Everything, 400 * MS));
        assert_eq!(seen[11], (Work::Everything, Duration::from_secs(30)));
        assert!(!s.is_settled());
        assert_eq!(next_write(&mut s, &mut now), Work::Everything);
        s.started(now);
        s.succeeded(Work::Everything, now);
        assert_eq!(s.due(now + Duration::from_secs(2)), None);
    }

    #[test]
    fn foreign_changes_are_looked_for_and_mended_with_everything() {
        let start = Instant::now();
        let mut s = settled(start);
        let check = start + Duration::from_secs(30);
        assert_eq!(s.next(), check);
        assert_eq!(s.due(check), Some(Work::Check));
        assert_eq!(s.due(check), None);
        s.distrust();
        assert_eq!(s.due(check), Some(Work::Everything));
    }

    #[test]
    fn everything_is_compared_every_hour() {
        let start = Instant::now();
        let mut s = settled(start);
        let hour = start + Duration::from_secs(3600);
        let mut now = start;
        while now < hour - Duration::from_secs(30) {
            now = s.next();
            assert_eq!(s.due(now), Some(Work::Check));
        }
        assert_eq!(s.due(hour), Some(Work::Everything));
    }
}
