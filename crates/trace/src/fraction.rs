//! Exact probabilities.

use std::cmp::Ordering;
use std::fmt;

/// A probability as a reduced fraction.
///
/// Arithmetic is exact while the reduced fraction fits 128 bits over 128 bits, which every chain of
/// equal shares does (`1/n`, `(n-1)/n · 1/(n-1)`, …). If many unrelated odds no longer fit, the value
/// is rounded to 60 significant bits and [`Fraction::is_exact`] becomes false.
#[derive(Clone, Copy)]
pub struct Fraction {
    numerator: u128,
    denominator: u128,
    exact: bool,
}

fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

impl Fraction {
    /// Certainty.
    pub const ONE: Fraction = Fraction {
        numerator: 1,
        denominator: 1,
        exact: true,
    };
    /// Impossibility.
    pub const ZERO: Fraction = Fraction {
        numerator: 0,
        denominator: 1,
        exact: true,
    };

    /// Return `numerator / denominator`, reduced; `None` if the denominator is 0.
    pub fn new(numerator: u64, denominator: u64) -> Option<Self> {
        (denominator != 0).then(|| Self::reduced(numerator.into(), denominator.into(), true))
    }

    fn reduced(numerator: u128, denominator: u128, exact: bool) -> Self {
        let d = gcd(numerator, denominator).max(1);
        Self {
            numerator: numerator / d,
            denominator: denominator / d,
            exact,
        }
    }

    /// Return the odds of the kernel's `statistic` match for a 31-bit threshold: it matches if
    /// `random() & 0x7fffffff < threshold` (`net/netfilter/xt_statistic.c`).
    ///
    /// The threshold is a rounding of the intended odds. If `1/n` rounds to it (n up to 32768, below
    /// which the thresholds of neighbouring n differ), the result is `1/n`, otherwise
    /// `threshold / 2^31`.
    pub fn from_statistic(threshold: u32) -> Self {
        const SCALE: u64 = 1 << 31;
        let threshold = u64::from(threshold).min(SCALE);
        if let Some(n) = (SCALE + threshold / 2).checked_div(threshold) {
            // iptables computes lround(2^31 * p) from a decimal that was itself rounded, so the
            // neighbouring thresholds are this 1/n as well.
            if (1..=32768).contains(&n) && ((SCALE + n / 2) / n).abs_diff(threshold) <= 1 {
                return Self::reduced(1, n.into(), true);
            }
        }
        Self::reduced(threshold.into(), SCALE.into(), true)
    }

    /// Return the numerator of the reduced fraction.
    pub fn numerator(self) -> u128 {
        self.numerator
    }

    /// Return the denominator of the reduced fraction.
    pub fn denominator(self) -> u128 {
        self.denominator
    }

    /// Return whether the value was never rounded.
    pub fn is_exact(self) -> bool {
        self.exact
    }

    /// Return whether it is 0.
    pub fn is_zero(self) -> bool {
        self.numerator == 0
    }

    /// Return whether it is 1.
    pub fn is_one(self) -> bool {
        self.numerator == self.denominator
    }

    /// Return the nearest floating-point number.
    #[allow(clippy::cast_precision_loss)]
    pub fn to_f64(self) -> f64 {
        self.numerator as f64 / self.denominator as f64
    }

    /// `1 - self`.
    #[must_use]
    pub fn complement(self) -> Self {
        Self::reduced(
            self.denominator.saturating_sub(self.numerator),
            self.denominator,
            self.exact,
        )
    }

    /// Return the product.
    #[must_use]
    pub fn times(self, other: Self) -> Self {
        let exact = self.exact && other.exact;
        // Reducing across first keeps equal shares small.
        let a = gcd(self.numerator, other.denominator).max(1);
        let b = gcd(other.numerator, self.denominator).max(1);
        let (n1, d2) = (self.numerator / a, other.denominator / a);
        let (n2, d1) = (other.numerator / b, self.denominator / b);
        match (n1.checked_mul(n2), d1.checked_mul(d2)) {
            (Some(n), Some(d)) => Self::reduced(n, d, exact),
            _ => {
                let (x, y) = (self.rounded(), other.rounded());
                Self::reduced(
                    x.numerator * y.numerator,
                    x.denominator * y.denominator,
                    false,
                )
            }
        }
    }

    /// Return this as a share of `whole`, which must not be 0.
    pub(crate) fn of(self, whole: Self) -> Self {
        self.times(Self {
            numerator: whole.denominator,
            denominator: whole.numerator,
            exact: whole.exact,
        })
    }

    /// Return the sum.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let exact = self.exact && other.exact;
        let g = gcd(self.denominator, other.denominator).max(1);
        let (da, db) = (self.denominator / g, other.denominator / g);
        let sum = || {
            let n = self
                .numerator
                .checked_mul(db)?
                .checked_add(other.numerator.checked_mul(da)?)?;
            Some((n, self.denominator.checked_mul(db)?))
        };
        match sum() {
            Some((n, d)) => Self::reduced(n, d, exact),
            None => {
                let (x, y) = (self.rounded(), other.rounded());
                Self::reduced(
                    x.numerator * y.denominator + y.numerator * x.denominator,
                    x.denominator * y.denominator,
                    false,
                )
            }
        }
    }

    /// Round to at most 60 bits in numerator and denominator.
    fn rounded(self) -> Self {
        let shift = (128 - self.denominator.leading_zeros()).saturating_sub(60);
        Self::reduced(
            self.numerator >> shift,
            (self.denominator >> shift).max(1),
            false,
        )
    }
}

impl PartialEq for Fraction {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Fraction {}

impl PartialOrd for Fraction {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Fraction {
    fn cmp(&self, other: &Self) -> Ordering {
        let g = gcd(self.denominator, other.denominator).max(1);
        let left = self.numerator.checked_mul(other.denominator / g);
        let right = other.numerator.checked_mul(self.denominator / g);
        match (left, right) {
            (Some(l), Some(r)) => l.cmp(&r),
            _ => self.to_f64().total_cmp(&other.to_f64()),
        }
    }
}

/// `1/3`; `1` for certainty.
impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.denominator == 1 {
            return write!(f, "{}", self.numerator);
        }
        if !self.exact {
            f.write_str("~")?;
        }
        write!(f, "{}/{}", self.numerator, self.denominator)
    }
}

impl fmt::Debug for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half() -> Fraction {
        Fraction::new(1, 2).unwrap()
    }

    #[test]
    fn statistic_chain_gives_equal_shares() {
        for n in [1_u64, 2, 3, 7, 10, 100, 1000, 5000] {
            let mut left = Fraction::ONE;
            let mut total = Fraction::ZERO;
            for i in 0..n {
                let p = if i + 1 == n {
                    Fraction::ONE
                } else {
                    // As kube-proxy prints it and iptables reads it.
                    #[allow(clippy::cast_precision_loss)]
                    let text = format!("{:.10}", 1.0 / (n - i) as f64);
                    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                    let threshold = (text.parse::<f64>().unwrap() * 2_147_483_648.0).round() as u32;
                    Fraction::from_statistic(threshold)
                };
                let share = left.times(p);
                assert_eq!(share, Fraction::new(1, n).unwrap(), "{i} of {n}");
                total = total.plus(share);
                left = left.times(p.complement());
            }
            assert_eq!(total, Fraction::ONE);
            assert!(total.is_exact());
        }
    }

    #[test]
    fn fractions_use_the_threshold_of_the_kernel() {
        let p = Fraction::from_statistic(1_503_238_554); // 0.7
        assert_eq!(p.numerator() * 2, 1_503_238_554);
        assert!((p.to_f64() - 0.7).abs() < 1e-9);
        assert!(Fraction::from_statistic(0).is_zero());
        assert!(Fraction::from_statistic(1 << 31).is_one());
    }

    #[test]
    fn overflow_rounds_and_marks_the_fraction_inexact() {
        let odd = Fraction::from_statistic(1_503_238_555);
        let mut p = Fraction::ONE;
        for _ in 0..40 {
            p = p.times(odd);
        }
        assert!(!p.is_exact());
        assert!((p.to_f64() - odd.to_f64().powi(40)).abs() < 1e-9);
        assert!(!p.plus(half()).is_exact());
    }

    #[test]
    fn fractions_are_ordered_and_printed() {
        assert!(half() < Fraction::ONE);
        assert_eq!(half().plus(half()), Fraction::ONE);
        assert_eq!(half().to_string(), "1/2");
        assert_eq!(Fraction::ONE.to_string(), "1");
        assert!(Fraction::new(1, 0).is_none());
    }
}
