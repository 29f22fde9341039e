//! Rules: the statements of which nft makes the expressions. The reader follows the contents of
//! registers. A match that only makes another one valid (`meta l4proto tcp` before `tcp dport`) is
//! left out, as nft does.

mod compare;
mod translate;

use super::field::{self, Base, Context};
use super::key::{ct, extension_header, fib, meta, numgen};
use super::object::Table;
use super::register::{Held, Registers};
use super::set::Set;
use super::statement::{Slots, plain};
use super::value::{
    self, BOOLEAN, CGROUP, INTEGER, IP6ADDR, IPADDR, MARK, PROTOCOL, REALM, STRING, Type, duration,
    hex,
};
use crate::netlink::{Attributes, DecodeError};

/// Return the statements of a rule's expressions.
pub(super) fn statements(table: &Table, expressions: &[u8]) -> Vec<String> {
    let mut reader = Reader::new(table);
    for item in Attributes::new(expressions, "nft_list_attributes") {
        let read = item.map_err(|_: DecodeError| ()).and_then(|item| {
            let slots = Slots::new(item.nested("nft_expr_attributes")).ok_or(())?;
            reader.expression(&slots);
            Ok(())
        });
        if read.is_err() {
            reader.push("unknown expression".to_owned());
        }
    }
    reader.words.into_iter().flatten().collect()
}

pub(super) struct Reader<'a> {
    table: &'a Table,
    registers: Registers,
    /// Statements; one that became unnecessary is `None`.
    words: Vec<Option<String>>,
    context: Context,
    /// The matches that determine the network and the transport protocol.
    dependencies: [Option<usize>; 2],
    /// The last match with `>=`, which a match with `<=` makes a range.
    lower: Option<(u32, Vec<u8>)>,
}

impl<'a> Reader<'a> {
    fn new(table: &'a Table) -> Self {
        let mut context = Context::default();
        match table.family {
            2 => context.network = Some(4),
            10 => context.network = Some(6),
            3 => context.arp = true,
            _ => {}
        }
        Self {
            table,
            registers: Registers::default(),
            words: Vec::new(),
            context,
            dependencies: [None; 2],
            lower: None,
        }
    }

    fn push(&mut self, text: String) {
        self.words.push(Some(text));
    }

    fn expression(&mut self, item: &Slots<'_>) {
        let name = item.text(1).unwrap_or_default();
        let body = item.get(2).map_or(&[][..], |attr| attr.value);
        let read = Slots::new(Attributes::new(body, "nft_expr_attributes")).and_then(|s| {
            if name != "cmp" {
                self.lower = None;
            }
            match name.as_str() {
                "payload" => self.payload(&s),
                "meta" => self.meta(&s),
                "ct" => self.ct(&s),
                "fib" | "numgen" | "hash" | "rt" | "socket" | "osf" | "exthdr" | "xfrm"
                | "tunnel" | "inner" => self.load(&name, &s),
                "immediate" => self.immediate(&s),
                "bitwise" => self.bitwise(&s),
                "byteorder" => self.byteorder(&s),
                "cmp" => self.compare(&s),
                "range" => self.range(&s),
                "lookup" => self.lookup(&s),
                "dynset" => self.dynset(&s),
                "nat" => self.nat(&s),
                "masq" | "redir" => self.local_nat(&name, &s),
                "tproxy" | "dup" | "fwd" => self.redirect(&name, &s),
                "objref" if s.get(1).is_none() => self.object_map(&s),
                _ => self.plain(&name, &s),
            }
        });
        if read.is_none() {
            self.push(format!("unknown {name}"));
        }
    }

    fn plain(&mut self, name: &str, s: &Slots<'_>) -> Option<()> {
        let family = match self.table.family {
            2 | 10 => self.table.family,
            _ if self.context.network == Some(6) => 10,
            _ => 2,
        };
        let single = matches!(self.table.family, 2 | 10);
        let text = plain(name, s, family, single)?;
        if text.starts_with("reject with icmp ") || text.starts_with("reject with icmpv6 ") {
            self.drop_dependency(0);
        }
        self.push(text);
        Some(())
    }

    /// Leave out the match that determined a protocol: 0 for the network's, 1 for the transport's.
    fn drop_dependency(&mut self, layer: usize) {
        if let Some(place) = self.dependencies[layer].take()
            && let Some(word) = self.words.get_mut(place)
        {
            *word = None;
        }
    }

    fn payload(&mut self, s: &Slots<'_>) -> Option<()> {
        let base = Base::of(s.number(2)?)?;
        let (offset, len) = (s.number(3)?, s.number(4)?);
        // `NFT_DATA_VALUE_MAXLEN`, and any header.
        if len > 64 || offset > 0xffff {
            return None;
        }
        if let Some(source) = s.number(5) {
            let field = self.context.field(base, offset, len, None);
            let field = field.unwrap_or_else(|| field::raw(base, offset, len));
            let value = self.value(source, field.of)?;
            self.push(format!("{} set {value}", field.text));
            return Some(());
        }
        let field = self.context.field(base, offset, len, None);
        let field = field.unwrap_or_else(|| field::raw(base, offset, len));
        let mut held = Held::new(field.text, field.of, len as usize);
        held.place = Some((base, offset, len));
        self.registers.hold(s.number(1)?, held);
        Some(())
    }

    /// Use of a field makes the matches that determine its protocol unnecessary.
    fn use_place(&mut self, held: &Held) {
        let known = |(base, offset, len)| {
            !held.text.starts_with('@') || self.context.longer(base, offset, len).is_some()
        };
        match held.place.filter(|place| known(*place)) {
            Some((Base::Network, ..)) => self.drop_dependency(0),
            Some((Base::Transport, ..)) if !held.text.starts_with("th ") => {
                // In a table of several families, this match also determines the family.
                let place = self.dependencies[1].and_then(|place| self.words.get(place));
                let is_ip = place.is_some_and(|word| {
                    let mut words = word.iter();
                    words.any(|word| word.starts_with("ip"))
                });
                if !is_ip || matches!(self.table.family, 2 | 10) {
                    self.drop_dependency(1);
                }
                if held.text.starts_with("icmp") {
                    self.drop_dependency(0);
                }
            }
            _ => {}
        }
    }

    fn meta(&mut self, s: &Slots<'_>) -> Option<()> {
        let (text, of, len) = meta(s.number(2)?)?;
        if let Some(source) = s.number(3) {
            let value = self.value(source, of)?;
            self.push(format!("{text} set {value}"));
            return Some(());
        }
        self.registers.hold(s.number(1)?, Held::new(text, of, len));
        Some(())
    }

    fn ct(&mut self, s: &Slots<'_>) -> Option<()> {
        let (key, of, len) = ct(s.number(2)?, self.context)?;
        let direction = match s.byte(3) {
            Some(0) => "original ",
            Some(_) => "reply ",
            None => "",
        };
        let text = format!("ct {direction}{key}");
        if let Some(source) = s.number(4) {
            let value = self.value(source, of)?;
            self.push(format!("{text} set {value}"));
            return Some(());
        }
        self.registers.hold(s.number(1)?, Held::new(text, of, len));
        Some(())
    }

    /// Other expressions that load a register.
    fn load(&mut self, name: &str, s: &Slots<'_>) -> Option<()> {
        let (register, held) = match name {
            "fib" => (1, fib(s)?),
            "numgen" => (1, numgen(s)?),
            "hash" => return self.hash(s),
            "exthdr" => return self.exthdr(s),
            "rt" => {
                let (text, of, len) = match s.number(2)? {
                    0 => ("rt classid", REALM, 4),
                    1 => ("rt ip nexthop", IPADDR, 4),
                    2 => ("rt ip6 nexthop", IP6ADDR, 16),
                    3 => ("rt mtu", INTEGER, 2),
                    4 => ("rt ipsec", BOOLEAN, 1),
                    _ => return None,
                };
                let of = if of == INTEGER {
                    Type::host(of)
                } else {
                    Type::of(of)
                };
                (1, Held::new(text, of, len))
            }
            "socket" => {
                let (text, of, len) = match s.number(1)? {
                    0 => ("socket transparent", BOOLEAN, 1),
                    1 => ("socket mark", MARK, 4),
                    2 => ("socket wildcard", BOOLEAN, 1),
                    3 => ("socket cgroupv2", CGROUP, 8),
                    _ => return None,
                };
                (2, Held::new(text, Type::of(of), len))
            }
            "osf" => (1, Held::new("osf name", Type::of(STRING), 16)),
            _ => return None,
        };
        self.registers.hold(s.number(register)?, held);
        Some(())
    }

    fn hash(&mut self, s: &Slots<'_>) -> Option<()> {
        let mut text = match s.number_or(7, 0) {
            0 => {
                let key = self.registers.key(s.number(1)?, s.number(3)? as usize)?;
                let key: Vec<Held> = key.into_iter().cloned().collect();
                key.iter().for_each(|held| self.use_place(held));
                let texts = key.iter().map(|held| held.text.as_str());
                format!("jhash {}", texts.collect::<Vec<_>>().join(" . "))
            }
            _ => "symhash".to_owned(),
        };
        text.push_str(&format!(" mod {}", s.number(4)?));
        if let Some(seed) = s.number(5).filter(|seed| *seed != 0) {
            text.push_str(&format!(" seed 0x{seed:x}"));
        }
        if let Some(offset) = s.number(6).filter(|offset| *offset != 0) {
            text.push_str(&format!(" offset {offset}"));
        }
        let held = Held::new(text, Type::host(INTEGER), 4);
        self.registers.hold(s.number(2)?, held);
        Some(())
    }

    /// `NFTA_EXTHDR_*`: register 1, type 2, offset 3, length 4, flags 5, operation 6, source 7.
    fn exthdr(&mut self, s: &Slots<'_>) -> Option<()> {
        let (kind, offset, len) = (s.byte(2)?, s.number(3)?, s.number(4)?);
        let is_tcp = s.number_or(6, 0) == 1;
        let present = s.number_or(5, 0) & 1 != 0;
        let text = extension_header(is_tcp, kind, offset)?;
        self.drop_dependency(1);
        if let Some(source) = s.number(7) {
            let value = self.value(source, Type::of(INTEGER))?;
            self.push(format!("{text} set {value}"));
            return Some(());
        }
        let of = Type::of(if present { BOOLEAN } else { INTEGER });
        let held = Held::new(text, of, len as usize);
        self.registers.hold(s.number(1)?, held);
        Some(())
    }

    fn immediate(&mut self, s: &Slots<'_>) -> Option<()> {
        let (value, verdict) = super::set::data(s.get(2)?).ok()?;
        if let Some(verdict) = verdict {
            self.push(verdict);
            return Some(());
        }
        let value = value?;
        let mut held = Held::new(hex(&value), Type::of(INTEGER), value.len());
        held.constant = Some(value);
        self.registers.hold(s.number(1)?, held);
        Some(())
    }

    fn bitwise(&mut self, s: &Slots<'_>) -> Option<()> {
        let held = self.registers.held(s.number(1)?)?.clone();
        let target = s.number(2)?;
        let operation = s.number_or(6, 0);
        if operation != 0 {
            let by = held.of.host;
            let shift = Type {
                number: INTEGER,
                host: by,
            }
            .number_of(&s.value(7)?);
            let sign = match operation {
                1 => "<<",
                2 => ">>",
                _ => return None,
            };
            let shift = if by {
                shift
            } else {
                u64::from(u32::from_ne_bytes(s.value(7)?.try_into().ok()?))
            };
            let mut shifted = Held::new(format!("{} {sign} {shift}", held.text), held.of, held.len);
            shifted.place = held.place;
            self.registers.hold(target, shifted);
            return Some(());
        }
        let (mask, xor) = (s.value(4)?, s.value(5)?);
        let mut masked = held.clone();
        match &held.bits {
            None => masked.bits = Some((mask, xor)),
            Some(_) => {
                masked.text = self.masked_text(&held);
                masked.bits = Some((mask, xor));
                masked.place = None;
            }
        }
        self.registers.hold(target, masked);
        Some(())
    }

    /// Return the text of a value with the bit operations on it.
    fn masked_text(&self, held: &Held) -> String {
        let Some((mask, xor)) = &held.bits else {
            return held.text.clone();
        };
        let of = held.of;
        let zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        // Bits that are set have a zero in the mask.
        let sets = mask.iter().zip(xor).all(|(m, x)| m & x == 0);
        let either: Vec<u8> = mask.iter().zip(xor).map(|(m, x)| m | x).collect();
        let is_or = sets && either.iter().all(|byte| *byte == u8::MAX);
        let literal = |bytes: &[u8]| match of.is_flags() {
            true => {
                let names = of.flags(of.number_of(bytes), " | ");
                if names.contains('|') {
                    format!("({names})")
                } else {
                    names
                }
            }
            false if of.number == INTEGER || of.number == PROTOCOL => {
                format!("0x{:x}", of.number_of(bytes))
            }
            false => of.text(bytes),
        };
        if let (Some((base, offset, len)), true) = (held.place, zero(xor)) {
            let bits = Type::of(INTEGER).number_of(mask);
            if let Some(field) = self.context.field(base, offset, len, Some(bits)) {
                return field.text;
            }
        }
        if zero(xor) {
            format!("{} & {}", held.text, literal(mask))
        } else if mask.iter().all(|byte| *byte == u8::MAX) {
            format!("{} ^ {}", held.text, literal(xor))
        } else if is_or {
            format!("{} | {}", held.text, literal(xor))
        } else if sets {
            format!("{} & {} | {}", held.text, literal(&either), literal(xor))
        } else {
            format!("{} & {} ^ {}", held.text, literal(mask), literal(xor))
        }
    }

    /// Conversions of the byte order do not change the value.
    fn byteorder(&mut self, s: &Slots<'_>) -> Option<()> {
        let mut held = self.registers.held(s.number(1)?)?.clone();
        held.of.host = s.number(3)? == 0;
        self.registers.hold(s.number(2)?, held);
        Some(())
    }

    /// Return the value of a register for an assignment.
    fn value(&mut self, register: u32, of: Type) -> Option<String> {
        let held = self.registers.held(register)?.clone();
        Some(match &held.constant {
            Some(bytes) => {
                let len = value::word(of.number).map_or(bytes.len(), |(_, size)| size);
                let bytes = bytes.get(..len.min(bytes.len())).filter(|b| !b.is_empty());
                let integer = of.number == INTEGER;
                let bytes = if integer {
                    held.constant.as_deref()
                } else {
                    bytes
                };
                of.text(bytes?)
            }
            None => self.masked_text(&held),
        })
    }

    fn range(&mut self, s: &Slots<'_>) -> Option<()> {
        let held = self.registers.held(s.number(1)?)?.clone();
        let (from, to) = (s.value(3)?, s.value(4)?);
        let sign = if s.number(2)? == 1 { "!= " } else { "" };
        self.use_place(&held);
        let text = format!(
            "{} {sign}{}",
            self.masked_text(&held),
            value::range(held.of, &from, &to)
        );
        self.push(text);
        Some(())
    }

    /// Return the key that is looked up in a set, as text and types.
    fn key(&mut self, register: u32, set: &Set) -> Option<(String, Vec<(Type, usize)>)> {
        let key: Vec<Held> = self
            .registers
            .key(register, set.key_len)?
            .into_iter()
            .cloned()
            .collect();
        for held in &key {
            self.use_place(held);
        }
        let text = key.iter().map(|held| self.masked_text(held));
        let text = text.collect::<Vec<_>>().join(" . ");
        Some((text, key.iter().map(|held| (held.of, held.len)).collect()))
    }

    fn lookup(&mut self, s: &Slots<'_>) -> Option<()> {
        let name = s.text(1)?;
        let set = self.table.sets.get(&name)?;
        let (key, types) = self.key(s.number(2)?, set)?;
        let there = match set.is_anonymous() {
            true => set.inline(&types),
            false => format!("@{name}"),
        };
        let inverted = if s.number_or(5, 0) & 1 != 0 {
            "!= "
        } else {
            ""
        };
        match s.number(3) {
            None => self.push(format!("{key} {inverted}{there}")),
            Some(0) => self.push(format!("{key} vmap {there}")),
            Some(register) => {
                let text = format!("{key} map {there}");
                let types = set.data_types();
                let first = types.first().copied().unwrap_or(INTEGER);
                let mut held = Held::new(text, Type::of(first), set.data_bytes());
                held.mapped = types;
                self.registers.hold(register, held);
            }
        }
        Some(())
    }

    /// `NFTA_DYNSET_*`: set 1, operation 3, key 4, data 5, timeout 6, expression 7, expressions 10.
    fn dynset(&mut self, s: &Slots<'_>) -> Option<()> {
        let name = s.text(1)?;
        let set = self.table.sets.get(&name)?;
        let op = match s.number(3)? {
            0 => "add",
            1 => "update",
            _ => "delete",
        };
        let (mut text, _) = self.key(s.number(4)?, set)?;
        if let Some(timeout) = s.long(6).filter(|timeout| *timeout != 0) {
            text.push_str(&format!(" timeout {}", duration(timeout)));
        }
        let single = s
            .get(7)
            .map(|attr| Slots::new(attr.nested("nft_expr_attributes")));
        let many = s.get(10).map(|attr| attr.nested("nft_list_attributes"));
        let many = many.into_iter().flatten().flatten();
        let many = many.map(|item| Slots::new(item.nested("nft_expr_attributes")));
        for item in single.into_iter().chain(many) {
            let item = item?;
            let body = item.get(2).map_or(&[][..], |attr| attr.value);
            let slots = Slots::new(Attributes::new(body, "nft_expr_attributes"))?;
            let condition = plain(&item.text(1)?, &slots, self.table.family, true)?;
            text.push_str(&format!(" {condition}"));
        }
        if let Some(data) = s.number(5) {
            let of = set.data_types().first().copied().unwrap_or(INTEGER);
            let parts = self.registers.key(data, set.data_bytes());
            let parts: Option<Vec<Held>> = parts.map(|all| all.into_iter().cloned().collect());
            let value = match parts.as_deref() {
                Some([_]) | None => self.value(data, Type::of(of))?,
                Some(many) => {
                    let texts = many.iter().map(|held| self.masked_text(held));
                    texts.collect::<Vec<_>>().join(" . ")
                }
            };
            text.push_str(&format!(" : {value}"));
        }
        self.push(format!("{op} @{name} {{ {text} }}"));
        Some(())
    }

    fn object_map(&mut self, s: &Slots<'_>) -> Option<()> {
        let name = s.text(4)?;
        let set = self.table.sets.get(&name)?;
        let (key, types) = self.key(s.number(3)?, set)?;
        let there = match set.is_anonymous() {
            true => set.inline(&types),
            false => format!("@{name}"),
        };
        self.push(format!("counter name {key} map {there}"));
        Some(())
    }
}
