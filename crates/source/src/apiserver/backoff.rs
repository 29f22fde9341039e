//! Delays between attempts.

use std::time::Duration;

/// A source of jitter: numbers from 0 (inclusive) to 1 (exclusive). Injected to make tests
/// repeatable.
pub(super) type Jitter = Box<dyn FnMut() -> f64 + Send>;

/// Exponential back-off with jitter.
///
/// The jitter is wide, 0.5 to 1.5 times the delay, to keep thousands of nodes from reconnecting to
/// a restarted API server at the same time.
pub(super) struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
    jitter: Jitter,
}

impl Backoff {
    /// Delays from `base`, doubled up to `cap`, before jitter.
    pub(super) fn new(base: Duration, cap: Duration, jitter: Jitter) -> Self {
        Self {
            base,
            cap,
            failures: 0,
            jitter,
        }
    }

    /// Count a failure and return the delay before the next attempt.
    pub(super) fn next_delay(&mut self) -> Duration {
        let factor = 1u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1).min(31);
        let delay = self.base.saturating_mul(factor).min(self.cap);
        delay.mul_f64(0.5 + (self.jitter)().clamp(0.0, 1.0))
    }

    /// Start over with the first delay.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Return a random number from 0 to 1.
    pub(super) fn random(&mut self) -> f64 {
        (self.jitter)().clamp(0.0, 1.0)
    }
}

impl std::fmt::Debug for Backoff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backoff")
            .field("failures", &self.failures)
            .finish_non_exhaustive()
    }
}
