//! What goes wrong with objects, said so that it can be found and mended.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use model::{Invalid, Key, Subject, Warning};

/// Something wrong in a source, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where in the manifests; `None` for an object of the API server, whose name says it all.
    pub place: Option<Place>,
    /// What.
    pub what: What,
}

/// A place in a manifest file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, or the folder.
    pub path: Arc<Path>,
    /// Which document, counted from 1 without empty ones, and the line, from 1, where it starts
    /// (or where it cannot be read). `None` for the file as a whole.
    pub document: Option<(usize, usize)>,
    /// Which item of a `List`, as a path: `items[3]`. Empty outside lists.
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

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A file or folder could not be read. Its objects stay in force.
    Unreadable(String),
    /// A document is not YAML or JSON, or not an object. Which objects it held cannot be told, so
    /// all that were read from the file before stay in force.
    Malformed(String),
    /// A field has the wrong type.
    WrongType {
        /// The object, as far as it says.
        object: Subject,
        /// The field's path: `spec.ports[1].port`.
        field: String,
        /// What was expected, what was found.
        reason: String,
    },
    /// The API server sent an object that cannot be decoded. Its last good version stays in force.
    Undecodable {
        /// The object, as far as could be decoded.
        object: Subject,
        /// What is wrong with it.
        reason: String,
    },
    /// The object cannot be used. Its last good version stays in force.
    Invalid(Invalid),
    /// A part of the object is left out.
    Partial(Warning),
    /// The object stands in two places; the later one is in force.
    Duplicate {
        /// The object.
        key: Key,
        /// The place that is passed over.
        passed_over: Box<Place>,
    },
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// What could be used is in force.
    Warning,
    /// Something stated is not in force.
    Error,
}

impl Problem {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self.what {
            What::Partial(_) | What::Duplicate { .. } => Severity::Warning,
            _ => Severity::Error,
        }
    }

    /// What tells this problem from others: not its line, which an edit further up moves.
    pub(crate) fn identity(&self) -> String {
        let path = self.place.as_ref().map_or(Path::new(""), |p| &*p.path);
        let path = path.display();
        match &self.what {
            What::Duplicate { key, passed_over } => {
                format!("{path}: {key} is also in {}", passed_over.path.display())
            }
            what => format!("{path}: {what}"),
        }
    }
}

/// `web.yaml, document 3 (line 12): Service demo/web: spec.ports[0].port: 0 is not a port (1 to
/// 65535); its last good version, if there was one, stays in force`.
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
        const KEPT: &str = "its last good version, if there was one, stays in force";
        match self {
            What::Unreadable(why) => {
                write!(
                    f,
                    "cannot be read: {why}; what was read from it before stays in force"
                )
            }
            What::Malformed(why) => {
                write!(
                    f,
                    "{why}; what was read from this file before stays in force"
                )
            }
            What::WrongType {
                object,
                field,
                reason,
            } => write!(f, "{object}: {field}: {reason}; {KEPT}"),
            What::Undecodable { object, reason } => {
                write!(f, "{object}: cannot be decoded: {reason}; {KEPT}")
            }
            What::Invalid(invalid) => write!(f, "{invalid}; {KEPT}"),
            What::Partial(warning) => warning.fmt(f),
            What::Duplicate { key, passed_over } => {
                write!(f, "{key} is also in {passed_over}; this one is in force")
            }
        }
    }
}
