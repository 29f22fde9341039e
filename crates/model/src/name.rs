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
    /// Return a name from its two parts.
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

/// Name of one port of one Service; used in chain names and comments.
///
/// The key in `plan` contains the protocol too, as upstream's does: two ports of a Service could
/// share a name, which the API server refuses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortName {
    /// The Service.
    pub service: NamespacedName,
    /// `spec.ports[].name`, empty if a Service has one unnamed port.
    pub port: Arc<str>,
}

/// `namespace/name:port`, or `namespace/name` for an unnamed port: the form in comments and chain
/// hashes of kube-proxy.
impl fmt::Display for ServicePortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.port.is_empty() {
            self.service.fmt(f)
        } else {
            write!(f, "{}:{}", self.service, self.port)
        }
    }
}
