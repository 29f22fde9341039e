//! What is in the kernel, as far as it is ours.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hasher as _};

use model::IpFamily;
use netfilter::iptables::{Chain, Command, Line, ParseError, Rule, Table, Target};

use super::lower::rule_family;
use super::names;

/// What `iptables-save` of one family showed of our chains and of the rules that lead into them.
///
/// Kept small: of a Service port's own chains only a digest. What others keep in the same tables
/// is not looked at, and cannot make the reading fail.
#[derive(Clone, Debug)]
pub struct Observation {
    pub(super) tables: BTreeMap<Table, Seen>,
}

/// One table.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Our chains, with the digest of their rules; `None` where one could not be read.
    pub(super) chains: HashMap<Chain, Option<Digest>>,
    /// The rules of the chains that all Service ports share, as text.
    pub(super) dispatch: HashMap<Chain, Vec<String>>,
    /// The rules of built-in chains that lead into our fixed chains.
    pub(super) jumps: Vec<(Chain, Rule)>,
    /// Our chains that rules of others lead into: they cannot be deleted.
    pub(super) referenced: BTreeSet<Chain>,
    /// Whether a kubelet keeps chains here.
    pub(super) kubelet: bool,
}

/// Stands for a list of rules in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Digest {
    rules: usize,
    hash: u64,
}

impl Digest {
    /// Adds a rule, given as the words behind `-A CHAIN`.
    pub(super) fn add(&mut self, text: &str) {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.hash);
        hasher.write(text.as_bytes());
        self.hash = hasher.finish();
        self.rules += 1;
    }

    /// Of these rules; `text` is room to write in.
    pub(super) fn of(rules: &[Rule], text: &mut String) -> Self {
        let mut digest = Self::default();
        for rule in rules {
            text.clear();
            rule.write(text);
            digest.add(text);
        }
        digest
    }
}

impl Observation {
    /// Nothing of ours is there: a fresh node.
    pub fn nothing() -> Self {
        Self {
            tables: BTreeMap::new(),
        }
    }

    /// Reads what `iptables-save` (or `ip6tables-save`) printed.
    ///
    /// # Errors
    /// Where the text was cut short, or has no tables at all where it should: what is not known to
    /// be there must not be taken for absent.
    pub fn read(family: IpFamily, save: &str) -> Result<Self, ParseError> {
        let mut observation = Self::nothing();
        let mut open: Option<Option<Table>> = None;
        let mut text = String::new();
        let mut last = 0;
        for (number, line) in (1u32..).zip(save.lines()) {
            last = number;
            let unexpected = |message: &str| ParseError {
                line: number,
                column: 1,
                message: message.to_owned(),
            };
            match line.as_bytes().first() {
                None | Some(b'#') => {}
                Some(b'*') if open.is_none() => open = Some(line[1..].trim_end().parse().ok()),
                Some(b'*') => return Err(unexpected("a table has no COMMIT before this")),
                _ if line.trim_end() == "COMMIT" => {
                    open.take()
                        .ok_or_else(|| unexpected("COMMIT without a table"))?;
                }
                Some(_) => match open {
                    Some(Some(table)) => {
                        let seen = observation.tables.entry(table).or_default();
                        seen.line(table, family, line, number, &mut text);
                    }
                    // A table of a later kernel.
                    Some(None) => {}
                    None => return Err(unexpected("no *table line before this")),
                },
            }
        }
        if open.is_some() {
            return Err(ParseError {
                line: last,
                column: 1,
                message: "the text ends before the COMMIT of its table".to_owned(),
            });
        }
        Ok(observation)
    }
}

/// Where a rule leads, without reading all of it.
fn jump_target(line: &str) -> Option<Chain> {
    let at = line.find(" -j ").or_else(|| line.find(" -g "))?;
    let name = line.get(at + 4..)?.split_ascii_whitespace().next()?;
    Chain::new(name).ok()
}

/// The chain that a line is about, without reading all of it.
fn line_chain(line: &str) -> Option<Chain> {
    let line = match line.strip_prefix('[') {
        Some(rest) => rest.split_once(' ')?.1,
        None => line,
    };
    let name = line
        .strip_prefix(':')
        .or_else(|| line.strip_prefix("-A "))?;
    Chain::new(name.split_ascii_whitespace().next()?).ok()
}

impl Seen {
    fn line(&mut self, table: Table, family: IpFamily, line: &str, number: u32, text: &mut String) {
        let Some(chain) = line_chain(line) else {
            self.reference(table, line);
            return;
        };
        let ours = names::is_ours(table, chain);
        if line.starts_with(':') {
            if ours {
                let digest = self.chains.entry(chain).or_default();
                *digest = Some(Digest::default());
            }
            if names::is_dispatch(table, chain) {
                self.dispatch.entry(chain).or_default();
            }
            self.kubelet |= chain == names::KUBELET_CANARY;
            return;
        }
        let leads_to_ours = || jump_target(line).is_some_and(|to| names::is_ours(table, to));
        let of_interest = ours || (table.is_built_in(chain) && leads_to_ours());
        if !of_interest {
            self.reference(table, line);
            return;
        }
        let parsed = Line::parse(rule_family(family), line, number);
        let Ok(Line::Command(Command::Append { rule, .. })) = parsed else {
            // Not a rule of ours, then: the chain is written anew.
            self.reference(table, line);
            if ours {
                self.chains.insert(chain, None);
            }
            return;
        };
        if !ours {
            self.jump(table, chain, rule, line);
            return;
        }
        text.clear();
        rule.write(text);
        if let Some(rules) = self.dispatch.get_mut(&chain) {
            rules.push(text.clone());
        }
        if let Some(Some(digest)) = self.chains.get_mut(&chain) {
            digest.add(text);
        }
    }

    /// A rule of a built-in chain.
    fn jump(&mut self, table: Table, chain: Chain, rule: Rule, line: &str) {
        let to = rule.target.as_ref().and_then(Target::chain);
        if to.is_some_and(|to| names::fixed(table).contains(&to)) {
            self.jumps.push((chain, rule));
        } else {
            self.reference(table, line);
        }
    }

    /// Takes note of a rule that is not ours.
    fn reference(&mut self, table: Table, line: &str) {
        let to = jump_target(line).filter(|to| names::is_ours(table, *to));
        self.referenced.extend(to);
    }
}
