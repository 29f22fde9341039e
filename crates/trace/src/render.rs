//! A trace as a tree for people, and as JSON for machines.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::fraction::Fraction;
use crate::outcome::{Backend, Outcome, Snat, Step, Trace, Verdict};
use crate::packet::{Endpoint, Packet};

/// Whether to use terminal colors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// No escape sequences.
    Plain,
    /// ANSI (ECMA-48) colors.
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

/// Return the answer and the paths as a tree: steps that several outcomes share are shown once, and
/// each branch of a fork shows its odds.
pub fn render_tree(packet: &Packet, trace: &Trace, style: Style) -> String {
    let mut out = String::new();
    let end = |ip: std::net::IpAddr, port| Endpoint { ip, port }.to_string();
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
    write_answers(&mut out, trace, style);
    // In the order of the rules, so that shared beginnings are adjacent.
    let mut all: Vec<&Outcome> = trace.outcomes.iter().collect();
    group(&mut all);
    let mut tree = Tree {
        out: &mut out,
        style,
        has_ends: all.len() > 1,
    };
    tree.branches(&all, 0, Branch::TRUNK, &mut None);
    for warning in &trace.warnings {
        let _ = writeln!(out, "{} {warning}", style.paint("33", "warning:"));
    }
    out
}

/// A place where the packet can end, with every endpoint of it.
struct Answer<'a> {
    verdict: Verdict,
    text: String,
    odds: Fraction,
    endpoints: Vec<String>,
    assuming: Vec<&'a str>,
}

/// Write where the packet ends: a line for each end.
fn write_answers(out: &mut String, trace: &Trace, style: Style) {
    let mut answers: Vec<Answer<'_>> = Vec::new();
    for o in &trace.outcomes {
        let text = after_destination(o);
        let assuming: Vec<&str> = o.assuming.iter().map(String::as_str).collect();
        let is_same = |a: &&mut Answer<'_>| {
            (a.verdict, &a.text, &a.assuming) == (o.verdict, &text, &assuming)
        };
        let endpoint = destination(o);
        match answers.iter_mut().find(is_same) {
            Some(answer) => {
                answer.odds = answer.odds.plus(o.probability);
                let new = endpoint.filter(|e| !answer.endpoints.contains(e));
                answer.endpoints.extend(new);
            }
            None => answers.push(Answer {
                verdict: o.verdict,
                text,
                odds: o.probability,
                endpoints: endpoint.into_iter().collect(),
                assuming,
            }),
        }
    }
    for answer in &answers {
        let odds = if answer.assuming.is_empty() {
            percent(answer.odds)
        } else {
            "perhaps".to_owned()
        };
        let to = match answer.endpoints.as_slice() {
            [] => String::new(),
            all => format!(", destination {}", listed(all)),
        };
        let verdict = style.verdict(answer.verdict);
        let _ = writeln!(out, "{verdict} {odds}{to}{}", answer.text);
        for what in &answer.assuming {
            let _ = writeln!(out, "  {} {what}", style.paint("33", "assuming"));
        }
    }
    out.push('\n');
}

/// At most [`MOST`] names, and how many more there are.
fn listed(all: &[String]) -> String {
    const MOST: usize = 8;
    match all.len().checked_sub(MOST) {
        None | Some(0) => all.join(" or "),
        Some(more) => format!("{} or {more} more", all[..MOST].join(" or ")),
    }
}

/// Group outcomes by their common beginning, and keep the order otherwise.
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

/// A place in the tree.
#[derive(Clone, Copy)]
struct Branch<'a> {
    indent: &'a str,
    /// The number of assumptions so far; their odds are not known.
    assumed: usize,
    /// The odds of this place, assumptions included.
    whole: Fraction,
}

impl Branch<'_> {
    const TRUNK: Self = Branch {
        indent: "",
        assumed: 0,
        whole: Fraction::ONE,
    };
}

/// Return the number of assumptions that all outcomes share.
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

/// The part of the output that shows paths.
struct Tree<'a> {
    out: &'a mut String,
    style: Style,
    /// Whether each path is followed by where it ends.
    has_ends: bool,
}

impl Tree<'_> {
    /// Write outcomes that agree on the first `depth` steps.
    fn branches(
        &mut self,
        all: &[&Outcome],
        mut depth: usize,
        at: Branch<'_>,
        hook: &mut Option<&'static str>,
    ) {
        let Some(first) = all.first() else { return };
        while let Some(step) = first.path.get(depth) {
            if !all.iter().all(|o| o.path.get(depth) == Some(step)) {
                break;
            }
            self.step(step, at.indent, hook);
            depth += 1;
        }
        if all.iter().all(|o| o.path.len() <= depth) {
            if self.has_ends {
                all.iter().for_each(|o| self.end(o, at));
            }
            return;
        }
        let siblings = alike(split(all, depth), depth);
        let last = siblings.len().saturating_sub(1);
        for (place, sibling) in siblings.iter().enumerate() {
            let (corner, line) = if place == last {
                ("└─", "   ")
            } else {
                ("├─", "│  ")
            };
            let assumed = shared_assumptions(sibling.shown);
            let (odds, whole) = if assumed > at.assumed {
                ("perhaps".to_owned(), sum(sibling.shown))
            } else {
                (percent(sum(sibling.shown).of(at.whole)), at.whole)
            };
            let indent = at.indent;
            let odds = self.style.paint("1;36", &odds);
            let _ = writeln!(self.out, "{indent}{corner} {odds}{}", sibling.others());
            let deeper = Branch {
                indent: &format!("{indent}{line}"),
                assumed,
                whole,
            };
            self.branches(sibling.shown, depth, deeper, &mut hook.clone());
        }
    }

    fn step(&mut self, step: &Step, indent: &str, hook: &mut Option<&'static str>) {
        let style = self.style;
        if *hook != Some(step.hook) {
            *hook = Some(step.hook);
            let _ = writeln!(self.out, "{indent}{}", style.paint("1", step.hook));
        }
        let place = if step.chain.is_empty() {
            String::new()
        } else {
            format!("{}: ", place(step))
        };
        let _ = writeln!(
            self.out,
            "{indent}  {}{} {} {}",
            style.paint("36", &place),
            step.rule,
            style.paint("2", "=>"),
            style.paint("1", &step.effect)
        );
    }

    fn end(&mut self, o: &Outcome, at: Branch<'_>) {
        let indent = at.indent;
        let odds = if o.assuming.len() > at.assumed {
            "perhaps".to_owned()
        } else {
            percent(o.probability.of(at.whole))
        };
        let to = destination(o).map_or(String::new(), |to| format!(", destination {to}"));
        let verdict = self.style.verdict(o.verdict);
        let rest = after_destination(o);
        let _ = writeln!(self.out, "{indent}{verdict} {odds}{to}{rest}");
        for what in &o.assuming {
            let assuming = self.style.paint("33", "assuming");
            let _ = writeln!(self.out, "{indent}  {assuming} {what}");
        }
    }
}

fn sum(all: &[&Outcome]) -> Fraction {
    let odds = all.iter().map(|o| o.probability);
    odds.fold(Fraction::ZERO, Fraction::plus)
}

/// Split adjacent outcomes by their step at `depth`.
fn split<'a, 'o>(all: &'a [&'o Outcome], depth: usize) -> Vec<&'a [&'o Outcome]> {
    all.chunk_by(|a, b| a.path.get(depth) == b.path.get(depth))
        .collect()
}

/// A branch, with the branches that differ from it only in the endpoint.
struct Sibling<'a, 'o> {
    shown: &'a [&'o Outcome],
    others: Vec<&'a [&'o Outcome]>,
}

impl Sibling<'_, '_> {
    fn others(&self) -> String {
        let ends: Vec<String> = self.others.iter().filter_map(|all| endpoint(all)).collect();
        match ends.as_slice() {
            [] => String::new(),
            all => format!(
                ", and the same share to each of {}",
                listed(all).replace(" or ", ", ")
            ),
        }
    }
}

/// Combine branches that differ only in the endpoint to which they lead.
fn alike<'a, 'o>(branches: Vec<&'a [&'o Outcome]>, depth: usize) -> Vec<Sibling<'a, 'o>> {
    let mut all: Vec<(Option<Vec<String>>, Sibling<'a, 'o>)> = Vec::new();
    for branch in branches {
        let shape = shape(branch, depth);
        let same = all.iter_mut().find(|(s, sibling)| {
            shape.is_some() && *s == shape && sum(sibling.shown) == sum(branch)
        });
        match same {
            Some((_, sibling)) => sibling.others.push(branch),
            None => all.push((
                shape,
                Sibling {
                    shown: branch,
                    others: Vec::new(),
                },
            )),
        }
    }
    all.into_iter().map(|(_, sibling)| sibling).collect()
}

/// Return the endpoint of outcomes that all lead to the same one.
fn endpoint(all: &[&Outcome]) -> Option<String> {
    let (first, rest) = all.split_first()?;
    let to = first.dnat?;
    rest.iter()
        .all(|o| o.dnat == Some(to))
        .then(|| to.to_string())
}

/// Return the steps from `depth` on and the ends, without what names the endpoint; `None` if there
/// is not exactly one.
fn shape(all: &[&Outcome], depth: usize) -> Option<Vec<String>> {
    let to = endpoint(all)?;
    let ip = all.first()?.dnat?.ip.to_string();
    let without = |text: &str| {
        let words = text.split_inclusive([' ', ',']).map(|word| {
            let bare = word.trim_end_matches([' ', ',']);
            let is_number = bare.parse::<f64>().is_ok();
            let names = bare.contains(&to)
                || bare.contains(&ip)
                || bare.starts_with("KUBE-SEP-")
                || bare.starts_with("endpoint-");
            if is_number || names { "…" } else { word }
        });
        words.collect::<String>()
    };
    let mut shape = Vec::new();
    for o in all {
        for step in o.path.get(depth..).unwrap_or_default() {
            let chain = without(&step.chain);
            let [rule, effect] = [&step.rule, &step.effect].map(|t| without(t));
            shape.push(format!(
                "{} {} {chain} {rule} {effect}",
                step.hook, step.table
            ));
        }
        shape.push(format!("{} {}", o.verdict, without(&after_destination(o))));
        shape.extend(o.assuming.iter().map(|a| without(a)));
    }
    Some(shape)
}

/// Return the destination that an accepted packet was given.
fn destination(o: &Outcome) -> Option<String> {
    let to = o.dnat.filter(|_| o.verdict == Verdict::Accept)?;
    Some(to.to_string())
}

/// Return what follows the destination of an accepted packet: its new source, and its interface.
fn after_destination(o: &Outcome) -> String {
    let mut text = String::new();
    if o.verdict != Verdict::Accept {
        return text;
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
        text.push_str(", back to its sender");
    }
    text
}

/// Return where a rule is: `ip nat KUBE-SERVICES`, with `legacy ` before it for iptables-legacy.
pub fn place(step: &Step) -> String {
    let legacy = if step.backend == Some(Backend::Legacy) {
        "legacy "
    } else {
        ""
    };
    format!("{legacy}{} {} {}", step.family, step.table, step.chain)
}

/// `50% (1/2)`.
pub fn percent(odds: Fraction) -> String {
    if odds.is_one() {
        return "100%".to_owned();
    }
    let text = format!("{:.2}", odds.to_f64() * 100.0);
    let text = text.trim_end_matches('0').trim_end_matches('.');
    // Longer fractions are not readable.
    if odds.denominator() <= 1_000_000 {
        format!("{text}% ({odds})")
    } else {
        format!("{text}%")
    }
}

/// Return the trace as one JSON object:
/// `{"outcomes": [{"probability", "verdict", "dnat", "snat", "hairpin", "path": [{"hook", "family",
/// "table", "chain", "rule", "effect"}]}], "warnings": []}`. An outcome that depends
/// on unknown facts has the list `assuming`; each assumption counts as an even chance in its
/// probability.
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

/// Return a step in the format of [`to_json`].
pub fn step_to_json(s: &Step) -> Value {
    json!({
        "hook": s.hook,
        "backend": s.backend.map(Backend::name),
        "family": s.family,
        "table": s.table,
        "chain": s.chain,
        "rule": s.rule,
        "effect": s.effect,
    })
}
