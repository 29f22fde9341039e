//! `-j SET`.

use crate::iptables::matches::set::{SetDirection, parse_directions, write_directions};
use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, needed};
use crate::iptables::syntax::text::{flags, option_number, raw_word};
use crate::iptables::syntax::{Options, Parsed, values};

pub(crate) const NAMES: &[&str] = &["SET"];

pub(crate) const OPTIONS: Options = &[
    ("--add-set", 2),
    ("--del-set", 2),
    ("--exist", 0),
    ("--timeout", 1),
];

/// `SET`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SetTarget {
    /// `--del-set` rather than `--add-set`.
    pub delete: bool,
    /// The set.
    pub name: Box<str>,
    /// The side of the packet for each part of the element.
    pub directions: Vec<SetDirection>,
    /// `--exist`.
    pub exist: bool,
    /// `--timeout` in seconds.
    pub timeout: Option<u32>,
}

/// `None` if the target both adds and deletes.
pub(crate) fn parse(_: Family, segment: &Segment<'_>) -> Parsed<Option<SetTarget>> {
    let mut found: Option<SetTarget> = None;
    let (mut exist, mut timeout) = (false, None);
    for item in &segment.items {
        match (item.option, item.values.as_slice()) {
            ("--add-set" | "--del-set", [name, directions]) if found.is_none() => {
                found = Some(SetTarget {
                    delete: item.option == "--del-set",
                    name: Box::from(&*name.text),
                    directions: parse_directions(directions)?,
                    exist: false,
                    timeout: None,
                });
            }
            ("--exist", _) => exist = true,
            ("--timeout", [seconds]) => timeout = Some(values::number(seconds)?),
            _ => return Ok(None),
        }
    }
    let found = needed(found, segment, "--add-set or --del-set")?;
    Ok(Some(SetTarget {
        exist,
        timeout,
        ..found
    }))
}

pub(crate) fn write(out: &mut String, set: &SetTarget) {
    out.push_str(if set.delete {
        " -j SET --del-set "
    } else {
        " -j SET --add-set "
    });
    raw_word(out, &set.name);
    out.push(' ');
    write_directions(out, &set.directions);
    flags(out, &[(set.exist, "--exist")]);
    if let Some(timeout) = set.timeout {
        option_number(out, "--timeout", timeout.into());
    }
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &[
    "-j SET --add-set a src,dst --exist --timeout 5",
    "-j SET --del-set a src",
];
