//! The input of `iptables-restore --noflush` as one nf_tables transaction.

use super::{SetIndex, State, Unsupported, base_chain, encode_rule_with, nft_family};
use crate::iptables::{Chain, Command, Policy, Restore, RestoreTable, Rule, Table};
use crate::nft::{self, Encoder, Message, Op, RulePlace};

/// Why an input cannot become a transaction on a state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, table {table}: {reason}")]
pub struct RestoreError {
    /// The line; 0 if the input was not parsed from text.
    pub line: u32,
    /// The table.
    pub table: Table,
    /// The cause.
    pub reason: RestoreFault,
}

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum RestoreFault {
    #[error("chain {0} does not exist")]
    NoChain(Chain),
    #[error("chain {0} exists already")]
    ChainExists(Chain),
    #[error("chain {0} has no rule like this")]
    NoRule(Chain),
    #[error("chain {0} has no rule at this position")]
    NoPosition(Chain),
    #[error("the rule at this position of chain {0} is added by the same input")]
    NewRule(Chain),
    #[error("chain {0} is built in")]
    BuiltIn(Chain),
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
}

/// Return the messages of a transaction with the effect of `iptables-nft-restore --noflush` on a
/// state. All tables take effect together. The state must contain the tables of the input.
///
/// # Errors
/// See [`RestoreFault`]. The kernel finds the other errors, such as a jump to a missing chain.
pub fn restore(state: &State, input: Restore) -> Result<Vec<Message>, RestoreError> {
    let mut messages = Vec::new();
    let mut done: Vec<Work<'_>> = Vec::new();
    for section in input.tables {
        let RestoreTable { table, commands } = section;
        let known = done.iter().position(|work| work.table == table);
        let at = known.unwrap_or_else(|| {
            done.push(Work::new(state, table, &mut messages));
            done.len() - 1
        });
        let Some(work) = done.get_mut(at) else {
            continue;
        };
        for (line, command) in commands {
            let fail = |reason| RestoreError {
                line,
                table,
                reason,
            };
            work.command(command, &mut messages).map_err(fail)?;
        }
    }
    Ok(messages)
}

/// A rule of a chain during the transaction.
struct Slot {
    /// `None` for a rule that the transaction adds.
    handle: Option<u64>,
    /// `None` if it cannot be decoded.
    rule: Option<Rule>,
}

struct Work<'a> {
    table: Table,
    encoder: Encoder<'a>,
    family: crate::iptables::Family,
    sets: &'a SetIndex,
    chains: std::collections::BTreeMap<Chain, Vec<Slot>>,
}

type Step = Result<(), RestoreFault>;

impl<'a> Work<'a> {
    fn new(state: &'a State, table: Table, out: &mut Vec<Message>) -> Self {
        let encoder = Encoder {
            family: nft_family(state.family),
            table: table.name(),
        };
        let found = state.tables.get(&table);
        if found.is_none() {
            encoder.op(&Op::AddTable { comment: None }, out);
        }
        let chains = found.into_iter().flatten().map(|(name, chain)| {
            let rules = chain.rules.iter().map(|read| Slot {
                handle: Some(read.handle),
                rule: read.rule.clone().ok(),
            });
            (*name, rules.collect())
        });
        Work {
            table,
            encoder,
            family: state.family,
            sets: &state.sets,
            chains: chains.collect(),
        }
    }

    fn command(&mut self, command: Command, out: &mut Vec<Message>) -> Step {
        match command {
            Command::Declare { chain, policy, .. } if self.table.is_built_in(chain) => {
                match (self.chains.contains_key(&chain), policy) {
                    (true, None) => {}
                    // Adding an existing base chain sets its policy.
                    (_, policy) => self.add_chain(chain, policy.unwrap_or(Policy::Accept), out),
                }
            }
            Command::Declare { chain, .. } => match self.chains.contains_key(&chain) {
                true => self.flush(chain, out)?,
                false => self.add_chain(chain, Policy::Accept, out),
            },
            Command::New { chain } if self.chains.contains_key(&chain) => {
                return Err(RestoreFault::ChainExists(chain));
            }
            Command::New { chain } => self.add_chain(chain, Policy::Accept, out),
            Command::SetPolicy { chain, policy } => self.add_chain(chain, policy, out),
            Command::Append { chain, rule } => {
                let end = self.rules(chain, out)?.len();
                self.place(chain, rule, RulePlace::Last, end, out)?;
            }
            Command::Insert {
                chain,
                position,
                rule,
            } => {
                let at = index(chain, position)?;
                let rules = self.rules(chain, out)?;
                let place = match (at, rules.get(at)) {
                    (0, _) => RulePlace::First,
                    (_, None) if at == rules.len() => RulePlace::Last,
                    (_, None) => return Err(RestoreFault::NoPosition(chain)),
                    (_, Some(slot)) => RulePlace::Before(handle(chain, slot)?),
                };
                self.place(chain, rule, place, at, out)?;
            }
            Command::Replace {
                chain,
                position,
                rule,
            } => {
                let at = index(chain, position)?;
                let slot = self.rules(chain, out)?.get(at);
                let slot = slot.ok_or(RestoreFault::NoPosition(chain))?;
                let place = RulePlace::Replacing(handle(chain, slot)?);
                self.place(chain, rule, place, at, out)?;
                self.rules(chain, out)?.remove(at + 1);
            }
            Command::Delete { chain, rule } => {
                let mut rules = self.rules(chain, out)?.iter();
                let at = rules.position(|slot| slot.rule.as_ref() == Some(&rule));
                self.delete(chain, at.ok_or(RestoreFault::NoRule(chain))?, out)?;
            }
            Command::DeleteAt { chain, position } => {
                self.delete(chain, index(chain, position)?, out)?;
            }
            Command::Flush { chain: Some(chain) } => self.flush(chain, out)?,
            Command::Flush { chain: None } => {
                let all: Vec<Chain> = self.chains.keys().copied().collect();
                all.into_iter()
                    .try_for_each(|chain| self.flush(chain, out))?;
            }
            Command::DeleteChain { chain: Some(chain) } => self.delete_chain(chain, out)?,
            Command::DeleteChain { chain: None } => {
                let own = self.chains.keys().copied();
                let own: Vec<Chain> = own.filter(|c| !self.table.is_built_in(*c)).collect();
                own.into_iter()
                    .try_for_each(|chain| self.delete_chain(chain, out))?;
            }
        }
        Ok(())
    }

    fn add_chain(&mut self, chain: Chain, policy: Policy, out: &mut Vec<Message>) {
        let added = nft::Chain {
            name: chain.as_str().to_owned(),
            base: base_chain(self.table, chain, policy),
            comment: None,
        };
        self.encoder.op(&Op::AddChain(added), out);
        self.chains.entry(chain).or_default();
    }

    /// Return the rules of a chain. A missing built-in chain is created.
    fn rules(
        &mut self,
        chain: Chain,
        out: &mut Vec<Message>,
    ) -> Result<&mut Vec<Slot>, RestoreFault> {
        if !self.chains.contains_key(&chain) && self.table.is_built_in(chain) {
            self.add_chain(chain, Policy::Accept, out);
        }
        let rules = self.chains.get_mut(&chain);
        rules.ok_or(RestoreFault::NoChain(chain))
    }

    fn place(
        &mut self,
        chain: Chain,
        rule: Rule,
        place: RulePlace,
        at: usize,
        out: &mut Vec<Message>,
    ) -> Step {
        let encoded = nft::Rule {
            chain: chain.as_str().to_owned(),
            exprs: encode_rule_with(&rule, self.family, self.sets)?,
            comment: None,
        };
        out.push(self.encoder.place_rule(&encoded, place));
        let slot = Slot {
            handle: None,
            rule: Some(rule),
        };
        self.rules(chain, out)?.insert(at, slot);
        Ok(())
    }

    fn delete(&mut self, chain: Chain, at: usize, out: &mut Vec<Message>) -> Step {
        let rules = self.rules(chain, out)?;
        let slot = rules.get(at).ok_or(RestoreFault::NoPosition(chain))?;
        let handle = handle(chain, slot)?;
        rules.remove(at);
        out.push(self.encoder.delete_rule(chain.as_str(), handle));
        Ok(())
    }

    fn flush(&mut self, chain: Chain, out: &mut Vec<Message>) -> Step {
        self.rules(chain, out)?.clear();
        let name = chain.as_str().to_owned();
        self.encoder.op(&Op::FlushChain(name), out);
        Ok(())
    }

    fn delete_chain(&mut self, chain: Chain, out: &mut Vec<Message>) -> Step {
        if self.table.is_built_in(chain) {
            return Err(RestoreFault::BuiltIn(chain));
        }
        self.chains
            .remove(&chain)
            .ok_or(RestoreFault::NoChain(chain))?;
        let name = chain.as_str().to_owned();
        self.encoder.op(&Op::DeleteChain(name), out);
        Ok(())
    }
}

fn index(chain: Chain, position: u32) -> Result<usize, RestoreFault> {
    let at = position.checked_sub(1);
    at.map(|at| at as usize)
        .ok_or(RestoreFault::NoPosition(chain))
}

fn handle(chain: Chain, slot: &Slot) -> Result<u64, RestoreFault> {
    slot.handle.ok_or(RestoreFault::NewRule(chain))
}
