//! Conversion of [`object`](crate::object)s to their checked form.
//!
//! An error that makes the whole object meaningless (no name, a port out of range, an unknown
//! protocol) is [`Invalid`]; the caller keeps the last valid version. A single unusable address is
//! ignored with a [`Warning`]. Both name object and field. The rules are those of the API server
//! (`pkg/apis/core/validation`, `pkg/apis/discovery/validation`), except where a comment says
//! otherwise.

mod address;
mod endpoint_slice;
mod names;
mod node;
mod object;
mod service;
mod service_cidr;
#[cfg(test)]
mod tests;
mod time;

use std::fmt;

pub use address::{parse_cidr, parse_ip};
pub use time::parse_rfc3339;

use crate::kind::Kind;
use crate::{Key, NamespacedName, Protocol};

/// A checked object with warnings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked<T> {
    /// The object.
    pub value: T,
    /// One warning per ignored part.
    pub warnings: Vec<Warning>,
}

/// An object that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {field}: {reason}")]
pub struct Invalid {
    /// The object.
    pub object: Subject,
    /// Path of the field at fault: `spec.ports[1].port`.
    pub field: String,
    /// The reason.
    pub reason: String,
}

/// An ignored part of an object, or a field without effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The object.
    pub object: Subject,
    /// Path of the field at fault: `spec.externalIPs[0]`.
    pub field: String,
    /// The reason and the consequence.
    pub reason: String,
}

/// `Service demo/web: spec.externalIPs[0]: "x" is not an IP address; ignored`.
impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.object, self.field, self.reason)
    }
}

/// The object that a message concerns; parts may be missing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty if the kind is not namespaced.
    pub namespace: String,
    /// Its name; empty if absent.
    pub name: String,
}

impl Subject {
    /// Return the subject for a namespace and a name. The namespace defaults to `default`, as in
    /// `kubectl`.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        let namespace = match (kind.namespaced(), namespace) {
            (false, _) => "",
            (true, "") => "default",
            (true, namespace) => namespace,
        };
        Self {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Return the object's key, if it has a name.
    pub fn key(&self) -> Option<Key> {
        if self.name.is_empty() {
            return None;
        }
        let namespaced = || NamespacedName::new(&*self.namespace, &*self.name);
        Some(match self.kind {
            Kind::Service => Key::Service(namespaced()),
            Kind::EndpointSlice => Key::EndpointSlice(namespaced()),
            Kind::Node => Key::Node(self.name.as_str().into()),
            Kind::ServiceCidr => Key::ServiceCidr(self.name.as_str().into()),
        })
    }
}

/// `Service demo/web`, `Node node1`, `Service without a name`.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names are unchecked here and must not forge log lines.
        let name = self.name.escape_debug();
        match (self.name.is_empty(), self.namespace.is_empty()) {
            (true, _) => write!(f, "{} without a name", self.kind),
            (false, true) => write!(f, "{} {name}", self.kind),
            (false, false) => {
                let namespace = self.namespace.escape_debug();
                write!(f, "{} {namespace}/{name}", self.kind)
            }
        }
    }
}

/// Collects the warnings of an object during its check.
struct Checker {
    object: Subject,
    warnings: Vec<Warning>,
}

impl Checker {
    /// Start the check of an object. Its name must be valid for the API server, because names are
    /// written to rule comments.
    fn new(kind: Kind, metadata: &crate::object::Metadata) -> Result<Self, Invalid> {
        let checker = Self {
            object: Subject::new(kind, &metadata.namespace, &metadata.name),
            warnings: Vec::new(),
        };
        if metadata.name.is_empty() {
            return Err(checker.invalid("metadata.name", "is required"));
        }
        let valid = match kind {
            Kind::Service => names::is_label(&metadata.name),
            _ => names::is_subdomain(&metadata.name),
        };
        if !valid {
            let reason = format!("{:?} is not a name for a {kind}", metadata.name);
            return Err(checker.invalid("metadata.name", reason));
        }
        if kind.namespaced() && !names::is_label(&checker.object.namespace) {
            let reason = format!("{:?} is not a name for a namespace", metadata.namespace);
            return Err(checker.invalid("metadata.namespace", reason));
        }
        Ok(checker)
    }

    fn invalid(&self, field: impl Into<String>, reason: impl Into<String>) -> Invalid {
        Invalid {
            object: self.object.clone(),
            field: field.into(),
            reason: reason.into(),
        }
    }

    fn warn(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.warnings.push(Warning {
            object: self.object.clone(),
            field: field.into(),
            reason: reason.into(),
        });
    }

    fn done<T>(self, value: T) -> Checked<T> {
        Checked {
            value,
            warnings: self.warnings,
        }
    }

    /// Return an optional port; 0 means absent.
    fn optional_port(
        &self,
        field: impl FnOnce() -> String,
        port: i64,
    ) -> Result<Option<std::num::NonZeroU16>, Invalid> {
        match u16::try_from(port) {
            Ok(port) => Ok(std::num::NonZeroU16::new(port)),
            Err(_) => Err(self.invalid(field(), format!("{port} is not a port (1 to 65535)"))),
        }
    }

    /// Return a required port.
    fn required_port(
        &self,
        field: impl Fn() -> String,
        port: Option<i64>,
    ) -> Result<std::num::NonZeroU16, Invalid> {
        let Some(port) = port else {
            return Err(self.invalid(field(), "is required"));
        };
        self.optional_port(&field, port)?
            .ok_or_else(|| self.invalid(field(), "0 is not a port (1 to 65535)"))
    }

    fn protocol(
        &self,
        field: impl FnOnce() -> String,
        protocol: &str,
    ) -> Result<Protocol, Invalid> {
        if protocol.is_empty() {
            return Ok(Protocol::Tcp);
        }
        Protocol::ALL
            .into_iter()
            .find(|p| p.upper() == protocol)
            .ok_or_else(|| {
                let reason = format!("{protocol:?} is not a protocol (TCP, UDP or SCTP)");
                self.invalid(field(), reason)
            })
    }
}
