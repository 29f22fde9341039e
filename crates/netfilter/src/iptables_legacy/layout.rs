//! Offsets and sizes of the kernel's structures, on 64-bit machines.

use super::Malformed;
use crate::iptables::Family;

/// `NF_INET_NUMHOOKS`.
pub const HOOKS: usize = 5;

/// The built-in chains in the order of the hooks (`enum nf_inet_hooks`).
pub(super) const HOOK_NAMES: [&str; HOOKS] =
    ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// The size of `struct xt_entry_match` and `struct xt_entry_target` without data: size, name, revision.
pub(super) const EXTENSION: usize = 32;
/// `XT_EXTENSION_MAXNAMELEN`, with the NUL.
pub(super) const NAME: usize = 29;
/// The offset of `revision`.
pub(super) const REVISION: usize = 31;
/// The size of `struct xt_standard_target`.
pub(super) const STANDARD: usize = 40;
/// The size of `struct xt_error_target`.
pub(super) const ERROR: usize = 64;
/// `XT_ERROR_TARGET`.
pub(super) const ERROR_NAME: &str = "ERROR";
/// `XT_FUNCTION_MAXNAMELEN`, with the NUL.
pub(super) const ERROR_TEXT: usize = 30;

// `-NF_DROP - 1`, `-NF_ACCEPT - 1`, `XT_RETURN`.
pub(super) const VERDICT_DROP: i32 = -1;
pub(super) const VERDICT_ACCEPT: i32 = -2;
pub(super) const VERDICT_RETURN: i32 = -5;

/// Offsets in an entry.
pub(super) struct Entry {
    /// The size of the entry up to its matches.
    pub(super) size: usize,
    pub(super) target_offset: usize,
    pub(super) next_offset: usize,
    /// `comefrom`, which the kernel uses while it validates.
    pub(super) comefrom: usize,
    pub(super) counters: usize,
    /// `struct ipt_ip` or `struct ip6t_ip6`.
    pub(super) addresses: [usize; 2],
    pub(super) masks: [usize; 2],
    pub(super) interfaces: [usize; 2],
    pub(super) interface_masks: [usize; 2],
    pub(super) protocol: usize,
    pub(super) flags: usize,
    pub(super) invert: usize,
    /// `IPT_F_GOTO`, `IP6T_F_GOTO`.
    pub(super) goto: u8,
}

const IPV4: Entry = Entry {
    size: 112,
    target_offset: 88,
    next_offset: 90,
    comefrom: 92,
    counters: 96,
    addresses: [0, 4],
    masks: [8, 12],
    interfaces: [16, 32],
    interface_masks: [48, 64],
    protocol: 80,
    flags: 82,
    invert: 83,
    goto: 2,
};

const IPV6: Entry = Entry {
    size: 168,
    target_offset: 140,
    next_offset: 142,
    comefrom: 144,
    counters: 152,
    addresses: [0, 16],
    masks: [32, 48],
    interfaces: [64, 80],
    interface_masks: [96, 112],
    protocol: 128,
    flags: 131,
    invert: 132,
    goto: 4,
};

impl Entry {
    pub(super) fn of(family: Family) -> &'static Entry {
        match family {
            Family::Ipv4 => &IPV4,
            Family::Ipv6 => &IPV6,
        }
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*bytes))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_ne_bytes(*bytes))
}

/// Write a field; a position outside of the bytes is ignored.
pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// Return the text up to its NUL in a field of `room` bytes.
pub(super) fn text_at(bytes: &[u8], at: usize, room: usize) -> Option<&[u8]> {
    let field = bytes.get(at..at.checked_add(room)?)?;
    let end = field.iter().position(|byte| *byte == 0)?;
    field.get(..end)
}

/// The description of a table (`struct ipt_getinfo`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// The hooks with a chain, one bit each.
    pub valid_hooks: u32,
    /// The offset of the first rule of each built-in chain.
    pub hook_entry: [u32; HOOKS],
    /// The offset of each built-in chain's policy.
    pub underflow: [u32; HOOKS],
    /// The number of entries.
    pub entries: u32,
    /// The size of the blob in bytes.
    pub size: u32,
}

impl Info {
    /// The size of the structure.
    pub const LEN: usize = 84;

    /// Read the structure.
    ///
    /// # Errors
    /// It is too short.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let field = |number: usize| {
            let at = 32 + 4 * number;
            u32_at(bytes, at).ok_or(Malformed("a description that is too short"))
        };
        let mut info = Info {
            valid_hooks: field(0)?,
            entries: field(11)?,
            size: field(12)?,
            ..Info::default()
        };
        for hook in 0..HOOKS {
            info.hook_entry[hook] = field(1 + hook)?;
            info.underflow[hook] = field(6 + hook)?;
        }
        Ok(info)
    }
}
