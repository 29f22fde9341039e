//! What is in the kernel, and what a change to it takes.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{IpFamily, Protocol};
use netfilter::nft::table::{ChainContents, Contents, SetContents};
use netfilter::nft::{Element, Op, Value};
use plan::{NodeFacts, PortKey, PortPlan};

use super::elements::{Placed, port_elements, relay_port};
use super::listeners::RelayPorts;
use super::names::SetId;
use super::{Options, skeleton};

/// A Service port as it shall be, with the relay's ports for it; `None` for one that shall go.
pub type Target = (PortKey, Option<(Arc<PortPlan>, RelayPorts)>);

/// The table as one committed transaction after the other has made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    family: IpFamily,
    options: Options,
    node: Arc<NodeFacts>,
    ports: BTreeMap<PortKey, (Arc<PortPlan>, RelayPorts)>,
}

/// Operations that belong together, and what they make of the state once they are committed.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// For the kernel, as one transaction.
    pub ops: Vec<Op>,
    targets: Vec<Target>,
    node: Option<Arc<NodeFacts>>,
}

/// Elements by where they are, so that the order in which ports put them there does not count.
type Elements = BTreeMap<(SetId, Value, bool), Element>;

fn keyed(elements: impl IntoIterator<Item = Placed>) -> Elements {
    let keyed = elements.into_iter();
    keyed
        .map(|(set, e)| ((set, e.key, e.interval_end), e))
        .collect()
}

impl State {
    /// A table without Services.
    pub fn new(family: IpFamily, options: Options, node: Arc<NodeFacts>) -> Self {
        Self {
            family,
            options,
            node,
            ports: BTreeMap::new(),
        }
    }

    /// The options it is laid out with.
    pub fn options(&self) -> Options {
        self.options
    }

    /// The node facts that it is laid out with.
    pub fn node(&self) -> &Arc<NodeFacts> {
        &self.node
    }

    /// The ports that are in the table, with the relay's ports for them.
    pub fn ports(&self) -> &BTreeMap<PortKey, (Arc<PortPlan>, RelayPorts)> {
        &self.ports
    }

    /// The operations that keep everybody but those who are led there away from ports of the relay:
    /// for ports that are about to be opened, before a [`State::change`] leads anybody to them.
    pub fn guard(ports: impl IntoIterator<Item = (Protocol, u16)>) -> Vec<Op> {
        let ports = ports.into_iter();
        let elements = keyed(ports.map(|(protocol, port)| relay_port(protocol.number(), port)));
        let mut ops = Vec::new();
        for (set, elements) in by_set(elements) {
            ops.push(Op::AddElements { set, elements });
        }
        ops
    }

    /// The operations that undo [`State::guard`], for ports that are closed.
    pub fn unguard(ports: impl IntoIterator<Item = (Protocol, u16)>) -> Vec<Op> {
        let elements = ports.into_iter();
        let elements: Vec<Element> = elements
            .map(|(protocol, port)| relay_port(protocol.number(), port).1)
            .collect();
        if elements.is_empty() {
            return Vec::new();
        }
        let set = SetId::RelayPorts.name().to_owned();
        vec![Op::DeleteElements { set, elements }]
    }

    /// What brings these ports to what they shall be, and the table to other facts of the node. All
    /// of it is one transaction: of no port is there ever half.
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
            self.change_rules(&next, &mut ops);
            self.move_source_ranges(&targets, &next, &mut old, &mut new);
        }
        let (old, new) = (keyed(old), keyed(new));
        let gone = old.iter().filter(|(at, e)| new.get(at) != Some(e));
        let come = new.iter().filter(|(at, e)| old.get(at) != Some(e));
        let clone = |(at, e): (&(SetId, Value, bool), &Element)| (*at, e.clone());
        for (set, elements) in by_set(gone.map(clone).collect()) {
            ops.push(Op::DeleteElements { set, elements });
        }
        for (set, elements) in by_set(come.map(clone).collect()) {
            ops.push(Op::AddElements { set, elements });
        }
        Change { ops, targets, node }
    }

    /// Ports that nothing else is to happen to have other source ranges where the node has another
    /// address.
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

    /// Rewrites the chains whose rules depend on facts of the node that are different now.
    fn change_rules(&self, next: &NodeFacts, ops: &mut Vec<Op>) {
        let rules_at = |node: &NodeFacts| {
            let mut chains: BTreeMap<String, Vec<_>> = BTreeMap::new();
            for rule in skeleton::rules(self.family, &self.options, node) {
                chains.entry(rule.chain.clone()).or_default().push(rule);
            }
            chains
        };
        let before = rules_at(&self.node);
        for (chain, rules) in rules_at(next) {
            if before.get(&chain) != Some(&rules) {
                ops.push(Op::FlushChain(chain));
                ops.extend(rules.into_iter().map(Op::AddRule));
            }
        }
    }

    /// Takes in what the kernel has committed.
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

    /// Everything that is in the table.
    pub fn contents(&self) -> Contents {
        let mut contents = Contents {
            comment: Some(skeleton::COMMENT.to_owned()),
            ..Contents::default()
        };
        for chain in skeleton::chains() {
            let name = chain.name.clone();
            let rules = Vec::new();
            contents.chains.insert(name, ChainContents { chain, rules });
        }
        for rule in skeleton::rules(self.family, &self.options, &self.node) {
            if let Some(chain) = contents.chains.get_mut(&rule.chain) {
                chain.rules.push(rule);
            }
        }
        for id in SetId::ALL {
            let set = id.declare(self.family);
            let elements = BTreeMap::new();
            let contained = SetContents { set, elements };
            contents.sets.insert(id.name().to_owned(), contained);
        }
        let of_ports = self.ports.values();
        let of_ports = of_ports.flat_map(|(port, ports)| port_elements(port, *ports, &self.node));
        let of_node = skeleton::node_elements(&self.options, &self.node);
        for ((set, key, end), element) in keyed(of_node.into_iter().chain(of_ports)) {
            if let Some(set) = contents.sets.get_mut(set.name()) {
                set.elements.insert((key, end), element);
            }
        }
        contents
    }

    /// The operations that put this table in the place of whatever has its name, at once.
    pub fn replace(&self) -> Vec<Op> {
        let create = self.contents().create();
        // Deleting what is not there is refused; so it is made first.
        let clear = [Op::AddTable { comment: None }, Op::DeleteTable];
        clear.into_iter().chain(create).collect()
    }
}

/// Elements by the name of their set.
fn by_set(elements: Elements) -> BTreeMap<String, Vec<Element>> {
    let mut sets: BTreeMap<String, Vec<Element>> = BTreeMap::new();
    for ((set, ..), element) in elements {
        sets.entry(set.name().to_owned()).or_default().push(element);
    }
    sets
}
