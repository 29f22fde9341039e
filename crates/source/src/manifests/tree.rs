//! Documents as trees, within bounds.
//!
//! Manifests come from people and from other software, so a document must not be able to take the
//! proxy down: nesting is bounded (a deep one would overflow the stack), and so is what aliases may
//! multiply ("billion laughs"). A key that occurs twice is an error, since which of the two was
//! meant cannot be told.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::{DefaultMessageFormatter, DuplicateKeyPolicy, MessageFormatter};

/// Deeper than this no API object goes: an EndpointSlice in a List has nine levels.
const MAX_DEPTH: usize = 64;

/// Why a document could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    /// The line of the document's bytes, from 1, if it is known.
    pub(super) line: Option<usize>,
    /// What is wrong.
    pub(super) message: String,
}

/// Reads one YAML document. Anchors, aliases and merge keys are resolved.
pub(super) fn from_yaml(text: &str) -> Result<Value, SyntaxError> {
    // A document that uses no alias cannot have more nodes or text than it has bytes; what is
    // allowed on top is for honest aliases.
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
            "an alias is within what it stands for".into()
        }
        // Parts of the document may be in it.
        other => match DefaultMessageFormatter.format_message(other) {
            // Bounds that are passed within an alias come wrapped, as text only.
            passed if BOUNDS.iter().any(|bound| passed.starts_with(bound)) => {
                "is nested too deeply, or its aliases multiply too much".into()
            }
            message => message.replace(|c: char| c.is_control(), " "),
        },
    }
}

/// How the parser's messages begin when a bound is passed.
const BOUNDS: [&str; 3] = [
    "budget breached",
    "recursion limit exceeded",
    "alias replay",
];

fn duplicate_key(key: &str) -> String {
    format!("the key {key:?} occurs twice")
}

/// Reads JSON values one after another: each value, or the error that ends them, with the byte
/// offset behind it.
pub(super) fn from_json(text: &str) -> impl Iterator<Item = (Result<Value, SyntaxError>, usize)> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Tree>();
    std::iter::from_fn(move || {
        let value = stream.next()?.map(|tree| tree.0).map_err(|e| SyntaxError {
            line: Some(e.line()),
            message: e
                .to_string()
                .rsplit_once(" at line ")
                .map_or_else(|| e.to_string(), |(message, _)| message.into()),
        });
        Some((value, stream.byte_offset()))
    })
}

/// A [`Value`] whose maps had no key twice.
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
