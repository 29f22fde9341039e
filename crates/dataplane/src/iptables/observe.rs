//! The part of the kernel's state that belongs to this mode.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hasher as _};

use model::IpFamily;
use netfilter::iptables::{Chain, Command, Line, ParseError, Rule, Table, Target};

use super::lower::rule_family;
use super::names;

/// The chains of this mode and the rules that jump to them, from `iptables-save` of one family.
///
/// Small: a Service port's own chain is a digest. Other programs' rules in the same tables are
/// ignored, valid or not.
#[derive(Clone, Debug)]
pub struct Observation {
    pub(super) tables: BTreeMap<Table, Seen>,
}

/// One table.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Our chains with the digest of their rules; `None` if a rule cannot be parsed.
    pub(super) chains: HashMap<Chain, Option<Digest>>,
    /// The rules of the shared chains, as text.
    pub(super) dispatch: HashMap<Chain, Vec<String>>,
    /// The jumps from built-in chains to our fixed chains.
    pub(super) jumps: Vec<(Chain, Rule)>,
    /// Our chains to which other programs' rules jump: they cannot be deleted.
    pub(super) referenced: BTreeSet<Chain>,
    /// Whether kubelet has chains here.
    pub(super) kubelet: bool,
}

/// Identifies an ordered list of rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Digest {
    rules: usize,
    hash: u64,
}

impl Digest {
    /// Add a rule, as the words after `-A CHAIN`.
    pub(super) fn add(&mut self, text: &str) {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.hash);
        hasher.write(text.as_bytes());
        self.hash = hasher.finish();
        self.rules += 1;
    }

    /// The digest of these rules; `text` is a scratch buffer.
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
    /// The observation of a fresh node.
    pub fn nothing() -> Self {
        Self {
            tables: BTreeMap::new(),
        }
    }

    /// Parse the output of `iptables-save` (or `ip6tables-save`).
    ///
    /// # Errors
    /// The text is truncated: chains after the cut must not be taken for absent.
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
                Some(b'*') => return Err(unexpected("the previous table has no COMMIT")),
                _ if line.trim_end() == "COMMIT" => {
                    open.take()
                        .ok_or_else(|| unexpected("COMMIT without a table"))?;
                }
                Some(_) => match open {
                    Some(Some(table)) => {
                        let seen = observation.tables.entry(table).or_default();
                        seen.line(table, family, line, number, &mut text);
                    }
                    // A table that this program does not know.
                    Some(None) => {}
                    None => return Err(unexpected("no *table line precedes this")),
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

/// The target chain of a rule, without parsing the whole line.
fn jump_target(line: &str) -> Option<Chain> {
    let at = line.find(" -j ").or_else(|| line.find(" -g "))?;
    let name = line.get(at + 4..)?.split_ascii_whitespace().next()?;
    Chain::new(name).ok()
}

/// The chain of a line, without parsing the whole line.
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
        let jumps_to_ours = || jump_target(line).is_some_and(|to| names::is_ours(table, to));
        let relevant = ours || (table.is_built_in(chain) && jumps_to_ours());
        if !relevant {
            self.reference(table, line);
            return;
        }
        let parsed = Line::parse(rule_family(family), line, number);
        let Ok(Line::Command(Command::Append { rule, .. })) = parsed else {
            // Not written by this mode: the chain is rewritten.
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

    /// Record the target of another program's rule.
    fn reference(&mut self, table: Table, line: &str) {
        let to = jump_target(line).filter(|to| names::is_ours(table, *to));
        self.referenced.extend(to);
    }
}
