//! Reads the bytes of one file into checked objects.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use model::{Event, Interner, Key, Kind, Subject};
use serde_json::Value;

use super::decode::decode;
use super::split::split;
use super::tree::{List, SyntaxError, first_json, from_json, from_yaml, list_in_json};
use crate::{Place, Problem, What};

/// The content of a file.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// The valid objects, as events, and their places.
    pub(super) objects: BTreeMap<Key, (Event, Place)>,
    /// The invalid objects.
    pub(super) bad: Vec<Key>,
    /// Whether the identity of an object could not be read.
    pub(super) incomplete: bool,
    /// All problems.
    pub(super) problems: Vec<Problem>,
}

/// Read a file: JSON if its name ends in `.json`, or if it starts with a brace and parses as JSON;
/// otherwise YAML.
pub(super) fn read(path: &Arc<Path>, bytes: &[u8], interner: &mut Interner) -> Reading {
    let mut reader = Reader {
        path,
        interner,
        documents: 0,
        out: Reading::default(),
    };
    let named_json = path.extension().is_some_and(|e| e == "json");
    let braced = bytes.trim_ascii_start().first() == Some(&b'{');
    if named_json || braced {
        let json = reader.json(bytes);
        if json.is_err() && !named_json {
            reader.documents = 0;
            reader.out = Reading::default();
            reader.yaml(bytes);
        } else if let Err((line, message)) = json {
            reader.malformed(line, message);
        }
    } else {
        reader.yaml(bytes);
    }
    reader.out
}

/// A document of a file as a tree, for readers of kinds that sluice does not watch.
#[derive(Debug)]
pub struct Tree {
    /// Its first line, from 1.
    pub line: usize,
    /// Its value or its error, which does not affect other documents.
    pub value: Result<Value, String>,
}

/// Return the documents of a YAML or JSON file, without empty ones.
pub fn trees(bytes: &[u8]) -> Vec<Tree> {
    split(bytes)
        .into_iter()
        .map(|document| {
            let tree = match std::str::from_utf8(document.bytes) {
                Ok(text) => from_yaml(text),
                Err(e) => Err(not_utf8(document.bytes, e)),
            };
            let value = tree.map_err(|e| match e.line {
                Some(line) => format!("line {}: {}", document.first_line + line - 1, e.message),
                None => e.message,
            });
            Tree {
                line: document.line,
                value,
            }
        })
        .collect()
}

struct Reader<'a> {
    path: &'a Arc<Path>,
    interner: &'a mut Interner,
    /// Number of documents begun.
    documents: usize,
    out: Reading,
}

impl Reader<'_> {
    fn yaml(&mut self, bytes: &[u8]) {
        for document in split(bytes) {
            self.documents += 1;
            let tree = match std::str::from_utf8(document.bytes) {
                Ok(text) => from_yaml(text),
                Err(e) => Err(not_utf8(document.bytes, e)),
            };
            match tree {
                Ok(tree) => self.document(document.line, tree),
                Err(e) => {
                    let line = e
                        .line
                        .map_or(document.line, |l| document.first_line + l - 1);
                    self.malformed(line, e.message);
                }
            }
        }
    }

    /// Read a JSON file. After an error, the documents before it are kept.
    fn json(&mut self, bytes: &[u8]) -> Result<(), (usize, String)> {
        let text = std::str::from_utf8(bytes).map_err(|e| {
            let error = not_utf8(bytes, e);
            (error.line.unwrap_or(1), error.message)
        })?;
        let (mut line, mut rest) = (1, text);
        while !rest.trim_start().is_empty() {
            self.documents += 1;
            let blank = rest.len() - rest.trim_start().len();
            line += lines(&rest[..blank]);
            rest = rest.trim_start();
            // The parser of trees reports an invalid value.
            let (document, end) = first_json(rest).unwrap_or((rest, rest.len()));
            let error = |e: SyntaxError| (line + e.line.unwrap_or(1) - 1, e.message);
            match list_in_json(document) {
                Some(list) if implied(&list.fields).is_some() => {
                    self.json_list(line, document, &list).map_err(error)?;
                }
                _ => self.document(line, from_json(document).map_err(error)?),
            }
            line += lines(&rest[..end]);
            rest = &rest[end..];
        }
        Ok(())
    }
    /// Read the items of a list one by one: all of them or, after an error, none.
    fn json_list(
        &mut self,
        line: usize,
        document: &str,
        list: &List<'_>,
    ) -> Result<(), SyntaxError> {
        let implied = implied(&list.fields).unwrap_or_default();
        let before = std::mem::take(&mut self.out);
        let mut read = Ok(());
        for (number, text) in list.items.iter().enumerate() {
            match from_json(text) {
                Ok(tree) => self.item(line, &format!("items[{number}]"), implied, tree),
                Err(mut error) => {
                    // The line within the document.
                    let offset = text.as_ptr() as usize - document.as_ptr() as usize;
                    error.line = error.line.map(|l| l + lines(&document[..offset]));
                    read = Err(error);
                    break;
                }
            }
        }
        let new = std::mem::replace(&mut self.out, before);
        if read.is_ok() {
            self.out.bad.extend(new.bad);
            self.out.incomplete |= new.incomplete;
            self.out.problems.extend(new.problems);
            for (event, place) in new.objects.into_values() {
                self.good(place, event);
            }
        }
        read
    }

    fn place(&self, line: usize, item: &str) -> Place {
        Place {
            path: self.path.clone(),
            document: Some((self.documents, line)),
            item: item.into(),
        }
    }

    fn problem(&mut self, place: Place, what: What) {
        self.out.problems.push(Problem {
            place: Some(place),
            what,
        });
    }

    fn malformed(&mut self, line: usize, message: String) {
        self.out.incomplete = true;
        self.problem(self.place(line, ""), What::Malformed(message));
    }

    fn document(&mut self, line: usize, tree: Value) {
        self.item(line, "", ("", ""), tree);
    }

    /// Read an object or list. `implied` is the `apiVersion` and `kind` implied by the enclosing list:
    /// items of a `ServiceList` need not state theirs.
    fn item(&mut self, line: usize, item: &str, implied: (&str, &str), tree: Value) {
        let Value::Object(mut map) = tree else {
            if !tree.is_null() {
                self.unidentified(line, item, "is not an object");
            }
            return;
        };
        let (api_version, kind) = match (stated(&map, "apiVersion"), stated(&map, "kind")) {
            (Ok(version), Ok(kind)) => (
                version.unwrap_or(implied.0).to_owned(),
                kind.unwrap_or(implied.1).to_owned(),
            ),
            (Err(reason), _) | (_, Err(reason)) => return self.unidentified(line, item, reason),
        };
        if kind.is_empty() {
            return self.unidentified(line, item, "kind: is required");
        }
        if api_version.is_empty() {
            return self.unidentified(line, item, "apiVersion: is required");
        }
        if let Some(implied) = of_items(&api_version, &kind)
            && let Some(items) = map.remove("items")
        {
            return self.list(line, item, implied, items);
        }
        match Kind::of(&api_version, &kind) {
            Some(kind) => self.object(self.place(line, item), kind, Value::Object(map)),
            None => {
                tracing::debug!(%api_version, %kind, path = %self.path.display(), "Object skipped");
            }
        }
    }

    fn list(&mut self, line: usize, item: &str, implied: (&str, &str), items: Value) {
        let within = if item.is_empty() { "" } else { "." };
        match items {
            Value::Null => {}
            Value::Array(items) => {
                for (i, tree) in items.into_iter().enumerate() {
                    self.item(line, &format!("{item}{within}items[{i}]"), implied, tree);
                }
            }
            _ => self.unidentified(line, item, "items: is not a list"),
        }
    }

    /// Note an object without a readable identity.
    fn unidentified(&mut self, line: usize, item: &str, reason: &str) {
        self.out.incomplete = true;
        self.problem(self.place(line, item), What::Malformed(reason.into()));
    }

    fn object(&mut self, place: Place, kind: Kind, tree: Value) {
        let name = |field| tree.pointer(field).and_then(Value::as_str).unwrap_or("");
        let subject = Subject::new(kind, name("/metadata/namespace"), name("/metadata/name"));
        let what = match decode(kind, tree) {
            Err((field, reason)) => What::WrongType {
                object: subject.clone(),
                field,
                reason,
            },
            Ok(object) => match object.check(self.interner) {
                Ok(checked) => {
                    for warning in checked.warnings {
                        self.problem(place.clone(), What::Partial(warning));
                    }
                    return self.good(place, checked.value);
                }
                Err(invalid) => What::Invalid(invalid),
            },
        };
        match subject.key() {
            Some(key) => self.out.bad.push(key),
            None => self.out.incomplete = true,
        }
        self.problem(place, what);
    }

    fn good(&mut self, place: Place, event: Event) {
        let key = event.key();
        let here = place.clone();
        if let Some((_, before)) = self.out.objects.insert(key.clone(), (event, place)) {
            let ignored = Box::new(before);
            self.problem(here, What::Duplicate { key, ignored });
        }
    }
}

fn lines(text: &str) -> usize {
    text.bytes().filter(|b| *b == b'\n').count()
}

/// Return `apiVersion` and `kind` that a list implies for its items, empty for items of several kinds;
/// `None` for another object.
fn of_items<'a>(api_version: &'a str, kind: &'a str) -> Option<(&'a str, &'a str)> {
    match kind.strip_suffix("List")? {
        "" => Some(("", "")),
        of => Some((api_version, of)),
    }
}

/// As [`of_items`], from the fields of an object; `None` if they are not valid.
fn implied(fields: &serde_json::Map<String, Value>) -> Option<(&str, &str)> {
    let [api_version, kind] = ["apiVersion", "kind"].map(|name| fields.get(name)?.as_str());
    of_items(api_version.filter(|version| !version.is_empty())?, kind?)
}

/// Return an optional field, which must be a string.
fn stated<'a>(
    map: &'a serde_json::Map<String, Value>,
    field: &str,
) -> Result<Option<&'a str>, &'static str> {
    match map.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) => Ok(Some(s)),
        Some(_) if field == "kind" => Err("kind: is not a string"),
        Some(_) => Err("apiVersion: is not a string"),
    }
}

fn not_utf8(bytes: &[u8], e: std::str::Utf8Error) -> SyntaxError {
    let before = bytes.get(..e.valid_up_to()).unwrap_or_default();
    SyntaxError {
        line: Some(1 + before.iter().filter(|b| **b == b'\n').count()),
        message: "is not UTF-8".into(),
    }
}
