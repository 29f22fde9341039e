//! Parser of the output of `iptables-save` and the input of `iptables-restore`.

mod line;
mod rule;

use super::apply::Flush;
use super::name::Family;
use super::restore::{Restore, RestoreTable};
use super::rule::Rule;
use super::syntax::{Fault, ParseError, words};
use super::tables::TableSet;

pub use line::Line;

impl Restore {
    /// Parse a whole text. Comment lines are dropped.
    ///
    /// # Errors
    /// An invalid line, or a last section without `COMMIT`, since the text is then truncated.
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
    /// Parse the words of a rule that follow `-A CHAIN`.
    ///
    /// # Errors
    /// An invalid word; the line of the error is 1.
    pub fn parse(family: Family, text: &str) -> Result<Self, ParseError> {
        words::split(text)
            .and_then(|words| rule::parse(family, &words))
            .map_err(|fault| fault.on_line(1))
    }
}

impl TableSet {
    /// Parse the output of `iptables-save`.
    ///
    /// # Errors
    /// An invalid line, or a command that `iptables-restore` would refuse.
    pub fn parse(family: Family, text: &str) -> Result<Self, ParseError> {
        let restore = Restore::parse(family, text)?;
        let mut set = TableSet::new(family);
        set.apply(restore, Flush::Tables).map_err(|e| ParseError {
            line: e.line,
            column: 1,
            message: e.reason.to_string(),
        })?;
        Ok(set)
    }
}
