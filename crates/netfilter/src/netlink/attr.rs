//! Netlink attributes.
//!
//! An attribute is a 16-bit length (header included, padding excluded), a 16-bit type whose top
//! bits are `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`, and a value padded to four bytes
//! (`struct nlattr`, `linux/netlink.h`).

use thiserror::Error;

use super::{NLA_F_NESTED, NLA_HDRLEN, NLA_TYPE_MASK, align};

/// Why a message cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// An attribute is longer than the rest of its container, or shorter than its own header.
    #[error("attribute of length {len} where {left} bytes are left")]
    Length {
        /// Its length field.
        len: usize,
        /// The rest of the container.
        left: usize,
    },
    /// An attribute's value has the wrong size for its type.
    #[error("attribute {attribute} of {within} has {len} bytes")]
    Size {
        /// The header name of the enclosing structure.
        within: &'static str,
        /// The attribute's type.
        attribute: u16,
        /// The size of its value.
        len: usize,
    },
    /// A required attribute is missing.
    #[error("{within} lacks attribute {attribute}")]
    Missing {
        /// The header name of the enclosing structure.
        within: &'static str,
        /// The attribute's type.
        attribute: u16,
    },
    /// A value outside the header's enumeration, or one that sluice does not model.
    #[error("{what} has the unknown value {value}")]
    Unknown {
        /// Header name of the enumeration.
        what: &'static str,
        /// The value.
        value: u64,
    },
    /// A name is not UTF-8.
    #[error("a name in {0} is not UTF-8")]
    NotUtf8(&'static str),
    /// A message is too short for its fixed part.
    #[error("message of {0} bytes, too short for its header")]
    Header(usize),
    /// Another violation of the protocol.
    #[error("malformed netlink data: {0}")]
    Malformed(&'static str),
}

/// Appends attributes to a buffer.
#[derive(Debug)]
pub struct Writer<'a>(pub &'a mut Vec<u8>);

impl Writer<'_> {
    /// Append an attribute. A value that exceeds the 16-bit length is cut; the kernel rejects it.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        let start = self.start(kind);
        let room = usize::from(u16::MAX) - NLA_HDRLEN;
        self.0.extend_from_slice(value.get(..room).unwrap_or(value));
        self.end(start);
    }

    /// Append a text with its terminating NUL.
    pub fn string(&mut self, kind: u16, text: &str) {
        let start = self.start(kind);
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        self.end(start);
    }

    /// Append a big-endian 16-bit number.
    pub fn be16(&mut self, kind: u16, value: u16) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Append a big-endian 32-bit number.
    pub fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Append a big-endian 64-bit number.
    pub fn be64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Append a 16-bit number in host byte order.
    pub fn ne16(&mut self, kind: u16, value: u16) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// Append a 32-bit number in host byte order.
    pub fn ne32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// Append a fixed structure, padded.
    pub fn fixed(&mut self, part: &[u8]) {
        self.0.extend_from_slice(part);
        self.0.resize(align(self.0.len()), 0);
    }

    /// Append an attribute that contains the attributes which `fill` writes.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Writer<'_>)) {
        let start = self.open(kind);
        fill(self);
        self.end(start);
    }

    /// Begin a nested attribute; [`Self::end`] ends it.
    pub fn open(&mut self, kind: u16) -> usize {
        self.start(kind | NLA_F_NESTED)
    }

    fn start(&mut self, kind: u16) -> usize {
        let start = self.0.len();
        self.0.extend_from_slice(&[0, 0]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    /// End the attribute that began at `start`: set its length and pad it.
    pub fn end(&mut self, start: usize) {
        let len = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        if let Some(field) = self.0.get_mut(start..start + 2) {
            field.copy_from_slice(&len.to_ne_bytes());
        }
        self.0.resize(align(self.0.len()), 0);
    }
}

/// Iterates over the attributes in a buffer.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
    within: &'static str,
}

/// One attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its type, without the flag bits.
    pub kind: u16,
    /// Its value, without padding.
    pub value: &'a [u8],
    within: &'static str,
}

impl<'a> Attributes<'a> {
    /// Read the attributes of the structure that the headers call `within`.
    pub fn new(bytes: &'a [u8], within: &'static str) -> Self {
        Self {
            rest: bytes,
            within,
        }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let [l0, l1, k0, k1, ..] = *self.rest else {
            // A remainder shorter than a header is padding.
            return None;
        };
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let kind = u16::from_ne_bytes([k0, k1]) & NLA_TYPE_MASK;
        let Some(value) = self.rest.get(NLA_HDRLEN..len) else {
            let left = self.rest.len();
            self.rest = &[];
            return Some(Err(DecodeError::Length { len, left }));
        };
        self.rest = self.rest.get(align(len)..).unwrap_or(&[]);
        Some(Ok(Attribute {
            kind,
            value,
            within: self.within,
        }))
    }
}

impl<'a> Attribute<'a> {
    /// Return the error for a value of the wrong size.
    pub fn size_error(&self) -> DecodeError {
        DecodeError::Size {
            within: self.within,
            attribute: self.kind,
            len: self.value.len(),
        }
    }

    /// Return the value, which must have exactly `N` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Size`].
    pub fn array<const N: usize>(&self) -> Result<[u8; N], DecodeError> {
        self.value.try_into().map_err(|_| self.size_error())
    }

    /// Return an 8-bit number.
    ///
    /// # Errors
    /// [`DecodeError::Size`].
    pub fn u8(&self) -> Result<u8, DecodeError> {
        self.array().map(|[value]| value)
    }

    /// Return a big-endian 16-bit number.
    ///
    /// # Errors
    /// [`DecodeError::Size`].
    pub fn be16(&self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    /// Return a big-endian 32-bit number.
    ///
    /// # Errors
    /// [`DecodeError::Size`].
    pub fn be32(&self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Return a big-endian 64-bit number.
    ///
    /// # Errors
    /// [`DecodeError::Size`].
    pub fn be64(&self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    /// Return a 16-bit number in host byte order.
    ///
    /// # Errors
    /// [`DecodeError::Size`].
    pub fn ne16(&self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_ne_bytes)
    }

    /// Return a 32-bit number in host byte order.
    ///
    /// # Errors
    /// [`DecodeError::Size`].
    pub fn ne32(&self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_ne_bytes)
    }

    /// Return the text up to its end or the first NUL.
    ///
    /// # Errors
    /// [`DecodeError::NotUtf8`].
    pub fn string(&self) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.c_string()).map_err(|_| DecodeError::NotUtf8(self.within))
    }

    /// Return the text up to its end or the first NUL; invalid UTF-8 is replaced.
    pub fn string_lossy(&self) -> String {
        String::from_utf8_lossy(self.c_string()).into_owned()
    }

    fn c_string(&self) -> &'a [u8] {
        let end = self.value.iter().position(|byte| *byte == 0);
        let text = self.value.get(..end.unwrap_or(self.value.len()));
        text.unwrap_or_default()
    }

    /// Return the attribute with a part of its value.
    #[must_use]
    pub fn with_value(self, value: &'a [u8]) -> Self {
        Self { value, ..self }
    }

    /// Return the attributes inside, as the structure that the headers call `within`.
    pub fn nested(&self, within: &'static str) -> Attributes<'a> {
        Attributes::new(self.value, within)
    }
}

/// Return the attribute's value, or the error that names the missing attribute.
///
/// # Errors
/// [`DecodeError::Missing`].
pub fn need<T>(value: Option<T>, within: &'static str, attribute: u16) -> Result<T, DecodeError> {
    value.ok_or(DecodeError::Missing { within, attribute })
}
