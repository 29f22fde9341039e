//! `iptables -S` and `iptables -L -n -v`, and dumps with something around them.

use std::collections::BTreeSet;

use super::{PasteError, clean, command, list};

const COMMAND: &str = "iptables-save";

pub(super) fn refuse(what: impl Into<String>) -> PasteError {
    PasteError {
        what: what.into(),
        command: COMMAND,
    }
}

/// Convert text to what `iptables-save` prints.
pub(crate) fn to_save(text: &str) -> Result<String, PasteError> {
    let table = text.lines().filter_map(command).find_map(named_table);
    let text = clean(text);
    let mut lines = text.lines().filter(|l| !l.trim().is_empty());
    if text.lines().any(|l| l.starts_with('*')) {
        return Ok(declared(&text));
    }
    if lines.clone().any(|l| l.starts_with("Chain ")) {
        let body = list::to_rules(&text)?;
        return with_table(table, &body);
    }
    if lines.clone().any(|l| l.starts_with("-P ")) {
        let body: String = text.lines().map(|l| specification(l) + "\n").collect();
        return with_table(table, &body);
    }
    if lines
        .clone()
        .any(|l| l.starts_with("-A ") || l.starts_with("-N "))
    {
        return Err(refuse(
            "these are single rules, without the line `*table` or `-P` that names their table",
        ));
    }
    let first = lines.next().unwrap_or_default();
    Err(refuse(format!("{first:?} is not a dump of iptables")))
}

/// Return the table that a command names.
fn named_table(command: &str) -> Option<String> {
    let mut words = command.split_whitespace();
    words.find(|w| matches!(*w, "-t" | "--table"))?;
    words.next().map(str::to_owned)
}

/// Convert a line of `iptables -S`.
fn specification(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["-P", chain, policy, ..] => format!(":{chain} {policy} [0:0]"),
        ["-N", chain, ..] => format!(":{chain} - [0:0]"),
        _ => line.to_owned(),
    }
}

/// Put chains and rules into the table to which they belong.
fn with_table(named: Option<String>, body: &str) -> Result<String, PasteError> {
    let base = |l: &str| {
        let mut words = l.strip_prefix(':')?.split_whitespace();
        let chain = words.next()?.to_owned();
        (words.next()? != "-").then_some(chain)
    };
    let bases: BTreeSet<String> = body.lines().filter_map(base).collect();
    let all: Vec<&str> = bases.iter().map(String::as_str).collect();
    let table = match (named, all.as_slice()) {
        (Some(table), _) => table,
        (None, ["FORWARD", "INPUT", "OUTPUT"]) => {
            let is_security = body.contains(" SECMARK") || body.contains(" CONNSECMARK");
            if is_security { "security" } else { "filter" }.to_owned()
        }
        (None, ["INPUT", "OUTPUT", "POSTROUTING", "PREROUTING"]) => "nat".to_owned(),
        (None, ["OUTPUT", "PREROUTING"]) => "raw".to_owned(),
        (None, ["FORWARD", "INPUT", "OUTPUT", "POSTROUTING", "PREROUTING"]) => "mangle".to_owned(),
        // A list that was shortened.
        (None, all) => {
            const OF_NAT: [&str; 4] = ["-j DNAT", "-j SNAT", "-j MASQUERADE", "-j REDIRECT"];
            let is_nat = body.contains("KUBE-SVC-") || OF_NAT.iter().any(|t| body.contains(t));
            match all.contains(&"FORWARD") {
                false if is_nat => "nat".to_owned(),
                true if !is_nat => "filter".to_owned(),
                _ => return Err(refuse("the list does not show which table it is")),
            }
        }
    };
    Ok(declared(&format!("*{table}\n{body}COMMIT\n")))
}

/// Declare the chains that only rules mention: a part of a dump is read as far as it goes.
fn declared(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        out.push_str(line);
        out.push('\n');
        if !line.starts_with('*') {
            continue;
        }
        let mut table = Vec::new();
        while let Some(line) = lines.next_if(|l| !l.starts_with('*') && l.trim() != "COMMIT") {
            table.push(line);
        }
        for chain in undeclared(&table) {
            let policy = if is_built_in(chain) { "ACCEPT" } else { "-" };
            out.push_str(&format!(":{chain} {policy} [0:0]\n"));
        }
        for line in table {
            out.push_str(line);
            out.push('\n');
        }
        if lines.peek().is_none_or(|l| l.starts_with('*')) {
            out.push_str("COMMIT\n");
        }
    }
    out
}

/// Return the chains that have rules and no declaration.
fn undeclared<'t>(table: &[&'t str]) -> BTreeSet<&'t str> {
    let words = |line: &'t str| line.split_whitespace().skip_while(|w| w.starts_with('['));
    let mut used: BTreeSet<&str> = table
        .iter()
        .filter(|line| words(line).next() == Some("-A"))
        .filter_map(|line| words(line).nth(1))
        .collect();
    for line in table {
        if let Some(declared) = line.strip_prefix(':') {
            used.remove(declared.split_whitespace().next().unwrap_or_default());
        }
    }
    used
}

fn is_built_in(chain: &str) -> bool {
    matches!(
        chain,
        "PREROUTING" | "INPUT" | "FORWARD" | "OUTPUT" | "POSTROUTING"
    )
}
