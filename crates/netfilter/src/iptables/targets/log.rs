//! `-j LOG`.

use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, value};
use crate::iptables::syntax::text::{option_number, quoted, words};
use crate::iptables::syntax::{Fault, Options, Parsed, values};

pub(crate) const NAMES: &[&str] = &["LOG"];

pub(crate) const OPTIONS: Options = &[
    ("--log-level", 1),
    ("--log-prefix", 1),
    ("--log-tcp-sequence", 0),
    ("--log-tcp-options", 0),
    ("--log-ip-options", 0),
    ("--log-uid", 0),
    ("--log-macdecode", 0),
];

/// `LOG`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LogTarget {
    /// `--log-level` as a number; 4 (warning) by default.
    pub level: Option<u8>,
    /// `--log-prefix`.
    pub prefix: Option<Box<str>>,
    /// Flags such as `--log-tcp-sequence`, in the order of iptables-save.
    pub flags: Vec<Box<str>>,
}

/// Names of the syslog levels.
const LEVELS: &[(&str, u8)] = &[
    ("emerg", 0),
    ("panic", 0),
    ("alert", 1),
    ("crit", 2),
    ("err", 3),
    ("error", 3),
    ("warning", 4),
    ("warn", 4),
    ("notice", 5),
    ("info", 6),
    ("debug", 7),
];

/// Flags of `LOG` in the order of iptables-save.
const LOG_FLAGS: [&str; 5] = [
    "--log-tcp-sequence",
    "--log-tcp-options",
    "--log-ip-options",
    "--log-uid",
    "--log-macdecode",
];

pub(crate) fn parse(_: Family, segment: &Segment<'_>) -> Parsed<Option<LogTarget>> {
    let mut found = LogTarget::default();
    for item in &segment.items {
        match item.option {
            "--log-prefix" => found.prefix = Some(Box::from(&*value(item)?.text)),
            "--log-level" => {
                let word = value(item)?;
                let named = LEVELS.iter().find(|(name, _)| *name == word.text);
                let level = match named {
                    Some((_, level)) => *level,
                    None => values::number_in(&word.text)
                        .filter(|level| *level <= 7)
                        .ok_or_else(|| Fault::not_a(word, "a log level (a name, or 0 to 7)"))?,
                };
                // iptables does not print the default level.
                found.level = (level != 4).then_some(level);
            }
            _ => {}
        }
    }
    let given = |flag: &&&str| segment.items.iter().any(|i| i.option == **flag);
    found.flags = LOG_FLAGS
        .iter()
        .filter(given)
        .map(|flag| Box::from(*flag))
        .collect();
    Ok(Some(found))
}

pub(crate) fn write(out: &mut String, log: &LogTarget) {
    out.push_str(" -j LOG");
    if let Some(prefix) = &log.prefix {
        out.push_str(" --log-prefix");
        quoted(out, prefix);
    }
    if let Some(level) = log.level {
        option_number(out, "--log-level", level.into());
    }
    words(out, &log.flags);
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &[
    "-j LOG --log-prefix \"a b\" --log-level debug --log-tcp-sequence --log-tcp-options --log-ip-options --log-uid --log-macdecode",
];
