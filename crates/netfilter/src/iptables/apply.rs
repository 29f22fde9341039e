//! The effect of `iptables-restore` on tables, for `render` and tests.

use std::collections::HashMap;
use std::collections::btree_map::Entry;

use super::tables::push_exact;
use super::{Chain, ChainState, Command, Policy, Restore, Rule, Table, TableSet, TableState};

/// Whether tables are flushed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// A section replaces its table, as without `--noflush`.
    Tables,
    /// A section changes its table, as with `--noflush`.
    Nothing,
}

/// Why a restore was refused. Sections before the invalid one have taken effect, as with the real
/// program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, table {table}: {reason}")]
pub struct ApplyError {
    /// The line of the command; 0 if it was not parsed from text.
    pub line: u32,
    /// The table.
    pub table: Table,
    /// The cause.
    pub reason: Refusal,
}

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Refusal {
    #[error("chain {0} does not exist")]
    NoChain(Chain),
    #[error("chain {0} exists already")]
    ChainExists(Chain),
    #[error("chain {chain} jumps to {target}, which does not exist")]
    NoTarget { chain: Chain, target: Chain },
    #[error("a rule cannot jump to the built-in chain {0}")]
    JumpToBuiltIn(Chain),
    #[error("chain {0} has no rule like this")]
    NoRule(Chain),
    #[error("chain {0} has no rule at this position")]
    NoPosition(Chain),
    #[error("chain {0} has rules and cannot be deleted")]
    NotEmpty(Chain),
    #[error("chain {0} is referenced and cannot be deleted")]
    Referenced(Chain),
    #[error("chain {0} is built in and cannot be deleted")]
    BuiltIn(Chain),
    #[error("chain {0} is not built in and cannot have a policy")]
    Policy(Chain),
    #[error("a comment is longer than 255 bytes")]
    LongComment,
    #[error("cannot parse the line: {0}")]
    Unparsable(String),
    #[error("{0}")]
    Unsupported(String),
}

impl TableSet {
    /// Apply the input like `iptables-restore`. Each section takes effect as a whole or not at all;
    /// the first refused section ends the restore.
    ///
    /// # Errors
    /// A command that the kernel would refuse: a jump to a chain that does not exist, the deletion
    /// of a referenced chain or of a rule that does not exist, and so on.
    pub fn apply(&mut self, restore: Restore, flush: Flush) -> Result<(), ApplyError> {
        for section in restore.tables {
            let table = section.table;
            let before = self.tables.remove(&table);
            let base = match (&before, flush) {
                (Some(state), Flush::Nothing) => state.clone(),
                _ => TableState::default(),
            };
            let mut work = Section::new(table, base);
            let mut commands = section.commands.into_iter();
            match commands.try_for_each(|(line, command)| work.run(line, command)) {
                Ok(()) => self.tables.extend([work.finish()]),
                Err(error) => {
                    self.tables.extend(before.map(|state| (table, state)));
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

/// The work on one table between `*table` and `COMMIT`.
pub(super) struct Section {
    table: Table,
    state: TableState,
    /// The number of jumps to each chain; counted on first use.
    references: Option<HashMap<Chain, usize>>,
}

type Step = Result<(), Refusal>;

impl Section {
    /// Begin with the state before the section.
    pub(super) fn new(table: Table, mut state: TableState) -> Self {
        for chain in table.built_in() {
            let chain = state.chains.entry(*chain).or_default();
            chain.policy.get_or_insert(Policy::Accept);
        }
        Self {
            table,
            state,
            references: None,
        }
    }

    /// Apply the command of a line.
    pub(super) fn run(&mut self, line: u32, command: Command) -> Result<(), ApplyError> {
        self.step(command).map_err(|reason| ApplyError {
            line,
            table: self.table,
            reason,
        })
    }

    /// Return the table after the section.
    pub(super) fn finish(self) -> (Table, TableState) {
        (self.table, self.state)
    }

    fn step(&mut self, command: Command) -> Step {
        match command {
            Command::Declare {
                chain,
                policy,
                counters,
            } => {
                if self.table.is_built_in(chain) {
                    let state = self.chain(chain)?;
                    state.policy = policy.or(state.policy);
                    state.counters = counters.unwrap_or(state.counters);
                    return Ok(());
                }
                if policy.is_some() {
                    return Err(Refusal::Policy(chain));
                }
                self.state.chains.entry(chain).or_default();
                self.flush(chain)
            }
            Command::Append { chain, rule } => {
                self.check(chain, &rule)?;
                push_exact(&mut self.chain(chain)?.rules, rule);
                Ok(())
            }
            Command::Insert {
                chain,
                position,
                rule,
            } => {
                let at = index(chain, position)?;
                if at > self.chain(chain)?.rules.len() {
                    return Err(Refusal::NoPosition(chain));
                }
                self.check(chain, &rule)?;
                self.chain(chain)?.rules.insert(at, rule);
                Ok(())
            }
            Command::Replace {
                chain,
                position,
                rule,
            } => {
                self.check(chain, &rule)?;
                let at = index(chain, position)?;
                let slot = self.chain(chain)?.rules.get_mut(at);
                let slot = slot.ok_or(Refusal::NoPosition(chain))?;
                let before = std::mem::replace(slot, rule);
                self.forget(&before);
                Ok(())
            }
            Command::Delete { chain, rule } => {
                let rules = &mut self.chain(chain)?.rules;
                let at = rules.iter().position(|r| *r == rule);
                self.remove_at(chain, at.ok_or(Refusal::NoRule(chain))?)
            }
            Command::DeleteAt { chain, position } => self.remove_at(chain, index(chain, position)?),
            Command::New { chain } => match self.state.chains.entry(chain) {
                Entry::Occupied(_) => Err(Refusal::ChainExists(chain)),
                Entry::Vacant(entry) => {
                    entry.insert(ChainState::default());
                    Ok(())
                }
            },
            Command::Flush { chain } => self.each(chain, Self::flush),
            Command::DeleteChain { chain } => self.each(chain, Self::delete_chain),
            Command::SetPolicy { chain, policy } => {
                if !self.table.is_built_in(chain) {
                    return Err(Refusal::Policy(chain));
                }
                self.chain(chain)?.policy = Some(policy);
                Ok(())
            }
        }
    }

    /// Apply an action to one chain, or to all that are not built in.
    fn each(&mut self, chain: Option<Chain>, act: fn(&mut Self, Chain) -> Step) -> Step {
        if let Some(chain) = chain {
            return act(self, chain);
        }
        let all: Vec<Chain> = self.state.chains.keys().copied().collect();
        for chain in all {
            match act(self, chain) {
                Err(Refusal::BuiltIn(_)) => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn chain(&mut self, chain: Chain) -> Result<&mut ChainState, Refusal> {
        let found = self.state.chains.get_mut(&chain);
        found.ok_or(Refusal::NoChain(chain))
    }

    /// Validate a rule that will be added to a chain, and count its jump.
    fn check(&mut self, chain: Chain, rule: &Rule) -> Step {
        // XT_MAX_COMMENT_LEN is 256 with the terminating NUL.
        if rule.comments().any(|text| text.len() > 255) {
            return Err(Refusal::LongComment);
        }
        let Some(target) = rule.target.as_ref().and_then(super::Target::chain) else {
            return Ok(());
        };
        if self.table.is_built_in(target) {
            return Err(Refusal::JumpToBuiltIn(target));
        }
        if !self.state.chains.contains_key(&target) {
            return Err(Refusal::NoTarget { chain, target });
        }
        if let Some(references) = &mut self.references {
            *references.entry(target).or_default() += 1;
        }
        Ok(())
    }

    fn forget(&mut self, rule: &Rule) {
        let target = rule.target.as_ref().and_then(super::Target::chain);
        if let (Some(references), Some(target)) = (&mut self.references, target)
            && let Some(count) = references.get_mut(&target)
        {
            *count = count.saturating_sub(1);
        }
    }

    fn remove_at(&mut self, chain: Chain, at: usize) -> Step {
        let rules = &mut self.chain(chain)?.rules;
        if at >= rules.len() {
            return Err(Refusal::NoPosition(chain));
        }
        let rule = rules.remove(at);
        self.forget(&rule);
        Ok(())
    }

    fn flush(&mut self, chain: Chain) -> Step {
        let rules = std::mem::take(&mut self.chain(chain)?.rules);
        for rule in &rules {
            self.forget(rule);
        }
        Ok(())
    }

    fn delete_chain(&mut self, chain: Chain) -> Step {
        if self.table.is_built_in(chain) {
            return Err(Refusal::BuiltIn(chain));
        }
        if !self.chain(chain)?.rules.is_empty() {
            return Err(Refusal::NotEmpty(chain));
        }
        let references = self
            .references
            .get_or_insert_with(|| count_references(&self.state));
        if references.get(&chain).is_some_and(|n| *n > 0) {
            return Err(Refusal::Referenced(chain));
        }
        self.state.chains.remove(&chain);
        Ok(())
    }
}

fn index(chain: Chain, position: u32) -> Result<usize, Refusal> {
    let at = position.checked_sub(1).ok_or(Refusal::NoPosition(chain))?;
    Ok(at as usize)
}

fn count_references(state: &TableState) -> HashMap<Chain, usize> {
    let mut references = HashMap::new();
    let rules = state.chains.values().flat_map(|chain| &chain.rules);
    for target in rules.filter_map(|rule| rule.target.as_ref()?.chain()) {
        *references.entry(target).or_default() += 1;
    }
    references
}
