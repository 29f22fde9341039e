//! The known state of the kernel, and the transaction from it to the desired state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::IpFamily;
use netfilter::iptables::Table;
use plan::{Plan, PortKey, PortPlan};

use super::handles::Handles;
use super::lower;
use super::output::Output;
use super::resync::Resync;
use super::transaction::{
    Globals, Next, RuleCounts, Side, Transaction, Writer, write_change, write_fixed_change,
};
use super::{Observation, Options, Problem};

/// The known state of one family.
///
/// [`Sync`](super::Sync) drives it: [`mark_changed`](Self::mark_changed) for every changed Service
/// port, [`observe`](Self::observe) whenever [`needs_observation`](Self::needs_observation), then
/// [`transaction`](Self::transaction), and [`committed`](Self::committed) or
/// [`failed`](Self::failed) with its outcome.
#[derive(Debug)]
pub struct Mode {
    family: IpFamily,
    options: Options,
    /// Ports whose rules may differ from the plan.
    dirty: BTreeSet<PortKey>,
    known: Known,
    problems: BTreeMap<PortKey, Problem>,
}

/// The known state of the kernel.
#[derive(Debug)]
struct Known {
    /// The ports as last written. While `globals` is `None` this is only the last good version of
    /// each.
    ports: BTreeMap<PortKey, Arc<PortPlan>>,
    /// The other inputs of the rules; `None` before the first commit and after a failure.
    globals: Option<Globals>,
    total: RuleCounts,
    /// The handles of the rules in shared chains.
    handles: Handles,
    /// The state from which the next transaction starts.
    observation: Option<Observation>,
}

/// A transaction was requested although the kernel's state is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel's rules must be read before the next transaction")]
pub struct NeedsObservation;

impl Mode {
    /// A mode without knowledge of the kernel.
    pub fn new(family: IpFamily, options: Options) -> Self {
        Self {
            family,
            options,
            dirty: BTreeSet::new(),
            known: Known {
                ports: BTreeMap::new(),
                globals: None,
                total: RuleCounts::default(),
                handles: Handles::default(),
                observation: None,
            },
            problems: BTreeMap::new(),
        }
    }

    /// The address family.
    pub fn family(&self) -> IpFamily {
        self.family
    }

    /// Include these Service ports in the next transactions, until their rules are known to match
    /// the plan.
    pub fn mark_changed(&mut self, ports: impl IntoIterator<Item = PortKey>) {
        self.dirty.extend(ports);
    }

    /// Whether the kernel must be read before the next transaction.
    pub fn needs_observation(&self) -> bool {
        self.known.globals.is_none() && self.known.observation.is_none()
    }

    /// Set the kernel's state, from which the next transaction starts.
    pub fn observe(&mut self, mut observation: Observation) {
        self.known.handles = std::mem::take(&mut observation.handles);
        self.known.observation = Some(observation);
    }

    /// Whether the next transaction starts from an observation.
    pub fn has_observation(&self) -> bool {
        self.known.observation.is_some()
    }

    /// The Service ports that the last transaction left unchanged because they have no valid rules.
    pub fn problems(&self) -> &BTreeMap<PortKey, Problem> {
        &self.problems
    }

    /// Write the difference between the known state and the plan to `output`. Service ports in
    /// `excluded` and those with a [`Problem`] keep their last state; every transaction includes them
    /// again.
    ///
    /// # Errors
    /// The kernel must be read first.
    pub fn transaction(
        &mut self,
        plan: &Plan,
        excluded: &BTreeSet<PortKey>,
        output: &mut dyn Output,
    ) -> Result<Transaction, NeedsObservation> {
        self.problems.clear();
        let globals = Globals {
            family: self.family,
            node: plan.node.clone(),
            large: lower::is_large(plan.endpoint_count),
            options: self.options,
        };
        match (&self.known.observation, self.known.globals.clone()) {
            (Some(_), _) => Ok(self.resync(plan, globals, excluded, output)),
            (None, Some(before)) => Ok(self.change(plan, &before, globals, excluded, output)),
            (None, None) => Err(NeedsObservation),
        }
    }

    fn resync(
        &mut self,
        plan: &Plan,
        globals: Globals,
        excluded: &BTreeSet<PortKey>,
        output: &mut dyn Output,
    ) -> Transaction {
        let mut ports = plan.ports.clone();
        for key in excluded {
            match self.known.ports.get(key) {
                Some(before) => ports.insert(key.clone(), before.clone()),
                None => ports.remove(key),
            };
        }
        let fallback = Observation::nothing();
        let observation = self.known.observation.as_ref().unwrap_or(&fallback);
        let writer = Writer::new(output, &self.known.handles);
        let resync = Resync::new(globals.context(), observation, writer);
        let (writer, total, found) = resync.run(&mut ports, &self.known.ports, &mut self.problems);
        Transaction {
            found: Some(found),
            observed: true,
            ..finish(writer, total, Next::All(ports), globals)
        }
    }

    fn change(
        &mut self,
        plan: &Plan,
        before: &Globals,
        after: Globals,
        excluded: &BTreeSet<PortKey>,
        output: &mut dyn Output,
    ) -> Transaction {
        let mut writer = Writer::new(output, &self.known.handles);
        let mut total = self.known.total;
        let mut changed = Vec::new();
        let all: BTreeSet<PortKey>;
        let keys = if before.same_for_ports(&after) {
            &self.dirty
        } else {
            let keys = plan.ports.keys().chain(self.known.ports.keys());
            all = keys.cloned().collect();
            &all
        };
        for key in keys {
            let old = self.known.ports.get(key);
            let new = if excluded.contains(key) {
                old
            } else {
                plan.ports.get(key)
            };
            if new.is_none() && old.is_none() {
                continue;
            }
            let mut new = new.cloned();
            let old_side = old.map(|plan| Side {
                plan,
                context: before.context(),
            });
            let write = |writer: &mut Writer<'_>, new: &Option<Arc<PortPlan>>| {
                let new_side = new.as_ref().map(|plan| Side {
                    plan,
                    context: after.context(),
                });
                write_change(writer, old_side, new_side)
            };
            let counts = write(&mut writer, &new).or_else(|problem| {
                self.problems.insert(key.clone(), problem);
                new = old.cloned();
                write(&mut writer, &new)
            });
            if let Ok((was, is)) = counts {
                total.replace(was, is);
                changed.push((key.clone(), new));
            }
        }
        write_fixed_change(&mut writer, &before.context(), &after.context());
        total.replace(fixed_counts(before), fixed_counts(&after));
        finish(writer, total, Next::Changed(changed), after)
    }

    /// Record that the kernel committed the transaction, which was derived from this plan. `handles`
    /// are those of the tracked rules, in order; empty for a back end without handles.
    pub fn committed(&mut self, plan: &Plan, transaction: Transaction, handles: &[u64]) {
        self.known.handles.commit(&transaction.handles, handles);
        self.known.total = transaction.total;
        self.known.globals = Some(transaction.globals);
        self.known.observation = None;
        match transaction.next {
            Next::All(ports) => {
                self.known.ports = ports;
                let keys = plan.ports.keys().chain(self.known.ports.keys());
                let differs =
                    |key: &&PortKey| !same(self.known.ports.get(*key), plan.ports.get(*key));
                // Excluded ports are included again in the next transaction.
                self.dirty = keys.filter(differs).cloned().collect();
            }
            Next::Changed(ports) => {
                for (key, port) in ports {
                    if same(port.as_ref(), plan.ports.get(&key)) {
                        self.dirty.remove(&key);
                    }
                    match port {
                        Some(port) => self.known.ports.insert(key, port),
                        None => self.known.ports.remove(&key),
                    };
                }
            }
        }
    }

    /// Record that the transaction failed. If it certainly changed nothing (`unchanged`), the next
    /// one starts from the same state. Otherwise the kernel must be read, so that no rule is added
    /// twice.
    pub fn failed(&mut self, _transaction: Transaction, unchanged: bool) {
        if !unchanged {
            self.forget();
        }
    }

    /// Discard the known state, for instance after another program flushed the tables.
    pub fn forget(&mut self) {
        self.known.globals = None;
        self.known.observation = None;
    }
}

fn same(a: Option<&Arc<PortPlan>>, b: Option<&Arc<PortPlan>>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
        _ => false,
    }
}

fn finish(writer: Writer<'_>, total: RuleCounts, next: Next, globals: Globals) -> Transaction {
    Transaction {
        operations: writer.operations,
        written: writer.written,
        deleted_chains: writer.deleted_chains,
        handles: writer.handles,
        found: None,
        observed: false,
        total,
        next,
        globals,
    }
}

fn fixed_counts(globals: &Globals) -> RuleCounts {
    let context = globals.context();
    let mut counts = RuleCounts::default();
    for (table, _, rules) in lower::fixed_chains(&context) {
        counts.add(table, rules.len());
    }
    counts.add(Table::Nat, lower::services_tail(&context).len());
    counts
}
