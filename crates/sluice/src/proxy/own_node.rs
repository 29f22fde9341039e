//! Reports about this node: its Node object, a node name without a Node, a restart.

use std::collections::BTreeSet;
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
        let Some(Mismatch { known }) = self.node.mismatch(self.recorder.is_some()) else {
            return;
        };
        tracing::error!(
            node = self.node.name,
            known = known.join(", "),
            "No Node has this node's name; Services with local traffic policies get no traffic \
             here. Set --hostname-override to the name of the Node"
        );
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

/// The Nodes that the source has delivered. The API server delivers this node's own only, manifests
/// deliver all.
#[derive(Debug)]
struct OwnNode {
    name: String,
    others: BTreeSet<Box<str>>,
    found: bool,
    reported: bool,
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
            others: BTreeSet::new(),
            found: false,
            reported: false,
        }
    }

    /// Note the Nodes in events.
    fn apply(&mut self, events: &[Event]) {
        for event in events {
            match event {
                Event::Node(Change::Applied(node)) if *node.name == *self.name => {
                    self.found = true;
                    self.reported = false;
                }
                Event::Node(Change::Deleted(name)) if **name == *self.name => self.found = false,
                Event::Node(Change::Applied(node)) => {
                    self.others.insert((*node.name).into());
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
        let missing = !self.found && (in_cluster || !self.others.is_empty());
        if !missing || std::mem::replace(&mut self.reported, true) {
            return None;
        }
        let known = self.others.iter().take(NAMES_SHOWN);
        Some(Mismatch {
            known: known.map(ToString::to_string).collect(),
        })
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
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use model::Node;

    use super::*;

    fn node(name: &str) -> Event {
        Event::Node(Change::Applied(Arc::new(Node {
            name: name.into(),
            uid: "".into(),
            addresses: Vec::new(),
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
}
