//! Text form of the file: decoding and encoding.

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use serde_saphyr::{DefaultMessageFormatter, DuplicateKeyPolicy, MessageFormatter};

use super::{API_VERSION, KIND, KubeProxyConfiguration};
use crate::{FieldError, GoDuration};

/// `logging.flushFrequency`: a duration, or a number of nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FlushFrequency(pub GoDuration);

impl<'de> Deserialize<'de> for FlushFrequency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(s) => s.parse().map_err(D::Error::custom),
            Value::Number(n) if n.is_i64() => Ok(GoDuration(n.as_i64().unwrap_or_default())),
            other => Err(D::Error::custom(format!("{other} is not a duration"))),
        }
        .map(Self)
    }
}

/// A number of bytes as Kubernetes writes quantities: `512`, `1.5Ki`, `1e6`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Quantity(pub String);

impl Quantity {
    /// Return the number of bytes, rounded up; `None` if the text is not a quantity or is negative.
    pub fn bytes(&self) -> Option<u64> {
        const SUFFIXES: [(&str, f64); 16] = [
            ("", 1.0),
            ("n", 1e-9),
            ("u", 1e-6),
            ("m", 1e-3),
            ("k", 1e3),
            ("M", 1e6),
            ("G", 1e9),
            ("T", 1e12),
            ("P", 1e15),
            ("E", 1e18),
            ("Ki", (1_u64 << 10) as f64),
            ("Mi", (1_u64 << 20) as f64),
            ("Gi", (1_u64 << 30) as f64),
            ("Ti", (1_u64 << 40) as f64),
            ("Pi", (1_u64 << 50) as f64),
            ("Ei", (1_u64 << 60) as f64),
        ];
        let end = self.0.rfind(|c: char| c.is_ascii_digit() || c == '.')? + 1;
        let (number, suffix) = self.0.split_at_checked(end)?;
        let (_, unit) = SUFFIXES.iter().find(|(name, _)| *name == suffix)?;
        let bytes = (number.parse::<f64>().ok()? * unit).ceil();
        (0.0..u64::MAX as f64)
            .contains(&bytes)
            .then_some(bytes as u64)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(s) => Ok(Self(s)),
            Value::Number(n) => Ok(Self(n.to_string())),
            other => Err(D::Error::custom(format!("{other} is not a quantity"))),
        }
    }
}

/// Decode a file; return the ignored fields with it.
pub(super) fn from_yaml(
    text: &str,
) -> Result<(KubeProxyConfiguration, Vec<FieldError>), FieldError> {
    let (mut tree, mut ignored) = tree(text)?;
    let stated = |field: &str| text_of(&tree, field);
    for (field, expected) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        if stated(field) != expected {
            let reason = match stated(field) {
                "" => format!("is required ({expected})"),
                other => format!("{other:?} is not {expected}"),
            };
            return Err(error(field, reason));
        }
    }
    let known = serde_json::to_value(KubeProxyConfiguration::default()).unwrap_or_default();
    ignored.extend(unknown_nulls(&tree, &known, ""));
    settle(&mut tree);
    no_list_for_block(&tree)?;
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(tree, &mut track);
    let unknown = &mut |path: serde_ignored::Path<'_>| {
        ignored.push(error(&field_name(&path), "unknown field"));
    };
    let file =
        KubeProxyConfiguration::deserialize(serde_ignored::Deserializer::new(tracked, unknown))
            .map_err(|e| {
                let path = track.path().to_string();
                error(if path == "." { "" } else { &path }, reason(&e.to_string()))
            })?;
    Ok((file, ignored))
}

/// Return the text of a field of the header, whose name upstream compares without regard to case.
fn text_of<'a>(tree: &'a Value, field: &str) -> &'a str {
    let same = |entry: &(&String, &Value)| entry.0.eq_ignore_ascii_case(field);
    let found = tree.as_object().and_then(|map| map.iter().rfind(same));
    found.and_then(|(_, value)| value.as_str()).unwrap_or("")
}

/// Return the unknown fields whose value is `null`, which decoding omits.
fn unknown_nulls(tree: &Value, known: &Value, path: &str) -> Vec<FieldError> {
    let (Value::Object(fields), Value::Object(known)) = (tree, known) else {
        return Vec::new();
    };
    let unknown = fields.iter().flat_map(|(name, value)| {
        let path = join_path(path, name);
        match known.get(name) {
            // Its keys are names of gates.
            _ if name == "featureGates" => Vec::new(),
            None if value.is_null() => vec![error(&path, "unknown field")],
            None => Vec::new(),
            Some(known) => unknown_nulls(value, known, &path),
        }
    });
    unknown.collect()
}

/// Return the path of an ignored field as upstream writes it: `logging.vmodule[0].level`.
fn field_name(path: &serde_ignored::Path<'_>) -> String {
    match path {
        serde_ignored::Path::Root => String::new(),
        serde_ignored::Path::Seq { parent, index } => format!("{}[{index}]", field_name(parent)),
        serde_ignored::Path::Map { parent, key } => join_path(&field_name(parent), key),
        serde_ignored::Path::Some { parent }
        | serde_ignored::Path::NewtypeStruct { parent }
        | serde_ignored::Path::NewtypeVariant { parent } => field_name(parent),
    }
}

fn join_path(parent: &str, key: &str) -> String {
    match parent {
        "" => key.to_owned(),
        parent => format!("{parent}.{key}"),
    }
}

/// Return the reason in plain words for an error of serde.
fn reason(message: &str) -> String {
    let Some((found, expected)) = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "))
        .and_then(|m| m.rsplit_once(", expected "))
    else {
        return message.into();
    };
    let expected = match expected {
        "i32" | "u32" => "a whole number that fits",
        "f32" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "a mapping",
        other if other.starts_with("struct ") => "a mapping",
        other => other,
    };
    format!("{found} is not {expected}")
}

fn error(field: &str, reason: impl Into<String>) -> FieldError {
    FieldError {
        field: field.into(),
        reason: reason.into(),
    }
}

/// A node of the document, decoded into a [`Value`]. Duplicate fields are noted; the last one
/// counts, as in kube-proxy.
struct Node<'a> {
    path: String,
    duplicates: &'a mut Vec<FieldError>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Node {
            path: format!("{}[{}]", self.path, list.len()),
            duplicates: self.duplicates,
        })? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let path = join_path(&self.path, &key);
            if map.contains_key(&key) {
                self.duplicates.push(error(&path, "duplicate field"));
            }
            let node = Node {
                path,
                duplicates: self.duplicates,
            };
            map.insert(key, entries.next_value_seed(node)?);
        }
        Ok(map.into())
    }
}

/// Decode YAML; return the duplicate fields with it.
fn tree(text: &str) -> Result<(Value, Vec<FieldError>), FieldError> {
    let options = serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::PassThrough };
    let text = text.trim_end();
    let text = text.strip_suffix("\n---").unwrap_or(text);
    let mut duplicates = Vec::new();
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, options, |yaml| {
        let root = Node {
            path: String::new(),
            duplicates: &mut duplicates,
        };
        root.deserialize(yaml)
    });
    let tree = read.map_err(|e| {
        let line = e.location().map(|l| format!("line {}: ", l.line()));
        let what = match e.without_snippet() {
            serde_saphyr::Error::MultipleDocuments { .. } => {
                "a second document; a configuration is one document".to_owned()
            }
            other => DefaultMessageFormatter
                .format_message(other)
                .replace(|c: char| c.is_control(), " "),
        };
        error("", format!("{}{what}", line.unwrap_or_default()))
    })?;
    match tree {
        Value::Object(_) => Ok((tree, duplicates)),
        _ => Err(error("", "is not a KubeProxyConfiguration")),
    }
}

/// Normalise the tree as upstream does. A `null` equals an absent field, except for durations. A
/// whole number may have the form of a float (`1.048576e+06`): Helm writes large numbers this way.
fn settle(tree: &mut Value) {
    match tree {
        Value::Object(map) => {
            let duration = |field: &str| field.ends_with("Period") || field.ends_with("Timeout");
            map.retain(|field, value| !value.is_null() || duration(field));
            map.values_mut().for_each(settle);
        }
        Value::Number(number) => {
            let exact = -(1_i64 << 53) as f64..=(1_i64 << 53) as f64;
            if let Some(float) = number.as_f64().filter(|_| number.is_f64())
                && float.fract() == 0.0
                && exact.contains(&float)
            {
                *number = (float as i64).into();
            }
        }
        _ => {}
    }
}

/// Refuse a list in place of a block; serde accepts one as the fields in order.
fn no_list_for_block(tree: &Value) -> Result<(), FieldError> {
    const BLOCKS: [&str; 11] = [
        "clientConnection",
        "conntrack",
        "detectLocal",
        "iptables",
        "ipvs",
        "logging",
        "logging/options",
        "logging/options/json",
        "logging/options/text",
        "nftables",
        "winkernel",
    ];
    let list = BLOCKS.iter().find(|block| {
        tree.pointer(&format!("/{block}"))
            .is_some_and(Value::is_array)
    });
    match list {
        Some(block) => Err(error(&block.replace('/', "."), "a list is not a mapping")),
        None => Ok(()),
    }
}

pub(super) fn to_yaml(config: &KubeProxyConfiguration) -> String {
    // Through a tree, whose maps are sorted. Neither step can fail: strings, numbers and maps with
    // text keys have a form in both.
    serde_json::to_value(config)
        .ok()
        .and_then(|tree| serde_saphyr::to_string(&tree).ok())
        .unwrap_or_default()
}
