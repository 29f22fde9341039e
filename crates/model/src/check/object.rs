//! An object of any kind.

use std::sync::Arc;

use super::{Checked, Invalid};
use crate::object::Object;
use crate::{Change, EndpointSlice, Event, Interner, Node, Service, ServiceCidr};

impl Object {
    /// Check the object and return the event that adds it.
    pub fn check(self, interner: &mut Interner) -> Result<Checked<Event>, Invalid> {
        Ok(match self {
            Object::Service(o) => {
                Service::check(o, interner)?.map(|v| Event::Service(Change::Applied(Arc::new(v))))
            }
            Object::EndpointSlice(o) => EndpointSlice::check(o, interner)?
                .map(|v| Event::EndpointSlice(Change::Applied(Arc::new(v)))),
            Object::Node(o) => {
                Node::check(o, interner)?.map(|v| Event::Node(Change::Applied(Arc::new(v))))
            }
            Object::ServiceCidr(o) => ServiceCidr::check(o, interner)?
                .map(|v| Event::ServiceCidr(Change::Applied(Arc::new(v)))),
        })
    }
}

impl<T> Checked<T> {
    /// Convert the value and keep the warnings.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Checked<U> {
        Checked {
            value: f(self.value),
            warnings: self.warnings,
        }
    }
}
