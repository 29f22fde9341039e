//! The effect of `iptables-restore --noflush` on a table of the kernel. Rules that the input does not
//! change keep their bytes and counters.

use std::collections::HashMap;

use super::blob::{Jump, RawChain, RawRule, RawTable};
use super::layout::{EXTENSION, Entry, VERDICT_ACCEPT, VERDICT_DROP, VERDICT_RETURN, put, u16_at};
use super::rules::Reader;
use super::write::{New, Origin};
use crate::iptables::apply::{Content, Editor, count};
use crate::iptables::{ApplyError, Chain, Counters, Policy, Refusal, RestoreTable, Rule};
use crate::iptables_nft::SetIndex;

impl RawTable {
    /// Apply one section of a restore's input.
    ///
    /// # Errors
    /// The first command that iptables-legacy-restore would refuse, or whose rule has no known form. The
    /// table is then incomplete and must not be written.
    pub fn apply(&mut self, section: &RestoreTable, sets: &SetIndex) -> Result<(), ApplyError> {
        let chains = std::mem::take(&mut self.chains);
        let mut editor = Editor::new(section.table, Chains::new(self, chains, sets));
        for (line, command) in &section.commands {
            editor.run(*line, command.clone())?;
        }
        self.chains = editor.content.finish();
        Ok(())
    }
}

/// The chains of a table while they are changed. A jump is the number of its chain here.
struct Chains<'a> {
    new: New<'a>,
    /// Removed chains are `None`, so that the numbers of the others stay.
    chains: Vec<Option<RawChain>>,
    /// The names of the chains; `None` for a name that iptables does not accept.
    names: Vec<Option<Chain>>,
    places: HashMap<Chain, usize>,
    grew: bool,
}

impl<'a> Chains<'a> {
    fn new(table: &RawTable, chains: Vec<RawChain>, sets: &'a SetIndex) -> Self {
        let names: Vec<_> = chains.iter().map(RawChain::chain).collect();
        let numbered = names.iter().zip(0..);
        Self {
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
            grew: false,
        }
    }

    fn chain(&mut self, chain: Chain) -> Option<&mut RawChain> {
        let place = *self.places.get(&chain)?;
        self.chains.get_mut(place)?.as_mut()
    }

    fn raw(&self, rule: &Rule) -> Result<RawRule, Refusal> {
        let place = |chain| self.places.get(&chain).copied();
        let raw = self.new.rule(rule, &place);
        raw.map_err(|error| Refusal::Unsupported(error.to_string()))
    }

    /// Whether two rules are equal apart from what the kernel changes.
    fn is_same(&self, known: &RawRule, rule: &RawRule) -> bool {
        known.jump == rule.jump
            && known.bytes.len() == rule.bytes.len()
            && self.compared(known) == self.compared(rule)
    }

    /// Return the bytes without those that the kernel changes.
    fn compared(&self, raw: &RawRule) -> Box<[u8]> {
        let entry = self.new.entry;
        let mut bytes = raw.bytes.clone();
        put(&mut bytes, entry.comefrom, &[0; 4]);
        put(&mut bytes, entry.counters, &[0; 16]);
        if raw.jump != Jump::None {
            let target = u16_at(&bytes, entry.target_offset).map_or(0, usize::from);
            put(&mut bytes, target + EXTENSION, &[0; 4]);
        }
        bytes
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

impl Content for Chains<'_> {
    type Rule = RawRule;

    fn names(&self) -> Vec<Chain> {
        self.places.keys().copied().collect()
    }

    fn contains(&self, chain: Chain) -> bool {
        self.places.contains_key(&chain)
    }

    fn add(&mut self, chain: Chain) {
        self.grew = true;
        self.places.insert(chain, self.chains.len());
        self.names.push(Some(chain));
        self.chains.push(Some(RawChain {
            name: chain.as_bytes().into(),
            hook: None,
            rules: Vec::new(),
            head: Some(self.new.error(chain.as_bytes())),
            foot: self.new.standard(VERDICT_RETURN),
        }));
    }

    fn remove(&mut self, chain: Chain) {
        let place = self.places.remove(&chain);
        if let Some(there) = place.and_then(|place| self.chains.get_mut(place)) {
            *there = None;
        }
    }

    fn set_policy(&mut self, chain: Chain, policy: Option<Policy>, counters: Option<Counters>) {
        let Some(policy) = policy else {
            return;
        };
        let mut foot = self.new.standard(match policy {
            Policy::Accept => VERDICT_ACCEPT,
            Policy::Drop => VERDICT_DROP,
        });
        if let Some(there) = self.chain(chain) {
            let given = counters.filter(|given| *given != Counters::default());
            foot.origin = given.map_or(there.foot.origin, Origin::New);
            there.foot = foot;
        }
    }

    fn rules(&mut self, chain: Chain) -> Option<&mut Vec<RawRule>> {
        Some(&mut self.chain(chain)?.rules)
    }

    fn encode(&self, rule: Rule) -> Result<RawRule, Refusal> {
        self.raw(&rule)
    }

    fn position(&self, chain: Chain, rule: &Rule) -> Option<usize> {
        let place = *self.places.get(&chain)?;
        let rules = &self.chains.get(place)?.as_ref()?.rules;
        // A rule that was written by sluice or the same release of iptables has the same bytes.
        if let Ok(wanted) = self.raw(rule)
            && let Some(at) = rules.iter().position(|raw| self.is_same(raw, &wanted))
        {
            return Some(at);
        }
        let reader = Reader {
            family: self.new.family,
            entry: self.new.entry,
            names: &self.names,
            sets: self.new.sets,
        };
        let is_equal = |raw: &RawRule| reader.rule(raw).is_ok_and(|known| known == *rule);
        rules.iter().position(is_equal)
    }

    fn target(&self, rule: &RawRule) -> Option<Chain> {
        match rule.jump {
            Jump::Chain(target) => self.names.get(target).copied().flatten(),
            _ => None,
        }
    }

    fn references(&self) -> HashMap<Chain, usize> {
        let rules = self.chains.iter().flatten().flat_map(|chain| &chain.rules);
        count(rules.filter_map(|rule| self.target(rule)))
    }
}
