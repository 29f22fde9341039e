//! Extensions that only other programs use: their structures as the words that `iptables-save` prints.
//! They are read and never written. The tracer evaluates them by their words, or reports them by name.

mod filters;
mod limits;
mod targets;
#[cfg(test)]
mod tests;

use super::info::Reader;
use crate::iptables::{Extension, Family};

/// The words of an extension after its name.
#[derive(Default)]
struct Words(Vec<Box<str>>);

impl Words {
    fn flag(&mut self, option: &str) -> &mut Self {
        self.0.push(option.into());
        self
    }

    fn option(&mut self, option: &str, value: impl Into<Box<str>>) -> &mut Self {
        self.0.push(option.into());
        self.0.push(value.into());
        self
    }

    /// Append an option with `!` before it if it is negated.
    fn negatable(&mut self, negated: bool, option: &str, value: impl Into<Box<str>>) -> &mut Self {
        if negated {
            self.0.push("!".into());
        }
        self.option(option, value)
    }
}

/// Reads a structure of a sufficient size; `None` for values that `iptables-save` does not print in a known
/// form.
type Read = fn(Reader<'_>, Family) -> Option<Words>;

/// Return the match; `None` if it or its revision is not known here.
pub(super) fn read_match(
    family: Family,
    name: &str,
    revision: u32,
    info: &[u8],
) -> Option<Extension> {
    let (size, read) = filters::find(name, revision).or_else(|| limits::find(name, revision))?;
    extension(name, info, size, read, family)
}

/// Return the target; `None` if it or its revision is not known here.
pub(super) fn read_target(
    family: Family,
    name: &str,
    revision: u32,
    info: &[u8],
) -> Option<Extension> {
    let (size, read) = targets::find(name, revision)?;
    extension(name, info, size, read, family)
}

fn extension(
    name: &str,
    info: &[u8],
    size: usize,
    read: Read,
    family: Family,
) -> Option<Extension> {
    if info.len() < size {
        return None;
    }
    let Words(words) = read(Reader(info), family)?;
    let name = name.into();
    Some(Extension { name, words })
}

/// `min:max`, or one number if both are equal.
fn range<T: Copy + PartialEq + std::fmt::Display>(min: T, max: T) -> String {
    if min == max {
        min.to_string()
    } else {
        format!("{min}:{max}")
    }
}
