//! Parser of the output of `iptables-save` and the input of `iptables-restore`.

mod line;
mod rule;

use super::apply::Section;
use super::name::{Family, Table};
use super::restore::{Command, Restore, RestoreTable};
use super::rule::Rule;
use super::syntax::{Fault, ParseError, words};
use super::tables::{TableSet, TableState};

pub use line::Line;

/// A part of a text.
// Nearly every part is a command: boxing it would cost one allocation per line.
#[allow(clippy::large_enum_variant)]
enum Part {
    /// The start of a section.
    Table(Table),
    /// A line of the section.
    Command(u32, Command),
    /// The end of the section.
    Commit,
}

/// Pass the parts of a whole text to `each`, in order. Comment lines are dropped.
fn read(
    family: Family,
    text: &str,
    each: &mut dyn FnMut(Part) -> Result<(), ParseError>,
) -> Result<(), ParseError> {
    let mut open: Option<Table> = None;
    let mut last = 0;
    for (number, text) in (1u32..).zip(text.lines()) {
        last = number;
        let parsed = line::parse(family, text).map_err(|fault| fault.on_line(number))?;
        let misplaced = |message: &str| Fault::new(1, message).on_line(number);
        match (parsed, open) {
            (Line::Nothing, _) => {}
            (Line::Table(table), None) => {
                open = Some(table);
                each(Part::Table(table))?;
            }
            (Line::Table(_), Some(before)) => {
                let message = format!("table {before} has no COMMIT before this");
                return Err(misplaced(&message));
            }
            (Line::Commit, Some(_)) => {
                open = None;
                each(Part::Commit)?;
            }
            (Line::Command(command), Some(_)) => each(Part::Command(number, command))?,
            (Line::Commit | Line::Command(_), None) => {
                return Err(misplaced("no *table line before this"));
            }
        }
    }
    match open {
        Some(table) => {
            let message = format!("the text ends before the COMMIT of table {table}");
            Err(Fault::new(1, message).on_line(last + 1))
        }
        None => Ok(()),
    }
}

impl Restore {
    /// Parse a whole text. Comment lines are dropped.
    ///
    /// # Errors
    /// An invalid line, or a last section without `COMMIT`, since the text is then truncated.
    pub fn parse(family: Family, text: &str) -> Result<Self, ParseError> {
        let mut tables: Vec<RestoreTable> = Vec::new();
        read(family, text, &mut |part| {
            match (part, tables.last_mut()) {
                (Part::Table(table), _) => tables.push(RestoreTable {
                    table,
                    commands: Vec::new(),
                }),
                (Part::Command(number, command), Some(section)) => {
                    section.commands.push((number, command));
                }
                (Part::Command(..), None) | (Part::Commit, _) => {}
            }
            Ok(())
        })?;
        Ok(Self { family, tables })
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
    /// Parse the output of `iptables-save`. Each rule goes to its chain as it is read: the dump of a large
    /// cluster has 300,000.
    ///
    /// # Errors
    /// An invalid line, or a command that `iptables-restore` would refuse.
    pub fn parse(family: Family, text: &str) -> Result<Self, ParseError> {
        let mut set = TableSet::new(family);
        let mut open: Option<Section> = None;
        read(family, text, &mut |part| {
            match (part, &mut open) {
                (Part::Table(table), _) => {
                    open = Some(Section::from_state(table, TableState::default()));
                }
                (Part::Command(number, command), Some(section)) => {
                    section.run(number, command).map_err(|e| ParseError {
                        line: e.line,
                        column: 1,
                        message: e.reason.to_string(),
                    })?;
                }
                (Part::Commit, _) => {
                    let section = open.take().map(Section::finish);
                    set.tables.extend(section);
                }
                (Part::Command(..), None) => {}
            }
            Ok(())
        })?;
        Ok(set)
    }
}
