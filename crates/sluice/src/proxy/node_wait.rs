//! Waiting for this node's own Node object, as kube-proxy does: rules depend on the node's addresses,
//! and on its pod range if that identifies local traffic. Pure, time is an argument.

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{Change, Event, Node};

/// How long to wait for the Node to have addresses; then Services are served without.
const ADDRESSES: Duration = Duration::from_secs(30);

/// How long to wait for a pod range after that, where one is needed; then it is an error.
const POD_RANGE: Duration = Duration::from_secs(300);

/// The wait of one proxy.
#[derive(Debug)]
pub(crate) struct NodeWait {
    node_name: String,
    /// `detectLocalMode: NodeCIDR`.
    needs_pod_range: bool,
    since: Instant,
    node: Option<Arc<Node>>,
}

/// The state of the wait.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Continue.
    Ready,
    /// Continue, and log this.
    ReadyWithout(String),
    /// Wait until this time, unless the Node arrives.
    Until(Instant),
    /// The proxy cannot start, for this reason.
    Never(String),
}

impl NodeWait {
    /// Return a wait that begins now.
    pub(crate) fn new(node_name: &str, needs_pod_range: bool, now: Instant) -> Self {
        Self {
            node_name: node_name.to_owned(),
            needs_pod_range,
            since: now,
            node: None,
        }
    }

    /// Take the Node from events.
    pub(crate) fn see(&mut self, events: &[Event]) {
        for event in events {
            if let Event::Node(Change::Applied(node)) = event
                && *node.name == *self.node_name
            {
                self.node = Some(Arc::clone(node));
            }
        }
    }

    /// Return the last version of the Node.
    pub(crate) fn node(&self) -> Option<&Node> {
        self.node.as_deref()
    }

    /// Return whether the proxy can continue.
    pub(crate) fn answer(&self, now: Instant) -> Answer {
        let node = &self.node_name;
        let has = |what: fn(&Node) -> bool| self.node().is_some_and(what);
        if self.needs_pod_range && !has(|node| !node.pod_cidrs.is_empty()) {
            let end = self.since + ADDRESSES + POD_RANGE;
            return if now < end {
                Answer::Until(end)
            } else {
                Answer::Never(format!(
                    "Node {node} has no podCIDR, which detectLocalMode NodeCIDR needs; waited \
                     for {:?}",
                    ADDRESSES + POD_RANGE
                ))
            };
        }
        if has(|node| !node.addresses.is_empty()) {
            return Answer::Ready;
        }
        let end = self.since + ADDRESSES;
        if now < end {
            return Answer::Until(end);
        }
        Answer::ReadyWithout(format!(
            "Node {node} does not exist or has no addresses; continuing without it after {ADDRESSES:?}. \
             If the name is wrong, set --hostname-override"
        ))
    }
}

#[cfg(test)]
mod tests {
    use model::{NodeAddress, NodeAddressType};

    use super::*;

    fn node(name: &str, addresses: &[&str], pods: &[&str]) -> Event {
        Event::Node(Change::Applied(Arc::new(Node {
            name: name.into(),
            uid: "".into(),
            addresses: addresses
                .iter()
                .map(|ip| NodeAddress {
                    kind: NodeAddressType::InternalIp,
                    ip: ip.parse().unwrap(),
                })
                .collect(),
            pod_cidrs: pods.iter().map(|net| net.parse().unwrap()).collect(),
            topology: std::collections::BTreeMap::new(),
            deleting: false,
        })))
    }

    #[test]
    fn a_node_with_an_address_ends_the_wait() {
        let start = Instant::now();
        let mut wait = NodeWait::new("a", false, start);
        wait.see(&[node("b", &["10.0.0.1"], &[]), node("a", &[], &[])]);
        assert_eq!(wait.answer(start), Answer::Until(start + ADDRESSES));
        wait.see(&[node("a", &["10.0.0.1"], &[])]);
        assert_eq!(wait.answer(start), Answer::Ready);
    }

    #[test]
    fn without_a_node_services_are_served_after_the_limit() {
        let start = Instant::now();
        let wait = NodeWait::new("a", false, start);
        assert!(matches!(
            wait.answer(start + ADDRESSES),
            Answer::ReadyWithout(why) if why.contains("Node a ")
        ));
    }

    #[test]
    fn a_missing_pod_range_is_an_error_after_the_limit() {
        let start = Instant::now();
        let mut wait = NodeWait::new("a", true, start);
        wait.see(&[node("a", &["10.0.0.1"], &[])]);
        let end = start + ADDRESSES + POD_RANGE;
        assert_eq!(wait.answer(start + ADDRESSES), Answer::Until(end));
        assert!(matches!(wait.answer(end), Answer::Never(why) if why.contains("podCIDR")));
        wait.see(&[node("a", &["10.0.0.1"], &["10.1.0.0/24"])]);
        assert_eq!(wait.answer(end), Answer::Ready);
    }
}
