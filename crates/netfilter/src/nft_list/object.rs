//! Tables and their objects, from messages.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use super::set::Set;
use super::value::INDEX;
use super::{rule, set};
use crate::netlink::{Attribute, Attributes, DecodeError, NFGENMSG_LEN};
use crate::nft::consts::{
    NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE, NFT_MSG_NEWSET, NFT_MSG_NEWSETELEM, NFT_MSG_NEWTABLE,
    NFTA_CHAIN_HOOK, NFTA_CHAIN_NAME, NFTA_CHAIN_POLICY, NFTA_CHAIN_TYPE, NFTA_CHAIN_USERDATA,
    NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_USERDATA,
};

const NFT_MSG_NEWOBJ: u16 = 18;
const NFT_MSG_NEWFLOWTABLE: u16 = 22;

/// The objects of all tables.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    tables: Vec<Table>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) family: u8,
    pub(super) name: String,
    flags: u32,
    comment: Option<String>,
    chains: Vec<Chain>,
    /// The positions of the chains by name.
    places: HashMap<String, usize>,
    pub(super) sets: BTreeMap<String, Set>,
    /// The names of the sets in the kernel's order.
    order: Vec<String>,
    /// Other objects, as text.
    objects: Vec<String>,
}

#[derive(Clone, Debug, Default)]
struct Chain {
    name: String,
    base: Option<Base>,
    comment: Option<String>,
    rules: Vec<RawRule>,
}

#[derive(Clone, Debug, Default)]
struct Base {
    kind: String,
    hook: u32,
    priority: i32,
    drops: bool,
    devices: Vec<String>,
}

#[derive(Clone, Debug, Default)]
struct RawRule {
    expressions: Vec<u8>,
    comment: Option<String>,
}

pub(super) fn text(attr: &Attribute<'_>) -> String {
    attr.string_lossy()
}

/// Return a comment in user data: entries of a type, a length and a value.
pub(super) fn comment(bytes: &[u8], kind: u8) -> Option<String> {
    let value = user_data(bytes, kind)?;
    let value = value.strip_suffix(&[0]).unwrap_or(value);
    Some(String::from_utf8_lossy(value).into_owned())
}

pub(super) fn user_data(bytes: &[u8], kind: u8) -> Option<&[u8]> {
    let mut rest = bytes;
    while let [k, len, tail @ ..] = rest {
        let value = tail.get(..usize::from(*len))?;
        if *k == kind {
            return Some(value);
        }
        rest = tail.get(usize::from(*len)..)?;
    }
    None
}

impl Listing {
    /// Add the object of a message of a dump; `kind` is the low byte of its type, `payload` follows the
    /// netlink header. Add tables first, then chains and sets, then rules and elements. Objects of tables
    /// that were not added are ignored.
    ///
    /// # Errors
    /// The message violates the protocol.
    pub fn add(&mut self, kind: u16, payload: &[u8]) -> Result<(), DecodeError> {
        let [family, ..] = payload else {
            return Err(DecodeError::Header(payload.len()));
        };
        let attrs = payload.get(NFGENMSG_LEN..).unwrap_or_default();
        let attrs = Attributes::new(attrs, "nf_tables");
        // In every kind of message, attribute 1 is the table's name.
        let mut name = None;
        for attr in attrs {
            let attr = attr?;
            if attr.kind == 1 {
                name = Some(text(&attr));
            }
        }
        let name = name.unwrap_or_default();
        if kind == NFT_MSG_NEWTABLE {
            return self.table(*family, name, attrs);
        }
        let known = |table: &&mut Table| table.family == *family && table.name == name;
        let Some(table) = self.tables.iter_mut().find(known) else {
            return Ok(());
        };
        match kind {
            NFT_MSG_NEWCHAIN => table.chain(attrs),
            NFT_MSG_NEWRULE => table.rule(attrs),
            NFT_MSG_NEWSET => {
                let set = Set::decode(attrs)?;
                table.order.push(set.name.clone());
                table.sets.insert(set.name.clone(), set);
                Ok(())
            }
            NFT_MSG_NEWSETELEM => set::elements(attrs, &mut table.sets),
            NFT_MSG_NEWOBJ => table.object(attrs),
            NFT_MSG_NEWFLOWTABLE => table.flowtable(attrs),
            _ => Ok(()),
        }
    }

    fn table(
        &mut self,
        family: u8,
        name: String,
        attrs: Attributes<'_>,
    ) -> Result<(), DecodeError> {
        let mut table = Table {
            family,
            name,
            ..Table::default()
        };
        for attr in attrs {
            let attr = attr?;
            match attr.kind {
                2 => table.flags = attr.be32()?,
                6 => table.comment = comment(attr.value, 0),
                _ => {}
            }
        }
        self.tables.push(table);
        Ok(())
    }

    /// Return the family, table and name of every set, whose elements have to be requested one by one.
    pub fn sets(&self) -> Vec<(u8, String, String)> {
        let of = |table: &Table| {
            let (family, name) = (table.family, table.name.clone());
            let sets = table.sets.keys().cloned();
            sets.map(move |set| (family, name.clone(), set))
                .collect::<Vec<_>>()
        };
        self.tables.iter().flat_map(of).collect()
    }

    /// Return the text of the tables. `interface` returns the name of an interface's index.
    pub fn text(&self, interface: &dyn Fn(u32) -> Option<String>) -> String {
        let mut out = String::new();
        for table in &self.tables {
            table.write(&mut out);
        }
        resolved(&out, interface)
    }
}

/// Replace interface indices by names, as nft does.
fn resolved(text: &str, interface: &dyn Fn(u32) -> Option<String>) -> String {
    let parts = text.split(INDEX).enumerate();
    let parts = parts.map(|(place, part)| match place % 2 {
        0 => part.to_owned(),
        _ => match part.parse().ok().and_then(interface) {
            Some(name) => format!("\"{name}\""),
            None => part.to_owned(),
        },
    });
    parts.collect()
}

impl Table {
    fn chain(&mut self, attrs: Attributes<'_>) -> Result<(), DecodeError> {
        let mut chain = Chain::default();
        let (mut hook, mut kind, mut policy) = (None, None, 1);
        for attr in attrs {
            let attr = attr?;
            match attr.kind {
                NFTA_CHAIN_NAME => chain.name = text(&attr),
                NFTA_CHAIN_HOOK => hook = Some(base(&attr)?),
                NFTA_CHAIN_POLICY => policy = attr.be32()?,
                NFTA_CHAIN_TYPE => kind = Some(text(&attr)),
                NFTA_CHAIN_USERDATA => chain.comment = comment(attr.value, 0),
                _ => {}
            }
        }
        if let (Some(mut base), Some(kind)) = (hook, kind) {
            base.kind = kind;
            base.drops = policy == 0;
            chain.base = Some(base);
        }
        let place = self.places.entry(chain.name.clone());
        place.or_insert(self.chains.len());
        self.chains.push(chain);
        Ok(())
    }

    fn rule(&mut self, attrs: Attributes<'_>) -> Result<(), DecodeError> {
        let mut rule = RawRule::default();
        let mut chain = None;
        for attr in attrs {
            let attr = attr?;
            match attr.kind {
                NFTA_RULE_CHAIN => chain = Some(text(&attr)),
                NFTA_RULE_EXPRESSIONS => rule.expressions = attr.value.to_vec(),
                NFTA_RULE_USERDATA => rule.comment = comment(attr.value, 0),
                _ => {}
            }
        }
        let place = chain.and_then(|name| self.places.get(&name));
        if let Some(chain) = place.and_then(|place| self.chains.get_mut(*place)) {
            chain.rules.push(rule);
        }
        Ok(())
    }

    /// A named object (`NFTA_OBJ_*`). Only what its kind and name say matters to readers.
    fn object(&mut self, attrs: Attributes<'_>) -> Result<(), DecodeError> {
        let (mut name, mut kind) = (String::new(), 0);
        for attr in attrs {
            let attr = attr?;
            match attr.kind {
                2 => name = text(&attr),
                3 => kind = attr.be32()?,
                _ => {}
            }
        }
        let word = super::statement::object_word(kind).unwrap_or("object");
        self.objects.push(format!("\t{word} {name} {{\n\t}}\n"));
        Ok(())
    }

    fn flowtable(&mut self, attrs: Attributes<'_>) -> Result<(), DecodeError> {
        let mut name = String::new();
        for attr in attrs {
            let attr = attr?;
            if attr.kind == 2 {
                name = text(&attr);
            }
        }
        self.objects.push(format!("\tflowtable {name} {{\n\t}}\n"));
        Ok(())
    }

    fn write(&self, out: &mut String) {
        let family = match self.family {
            1 => "inet",
            2 => "ip",
            3 => "arp",
            5 => "netdev",
            7 => "bridge",
            10 => "ip6",
            _ => return,
        };
        let _ = writeln!(out, "table {family} {} {{", self.name);
        let mut parts = Vec::new();
        let mut head = String::new();
        if let Some(comment) = &self.comment {
            let _ = writeln!(head, "\tcomment \"{comment}\"");
        }
        // `NFT_TABLE_F_DORMANT`, `NFT_TABLE_F_OWNER`.
        let flags = [(1, "dormant"), (2, "owner")];
        let set = flags.iter().filter(|(bit, _)| self.flags & bit != 0);
        let words: Vec<&str> = set.map(|(_, word)| *word).collect();
        if !words.is_empty() {
            let _ = writeln!(head, "\tflags {}", words.join(","));
        }
        if !head.is_empty() {
            parts.push(head);
        }
        parts.extend(self.objects.iter().cloned());
        let listed = self.order.iter().filter_map(|name| self.sets.get(name));
        let listed = listed.filter(|set| !set.is_anonymous());
        parts.extend(listed.map(Set::block));
        parts.extend(self.chains.iter().map(|chain| self.chain_text(chain)));
        out.push_str(&parts.join("\n"));
        out.push_str("}\n");
    }

    fn chain_text(&self, chain: &Chain) -> String {
        let mut out = format!("\tchain {} {{\n", chain.name);
        if let Some(base) = &chain.base {
            let policy = if base.drops { "drop" } else { "accept" };
            let hook = hook(self.family, base.hook);
            let devices = match base.devices.as_slice() {
                [] => String::new(),
                [device] => format!(" device \"{device}\""),
                many => format!(" devices = {{ {} }}", many.join(", ")),
            };
            let _ = writeln!(
                out,
                "\t\ttype {} hook {hook}{devices} priority {}; policy {policy};",
                base.kind,
                priority(self.family, base.hook, base.priority),
            );
        }
        if let Some(comment) = &chain.comment {
            let _ = writeln!(out, "\t\tcomment \"{comment}\"");
        }
        for raw in &chain.rules {
            let mut words = rule::statements(self, &raw.expressions);
            if let Some(comment) = &raw.comment {
                words.push(format!("comment \"{comment}\""));
            }
            let _ = writeln!(out, "\t\t{}", words.join(" "));
        }
        out.push_str("\t}\n");
        out
    }
}

fn base(attr: &Attribute<'_>) -> Result<Base, DecodeError> {
    let mut base = Base::default();
    for inner in attr.nested("nft_hook_attributes") {
        let inner = inner?;
        match inner.kind {
            1 => base.hook = inner.be32()?,
            2 => base.priority = inner.be32()?.cast_signed(),
            3 => base.devices.push(text(&inner)),
            4 => {
                for device in inner.nested("nft_devices_attributes") {
                    base.devices.push(text(&device?));
                }
            }
            _ => {}
        }
    }
    base.devices.dedup();
    Ok(base)
}

fn hook(family: u8, number: u32) -> &'static str {
    let hooks: &[&str] = match family {
        3 => &["input", "output", "forward"],
        5 => &["ingress", "egress"],
        _ => &[
            "prerouting",
            "input",
            "forward",
            "output",
            "postrouting",
            "ingress",
        ],
    };
    hooks.get(number as usize).copied().unwrap_or("unknown")
}

/// Return a priority as nft prints it: relative to the nearest named one, up to 10 away.
fn priority(family: u8, hook: u32, number: i32) -> String {
    const NAMED: [(&str, i32); 6] = [
        ("raw", -300),
        ("mangle", -150),
        ("dstnat", -100),
        ("filter", 0),
        ("security", 50),
        ("srcnat", 100),
    ];
    let is_ip = matches!(family, 1 | 2 | 10);
    let fits = |(name, _): &&(&str, i32)| match *name {
        "filter" => true,
        "dstnat" => is_ip && hook == 0,
        "srcnat" => is_ip && hook == 4,
        _ => is_ip,
    };
    let near = NAMED
        .iter()
        .filter(fits)
        .find(|(_, at)| number.abs_diff(*at) <= 10);
    match near {
        Some((name, at)) if *at == number => (*name).to_owned(),
        Some((name, at)) if number > *at => format!("{name} + {}", number - at),
        Some((name, at)) => format!("{name} - {}", at - number),
        None => number.to_string(),
    }
}
