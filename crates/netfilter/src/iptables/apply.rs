//! The effect of `iptables-restore` on tables: on typed rules, for `render` and tests, and on any other
//! [`Content`], such as the kernel's legacy tables.

use std::collections::HashMap;

use super::tables::push_exact;
use super::{Chain, Command, Counters, Policy, Restore, Rule, Table, TableSet, TableState, Target};

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
            let state = match (self.tables.get(&table), flush) {
                (Some(state), Flush::Nothing) => state.clone(),
                _ => TableState::default(),
            };
            let mut editor = Section::from_state(table, state);
            let mut commands = section.commands.into_iter();
            commands.try_for_each(|(line, command)| editor.run(line, command))?;
            self.tables.insert(table, editor.content);
        }
        Ok(())
    }
}

/// The chains of a table while commands change them.
pub(crate) trait Content {
    /// A rule as the table contains it.
    type Rule;

    /// Return the names of all chains.
    fn names(&self) -> Vec<Chain>;

    /// Whether the chain exists.
    fn contains(&self, chain: Chain) -> bool;

    /// Add an empty chain that is not built in.
    fn add(&mut self, chain: Chain);

    /// Remove an empty chain without references.
    fn remove(&mut self, chain: Chain);

    /// Change a built-in chain.
    fn set_policy(&mut self, chain: Chain, policy: Option<Policy>, counters: Option<Counters>);

    /// Return the rules of a chain, if it exists.
    fn rules(&mut self, chain: Chain) -> Option<&mut Vec<Self::Rule>>;

    /// Return the rule in the form of the table; its chain exists.
    ///
    /// # Errors
    /// The table cannot contain it.
    fn encode(&self, rule: Rule) -> Result<Self::Rule, Refusal>;

    /// Return the position of the first rule of a chain that is equal.
    fn position(&self, chain: Chain, rule: &Rule) -> Option<usize>;

    /// Return the chain to which a rule jumps.
    fn target(&self, rule: &Self::Rule) -> Option<Chain>;

    /// Return the number of jumps to each chain.
    fn references(&self) -> HashMap<Chain, usize>;
}

/// Applies commands to a table.
pub(crate) struct Editor<C> {
    table: Table,
    pub(crate) content: C,
    /// The number of jumps to each chain; counted on first use.
    references: Option<HashMap<Chain, usize>>,
}

/// Applies commands to typed rules.
pub(super) type Section = Editor<TableState>;

type Step = Result<(), Refusal>;

impl Section {
    /// Begin with the state before the section.
    pub(super) fn from_state(table: Table, mut state: TableState) -> Self {
        for chain in table.built_in() {
            let chain = state.chains.entry(*chain).or_default();
            chain.policy.get_or_insert(Policy::Accept);
        }
        Editor::new(table, state)
    }
}

impl<C: Content> Editor<C> {
    pub(crate) fn new(table: Table, content: C) -> Self {
        Self {
            table,
            content,
            references: None,
        }
    }

    /// Apply the command of a line. After an error the content is incomplete.
    pub(crate) fn run(&mut self, line: u32, command: Command) -> Result<(), ApplyError> {
        self.step(command).map_err(|reason| ApplyError {
            line,
            table: self.table,
            reason,
        })
    }

    /// Return the table and its content.
    pub(crate) fn finish(self) -> (Table, C) {
        (self.table, self.content)
    }

    fn step(&mut self, command: Command) -> Step {
        match command {
            Command::Declare {
                chain,
                policy,
                counters,
            } => self.declare(chain, policy, counters),
            Command::Append { chain, rule } => {
                let new = self.encode(chain, rule)?;
                let end = self.rules(chain)?.len();
                self.insert(chain, end, new)
            }
            Command::Insert {
                chain,
                position,
                rule,
            } => {
                let at = index(chain, position)?;
                if at > self.rules(chain)?.len() {
                    return Err(Refusal::NoPosition(chain));
                }
                let new = self.encode(chain, rule)?;
                self.insert(chain, at, new)
            }
            Command::Replace {
                chain,
                position,
                rule,
            } => {
                let new = self.encode(chain, rule)?;
                let at = index(chain, position)?;
                self.remove(chain, at)?;
                self.insert(chain, at, new)
            }
            Command::Delete { chain, rule } => {
                self.rules(chain)?;
                let at = self.content.position(chain, &rule);
                self.remove(chain, at.ok_or(Refusal::NoRule(chain))?)
            }
            Command::DeleteAt { chain, position } => self.remove(chain, index(chain, position)?),
            Command::New { chain } => match self.content.contains(chain) {
                true => Err(Refusal::ChainExists(chain)),
                false => self.declare(chain, None, None),
            },
            Command::Flush { chain } => self.each(chain, Self::flush),
            Command::DeleteChain { chain } => self.each(chain, Self::delete_chain),
            Command::SetPolicy { chain, policy } => {
                if !self.table.is_built_in(chain) {
                    return Err(Refusal::Policy(chain));
                }
                self.declare(chain, Some(policy), None)
            }
        }
    }

    /// Apply an action to one chain, or to all that are not built in.
    fn each(&mut self, chain: Option<Chain>, act: fn(&mut Self, Chain) -> Step) -> Step {
        if let Some(chain) = chain {
            return act(self, chain);
        }
        for chain in self.content.names() {
            match act(self, chain) {
                Err(Refusal::BuiltIn(_)) => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn declare(
        &mut self,
        chain: Chain,
        policy: Option<Policy>,
        counters: Option<Counters>,
    ) -> Step {
        if self.table.is_built_in(chain) {
            self.rules(chain)?;
            self.content.set_policy(chain, policy, counters);
            return Ok(());
        }
        if policy.is_some() {
            return Err(Refusal::Policy(chain));
        }
        if self.content.contains(chain) {
            return self.flush(chain);
        }
        self.content.add(chain);
        Ok(())
    }

    fn rules(&mut self, chain: Chain) -> Result<&mut Vec<C::Rule>, Refusal> {
        self.content.rules(chain).ok_or(Refusal::NoChain(chain))
    }

    /// Validate a rule that will be added to a chain, and encode it.
    fn encode(&self, chain: Chain, rule: Rule) -> Result<C::Rule, Refusal> {
        // XT_MAX_COMMENT_LEN is 256 with the terminating NUL.
        if rule.comments().any(|text| text.len() > 255) {
            return Err(Refusal::LongComment);
        }
        if let Some(target) = rule.target.as_ref().and_then(Target::chain) {
            if self.table.is_built_in(target) {
                return Err(Refusal::JumpToBuiltIn(target));
            }
            if !self.content.contains(target) {
                return Err(Refusal::NoTarget { chain, target });
            }
        }
        self.content.encode(rule)
    }

    fn insert(&mut self, chain: Chain, at: usize, rule: C::Rule) -> Step {
        if let (Some(references), Some(target)) = (&mut self.references, self.content.target(&rule))
        {
            *references.entry(target).or_default() += 1;
        }
        let rules = self.rules(chain)?;
        if at == rules.len() {
            push_exact(rules, rule);
        } else {
            rules.insert(at, rule);
        }
        Ok(())
    }

    fn remove(&mut self, chain: Chain, at: usize) -> Step {
        let rules = self.rules(chain)?;
        if at >= rules.len() {
            return Err(Refusal::NoPosition(chain));
        }
        let rule = rules.remove(at);
        self.forget(&rule);
        Ok(())
    }

    fn forget(&mut self, rule: &C::Rule) {
        if let (Some(references), Some(target)) = (&mut self.references, self.content.target(rule))
            && let Some(count) = references.get_mut(&target)
        {
            *count = count.saturating_sub(1);
        }
    }

    fn flush(&mut self, chain: Chain) -> Step {
        let rules = std::mem::take(self.rules(chain)?);
        rules.iter().for_each(|rule| self.forget(rule));
        Ok(())
    }

    fn delete_chain(&mut self, chain: Chain) -> Step {
        if self.table.is_built_in(chain) {
            return Err(Refusal::BuiltIn(chain));
        }
        if !self.rules(chain)?.is_empty() {
            return Err(Refusal::NotEmpty(chain));
        }
        let content = &self.content;
        let references = self.references.get_or_insert_with(|| content.references());
        if references.get(&chain).is_some_and(|count| *count > 0) {
            return Err(Refusal::Referenced(chain));
        }
        self.content.remove(chain);
        Ok(())
    }
}

fn index(chain: Chain, position: u32) -> Result<usize, Refusal> {
    let at = position.checked_sub(1).ok_or(Refusal::NoPosition(chain))?;
    Ok(at as usize)
}

/// Count the jumps to each chain.
pub(crate) fn count(targets: impl Iterator<Item = Chain>) -> HashMap<Chain, usize> {
    let mut references = HashMap::new();
    for target in targets {
        *references.entry(target).or_default() += 1;
    }
    references
}

impl Content for TableState {
    type Rule = Rule;

    fn names(&self) -> Vec<Chain> {
        self.chains.keys().copied().collect()
    }

    fn contains(&self, chain: Chain) -> bool {
        self.chains.contains_key(&chain)
    }

    fn add(&mut self, chain: Chain) {
        self.chains.entry(chain).or_default();
    }

    fn remove(&mut self, chain: Chain) {
        self.chains.remove(&chain);
    }

    fn set_policy(&mut self, chain: Chain, policy: Option<Policy>, counters: Option<Counters>) {
        if let Some(state) = self.chains.get_mut(&chain) {
            state.policy = policy.or(state.policy);
            state.counters = counters.unwrap_or(state.counters);
        }
    }

    fn rules(&mut self, chain: Chain) -> Option<&mut Vec<Rule>> {
        Some(&mut self.chains.get_mut(&chain)?.rules)
    }

    fn encode(&self, rule: Rule) -> Result<Rule, Refusal> {
        Ok(rule)
    }

    fn position(&self, chain: Chain, rule: &Rule) -> Option<usize> {
        let mut rules = self.chains.get(&chain)?.rules.iter();
        rules.position(|known| known == rule)
    }

    fn target(&self, rule: &Rule) -> Option<Chain> {
        rule.target.as_ref()?.chain()
    }

    fn references(&self) -> HashMap<Chain, usize> {
        let rules = self.chains.values().flat_map(|chain| &chain.rules);
        count(rules.filter_map(|rule| self.target(rule)))
    }
}
