//! The routes to the API server, tried in turn.

use std::net::SocketAddr;
use std::rc::Rc;

use super::http::SendError;
use super::target::Target;

/// One route to the server.
#[derive(Clone)]
pub(super) struct Route {
    /// Host, port and the name to verify.
    pub(super) target: Rc<Target>,
    /// The address to connect to instead of `target`'s host and port.
    pub(super) address: Option<SocketAddr>,
}

impl Route {
    pub(super) fn error(&self, reason: &dyn std::fmt::Display) -> SendError {
        SendError::Connect(format!("cannot connect to {self}: {reason}"))
    }
}

impl PartialEq for Route {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.target, &other.target) && self.address == other.address
    }
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.address {
            Some(address) => address.fmt(f),
            None => f.write_str(&self.target.authority()),
        }
    }
}

/// All routes, in order: a node kubeconfig's server, the stored addresses, the configured server.
/// The current route is used until it fails.
pub(super) struct Routes {
    configured: Rc<Target>,
    node: Option<Rc<Target>>,
    list: Vec<Route>,
    current: usize,
    /// Selects the first stored address, to spread the nodes over the API servers.
    rotation: usize,
}

impl Routes {
    pub(super) fn new(configured: Rc<Target>, node: Option<Target>, rotation: usize) -> Self {
        let mut routes = Self {
            configured,
            node: node.map(Rc::new),
            list: Vec::new(),
            current: 0,
            rotation,
        };
        routes.set_addresses(&[]);
        routes
    }

    /// Replace the stored addresses. The current route stays current if it still exists.
    pub(super) fn set_addresses(&mut self, addresses: &[SocketAddr]) {
        let current = self.list.get(self.current).cloned();
        let mut addresses = addresses.to_vec();
        if !addresses.is_empty() {
            let first = self.rotation % addresses.len();
            addresses.rotate_left(first);
        }
        let route = |target: &Rc<Target>, address| Route {
            target: target.clone(),
            address,
        };
        let node = self.node.iter().map(|node| route(node, None));
        let stored = addresses.into_iter();
        let stored = stored.map(|address| route(&self.configured, Some(address)));
        let configured = route(&self.configured, None);
        self.list = node.chain(stored).chain([configured]).collect();
        let position = current.and_then(|current| self.list.iter().position(|r| *r == current));
        self.current = position.unwrap_or(0);
    }

    pub(super) fn count(&self) -> usize {
        self.list.len()
    }

    pub(super) fn current(&self) -> Option<Route> {
        self.list.get(self.current).cloned()
    }

    /// Make the next route current, unless another connection has done so already.
    pub(super) fn failed(&mut self, route: &Route) {
        if self.current().as_ref() == Some(route) {
            self.current = (self.current + 1) % self.list.len().max(1);
        }
    }
}
