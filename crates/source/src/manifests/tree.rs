//! Parses documents into trees of bounded size.
//!
//! A document must not be able to crash the proxy: nesting is bounded (the stack would overflow),
//! and so is the expansion of aliases ("billion laughs"). A repeated key is an error, since either
//! value could be the intended one.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use serde_saphyr::{DefaultMessageFormatter, DuplicateKeyPolicy, MessageFormatter};

/// Upper bound on nesting. An EndpointSlice in a List has nine levels.
const MAX_DEPTH: usize = 64;

/// Reason why a document cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    /// The line within the document, from 1, if known.
    pub(super) line: Option<usize>,
    /// The error.
    pub(super) message: String,
}

/// Parse one YAML document. Anchors, aliases and merge keys are resolved.
pub(super) fn from_yaml(text: &str) -> Result<Value, SyntaxError> {
    // A document without aliases has at most as many nodes and characters as bytes; the rest of the
    // budget is for legitimate aliases.
    let size = text.len();
    let budget = serde_saphyr::budget! {
        max_depth: MAX_DEPTH,
        max_nodes: size + 100_000,
        max_events: 2 * size + 200_000,
        max_total_scalar_bytes: 2 * size + (1 << 20),
    };
    let options = serde_saphyr::options! {
        budget: budget,
        duplicate_keys: DuplicateKeyPolicy::Error,
    };
    serde_saphyr::from_str_with_options::<Tree>(text, options)
        .map(|tree| tree.0)
        .map_err(|e| SyntaxError {
            line: e.location().and_then(|l| usize::try_from(l.line()).ok()),
            message: yaml_message(e.without_snippet()),
        })
}

fn yaml_message(error: &serde_saphyr::Error) -> String {
    match error {
        serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => duplicate_key(key),
        serde_saphyr::Error::RecursiveReferencesRequireWeakTypes { .. } => {
            "an alias is within its own anchor".into()
        }
        // The message may contain parts of the document.
        other => match DefaultMessageFormatter.format_message(other) {
            // Bounds exceeded within an alias are reported as wrapped text.
            passed if BOUNDS.iter().any(|bound| passed.starts_with(bound)) => {
                "nested too deeply, or aliases expand too much".into()
            }
            message => message.replace(|c: char| c.is_control(), " "),
        },
    }
}

/// Prefixes of the parser's messages about exceeded bounds.
const BOUNDS: [&str; 3] = [
    "budget breached",
    "recursion limit exceeded",
    "alias replay",
];

fn duplicate_key(key: &str) -> String {
    format!("duplicate key {key:?}")
}

/// Parse one JSON value.
pub(super) fn from_json(text: &str) -> Result<Value, SyntaxError> {
    serde_json::from_str::<Tree>(text)
        .map(|tree| tree.0)
        .map_err(|e| SyntaxError {
            line: Some(e.line()),
            message: e
                .to_string()
                .rsplit_once(" at line ")
                .map_or_else(|| e.to_string(), |(message, _)| message.into()),
        })
}

/// Return the first JSON value of a text, unparsed, and the offset of its end; `None` if no value or
/// an invalid one follows.
pub(super) fn first_json(text: &str) -> Option<(&str, usize)> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    let value = stream.next()?.ok()?;
    Some((value.get(), stream.byte_offset()))
}

/// The fields of a list, and its unparsed items.
pub(super) struct List<'t> {
    pub(super) fields: serde_json::Map<String, Value>,
    pub(super) items: Vec<&'t str>,
}

/// Return the items of a JSON object that has a list of that name, to be parsed one by one: the tree of
/// a cluster's objects takes 15 times the memory of their text. Return `None` for every other value.
pub(super) fn list_in_json(text: &str) -> Option<List<'_>> {
    serde_json::from_str(text).ok()
}

impl<'de> Deserialize<'de> for List<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ListVisitor)
    }
}

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = List<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a list of items")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<List<'de>, A::Error> {
        let mut fields = serde_json::Map::new();
        let mut items: Option<Vec<&RawValue>> = None;
        while let Some(key) = map.next_key::<String>()? {
            if fields.contains_key(&key) || (key == "items" && items.is_some()) {
                return Err(A::Error::custom(duplicate_key(&key)));
            }
            if key == "items" {
                items = Some(map.next_value()?);
            } else {
                let Tree(value) = map.next_value()?;
                fields.insert(key, value);
            }
        }
        let items = items.ok_or_else(|| A::Error::missing_field("items"))?;
        let items = items.into_iter().map(RawValue::get).collect();
        Ok(List { fields, items })
    }
}

/// A [`Value`] parsed without duplicate keys.
struct Tree(Value);

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor).map(Tree)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON can express")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Tree(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = serde_json::Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if values.contains_key(&key) {
                return Err(A::Error::custom(duplicate_key(&key)));
            }
            let Tree(value) = map.next_value()?;
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }
}
