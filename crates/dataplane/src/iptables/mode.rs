//! What is wanted, what is in force, and the way from one to the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::IpFamily;
use netfilter::iptables::Table;
use plan::{FamilyDiff, Plan, PortKey, PortPlan};

use super::lower;
use super::resync::Resync;
use super::transaction::{
    Globals, Next, RuleCounts, Side, Transaction, Writer, write_change, write_fixed_change,
};
use super::{Observation, Options, Problem};

/// The iptables mode of one family.
///
/// The caller's part: [`apply`](Self::apply) every plan diff; [`observe`](Self::observe) whenever
/// [`needs_observation`](Self::needs_observation), and when a canary is gone; run the text of a
/// [`transaction`](Self::transaction), and say how that went with [`committed`](Self::committed)
/// or [`refused`](Self::refused). Diffs may be applied in between.
#[derive(Debug)]
pub struct Mode {
    options: Options,
    wanted: Plan,
    /// Ports whose rules may be different from what is wanted.
    dirty: BTreeSet<PortKey>,
    known: Known,
    problems: BTreeMap<PortKey, Problem>,
}

/// What is known of the kernel.
#[derive(Debug)]
struct Known {
    /// The ports as they were last written. Not to be relied on while `globals` is `None`, but
    /// still the last good version of each.
    ports: BTreeMap<PortKey, Arc<PortPlan>>,
    /// What the rest was like; `None` until a transaction has been committed, and after a failure.
    globals: Option<Globals>,
    total: RuleCounts,
    /// What the next transaction has to start from.
    observation: Option<Observation>,
}

/// A transaction was asked for while nobody knows what is in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel's rules must be read before the next transaction")]
pub struct NeedsObservation;

impl Mode {
    /// A mode that knows neither what is wanted nor what is in the kernel.
    pub fn new(family: IpFamily, options: Options) -> Self {
        Self {
            options,
            wanted: Plan::empty(family),
            dirty: BTreeSet::new(),
            known: Known {
                ports: BTreeMap::new(),
                globals: None,
                total: RuleCounts::default(),
                observation: None,
            },
            problems: BTreeMap::new(),
        }
    }

    /// The family.
    pub fn family(&self) -> IpFamily {
        self.wanted.family
    }

    /// What decides the rules beside the plan has changed.
    pub fn set_options(&mut self, options: Options) {
        self.options = options;
    }

    /// What is wanted has changed.
    pub fn apply(&mut self, diff: &FamilyDiff) {
        self.wanted.apply(diff);
        let keys = diff.ports.iter().filter_map(plan::PortChange::key);
        self.dirty.extend(keys);
    }

    /// This is wanted, whatever was before.
    pub fn replace_plan(&mut self, plan: &Plan) {
        let diff = plan.diff_from(&self.wanted);
        self.apply(&diff);
    }

    /// What is wanted.
    pub fn plan(&self) -> &Plan {
        &self.wanted
    }

    /// Whether the kernel must be read before the next transaction.
    pub fn needs_observation(&self) -> bool {
        self.known.globals.is_none() && self.known.observation.is_none()
    }

    /// This is in the kernel. The next transaction writes what is different there.
    pub fn observe(&mut self, observation: Observation) {
        self.known.observation = Some(observation);
    }

    /// Why Service ports are left as they were, as of the last transaction asked for.
    pub fn problems(&self) -> &BTreeMap<PortKey, Problem> {
        &self.problems
    }

    /// Writes the way from what is in the kernel to what is wanted. Service ports in `excluded` are
    /// left as they last were; so are those with a [`Problem`]. They are looked at again in every
    /// transaction, so that a culprit can be searched for by leaving others out.
    ///
    /// # Errors
    /// Where the kernel must be read first.
    pub fn transaction(
        &mut self,
        excluded: &BTreeSet<PortKey>,
    ) -> Result<Transaction, NeedsObservation> {
        self.problems.clear();
        let globals = Globals {
            family: self.wanted.family,
            node: self.wanted.node.clone(),
            large: lower::is_large(self.wanted.endpoint_count),
            options: self.options,
        };
        match (&self.known.observation, self.known.globals.clone()) {
            (Some(_), _) => Ok(self.resync(globals, excluded)),
            (None, Some(before)) => Ok(self.change(&before, globals, excluded)),
            (None, None) => Err(NeedsObservation),
        }
    }

    fn resync(&mut self, globals: Globals, excluded: &BTreeSet<PortKey>) -> Transaction {
        let mut ports = self.wanted.ports.clone();
        for key in excluded {
            match self.known.ports.get(key) {
                Some(before) => ports.insert(key.clone(), before.clone()),
                None => ports.remove(key),
            };
        }
        let fallback = Observation::nothing();
        let observation = self.known.observation.as_ref().unwrap_or(&fallback);
        let resync = Resync::new(globals.context(), observation);
        let (writer, total) = resync.run(&mut ports, &self.known.ports, &mut self.problems);
        finish(writer, total, Next::All(ports), globals)
    }

    fn change(
        &mut self,
        before: &Globals,
        after: Globals,
        excluded: &BTreeSet<PortKey>,
    ) -> Transaction {
        let mut writer = Writer::default();
        let mut total = self.known.total;
        let mut changed = Vec::new();
        let all: BTreeSet<PortKey>;
        let keys = if before.same_for_ports(&after) {
            &self.dirty
        } else {
            let keys = self.wanted.ports.keys().chain(self.known.ports.keys());
            all = keys.cloned().collect();
            &all
        };
        for key in keys {
            let old = self.known.ports.get(key);
            let new = if excluded.contains(key) {
                old
            } else {
                self.wanted.ports.get(key)
            };
            if new.is_none() && old.is_none() {
                continue;
            }
            let side = |plan: &'_ Arc<PortPlan>| plan.clone();
            let (old, mut new) = (old.map(side), new.map(side));
            let old_side = old.as_ref().map(|plan| Side {
                plan,
                context: before.context(),
            });
            let write = |writer: &mut Writer, new: &Option<Arc<PortPlan>>| {
                let new_side = new.as_ref().map(|plan| Side {
                    plan,
                    context: after.context(),
                });
                write_change(writer, old_side, new_side)
            };
            let counts = write(&mut writer, &new).or_else(|problem| {
                self.problems.insert(key.clone(), problem);
                new.clone_from(&old);
                write(&mut writer, &new)
            });
            if let Ok((was, is)) = counts {
                total.replace(was, is);
                changed.push((key.clone(), new));
            }
        }
        write_fixed_change(&mut writer, &before.context(), &after.context());
        let fixed = |globals: &Globals| fixed_counts(globals);
        total.replace(fixed(before), fixed(&after));
        finish(writer, total, Next::Changed(changed), after)
    }

    /// The kernel has taken the transaction.
    pub fn committed(&mut self, transaction: Transaction) {
        self.known.total = transaction.total;
        self.known.globals = Some(transaction.globals);
        self.known.observation = None;
        match transaction.next {
            Next::All(ports) => {
                self.known.ports = ports;
                self.dirty.retain(|key| {
                    let (known, wanted) = (self.known.ports.get(key), self.wanted.ports.get(key));
                    !same(known, wanted)
                });
                // What was left out has to be looked at again.
                let left_out = self.wanted.ports.iter();
                let left_out = left_out.filter(|(k, p)| !same(self.known.ports.get(*k), Some(*p)));
                self.dirty.extend(left_out.map(|(key, _)| key.clone()));
            }
            Next::Changed(ports) => {
                for (key, plan) in ports {
                    if same(plan.as_ref(), self.wanted.ports.get(&key)) {
                        self.dirty.remove(&key);
                    }
                    match plan {
                        Some(plan) => self.known.ports.insert(key, plan),
                        None => self.known.ports.remove(&key),
                    };
                }
            }
        }
    }

    /// The kernel has not taken the transaction. Where it is sure that nothing of it is in force
    /// (`untouched`), the next one starts from the same state; otherwise the kernel must be read,
    /// so that a rule whose fate is not known does not come to stand there twice.
    pub fn refused(&mut self, _transaction: Transaction, untouched: bool) {
        if !untouched {
            self.forget();
        }
    }

    /// Nothing is known of the kernel any more, for instance because a canary is gone.
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

fn finish(writer: Writer, total: RuleCounts, next: Next, globals: Globals) -> Transaction {
    Transaction {
        written: writer.written,
        deleted_chains: writer.deleted_chains,
        text: writer.finish(),
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
