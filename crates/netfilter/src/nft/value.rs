//! Keys, data and comparison operands in the layout of the kernel's registers.

use std::fmt;
use std::net::IpAddr;

/// The capacity of a [`Value`]. The kernel's limit is 64 bytes (`NFT_DATA_VALUE_MAXLEN`); the longest
/// key in sluice's tables has 44.
pub const MAX_LEN: usize = 47;

/// Up to 47 bytes in the layout of consecutive registers: network byte order where the type has one,
/// each field of a concatenation padded with zeros to four bytes (`NFT_REG32_SIZE`). The bytes are
/// inline because a load handles a million values.
#[derive(Clone, Copy)]
pub struct Value {
    len: u8,
    bytes: [u8; MAX_LEN],
}

impl Value {
    /// The empty value.
    pub const EMPTY: Value = Value {
        len: 0,
        bytes: [0; MAX_LEN],
    };

    /// Return a value; `None` if there are more than [`MAX_LEN`] bytes.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut value = Self::EMPTY;
        value.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        value.len = bytes.len() as u8;
        Some(value)
    }

    /// Return the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }

    /// Return the number of bytes.
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Return whether the value is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Append bytes without padding. Bytes that do not fit are left out: no key is that long, and an
    /// encoder must not panic.
    fn push(mut self, bytes: &[u8]) -> Self {
        let at = usize::from(self.len);
        if let Some(room) = self.bytes.get_mut(at..at + bytes.len()) {
            room.copy_from_slice(bytes);
            self.len += bytes.len() as u8;
        }
        self
    }

    /// Append a field of a concatenation, padded to four bytes.
    fn field(self, bytes: &[u8]) -> Self {
        let padding = bytes.len().next_multiple_of(4) - bytes.len();
        self.push(bytes).push(&[0; 4][..padding])
    }

    /// Return an address.
    pub fn ip(ip: IpAddr) -> Self {
        Self::EMPTY.with_ip(ip)
    }

    /// Return a port: two bytes, without padding.
    pub fn port(port: u16) -> Self {
        Self::EMPTY.push(&port.to_be_bytes())
    }

    /// Return a protocol number: one byte, without padding.
    pub fn protocol(number: u8) -> Self {
        Self::EMPTY.push(&[number])
    }

    /// Return a number in host byte order: marks, states, fib results.
    pub fn host_u32(number: u32) -> Self {
        Self::EMPTY.push(&number.to_ne_bytes())
    }

    /// Append an address.
    #[must_use]
    pub fn with_ip(self, ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(a) => self.field(&a.octets()),
            IpAddr::V6(a) => self.field(&a.octets()),
        }
    }

    /// Append a protocol number.
    #[must_use]
    pub fn with_protocol(self, number: u8) -> Self {
        self.field(&[number])
    }

    /// Append a port.
    #[must_use]
    pub fn with_port(self, port: u16) -> Self {
        self.field(&port.to_be_bytes())
    }

    /// Append a number in host byte order.
    #[must_use]
    pub fn with_host_u32(self, number: u32) -> Self {
        self.field(&number.to_ne_bytes())
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Value {}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Value {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl std::hash::Hash for Value {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        for byte in self.as_bytes() {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}
