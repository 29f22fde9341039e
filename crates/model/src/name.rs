//! Names of objects and of Service ports.

use std::fmt;
use std::sync::Arc;

/// The name of a namespaced object. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespacedName {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl NamespacedName {
    /// A name from its two parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

/// `namespace/name`.
impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One port of one Service; what chains, rules and comments are named after.
///
/// The protocol is part of a port's identity only where two ports of a Service share a name, which
/// the API server refuses; upstream's name carries the protocol beside it, see `plan`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortName {
    /// The Service.
    pub service: NamespacedName,
    /// `spec.ports[].name`, empty where a Service has one unnamed port.
    pub port: Arc<str>,
}

/// `namespace/name:port`, or `namespace/name` for an unnamed port: the form in which kube-proxy's
/// comments and chain hashes name a Service port.
impl fmt::Display for ServicePortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.port.is_empty() {
            self.service.fmt(f)
        } else {
            write!(f, "{}:{}", self.service, self.port)
        }
    }
}
