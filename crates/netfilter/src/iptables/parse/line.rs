//! One line: a table, the declaration of a chain, a command, `COMMIT`.

use super::rule;
use crate::iptables::name::{Chain, Family, Policy, Table};
use crate::iptables::restore::Command;
use crate::iptables::rule::{Counters, Rule};
use crate::iptables::syntax::words::{Word, split};
use crate::iptables::syntax::{Fault, ParseError, Parsed};

/// One line of a save file or of restore input.
// Nearly every line is a command: boxing it would cost one allocation per line.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// Blank, or a comment.
    Nothing,
    /// `*table`.
    Table(Table),
    /// A line between `*table` and `COMMIT`.
    Command(Command),
    /// `COMMIT`.
    Commit,
}

impl Line {
    /// Parse a single line, for a caller that does not keep the whole text.
    ///
    /// # Errors
    /// An invalid word; the line of the error is `number`.
    pub fn parse(family: Family, text: &str, number: u32) -> Result<Self, ParseError> {
        parse(family, text).map_err(|fault| fault.on_line(number))
    }
}

pub(super) fn parse(family: Family, text: &str) -> Parsed<Line> {
    if text.is_empty() || text.starts_with('#') {
        return Ok(Line::Nothing);
    }
    let words = split(text)?;
    let Some(first) = words.first() else {
        return Ok(Line::Nothing);
    };
    if first.text == "COMMIT" {
        return Ok(Line::Commit);
    }
    if let Some(name) = first.text.strip_prefix('*') {
        return match name.parse() {
            Ok(table) => Ok(Line::Table(table)),
            Err(()) => Err(Fault::not_a(
                first,
                "a table: *raw, *mangle, *nat, *filter or *security",
            )),
        };
    }
    if let Some(name) = first.text.strip_prefix(':') {
        return declaration(name, first, &words[1..]).map(Line::Command);
    }
    let (counters, rest) = match counters(first) {
        Some(counters) => (Some(counters), &words[1..]),
        None => (None, &words[..]),
    };
    command(family, counters, rest).map(Line::Command)
}

/// `[packets:bytes]`.
fn counters(word: &Word<'_>) -> Option<Counters> {
    let (packets, bytes) = word
        .text
        .strip_prefix('[')?
        .strip_suffix(']')?
        .split_once(':')?;
    Some(Counters {
        packets: packets.parse().ok()?,
        bytes: bytes.parse().ok()?,
    })
}

fn chain_name(name: &str, word: &Word<'_>) -> Parsed<Chain> {
    Chain::new(name).map_err(|e| Fault::new(word.column, e.to_string()))
}

fn policy(word: &Word<'_>) -> Parsed<Policy> {
    match &*word.text {
        "ACCEPT" => Ok(Policy::Accept),
        "DROP" => Ok(Policy::Drop),
        _ => Err(Fault::not_a(word, "a policy: ACCEPT or DROP")),
    }
}

fn declaration(name: &str, first: &Word<'_>, rest: &[Word<'_>]) -> Parsed<Command> {
    let chain = chain_name(name, first)?;
    let (policy_word, rest) = rest.split_first().ok_or_else(|| {
        Fault::new(
            first.column,
            "the chain's name must be followed by a policy, or by -",
        )
    })?;
    let policy = match &*policy_word.text {
        "-" => None,
        _ => Some(policy(policy_word)?),
    };
    let counters = match rest {
        [] => None,
        [word] => Some(
            counters(word).ok_or_else(|| Fault::not_a(word, "a pair of counters such as [1:2]"))?,
        ),
        [_, extra, ..] => return Err(Fault::not_a(extra, "expected here")),
    };
    Ok(Command::Declare {
        chain,
        policy,
        counters,
    })
}

fn command(family: Family, counters: Option<Counters>, words: &[Word<'_>]) -> Parsed<Command> {
    let Some((verb, rest)) = words.split_first() else {
        return Err(Fault::new(1, "the counters must be followed by a command"));
    };
    let rule = |words| -> Parsed<Rule> {
        let mut rule = rule::parse(family, words)?;
        rule.counters = counters.or(rule.counters);
        Ok(rule)
    };
    let named = |rest: &[Word<'_>]| match rest.first() {
        Some(word) => chain_name(&word.text, word),
        None => Err(Fault::new(verb.column, "a chain name is missing")),
    };
    let optional = |rest: &[Word<'_>]| match rest {
        [] => Ok(None),
        [word] => chain_name(&word.text, word).map(Some),
        [_, extra, ..] => Err(Fault::not_a(extra, "expected here")),
    };
    let tail = rest.get(1..).unwrap_or_default();
    match &*verb.text {
        "-A" | "--append" => Ok(Command::Append {
            chain: named(rest)?,
            rule: rule(tail)?,
        }),
        "-I" | "--insert" => {
            let (at, tail) = position(tail);
            Ok(Command::Insert {
                chain: named(rest)?,
                position: checked(at.unwrap_or(1), verb)?,
                rule: rule(tail)?,
            })
        }
        "-R" | "--replace" => {
            let (at, tail) = position(tail);
            let at = at.ok_or_else(|| Fault::new(verb.column, "a rule number is missing"))?;
            Ok(Command::Replace {
                chain: named(rest)?,
                position: checked(at, verb)?,
                rule: rule(tail)?,
            })
        }
        "-D" | "--delete" => {
            let chain = named(rest)?;
            match position(tail) {
                (Some(at), []) => Ok(Command::DeleteAt {
                    chain,
                    position: checked(at, verb)?,
                }),
                _ => Ok(Command::Delete {
                    chain,
                    rule: rule(tail)?,
                }),
            }
        }
        "-P" | "--policy" => match tail {
            [word] => Ok(Command::SetPolicy {
                chain: named(rest)?,
                policy: policy(word)?,
            }),
            _ => Err(Fault::new(
                verb.column,
                "the chain must be followed by one policy",
            )),
        },
        "-N" | "--new-chain" => match optional(rest)? {
            Some(chain) => Ok(Command::New { chain }),
            None => Err(Fault::new(verb.column, "a chain name is missing")),
        },
        "-F" | "--flush" => Ok(Command::Flush {
            chain: optional(rest)?,
        }),
        "-X" | "--delete-chain" => Ok(Command::DeleteChain {
            chain: optional(rest)?,
        }),
        _ => Err(Fault::not_a(
            verb,
            "a command: -A, -I, -R, -D, -N, -F, -X or -P",
        )),
    }
}

/// Split off the optional number before a rule.
fn position<'a, 'b>(words: &'a [Word<'b>]) -> (Option<u32>, &'a [Word<'b>]) {
    match words.split_first() {
        Some((first, rest)) => match first.text.parse() {
            Ok(n) => (Some(n), rest),
            Err(_) => (None, words),
        },
        None => (None, words),
    }
}

fn checked(position: u32, verb: &Word<'_>) -> Parsed<u32> {
    match position {
        0 => Err(Fault::new(verb.column, "rules are numbered from 1")),
        n => Ok(n),
    }
}
