//! Netlink messages: the header, and what follows it.

use super::{Attributes, DecodeError, NLM_F_DUMP_INTR, NLMSG_HDRLEN, Writer, align};

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`; a reply has its request's.
    pub sequence: u32,
    /// `nlmsg_pid`: the port of the socket that sent the request or, in a notification, made the
    /// change.
    pub port: u32,
    /// What follows the header.
    pub payload: &'a [u8],
    /// The whole message, including the header.
    pub bytes: &'a [u8],
}

impl<'a> Message<'a> {
    /// Return whether the objects changed during this dump (`NLM_F_DUMP_INTR`).
    pub fn interrupted(&self) -> bool {
        self.flags & NLM_F_DUMP_INTR != 0
    }

    /// Return the attributes after a fixed part of `size` bytes, such as a `struct nfgenmsg`.
    /// `within` is the header name of their enumeration.
    pub fn attributes(&self, size: usize, within: &'static str) -> Attributes<'a> {
        let attributes = self.payload.get(align(size)..);
        Attributes::new(attributes.unwrap_or_default(), within)
    }
}

/// Iterates over the messages of a datagram or of a batch.
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// Read `bytes`, which starts with a header.
    pub fn new(bytes: &'a [u8]) -> Self {
        Messages { rest: bytes }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.rest);
        let Some(message) = first(bytes) else {
            let error = DecodeError::Malformed("a message longer than its datagram");
            return Some(Err(error));
        };
        self.rest = bytes.get(align(message.bytes.len())..).unwrap_or_default();
        Some(Ok(message))
    }
}

fn first(bytes: &[u8]) -> Option<Message<'_>> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let bytes = bytes.get(..length)?;
    let header = bytes.first_chunk::<NLMSG_HDRLEN>()?;
    let &[.., k0, k1, f0, f1, s0, s1, s2, s3, p0, p1, p2, p3] = header;
    Some(Message {
        kind: u16::from_ne_bytes([k0, k1]),
        flags: u16::from_ne_bytes([f0, f1]),
        sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
        port: u32::from_ne_bytes([p0, p1, p2, p3]),
        payload: bytes.get(NLMSG_HDRLEN..)?,
        bytes,
    })
}

/// Writes one message.
#[derive(Clone, Debug)]
pub struct Builder {
    bytes: Vec<u8>,
}

impl Builder {
    /// Start a message with its header. Sequence number and port are zero, for the socket to set.
    pub fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.resize(NLMSG_HDRLEN, 0);
        Builder { bytes }
    }

    /// Append a fixed part, padded.
    #[must_use]
    pub fn fixed(self, part: &[u8]) -> Self {
        self.attributes(|w| w.fixed(part))
    }

    /// Append the attributes that `write` writes.
    #[must_use]
    pub fn attributes(mut self, write: impl FnOnce(&mut Writer<'_>)) -> Self {
        write(&mut Writer(&mut self.bytes));
        self
    }

    /// Append an attribute; see [`Writer::bytes`].
    #[must_use]
    pub fn bytes(self, kind: u16, value: &[u8]) -> Self {
        self.attributes(|w| w.bytes(kind, value))
    }

    /// Append a text; see [`Writer::string`].
    #[must_use]
    pub fn string(self, kind: u16, text: &str) -> Self {
        self.attributes(|w| w.string(kind, text))
    }

    /// Return the message with its length set.
    pub fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        if let Some(field) = self.bytes.get_mut(..4) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
        self.bytes
    }
}
