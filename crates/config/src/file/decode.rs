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

/// A number of bytes as Kubernetes writes quantities: `512`, `1.5Ki`, `1e6`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Quantity(pub String);

impl Quantity {
    /// The number, rounded up; `None` if the text is no quantity, or one below zero.
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
    settle(&mut tree);
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
    let text = text.trim_end();
    let text = text.strip_suffix("\n---").unwrap_or(text);
    let mut track = serde_path_to_error::Track::new();
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, options, |yaml| {
        Value::deserialize(serde_path_to_error::Deserializer::new(yaml, &mut track))
    });
    let tree = read.map_err(|e| {
        let line = e.location().map(|l| format!("line {}", l.line()));
        let what = match e.without_snippet() {
            serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => {
                // The path ends in a field that is not known yet.
                let path = track.path().to_string();
                let field = format!("{}{key}", path.trim_end_matches('?'));
                let again = line.map(|l| format!(", again in {l}")).unwrap_or_default();
                return error(&field, format!("stands twice{again}"));
            }
            serde_saphyr::Error::MultipleDocuments { .. } => {
                "a second document; a configuration is one".to_owned()
            }
            other => DefaultMessageFormatter
                .format_message(other)
                .replace(|c: char| c.is_control(), " "),
        };
        let line = line.map(|l| l + ": ").unwrap_or_default();
        error("", format!("{line}{what}"))
    })?;
    match tree {
        Value::Object(_) => Ok(tree),
        _ => Err(error("", "is not a KubeProxyConfiguration")),
    }
}

/// A `null` is what an absent field is, but for durations, as upstream has it. A whole number may be
/// written as others are (`1.048576e+06`), which is what Helm does with great ones.
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
