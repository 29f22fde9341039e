//! Extensions that name ipsets. Their structures contain the set's index instead of its name
//! (`linux/netfilter/ipset/ip_set.h`, `linux/netfilter/xt_set.h`).

use std::collections::BTreeMap;

use super::Unsupported;
use super::info::{Reader, Writer};
use crate::iptables::{MatchSet, Negatable, SetDirection, SetTarget};

/// The indices of ipsets, which change when a set is created again or swapped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetIndex {
    names: BTreeMap<u16, Box<str>>,
}

impl SetIndex {
    /// Return the name of a set.
    pub fn name(&self, index: u16) -> Option<&str> {
        self.names.get(&index).map(|name| &**name)
    }

    /// Return the index of a set.
    pub fn index(&self, name: &str) -> Option<u16> {
        let found = self.names.iter().find(|(_, known)| &***known == name);
        found.map(|(index, _)| *index)
    }

    /// Return the names of all sets, in the order of the indices.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.values().map(|name| &**name)
    }

    fn named(&self, index: u16) -> Result<Box<str>, Unsupported> {
        let name = self.name(index).map(Into::into);
        name.ok_or_else(|| Unsupported::new(format!("a set of the unknown index {index}")))
    }

    fn indexed(&self, name: &str) -> Result<u16, Unsupported> {
        let index = self.index(name);
        index.ok_or_else(|| Unsupported::new(format!("set {name}, which does not exist,")))
    }
}

#[cfg(test)]
impl SetIndex {
    /// Return an index of all sets that the text of rules names.
    pub(crate) fn of_text(text: &str) -> Self {
        let words: Vec<&str> = text.split_whitespace().collect();
        let named = words.windows(2).filter_map(|pair| match pair {
            ["--match-set" | "--set" | "--add-set" | "--del-set", name] => {
                Some(name.trim_matches('"'))
            }
            _ => None,
        });
        let names: std::collections::BTreeSet<&str> = named.collect();
        let indexed = names.into_iter().zip(0..);
        indexed.map(|(name, index)| (index, name.into())).collect()
    }
}

impl FromIterator<(u16, Box<str>)> for SetIndex {
    fn from_iter<I: IntoIterator<Item = (u16, Box<str>)>>(sets: I) -> Self {
        Self {
            names: sets.into_iter().collect(),
        }
    }
}

/// `IPSET_INVALID_ID`.
const INVALID: u16 = u16::MAX;
/// `IPSET_INV_MATCH`.
const INVERT: u8 = 1;
/// `IPSET_DIM_MAX`.
const DIMENSIONS: u8 = 6;
/// `IPSET_FLAG_RETURN_NOMATCH`; revision 2 has it in the flags of the set (`IPSET_RETURN_NOMATCH`).
const RETURN_NOMATCH: u32 = 1 << 7;
/// `IPSET_FLAG_EXIST`.
const EXIST: u32 = 1;
/// Offsets of `struct xt_set_info_match_v3` and `_v4`: the counters' operators and the flags.
const V3_OPERATORS: [usize; 2] = [8, 24];
const V4_OPERATORS: [usize; 2] = [16, 32];
const MATCH_FLAGS: usize = 40;
const MATCH_SIZE: usize = 48;

/// Write `struct xt_set_info`.
fn put_info(w: &mut Writer, at: usize, index: u16, directions: &[SetDirection], flags: u8) {
    let sources = directions
        .iter()
        .zip(1..)
        .map(|(direction, bit)| u8::from(*direction == SetDirection::Source).wrapping_shl(bit));
    w.u16(at, index);
    w.u8(at + 2, directions.len() as u8);
    w.u8(at + 3, sources.fold(flags, |all, bit| all | bit));
}

fn directions(r: Reader<'_>, at: usize) -> Result<Vec<SetDirection>, Unsupported> {
    let (count, flags) = (r.u8(at + 2), r.u8(at + 3));
    if count == 0 || count > DIMENSIONS {
        return Err(Unsupported::new("a set of this many dimensions"));
    }
    let side = |bit: u8| match flags & 1 << bit {
        0 => SetDirection::Destination,
        _ => SetDirection::Source,
    };
    Ok((1..=count).map(side).collect())
}

/// Return `struct xt_set_info_match_v4`.
pub(super) fn put_match(m: &MatchSet, sets: &SetIndex) -> Result<Writer, Unsupported> {
    let mut w = Writer::new(MATCH_SIZE);
    let index = sets.indexed(&m.name.value)?;
    put_info(&mut w, 0, index, &m.directions, m.name.negated.into());
    if m.return_nomatch {
        w.u32(MATCH_FLAGS, RETURN_NOMATCH);
    }
    Ok(w)
}

/// Read `struct xt_set_info_match_v1` (also of revision 2), `_v3` or `_v4`.
pub(super) fn get_match(
    r: Reader<'_>,
    revision: u32,
    sets: &SetIndex,
) -> Result<MatchSet, Unsupported> {
    let own = u32::from(r.u8(3));
    let (operators, flags) = match revision {
        1 => ([0, 0], 0),
        2 => ([0, 0], own & RETURN_NOMATCH),
        3 => (V3_OPERATORS.map(|at| r.u8(at)), r.u32(MATCH_FLAGS)),
        4 => (V4_OPERATORS.map(|at| r.u8(at)), r.u32(MATCH_FLAGS)),
        _ => return Err(Unsupported::new(format!("match set revision {revision}"))),
    };
    if operators != [0, 0] || flags & !RETURN_NOMATCH != 0 {
        return Err(Unsupported::new("match set with counters"));
    }
    Ok(MatchSet {
        name: Negatable {
            negated: r.u8(3) & INVERT != 0,
            value: sets.named(r.u16(0))?,
        },
        directions: directions(r, 0)?,
        return_nomatch: flags & RETURN_NOMATCH != 0,
    })
}

/// The size of a match's structure.
pub(super) fn match_size(revision: u32) -> usize {
    if revision < 3 { 4 } else { MATCH_SIZE }
}

// `struct xt_set_info_target_v3`: `add_set`, `del_set`, `map_set`, `flags`, `timeout`. Version 2 lacks
// `map_set`; iptables-nft-save would print it as version 3.
const DELETE: usize = 4;
const MAP: usize = 8;
const TARGET_FLAGS: usize = 12;
const TIMEOUT: usize = 16;
const TARGET_SIZE: usize = 20;

/// Return `struct xt_set_info_target_v3`.
pub(super) fn put_target(target: &SetTarget, sets: &SetIndex) -> Result<Writer, Unsupported> {
    let mut w = Writer::new(TARGET_SIZE);
    let index = sets.indexed(&target.name)?;
    let (used, other) = if target.delete {
        (DELETE, 0)
    } else {
        (0, DELETE)
    };
    put_info(&mut w, used, index, &target.directions, 0);
    w.u16(other, INVALID);
    w.u16(MAP, INVALID);
    w.u32(TARGET_FLAGS, if target.exist { EXIST } else { 0 });
    w.u32(TIMEOUT, target.timeout.unwrap_or(u32::MAX));
    Ok(w)
}

/// Read `struct xt_set_info_target_v1`, `_v2` or `_v3`.
pub(super) fn get_target(
    r: Reader<'_>,
    revision: u32,
    sets: &SetIndex,
) -> Result<SetTarget, Unsupported> {
    let (flags, timeout) = match revision {
        1 => (0, u32::MAX),
        // The flags are at the place of `map_set`.
        2 => (r.u32(MAP), r.u32(MAP + 4)),
        3 if r.u16(MAP) == INVALID => (r.u32(TARGET_FLAGS), r.u32(TIMEOUT)),
        _ => return Err(Unsupported::new(format!("target SET revision {revision}"))),
    };
    let (at, index, delete) = match (r.u16(0), r.u16(DELETE)) {
        (index, INVALID) => (0, index, false),
        (INVALID, index) => (DELETE, index, true),
        _ => return Err(Unsupported::new("target SET with two sets")),
    };
    if flags & !EXIST != 0 {
        return Err(Unsupported::new("target SET with these flags"));
    }
    Ok(SetTarget {
        delete,
        name: sets.named(index)?,
        directions: directions(r, at)?,
        exist: flags & EXIST != 0,
        timeout: (timeout != u32::MAX).then_some(timeout),
    })
}

/// The size of a target's structure.
pub(super) fn target_size(revision: u32) -> usize {
    match revision {
        1 => 8,
        2 => 16,
        _ => TARGET_SIZE,
    }
}
