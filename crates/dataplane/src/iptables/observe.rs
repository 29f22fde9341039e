//! The part of the kernel's state that belongs to this mode.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hasher as _};

use model::IpFamily;
use netfilter::iptables::{Chain, Command, Line, ParseError, Rule, Table, Target};
use netfilter::iptables_nft::{self, decode_rule, table_of};
use netfilter::nft::{self, Body, Decoded, Expr, Verdict};

use super::handles::Handles;
use super::lower::rule_family;
use super::names;

/// The chains of this mode and the rules that jump to them, from `iptables-save` of one family or
/// from nf_tables.
///
/// Small: a Service port's own chain is a digest. Other programs' rules in the same tables are
/// ignored, valid or not.
#[derive(Debug)]
pub struct Observation {
    pub(super) tables: BTreeMap<Table, Seen>,
    /// The handles of the rules in shared chains, if read from nf_tables.
    pub(super) handles: Handles,
}

/// One table.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Our chains with the digest of their rules; `None` if a rule cannot be parsed.
    pub(super) chains: HashMap<Chain, Option<Digest>>,
    /// The rules of the shared chains, with their text.
    pub(super) dispatch: HashMap<Chain, Vec<(String, Rule)>>,
    /// The existing built-in chains.
    pub(super) built_in: BTreeSet<Chain>,
    /// The jumps from built-in chains to our fixed chains.
    pub(super) jumps: Vec<SeenJump>,
    /// Our chains to which other programs' rules jump: they cannot be deleted.
    pub(super) referenced: BTreeSet<Chain>,
    /// Whether kubelet has chains here.
    pub(super) kubelet: bool,
}

/// A jump from a built-in chain to one of ours.
#[derive(Debug)]
pub(super) struct SeenJump {
    pub(super) from: Chain,
    pub(super) rule: Rule,
    /// The handle, if read from nf_tables.
    pub(super) handle: Option<u64>,
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
            handles: Handles::default(),
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

/// Builds an [`Observation`] from the chains and rules of nf_tables.
#[derive(Debug)]
pub struct Observer {
    family: netfilter::iptables::Family,
    observation: Observation,
    /// A scratch buffer.
    text: String,
}

impl Observer {
    /// Start without tables.
    pub fn new(family: IpFamily) -> Self {
        Self {
            family: rule_family(family),
            observation: Observation::nothing(),
            text: String::new(),
        }
    }

    /// Add an object of a dump. Add chains before rules, and the rules of a chain in order. Objects of
    /// other families and tables are ignored.
    pub fn add(&mut self, decoded: Decoded) {
        if decoded.family != Some(iptables_nft::nft_family(self.family)) {
            return;
        }
        match decoded.body {
            Body::Table(table) => {
                if let Some(table) = table_of(&table.name) {
                    self.observation.tables.entry(table).or_default();
                }
            }
            Body::Chain { table, chain, .. } => {
                if let Some(table) = table_of(&table)
                    && let Ok(chain) = Chain::new(&chain.name)
                {
                    let seen = self.observation.tables.entry(table).or_default();
                    seen.add_chain(table, chain);
                }
            }
            Body::Rule {
                table,
                handle,
                rule,
            } => {
                if let Some(table) = table_of(&table) {
                    self.rule(table, handle, rule);
                }
            }
            Body::TableDeleted(_)
            | Body::Set { .. }
            | Body::Elements { .. }
            | Body::Generation(_)
            | Body::Trace(_)
            | Body::Deleted { .. }
            | Body::Other(_) => {}
        }
    }

    fn rule<E>(&mut self, table: Table, handle: u64, rule: Result<nft::Rule, (String, E)>) {
        let seen = self.observation.tables.entry(table).or_default();
        let (chain, exprs) = match rule {
            Ok(rule) => (rule.chain, rule.exprs),
            Err((chain, _)) => (chain, Vec::new()),
        };
        // iptables cannot list a chain of this name, and it is not ours.
        let chain = Chain::new(&chain).ok();
        let ours = chain.filter(|chain| names::is_ours(table, *chain));
        let to = jump_of(&exprs).filter(|to| names::is_ours(table, *to));
        if let Some(chain) = ours {
            match decode_rule(&exprs, self.family) {
                Ok(rule) if !exprs.is_empty() => {
                    if names::is_dispatch(table, chain) {
                        let handles = &mut self.observation.handles;
                        handles.observe(table, chain, &rule, handle);
                    }
                    seen.add_rule(chain, rule, &mut self.text);
                }
                _ => {
                    seen.referenced.extend(to);
                    seen.chains.insert(chain, None);
                }
            }
            return;
        }
        let Some(to) = to else { return };
        if let Some(from) = chain.filter(|chain| table.is_built_in(*chain))
            && names::fixed(table).contains(&to)
            && let Ok(rule) = decode_rule(&exprs, self.family)
        {
            let handle = Some(handle);
            seen.jumps.push(SeenJump { from, rule, handle });
        } else {
            seen.referenced.insert(to);
        }
    }

    /// Return the observation.
    pub fn finish(self) -> Observation {
        self.observation
    }
}

/// The chain to which expressions jump.
fn jump_of(exprs: &[Expr]) -> Option<Chain> {
    match exprs.last()? {
        Expr::Verdict(Verdict::Jump(name) | Verdict::Goto(name)) => Chain::new(name).ok(),
        _ => None,
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
        if line.starts_with(':') {
            self.add_chain(table, chain);
            return;
        }
        let ours = names::is_ours(table, chain);
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
        self.add_rule(chain, rule, text);
    }

    fn add_chain(&mut self, table: Table, chain: Chain) {
        if names::is_ours(table, chain) {
            let digest = self.chains.entry(chain).or_default();
            *digest = Some(Digest::default());
        }
        if names::is_dispatch(table, chain) {
            self.dispatch.entry(chain).or_default();
        }
        if table.is_built_in(chain) {
            self.built_in.insert(chain);
        }
        self.kubelet |= chain == names::KUBELET_CANARY;
    }

    /// Add a rule of one of our chains. `text` is a scratch buffer.
    fn add_rule(&mut self, chain: Chain, rule: Rule, text: &mut String) {
        text.clear();
        rule.write(text);
        if let Some(Some(digest)) = self.chains.get_mut(&chain) {
            digest.add(text);
        }
        if let Some(rules) = self.dispatch.get_mut(&chain) {
            rules.push((text.clone(), rule));
        }
    }

    /// A rule of a built-in chain.
    fn jump(&mut self, table: Table, chain: Chain, rule: Rule, line: &str) {
        let to = rule.target.as_ref().and_then(Target::chain);
        if to.is_some_and(|to| names::fixed(table).contains(&to)) {
            self.jumps.push(SeenJump {
                from: chain,
                rule,
                handle: None,
            });
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
