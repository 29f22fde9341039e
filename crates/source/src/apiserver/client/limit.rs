//! The rate limit of requests: `--kube-api-qps` and `--kube-api-burst`.

use std::time::{Duration, Instant};

/// A token bucket: bursts of `burst` requests, `qps` per second in the long run.
#[derive(Debug)]
pub(super) struct Limiter {
    /// Time per token; zero for no limit.
    interval: Duration,
    burst: u32,
    /// The time until which tokens are paid for; every request adds one interval.
    paid_until: Option<Instant>,
}

impl Limiter {
    /// client-go's interpretation: a `qps` of 0 means 5, a negative one no limit; a `burst` of 0
    /// means 10.
    pub(super) fn new(qps: f32, burst: i32) -> Self {
        let qps = if qps == 0.0 { 5.0 } else { qps };
        let burst = if burst == 0 { 10 } else { burst };
        let interval = if qps > 0.0 {
            Duration::try_from_secs_f32(1.0 / qps).unwrap_or(Duration::MAX)
        } else {
            Duration::ZERO
        };
        Self {
            interval,
            burst: u32::try_from(burst).unwrap_or(1).max(1),
            paid_until: None,
        }
    }

    /// Take a token. Returns the time to wait before sending the request.
    pub(super) fn take(&mut self, now: Instant) -> Duration {
        let paid_until = self.paid_until.map_or(now, |t| t.max(now));
        let Some(next) = paid_until.checked_add(self.interval) else {
            return Duration::from_secs(3600);
        };
        self.paid_until = Some(next);
        let allowance = self.interval.saturating_mul(self.burst);
        next.saturating_duration_since(now)
            .saturating_sub(allowance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut limiter = Limiter::new(5.0, 3);
        let waits: Vec<_> = (0..5).map(|_| limiter.take(start).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 200, 400]);
        let later = start + Duration::from_secs(10);
        assert_eq!(limiter.take(later), Duration::ZERO);
    }

    #[test]
    fn zero_means_the_default_and_less_means_no_limit() {
        let now = Instant::now();
        let mut limiter = Limiter::new(0.0, 0);
        let free = (0..20).filter(|_| limiter.take(now).is_zero()).count();
        assert_eq!(free, 10);
        let mut limiter = Limiter::new(-1.0, 1);
        assert!((0..1000).all(|_| limiter.take(now).is_zero()));
    }
}
