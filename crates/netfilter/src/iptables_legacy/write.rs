//! Chains to blobs.

use super::layout::{
    ERROR, ERROR_NAME, ERROR_TEXT, EXTENSION, Entry, Info, STANDARD, VERDICT_ACCEPT, VERDICT_DROP,
    VERDICT_RETURN, put,
};
use super::{HOOK_NAMES, Jump, RawChain, RawRule, RawTable};
use crate::iptables::{
    Counters, Family, Header, Interface, Negatable, Policy, Rule, Table, TableState, Target,
};
use crate::iptables_nft::{SetIndex, Unsupported, matches, targets};
use crate::nft::Expr;

/// A table for the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// The description.
    pub info: Info,
    /// The entries.
    pub bytes: Vec<u8>,
    /// The origin of each entry, in order.
    pub origins: Vec<Origin>,
}

/// The origin of an entry: it keeps the counters of the entry that it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The position of the entry in the table that was read.
    Kept(u32),
    /// A new entry, with its counters.
    New(Counters),
}

impl RawTable {
    /// Return the blob.
    pub fn encode(&self) -> Blob {
        let entry = Entry::of(self.family);
        let mut starts = Vec::with_capacity(self.chains.len());
        let mut at = 0;
        for chain in &self.chains {
            at += chain.head.as_ref().map_or(0, |head| head.bytes.len());
            starts.push(at);
            let rules = chain.rules.iter().map(|rule| rule.bytes.len());
            at += rules.sum::<usize>() + chain.foot.bytes.len();
        }
        at += self.end.bytes.len();
        let mut blob = Blob {
            info: Info::default(),
            bytes: Vec::with_capacity(at),
            origins: Vec::new(),
        };
        for chain in &self.chains {
            if let Some(head) = &chain.head {
                blob.push(entry, head, &starts);
            }
            if let Some(hook) = chain.hook {
                blob.info.valid_hooks |= 1 << hook;
                blob.info.hook_entry[hook] = blob.bytes.len() as u32;
            }
            for rule in &chain.rules {
                blob.push(entry, rule, &starts);
            }
            if let Some(hook) = chain.hook {
                blob.info.underflow[hook] = blob.bytes.len() as u32;
            }
            blob.push(entry, &chain.foot, &starts);
        }
        blob.push(entry, &self.end, &starts);
        blob.info.size = blob.bytes.len() as u32;
        blob.info.entries = blob.origins.len() as u32;
        blob
    }

    /// Remove the chains whose name `is_removed`, their rules, and all rules that jump to them. Built-in
    /// chains stay. Return the number of removed chains.
    pub fn remove_chains(&mut self, is_removed: &dyn Fn(&[u8]) -> bool) -> usize {
        let mut places = Vec::with_capacity(self.chains.len());
        let mut kept = 0;
        for chain in &self.chains {
            let stays = chain.hook.is_some() || !is_removed(&chain.name);
            places.push(stays.then_some(kept));
            kept += usize::from(stays);
        }
        let removed = self.chains.len() - kept;
        let mut number = 0;
        self.chains.retain(|_| {
            number += 1;
            places[number - 1].is_some()
        });
        for chain in &mut self.chains {
            chain.rules.retain_mut(|rule| match rule.jump {
                Jump::None | Jump::Next => true,
                Jump::Chain(old) => match places.get(old).copied().flatten() {
                    Some(new) => {
                        rule.jump = Jump::Chain(new);
                        true
                    }
                    None => false,
                },
            });
        }
        removed
    }

    /// Return a table with these chains and rules, all of them new.
    ///
    /// # Errors
    /// [`Unsupported`] for a rule without a known form, or that jumps to a missing chain.
    pub fn from_state(
        family: Family,
        table: Table,
        state: &TableState,
        sets: &SetIndex,
    ) -> Result<Self, Unsupported> {
        let new = New {
            entry: Entry::of(family),
            family,
            sets,
        };
        let built_in = table.built_in().iter().copied();
        let named = state.chains.keys().copied();
        let named = named.filter(|chain| !table.is_built_in(*chain));
        let order: Vec<_> = built_in.chain(named).collect();
        let mut chains = Vec::with_capacity(order.len());
        for name in &order {
            let given = state.chains.get(name);
            let hook = HOOK_NAMES.iter().position(|hook| *hook == name.as_str());
            let hook = hook.filter(|_| table.is_built_in(*name));
            let foot = match (hook, given.and_then(|chain| chain.policy)) {
                (None, _) => VERDICT_RETURN,
                (Some(_), Some(Policy::Drop)) => VERDICT_DROP,
                (Some(_), _) => VERDICT_ACCEPT,
            };
            let place = |chain| order.iter().position(|known| *known == chain);
            let rules = given.map_or(&[][..], |chain| &chain.rules);
            let rules = rules.iter().map(|rule| new.rule(rule, &place));
            chains.push(RawChain {
                name: name.as_bytes().into(),
                hook,
                rules: rules.collect::<Result<_, _>>()?,
                head: hook.is_none().then(|| new.error(name.as_bytes())),
                foot: new.standard(foot),
            });
        }
        let end = new.error(ERROR_NAME.as_bytes());
        Ok(Self {
            family,
            chains,
            end,
        })
    }
}

impl Blob {
    fn push(&mut self, entry: &Entry, rule: &RawRule, starts: &[usize]) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&rule.bytes);
        let offset = match rule.jump {
            Jump::None => None,
            Jump::Next => Some(self.bytes.len()),
            Jump::Chain(chain) => starts.get(chain).copied(),
        };
        let bytes = self.bytes.get_mut(at..).unwrap_or_default();
        put(bytes, entry.comefrom, &[0; 4]);
        if let Some(offset) = offset {
            let target = super::layout::u16_at(bytes, entry.target_offset).map_or(0, usize::from);
            put(bytes, target + EXTENSION, &(offset as u32).to_ne_bytes());
        }
        self.origins.push(rule.origin);
    }
}

/// Makes entries.
pub(super) struct New<'a> {
    pub(super) entry: &'static Entry,
    pub(super) family: Family,
    pub(super) sets: &'a SetIndex,
}

impl New<'_> {
    fn finish(&self, mut bytes: Vec<u8>, target: usize, jump: Jump) -> RawRule {
        let size = bytes.len() as u16;
        put(
            &mut bytes,
            self.entry.target_offset,
            &(target as u16).to_ne_bytes(),
        );
        put(&mut bytes, self.entry.next_offset, &size.to_ne_bytes());
        RawRule {
            bytes: bytes.into(),
            jump,
            origin: Origin::New(Counters::default()),
        }
    }

    pub(super) fn standard(&self, verdict: i32) -> RawRule {
        let mut bytes = vec![0; self.entry.size];
        push_standard(&mut bytes, verdict);
        self.finish(bytes, self.entry.size, Jump::None)
    }

    pub(super) fn error(&self, text: &[u8]) -> RawRule {
        let mut bytes = vec![0; self.entry.size];
        let mut info = vec![0; ERROR - EXTENSION];
        put(&mut info, 0, text.get(..ERROR_TEXT - 1).unwrap_or(text));
        push_extension(&mut bytes, ERROR_NAME, 0, &info);
        self.finish(bytes, self.entry.size, Jump::None)
    }

    pub(super) fn rule(
        &self,
        rule: &Rule,
        place: &dyn Fn(crate::iptables::Chain) -> Option<usize>,
    ) -> Result<RawRule, Unsupported> {
        let mut bytes = vec![0; self.entry.size];
        self.header(&mut bytes, &rule.header)?;
        for m in &rule.matches {
            push(&mut bytes, matches::encode(m, self.sets)?)?;
        }
        let target = bytes.len();
        let mut jump = Jump::None;
        match &rule.target {
            None => {
                jump = Jump::Next;
                push_standard(&mut bytes, 0);
            }
            Some(Target::Accept) => push_standard(&mut bytes, VERDICT_ACCEPT),
            Some(Target::Drop) => push_standard(&mut bytes, VERDICT_DROP),
            Some(Target::Return) => push_standard(&mut bytes, VERDICT_RETURN),
            Some(Target::Jump(chain) | Target::Goto(chain)) => {
                let place = place(*chain);
                let place = place.ok_or_else(|| Unsupported::new(format!("chain {chain}")))?;
                jump = Jump::Chain(place);
                push_standard(&mut bytes, 0);
                if let (Some(Target::Goto(_)), Some(flags)) =
                    (&rule.target, bytes.get_mut(self.entry.flags))
                {
                    *flags |= self.entry.goto;
                }
            }
            Some(other) => push(&mut bytes, targets::encode(self.family, other, self.sets)?)?,
        }
        if bytes.len() > usize::from(u16::MAX) {
            return Err(Unsupported::new("a rule of more than 64 KiB"));
        }
        let mut raw = self.finish(bytes, target, jump);
        raw.origin = Origin::New(rule.counters.unwrap_or_default());
        Ok(raw)
    }

    fn header(&self, bytes: &mut [u8], header: &Header) -> Result<(), Unsupported> {
        let entry = self.entry;
        let mut invert = 0;
        let mut flags = 0;
        let nets = [(&header.source, 0x08), (&header.destination, 0x10)];
        for ((net, bit), side) in nets.into_iter().zip(0..) {
            if let Some(Negatable { negated, value }) = net {
                put(bytes, entry.addresses[side], &octets(value.addr()));
                put(bytes, entry.masks[side], &octets(value.mask()));
                invert |= if *negated { bit } else { 0 };
            }
        }
        let interfaces = [(&header.in_interface, 0x01), (&header.out_interface, 0x02)];
        for ((interface, bit), side) in interfaces.into_iter().zip(0..) {
            if let Some(Negatable { negated, value }) = interface {
                let (name, len) = match value {
                    Interface::Name(name) => (name, name.len() + 1),
                    Interface::Prefix(name) => (name, name.len()),
                };
                if name.len() > 15 {
                    let what = "an interface name of more than 15 bytes";
                    return Err(Unsupported::new(what));
                }
                put(bytes, entry.interfaces[side], name.as_bytes());
                put(bytes, entry.interface_masks[side], &[u8::MAX; 16][..len]);
                invert |= if *negated { bit } else { 0 };
            }
        }
        if let Some(Negatable { negated, value }) = header.protocol {
            put(bytes, entry.protocol, &u16::from(value.0).to_ne_bytes());
            invert |= if negated { 0x40 } else { 0 };
            // `IP6T_F_PROTO`.
            flags |= u8::from(self.family == Family::Ipv6);
        }
        if let Some(Negatable { negated, .. }) = header.fragment {
            // `IPT_F_FRAG`.
            flags |= 1;
            invert |= if negated { 0x20 } else { 0 };
        }
        put(bytes, entry.flags, &[flags]);
        put(bytes, entry.invert, &[invert]);
        Ok(())
    }
}

fn octets(ip: std::net::IpAddr) -> Vec<u8> {
    match ip {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn push_standard(bytes: &mut Vec<u8>, verdict: i32) {
    let mut info = vec![0; STANDARD - EXTENSION];
    put(&mut info, 0, &verdict.to_ne_bytes());
    push_extension(bytes, "", 0, &info);
}

fn push(bytes: &mut Vec<u8>, expr: Expr) -> Result<(), Unsupported> {
    match expr {
        Expr::Match {
            name,
            revision,
            info,
        }
        | Expr::Target {
            name,
            revision,
            info,
        } => {
            // iptables-legacy-save lists only the newest revision of an extension.
            let revision = if &*name == "nfacct" { 1 } else { revision };
            push_extension(bytes, &name, revision as u8, &info);
            Ok(())
        }
        other => Err(Unsupported::new(other.kernel_name())),
    }
}

/// Append `struct xt_entry_match` or `struct xt_entry_target` with its data.
fn push_extension(bytes: &mut Vec<u8>, name: &str, revision: u8, info: &[u8]) {
    let at = bytes.len();
    let size = EXTENSION + info.len().next_multiple_of(8);
    bytes.resize(at + size, 0);
    put(bytes, at, &(size as u16).to_ne_bytes());
    put(bytes, at + 2, name.as_bytes());
    put(bytes, at + super::layout::REVISION, &[revision]);
    put(bytes, at + EXTENSION, info);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_have_the_names_of_the_built_in_chains() {
        for table in Table::ALL {
            for chain in table.built_in() {
                assert!(HOOK_NAMES.contains(&chain.as_str()), "{chain}");
            }
        }
    }
}
