//! The file's text, both ways.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
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

/// A number of bytes as Kubernetes writes quantities: `512`, `4Ki`, `1M`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Quantity(pub String);

impl Quantity {
    /// The number; `None` if the text is no whole number of bytes.
    pub fn bytes(&self) -> Option<u64> {
        const SUFFIXES: [(&str, u64); 13] = [
            ("", 1),
            ("k", 1_000),
            ("M", 1_000_000),
            ("G", 1_000_000_000),
            ("T", 1_000_000_000_000),
            ("P", 1_000_000_000_000_000),
            ("E", 1_000_000_000_000_000_000),
            ("Ki", 1 << 10),
            ("Mi", 1 << 20),
            ("Gi", 1 << 30),
            ("Ti", 1 << 40),
            ("Pi", 1 << 50),
            ("Ei", 1 << 60),
        ];
        let end = self.0.find(|c: char| !c.is_ascii_digit());
        let (number, suffix) = self.0.split_at_checked(end.unwrap_or(self.0.len()))?;
        let (_, unit) = SUFFIXES.iter().find(|(name, _)| *name == suffix)?;
        number.parse::<u64>().ok()?.checked_mul(*unit)
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

pub(super) fn from_yaml(text: &str) -> Result<KubeProxyConfiguration, FieldError> {
    let mut tree = tree(text)?;
    let stated = |field: &str| tree.get(field).and_then(Value::as_str).unwrap_or("");
    for (field, expected) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        if stated(field) != expected {
            let reason = match stated(field) {
                "" => format!("is required ({expected})"),
                other => format!("{other:?} is not {expected}"),
            };
            return Err(error(field, reason));
        }
    }
    drop_nulls(&mut tree);
    no_list_for_block(&tree)?;
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(tree, &mut track);
    KubeProxyConfiguration::deserialize(tracked).map_err(|e| {
        let path = track.path().to_string();
        error(if path == "." { "" } else { &path }, reason(&e.to_string()))
    })
}

/// serde's words for what people should read.
fn reason(message: &str) -> String {
    if message.starts_with("unknown field") {
        return "there is no such field".into();
    }
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

fn tree(text: &str) -> Result<Value, FieldError> {
    let options = serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::Error };
    let tree: Value = serde_saphyr::from_str_with_options(text, options).map_err(|e| {
        let line = e
            .location()
            .map_or(String::new(), |l| format!("line {}: ", l.line()));
        let what = match e.without_snippet() {
            serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => {
                format!("the field {key:?} stands twice")
            }
            other => DefaultMessageFormatter
                .format_message(other)
                .replace(|c: char| c.is_control(), " "),
        };
        error("", format!("{line}{what}"))
    })?;
    match tree {
        Value::Object(_) => Ok(tree),
        _ => Err(error("", "is not a KubeProxyConfiguration")),
    }
}

/// A `null` is what an absent field is.
fn drop_nulls(tree: &mut Value) {
    if let Value::Object(map) = tree {
        map.retain(|_, value| !value.is_null());
        map.values_mut().for_each(drop_nulls);
    }
}

/// serde takes a list for a struct, its fields in order; nobody means that.
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
    // By way of a tree, whose maps are sorted. Strings, numbers and maps with text keys always
    // have a form in both, so neither step can fail.
    serde_json::to_value(config)
        .ok()
        .and_then(|tree| serde_saphyr::to_string(&tree).ok())
        .unwrap_or_default()
}
