//! Decodes trees into objects, with readable errors.
//!
//! `serde_json::Value` has a deserializer, but that accepts a list for a struct, and its errors name
//! Rust's types.

use std::fmt;

use model::Kind;
use model::object::Object;
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{self, Deserializer, Expected, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;

/// Decode an object. The error is the field's path and the reason.
pub(super) fn decode(kind: Kind, tree: Value) -> Result<Object, (String, String)> {
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(Decoder(tree), &mut track);
    Object::deserialize(kind, tracked).map_err(|e| (track.path().to_string(), e.0))
}

/// A deserializer of a tree that accepts only maps as structs.
struct Decoder(Value);

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct DecodeError(String);

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }

    /// `"http" is not a whole number`; translates `expected` from the terms of serde and Rust.
    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = expected.to_string();
        let expected = match expected.as_str() {
            "i64" => "a whole number",
            "a boolean" => "true or false",
            "a sequence" => "a list",
            "a map" => "an object",
            other if other.starts_with("struct ") => "an object",
            other => other,
        };
        Self(match found {
            Unexpected::Unit | Unexpected::Option => format!("null is not {expected}"),
            Unexpected::Bool(b) => format!("{b} is not {expected}"),
            Unexpected::Unsigned(n) => format!("{n} is not {expected}"),
            Unexpected::Signed(n) => format!("{n} is not {expected}"),
            Unexpected::Float(n) => format!("{n} is not {expected}"),
            Unexpected::Str(s) => format!("{s:?} is not {expected}"),
            Unexpected::Seq => format!("a list is not {expected}"),
            Unexpected::Map => format!("an object is not {expected}"),
            other => format!("{other} is not {expected}"),
        })
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }
}

impl IntoDeserializer<'_, DecodeError> for Decoder {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Decoder {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(b) => visitor.visit_bool(b),
            Value::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
                (Some(n), _, _) => visitor.visit_i64(n),
                (_, Some(n), _) => visitor.visit_u64(n),
                (_, _, Some(n)) => visitor.visit_f64(n),
                _ => Err(DecodeError(format!("{n} is not a number that fits"))),
            },
            Value::String(s) => visitor.visit_string(s),
            Value::Array(values) => {
                visitor.visit_seq(SeqDeserializer::new(values.into_iter().map(Decoder)))
            }
            Value::Object(map) => {
                let entries = map.into_iter().map(|(key, value)| (key, Decoder(value)));
                visitor.visit_map(MapDeserializer::new(entries))
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match self.0 {
            Value::Array(_) => Err(de::Error::invalid_type(Unexpected::Seq, &visitor)),
            _ => self.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
