//! Problems with objects and with the files that contain them.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use model::{Invalid, Key, Subject, Warning};

/// A problem and its place. Its text is the cause alone: whether earlier objects are kept is the
/// decision of the program that reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The place in the manifests; `None` for an object of the API server, which its name
    /// identifies.
    pub place: Option<Place>,
    /// The cause.
    pub what: What,
}

/// A place in a manifest file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file or folder.
    pub path: Arc<Path>,
    /// The document, counted from 1 without empty ones, and the line, from 1, of its start or of
    /// the syntax error. `None` for the file as a whole.
    pub document: Option<(usize, usize)>,
    /// The item of a `List`, as a path: `items[3]`. Empty outside lists.
    pub item: String,
}

/// `web.yaml, document 3 (line 12), items[0]`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some((document, line)) = self.document {
            write!(f, ", document {document} (line {line})")?;
        }
        if !self.item.is_empty() {
            write!(f, ", {}", self.item)?;
        }
        Ok(())
    }
}

/// The cause of a problem. A source keeps the last valid version of every object concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A file or folder cannot be read. Its objects are kept.
    Unreadable(String),
    /// A document is not YAML or JSON, or not an object. Its objects are unknown, so all objects
    /// read from the file earlier are kept.
    Malformed(String),
    /// A field has the wrong type.
    WrongType {
        /// The object, as far as its kind and name are known.
        object: Subject,
        /// The field's path: `spec.ports[1].port`.
        field: String,
        /// The type found and the type expected.
        reason: String,
    },
    /// The API server sent an object that cannot be decoded.
    Undecodable {
        /// The object, as far as its metadata could be decoded.
        object: Subject,
        /// The decoder's error.
        reason: String,
    },
    /// The object is invalid as a whole.
    Invalid(Invalid),
    /// A part of the object is invalid and ignored.
    Partial(Warning),
    /// The object is defined in two places; the later definition is used.
    Duplicate {
        /// The object.
        key: Key,
        /// The place of the definition that is ignored.
        ignored: Box<Place>,
    },
}

/// The severity of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The valid parts are used.
    Warning,
    /// A stated object is not used.
    Error,
}

impl Problem {
    /// Return the severity.
    pub fn severity(&self) -> Severity {
        match self.what {
            What::Partial(_) | What::Duplicate { .. } => Severity::Warning,
            _ => Severity::Error,
        }
    }

    /// Identify the problem across edits: without its line, which an edit further up changes.
    pub(crate) fn identity(&self) -> String {
        let path = self.place.as_ref().map_or(Path::new(""), |p| &*p.path);
        let path = path.display();
        match &self.what {
            What::Duplicate { key, ignored } => {
                format!("{path}: {key} is also in {}", ignored.path.display())
            }
            what => format!("{path}: {what}"),
        }
    }
}

/// `web.yaml, document 3 (line 12): Service demo/web: spec.ports[0].port: 0 is not a port (1 to
/// 65535)`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        self.what.fmt(f)
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Unreadable(reason) => write!(f, "cannot be read: {reason}"),
            What::Malformed(reason) => f.write_str(reason),
            What::WrongType {
                object,
                field,
                reason,
            } => write!(f, "{object}: {field}: {reason}"),
            What::Undecodable { object, reason } => {
                write!(f, "{object}: cannot be decoded: {reason}")
            }
            What::Invalid(invalid) => invalid.fmt(f),
            What::Partial(warning) => warning.fmt(f),
            What::Duplicate { key, ignored } => {
                write!(f, "{key} is also defined in {ignored}, which is ignored")
            }
        }
    }
}
