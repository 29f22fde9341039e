//! The table as the kernel has committed it, and the operations of a change.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{IpFamily, Protocol};
use netfilter::nft::Op;
use netfilter::nft::table::{Contents, SetContents};
use plan::{NodeFacts, PortKey, PortPlan};

use super::elements::{Placed, port_elements, relay_port};
use super::listeners::RelayPorts;
use super::names::SetId;
use super::{Options, skeleton};
use crate::nft_table::{Chains, add_elements, delete_elements, difference, remake, with_rules};

/// Desired state of a Service port, with the relay's ports for it; `None` removes it.
pub type Target = (PortKey, Option<(Arc<PortPlan>, RelayPorts)>);

/// The table after all committed transactions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    family: IpFamily,
    options: Options,
    node: Arc<NodeFacts>,
    ports: BTreeMap<PortKey, (Arc<PortPlan>, RelayPorts)>,
}

/// The operations of one transaction, and their effect on the state after the commit.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// For the kernel, as one transaction.
    pub ops: Vec<Op>,
    targets: Vec<Target>,
    node: Option<Arc<NodeFacts>>,
}

impl State {
    /// Return a table without Services.
    pub fn new(family: IpFamily, options: Options, node: Arc<NodeFacts>) -> Self {
        Self {
            family,
            options,
            node,
            ports: BTreeMap::new(),
        }
    }

    /// Return the options of its layout.
    pub fn options(&self) -> Options {
        self.options
    }

    /// Return the facts of the node in its layout.
    pub fn node(&self) -> &Arc<NodeFacts> {
        &self.node
    }

    /// Return the ports that are in the table, with the relay's ports for them.
    pub fn ports(&self) -> &BTreeMap<PortKey, (Arc<PortPlan>, RelayPorts)> {
        &self.ports
    }

    /// Return the operations that guard ports of the relay: the table rejects connections that it did
    /// not lead there. For ports that are about to be opened, before a [`State::change`] leads there.
    pub fn guard(ports: impl IntoIterator<Item = (Protocol, u16)>) -> Vec<Op> {
        let guards = ports.into_iter();
        let guards = guards.map(|(protocol, port)| relay_port(protocol.number(), port));
        let mut ops = Vec::new();
        add_elements(guards.collect(), &mut ops);
        ops
    }

    /// Return the operations that undo [`State::guard`], for ports that are closed.
    pub fn unguard(ports: impl IntoIterator<Item = (Protocol, u16)>) -> Vec<Op> {
        let guards = ports.into_iter();
        let guards = guards.map(|(protocol, port)| relay_port(protocol.number(), port));
        let mut ops = Vec::new();
        delete_elements(guards.collect(), &mut ops);
        ops
    }

    /// Return the operations that bring ports, and the facts of the node, to the desired state. They
    /// are one transaction, so no packet passes half of a port.
    pub fn change(&self, targets: Vec<Target>, node: Option<Arc<NodeFacts>>) -> Change {
        let next = node.clone().unwrap_or_else(|| self.node.clone());
        let (mut old, mut new) = (Vec::new(), Vec::new());
        for (key, target) in &targets {
            if let Some((port, ports)) = self.ports.get(key) {
                old.extend(port_elements(port, *ports, &self.node));
            }
            if let Some((port, ports)) = target {
                new.extend(port_elements(port, *ports, &next));
            }
        }
        let mut ops = Vec::new();
        if node.is_some() {
            old.extend(skeleton::node_elements(&self.options, &self.node));
            new.extend(skeleton::node_elements(&self.options, &next));
            ops.extend(remake(&self.chains(&self.node), &self.chains(&next)).0);
            self.move_source_ranges(&targets, &next, &mut old, &mut new);
        }
        let (removed, added) = difference(old, new);
        delete_elements(removed, &mut ops);
        add_elements(added, &mut ops);
        Change { ops, targets, node }
    }

    /// Add the elements of unchanged ports whose source ranges depend on the address of the node.
    fn move_source_ranges(
        &self,
        targets: &[Target],
        next: &NodeFacts,
        old: &mut Vec<Placed>,
        new: &mut Vec<Placed>,
    ) {
        for (key, (port, ports)) in &self.ports {
            if !port.source_ranges.is_empty() && !targets.iter().any(|(k, _)| k == key) {
                old.extend(port_elements(port, *ports, &self.node));
                new.extend(port_elements(port, *ports, next));
            }
        }
    }

    fn chains(&self, node: &NodeFacts) -> Chains {
        let rules = skeleton::rules(self.family, &self.options, node);
        with_rules(skeleton::chains(), rules)
    }

    /// Apply a change that the kernel has committed.
    pub fn commit(&mut self, change: Change) {
        for (key, target) in change.targets {
            match target {
                Some(port) => self.ports.insert(key, port),
                None => self.ports.remove(&key),
            };
        }
        if let Some(node) = change.node {
            self.node = node;
        }
    }

    /// Return the contents of the table.
    pub fn contents(&self) -> Contents {
        let mut contents = Contents {
            comment: Some(skeleton::COMMENT.to_owned()),
            ..Contents::default()
        };
        contents.chains = self.chains(&self.node);
        for id in SetId::ALL {
            let set = id.declare(self.family);
            let elements = BTreeMap::new();
            let contained = SetContents { set, elements };
            contents.sets.insert(id.name().to_owned(), contained);
        }
        let of_ports = self.ports.values();
        let of_ports = of_ports.flat_map(|(port, ports)| port_elements(port, *ports, &self.node));
        let of_node = skeleton::node_elements(&self.options, &self.node);
        for (set, element) in of_node.into_iter().chain(of_ports) {
            if let Some(set) = contents.sets.get_mut(set.name()) {
                let place = (element.key, element.interval_end);
                set.elements.insert(place, element);
            }
        }
        contents
    }

    /// Return the operations that replace any table of this name, as one transaction.
    pub fn replace(&self) -> Vec<Op> {
        let create = self.contents().create();
        // The kernel refuses to delete a missing table, so create it first.
        let clear = [Op::AddTable { comment: None }, Op::DeleteTable];
        clear.into_iter().chain(create).collect()
    }
}
