//! The effect of `iptables-restore --noflush` on a table of the kernel. Rules that the input does not
//! change keep their bytes and counters.

use std::collections::HashMap;

use super::blob::{Jump, RawChain, RawRule, RawTable};
use super::layout::{Entry, VERDICT_ACCEPT, VERDICT_DROP, VERDICT_RETURN, put, u16_at};
use super::rules::Reader;
use super::write::{New, Origin};
use crate::iptables::{
    ApplyError, Chain, Command, Counters, Policy, Refusal, RestoreTable, Rule, Table, Target,
};
use crate::iptables_nft::SetIndex;

impl RawTable {
    /// Apply one section of a restore's input.
    ///
    /// # Errors
    /// The first command that iptables-legacy-restore would refuse, or whose rule has no known form. The
    /// table is then incomplete and must not be written.
    pub fn apply(&mut self, section: &RestoreTable, sets: &SetIndex) -> Result<(), ApplyError> {
        let chains = std::mem::take(&mut self.chains);
        let mut editor = Editor::new(self, section.table, chains, sets);
        for (line, command) in &section.commands {
            editor.step(command).map_err(|reason| ApplyError {
                line: *line,
                table: section.table,
                reason,
            })?;
        }
        self.chains = editor.finish();
        Ok(())
    }
}

type Step = Result<(), Refusal>;

/// The chains of a table while they are changed. A jump is the number of its chain here.
struct Editor<'a> {
    table: Table,
    new: New<'a>,
    /// Removed chains are `None`, so that the numbers of the others stay.
    chains: Vec<Option<RawChain>>,
    /// The names of the chains; `None` for a name that iptables does not accept.
    names: Vec<Option<Chain>>,
    places: HashMap<Chain, usize>,
    /// The number of jumps to each chain, counted on first use.
    references: Option<Vec<usize>>,
    grew: bool,
}

impl<'a> Editor<'a> {
    fn new(table: &RawTable, kind: Table, chains: Vec<RawChain>, sets: &'a SetIndex) -> Self {
        let names: Vec<_> = chains.iter().map(RawChain::chain).collect();
        let numbered = names.iter().zip(0..);
        Self {
            table: kind,
            new: New {
                entry: Entry::of(table.family),
                family: table.family,
                sets,
            },
            places: numbered
                .filter_map(|(name, at)| Some(((*name)?, at)))
                .collect(),
            names,
            chains: chains.into_iter().map(Some).collect(),
            references: None,
            grew: false,
        }
    }

    fn step(&mut self, command: &Command) -> Step {
        match command {
            Command::Declare {
                chain,
                policy,
                counters,
            } => self.declare(*chain, *policy, *counters),
            Command::Append { chain, rule } => {
                let new = self.raw(*chain, rule)?;
                let at = self.chain(*chain)?.rules.len();
                self.put(*chain, at, new)
            }
            Command::Insert {
                chain,
                position,
                rule,
            } => self.insert(*chain, index(*chain, *position)?, rule),
            Command::Replace {
                chain,
                position,
                rule,
            } => {
                let new = self.raw(*chain, rule)?;
                let at = index(*chain, *position)?;
                self.remove(*chain, at)?;
                self.put(*chain, at, new)
            }
            Command::Delete { chain, rule } => {
                let at = self.position(*chain, rule)?;
                self.remove(*chain, at)
            }
            Command::DeleteAt { chain, position } => self.remove(*chain, index(*chain, *position)?),
            Command::New { chain } => match self.places.contains_key(chain) {
                true => Err(Refusal::ChainExists(*chain)),
                false => self.declare(*chain, None, None),
            },
            Command::Flush { chain } => self.each(*chain, Self::flush),
            Command::DeleteChain { chain } => self.each(*chain, Self::delete_chain),
            Command::SetPolicy { chain, policy } => self.set_policy(*chain, *policy, None),
        }
    }

    /// Apply an action to one chain, or to all that are not built in.
    fn each(&mut self, chain: Option<Chain>, act: fn(&mut Self, Chain) -> Step) -> Step {
        if let Some(chain) = chain {
            return act(self, chain);
        }
        let all: Vec<Chain> = self.places.keys().copied().collect();
        for chain in all {
            match act(self, chain) {
                Err(Refusal::BuiltIn(_)) => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn place(&self, chain: Chain) -> Result<usize, Refusal> {
        let place = self.places.get(&chain).copied();
        place.ok_or(Refusal::NoChain(chain))
    }

    fn chain(&mut self, chain: Chain) -> Result<&mut RawChain, Refusal> {
        let place = self.place(chain)?;
        let found = self.chains.get_mut(place).and_then(Option::as_mut);
        found.ok_or(Refusal::NoChain(chain))
    }

    fn declare(
        &mut self,
        chain: Chain,
        policy: Option<Policy>,
        counters: Option<Counters>,
    ) -> Step {
        if self.table.is_built_in(chain) {
            return match policy {
                Some(policy) => self.set_policy(chain, policy, counters),
                None => self.chain(chain).map(drop),
            };
        }
        if policy.is_some() {
            return Err(Refusal::Policy(chain));
        }
        if self.places.contains_key(&chain) {
            return self.flush(chain);
        }
        self.grew = true;
        self.places.insert(chain, self.chains.len());
        self.names.push(Some(chain));
        self.references.iter_mut().for_each(|all| all.push(0));
        self.chains.push(Some(RawChain {
            name: chain.as_bytes().into(),
            hook: None,
            rules: Vec::new(),
            head: Some(self.new.error(chain.as_bytes())),
            foot: self.new.standard(VERDICT_RETURN),
        }));
        Ok(())
    }

    fn set_policy(&mut self, chain: Chain, policy: Policy, counters: Option<Counters>) -> Step {
        if !self.table.is_built_in(chain) {
            return Err(Refusal::Policy(chain));
        }
        let verdict = match policy {
            Policy::Accept => VERDICT_ACCEPT,
            Policy::Drop => VERDICT_DROP,
        };
        let mut foot = self.new.standard(verdict);
        let counters = counters.filter(|given| *given != Counters::default());
        let there = self.chain(chain)?;
        foot.origin = match counters {
            Some(counters) => Origin::New(counters),
            None => there.foot.origin,
        };
        there.foot = foot;
        Ok(())
    }

    fn insert(&mut self, chain: Chain, at: usize, rule: &Rule) -> Step {
        if at > self.chain(chain)?.rules.len() {
            return Err(Refusal::NoPosition(chain));
        }
        let raw = self.raw(chain, rule)?;
        self.put(chain, at, raw)
    }

    fn put(&mut self, chain: Chain, at: usize, raw: RawRule) -> Step {
        if let (Some(references), Jump::Chain(target)) = (&mut self.references, raw.jump)
            && let Some(count) = references.get_mut(target)
        {
            *count += 1;
        }
        self.chain(chain)?.rules.insert(at, raw);
        Ok(())
    }

    fn raw(&self, chain: Chain, rule: &Rule) -> Result<RawRule, Refusal> {
        // XT_MAX_COMMENT_LEN is 256 with the terminating NUL.
        if rule.comments().any(|text| text.len() > 255) {
            return Err(Refusal::LongComment);
        }
        if let Some(target) = rule.target.as_ref().and_then(Target::chain) {
            if self.table.is_built_in(target) {
                return Err(Refusal::JumpToBuiltIn(target));
            }
            if !self.places.contains_key(&target) {
                return Err(Refusal::NoTarget { chain, target });
            }
        }
        let place = |chain| self.places.get(&chain).copied();
        let raw = self.new.rule(rule, &place);
        raw.map_err(|error| Refusal::Unsupported(error.to_string()))
    }

    /// Return the position of the first rule that is equal.
    fn position(&mut self, chain: Chain, rule: &Rule) -> Result<usize, Refusal> {
        // A rule that was written by sluice or the same release of iptables has the same bytes.
        let wanted = self.raw(chain, rule).ok();
        let wanted = wanted.map(|raw| self.compared(&raw));
        let place = self.place(chain)?;
        let rules = match self.chains.get(place) {
            Some(Some(chain)) => &chain.rules,
            _ => return Err(Refusal::NoChain(chain)),
        };
        if let Some(wanted) = &wanted
            && let Some(at) = rules
                .iter()
                .position(|raw| raw.bytes.len() == wanted.0.len() && self.compared(raw) == *wanted)
        {
            return Ok(at);
        }
        let reader = Reader {
            family: self.new.family,
            entry: self.new.entry,
            names: &self.names,
            sets: self.new.sets,
        };
        let is_equal = |raw: &RawRule| reader.rule(raw).is_ok_and(|known| known == *rule);
        let at = rules.iter().position(is_equal);
        at.ok_or(Refusal::NoRule(chain))
    }

    /// Return the bytes without those that the kernel changes, and the jump.
    fn compared(&self, raw: &RawRule) -> (Box<[u8]>, Jump) {
        let entry = self.new.entry;
        let mut bytes = raw.bytes.clone();
        put(&mut bytes, entry.comefrom, &[0; 4]);
        put(&mut bytes, entry.counters, &[0; 16]);
        if raw.jump != Jump::None {
            let target = u16_at(&bytes, entry.target_offset).map_or(0, usize::from);
            put(&mut bytes, target + super::layout::EXTENSION, &[0; 4]);
        }
        (bytes, raw.jump)
    }

    fn remove(&mut self, chain: Chain, at: usize) -> Step {
        let rules = &mut self.chain(chain)?.rules;
        if at >= rules.len() {
            return Err(Refusal::NoPosition(chain));
        }
        let rule = rules.remove(at);
        self.forget(&rule);
        Ok(())
    }

    fn forget(&mut self, rule: &RawRule) {
        if let (Some(references), Jump::Chain(target)) = (&mut self.references, rule.jump)
            && let Some(count) = references.get_mut(target)
        {
            *count = count.saturating_sub(1);
        }
    }

    fn flush(&mut self, chain: Chain) -> Step {
        let rules = std::mem::take(&mut self.chain(chain)?.rules);
        rules.iter().for_each(|rule| self.forget(rule));
        Ok(())
    }

    fn delete_chain(&mut self, chain: Chain) -> Step {
        if self.table.is_built_in(chain) {
            return Err(Refusal::BuiltIn(chain));
        }
        if !self.chain(chain)?.rules.is_empty() {
            return Err(Refusal::NotEmpty(chain));
        }
        let place = self.place(chain)?;
        let references = self
            .references
            .get_or_insert_with(|| count_references(&self.chains));
        if references.get(place).is_some_and(|count| *count > 0) {
            return Err(Refusal::Referenced(chain));
        }
        self.places.remove(&chain);
        if let Some(there) = self.chains.get_mut(place) {
            *there = None;
        }
        Ok(())
    }

    /// Return the chains with their final numbers. iptables sorts chains by name.
    fn finish(self) -> Vec<RawChain> {
        let numbered = self.chains.into_iter().enumerate();
        let mut chains: Vec<(usize, RawChain)> = numbered
            .filter_map(|(at, chain)| Some((at, chain?)))
            .collect();
        if self.grew {
            let built_in = chains.iter().take_while(|(_, chain)| chain.hook.is_some());
            let built_in = built_in.count();
            if let Some(named) = chains.get_mut(built_in..) {
                named.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
            }
        }
        let mut numbers = vec![usize::MAX; self.names.len()];
        for (new, (old, _)) in chains.iter().enumerate() {
            numbers[*old] = new;
        }
        let mut chains: Vec<RawChain> = chains.into_iter().map(|(_, chain)| chain).collect();
        for rule in chains.iter_mut().flat_map(|chain| &mut chain.rules) {
            if let Jump::Chain(target) = &mut rule.jump {
                *target = numbers.get(*target).copied().unwrap_or(usize::MAX);
            }
        }
        chains
    }
}

fn index(chain: Chain, position: u32) -> Result<usize, Refusal> {
    let at = position.checked_sub(1).ok_or(Refusal::NoPosition(chain))?;
    Ok(at as usize)
}

fn count_references(chains: &[Option<RawChain>]) -> Vec<usize> {
    let mut references = vec![0; chains.len()];
    let rules = chains.iter().flatten().flat_map(|chain| &chain.rules);
    for rule in rules {
        if let Jump::Chain(target) = rule.jump
            && let Some(count) = references.get_mut(target)
        {
            *count += 1;
        }
    }
    references
}
