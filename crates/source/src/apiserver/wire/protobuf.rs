//! A decoder of the parts of protobuf that the API uses.
//!
//! The format: <https://protobuf.dev/programming-guides/encoding/>. A message is a sequence of
//! fields, each a key (field number and wire type) and a value; a decoder skips fields that it does
//! not know. Decoding only the fields that routing needs is therefore cheap: skipping
//! `managedFields`, often half of an object, costs one bounds check.

/// Bytes that violate the encoding.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A number or value extends past the end of its message.
    #[error("the message ends in the middle of a field")]
    CutShort,
    /// A number has more than ten bytes.
    #[error("a number is longer than 64 bits")]
    NumberTooLong,
    /// The field number is 0, or the wire type is unknown (Kubernetes does not use 3 and 4, groups).
    #[error("invalid field key {0}")]
    Key(u64),
    /// The wire type differs from the field's definition.
    #[error("field {0} has the wrong wire type")]
    WireType(u32),
    /// A string is not UTF-8.
    #[error("field {0} is not UTF-8")]
    NotText(u32),
}

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Raw<'a> {
    Number(u64),
    /// A string, bytes or a nested message.
    Bytes(&'a [u8]),
    /// A fixed-width number, which no decoded field has.
    Fixed,
}

/// A field: its number and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field<'a> {
    pub(super) number: u32,
    raw: Raw<'a>,
}

impl<'a> Field<'a> {
    pub(super) fn bytes(&self) -> Result<&'a [u8], Malformed> {
        match self.raw {
            Raw::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed::WireType(self.number)),
        }
    }

    pub(super) fn str(&self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed::NotText(self.number))
    }

    pub(super) fn string(&self) -> Result<String, Malformed> {
        self.str().map(str::to_owned)
    }

    /// `int32` and `int64`: negative numbers are ten bytes of two's complement.
    pub(super) fn int(&self) -> Result<i64, Malformed> {
        match self.raw {
            Raw::Number(number) => Ok(number.cast_signed()),
            _ => Err(Malformed::WireType(self.number)),
        }
    }

    pub(super) fn bool(&self) -> Result<bool, Malformed> {
        self.int().map(|number| number != 0)
    }

    /// Decode a nested message into `target`; parts of a split message are merged.
    pub(super) fn merge_into<T: Message>(&self, target: &mut T) -> Result<(), Malformed> {
        target.merge(self.bytes()?)
    }

    /// Decode a nested message, an item of a list.
    pub(super) fn message<T: Message>(&self) -> Result<T, Malformed> {
        T::decode(self.bytes()?)
    }
}

/// A message of which some fields are read.
pub(super) trait Message: Default {
    /// Upstream names and numbers of the fields that are read.
    #[cfg(test)]
    const FIELDS: &'static [(&'static str, u32)];

    /// Read a field, or skip it.
    fn field(&mut self, field: Field<'_>) -> Result<(), Malformed>;

    fn merge(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let mut fields = Fields::new(bytes);
        while let Some(field) = fields.next()? {
            self.field(field)?;
        }
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut message = Self::default();
        message.merge(bytes)?;
        Ok(message)
    }
}

/// The fields of a message, in order.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    pub(super) fn next(&mut self) -> Result<Option<Field<'a>>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.number()?;
        let number = u32::try_from(key >> 3).map_err(|_| Malformed::Key(key))?;
        if number == 0 {
            return Err(Malformed::Key(key));
        }
        let raw = match key & 7 {
            0 => Raw::Number(self.number()?),
            1 => {
                self.take(8)?;
                Raw::Fixed
            }
            2 => {
                let len = self.number()?;
                let len = usize::try_from(len).map_err(|_| Malformed::CutShort)?;
                Raw::Bytes(self.take(len)?)
            }
            5 => {
                self.take(4)?;
                Raw::Fixed
            }
            _ => return Err(Malformed::Key(key)),
        };
        Ok(Some(Field { number, raw }))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Malformed::CutShort)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Decode a varint: seven bits per byte, lowest first; all bytes but the last have the top bit
    /// set.
    fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for (i, &byte) in self.rest.iter().enumerate() {
            let bits = u64::from(byte & 0x7f);
            if i == 9 && byte > 1 {
                return Err(Malformed::NumberTooLong);
            }
            number |= bits << (7 * i);
            if byte & 0x80 == 0 {
                self.rest = self.rest.get(i + 1..).unwrap_or_default();
                return Ok(number);
            }
        }
        Err(Malformed::CutShort)
    }
}
