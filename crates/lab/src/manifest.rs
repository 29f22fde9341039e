//! Manifests: documents with a kind and a name, and fields whose errors contain their place.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `metadata.namespace` and `metadata.name`; the default namespace is `default`, as with `kubectl`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct ObjectName {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl ObjectName {
    /// Parse `NAME` or `NAMESPACE/NAME`.
    pub fn parse(text: &str) -> Self {
        let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// `namespace/name`.
impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl From<ObjectName> for String {
    fn from(name: ObjectName) -> Self {
        name.to_string()
    }
}

impl From<String> for ObjectName {
    fn from(text: String) -> Self {
        Self::parse(&text)
    }
}

/// An error in a manifest, with its place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct ManifestError {
    /// File, document, object and field, as far as known.
    pub place: String,
    /// The reason, and how to correct it.
    pub reason: String,
}

/// One document of a manifest; the items of a `List` are documents of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The file and the document's number in it.
    pub origin: String,
    /// `kind`.
    pub kind: String,
    /// Its name.
    pub name: ObjectName,
    /// The whole document.
    pub value: Value,
}

impl Document {
    fn new(origin: String, value: Value) -> Result<Self, ManifestError> {
        let at = |field: &str, reason: &str| ManifestError {
            place: format!("{origin}: {field}"),
            reason: reason.to_owned(),
        };
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
        let kind = text("/kind").ok_or_else(|| at("kind", "a manifest must state its kind"))?;
        let name = text("/metadata/name")
            .ok_or_else(|| at("metadata.name", "an object must have a name"))?;
        let namespace = text("/metadata/namespace").unwrap_or("default");
        for (field, label) in [("metadata.name", name), ("metadata.namespace", namespace)] {
            if !is_dns_name(label) {
                return Err(at(
                    field,
                    "must be lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit, at most 253",
                ));
            }
        }
        Ok(Self {
            kind: kind.to_owned(),
            name: ObjectName {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            },
            origin,
            value,
        })
    }

    /// Return the document as a field.
    pub fn root(&self) -> Field<'_> {
        Field {
            document: self,
            path: String::new(),
            value: Some(&self.value),
        }
    }
}

/// Return whether a text is an RFC 1123 subdomain, as the names of objects are.
fn is_dns_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    bytes.len() <= 253
        && bytes.first().copied().is_some_and(plain)
        && bytes.last().copied().is_some_and(plain)
        && bytes.iter().all(|&b| plain(b) || b == b'-' || b == b'.')
}

/// The documents of a set of manifests, and the errors.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    /// The documents, in order.
    pub good: Vec<Document>,
    /// The errors of the other documents.
    pub errors: Vec<ManifestError>,
}

impl Documents {
    /// Read files, and the `.yaml`, `.yml` and `.json` files of folders.
    pub fn from_paths(paths: &[PathBuf]) -> Self {
        let mut all = Self::default();
        for path in paths {
            all.add_path(path);
        }
        all
    }

    /// Parse YAML or JSON documents; `file` is the name in errors.
    pub fn from_text(file: &str, text: &str) -> Self {
        let mut all = Self::default();
        all.add_text(file, text);
        all
    }

    fn add_path(&mut self, path: &Path) {
        let file = path.display().to_string();
        let read = if path.is_dir() {
            self.add_folder(path)
        } else {
            std::fs::read_to_string(path).map(|text| self.add_text(&file, &text))
        };
        if let Err(e) = read {
            self.errors.push(ManifestError {
                place: file,
                reason: e.to_string(),
            });
        }
    }

    fn add_folder(&mut self, folder: &Path) -> std::io::Result<()> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let ending = path.extension().and_then(|e| e.to_str());
                path.is_file() && matches!(ending, Some("yaml" | "yml" | "json"))
            })
            .collect();
        files.sort();
        for file in &files {
            self.add_path(file);
        }
        Ok(())
    }

    fn add_text(&mut self, file: &str, text: &str) {
        for (index, document) in source::manifests::trees(text.as_bytes())
            .into_iter()
            .enumerate()
        {
            let origin = format!("{file}: document {}", index + 1);
            match document.value {
                Ok(Value::Null) => {}
                Ok(value) => self.add_value(&origin, value),
                Err(reason) => self.errors.push(ManifestError {
                    place: origin,
                    reason,
                }),
            }
        }
    }

    fn add_value(&mut self, origin: &str, mut value: Value) {
        let is_list = value
            .get("kind")
            .and_then(Value::as_str)
            .is_some_and(|k| k.ends_with("List"));
        if is_list && let Some(Value::Array(items)) = value.get_mut("items").map(Value::take) {
            for (index, item) in items.into_iter().enumerate() {
                self.add_value(&format!("{origin}: items[{index}]"), item);
            }
            return;
        }
        match Document::new(origin.to_owned(), value) {
            Ok(document) => self.good.push(document),
            Err(e) => self.errors.push(e),
        }
    }
}

/// A field of a document, present or not, with its place.
#[derive(Clone, Debug)]
pub struct Field<'a> {
    document: &'a Document,
    path: String,
    value: Option<&'a Value>,
}

impl<'a> Field<'a> {
    /// Return a field of this object.
    pub fn get(&self, key: &str) -> Field<'a> {
        let path = if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        };
        Field {
            document: self.document,
            path,
            value: self.value.and_then(|v| v.get(key)),
        }
    }

    /// Return the value, unless absent or null.
    pub fn value(&self) -> Option<&'a Value> {
        self.value.filter(|v| !v.is_null())
    }

    /// Return an error about this field.
    pub fn error(&self, reason: impl Into<String>) -> ManifestError {
        let Document {
            origin, kind, name, ..
        } = self.document;
        ManifestError {
            place: format!("{origin} ({kind} {name}): {}", self.path),
            reason: reason.into(),
        }
    }

    /// Return the items of a list; empty if absent.
    pub fn items(&self) -> Result<Vec<Field<'a>>, ManifestError> {
        match self.value() {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => Ok(items
                .iter()
                .enumerate()
                .map(|(index, item)| Field {
                    document: self.document,
                    path: format!("{}[{index}]", self.path),
                    value: Some(item),
                })
                .collect()),
            Some(_) => Err(self.error("must be a list")),
        }
    }

    /// Return a string; an empty one counts as absent, as for the API server.
    pub fn text(&self) -> Result<Option<&'a str>, ManifestError> {
        match self.value() {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|t| !t.is_empty())),
            Some(other) => Err(self.error(format!("must be a string, not {other}"))),
        }
    }

    /// Return one of these words, or a default.
    pub fn word(
        &self,
        words: &[&'static str],
        default: &'static str,
    ) -> Result<&'static str, ManifestError> {
        let Some(text) = self.text()? else {
            return Ok(default);
        };
        words
            .iter()
            .find(|w| **w == text)
            .copied()
            .ok_or_else(|| self.error(format!("{text:?} is not one of {}", words.join(", "))))
    }

    /// Return a whole number within a range.
    pub fn number(&self, range: RangeInclusive<u32>) -> Result<Option<u32>, ManifestError> {
        let Some(value) = self.value() else {
            return Ok(None);
        };
        value
            .as_u64()
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| range.contains(n))
            .map(Some)
            .ok_or_else(|| {
                let (low, high) = range.into_inner();
                self.error(format!(
                    "must be a number from {low} to {high}, not {value}"
                ))
            })
    }

    /// Return a port number; 0 counts as absent, as for the API server.
    pub fn port(&self) -> Result<Option<u16>, ManifestError> {
        let number = self.number(0..=65535)?;
        Ok(number
            .and_then(|n| u16::try_from(n).ok())
            .filter(|&n| n != 0))
    }

    /// Return a Boolean.
    pub fn flag(&self) -> Result<Option<bool>, ManifestError> {
        match self.value() {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.error(format!("must be true or false, not {other}"))),
        }
    }

    /// Return a map of strings, such as labels; empty if absent.
    pub fn map(&self) -> Result<BTreeMap<String, String>, ManifestError> {
        match self.value() {
            None => Ok(BTreeMap::new()),
            Some(Value::Object(map)) => map
                .iter()
                .map(|(key, value)| match value {
                    Value::String(text) => Ok((key.clone(), text.clone())),
                    other => Err(self
                        .get(key)
                        .error(format!("must be a string, not {other}: put it in quotes"))),
                })
                .collect(),
            Some(_) => Err(self.error("must be a map of strings")),
        }
    }
}
