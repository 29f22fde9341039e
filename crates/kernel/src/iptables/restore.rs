//! Failures of `iptables-restore` as typed errors.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use crate::exec;

/// `xtables`' exit status for a command line or input that it did not understand
/// (`PARAMETER_PROBLEM` in `xtables.h`).
const PARAMETER_PROBLEM: i32 = 2;
/// Maximum number of input lines in an error.
const MAX_LINES: usize = 16;

/// A line of the input that a restore tool complained about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Its number, from 1.
    pub number: usize,
    /// The line itself, without its end.
    pub text: String,
    /// Whether the tool named this line. Otherwise the line was found through a name in the
    /// message: both back ends report some faults only at the `COMMIT`.
    pub named: bool,
}

/// A restore that did not succeed.
///
/// Within a table a restore is all or nothing. Tables before the failing one stay committed:
/// [`RestoreError::tables_committed`].
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Another program held the xtables lock for too long. Nothing was changed, and a retry may succeed.
    #[error("{}: another program has held the xtables lock for over {waited:?}: {message}", .program.display())]
    LockHeld {
        /// The restore tool.
        program: PathBuf,
        /// The time it waited.
        waited: Duration,
        /// The tool's message.
        message: String,
    },
    /// The tool did not understand the input.
    #[error("{}: invalid input{}: {message}", .program.display(), show(.lines))]
    BadInput {
        /// The restore tool.
        program: PathBuf,
        /// The lines at fault, as far as they are known.
        lines: Vec<BadLine>,
        /// The number of tables of the input that were committed before.
        tables_committed: usize,
        /// The tool's message.
        message: String,
    },
    /// The input is valid, but the kernel refused it in its current state.
    #[error("{}: refused{}: {message}", .program.display(), show(.lines))]
    Refused {
        /// The restore tool.
        program: PathBuf,
        /// The lines at fault, as far as they are known: legacy tools name the `COMMIT` only.
        lines: Vec<BadLine>,
        /// The number of tables of the input that were committed before.
        tables_committed: usize,
        /// The tool's message.
        message: String,
    },
    /// The failure does not concern the input: no permission, no memory, killed.
    #[error("{} failed ({status}): {message}", .program.display())]
    Failed {
        /// The restore tool.
        program: PathBuf,
        /// The exit status.
        status: ExitStatus,
        /// The tool's message.
        message: String,
    },
    /// The tool could not be run, or hung and was killed; its effect is not known.
    #[error(transparent)]
    Exec(#[from] exec::Error),
}

impl RestoreError {
    /// The lines of the input at fault, as far as they are known.
    pub fn lines(&self) -> &[BadLine] {
        match self {
            RestoreError::BadInput { lines, .. } | RestoreError::Refused { lines, .. } => lines,
            _ => &[],
        }
    }

    /// Whether the content was rejected, rather than the tool unable to run.
    pub fn is_rejection(&self) -> bool {
        matches!(
            self,
            RestoreError::BadInput { .. } | RestoreError::Refused { .. }
        )
    }

    /// Return the number of tables of the input that were committed before the failure; `None` if it is
    /// not known.
    pub fn tables_committed(&self) -> Option<usize> {
        match self {
            RestoreError::LockHeld { .. } => Some(0),
            RestoreError::BadInput {
                tables_committed, ..
            }
            | RestoreError::Refused {
                tables_committed, ..
            } => Some(*tables_committed),
            RestoreError::Failed { .. } | RestoreError::Exec(_) => None,
        }
    }
}

fn show(lines: &[BadLine]) -> String {
    let mut text = String::new();
    for line in lines {
        text.push_str(&format!(" at line {}: `{}`", line.number, line.text));
    }
    text
}

/// Whether the input has counters that only `--counters` makes the tool keep.
pub(super) fn has_counters(input: &[u8]) -> bool {
    input
        .split(|byte| *byte == b'\n')
        .any(|line| match line.first() {
            Some(b'[') => !line.starts_with(b"[0:0]"),
            Some(b':') => {
                let counters = line.rsplit(|byte| *byte == b' ').next();
                counters.is_some_and(|c| c.starts_with(b"[") && c != b"[0:0]")
            }
            _ => false,
        })
}

/// Return the typed error of a restore that ended with a status other than 0.
pub(super) fn explain(
    program: &Path,
    input: &[u8],
    output: &exec::Output,
    waited: Duration,
) -> RestoreError {
    let program = program.to_owned();
    let stderr = output.stderr.as_str();
    let message = clean(stderr);
    if stderr.contains("holding the xtables lock") {
        return RestoreError::LockHeld {
            program,
            waited,
            message,
        };
    }
    let numbers = line_numbers(stderr);
    let lines = bad_lines(input, &numbers, stderr);
    let tables_committed = numbers.iter().min().map_or(0, |first| {
        let before = first.saturating_sub(1);
        let lines = input.split(|byte| *byte == b'\n').take(before);
        lines.filter(|line| is_commit(line)).count()
    });
    match output.status.code() {
        Some(PARAMETER_PROBLEM) => RestoreError::BadInput {
            program,
            lines,
            tables_committed,
            message,
        },
        Some(_) if !numbers.is_empty() => RestoreError::Refused {
            program,
            lines,
            tables_committed,
            message,
        },
        _ => RestoreError::Failed {
            program,
            status: output.status,
            message,
        },
    }
}

fn is_commit(line: &[u8]) -> bool {
    line.trim_ascii_end() == b"COMMIT"
}

/// Return the tool's message on one line, without the hint about its help.
fn clean(stderr: &str) -> String {
    stderr
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("Try `"))
        .collect::<Vec<_>>()
        .join("; ")
}

/// The numbers in `line 7 failed`, `Error occurred at line: 7`, `line 7: RULE_APPEND failed`,
/// `expected at line 7`, in order, each once.
pub(super) fn line_numbers(stderr: &str) -> Vec<usize> {
    let mut numbers = Vec::new();
    for (at, word) in stderr.match_indices("line") {
        let rest = stderr.get(at + word.len()..).unwrap_or_default();
        let rest = rest.strip_prefix(':').unwrap_or(rest);
        let Some(rest) = rest.strip_prefix(' ') else {
            continue;
        };
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let Some(Ok(number)) = rest.get(..digits).map(str::parse::<usize>) else {
            continue;
        };
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    numbers
}

/// Return the named lines; for a `COMMIT`, the lines of its table with a name that the message quotes.
pub(super) fn bad_lines(input: &[u8], numbers: &[usize], stderr: &str) -> Vec<BadLine> {
    let lines: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
    let mut bad = Vec::new();
    for &number in numbers {
        let Some(line) = number.checked_sub(1).and_then(|at| lines.get(at)) else {
            continue;
        };
        bad.push(bad_line(number, line, true));
        if !is_commit(line) {
            continue;
        }
        for name in quoted(stderr) {
            let table = lines.iter().enumerate().take(number - 1).rev();
            let table = table.take_while(|(_, line)| !is_commit(line));
            let mut mentions: Vec<BadLine> = table
                .filter(|(_, line)| line.starts_with(b"-") && mentions(line, name.as_bytes()))
                .map(|(at, line)| bad_line(at + 1, line, false))
                .collect();
            mentions.reverse();
            bad.extend(mentions);
        }
    }
    bad.truncate(MAX_LINES);
    bad
}

fn bad_line(number: usize, line: &[u8], named: bool) -> BadLine {
    BadLine {
        number,
        text: String::from_utf8_lossy(line).into_owned(),
        named,
    }
}

fn mentions(line: &[u8], name: &[u8]) -> bool {
    line.split(|byte| *byte == b' ').any(|word| word == name)
}

/// Return the words in quotes: `'KUBE-A'`, or `` `KUBE-A' `` as older messages have it.
fn quoted(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some((_, tail)) = rest.split_once(['\'', '`']) {
        let Some((word, after)) = tail.split_once('\'') else {
            break;
        };
        if !word.is_empty() && !word.contains(char::is_whitespace) {
            words.push(word);
        }
        rest = after;
    }
    words
}
