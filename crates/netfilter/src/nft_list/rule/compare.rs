//! Comparisons of fields with constants.

use super::Reader;
use crate::nft_list::register::Held;
use crate::nft_list::statement::Slots;
use crate::nft_list::value::{self, IFNAME, INTEGER, Type, prefix_length};

impl Reader<'_> {
    pub(super) fn compare(&mut self, s: &Slots<'_>) -> Option<()> {
        let register = s.number(1)?;
        let held = self.registers.held(register)?.clone();
        let value = s.value(3)?;
        let op = s.number(2)?;
        let lower = self.lower.take();
        match (op, &lower) {
            (3, Some((of, from))) if *of == register => {
                self.words.pop();
                let text = format!(
                    "{} {}",
                    self.masked_text(&held),
                    value::range(held.of, from, &value)
                );
                self.push(text);
                return Some(());
            }
            (5, _) => self.lower = Some((register, value.clone())),
            _ => {}
        }
        if op == 0 && held.bits.is_none() && self.split(&held, &value).is_some() {
            return Some(());
        }
        self.use_place(&held);
        let text = self.comparison(op, &held, &value)?;
        self.push(text);
        if op == 0 && held.bits.is_none() {
            self.learn(&held, &value);
        }
        Some(())
    }

    /// A comparison of adjacent fields at once.
    fn split(&mut self, held: &Held, value: &[u8]) -> Option<()> {
        let (base, offset, len) = held.place?;
        if !held.text.starts_with('@') || held.len != value.len() {
            return None;
        }
        let mut parts = Vec::new();
        let mut at = 0;
        while at < len {
            let size = self.context.first(base, offset + at, len - at)?;
            let field = self.context.field(base, offset + at, size, None)?;
            let bytes = value.get(at as usize..(at + size) as usize)?;
            parts.push((field, size, bytes.to_vec()));
            at += size;
        }
        for (field, size, bytes) in parts {
            let mut part = Held::new(field.text, field.of, size as usize);
            part.place = Some((base, offset, size));
            self.use_place(&part);
            let text = self.comparison(0, &part, &bytes)?;
            self.push(text);
        }
        Some(())
    }

    fn comparison(&self, op: u32, held: &Held, value: &[u8]) -> Option<String> {
        let sign = match op {
            0 => "",
            1 => "!= ",
            2 => "< ",
            3 => "<= ",
            4 => "> ",
            5 => ">= ",
            _ => return None,
        };
        let of = held.of;
        let zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        if let Some((mask, xor)) = &held.bits
            && zero(xor)
        {
            if of.is_flags() && zero(value) && op < 2 {
                let sign = if op == 1 { "" } else { "! " };
                let flags = of.flags(of.number_of(mask), ",");
                return Some(format!("{} {sign}{flags}", held.text));
            }
            if of.is_address()
                && op < 2
                && let Some(length) = prefix_length(mask)
            {
                return Some(format!("{} {sign}{}/{length}", held.text, of.text(value)));
            }
            if let Some((base, offset, len)) = held.place {
                let bits = Type::of(INTEGER).number_of(mask);
                if let Some(field) = self.context.field(base, offset, len, Some(bits)) {
                    let number = Type::of(INTEGER).number_of(value) >> bits.trailing_zeros();
                    let number = field.of.text(&[number as u8]);
                    return Some(format!("{} {sign}{number}", field.text));
                }
            }
        }
        if let (Some((mask, xor)), true, 0..=1) = (&held.bits, of.is_flags(), op)
            && zero(xor)
        {
            let flags = |bytes: &[u8]| of.flags(of.number_of(bytes), ",");
            let (value, mask) = (flags(value), flags(mask));
            return Some(format!("{} {sign}{value} / {mask}", held.text));
        }
        if held.bits.is_some() {
            let sign = if op == 0 { "== " } else { sign };
            let right = match of.is_flags() {
                true => of.flags(of.number_of(value), " | "),
                false => of.text(value),
            };
            return Some(format!("{} {sign}{right}", self.masked_text(held)));
        }
        if let Some((base, offset, len)) = held.place
            && held.text.starts_with('@')
            && let Some((field, size)) = self.context.longer(base, offset, len)
            && field.of.is_address()
        {
            let mut whole = value.to_vec();
            whole.resize(size, 0);
            return Some(format!(
                "{} {sign}{}/{}",
                field.text,
                field.of.text(&whole),
                len * 8
            ));
        }
        let value = match of.number {
            IFNAME => value,
            _ => value.get(..held.len).unwrap_or(value),
        };
        let sign = if of.is_flags() && op == 0 {
            "== "
        } else {
            sign
        };
        Some(format!("{} {sign}{}", held.text, of.text(value)))
    }

    /// Remember the protocol that a comparison determines.
    fn learn(&mut self, held: &Held, value: &[u8]) {
        let place = self.words.len() - 1;
        let number = held.of.number_of(value);
        match held.text.as_str() {
            "meta l4proto" | "ip protocol" | "ip6 nexthdr" => {
                self.context.transport = u8::try_from(number).ok();
                self.dependencies[1] = Some(place);
            }
            "meta nfproto" | "meta protocol" | "ether type" => {
                self.context.network = match number {
                    2 | 0x0800 => Some(4),
                    10 | 0x86dd => Some(6),
                    _ => return,
                };
                self.dependencies[0] = Some(place);
            }
            _ => {}
        }
    }
}
