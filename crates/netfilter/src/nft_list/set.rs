//! Sets, maps and their elements.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::object::{comment, text, user_data};
use super::statement;
use super::value::{Type, VERDICT, duration, fields, range, word};
use crate::netlink::{Attribute, Attributes, DecodeError};

const NFT_SET_ANONYMOUS: u32 = 1;
const NFT_SET_CONSTANT: u32 = 2;
const NFT_SET_INTERVAL: u32 = 4;
const NFT_SET_MAP: u32 = 8;
const NFT_SET_TIMEOUT: u32 = 16;
const NFT_SET_EVAL: u32 = 32;
/// `NFT_SET_ELEM_INTERVAL_END`, `NFT_SET_ELEM_CATCHALL`.
const INTERVAL_END: u32 = 1;
const CATCHALL: u32 = 2;

/// A set or map.
#[derive(Clone, Debug, Default)]
pub(super) struct Set {
    pub(super) name: String,
    flags: u32,
    key_type: u32,
    pub(super) key_len: usize,
    data_type: Option<u32>,
    data_len: usize,
    object_type: Option<u32>,
    timeout: u64,
    size: Option<u32>,
    comment: Option<String>,
    /// `BYTEORDER_*` of integers, in nft's user data: 1 for the host's.
    key_order: Option<u32>,
    data_order: Option<u32>,
    auto_merge: bool,
    /// Whether each field of the key is a header field, if nft's user data names the expressions.
    key_payload: Vec<bool>,
    /// The lengths of a concatenation's fields, if the kernel has them.
    field_lens: Vec<usize>,
    elements: Vec<Element>,
}

#[derive(Clone, Debug, Default)]
struct Element {
    key: Vec<u8>,
    key_end: Option<Vec<u8>>,
    data: Option<String>,
    value: Option<Vec<u8>>,
    flags: u32,
    timeout: u64,
    expires: u64,
    comment: Option<String>,
}

/// Return the value or verdict of `enum nft_data_attributes`.
pub(super) fn data(attr: &Attribute<'_>) -> Result<(Option<Vec<u8>>, Option<String>), DecodeError> {
    for inner in attr.nested("nft_data_attributes") {
        let inner = inner?;
        match inner.kind {
            1 => return Ok((Some(inner.value.to_vec()), None)),
            2 => return Ok((None, Some(statement::verdict(&inner)?))),
            _ => {}
        }
    }
    Ok((None, None))
}

/// Return whether each expression of a `typeof` is a header field. An expression has its kind (nft's
/// `enum expr_types`) and data; that of a concatenation are the parts by their place.
fn payloads(bytes: &[u8]) -> Vec<bool> {
    const EXPR_PAYLOAD: u32 = 7;
    const EXPR_CONCAT: u32 = 13;
    let kind = |bytes| number(user_data(bytes, 0));
    if kind(bytes) != Some(EXPR_CONCAT) {
        return vec![kind(bytes) == Some(EXPR_PAYLOAD)];
    }
    let parts = user_data(bytes, 1).unwrap_or_default();
    let parts = (0..16).map_while(|place| user_data(parts, place));
    parts.map(|part| kind(part) == Some(EXPR_PAYLOAD)).collect()
}

fn number(bytes: Option<&[u8]>) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes?.try_into().ok()?))
}

impl Set {
    pub(super) fn decode(attrs: Attributes<'_>) -> Result<Self, DecodeError> {
        let mut set = Self::default();
        for attr in attrs {
            let attr = attr?;
            match attr.kind {
                2 => set.name = text(&attr),
                3 => set.flags = attr.be32()?,
                4 => set.key_type = attr.be32()?,
                5 => set.key_len = attr.be32()? as usize,
                6 => set.data_type = Some(attr.be32()?),
                7 => set.data_len = attr.be32()? as usize,
                9 => set.description(&attr)?,
                11 => set.timeout = attr.be64()?,
                13 => {
                    set.key_order = number(user_data(attr.value, 0));
                    set.data_order = number(user_data(attr.value, 1));
                    set.auto_merge = number(user_data(attr.value, 2)).is_some_and(|on| on != 0);
                    set.comment = comment(attr.value, 7);
                    set.key_payload = user_data(attr.value, 3).map(payloads).unwrap_or_default();
                }
                15 => set.object_type = Some(attr.be32()?),
                _ => {}
            }
        }
        Ok(set)
    }

    fn description(&mut self, attr: &Attribute<'_>) -> Result<(), DecodeError> {
        for inner in attr.nested("nft_set_desc_attributes") {
            let inner = inner?;
            match inner.kind {
                1 => self.size = Some(inner.be32()?),
                2 => {
                    for field in inner.nested("nft_list_attributes") {
                        for len in field?.nested("nft_set_field_attributes") {
                            self.field_lens.push(len?.be32()? as usize);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn is_anonymous(&self) -> bool {
        self.flags & NFT_SET_ANONYMOUS != 0
    }

    /// Return the types of a map's data.
    pub(super) fn data_types(&self) -> Vec<u32> {
        self.data_type.map(fields).unwrap_or_default()
    }

    pub(super) fn data_bytes(&self) -> usize {
        self.data_len
    }

    /// Return the types and lengths of the key's fields; `given` are those of the expressions that look
    /// the key up, which tell the type of integers.
    fn key_fields(&self, given: &[(Type, usize)]) -> Vec<(Type, usize)> {
        let types = fields(self.key_type);
        if given.len() == types.len().max(1) {
            return given.to_vec();
        }
        let only = types.len() == 1;
        let sized = types.iter().zip(0..).map(|(number, place)| {
            let mut of = Type::of(*number);
            let is_payload = self.key_payload.get(place).copied();
            let host = is_payload.map_or(self.key_order == Some(1), |payload| !payload);
            of.host |= *number == super::value::INTEGER && host;
            let known = word(*number).map(|(_, size)| size);
            let len = match (only, self.field_lens.get(place)) {
                (true, _) => self.key_len,
                (false, Some(len)) => *len,
                (false, None) => known.unwrap_or(4),
            };
            (of, len)
        });
        sized.collect()
    }

    fn data_fields(&self) -> Vec<(Type, usize)> {
        let types = self.data_types();
        let only = types.len() == 1;
        let sized = types.iter().map(|number| {
            let mut of = Type::of(*number);
            of.host |= *number == super::value::INTEGER && self.data_order == Some(1);
            let size = word(*number).map_or(4, |(_, size)| size);
            (of, if only { self.data_len } else { size })
        });
        sized.collect()
    }

    /// Return the declaration with its elements.
    pub(super) fn block(&self) -> String {
        let kind = match self.flags & NFT_SET_MAP != 0 || self.object_type.is_some() {
            true => "map",
            false => "set",
        };
        let words = |types: &[u32]| {
            let words = types
                .iter()
                .map(|t| word(*t).map_or("unknown", |(word, _)| word));
            words.collect::<Vec<_>>().join(" . ")
        };
        let mut out = format!("\t{kind} {} {{\n", self.name);
        let _ = write!(out, "\t\ttype {}", words(&fields(self.key_type)));
        match (self.data_type, self.object_type) {
            (Some(u32::MAX | 0xffff_ff00), _) => out.push_str(" : verdict"),
            (Some(number), _) => {
                let _ = write!(out, " : {}", words(&fields(number)));
            }
            (None, Some(kind)) => {
                let word = statement::object_word(kind).unwrap_or("object");
                let _ = write!(out, " : {word}");
            }
            (None, None) => {}
        }
        out.push('\n');
        if let Some(size) = self.size {
            let _ = writeln!(out, "\t\tsize {size}");
        }
        let flags = [
            (NFT_SET_CONSTANT, "constant"),
            (NFT_SET_EVAL, "dynamic"),
            (NFT_SET_INTERVAL, "interval"),
            (NFT_SET_TIMEOUT, "timeout"),
        ];
        // A default timeout implies the flag.
        let shown = flags.iter().filter(|(bit, _)| self.flags & bit != 0);
        let shown: Vec<&str> = shown.map(|(_, word)| *word).collect();
        if !shown.is_empty() {
            let _ = writeln!(out, "\t\tflags {}", shown.join(","));
        }
        if self.timeout != 0 {
            let _ = writeln!(out, "\t\ttimeout {}", duration(self.timeout));
        }
        if self.auto_merge {
            out.push_str("\t\tauto-merge\n");
        }
        if let Some(comment) = &self.comment {
            let _ = writeln!(out, "\t\tcomment \"{comment}\"");
        }
        let elements = self.element_texts(&[]);
        if !elements.is_empty() {
            let _ = writeln!(
                out,
                "\t\telements = {{ {} }}",
                elements.join(",\n\t\t\t     ")
            );
        }
        out.push_str("\t}\n");
        out
    }

    /// Return the set in place: `{ 80, 443 }`.
    pub(super) fn inline(&self, given: &[(Type, usize)]) -> String {
        format!("{{ {} }}", self.element_texts(given).join(", "))
    }

    fn element_texts(&self, given: &[(Type, usize)]) -> Vec<String> {
        let key = self.key_fields(given);
        let data = self.data_fields();
        let sorted = |element: &Element| sort_key(&key, &element.key);
        let mut all: Vec<&Element> = self.elements.iter().collect();
        all.sort_by_cached_key(|e| (sorted(e), e.flags & INTERVAL_END == 0));
        let is_interval = self.flags & NFT_SET_INTERVAL != 0 && key.len() == 1;
        let mut texts = Vec::new();
        let mut rest = all.iter().peekable();
        while let Some(element) = rest.next() {
            if element.flags & INTERVAL_END != 0 {
                continue;
            }
            let text = match (is_interval, key.first()) {
                _ if element.flags & CATCHALL != 0 => "*".to_owned(),
                (true, Some((of, _))) => {
                    let next = rest.peek().map(|next| &*next.key);
                    interval(*of, &element.key, next)
                }
                _ => concatenation(&key, &element.key, element.key_end.as_deref()),
            };
            texts.push(element.finish(text, &data));
        }
        texts
    }
}

impl Element {
    fn finish(&self, mut text: String, data: &[(Type, usize)]) -> String {
        if self.timeout != 0 {
            let _ = write!(text, " timeout {}", duration(self.timeout));
        }
        if self.expires != 0 {
            let _ = write!(text, " expires {}", duration(self.expires));
        }
        if let Some(comment) = &self.comment {
            let _ = write!(text, " comment \"{comment}\"");
        }
        if let Some(data) = &self.data {
            let _ = write!(text, " : {data}");
        } else if let Some(value) = &self.value {
            let _ = write!(text, " : {}", concatenation(data, value, None));
        }
        text
    }
}

/// Return the fields of a value; those of a concatenation are padded to four bytes.
fn split<'b>(of: &[(Type, usize)], bytes: &'b [u8]) -> Vec<(Type, &'b [u8])> {
    let mut at = 0;
    let mut parts = Vec::new();
    for (of, len) in of {
        let len = (*len).max(1);
        let part = bytes.get(at..at + len);
        parts.push((*of, part.unwrap_or_default()));
        at += len.next_multiple_of(4);
    }
    parts
}

fn sort_key(of: &[(Type, usize)], bytes: &[u8]) -> Vec<u8> {
    let parts = split(of, bytes).into_iter();
    parts.flat_map(|(of, part)| of.sorted(part)).collect()
}

fn concatenation(of: &[(Type, usize)], from: &[u8], to: Option<&[u8]>) -> String {
    let from = split(of, from);
    let parts: Vec<String> = match to {
        None => from.iter().map(|(of, part)| of.text(part)).collect(),
        Some(to) => {
            let to = split(of, to);
            let both = from.iter().zip(&to);
            both.map(|((of, from), (_, to))| range(*of, from, to))
                .collect()
        }
    };
    parts.join(" . ")
}

/// Return the range from a key to the one before the next, or to the last one.
fn interval(of: Type, from: &[u8], next: Option<&[u8]>) -> String {
    let mut last = match next {
        Some(next) => of.sorted(next),
        None => vec![0; from.len()],
    };
    // Subtract one.
    for byte in last.iter_mut().rev() {
        let (less, borrow) = byte.overflowing_sub(1);
        *byte = less;
        if !borrow {
            break;
        }
    }
    // `sorted` is its own inverse.
    range(of, from, &of.sorted(&last))
}

/// Add the elements of a message to their set.
pub(super) fn elements(
    attrs: Attributes<'_>,
    sets: &mut BTreeMap<String, Set>,
) -> Result<(), DecodeError> {
    let mut name = String::new();
    let mut all = Vec::new();
    for attr in attrs {
        let attr = attr?;
        match attr.kind {
            2 => name = text(&attr),
            3 => {
                for item in attr.nested("nft_list_attributes") {
                    all.push(element(&item?)?);
                }
            }
            _ => {}
        }
    }
    if let Some(set) = sets.get_mut(&name) {
        set.elements.extend(all);
    }
    Ok(())
}

fn element(item: &Attribute<'_>) -> Result<Element, DecodeError> {
    let mut element = Element::default();
    for attr in item.nested("nft_set_elem_attributes") {
        let attr = attr?;
        match attr.kind {
            1 => element.key = data(&attr)?.0.unwrap_or_default(),
            2 => (element.value, element.data) = data(&attr)?,
            3 => element.flags = attr.be32()?,
            4 => element.timeout = attr.be64()?,
            5 => element.expires = attr.be64()?,
            6 => element.comment = comment(attr.value, 0),
            9 => element.data = Some(format!("\"{}\"", text(&attr))),
            10 => element.key_end = data(&attr)?.0,
            _ => {}
        }
    }
    Ok(element)
}

const _: () = assert!(VERDICT == 1);
