//! The table as the kernel has committed it, and the operations of a change.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
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

/// Desired state of a Service port; `None` removes it.
pub type Target = (PortKey, Option<Arc<PortPlan>>);

/// The table after all committed transactions.
///
/// Stored as the plan of each port that was written, shared with the planner; elements are derived
/// from it when needed. Only elements that several ports share are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    family: IpFamily,
    options: Options,
    node: Arc<NodeFacts>,
    ports: BTreeMap<PortKey, Arc<PortPlan>>,
    shared: HashMap<Shared, u32>,
    /// The number of frontends that lead to each chain. An unused chain stays until it is swept: kernels
    /// before 6.2 refuse to delete it right after the element that led to it, and the next change may
    /// need it.
    picks: BTreeMap<Pick, u32>,
    /// The number of ports whose cluster IP is in none of the Service ranges.
    outside: u32,
}

/// The operations of one transaction, and their effect on the state after the commit.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// For the kernel, as one transaction.
    pub ops: Vec<Op>,
    targets: Vec<Target>,
    node: Option<Arc<NodeFacts>>,
    shared: BTreeMap<Shared, i64>,
    picks: BTreeMap<Pick, i64>,
    outside: i64,
    swept: Vec<Pick>,
}

impl Change {
    /// Return the keys of the ports.
    pub fn keys(&self) -> impl Iterator<Item = &PortKey> {
        self.targets.iter().map(|(key, _)| key)
    }

    /// Return whether it only deletes idle chains.
    pub(super) fn is_sweep(&self) -> bool {
        !self.swept.is_empty()
    }

    /// Return whether there are no operations.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

impl State {
    /// Return a table without Services.
    pub fn new(family: IpFamily, options: Options, node: Arc<NodeFacts>) -> Self {
        Self {
            family,
            options,
            node,
            ports: BTreeMap::new(),
            shared: HashMap::new(),
            picks: BTreeMap::new(),
            outside: 0,
        }
    }

    /// Return the table of a plan.
    pub fn lower(plan: &Plan, options: Options) -> Self {
        let mut state = Self::new(plan.family, options, plan.node.clone());
        let targets = plan.ports.iter().map(|(k, p)| (k.clone(), Some(p.clone())));
        state.apply(targets.collect());
        state
    }

    /// Apply targets as if they had been committed, without operations.
    pub(super) fn apply(&mut self, targets: Vec<Target>) {
        let mut change = Change {
            targets,
            ..Change::default()
        };
        let (mut old, mut new) = (PortElements::only_shared(), PortElements::only_shared());
        for (key, target) in &change.targets {
            if let Some(port) = self.ports.get(key) {
                old.add(port, &self.node);
                change.outside -= i64::from(is_outside(port.cluster_ip, &self.node));
            }
            if let Some(port) = target {
                new.add(port, &self.node);
                change.outside += i64::from(is_outside(port.cluster_ip, &self.node));
            }
        }
        count(&old, -1, &mut change.shared, &mut change.picks);
        count(&new, 1, &mut change.shared, &mut change.picks);
        self.commit(change);
    }

    /// Return the operations that create the table with its contents.
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

    /// Return the address family.
    pub fn family(&self) -> IpFamily {
        self.family
    }

    /// Return the options of its layout.
    pub fn options(&self) -> Options {
        self.options
    }

    /// Return the ports that are in the table.
    pub fn ports(&self) -> &BTreeMap<PortKey, Arc<PortPlan>> {
        &self.ports
    }

    /// Return the facts of the node in its layout.
    pub fn node(&self) -> &Arc<NodeFacts> {
        &self.node
    }

    /// Return the operations that create the table without Services.
    pub fn install(&self) -> Vec<Op> {
        let chains = self.chains_of([].into_iter(), &self.node, self.outside);
        let mut ops = self.make(&chains);
        add_elements(skeleton::node_elements(&self.node), &mut ops);
        ops
    }

    /// Return the operations that create the table with these chains and without elements.
    fn make(&self, chains: &Chains) -> Vec<Op> {
        let mut ops = vec![Op::AddTable {
            comment: Some(skeleton::COMMENT.to_owned()),
        }];
        let sets = SetId::ALL.iter().map(|id| id.declare(self.family));
        ops.extend(sets.map(Op::AddSet));
        ops.extend(remake(&Chains::new(), chains).0);
        ops
    }

    /// Return the operations that bring ports, and the facts of the node, to the desired state.
    ///
    /// They are one transaction, so no packet passes half of a port. Elements are deleted first and
    /// added last, and chains are added before the elements that lead to them.
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
        change.outside = self.outside_after(&change.targets, &next);
        let outside = add(self.outside, change.outside);
        let new_pick = change.picks.keys().any(|p| !self.picks.contains_key(p));
        if change.node.is_some() || new_pick || (outside == 0) != (self.outside == 0) {
            let picks = self.picks.keys().chain(change.picks.keys());
            let chains = self.chains_of(picks.copied(), &next, outside);
            let (added, removed) = remake(&self.chains(), &chains);
            change.ops.extend(added.into_iter().chain(removed));
        }
        let (removed, added) = difference(old, new);
        delete_elements(removed, &mut change.ops);
        add_elements(added, &mut change.ops);
        change
    }

    /// Return by how much targets, and new facts of the node, change the number of ports outside of the
    /// Service ranges.
    fn outside_after(&self, targets: &[Target], next: &NodeFacts) -> i64 {
        let number = |port: Option<&Arc<PortPlan>>, node| {
            port.map_or(0, |port| i64::from(is_outside(port.cluster_ip, node)))
        };
        let changed = targets
            .iter()
            .map(|(key, to)| number(to.as_ref(), next) - number(self.ports.get(key), &self.node));
        let mut by: i64 = changed.sum();
        if next.service_cidrs != self.node.service_cidrs {
            let targets: BTreeSet<&PortKey> = targets.iter().map(|(key, _)| key).collect();
            let others = self.ports.iter().filter(|(key, _)| !targets.contains(key));
            by += others
                .map(|(_, port)| number(Some(port), next) - number(Some(port), &self.node))
                .sum::<i64>();
        }
        by
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
        self.outside = add(self.outside, change.outside);
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

    /// Return the operations that delete idle chains.
    pub fn sweep(&self) -> Change {
        let swept: Vec<Pick> = self
            .picks
            .iter()
            .filter_map(|(pick, count)| (*count == 0).then_some(*pick))
            .collect();
        let (added, removed) = remake(&self.chains(), &self.chains_in_use());
        Change {
            ops: added.into_iter().chain(removed).collect(),
            swept,
            ..Change::default()
        }
    }

    /// Return the number of idle chains.
    pub fn idle_chains(&self) -> usize {
        self.picks.values().filter(|count| **count == 0).count()
    }

    /// Return the contents of the table, without idle chains.
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

    /// Pass every element of the table to `each`, a live endpoint that is listed twice possibly twice.
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

    /// Return the elements that belong to the node or to several ports.
    pub(super) fn common_elements(&self) -> Vec<(SetId, Element)> {
        let mut found = skeleton::node_elements(&self.node);
        found.extend(self.shared.keys().map(|shared| shared.element()));
        found
    }

    /// Return all chains of the table.
    pub(super) fn chains(&self) -> Chains {
        self.chains_of(self.picks.keys().copied(), &self.node, self.outside)
    }

    fn chains_in_use(&self) -> Chains {
        let used = self.picks.iter().filter(|(_, count)| **count > 0);
        self.chains_of(used.map(|(pick, _)| *pick), &self.node, self.outside)
    }

    /// Return all chains of a table with these picks, facts of the node, and number of ports outside of the
    /// Service ranges.
    fn chains_of(
        &self,
        picks: impl Iterator<Item = Pick>,
        node: &NodeFacts,
        outside: u32,
    ) -> Chains {
        let (family, options) = (self.family, &self.options);
        let in_ranges = outside == 0 && !node.service_cidrs.is_empty();
        let rules = skeleton::rules(family, options, node, in_ranges);
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

    /// Set the idle chains: the found ones to which no frontend leads.
    pub fn set_idle(&mut self, found: impl Iterator<Item = Pick>) {
        self.picks.retain(|_, count| *count > 0);
        for pick in found {
            self.picks.entry(pick).or_insert(0);
        }
    }

    /// Keep a shared element that the elements of a refused port need.
    pub(super) fn keep(&mut self, shared: Shared) {
        if let Shared::ClusterIp(ip) = shared {
            self.outside += u32::from(is_outside(ip, &self.node));
        }
        *self.shared.entry(shared).or_insert(0) += 1;
    }

    /// Add the ports whose source ranges depend on the address of the node.
    fn add_source_ranged(&self, targets: &mut Vec<Target>) {
        let ranged = self.ports.iter().filter(|(key, port)| {
            !port.source_ranges.is_empty() && !targets.iter().any(|(k, _)| k == *key)
        });
        let ranged: Vec<_> = ranged.map(|(k, p)| (k.clone(), Some(p.clone()))).collect();
        targets.extend(ranged);
    }
}

/// Return whether a cluster IP is in none of the Service ranges.
fn is_outside(ip: IpAddr, node: &NodeFacts) -> bool {
    !node.service_cidrs.iter().any(|range| range.contains(&ip))
}

fn add(count: u32, by: i64) -> u32 {
    u32::try_from(i64::from(count) + by).unwrap_or(0)
}

/// Count the shared elements of ports and the chains that their elements lead to.
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
