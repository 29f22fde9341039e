//! Netlink attributes: a writer that cannot get a length wrong and a reader that checks every one.
//!
//! An attribute is a 16-bit length (header included, padding not), a 16-bit type whose top bit says
//! "nested", and a payload padded to four bytes (`struct nlattr`, `linux/netlink.h`). Lengths are in
//! host byte order; what nf_tables puts inside is big-endian.

use thiserror::Error;

/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;
/// `NLA_TYPE_MASK`: without the flags "nested" and "network byte order".
const TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 4;

/// What is wrong with a message that should be decoded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// An attribute says that it is longer than what is left, or shorter than its own header.
    #[error("attribute of length {len} where {left} bytes are left")]
    Length {
        /// What it says.
        len: usize,
        /// What is there.
        left: usize,
    },
    /// An attribute's payload does not have the size that its type asks for.
    #[error("attribute {attribute} of {within} has {len} bytes")]
    Size {
        /// The header name of the enclosing structure.
        within: &'static str,
        /// The attribute's number in it.
        attribute: u16,
        /// Its payload's size.
        len: usize,
    },
    /// An attribute that must be there is not.
    #[error("{within} lacks attribute {attribute}")]
    Missing {
        /// The header name of the enclosing structure.
        within: &'static str,
        /// The attribute's number in it.
        attribute: u16,
    },
    /// A value outside the set that the header lists.
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
    /// A message that is too short for `struct nfgenmsg`.
    #[error("message of {0} bytes, too short for its header")]
    Header(usize),
}

/// Appends attributes to a buffer.
#[derive(Debug)]
pub(crate) struct Writer<'a>(pub(crate) &'a mut Vec<u8>);

impl Writer<'_> {
    /// A plain attribute.
    pub(crate) fn bytes(&mut self, kind: u16, payload: &[u8]) {
        let len = (HEADER + payload.len()) as u16;
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(payload);
        self.pad();
    }

    /// A name, with its terminating zero.
    pub(crate) fn string(&mut self, kind: u16, text: &str) {
        let len = (HEADER + text.len() + 1) as u16;
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        self.pad();
    }

    /// A big-endian 32-bit number.
    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A big-endian 64-bit number.
    pub(crate) fn u64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// An attribute that holds attributes, which `fill` writes.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Writer<'_>)) {
        let start = self.open(kind);
        fill(self);
        self.close(start);
    }

    /// Begins a nested attribute; [`Self::close`] ends it.
    pub(crate) fn open(&mut self, kind: u16) -> usize {
        let start = self.0.len();
        self.0.extend_from_slice(&[0, 0]);
        self.0.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        start
    }

    /// Ends the nested attribute that began at `start`.
    pub(crate) fn close(&mut self, start: usize) {
        let len = (self.0.len() - start) as u16;
        if let Some(field) = self.0.get_mut(start..start + 2) {
            field.copy_from_slice(&len.to_ne_bytes());
        }
    }

    fn pad(&mut self) {
        while !self.0.len().is_multiple_of(4) {
            self.0.push(0);
        }
    }
}

/// Walks over the attributes of a buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    within: &'static str,
}

/// One attribute.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attr<'a> {
    pub(crate) kind: u16,
    pub(crate) payload: &'a [u8],
    within: &'static str,
}

impl<'a> Reader<'a> {
    /// Over the attributes of what the headers call `within`.
    pub(crate) fn new(bytes: &'a [u8], within: &'static str) -> Self {
        Self {
            rest: bytes,
            within,
        }
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<Attr<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let [l0, l1, k0, k1, ..] = *self.rest else {
            // Fewer bytes than a header at the end are padding.
            return None;
        };
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let kind = u16::from_ne_bytes([k0, k1]) & TYPE_MASK;
        let Some(payload) = self.rest.get(HEADER..len) else {
            let left = self.rest.len();
            self.rest = &[];
            return Some(Err(DecodeError::Length { len, left }));
        };
        self.rest = self.rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Ok(Attr {
            kind,
            payload,
            within: self.within,
        }))
    }
}

impl<'a> Attr<'a> {
    pub(crate) fn size_error(&self) -> DecodeError {
        DecodeError::Size {
            within: self.within,
            attribute: self.kind,
            len: self.payload.len(),
        }
    }

    /// As an 8-bit number.
    pub(crate) fn u8(&self) -> Result<u8, DecodeError> {
        match self.payload {
            [value] => Ok(*value),
            _ => Err(self.size_error()),
        }
    }

    /// As a big-endian 32-bit number.
    pub(crate) fn u32(&self) -> Result<u32, DecodeError> {
        let bytes = self.payload.try_into().map_err(|_| self.size_error())?;
        Ok(u32::from_be_bytes(bytes))
    }

    /// As a big-endian 64-bit number.
    pub(crate) fn u64(&self) -> Result<u64, DecodeError> {
        let bytes = self.payload.try_into().map_err(|_| self.size_error())?;
        Ok(u64::from_be_bytes(bytes))
    }

    /// As a name; what follows the first zero is not part of it.
    pub(crate) fn string(&self) -> Result<&'a str, DecodeError> {
        let end = self.payload.iter().position(|b| *b == 0);
        let text = self
            .payload
            .get(..end.unwrap_or(self.payload.len()))
            .unwrap_or(&[]);
        std::str::from_utf8(text).map_err(|_| DecodeError::NotUtf8(self.within))
    }

    /// As a list of attributes of what the headers call `within`.
    pub(crate) fn nested(&self, within: &'static str) -> Reader<'a> {
        Reader::new(self.payload, within)
    }
}

/// The attribute, or an error that names it.
pub(crate) fn need<T>(
    value: Option<T>,
    within: &'static str,
    attribute: u16,
) -> Result<T, DecodeError> {
    value.ok_or(DecodeError::Missing { within, attribute })
}

/// nf_tables user data: type and length of one byte each, then the value, unpadded (libnftnl's
/// `struct nftnl_udata`).
pub(crate) mod udata {
    /// Appends one. A value longer than a length byte can say is left out.
    pub(crate) fn put(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
        if let Ok(len) = u8::try_from(value.len()) {
            out.extend_from_slice(&[kind, len]);
            out.extend_from_slice(value);
        }
    }

    /// The value of the first of a type.
    pub(crate) fn get(bytes: &[u8], kind: u8) -> Option<&[u8]> {
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

    /// A comment: text with a terminating zero.
    pub(crate) fn comment(bytes: &[u8], kind: u8) -> Option<String> {
        let value = get(bytes, kind)?;
        let text = value.strip_suffix(&[0]).unwrap_or(value);
        std::str::from_utf8(text).ok().map(str::to_owned)
    }

    /// Appends a comment.
    pub(crate) fn put_comment(out: &mut Vec<u8>, kind: u8, text: &str) {
        let mut value = Vec::with_capacity(text.len() + 1);
        value.extend_from_slice(text.as_bytes());
        value.push(0);
        put(out, kind, &value);
    }
}
