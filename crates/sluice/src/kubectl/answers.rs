//! What the answer of a node means, and how it is shown.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::Value;

use super::Answered;
use super::cli::Question;
use super::exec::Outcome;
use super::group::common;
use crate::socket::Status;

/// The answer of one node.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// The answer as text.
    pub(super) own: String,
    /// The text without names and addresses of the node.
    pub(super) common: String,
    pub(super) has_problem: bool,
    /// The node did not answer.
    pub(super) is_missing: bool,
    /// The answer as received, or the error.
    pub(super) json: Result<Value, String>,
}

/// The parts of an explanation that are shown.
#[derive(Deserialize)]
struct Explanation {
    findings: Vec<Finding>,
    #[serde(default)]
    notes: Vec<String>,
}

#[derive(Deserialize)]
struct Finding {
    weight: String,
    cause: String,
    what: String,
    #[serde(default)]
    change: String,
}

/// The parts of a verification that are shown.
#[derive(Deserialize)]
struct Verification {
    services: usize,
    problems: Vec<Problem>,
    #[serde(default)]
    notes: Vec<String>,
}

#[derive(Deserialize)]
struct Problem {
    cause: String,
    count: usize,
    #[serde(default)]
    services: Vec<String>,
    example: String,
    #[serde(default)]
    change: String,
}

impl Question {
    /// Return what a node answers.
    pub(super) fn view(&self, answered: &Answered) -> View {
        let missing = |reason: String| View {
            own: format!("no answer: {reason}"),
            common: common(&format!("no answer: {reason}"), &answered.pod),
            has_problem: false,
            is_missing: true,
            json: Err(reason),
        };
        let Outcome::Ended { status, stdout, .. } = &answered.outcome else {
            return missing(answered.outcome.reason());
        };
        if !matches!(status, 0 | 1) {
            return missing(answered.outcome.reason());
        }
        let shown = match self {
            Question::Trace(_) => trace(stdout),
            Question::Explain(_) => explanation(stdout),
            Question::Verify => verification(stdout),
            Question::Status => status_of(stdout),
            Question::Facts(_) | Question::Ui(_) => None,
        };
        let Some((own, json)) = shown else {
            // kubectl itself fails with status 1 too.
            return missing(answered.outcome.reason());
        };
        View {
            common: common(&own, &answered.pod),
            own,
            has_problem: *status == 1,
            is_missing: false,
            json: Ok(json),
        }
    }
}

fn trace(stdout: &str) -> Option<(String, Value)> {
    let text = stdout.trim_end();
    (!text.is_empty()).then(|| (format!("\n{text}\n"), text.into()))
}

fn parsed<T: for<'de> Deserialize<'de>>(stdout: &str) -> Option<(T, Value)> {
    let json: Value = serde_json::from_str(stdout).ok()?;
    Some((T::deserialize(&json).ok()?, json))
}

fn explanation(stdout: &str) -> Option<(String, Value)> {
    let (answer, json): (Explanation, _) = parsed(stdout)?;
    let is_wrong = |finding: &&Finding| finding.weight != "note";
    let wrong: Vec<&Finding> = answer.findings.iter().filter(is_wrong).collect();
    let mut out = match wrong.is_empty() {
        true => "no problems found\n".to_owned(),
        false => "problems found\n".to_owned(),
    };
    for (number, finding) in (1..).zip(&wrong) {
        let partly = match finding.weight.as_str() {
            "partly" => " (in part)",
            _ => "",
        };
        let _ = writeln!(
            out,
            "  {number}. {}{partly}: {}",
            finding.cause, finding.what
        );
        write_fix(&mut out, &finding.change);
    }
    write_notes(&mut out, &answer.notes);
    Some((out, json))
}

fn verification(stdout: &str) -> Option<(String, Value)> {
    let (answer, json): (Verification, _) = parsed(stdout)?;
    let mut out = match answer.problems.is_empty() {
        true => format!("no problems found in {} Services\n", answer.services),
        false => "problems found\n".to_owned(),
    };
    for (number, problem) in (1..).zip(&answer.problems) {
        let of = match problem.count {
            0 => String::new(),
            1 => format!(" in 1 Service ({})", problem.services.join(", ")),
            n => format!(" in {n} Services ({})", listed(&problem.services, n)),
        };
        let _ = writeln!(
            out,
            "  {number}. {}{of}: {}",
            problem.cause, problem.example
        );
        write_fix(&mut out, &problem.change);
    }
    write_notes(&mut out, &answer.notes);
    Some((out, json))
}

fn write_fix(out: &mut String, change: &str) {
    if !change.is_empty() {
        let _ = writeln!(out, "     fix: {change}");
    }
}

fn write_notes(out: &mut String, notes: &[String]) {
    for note in notes {
        let _ = writeln!(out, "  note: {note}");
    }
}

fn listed(names: &[String], count: usize) -> String {
    let more = count.saturating_sub(names.len());
    match more {
        0 => names.join(", "),
        more => format!("{}, … and {more} more", names.join(", ")),
    }
}

fn status_of(stdout: &str) -> Option<(String, Value)> {
    let (status, json): (Status, _) = parsed(stdout)?;
    let mut out = "problems found\n".to_owned();
    for (number, trouble) in (1..).zip(status.troubles()) {
        let _ = writeln!(out, "  {number}. {trouble}");
    }
    Some((out, json))
}

/// Return one line for each node that answers.
pub(super) fn table(answered: &[Answered]) -> String {
    let mut rows = vec![
        [
            "NODE",
            "MODE",
            "VERSION",
            "UP",
            "SERVICES",
            "PORTS",
            "REFUSED",
            "LAST SYNC",
            "STATE",
        ]
        .map(str::to_owned),
    ];
    for one in answered {
        let status: Option<Status> = match &one.outcome {
            Outcome::Ended { stdout, .. } => serde_json::from_str(stdout).ok(),
            Outcome::Failed(_) => None,
        };
        let Some(status) = status else {
            let mut row = [const { String::new() }; 9];
            row[0].clone_from(&one.pod.node);
            "no answer".clone_into(&mut row[8]);
            rows.push(row.map(|cell| {
                if cell.is_empty() {
                    "-".to_owned()
                } else {
                    cell
                }
            }));
            continue;
        };
        let sum = |of: fn(&crate::socket::status::Family) -> usize| -> String {
            status.families.iter().map(of).sum::<usize>().to_string()
        };
        let synced = status.families.iter().filter_map(|f| f.synced.as_ref());
        let synced = synced.min_by_key(|synced| synced.at.age());
        rows.push([
            status.node.clone(),
            status.mode.clone(),
            status.version.clone(),
            crate::socket::status::ago(status.started),
            status.services.to_string(),
            sum(|f| f.ports),
            sum(|f| f.refused),
            synced.map_or("never".to_owned(), |s| {
                format!("{} ago", crate::socket::status::ago(s.at))
            }),
            match status.troubles().len() {
                0 => "no problems".to_owned(),
                1 => "1 problem".to_owned(),
                n => format!("{n} problems"),
            },
        ]);
    }
    aligned(&rows)
}

fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..N).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        let _ = writeln!(out, "{}", line.join("  ").trim_end());
    }
    out
}
