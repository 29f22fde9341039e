//! What is in the kernel, and what a change to it takes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use model::IpFamily;
use netfilter::nft::table::{ChainContents, Contents, SetContents};
use netfilter::nft::{Chain, Element, Op};
use plan::{NodeFacts, Plan, PortKey, PortPlan};

use super::Options;
use super::elements::{PortElements, Shared, port_elements};
use super::names::SetId;
use super::pick::{self, Pick};
use super::skeleton;
use crate::nft_table::{Chains, add_elements, delete_elements, difference, remake, with_rules};

/// A Service port as it shall be; `None` for one that shall go.
pub type Target = (PortKey, Option<Arc<PortPlan>>);

/// The table as one committed transaction after the other has made it.
///
/// It is kept as the plan that it was made from, shared with the planner: what elements that means
/// is worked out again when it is asked for. Only what several ports have in common is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    family: IpFamily,
    options: Options,
    node: Arc<NodeFacts>,
    ports: BTreeMap<PortKey, Arc<PortPlan>>,
    shared: HashMap<Shared, u32>,
    /// How many frontends lead to each chain. One that none leads to any more stays until it is swept:
    /// kernels before 6.2 refuse to delete it right after the element that went to it, and the next
    /// change may well need it.
    picks: BTreeMap<Pick, u32>,
}

/// Operations that belong together, and what they make of the state once they are committed.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// For the kernel, as one transaction.
    pub ops: Vec<Op>,
    targets: Vec<Target>,
    node: Option<Arc<NodeFacts>>,
    shared: BTreeMap<Shared, i64>,
    picks: BTreeMap<Pick, i64>,
    swept: Vec<Pick>,
}

impl Change {
    /// The ports that it is about.
    pub fn keys(&self) -> impl Iterator<Item = &PortKey> {
        self.targets.iter().map(|(key, _)| key)
    }

    /// Whether it only deletes idle chains.
    pub(super) fn is_sweep(&self) -> bool {
        !self.swept.is_empty()
    }

    /// Whether there is nothing for the kernel to do.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

impl State {
    /// A table without Services.
    pub fn new(family: IpFamily, options: Options, node: Arc<NodeFacts>) -> Self {
        Self {
            family,
            options,
            node,
            ports: BTreeMap::new(),
            shared: HashMap::new(),
            picks: BTreeMap::new(),
        }
    }

    /// The table of a plan.
    pub fn lower(plan: &Plan, options: Options) -> Self {
        let mut state = Self::new(plan.family, options, plan.node.clone());
        let targets = plan.ports.iter().map(|(k, p)| (k.clone(), Some(p.clone())));
        state.take_in(targets.collect());
        state
    }

    /// Makes the state as if these had been committed, without working out operations.
    pub(super) fn take_in(&mut self, targets: Vec<Target>) {
        let mut change = Change {
            targets,
            ..Change::default()
        };
        let (mut old, mut new) = (PortElements::in_common(), PortElements::in_common());
        for (key, target) in &change.targets {
            if let Some(port) = self.ports.get(key) {
                old.add(port, &self.node);
            }
            if let Some(port) = target {
                new.add(port, &self.node);
            }
        }
        count(&old, -1, &mut change.shared, &mut change.picks);
        count(&new, 1, &mut change.shared, &mut change.picks);
        self.commit(change);
    }

    /// The operations that make the table and all that is in it, where there is none.
    pub fn create(&self) -> Vec<Op> {
        let mut ops = self.make(&self.chains_in_use());
        let mut elements = PortElements::default();
        for port in self.ports.values() {
            elements.add(port, &self.node);
        }
        elements.own.extend(self.common_elements());
        add_elements(elements.own, &mut ops);
        ops
    }

    /// The address family.
    pub fn family(&self) -> IpFamily {
        self.family
    }

    /// The options it is laid out with.
    pub fn options(&self) -> Options {
        self.options
    }

    /// The ports that are in the table.
    pub fn ports(&self) -> &BTreeMap<PortKey, Arc<PortPlan>> {
        &self.ports
    }

    /// What it was laid out with of the node.
    pub fn node(&self) -> &Arc<NodeFacts> {
        &self.node
    }

    /// The operations that make the table without its Services, where there is none.
    pub fn install(&self) -> Vec<Op> {
        let mut ops = self.make(&self.chains_of([].into_iter(), &self.node));
        add_elements(skeleton::node_elements(&self.node), &mut ops);
        ops
    }

    /// The operations that make the table with these chains and without elements.
    fn make(&self, chains: &Chains) -> Vec<Op> {
        let mut ops = vec![Op::AddTable {
            comment: Some(skeleton::COMMENT.to_owned()),
        }];
        let sets = SetId::ALL.iter().map(|id| id.declare(self.family));
        ops.extend(sets.map(Op::AddSet));
        ops.extend(remake(&Chains::new(), chains).0);
        ops
    }

    /// What brings these ports to what they shall be, and the table to other facts of the node.
    ///
    /// All of it is one transaction: of no port is there ever half. Elements go first and come
    /// last, and new chains before what points at them.
    pub fn change(&self, targets: Vec<Target>, node: Option<Arc<NodeFacts>>) -> Change {
        let mut change = Change {
            targets,
            node,
            ..Change::default()
        };
        let next = change.node.clone().unwrap_or_else(|| self.node.clone());
        if next.node_ip != self.node.node_ip {
            self.add_source_ranged(&mut change.targets);
        }
        let (mut old, mut new) = (PortElements::default(), PortElements::default());
        for (key, target) in &change.targets {
            if let Some(port) = self.ports.get(key) {
                old.add(port, &self.node);
            }
            if let Some(port) = target {
                new.add(port, &next);
            }
        }
        count(&old, -1, &mut change.shared, &mut change.picks);
        count(&new, 1, &mut change.shared, &mut change.picks);
        let (mut old, mut new) = (old.own, new.own);
        change.shared.retain(|_, by| *by != 0);
        for (shared, by) in &change.shared {
            let before = i64::from(self.shared.get(shared).copied().unwrap_or(0));
            match (before > 0, before + by > 0) {
                (false, true) => new.push(shared.element()),
                (true, false) => old.push(shared.element()),
                _ => {}
            }
        }
        if change.node.is_some() {
            old.extend(skeleton::node_elements(&self.node));
            new.extend(skeleton::node_elements(&next));
        }
        if change.node.is_some() || change.picks.keys().any(|p| !self.picks.contains_key(p)) {
            let picks = self.picks.keys().chain(change.picks.keys());
            let (come, gone) = remake(&self.chains(), &self.chains_of(picks.copied(), &next));
            change.ops.extend(come.into_iter().chain(gone));
        }
        let (gone, come) = difference(old, new);
        delete_elements(gone, &mut change.ops);
        add_elements(come, &mut change.ops);
        change
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
        for (shared, by) in change.shared {
            let count = self.shared.entry(shared).or_insert(0);
            *count = add(*count, by);
            if *count == 0 {
                self.shared.remove(&shared);
            }
        }
        for (pick, by) in change.picks {
            let count = self.picks.entry(pick).or_insert(0);
            *count = add(*count, by);
        }
        for pick in change.swept {
            self.picks.remove(&pick);
        }
    }

    /// Deletes the chains that nothing goes to any more.
    pub fn sweep(&self) -> Change {
        let swept: Vec<Pick> = self
            .picks
            .iter()
            .filter_map(|(pick, count)| (*count == 0).then_some(*pick))
            .collect();
        let (come, gone) = remake(&self.chains(), &self.chains_in_use());
        Change {
            ops: come.into_iter().chain(gone).collect(),
            swept,
            ..Change::default()
        }
    }

    /// How many chains nothing goes to any more.
    pub fn idle_chains(&self) -> usize {
        self.picks.values().filter(|count| **count == 0).count()
    }

    /// Everything that is in the table, idle chains not counted.
    pub fn contents(&self) -> Contents {
        let mut contents = Contents {
            comment: Some(skeleton::COMMENT.to_owned()),
            ..Contents::default()
        };
        contents.chains = self.chains_in_use();
        for id in SetId::ALL {
            let set = id.declare(self.family);
            let elements = BTreeMap::new();
            let contained = SetContents { set, elements };
            contents.sets.insert(id.name().to_owned(), contained);
        }
        self.each_element(|id, e| {
            if let Some(set) = contents.sets.get_mut(id.name()) {
                set.elements.insert((e.key, e.interval_end), e);
            }
        });
        contents
    }

    /// Passes every element that is in the table to `each`; a live endpoint that is listed twice may
    /// come twice.
    pub fn each_element(&self, mut each: impl FnMut(SetId, Element)) {
        for (id, e) in self.common_elements() {
            each(id, e);
        }
        for port in self.ports.values() {
            for (id, e) in port_elements(port, &self.node).own {
                each(id, e);
            }
        }
    }

    /// The elements that are not one port's alone.
    pub(super) fn common_elements(&self) -> Vec<(SetId, Element)> {
        let mut found = skeleton::node_elements(&self.node);
        found.extend(self.shared.keys().map(|shared| shared.element()));
        found
    }

    /// Every chain that is in the table.
    pub(super) fn chains(&self) -> Chains {
        self.chains_of(self.picks.keys().copied(), &self.node)
    }

    fn chains_in_use(&self) -> Chains {
        let used = self.picks.iter().filter(|(_, count)| **count > 0);
        self.chains_of(used.map(|(pick, _)| *pick), &self.node)
    }

    /// Every chain that a table with these picks has, at other facts of the node than the state's.
    fn chains_of(&self, picks: impl Iterator<Item = Pick>, node: &NodeFacts) -> Chains {
        let (family, options) = (self.family, &self.options);
        let rules = skeleton::rules(family, options, node);
        let mut chains = with_rules(skeleton::chains(), rules);
        for (name, rules) in pick::chains(picks, family, options, node) {
            let chain = Chain {
                name: name.clone(),
                base: None,
                comment: None,
            };
            chains.insert(name, ChainContents { chain, rules });
        }
        chains
    }

    /// Corrects which idle chains there are: those of the ones found that no frontend leads to.
    pub fn set_idle(&mut self, found: impl Iterator<Item = Pick>) {
        self.picks.retain(|_, count| *count > 0);
        for pick in found {
            self.picks.entry(pick).or_insert(0);
        }
    }

    /// Keeps what no port of this state has, but something else in the table needs.
    pub(super) fn keep(&mut self, shared: Shared) {
        *self.shared.entry(shared).or_insert(0) += 1;
    }

    /// Ports whose source ranges must be looked at again, since the node has another address.
    fn add_source_ranged(&self, targets: &mut Vec<Target>) {
        let ranged = self.ports.iter().filter(|(key, port)| {
            !port.source_ranges.is_empty() && !targets.iter().any(|(k, _)| k == *key)
        });
        let ranged: Vec<_> = ranged.map(|(k, p)| (k.clone(), Some(p.clone()))).collect();
        targets.extend(ranged);
    }
}

fn add(count: u32, by: i64) -> u32 {
    u32::try_from(i64::from(count) + by).unwrap_or(0)
}

/// Counts what a port has in common with others, and the chains that its elements go to.
fn count(
    elements: &PortElements,
    by: i64,
    shared: &mut BTreeMap<Shared, i64>,
    picks: &mut BTreeMap<Pick, i64>,
) {
    for s in &elements.shared {
        *shared.entry(*s).or_insert(0) += by;
    }
    for pick in &elements.picks {
        *picks.entry(*pick).or_insert(0) += by;
    }
}
