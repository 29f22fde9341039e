//! How long to wait before the next attempt.

use std::time::Duration;

/// A source of jitter: numbers from 0 up to, not including, 1. Injected, so that tests repeat.
pub(super) type Jitter = Box<dyn FnMut() -> f64 + Send>;

/// Exponential back-off with jitter.
///
/// The jitter is wide, half to one and a half of the delay, since it is what keeps thousands of
/// nodes from coming back to a restarted API server in step.
pub(super) struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
    jitter: Jitter,
}

impl Backoff {
    /// Delays from `base`, doubling, up to `cap`, each before jitter.
    pub(super) fn new(base: Duration, cap: Duration, jitter: Jitter) -> Self {
        Self {
            base,
            cap,
            failures: 0,
            jitter,
        }
    }

    /// The delay before the next attempt, after one more failure.
    pub(super) fn next_delay(&mut self) -> Duration {
        let factor = 1u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1).min(31);
        let delay = self.base.saturating_mul(factor).min(self.cap);
        delay.mul_f64(0.5 + (self.jitter)().clamp(0.0, 1.0))
    }

    /// Things went well: the next failure starts over.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// A number from the source of jitter.
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
