//! Comparison of what the kernel did with the prediction.

use trace::{Fraction, Outcome, Snat, Step, Trace, Verdict};

use super::follow::End;
use super::observe::Observation;

/// Result of the comparison.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Comparison {
    /// The kernel did what an outcome predicts; with the odds of such outcomes.
    Agrees(Fraction),
    /// The packet ended where an outcome predicts, by other rules; with the odds of such outcomes.
    OtherPath(Fraction, Difference),
    /// No outcome predicts what the kernel did; with the difference from the nearest one.
    Differs(Difference),
}

/// Where prediction and kernel diverge.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Difference {
    /// The predicted step; `None` at the end of the prediction.
    pub(super) predicted: Option<Step>,
    /// The kernel's step; `None` at the end of the packet's path.
    pub(super) kernel: Option<Step>,
    /// The difference as text.
    pub(super) what: String,
}

/// Compare. `is_silent` selects steps that the kernel does not report: rules of iptables-legacy.
pub(super) fn compare(
    predicted: &Trace,
    seen: &Observation,
    is_silent: impl Fn(&Step) -> bool,
) -> Comparison {
    let mut nearest: Option<((usize, bool), Difference)> = None;
    for outcome in &predicted.outcomes {
        match parting(outcome, seen, &is_silent) {
            None => {
                let odds = odds(predicted, |o| parting(o, seen, &is_silent).is_none());
                return Comparison::Agrees(odds);
            }
            Some((far, difference)) => {
                // Of outcomes that agree equally far, prefer one with a further step.
                let rank = (far, difference.predicted.is_some());
                if nearest.as_ref().is_none_or(|(best, _)| rank > *best) {
                    nearest = Some((rank, difference));
                }
            }
        }
    }
    let nothing = || Difference {
        predicted: None,
        kernel: None,
        what: "no prediction".to_owned(),
    };
    let difference = nearest.map_or_else(nothing, |(_, difference)| difference);
    let happened = seen.trace.outcomes.first();
    let arrived = happened.filter(|o| o.verdict == Verdict::Accept);
    let odds = odds(predicted, |o| {
        arrived.is_some_and(|happened| ends_alike(o, happened, seen).is_ok())
    });
    if odds.is_zero() {
        Comparison::Differs(difference)
    } else {
        Comparison::OtherPath(odds, difference)
    }
}

/// Return the odds of all outcomes of a kind.
fn odds(predicted: &Trace, wanted: impl Fn(&Outcome) -> bool) -> Fraction {
    let all = predicted.outcomes.iter().filter(|o| wanted(o));
    all.fold(Fraction::ZERO, |sum, o| sum.plus(o.probability))
}

/// Return after how many steps an outcome differs from the kernel; `None` if it does not.
fn parting(
    outcome: &Outcome,
    seen: &Observation,
    is_silent: &impl Fn(&Step) -> bool,
) -> Option<(usize, Difference)> {
    let happened = seen.trace.outcomes.first()?;
    let by_rule = |s: &&Step| !s.chain.is_empty();
    let mut predicted = outcome.path.iter().filter(by_rule).peekable();
    let mut kernel = happened.path.iter().enumerate();
    let mut kernel = kernel.by_ref().filter(|(_, s)| by_rule(s)).peekable();
    let mut far = 0;
    loop {
        let (wanted, met) = (predicted.peek().copied(), kernel.peek().copied());
        match (wanted, met) {
            (None, None) => break,
            (Some(wanted), Some((_, met))) if is_same(wanted, met) => {
                far += 1;
                predicted.next();
                kernel.next();
            }
            (_, Some((place, _))) if seen.passing.contains(&place) => {
                kernel.next();
            }
            (Some(wanted), _) if is_silent(wanted) => {
                predicted.next();
            }
            (wanted, met) => {
                let met = met.map(|(_, step)| step);
                return Some((far, parted(outcome, happened, wanted, met)));
            }
        }
    }
    let what = ends_alike(outcome, happened, seen).err()?;
    let difference = Difference {
        predicted: outcome.path.last().cloned(),
        kernel: happened.path.last().cloned(),
        what,
    };
    Some((far, difference))
}

fn is_same(a: &Step, b: &Step) -> bool {
    (a.hook, a.family, &a.table, &a.chain, &a.rule)
        == (b.hook, b.family, &b.table, &b.chain, &b.rule)
}

fn parted(
    outcome: &Outcome,
    happened: &Outcome,
    predicted: Option<&Step>,
    kernel: Option<&Step>,
) -> Difference {
    // At the end of a path its last step says more than the missing rule.
    let described = |step: Option<&Step>, of: &Outcome| {
        let step = step.or(of.path.last());
        step.map_or_else(|| of.verdict.to_string(), place)
    };
    Difference {
        predicted: predicted.cloned(),
        kernel: kernel.cloned(),
        what: format!(
            "predicted: {}; in the kernel: {}",
            described(predicted, outcome),
            described(kernel, happened)
        ),
    }
}

/// `forward, ip filter FORWARD: -j DROP => drop`.
fn place(step: &Step) -> String {
    let Step {
        hook,
        chain,
        rule,
        effect,
        ..
    } = step;
    if chain.is_empty() {
        format!("{hook}: {rule} => {effect}")
    } else {
        format!("{hook}, {}: {rule} => {effect}", trace::place(step))
    }
}

/// Compare verdict and translations.
///
/// # Errors
/// The difference as text.
fn ends_alike(predicted: &Outcome, happened: &Outcome, seen: &Observation) -> Result<(), String> {
    let lost = seen.end == End::Lost && predicted.verdict != Verdict::Accept;
    if predicted.verdict != happened.verdict && !lost {
        return Err(format!(
            "predicted: {}; in the kernel: {}{}",
            predicted.verdict,
            happened.verdict,
            happened
                .path
                .last()
                .map_or(String::new(), |s| format!(" ({})", place(s)))
        ));
    }
    let shown = |end: Option<String>| end.unwrap_or_else(|| "none".to_owned());
    if seen.is_whole && predicted.dnat != happened.dnat {
        let [a, b] = [predicted.dnat, happened.dnat].map(|to| shown(to.map(|e| e.to_string())));
        return Err(format!("predicted destination: {a}; in the kernel: {b}"));
    }
    // A packet that does not pass never reaches the translation of its source.
    if happened.verdict != Verdict::Accept || !seen.is_whole {
        return Ok(());
    }
    let source = |snat: Option<Snat>| match snat {
        Some(Snat::Masquerade(ip)) => ip,
        Some(Snat::To(ip)) => Some(ip),
        None => None,
    };
    let (wanted, got) = (source(predicted.snat), source(happened.snat));
    // A masquerade to the packet's own address is not visible.
    let is_own = wanted.is_some_and(|ip| ip == seen.packet.src) && got.is_none();
    let is_unknown = matches!(predicted.snat, Some(Snat::Masquerade(None))) && got.is_some();
    if wanted != got && !is_own && !is_unknown {
        let [a, b] = [wanted, got].map(|ip| shown(ip.map(|ip| ip.to_string())));
        return Err(format!("predicted new source: {a}; in the kernel: {b}"));
    }
    Ok(())
}
