//! `-m statistic`.

use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, needed, value};
use crate::iptables::syntax::text::{negation, number, option_number};
use crate::iptables::syntax::words::Word;
use crate::iptables::syntax::{Fault, Options, Parsed, values};
use crate::iptables::value::Negatable;

pub(crate) const NAMES: &[&str] = &["statistic"];

pub(crate) const OPTIONS: Options = &[
    ("--mode", 1),
    ("--probability", 1),
    ("--every", 1),
    ("--packet", 1),
];

/// `statistic`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Statistic {
    /// `--mode random`.
    Random(Probability),
    /// `--mode nth`: one packet in `every`, at index `packet`.
    #[allow(missing_docs)]
    Nth { every: u32, packet: u32 },
}

/// A probability as the kernel stores it: a fraction of 2³¹ (`xt_statistic.h`). True if 31 random bits
/// are less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Probability(pub u32);

impl Probability {
    /// Probability 1.
    pub const ONE: Probability = Probability(1 << 31);

    /// Return the probability as a fraction.
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / f64::from(Self::ONE.0)
    }
}

pub(crate) fn parse(_: Family, segment: &Segment<'_>) -> Parsed<Option<Negatable<Statistic>>> {
    let (mut random, mut every, mut packet, mut mode) = (None, None, None, None);
    let mut negated = false;
    for item in &segment.items {
        let word = value(item)?;
        match item.option {
            "--mode" => mode = Some(word),
            "--probability" => random = Some(probability(word)?),
            "--every" => every = Some(values::number(word)?),
            _ => packet = Some(values::number(word)?),
        }
        negated |= item.negated;
    }
    let mode = needed(mode, segment, "--mode")?;
    let value = match &*mode.text {
        "random" => Statistic::Random(needed(random, segment, "--probability")?),
        "nth" => {
            let every: u32 = needed(every, segment, "--every")?;
            let packet = packet.unwrap_or(0);
            if packet >= every {
                let message = "--packet must be less than --every";
                return Err(Fault::new(segment.column, message));
            }
            Statistic::Nth { every, packet }
        }
        _ => return Err(Fault::not_a(mode, "a mode: random or nth")),
    };
    Ok(Some(Negatable { negated, value }))
}

/// Return the nearest fraction of 2³¹, as iptables computes it.
fn probability(word: &Word<'_>) -> Parsed<Probability> {
    let parsed = word.text.parse().ok().filter(|p| (0.0..=1.0).contains(p));
    let fraction: f64 = parsed.ok_or_else(|| Fault::not_a(word, "a probability: 0 to 1"))?;
    Ok(Probability(
        (fraction * f64::from(Probability::ONE.0)).round() as u32,
    ))
}

pub(crate) fn write(out: &mut String, statistic: &Negatable<Statistic>) {
    match statistic.value {
        Statistic::Random(probability) => {
            out.push_str(" -m statistic --mode random");
            negation(out, statistic);
            out.push_str(" --probability ");
            write_probability(out, probability);
        }
        Statistic::Nth { every, packet } => {
            out.push_str(" -m statistic --mode nth");
            negation(out, statistic);
            option_number(out, "--every", every.into());
            option_number(out, "--packet", packet.into());
        }
    }
}

/// The output of `printf("%.11f")`: rounded to nearest, ties to even.
fn write_probability(out: &mut String, probability: Probability) {
    const DIGITS: u64 = 100_000_000_000;
    // value * 10^11 / 2^31, shortened by 2^11 so that it fits.
    let scaled = u64::from(probability.0) * 5u64.pow(11);
    let (mut n, rest, half) = (scaled >> 20, scaled & ((1 << 20) - 1), 1 << 19);
    if rest > half || (rest == half && n % 2 == 1) {
        n += 1;
    }
    number(out, n / DIGITS);
    out.push('.');
    // The leading 1 keeps the zeros.
    let at = out.len();
    number(out, DIGITS + n % DIGITS);
    out.remove(at);
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &[
    "-m statistic --mode random --probability 0.33333333349",
    "-m statistic --mode nth --every 3 --packet 1",
];
