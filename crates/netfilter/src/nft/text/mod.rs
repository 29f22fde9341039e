//! The syntax of `nft -f`.
//!
//! nf_tables has expressions and registers; the nft language does not. A rule's text follows from the
//! contents of each register. A rule that the language cannot express ([`Inexpressible`]) is written
//! as a comment.

mod rule;
mod value;

use std::fmt::Write as _;

use thiserror::Error;

use super::object::{BaseChain, Data, DataType, Element, Family, Fields, Hook, Policy, SetData};
use super::table::{Contents, SetContents};

pub use rule::rule_text;

/// A use of registers that the nft language cannot express.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0} cannot be expressed in nft syntax")]
pub struct Inexpressible(pub &'static str);

impl Family {
    /// Return nft's keyword.
    pub fn word(self) -> &'static str {
        match self {
            Family::Inet => "inet",
            Family::Ip => "ip",
            Family::Ip6 => "ip6",
        }
    }
}

impl Hook {
    /// Return nft's keyword.
    pub fn word(self) -> &'static str {
        match self {
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
            Hook::Forward => "forward",
            Hook::Output => "output",
            Hook::Postrouting => "postrouting",
        }
    }
}

/// Return the table in the syntax of `nft -f`. Inexpressible rules become comments.
pub fn table_text(family: Family, name: &str, contents: &Contents) -> String {
    let mut out = format!("table {} {name} {{\n", family.word());
    comment_line(&mut out, contents.comment.as_deref());
    for set in contents.sets.values() {
        set_block(&mut out, set);
    }
    for chain in contents.chains.values() {
        let _ = writeln!(out, "\n\tchain {} {{", chain.chain.name);
        if let Some(base) = &chain.chain.base {
            base_line(&mut out, base);
        }
        if let Some(comment) = &chain.chain.comment {
            out.push('\t');
            comment_line(&mut out, Some(comment));
        }
        for rule in &chain.rules {
            let _ = match rule_text(family, contents, rule) {
                Ok(text) => writeln!(out, "\t\t{text}"),
                Err(why) => writeln!(out, "\t\t# {why}"),
            };
        }
        out.push_str("\t}\n");
    }
    out.push_str("}\n");
    out
}

fn comment_line(out: &mut String, comment: Option<&str>) {
    if let Some(comment) = comment {
        let _ = writeln!(out, "\tcomment \"{comment}\"");
    }
}

fn base_line(out: &mut String, base: &BaseChain) {
    let policy = match base.policy {
        Policy::Drop => "drop",
        Policy::Accept => "accept",
    };
    let _ = writeln!(
        out,
        "\t\ttype {} hook {} priority {}; policy {policy};",
        base.kind.name(),
        base.hook.word(),
        base.priority,
    );
}

fn fields_text(fields: &Fields) -> String {
    let words: Vec<&str> = match fields {
        Fields::Types(types) => types.iter().map(|t| t.name()).collect(),
        Fields::Typeof(selectors) => selectors.iter().map(|s| s.text()).collect(),
    };
    words.join(" . ")
}

fn set_block(out: &mut String, contents: &SetContents) {
    let set = &contents.set;
    let word = match set.data {
        SetData::None => "set",
        SetData::Verdict | SetData::Fields(_) => "map",
    };
    let _ = write!(out, "\n\t{word} {} {{\n\t\t", set.name);
    out.push_str(match set.key {
        Fields::Types(_) => "type ",
        Fields::Typeof(_) => "typeof ",
    });
    out.push_str(&fields_text(&set.key));
    match &set.data {
        SetData::None => {}
        SetData::Verdict => out.push_str(" : verdict"),
        SetData::Fields(fields) => {
            let _ = write!(out, " : {}", fields_text(fields));
        }
    }
    out.push('\n');
    let flags: Vec<&str> = [
        (set.flags.constant, "constant"),
        (set.flags.dynamic, "dynamic"),
        (set.flags.interval, "interval"),
        (set.flags.timeout, "timeout"),
    ]
    .into_iter()
    .filter_map(|(on, word)| on.then_some(word))
    .collect();
    if let Some(size) = set.size {
        let _ = writeln!(out, "\t\tsize {size}");
    }
    if !flags.is_empty() {
        let _ = writeln!(out, "\t\tflags {}", flags.join(","));
    }
    if let Some(timeout) = set.timeout_ms {
        let _ = writeln!(out, "\t\ttimeout {timeout}ms");
    }
    if let Some(comment) = &set.comment {
        let _ = writeln!(out, "\t\tcomment \"{comment}\"");
    }
    elements(out, contents);
    out.push_str("\t}\n");
}

fn elements(out: &mut String, contents: &SetContents) {
    let types = contents.set.key.types();
    let single_ranges = contents.set.flags.interval && types.len() == 1;
    let mut first = true;
    let mut all = contents.elements.values().peekable();
    while let Some(e) = all.next() {
        if e.interval_end {
            continue;
        }
        out.push_str(if first {
            "\t\telements = { "
        } else {
            ",\n\t\t\t     "
        });
        first = false;
        let key = if single_ranges {
            let end = all.peek().filter(|next| next.interval_end);
            value::half_open(types[0], &e.key, end.map(|end| &end.key))
        } else {
            value::range(&types, &e.key, e.key_end.as_deref())
        };
        out.push_str(&key);
        if let Some(timeout) = e.timeout_ms {
            let _ = write!(out, " timeout {timeout}ms");
        }
        if let Some(comment) = &e.comment {
            let _ = write!(out, " comment \"{comment}\"");
        }
        element_data(out, e, &contents.set.data);
    }
    if !first {
        out.push_str(" }\n");
    }
}

fn element_data(out: &mut String, e: &Element, data: &SetData) {
    match (&e.data, data) {
        (Data::Value(v), SetData::Fields(fields)) => {
            let types: Vec<DataType> = fields.types();
            let _ = write!(out, " : {}", value::range(&types, v, None));
        }
        (Data::Verdict(v), _) => {
            let _ = write!(out, " : {}", rule::verdict_text(v));
        }
        _ => {}
    }
}
