//! The lexical layer below rules: words, option values, and an extension's options before they are
//! interpreted; and the pieces from which a rule's text is written.

pub(crate) mod segment;
pub(crate) mod text;
pub(crate) mod values;
pub(crate) mod words;

use words::Word;

/// The options of an extension and the number of values that each takes.
///
/// Known before anything is interpreted: options of several extensions can be mixed in one rule
/// (`-m tcp -m comment --dport 80 --comment x`), and a value can look like an option.
pub(crate) type Options = &'static [(&'static str, u8)];

/// Position and cause of a parse failure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ParseError {
    /// The line, from 1.
    pub line: u32,
    /// The column of the invalid word, in bytes, from 1.
    pub column: u32,
    /// The cause, with the invalid word.
    pub message: String,
}

/// An error on a line whose number the caller knows.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) column: u32,
    pub(crate) message: String,
}

impl Fault {
    pub(crate) fn new(column: u32, message: impl Into<String>) -> Self {
        Self {
            column,
            message: message.into(),
        }
    }

    /// `"WORD" is not EXPECTED`.
    pub(crate) fn not_a(word: &Word<'_>, expected: &str) -> Self {
        let shown: String = word.text.chars().take(64).collect();
        Self::new(word.column, format!("{shown:?} is not {expected}"))
    }

    pub(crate) fn cannot_negate(column: u32, option: &str) -> Self {
        Self::new(column, format!("{option} cannot be negated with `!`"))
    }

    pub(crate) fn on_line(self, line: u32) -> ParseError {
        ParseError {
            line,
            column: self.column,
            message: self.message,
        }
    }
}

pub(crate) type Parsed<T> = Result<T, Fault>;
