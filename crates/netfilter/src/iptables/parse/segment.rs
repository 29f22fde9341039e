//! An extension of a rule with its options, before it is known what they mean.

use super::super::{Extension, Negatable};
use super::words::Word;
use super::{Fault, Parsed, options};

/// One option of an extension with its values.
pub(super) struct Item<'a> {
    pub(super) negated: bool,
    pub(super) option: &'a str,
    pub(super) column: u32,
    pub(super) values: Values<'a>,
}

pub(super) enum Values<'a> {
    Words(&'a [Word<'a>]),
    /// What stood behind the `=` of `--option=value`.
    Inline([Word<'a>; 1]),
}

impl Values<'_> {
    pub(super) fn as_slice(&self) -> &[Word<'_>] {
        match self {
            Values::Words(words) => words,
            Values::Inline(word) => word,
        }
    }
}

/// An extension with its options, in the order in which they came.
pub(super) struct Segment<'a> {
    pub(super) is_target: bool,
    pub(super) name: &'a str,
    pub(super) column: u32,
    /// Whether an option came that the model of the extension does not know, so that the
    /// extension is kept word for word.
    pub(super) foreign: bool,
    pub(super) items: Vec<Item<'a>>,
}

impl Segment<'_> {
    /// How many values this option of the extension takes; `None` if it has no such option.
    pub(super) fn arity(&self, option: &str) -> Option<u8> {
        if self.is_target {
            options::of_target(self.name, option)
        } else {
            options::of_match(self.name, option)
        }
    }
}

/// The extension word for word.
pub(super) fn verbatim(segment: &Segment<'_>) -> Extension {
    let mut words: Vec<Box<str>> = Vec::new();
    for item in &segment.items {
        if item.negated {
            words.push("!".into());
        }
        words.push(item.option.into());
        words.extend(item.values.as_slice().iter().map(|w| Box::from(&*w.text)));
    }
    Extension {
        name: segment.name.into(),
        words,
    }
}

/// The first value of an option.
pub(super) fn value<'a>(item: &'a Item<'_>) -> Parsed<&'a Word<'a>> {
    let missing = || Fault::new(item.column, format!("{} needs a value", item.option));
    item.values.as_slice().first().ok_or_else(missing)
}

/// Refuses `!` before an option that cannot be turned round.
pub(super) fn plain(item: &Item<'_>) -> Parsed<()> {
    if item.negated {
        let message = format!("{} cannot be turned round with !", item.option);
        return Err(Fault::new(item.column, message));
    }
    Ok(())
}

/// The value, turned round where the option is.
pub(super) fn with<T>(item: &Item<'_>, value: T) -> Negatable<T> {
    Negatable {
        negated: item.negated,
        value,
    }
}

/// The value of an option that the extension must have.
pub(super) fn needed<T>(value: Option<T>, segment: &Segment<'_>, option: &str) -> Parsed<T> {
    value.ok_or_else(|| {
        let message = format!("{} needs {option}", segment.name);
        Fault::new(segment.column, message)
    })
}
