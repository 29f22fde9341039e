//! Structures of xtables extensions: fields at fixed offsets, in host byte order unless stated.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Unsupported;
use crate::iptables::Family;

/// Builds a structure of a fixed size, zero where nothing is written.
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// Start a structure; its size is padded to eight bytes (`XT_ALIGN`).
    pub(super) fn new(size: usize) -> Self {
        Writer(vec![0; size.next_multiple_of(8)])
    }

    pub(super) fn bytes(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.0.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    pub(super) fn u8(&mut self, at: usize, value: u8) {
        self.bytes(at, &[value]);
    }

    pub(super) fn u16(&mut self, at: usize, value: u16) {
        self.bytes(at, &value.to_ne_bytes());
    }

    pub(super) fn be16(&mut self, at: usize, value: u16) {
        self.bytes(at, &value.to_be_bytes());
    }

    pub(super) fn u32(&mut self, at: usize, value: u32) {
        self.bytes(at, &value.to_ne_bytes());
    }

    /// Write a `union nf_inet_addr`, or a `struct in_addr` where only four bytes are reserved.
    pub(super) fn ip(&mut self, at: usize, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => self.bytes(at, &ip.octets()),
            IpAddr::V6(ip) => self.bytes(at, &ip.octets()),
        }
    }

    /// Write a NUL-terminated text into a field of `room` bytes.
    pub(super) fn text(&mut self, at: usize, room: usize, text: &str) -> Result<(), Unsupported> {
        if text.len() >= room {
            return Err(Unsupported::new(format!("a text of {} bytes", text.len())));
        }
        self.bytes(at, text.as_bytes());
        Ok(())
    }

    pub(super) fn finish(self) -> Box<[u8]> {
        self.0.into()
    }
}

/// Reads a structure. Bytes past its end are zero: callers compare the size first.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(self, at: usize) -> [u8; N] {
        let found = self.0.get(at..).and_then(|rest| rest.first_chunk());
        found.copied().unwrap_or([0; N])
    }

    pub(super) fn u8(self, at: usize) -> u8 {
        let [value] = self.array(at);
        value
    }

    pub(super) fn u16(self, at: usize) -> u16 {
        u16::from_ne_bytes(self.array(at))
    }

    pub(super) fn be16(self, at: usize) -> u16 {
        u16::from_be_bytes(self.array(at))
    }

    pub(super) fn u32(self, at: usize) -> u32 {
        u32::from_ne_bytes(self.array(at))
    }

    pub(super) fn u64(self, at: usize) -> u64 {
        u64::from_ne_bytes(self.array(at))
    }

    pub(super) fn ip(self, at: usize, family: Family) -> IpAddr {
        match family {
            Family::Ipv4 => Ipv4Addr::from(self.array::<4>(at)).into(),
            Family::Ipv6 => Ipv6Addr::from(self.array::<16>(at)).into(),
        }
    }

    /// Return the text up to its NUL in a field of `room` bytes.
    pub(super) fn text(self, at: usize, room: usize) -> Result<&'a str, Unsupported> {
        let field = self.0.get(at..).unwrap_or_default();
        let field = field.get(..room).unwrap_or(field);
        let end = field.iter().position(|byte| *byte == 0);
        let text = field.get(..end.unwrap_or(field.len())).unwrap_or_default();
        std::str::from_utf8(text).map_err(|_| Unsupported::new("a text that is not UTF-8"))
    }
}
