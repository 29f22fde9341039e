//! Reading what `iptables-save` prints and what `iptables-restore` accepts.

mod line;
mod matches;
mod options;
mod rule;
mod segment;
mod targets;
mod values;
mod words;

use super::{Family, Restore, RestoreTable, Rule, TableSet};
use words::Word;

pub use line::Line;

/// Where and why a text could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ParseError {
    /// The line, from 1.
    pub line: u32,
    /// The column of the word that is at fault, in bytes, from 1.
    pub column: u32,
    /// What is wrong, and with which word.
    pub message: String,
}

/// An error on a line whose number the caller knows.
#[derive(Debug)]
struct Fault {
    column: u32,
    message: String,
}

impl Fault {
    fn new(column: u32, message: impl Into<String>) -> Self {
        Self {
            column,
            message: message.into(),
        }
    }

    /// `"what" is not MEANT`.
    fn not_a(word: &Word<'_>, meant: &str) -> Self {
        let shown: String = word.text.chars().take(64).collect();
        Self::new(word.column, format!("{shown:?} is not {meant}"))
    }

    fn on_line(self, line: u32) -> ParseError {
        ParseError {
            line,
            column: self.column,
            message: self.message,
        }
    }
}

type Parsed<T> = Result<T, Fault>;

impl Restore {
    /// Reads a whole text. Comment lines are left out. A text without the `COMMIT` of its last
    /// section was cut short and is an error.
    pub fn parse(family: Family, text: &str) -> Result<Self, ParseError> {
        let mut tables: Vec<RestoreTable> = Vec::new();
        let mut open: Option<RestoreTable> = None;
        let mut last = 0;
        for (number, text) in (1u32..).zip(text.lines()) {
            last = number;
            let parsed = line::parse(family, text).map_err(|fault| fault.on_line(number))?;
            let misplaced = |message: &str| Fault::new(1, message).on_line(number);
            match (parsed, &mut open) {
                (line::Line::Nothing, _) => {}
                (line::Line::Table(table), None) => {
                    open = Some(RestoreTable {
                        table,
                        commands: Vec::new(),
                    });
                }
                (line::Line::Table(_), Some(before)) => {
                    let message = format!("table {} has no COMMIT before this", before.table);
                    return Err(misplaced(&message));
                }
                (line::Line::Commit, Some(_)) => tables.extend(open.take()),
                (line::Line::Command(command), Some(section)) => {
                    section.commands.push((number, command));
                }
                (line::Line::Commit | line::Line::Command(_), None) => {
                    return Err(misplaced("no *table line before this"));
                }
            }
        }
        match open {
            Some(section) => {
                let message = format!("the text ends before the COMMIT of table {}", section.table);
                Err(Fault::new(1, message).on_line(last + 1))
            }
            None => Ok(Self { family, tables }),
        }
    }
}

impl Rule {
    /// Reads a rule's words: what follows `-A CHAIN`. The line of an error is 1.
    pub fn parse(family: Family, text: &str) -> Result<Self, ParseError> {
        words::split(text)
            .and_then(|words| rule::parse(family, &words))
            .map_err(|fault| fault.on_line(1))
    }
}

impl TableSet {
    /// Reads what `iptables-save` printed.
    pub fn parse(family: Family, text: &str) -> Result<Self, ParseError> {
        let restore = Restore::parse(family, text)?;
        let mut set = TableSet::new(family);
        set.apply(restore, super::Flush::Tables)
            .map_err(|e| ParseError {
                line: e.line,
                column: 1,
                message: e.reason.to_string(),
            })?;
        Ok(set)
    }
}
