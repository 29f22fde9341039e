//! An extension of a rule with its options, before they are interpreted.

use super::words::Word;
use super::{Fault, Options, Parsed};
use crate::iptables::value::Negatable;

/// An extension that is not modelled: its name and its words, without the `-m` or `-j`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Extension {
    /// The extension's name.
    pub name: Box<str>,
    /// Options and values in order, unquoted; `!` is a word of its own.
    pub words: Vec<Box<str>>,
}

/// One option of an extension with its values.
pub(crate) struct Item<'a> {
    pub(crate) negated: bool,
    pub(crate) option: &'a str,
    pub(crate) column: u32,
    pub(crate) values: Values<'a>,
}

pub(crate) enum Values<'a> {
    Words(&'a [Word<'a>]),
    /// The part after the `=` of `--option=value`.
    Inline([Word<'a>; 1]),
}

impl Values<'_> {
    pub(crate) fn as_slice(&self) -> &[Word<'_>] {
        match self {
            Values::Words(words) => words,
            Values::Inline(word) => word,
        }
    }
}

/// An extension with its options in the order of the text.
pub(crate) struct Segment<'a> {
    pub(crate) is_target: bool,
    pub(crate) name: &'a str,
    pub(crate) column: u32,
    /// The options of the extension; `None` if it is not modelled.
    pub(crate) options: Option<Options>,
    /// Whether an option is missing in the model of the extension, which is then kept word for
    /// word.
    pub(crate) foreign: bool,
    pub(crate) items: Vec<Item<'a>>,
}

impl Segment<'_> {
    /// Return the number of values of an option; `None` if the extension has no such option.
    pub(crate) fn arity(&self, option: &str) -> Option<u8> {
        arity(self.options?, option)
    }

    /// Return the extension word for word.
    pub(crate) fn verbatim(&self) -> Extension {
        let mut words: Vec<Box<str>> = Vec::new();
        for item in &self.items {
            if item.negated {
                words.push("!".into());
            }
            keep(item, &mut words);
        }
        Extension {
            name: self.name.into(),
            words,
        }
    }
}

/// Return the number of values of an option; `None` if the list does not contain it.
pub(crate) fn arity(options: Options, option: &str) -> Option<u8> {
    let found = options.iter().find(|(name, _)| *name == option);
    found.map(|(_, values)| *values)
}

/// Append the option and its values.
pub(crate) fn keep(item: &Item<'_>, words: &mut Vec<Box<str>>) {
    words.push(item.option.into());
    words.extend(item.values.as_slice().iter().map(|w| Box::from(&*w.text)));
}

/// Return the first value of an option.
pub(crate) fn value<'a>(item: &'a Item<'_>) -> Parsed<&'a Word<'a>> {
    let missing = || Fault::new(item.column, format!("{} needs a value", item.option));
    item.values.as_slice().first().ok_or_else(missing)
}

/// Refuse `!` before an option that cannot be negated.
pub(crate) fn plain(item: &Item<'_>) -> Parsed<()> {
    if item.negated {
        return Err(Fault::cannot_negate(item.column, item.option));
    }
    Ok(())
}

/// Return the value, negated if the option is.
pub(crate) fn with<T>(item: &Item<'_>, value: T) -> Negatable<T> {
    Negatable {
        negated: item.negated,
        value,
    }
}

/// Return the value of an option that the extension requires.
pub(crate) fn needed<T>(value: Option<T>, segment: &Segment<'_>, option: &str) -> Parsed<T> {
    value.ok_or_else(|| {
        let message = format!("{} needs {option}", segment.name);
        Fault::new(segment.column, message)
    })
}

/// Return the value of the extension's only option, which is required and cannot be negated.
pub(crate) fn single_text(segment: &Segment<'_>, option: &str) -> Parsed<Box<str>> {
    let mut found = None;
    for item in &segment.items {
        plain(item)?;
        found = Some(Box::from(&*value(item)?.text));
    }
    needed(found, segment, option)
}
