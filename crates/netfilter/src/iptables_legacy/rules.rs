//! Entries to typed rules.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::blob::{Jump, Parts, RawChain, RawRule, RawTable};
use super::layout::{
    EXTENSION, Entry, NAME, REVISION, VERDICT_ACCEPT, VERDICT_DROP, VERDICT_RETURN, text_at, u16_at,
};
use crate::iptables::{
    Chain, ChainState, Extension, Family, Header, Interface, Match, Negatable, Net, Policy,
    Protocol, Rule, TableState, Target,
};
use crate::iptables_nft::{SetIndex, Unsupported, matches, targets, unknown_extension};

impl RawTable {
    /// Return the rules as `iptables-legacy-save` lists them, and what could not be decoded. An unknown
    /// extension is kept by its name ([`Match::Unknown`], [`Target::Unknown`]); a rule with another
    /// unknown condition gets a match of the name `unknown`.
    pub fn table_state(&self, sets: &SetIndex) -> (TableState, Vec<String>) {
        let mut state = TableState::default();
        let mut problems = Vec::new();
        let names: Vec<Option<Chain>> = self.chains.iter().map(RawChain::chain).collect();
        for (raw, name) in self.chains.iter().zip(&names) {
            let Some(name) = name else {
                let name = String::from_utf8_lossy(&raw.name);
                problems.push(format!("chain {name:?}: not a valid name"));
                continue;
            };
            let mut chain = ChainState {
                policy: raw.policy(Entry::of(self.family)),
                counters: match raw.hook {
                    Some(_) => raw.foot.counters(Entry::of(self.family)),
                    None => Default::default(),
                },
                rules: Vec::with_capacity(raw.rules.len()),
            };
            for rule in &raw.rules {
                let reader = Reader {
                    family: self.family,
                    entry: Entry::of(self.family),
                    names: &names,
                    sets,
                };
                match reader.rule(rule) {
                    Ok(rule) => chain.rules.push(rule),
                    Err(error) => problems.push(format!("a rule of chain {name}: {error}")),
                }
            }
            state.chains.insert(*name, chain);
        }
        (state, problems)
    }
}

impl RawChain {
    /// Return the name, if it is valid.
    pub fn chain(&self) -> Option<Chain> {
        Chain::new(std::str::from_utf8(&self.name).ok()?).ok()
    }

    fn policy(&self, entry: &Entry) -> Option<Policy> {
        self.hook?;
        Some(match self.foot.verdict(entry) {
            Some(VERDICT_DROP) => Policy::Drop,
            _ => Policy::Accept,
        })
    }
}

pub(super) struct Reader<'a> {
    pub(super) family: Family,
    pub(super) entry: &'static Entry,
    pub(super) names: &'a [Option<Chain>],
    pub(super) sets: &'a SetIndex,
}

impl Reader<'_> {
    pub(super) fn rule(&self, raw: &RawRule) -> Result<Rule, Unsupported> {
        let parts = raw.parts(self.entry);
        let Parts {
            head,
            matches,
            target,
        } = parts.ok_or_else(|| Unsupported::new("an entry of this size"))?;
        let mut rule = Rule {
            header: self.header(head)?,
            counters: Some(raw.counters(self.entry)),
            ..Rule::default()
        };
        let mut rest = matches;
        while !rest.is_empty() {
            let (found, after) = self.one_match(rest)?;
            rule.matches.push(found);
            rest = after;
        }
        rule.target = match raw.jump {
            Jump::Next => None,
            Jump::Chain(index) => Some(self.jump(head, index)?),
            Jump::None => Some(self.target(raw, target)?),
        };
        Ok(rule)
    }

    fn one_match<'b>(&self, bytes: &'b [u8]) -> Result<(Match, &'b [u8]), Unsupported> {
        let invalid = || Unsupported::new("a match of an invalid size");
        let size = u16_at(bytes, 0).map_or(0, usize::from);
        let info = bytes.get(EXTENSION..size).ok_or_else(invalid)?;
        let after = bytes.get(size..).ok_or_else(invalid)?;
        let (name, revision) = extension(bytes)?;
        let found = matches::decode(self.family, name, revision, info, self.sets);
        let found = found
            .unwrap_or_else(|_| Match::Unknown(Box::new(unknown_extension(name, revision, info))));
        Ok((found, after))
    }

    fn target(&self, raw: &RawRule, bytes: &[u8]) -> Result<Target, Unsupported> {
        let (name, revision) = extension(bytes)?;
        if name.is_empty() {
            return match raw.verdict(self.entry) {
                Some(VERDICT_ACCEPT) => Ok(Target::Accept),
                Some(VERDICT_DROP) => Ok(Target::Drop),
                Some(VERDICT_RETURN) => Ok(Target::Return),
                // `-NF_QUEUE - 1`.
                Some(-4) => Ok(Target::Unknown(Box::new(Extension {
                    name: "QUEUE".into(),
                    words: Vec::new(),
                }))),
                _ => Err(Unsupported::new("this verdict")),
            };
        }
        let size = u16_at(bytes, 0).map_or(0, usize::from);
        let info = bytes.get(EXTENSION..size).unwrap_or_default();
        let found = targets::decode(self.family, name, revision, info, self.sets);
        Ok(found
            .unwrap_or_else(|_| Target::Unknown(Box::new(unknown_extension(name, revision, info)))))
    }

    fn jump(&self, head: &[u8], index: usize) -> Result<Target, Unsupported> {
        let name = self.names.get(index).copied().flatten();
        let name = name.ok_or_else(|| Unsupported::new("a jump to a chain of this name"))?;
        let flags = head.get(self.entry.flags).copied().unwrap_or_default();
        Ok(match flags & self.entry.goto {
            0 => Target::Jump(name),
            _ => Target::Goto(name),
        })
    }

    fn header(&self, head: &[u8]) -> Result<Header, Unsupported> {
        let entry = self.entry;
        let byte = |at: usize| head.get(at).copied().unwrap_or_default();
        let (flags, invert) = (byte(entry.flags), byte(entry.invert));
        // `IP6T_F_TOS`, `IPT_INV_TOS`.
        let tos = self.family == Family::Ipv6 && flags & 2 != 0;
        if tos || invert & !0x7b != 0 {
            return Err(Unsupported::new("a rule with these flags"));
        }
        let net = |side: usize, bit: u8| {
            let (addr, mask) = (
                self.address(head, entry.addresses[side]),
                self.address(head, entry.masks[side]),
            );
            let negated = invert & bit != 0;
            let value = Net::new(addr, mask)?;
            (negated || !value.is_everything()).then_some(Negatable { negated, value })
        };
        let protocol = u16_at(head, entry.protocol).unwrap_or_default();
        let protocol = u8::try_from(protocol).map_err(|_| Unsupported::new("this protocol"))?;
        let negated = invert & 0x40 != 0;
        let fragment = self.family == Family::Ipv4 && flags & 1 != 0;
        Ok(Header {
            source: net(0, 0x08),
            destination: net(1, 0x10),
            in_interface: self.interface(head, 0, invert & 0x01 != 0)?,
            out_interface: self.interface(head, 1, invert & 0x02 != 0)?,
            protocol: (protocol != 0 || negated).then_some(Negatable {
                negated,
                value: Protocol(protocol),
            }),
            fragment: fragment.then_some(Negatable {
                negated: invert & 0x20 != 0,
                value: (),
            }),
        })
    }

    fn address(&self, head: &[u8], at: usize) -> IpAddr {
        let bytes = head.get(at..).unwrap_or_default();
        match self.family {
            Family::Ipv4 => {
                let octets: [u8; 4] = bytes.first_chunk().copied().unwrap_or_default();
                Ipv4Addr::from(octets).into()
            }
            Family::Ipv6 => {
                let octets: [u8; 16] = bytes.first_chunk().copied().unwrap_or_default();
                Ipv6Addr::from(octets).into()
            }
        }
    }

    /// The mask of an exact name includes its NUL.
    fn interface(
        &self,
        head: &[u8],
        side: usize,
        negated: bool,
    ) -> Result<Option<Negatable<Interface>>, Unsupported> {
        let field = |at: usize| head.get(at..at + 16).unwrap_or_default();
        let (name, mask) = (
            field(self.entry.interfaces[side]),
            field(self.entry.interface_masks[side]),
        );
        let compared = mask.iter().take_while(|byte| **byte != 0).count();
        if mask.iter().skip(compared).any(|byte| *byte != 0)
            || mask.iter().take(compared).any(|byte| *byte != u8::MAX)
        {
            return Err(Unsupported::new("an interface with this mask"));
        }
        if compared == 0 && !negated {
            return Ok(None);
        }
        let name = name.get(..compared).unwrap_or_default();
        let text = |bytes| {
            let text = std::str::from_utf8(bytes).map(Box::<str>::from);
            text.map_err(|_| Unsupported::new("an interface name that is not UTF-8"))
        };
        let value = match name.iter().position(|byte| *byte == 0) {
            Some(end) => Interface::Name(text(name.get(..end).unwrap_or_default())?),
            None => Interface::Prefix(text(name)?),
        };
        Ok(Some(Negatable { negated, value }))
    }
}

/// Return the name and revision of an extension.
fn extension(bytes: &[u8]) -> Result<(&str, u32), Unsupported> {
    let name = text_at(bytes, 2, NAME).and_then(|name| std::str::from_utf8(name).ok());
    let name = name.ok_or_else(|| Unsupported::new("an extension without a name"))?;
    let revision = bytes.get(REVISION).copied().unwrap_or_default();
    Ok((name, revision.into()))
}
