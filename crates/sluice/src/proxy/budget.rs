//! Limits the processor time of syncs. Pure: time is an argument.
//!
//! A token bucket whose unit is the processor time of syncs: on a busy node a sync takes longer, but
//! does not use more processor time. It fills at a twentieth of the clock's pace, so that syncs use about 5 % of one
//! core in the long run. It holds one second, so that a series of changes after a quiet time is
//! written at once even where each sync takes 40 ms. A sync may start whenever the bucket is not
//! overdrawn, and may overdraw it.

use std::time::{Duration, Instant};

/// The reciprocal of the share of one core that syncs may use.
const PACE: u32 = 20;

/// The most sync time that accumulates.
const CAPACITY: Duration = Duration::from_secs(1);

/// The sync time that is left, for all address families together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// When the bucket will be full again; in the past if it is full.
    full_at: Instant,
}

impl Budget {
    /// Return a full budget.
    pub(crate) fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Account for a sync with this processor time that ended at `now`.
    pub(crate) fn spend(&mut self, took: Duration, now: Instant) {
        self.full_at = self.full_at.max(now) + took.saturating_mul(PACE);
    }

    /// When the next sync may start; `None` if at once.
    pub(crate) fn ready_at(&self) -> Option<Instant> {
        self.full_at.checked_sub(CAPACITY * PACE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Spend as soon as the budget allows, for so long. Returns the longest delay and the share of
    /// the time that was spent.
    fn spend_for(
        budget: &mut Budget,
        start: Instant,
        time: Duration,
        cost: Duration,
    ) -> (Duration, f64) {
        let (mut now, mut spent, mut longest) = (start, Duration::ZERO, Duration::ZERO);
        while now < start + time {
            let at = budget.ready_at().map_or(now, |at| at.max(now));
            longest = longest.max(at - now);
            now = at + cost;
            spent += cost;
            budget.spend(cost, now);
        }
        (longest, spent.as_secs_f64() / time.as_secs_f64())
    }

    fn start() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

    #[test]
    fn one_second_of_sync_time_is_spent_without_delay() {
        let start = start();
        let mut budget = Budget::new(start);
        let mut now = start;
        for _ in 0..25 {
            assert!(budget.ready_at().is_none_or(|at| at <= now));
            now += 40 * MS;
            budget.spend(40 * MS, now);
        }
    }

    #[test]
    fn sustained_syncs_use_a_twentieth_of_the_time() {
        let start = start();
        for cost in [1, 40, 400] {
            let mut budget = Budget::new(start);
            budget.spend(CAPACITY, start);
            let (longest, share) =
                spend_for(&mut budget, start, Duration::from_secs(600), cost * MS);
            assert!((0.045..0.055).contains(&share), "{cost} ms: {share}");
            assert!(longest <= PACE * cost * MS, "{cost} ms: {longest:?}");
        }
    }

    #[test]
    fn quiet_time_restores_one_second_and_no_more() {
        let start = start();
        let mut budget = Budget::new(start);
        budget.spend(10 * CAPACITY, start);
        let later = start + Duration::from_secs(3600);
        budget.spend(CAPACITY, later);
        assert_eq!(budget.ready_at(), Some(later));
        budget.spend(MS, later);
        assert_eq!(budget.ready_at(), Some(later + PACE * MS));
    }
}
