//! The netlink wire format: messages, attributes, and the kernel's control replies.
//!
//! Everything is native-endian but for the attributes that netfilter keeps in network order.
//! Reading never trusts a length: what does not fit is [`Malformed`].

use nix::errno::Errno;

use super::Refusal;

/// The size of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;
/// The size of `struct nlattr`.
const ATTRIBUTE_HEADER: usize = 4;
/// `NLA_TYPE_MASK`: without the bits for "nested" and "network byte order".
const KIND_MASK: u16 = 0x3fff;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;
/// `NLM_F_CAPPED`: the refused message is quoted without its payload.
const CAPPED: u16 = 0x100;
/// `NLM_F_ACK_TLVS`: attributes follow.
const ACK_TLVS: u16 = 0x200;
/// `NLM_F_DUMP_INTR`.
const DUMP_INTERRUPTED: u16 = 0x10;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLMSGERR_ATTR_OFFS: u16 = 2;

/// Bytes that are not what the protocol says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed netlink data: {0}")]
pub struct Malformed(pub &'static str);

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`: of a reply that of its request.
    pub sequence: u32,
    /// `nlmsg_pid`: the port of the socket that asked (or, of a notification, that made the
    /// change).
    pub port: u32,
    /// What follows the header.
    pub payload: &'a [u8],
    /// The whole message, header and all.
    pub bytes: &'a [u8],
}

impl<'a> Message<'a> {
    /// Whether the kernel says that this dump is not of one moment.
    pub fn interrupted(&self) -> bool {
        self.flags & DUMP_INTERRUPTED != 0
    }

    /// The payload after a fixed part of `size` bytes (a `struct nfgenmsg` or the like).
    pub fn attributes(&self, size: usize) -> Attributes<'a> {
        Attributes::new(self.payload.get(align(size)..).unwrap_or_default())
    }

    /// What the message says about a request, if it is of that kind; `None` for data.
    ///
    /// # Errors
    /// [`Malformed`] when it is too short for its kind.
    pub fn control(&self) -> Result<Option<Control>, Malformed> {
        match self.kind {
            NLMSG_NOOP => Ok(Some(Control::Noop)),
            NLMSG_OVERRUN => Ok(Some(Control::Overrun)),
            NLMSG_DONE => Ok(Some(Control::Done(self.refusal(4)?))),
            NLMSG_ERROR => {
                if self.payload.len() < 4 + HEADER {
                    return Err(Malformed("an acknowledgement too short for its request"));
                }
                let quoted = u32_at(self.payload, 4).unwrap_or_default() as usize;
                let after = if self.flags & CAPPED != 0 || quoted < HEADER {
                    4 + HEADER
                } else {
                    4 + align(quoted)
                };
                Ok(Some(Control::Acknowledged(self.refusal(after)?)))
            }
            _ => Ok(None),
        }
    }

    /// The refusal in an error or the end of a dump, whose attributes start at `after`.
    fn refusal(&self, after: usize) -> Result<Option<Refusal>, Malformed> {
        let code = match self.payload.first_chunk::<4>() {
            Some(bytes) => i32::from_ne_bytes(*bytes),
            // Some dumps end without a code.
            None if self.kind == NLMSG_DONE => 0,
            None => return Err(Malformed("an acknowledgement without its code")),
        };
        // The end of a dump may carry a positive count.
        if code >= 0 {
            return Ok(None);
        }
        let mut refusal = Refusal {
            errno: Errno::from_raw(code.checked_neg().unwrap_or_default()),
            code: code.checked_neg().unwrap_or_default(),
            text: None,
            offset: None,
        };
        if self.flags & ACK_TLVS != 0 {
            // Text is a courtesy: when it is garbled the refusal itself still counts.
            for attribute in Attributes::new(self.payload.get(after..).unwrap_or_default()) {
                match attribute {
                    Ok(a) if a.kind == NLMSGERR_ATTR_MSG => refusal.text = Some(a.text()),
                    Ok(a) if a.kind == NLMSGERR_ATTR_OFFS => refusal.offset = u32_at(a.value, 0),
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
        }
        Ok(Some(refusal))
    }
}

/// A message about a request rather than an answer to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// To be ignored.
    Noop,
    /// Done, or refused.
    Acknowledged(Option<Refusal>),
    /// The end of a dump, or the reason that it broke off.
    Done(Option<Refusal>),
    /// Data was lost.
    Overrun,
}

/// The messages of a datagram (or of a batch).
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// Reads `bytes`, which starts with a header.
    pub fn new(bytes: &'a [u8]) -> Self {
        Messages { rest: bytes }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.rest);
        let read = || {
            let length = u32_at(bytes, 0)? as usize;
            let whole = bytes.get(..length)?;
            Some((
                Message {
                    kind: u16_at(whole, 4)?,
                    flags: u16_at(whole, 6)?,
                    sequence: u32_at(whole, 8)?,
                    port: u32_at(whole, 12)?,
                    payload: whole.get(HEADER..)?,
                    bytes: whole,
                },
                bytes.get(align(length)..).unwrap_or_default(),
            ))
        };
        match read() {
            Some((message, rest)) => {
                self.rest = rest;
                Some(Ok(message))
            }
            None => Some(Err(Malformed("a message longer than its datagram"))),
        }
    }
}

/// One attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its type, without the flag bits.
    pub kind: u16,
    /// Its value, without padding.
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The attributes inside.
    pub fn nested(&self) -> Attributes<'a> {
        Attributes::new(self.value)
    }

    /// The value as text, up to its end or a NUL.
    pub fn text(&self) -> String {
        let end = self.value.iter().position(|byte| *byte == 0);
        let text = self.value.get(..end.unwrap_or(self.value.len()));
        String::from_utf8_lossy(text.unwrap_or_default()).into_owned()
    }

    /// The value as bytes of exactly that many.
    ///
    /// # Errors
    /// [`Malformed`] when it has another size.
    pub fn bytes<const N: usize>(&self) -> Result<[u8; N], Malformed> {
        <[u8; N]>::try_from(self.value).map_err(|_| Malformed("an attribute of the wrong size"))
    }

    /// The value as a number in network order.
    ///
    /// # Errors
    /// [`Malformed`] when it has another size.
    pub fn be16(&self) -> Result<u16, Malformed> {
        self.bytes().map(u16::from_be_bytes)
    }

    /// The value as a number in network order.
    ///
    /// # Errors
    /// [`Malformed`] when it has another size.
    pub fn be32(&self) -> Result<u32, Malformed> {
        self.bytes().map(u32::from_be_bytes)
    }

    /// The value as a number in network order.
    ///
    /// # Errors
    /// [`Malformed`] when it has another size.
    pub fn be64(&self) -> Result<u64, Malformed> {
        self.bytes().map(u64::from_be_bytes)
    }
}

/// A row of attributes.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// Reads `bytes`, which starts with an attribute's header.
    pub fn new(bytes: &'a [u8]) -> Self {
        Attributes { rest: bytes }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.rest);
        let read = || {
            let length = usize::from(u16_at(bytes, 0)?);
            let value = bytes.get(ATTRIBUTE_HEADER..length)?;
            let kind = u16_at(bytes, 2)? & KIND_MASK;
            let rest = bytes.get(align(length)..).unwrap_or_default();
            Some((Attribute { kind, value }, rest))
        };
        match read() {
            Some((attribute, rest)) => {
                self.rest = rest;
                Some(Ok(attribute))
            }
            None => Some(Err(Malformed("an attribute longer than what holds it"))),
        }
    }
}

/// Writes one message.
#[derive(Clone, Debug)]
pub struct Builder {
    bytes: Vec<u8>,
}

impl Builder {
    /// Starts a message with its header. The socket that sends it sets sequence and length.
    pub fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.resize(HEADER, 0);
        Builder { bytes }
    }

    /// Appends a fixed part, padded.
    #[must_use]
    pub fn fixed(mut self, part: &[u8]) -> Self {
        self.bytes.extend_from_slice(part);
        self.pad();
        self
    }

    /// Appends an attribute.
    #[must_use]
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        let room = usize::from(length) - ATTRIBUTE_HEADER;
        self.bytes
            .extend_from_slice(value.get(..room).unwrap_or_default());
        self.pad();
        self
    }

    /// Appends a NUL-terminated text.
    #[must_use]
    pub fn text(self, kind: u16, text: &str) -> Self {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.attribute(kind, &value)
    }

    /// Appends an attribute that holds what `inside` writes.
    #[must_use]
    pub fn nested(mut self, kind: u16, inside: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        let mut this = inside(self);
        let length = u16::try_from(this.bytes.len() - start).unwrap_or(u16::MAX);
        if let Some(place) = this.bytes.get_mut(start..start + 2) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        this
    }

    /// The message.
    pub fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        if let Some(place) = self.bytes.get_mut(..4) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        self.bytes
    }

    fn pad(&mut self) {
        self.bytes.resize(align(self.bytes.len()), 0);
    }
}
