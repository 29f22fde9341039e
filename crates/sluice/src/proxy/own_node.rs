//! Reports about this node: its Node object, a node name without a Node, a restart.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use model::{Change, Event};
use observe::{NodeEligibility, Server};
use source::apiserver::{EventType, NewEvent, Recorder, Regarding};

use super::input::Stop;

/// Upper bound on the wait for the last Event before the process ends.
const LAST_EVENT: Duration = Duration::from_secs(2);

/// Node names in the report of a mismatch.
const NAMES_SHOWN: usize = 5;

/// Reports to the log, as Events and to `/healthz`.
pub(crate) struct NodeReport {
    node: OwnNode,
    server: Server,
    recorder: Option<Recorder>,
}

impl NodeReport {
    /// `recorder` exists if the source is an API server.
    pub(crate) fn new(name: &str, server: Server, recorder: Option<Recorder>) -> Self {
        Self {
            node: OwnNode::new(name),
            server,
            recorder,
        }
    }

    /// Apply the Nodes in events. `/healthz` depends on this node's own.
    pub(crate) fn apply(&mut self, events: &[Event]) {
        self.node.apply(events);
        for event in events {
            let eligible = match event {
                Event::Node(Change::Applied(node)) if *node.name == *self.node.name => {
                    !node.deleting
                }
                Event::Node(Change::Deleted(name)) if **name == *self.node.name => false,
                _ => continue,
            };
            self.server.set_node(if eligible {
                NodeEligibility::Eligible
            } else {
                NodeEligibility::Ineligible
            });
        }
    }

    /// Report, once, that no Node has this node's name. Call it when the initial list is complete
    /// and the wait for the Node is over.
    pub(crate) fn report_mismatch(&mut self) {
        let Some(mismatch) = self.node.mismatch(self.recorder.is_some()) else {
            return;
        };
        mismatch.log(&self.node.name);
        self.server.set_node(NodeEligibility::Ineligible);
        if let Some(recorder) = &self.recorder {
            let note = "no Node has the name of this proxy; set --hostname-override";
            let warning = EventType::Warning;
            let event = node_event(
                &self.node.name,
                warning,
                "NodeNotFound",
                "StartKubeProxy",
                note,
            );
            recorder.record(event);
        }
    }

    /// Report at the first call that the Node is another machine's. `host` are the addresses of this one.
    pub(crate) fn report_other_machine(&mut self, host: &[IpAddr]) {
        self.node
            .report_other_machine(self.recorder.is_some(), host);
    }

    /// Announce a restart with a changed configuration.
    pub(crate) fn announce(&self, stop: &Stop) {
        if let (Stop::ConfigChanged(path), Some(recorder)) = (stop, &self.recorder) {
            let note = format!("{} has changed; restarting with it", path.display());
            let (reason, action) = ("ConfigurationChanged", "StopKubeProxy");
            let event = node_event(&self.node.name, EventType::Normal, reason, action, &note);
            recorder.record_and_wait(event, LAST_EVENT);
        }
    }
}

/// Report what the Nodes of a single sync show about this node's name. `host` are the addresses of this
/// machine.
pub(crate) fn report_name(name: &str, events: &[Event], in_cluster: bool, host: &[IpAddr]) {
    let mut node = OwnNode::new(name);
    node.apply(events);
    if let Some(mismatch) = node.mismatch(in_cluster) {
        mismatch.log(name);
    }
    node.report_other_machine(in_cluster, host);
}

/// The Nodes that the source has delivered. The API server delivers this node's own only, manifests
/// deliver all.
#[derive(Debug)]
struct OwnNode {
    name: String,
    /// The other Nodes with their addresses.
    others: BTreeMap<Box<str>, Vec<IpAddr>>,
    /// The addresses of this node's Node, if it exists.
    found: Option<Vec<IpAddr>>,
    reported: bool,
    is_machine_checked: bool,
}

/// A node name that matches no Node.
#[derive(Debug, PartialEq, Eq)]
struct Mismatch {
    /// Some of the Nodes that exist, if any are known.
    known: Vec<String>,
}

impl OwnNode {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            others: BTreeMap::new(),
            found: None,
            reported: false,
            is_machine_checked: false,
        }
    }

    /// Note the Nodes in events.
    fn apply(&mut self, events: &[Event]) {
        for event in events {
            match event {
                Event::Node(Change::Applied(node)) if *node.name == *self.name => {
                    self.found = Some(addresses(node));
                    self.reported = false;
                }
                Event::Node(Change::Deleted(name)) if **name == *self.name => self.found = None,
                Event::Node(Change::Applied(node)) => {
                    self.others.insert((*node.name).into(), addresses(node));
                }
                Event::Node(Change::Deleted(name)) => {
                    self.others.remove(&**name);
                }
                _ => {}
            }
        }
    }

    /// Return a mismatch once, until the Node is found. `in_cluster`: the source delivers the Node if it exists;
    /// otherwise a mismatch needs another Node as evidence.
    fn mismatch(&mut self, in_cluster: bool) -> Option<Mismatch> {
        let missing = self.found.is_none() && (in_cluster || !self.others.is_empty());
        if !missing || std::mem::replace(&mut self.reported, true) {
            return None;
        }
        let known = self.others.keys().take(NAMES_SHOWN);
        Some(Mismatch {
            known: known.map(ToString::to_string).collect(),
        })
    }

    fn report_other_machine(&mut self, in_cluster: bool, host: &[IpAddr]) {
        if std::mem::replace(&mut self.is_machine_checked, true) {
            return;
        }
        let Some(other) = self.other_machine(in_cluster, host) else {
            return;
        };
        let addresses = self.found.iter().flatten().map(ToString::to_string);
        let addresses: Vec<String> = addresses.collect();
        tracing::warn!(
            node = self.name,
            addresses = addresses.join(", "),
            here = other.unwrap_or_default(),
            "This machine has no address of the Node with this node's name, which may be another \
             machine's; check --hostname-override"
        );
    }

    /// Return whether this machine has no address of its Node, with the Node that it has an address of.
    /// `in_cluster`: other Nodes are not known; otherwise one of them is needed as evidence.
    fn other_machine(&self, in_cluster: bool, host: &[IpAddr]) -> Option<Option<&str>> {
        let here = |addresses: &[IpAddr]| addresses.iter().any(|ip| host.contains(ip));
        let own = self.found.as_deref()?;
        if own.is_empty() || here(own) {
            return None;
        }
        let mut others = self.others.iter();
        let actual = others.find(|(_, addresses)| here(addresses));
        let actual = actual.map(|(name, _)| &**name);
        (in_cluster || actual.is_some()).then_some(actual)
    }
}

fn addresses(node: &model::Node) -> Vec<IpAddr> {
    node.addresses.iter().map(|address| address.ip).collect()
}

impl Mismatch {
    fn log(&self, node: &str) {
        tracing::error!(
            node,
            known = self.known.join(", "),
            "No Node has this node's name; Services with local traffic policies get no traffic \
             here. Set --hostname-override to the name of the Node"
        );
    }
}

/// Return an Event about this node's Node.
pub(crate) fn node_event(
    node: &str,
    event_type: EventType,
    reason: &str,
    action: &str,
    note: &str,
) -> NewEvent {
    NewEvent {
        regarding: regarding("Node", "", node),
        event_type,
        reason: reason.to_owned(),
        action: action.to_owned(),
        note: note.to_owned(),
    }
}

/// Return the reference to an object of the core API.
pub(crate) fn regarding(kind: &'static str, namespace: &str, name: &str) -> Regarding {
    Regarding {
        api_version: "v1",
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        // kubectl finds a Node's Events by its name, which is also used as the uid.
        uid: if kind == "Node" {
            name.to_owned()
        } else {
            String::new()
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::{Node, NodeAddress};

    use super::*;

    fn node(name: &str) -> Event {
        node_at(name, "192.0.2.1")
    }

    fn node_at(name: &str, address: &str) -> Event {
        Event::Node(Change::Applied(Arc::new(Node {
            name: name.into(),
            uid: "".into(),
            addresses: vec![NodeAddress {
                kind: model::NodeAddressType::InternalIp,
                ip: address.parse().unwrap(),
            }],
            pod_cidrs: Vec::new(),
            topology: BTreeMap::new(),
            deleting: false,
        })))
    }

    #[test]
    fn a_name_without_a_node_is_reported_once() {
        let mut own = OwnNode::new("ox-1");
        own.apply(&[node("ox-2"), node("ox-3")]);
        let known = vec!["ox-2".to_owned(), "ox-3".to_owned()];
        assert_eq!(own.mismatch(false), Some(Mismatch { known }));
        assert_eq!(own.mismatch(false), None);
        own.apply(&[node("ox-1")]);
        assert_eq!(own.mismatch(false), None);
        own.apply(&[node("ox-1").key().deleted()]);
        assert!(
            own.mismatch(false).is_some(),
            "a deleted Node is missing again"
        );
    }

    #[test]
    fn without_any_node_only_a_cluster_shows_a_mismatch() {
        let mut own = OwnNode::new("ox-1");
        assert_eq!(own.mismatch(false), None);
        assert_eq!(own.mismatch(true), Some(Mismatch { known: Vec::new() }));
    }

    #[test]
    fn a_node_of_another_machine_is_recognised_by_its_addresses() {
        let host = ["192.0.2.1".parse().unwrap()];
        let mut own = OwnNode::new("ox-2");
        own.apply(&[node_at("ox-2", "192.0.2.2")]);
        assert_eq!(own.other_machine(false, &host), None, "without evidence");
        assert_eq!(own.other_machine(true, &host), Some(None));
        own.apply(&[node_at("ox-1", "192.0.2.1")]);
        assert_eq!(own.other_machine(false, &host), Some(Some("ox-1")));
        own.apply(&[node_at("ox-2", "192.0.2.1")]);
        assert_eq!(own.other_machine(true, &host), None);
    }
}
