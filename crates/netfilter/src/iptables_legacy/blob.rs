//! Blobs to chains.

use std::collections::HashMap;

use super::layout::{
    ERROR_NAME, ERROR_TEXT, EXTENSION, Entry, HOOKS, Info, NAME, STANDARD, VERDICT_RETURN, text_at,
    u16_at, u32_at, u64_at,
};
use super::{HOOK_NAMES, Malformed, Origin};
use crate::iptables::{Counters, Family};

/// A table as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawTable {
    /// The family.
    pub family: Family,
    /// The built-in chains in the order of the hooks, then the others in the kernel's order.
    pub chains: Vec<RawChain>,
    /// The entry at the end of the blob.
    pub(super) end: RawRule,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawChain {
    /// The name.
    pub name: Box<[u8]>,
    /// The hook of a built-in chain.
    pub hook: Option<usize>,
    /// The rules, in order.
    pub rules: Vec<RawRule>,
    /// The entry with the name of a chain that is not built in.
    pub(super) head: Option<RawRule>,
    /// The entry at the end: the policy, or the return to the calling chain.
    pub(super) foot: RawRule,
}

/// One entry of the blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawRule {
    /// `struct ipt_entry` with matches and target. A jump's offset in it is meaningless.
    pub(super) bytes: Box<[u8]>,
    pub(super) jump: Jump,
    pub(super) origin: Origin,
}

/// The target of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Jump {
    /// A verdict or an extension.
    None,
    /// The next entry: a rule without a target.
    Next,
    /// The chain of this index.
    Chain(usize),
}

/// A part of the entry's bytes.
pub(super) struct Parts<'a> {
    /// `struct ipt_ip` and the fields up to the matches.
    pub(super) head: &'a [u8],
    pub(super) matches: &'a [u8],
    pub(super) target: &'a [u8],
}

impl RawRule {
    /// Return the entry's parts; entries were checked when they were read.
    pub(super) fn parts(&self, entry: &Entry) -> Option<Parts<'_>> {
        let target = usize::from(u16_at(&self.bytes, entry.target_offset)?);
        Some(Parts {
            head: self.bytes.get(..entry.size)?,
            matches: self.bytes.get(entry.size..target)?,
            target: self.bytes.get(target..)?,
        })
    }

    /// Return the packets and bytes that matched.
    pub(super) fn counters(&self, entry: &Entry) -> Counters {
        let number = |at| u64_at(&self.bytes, at).unwrap_or_default();
        Counters {
            packets: number(entry.counters),
            bytes: number(entry.counters + 8),
        }
    }

    /// Return the verdict of a standard target, negative, or an offset.
    pub(super) fn verdict(&self, entry: &Entry) -> Option<i32> {
        let target = self.parts(entry)?.target;
        let is_standard = text_at(target, 2, NAME)?.is_empty() && target.len() >= STANDARD;
        let verdict = u32_at(target, EXTENSION)?.cast_signed();
        is_standard.then_some(verdict)
    }

    /// Return the text of an error target: the name of the chain that begins here.
    fn error_text(&self, entry: &Entry) -> Option<&[u8]> {
        let target = self.parts(entry)?.target;
        let name = text_at(target, 2, NAME)?;
        (name == ERROR_NAME.as_bytes())
            .then(|| text_at(target, EXTENSION, ERROR_TEXT))
            .flatten()
    }

    fn has_matches(&self, entry: &Entry) -> bool {
        self.parts(entry)
            .is_none_or(|parts| !parts.matches.is_empty())
    }
}

impl RawTable {
    /// Read the blob of a table.
    ///
    /// # Errors
    /// [`Malformed`] for a blob that the kernel would not accept, or whose chains cannot be separated.
    pub fn decode(family: Family, info: &Info, blob: &[u8]) -> Result<Self, Malformed> {
        let entry = Entry::of(family);
        let (entries, offsets) = entries(entry, blob)?;
        let mut chains: Vec<RawChain> = Vec::new();
        let mut starts: HashMap<usize, usize> = HashMap::new();
        let mut open: Option<Open> = None;
        let mut rest = entries.into_iter().zip(offsets.iter().copied());
        let end = loop {
            let Some((rule, offset)) = rest.next() else {
                return Err(Malformed("no entry at the end"));
            };
            let hook = hook_at(info, offset);
            let name = rule.error_text(entry).map(<[u8]>::to_vec);
            if (hook.is_some() || name.is_some())
                && let Some(before) = open.take()
            {
                chains.push(before.close(entry, info)?);
            }
            match (name, hook, &mut open) {
                (Some(_), None, _) if rest.len() == 0 => break rule,
                (Some(name), None, _) => {
                    let start = offset + rule.bytes.len();
                    open = Some(Open::named(name, rule));
                    starts.insert(start, chains.len());
                }
                (None, Some(hook), _) => {
                    open = Some(Open::built_in(hook, rule, offset));
                    starts.insert(offset, chains.len());
                }
                (None, None, Some(open)) => open.rules.push((rule, offset)),
                (Some(_), Some(_), _) => return Err(Malformed("a hook without a policy")),
                (None, None, None) => return Err(Malformed("a rule outside of every chain")),
            }
        };
        let mut table = Self {
            family,
            chains,
            end,
        };
        table.check(info)?;
        table.resolve(entry, &offsets, &starts)?;
        Ok(table)
    }

    /// Check that every hook has its chain, in the order of the hooks.
    fn check(&self, info: &Info) -> Result<(), Malformed> {
        let hooks = (0..HOOKS).filter(|hook| info.valid_hooks & 1 << hook != 0);
        let found = self.chains.iter().filter_map(|chain| chain.hook);
        if !hooks.eq(found) {
            return Err(Malformed("the chains of the hooks are not in order"));
        }
        let mut named = self.chains.iter().skip_while(|chain| chain.hook.is_some());
        if named.any(|chain| chain.hook.is_some()) {
            return Err(Malformed("a built-in chain after others"));
        }
        Ok(())
    }

    /// Replace the offsets of jumps.
    fn resolve(
        &mut self,
        entry: &Entry,
        offsets: &[usize],
        starts: &HashMap<usize, usize>,
    ) -> Result<(), Malformed> {
        for chain in &mut self.chains {
            for rule in &mut chain.rules {
                let Some(verdict) = rule.verdict(entry) else {
                    continue;
                };
                let Ok(target) = usize::try_from(verdict) else {
                    continue;
                };
                let Origin::Kept(position) = rule.origin else {
                    continue;
                };
                let next = offsets.get(position as usize + 1);
                rule.jump = match starts.get(&target) {
                    _ if next == Some(&target) => Jump::Next,
                    Some(chain) => Jump::Chain(*chain),
                    None => return Err(Malformed("a jump into a chain")),
                };
            }
        }
        Ok(())
    }

    /// Return whether the table has a chain of this name.
    pub fn has_chain(&self, name: &[u8]) -> bool {
        self.chains.iter().any(|chain| *chain.name == *name)
    }
}

/// Return the hook whose chain begins at an offset.
fn hook_at(info: &Info, offset: usize) -> Option<usize> {
    let valid = |hook: &usize| info.valid_hooks & 1 << hook != 0;
    let mut hooks = (0..HOOKS).filter(valid);
    hooks.find(|hook| info.hook_entry[*hook] as usize == offset)
}

/// Split the blob into entries and their offsets.
fn entries(entry: &Entry, blob: &[u8]) -> Result<(Vec<RawRule>, Vec<usize>), Malformed> {
    let (mut rules, mut offsets) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < blob.len() {
        let short = Malformed("an entry of an invalid size");
        let rest = blob.get(at..).ok_or(short)?;
        let size = usize::from(u16_at(rest, entry.next_offset).ok_or(short)?);
        let target = usize::from(u16_at(rest, entry.target_offset).ok_or(short)?);
        if target < entry.size || size < target + EXTENSION {
            return Err(short);
        }
        let bytes = rest.get(..size).ok_or(short)?;
        check_target(bytes.get(target..).unwrap_or_default())?;
        let position = u32::try_from(rules.len()).map_err(|_| Malformed("too many entries"))?;
        rules.push(RawRule {
            bytes: bytes.into(),
            jump: Jump::None,
            origin: Origin::Kept(position),
        });
        offsets.push(at);
        at += size;
    }
    Ok((rules, offsets))
}

/// Check the size of a target, which ends its entry.
fn check_target(target: &[u8]) -> Result<(), Malformed> {
    let invalid = Malformed("a target of an invalid size");
    let size = usize::from(u16_at(target, 0).ok_or(invalid)?);
    let name = text_at(target, 2, NAME).ok_or(Malformed("a target without a name"))?;
    let least = match name {
        [] => STANDARD,
        name if name == ERROR_NAME.as_bytes() => EXTENSION + ERROR_TEXT,
        _ => EXTENSION,
    };
    match size >= least && size <= target.len() {
        true => Ok(()),
        false => Err(invalid),
    }
}

/// A chain that is still being read.
struct Open {
    name: Box<[u8]>,
    hook: Option<usize>,
    head: Option<RawRule>,
    /// The rules and their offsets; the last one is the chain's foot.
    rules: Vec<(RawRule, usize)>,
}

impl Open {
    fn named(name: Vec<u8>, head: RawRule) -> Self {
        Self {
            name: name.into(),
            hook: None,
            head: Some(head),
            rules: Vec::new(),
        }
    }

    fn built_in(hook: usize, first: RawRule, offset: usize) -> Self {
        Self {
            name: HOOK_NAMES[hook].as_bytes().into(),
            hook: Some(hook),
            head: None,
            rules: vec![(first, offset)],
        }
    }

    fn close(mut self, entry: &Entry, info: &Info) -> Result<RawChain, Malformed> {
        let Some((foot, offset)) = self.rules.pop() else {
            return Err(Malformed("a chain without an end"));
        };
        let verdict = foot.verdict(entry);
        let is_end = match self.hook {
            Some(hook) => {
                info.underflow[hook] as usize == offset
                    && verdict.is_some_and(|verdict| verdict < 0)
            }
            None => verdict == Some(VERDICT_RETURN),
        };
        if !is_end || foot.has_matches(entry) {
            return Err(Malformed("a chain without an end"));
        }
        Ok(RawChain {
            name: self.name,
            hook: self.hook,
            rules: self.rules.into_iter().map(|(rule, _)| rule).collect(),
            head: self.head,
            foot,
        })
    }
}
