//! A trace as a tree for people, and as JSON for machines.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::outcome::{Outcome, Snat, Step, Trace, Verdict};
use crate::{Fraction, Packet};

/// Colours for a terminal, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// No escape sequences.
    Plain,
    /// ANSI (ECMA-48) colours.
    Ansi,
}

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Style::Plain => text.to_owned(),
            Style::Ansi => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }

    fn verdict(self, verdict: Verdict) -> String {
        let code = match verdict {
            Verdict::Accept => "1;32",
            Verdict::Drop => "1;31",
            Verdict::Reject => "1;33",
        };
        self.paint(code, &verdict.to_string().to_uppercase())
    }
}

/// The trace as a tree: steps that several outcomes share are shown once, and where the ways part
/// each branch tells its odds.
pub fn render_tree(packet: &Packet, trace: &Trace, style: Style) -> String {
    let mut out = String::new();
    let end = |ip: std::net::IpAddr, port| crate::Endpoint { ip, port }.to_string();
    let _ = if packet.proto.is_icmp() {
        writeln!(
            out,
            "{} type {} code {} {} -> {} from {}",
            packet.proto, packet.sport, packet.dport, packet.src, packet.dst, packet.from
        )
    } else {
        writeln!(
            out,
            "{} {} -> {} from {}",
            packet.proto,
            end(packet.src, packet.sport),
            end(packet.dst, packet.dport),
            packet.from
        )
    };
    // In the order of the rules, so that shared beginnings stand together.
    let mut all: Vec<&Outcome> = trace.outcomes.iter().collect();
    group(&mut all);
    branches(&mut out, &all, 0, Branch::TRUNK, style, &mut None);
    for warning in &trace.warnings {
        let _ = writeln!(out, "{} {warning}", style.paint("33", "warning:"));
    }
    out
}

/// Brings outcomes with a common beginning together, without changing the order otherwise.
fn group(all: &mut Vec<&Outcome>) {
    fn place<'a>(from: Vec<&'a Outcome>, depth: usize, into: &mut Vec<&'a Outcome>) {
        let mut rest = from;
        while let Some(first) = rest.first().copied() {
            let key = first.path.get(depth);
            let (same, others): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|o| o.path.get(depth) == key);
            if key.is_none() || same.len() == 1 {
                into.extend(same);
            } else {
                place(same, depth + 1, into);
            }
            rest = others;
        }
    }
    let mut grouped = Vec::with_capacity(all.len());
    place(std::mem::take(all), 0, &mut grouped);
    *all = grouped;
}

/// Where in the tree something is written.
#[derive(Clone, Copy)]
struct Branch<'a> {
    indent: &'a str,
    /// How much was assumed to come here: nobody knows the odds of that.
    assumed: usize,
    /// The odds, assumptions counted in, that those beyond are a share of.
    whole: Fraction,
}

impl Branch<'_> {
    const TRUNK: Self = Branch {
        indent: "",
        assumed: 0,
        whole: Fraction::ONE,
    };
}

/// How many assumptions all of them rest on.
fn shared_assumptions(all: &[&Outcome]) -> usize {
    let Some((first, others)) = all.split_first() else {
        return 0;
    };
    let common = |o: &&Outcome| {
        let pairs = first.assuming.iter().zip(&o.assuming);
        pairs.take_while(|(a, b)| a == b).count()
    };
    let fewest = others.iter().map(common).min();
    fewest.unwrap_or(first.assuming.len())
}

/// Outcomes that agree on the first `depth` steps.
fn branches(
    out: &mut String,
    all: &[&Outcome],
    mut depth: usize,
    at: Branch<'_>,
    style: Style,
    hook: &mut Option<&'static str>,
) {
    let indent = at.indent;
    let Some(first) = all.first() else { return };
    // What all of them share.
    while let Some(step) = first.path.get(depth) {
        if !all.iter().all(|o| o.path.get(depth) == Some(step)) {
            break;
        }
        write_step(out, step, indent, style, hook);
        depth += 1;
    }
    if all.iter().all(|o| o.path.len() <= depth) {
        for o in all {
            write_end(out, o, at, style);
        }
        return;
    }
    let mut next = 0;
    while let Some(start) = all.get(next) {
        let key = start.path.get(depth);
        let len = all[next..]
            .iter()
            .take_while(|o| o.path.get(depth) == key)
            .count()
            .max(1);
        let group = &all[next..next + len];
        let odds = group
            .iter()
            .fold(Fraction::ZERO, |sum, o| sum.plus(o.probability));
        let last = next + len == all.len();
        let assumed = shared_assumptions(group);
        let (text, whole) = if assumed > at.assumed {
            ("perhaps".to_owned(), odds)
        } else {
            (percent(odds.of(at.whole)), at.whole)
        };
        let _ = writeln!(
            out,
            "{indent}{} {}",
            if last { "└─" } else { "├─" },
            style.paint("1;36", &text)
        );
        let deeper = Branch {
            indent: &format!("{indent}{}", if last { "   " } else { "│  " }),
            assumed,
            whole,
        };
        branches(out, group, depth, deeper, style, &mut hook.clone());
        next += len;
    }
}

fn write_step(
    out: &mut String,
    step: &Step,
    indent: &str,
    style: Style,
    hook: &mut Option<&'static str>,
) {
    if *hook != Some(step.hook) {
        *hook = Some(step.hook);
        let _ = writeln!(out, "{indent}{}", style.paint("1", step.hook));
    }
    let place = if step.chain.is_empty() {
        String::new()
    } else {
        format!("{} {} {}: ", step.family, step.table, step.chain)
    };
    let _ = writeln!(
        out,
        "{indent}  {}{} {} {}",
        style.paint("36", &place),
        step.rule,
        style.paint("2", "=>"),
        style.paint("1", &step.effect)
    );
}

fn write_end(out: &mut String, o: &Outcome, at: Branch<'_>, style: Style) {
    let indent = at.indent;
    let odds = if o.assuming.len() > at.assumed {
        "perhaps".to_owned()
    } else {
        percent(o.probability.of(at.whole))
    };
    let mut text = format!("{indent}{} {odds}", style.verdict(o.verdict));
    if o.verdict == Verdict::Accept {
        if let Some(to) = o.dnat {
            let _ = write!(text, ", destination {to}");
        }
        match o.snat {
            Some(Snat::Masquerade(Some(ip))) => {
                let _ = write!(text, ", masqueraded as {ip}");
            }
            Some(Snat::Masquerade(None)) => text.push_str(", masqueraded"),
            Some(Snat::To(ip)) => {
                let _ = write!(text, ", source {ip}");
            }
            None => {}
        }
        if let Some(out) = &o.out_iface {
            let _ = write!(text, ", through {out}");
        }
        if o.hairpin {
            text.push_str(", back to where it came from");
        }
    }
    let _ = writeln!(out, "{text}");
    for what in &o.assuming {
        let _ = writeln!(out, "{indent}  {} {what}", style.paint("33", "assuming"));
    }
}

/// `50% (1/2)`.
pub fn percent(odds: Fraction) -> String {
    if odds.is_one() {
        return "100%".to_owned();
    }
    let text = format!("{:.2}", odds.to_f64() * 100.0);
    let text = text.trim_end_matches('0').trim_end_matches('.');
    // Longer fractions tell nobody anything.
    if odds.denominator() <= 1_000_000 {
        format!("{text}% ({odds})")
    } else {
        format!("{text}%")
    }
}

/// The trace as one JSON object:
/// `{"outcomes": [{"probability", "verdict", "dnat", "snat", "hairpin", "path": [{"hook", "family",
/// "table", "chain", "rule", "effect"}]}], "warnings": []}`. An outcome that rests on something that
/// could not be known has the list `assuming` beside it; in its probability each of these counts as
/// an even chance.
pub fn to_json(trace: &Trace) -> Value {
    json!({
        "outcomes": trace.outcomes.iter().map(outcome).collect::<Vec<_>>(),
        "warnings": trace.warnings,
    })
}

fn outcome(o: &Outcome) -> Value {
    let mut value = json!({
        "probability": o.probability.to_f64(),
        "verdict": o.verdict.to_string(),
        "dnat": o.dnat.map(|to| to.to_string()),
        "snat": o.snat.map(|s| match s {
            Snat::Masquerade(_) => "masquerade".to_owned(),
            Snat::To(ip) => ip.to_string(),
        }),
        "hairpin": o.hairpin,
        "path": o.path.iter().map(step_to_json).collect::<Vec<_>>(),
    });
    if !o.assuming.is_empty() {
        value["assuming"] = json!(o.assuming);
    }
    value
}

/// A step as it stands in a path of [`to_json`].
pub fn step_to_json(s: &Step) -> Value {
    json!({
        "hook": s.hook,
        "family": s.family,
        "table": s.table,
        "chain": s.chain,
        "rule": s.rule,
        "effect": s.effect,
    })
}
