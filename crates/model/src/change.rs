//! Changes of objects, from a source to the rest of sluice.

use std::fmt;
use std::sync::Arc;

use crate::{EndpointSlice, NamespacedName, Node, Service, ServiceCidr};

/// A change of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<T, K> {
    /// The object was added or replaced.
    Applied(T),
    /// The object was deleted.
    Deleted(K),
}

/// A change of an object that sluice watches.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The kinds' own names.
pub enum Event {
    Service(Change<Arc<Service>, NamespacedName>),
    EndpointSlice(Change<Arc<EndpointSlice>, NamespacedName>),
    Node(Change<Arc<Node>, Arc<str>>),
    ServiceCidr(Change<Arc<ServiceCidr>, Arc<str>>),
}

impl Key {
    /// Return the event that deletes the object.
    pub fn deleted(&self) -> Event {
        match self.clone() {
            Key::Service(n) => Event::Service(Change::Deleted(n)),
            Key::EndpointSlice(n) => Event::EndpointSlice(Change::Deleted(n)),
            Key::Node(n) => Event::Node(Change::Deleted(n)),
            Key::ServiceCidr(n) => Event::ServiceCidr(Change::Deleted(n)),
        }
    }
}

/// Key of an object that sluice watches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // The kinds' own names.
pub enum Key {
    Service(NamespacedName),
    EndpointSlice(NamespacedName),
    Node(Arc<str>),
    ServiceCidr(Arc<str>),
}

impl Event {
    /// Return the key of the changed object.
    pub fn key(&self) -> Key {
        match self {
            Event::Service(Change::Applied(s)) => Key::Service(s.name.clone()),
            Event::Service(Change::Deleted(k)) => Key::Service(k.clone()),
            Event::EndpointSlice(Change::Applied(s)) => Key::EndpointSlice(s.name.clone()),
            Event::EndpointSlice(Change::Deleted(k)) => Key::EndpointSlice(k.clone()),
            Event::Node(Change::Applied(n)) => Key::Node(n.name.clone()),
            Event::Node(Change::Deleted(k)) => Key::Node(k.clone()),
            Event::ServiceCidr(Change::Applied(c)) => Key::ServiceCidr(c.name.clone()),
            Event::ServiceCidr(Change::Deleted(k)) => Key::ServiceCidr(k.clone()),
        }
    }
}

/// `Service demo/web`.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Service(n) => write!(f, "Service {n}"),
            Key::EndpointSlice(n) => write!(f, "EndpointSlice {n}"),
            Key::Node(n) => write!(f, "Node {n}"),
            Key::ServiceCidr(n) => write!(f, "ServiceCIDR {n}"),
        }
    }
}
