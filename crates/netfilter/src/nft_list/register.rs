//! The contents of registers while a rule is read.

use super::field::Base;
use super::value::Type;

/// The number of registers of four bytes.
const COUNT: usize = 20;

/// A value in registers.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// nft's text of it.
    pub(super) text: String,
    pub(super) of: Type,
    /// The length in bytes.
    pub(super) len: usize,
    /// The place in the packet.
    pub(super) place: Option<(Base, u32, u32)>,
    /// A mask and an exclusive-or that were applied.
    pub(super) bits: Option<(Vec<u8>, Vec<u8>)>,
    /// A constant.
    pub(super) constant: Option<Vec<u8>>,
    /// The types of a map's data, which may be a concatenation.
    pub(super) mapped: Vec<u32>,
}

impl Held {
    pub(super) fn new(text: impl Into<String>, of: Type, len: usize) -> Self {
        Self {
            text: text.into(),
            of,
            len,
            place: None,
            bits: None,
            constant: None,
            mapped: Vec::new(),
        }
    }
}

/// All registers.
#[derive(Clone, Debug)]
pub(super) struct Registers([Option<Held>; COUNT]);

impl Default for Registers {
    fn default() -> Self {
        Self(std::array::from_fn(|_| None))
    }
}

/// Return the place of a register's number (`enum nft_registers`) in units of four bytes.
pub(super) fn unit(number: u32) -> Option<usize> {
    match number {
        1..=4 => Some((number as usize - 1) * 4),
        8..=23 => Some(number as usize - 8),
        _ => None,
    }
}

impl Registers {
    pub(super) fn hold(&mut self, number: u32, held: Held) {
        let Some(first) = unit(number) else { return };
        let len = held.len.div_ceil(4).max(1);
        for place in self.0.iter_mut().skip(first).take(len) {
            *place = None;
        }
        if let Some(place) = self.0.get_mut(first) {
            *place = Some(held);
        }
    }

    pub(super) fn held(&self, number: u32) -> Option<&Held> {
        self.0.get(unit(number)?)?.as_ref()
    }

    /// Return the values in `len` bytes of registers from one on: the fields of a key.
    pub(super) fn key(&self, number: u32, len: usize) -> Option<Vec<&Held>> {
        let mut at = unit(number)?;
        let end = at + len.div_ceil(4).max(1);
        let mut parts = Vec::new();
        while at < end {
            let held = self.0.get(at)?.as_ref()?;
            parts.push(held);
            at += held.len.div_ceil(4).max(1);
        }
        Some(parts)
    }
}
