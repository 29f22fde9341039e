//! Reading of the protobuf encoding, as far as it is needed.
//!
//! The format: <https://protobuf.dev/programming-guides/encoding/>. A message is a run of fields,
//! each a key (field number and wire type) and a value; a reader passes over the fields that it
//! does not know. That is what makes decoding only what routing needs cheap: `managedFields`,
//! often half of an object, costs one bounds check.

/// Bytes that are not what the encoding allows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A number or a value goes on past the end of its message.
    #[error("the message ends in the middle of a field")]
    CutShort,
    /// A number of more than ten bytes.
    #[error("a number is longer than 64 bits")]
    NumberTooLong,
    /// Field number 0, or a wire type that is none (3 and 4, groups, are in no Kubernetes message).
    #[error("a field has the key {0}, which is none")]
    Key(u64),
    /// A field's value is of another wire type than its message defines.
    #[error("field {0} is of the wrong wire type")]
    WireType(u32),
    /// A string that is not UTF-8.
    #[error("field {0} is not UTF-8")]
    NotText(u32),
}

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Raw<'a> {
    Number(u64),
    /// A string, bytes or a message within.
    Bytes(&'a [u8]),
    /// A fixed-width number; no field that is needed has one.
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

    /// A message within, read into what is there: a message that comes in parts is merged.
    pub(super) fn merge_into<T: Message>(&self, target: &mut T) -> Result<(), Malformed> {
        target.merge(self.bytes()?)
    }

    /// A message within, as one of a list.
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

/// The fields of a message, in the order in which they come.
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

    /// A varint: seven bits a byte, the lowest first, the top bit set on all bytes but the last.
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
