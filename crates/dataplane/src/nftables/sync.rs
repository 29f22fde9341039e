//! The state machine that keeps a table equal to the plan. No I/O, no clock.
//!
//! ```text
//!            plan, changes                    Step::Read        Step::Commit
//!                 v                               |                 |
//!   unknown --- read ---> no table ---------> install ---> known <--+
//!      ^          |-----> another layout ---> replace ------^  |
//!      |          `-----> our layout -------> repair -------^  |
//!      `------ refused, lost, raced, foreign change ------------'
//! ```
//!
//! While the table is known, a change is one transaction derived from the committed state. A
//! transaction that fails for any reason makes the table unknown: it is read, and the difference to
//! the plan is sent in pieces, one for each Service port. A piece that is refused on its own is at
//! fault: its port is quarantined, its elements in the kernel stay, and all others continue.
//! Afterwards the table is read again, since shared objects may have been added for the refused port
//! too.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;

use model::Protocol;
use netfilter::nft::table::Contents;
use netfilter::nft::{Element, Op};
use plan::{Plan, PortKey, PortPlan};

use super::Options;
use super::elements::PortElements;
use super::names::SetId;
use super::pick::Pick;
use super::readback::{self, Piece, Repair};
use super::state::{Change, State};
use crate::{Found, Origin, Refusals};

/// The most elements in a transaction, unless one port has more. The kernel needs some ten
/// milliseconds for them, during which other writers wait.
const BATCH: usize = 10_000;
/// The number of idle chains above which they are deleted.
const IDLE_CHAINS: usize = 32;

/// The next step.
#[derive(Debug)]
pub enum Step {
    /// The table agrees with the plan, except for [`Sync::refused`].
    Idle,
    /// Read the table and pass it to [`Sync::on_read`].
    Read,
    /// Commit one transaction and pass the outcome to [`Sync::on_outcome`]. If `guarded`, only if no
    /// other program has committed since the table was read.
    Commit {
        /// The operations.
        ops: Vec<Op>,
        /// Whether to check the generation.
        guarded: bool,
    },
}

/// The outcome of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel has committed it.
    Committed,
    /// The kernel refused it and changed nothing; with its reason.
    Refused(String),
    /// It is unknown whether it was committed, or another program committed first.
    Unknown,
}

/// The desired elements of the set of a name.
pub type Expected<'a> = dyn Fn(&str) -> Vec<Element> + 'a;

/// Access to the table. The binary implements it with the kernel, tests with a fake.
pub trait Transport {
    /// Why the table could not be read, or nothing could be sent.
    type Error;

    /// Read the table; `None` if it does not exist. The flag is set if anything could not be decoded.
    /// Elements that rules have learned may be left out.
    ///
    /// `expected` returns the desired elements of a set: asking for these is faster than listing a
    /// large set.
    ///
    /// # Errors
    /// The table cannot be read.
    fn read(&mut self, expected: &Expected<'_>) -> Result<Option<(Contents, bool)>, Self::Error>;

    /// Commit a transaction.
    ///
    /// # Errors
    /// Nothing was sent.
    fn commit(&mut self, ops: &[Op], guarded: bool) -> Result<Outcome, Self::Error>;
}

#[derive(Debug)]
enum Knowledge {
    /// The table must be read.
    Unknown,
    /// The table is in this state.
    Known(State),
    /// The table is being brought to a desired state.
    Repairing(Box<Repairing>),
    /// The table has another layout and is to be replaced with this state.
    Replacing(Box<State>),
}

#[derive(Debug)]
struct Repairing {
    target: State,
    batches: VecDeque<Batch>,
    /// A port was refused, so that the table will not reach the target.
    refused: bool,
}

impl Repairing {
    fn next(&mut self) -> Option<Batch> {
        let refused = self.refused;
        // The former version of a refused port may still use objects that nothing else uses.
        let next = self.batches.pop_front();
        next.filter(|batch| !(refused && matches!(batch, Batch::Last(_))))
    }
}

#[derive(Debug)]
enum Batch {
    /// Objects that elements refer to.
    First(Vec<Op>),
    /// Elements, by port.
    Pieces(Vec<Piece>),
    /// Objects that no element refers to.
    Last(Vec<Op>),
}

#[derive(Debug)]
enum InFlight {
    Change(Change),
    Batch(Batch),
    /// The whole table, instead of the existing one.
    Replace(Box<State>),
}

/// The state machine of one family's table.
#[derive(Debug)]
pub struct Sync {
    options: Options,
    /// The ports that the current run has yet to compare with the table.
    todo: BTreeSet<PortKey>,
    refused: Refusals,
    /// The kernel's reason for refusing something that belongs to no single port.
    refused_common: Option<String>,
    knowledge: Knowledge,
    in_flight: Option<InFlight>,
    /// The kernel refused to delete idle chains.
    cannot_sweep: bool,
    /// A replacement in one transaction was refused: build the table piece by piece.
    in_pieces: bool,
    /// How many transactions that sweep idle chains were refused.
    sweep_failures: u64,
    /// The table that was read.
    found: Option<Found>,
}

impl Sync {
    /// Return a machine without knowledge of the table.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            todo: BTreeSet::new(),
            refused: Refusals::default(),
            refused_common: None,
            knowledge: Knowledge::Unknown,
            in_flight: None,
            cannot_sweep: false,
            in_pieces: false,
            sweep_failures: 0,
            found: None,
        }
    }

    /// Begin a run: these ports may differ from what the table contains. A refused port that
    /// changed is tried again.
    pub fn change(&mut self, changed: &BTreeSet<PortKey>) {
        self.todo.clone_from(changed);
        for key in changed {
            if self.refused.remove(key) {
                // The table may contain a former version.
                self.mark_unverified();
            }
        }
    }

    /// Another program may have changed the table: read it before anything else.
    pub fn mark_unverified(&mut self) {
        self.knowledge = Knowledge::Unknown;
    }

    /// Try the refused ports again. To be called in every resync.
    pub fn retry(&mut self) {
        self.cannot_sweep = false;
        self.in_pieces = false;
        self.clear_refusals();
        if self.refused_common.take().is_some() {
            self.mark_unverified();
        }
    }

    fn clear_refusals(&mut self) {
        if self.refused.clear() {
            self.mark_unverified();
        }
    }

    /// Return the quarantined ports.
    pub fn refused(&self) -> &Refusals {
        &self.refused
    }

    /// Return the kernel's reason for refusing something that belongs to no single port.
    pub fn refused_common(&self) -> Option<&str> {
        self.refused_common.as_deref()
    }

    /// Return the number of refused attempts to delete idle chains since the last call.
    pub fn take_sweep_failures(&mut self) -> u64 {
        mem::take(&mut self.sweep_failures)
    }

    /// Return what the first read since the last call found.
    pub fn take_found(&mut self) -> Option<Found> {
        self.found.take()
    }

    /// Return the table, if known.
    pub fn state(&self) -> Option<&State> {
        match &self.knowledge {
            Knowledge::Known(state) => Some(state),
            Knowledge::Unknown | Knowledge::Repairing(_) | Knowledge::Replacing(_) => None,
        }
    }

    /// Return the next step. A [`Step::Read`] or [`Step::Commit`] must be answered before the next.
    pub fn step(&mut self, plan: &Plan) -> Step {
        match mem::replace(&mut self.knowledge, Knowledge::Unknown) {
            // Without its constant part, the table cannot be built.
            Knowledge::Unknown if self.refused_common.is_some() => Step::Idle,
            Knowledge::Unknown => Step::Read,
            Knowledge::Replacing(target) => {
                let mut ops = vec![Op::DeleteTable];
                ops.extend(target.create());
                self.in_flight = Some(InFlight::Replace(target));
                // The old table is deleted whatever it contains.
                let guarded = false;
                Step::Commit { ops, guarded }
            }
            Knowledge::Repairing(mut repairing) => {
                let Some(batch) = repairing.next() else {
                    if !repairing.refused {
                        self.knowledge = Knowledge::Known(repairing.target);
                    }
                    return self.step(plan);
                };
                let ops = match &batch {
                    Batch::First(ops) | Batch::Last(ops) => ops.clone(),
                    Batch::Pieces(pieces) => readback::ops(pieces),
                };
                self.in_flight = Some(InFlight::Batch(batch));
                self.knowledge = Knowledge::Repairing(repairing);
                Step::Commit { ops, guarded: true }
            }
            Knowledge::Known(mut state) => {
                let change = self.next_change(plan, &mut state);
                self.knowledge = Knowledge::Known(state);
                let Some(mut change) = change else {
                    return Step::Idle;
                };
                let ops = mem::take(&mut change.ops);
                self.in_flight = Some(InFlight::Change(change));
                let guarded = false;
                Step::Commit { ops, guarded }
            }
        }
    }

    /// Return the next transaction on a known table. Changes without operations are applied at once.
    fn next_change(&mut self, plan: &Plan, state: &mut State) -> Option<Change> {
        loop {
            let node = (*state.node() != plan.node).then(|| plan.node.clone());
            if self.todo.is_empty() && node.is_none() {
                // The former version of a refused port may lead to an idle chain.
                let can_sweep = !self.cannot_sweep && self.refused.is_empty();
                let sweep = can_sweep && state.idle_chains() > IDLE_CHAINS;
                return sweep.then(|| state.sweep());
            }
            let targets = take_targets(&mut self.todo, &plan.ports, &self.refused, state);
            let change = state.change(targets, node);
            if !change.is_empty() {
                return Some(change);
            }
            state.commit(change);
        }
    }

    /// Return the desired elements of Services in the set of a name, for [`Step::Read`].
    pub fn expected(plan: &Plan, set: &str) -> Vec<Element> {
        let Some(wanted) = SetId::from_name(set) else {
            return Vec::new();
        };
        let mut elements = PortElements::of(wanted);
        for port in plan.ports.values() {
            elements.add(port, &plan.node);
        }
        let shared = elements.shared.iter().map(|shared| shared.element());
        let shared = shared.filter(|(id, _)| *id == wanted);
        elements
            .own
            .into_iter()
            .chain(shared)
            .map(|(_, e)| e)
            .collect()
    }

    /// Apply the table that was read; `None` if it does not exist. `foreign` is set if anything could not
    /// be decoded.
    pub fn on_read(&mut self, plan: &Plan, found: Option<Contents>, foreign: bool) {
        self.todo.clear();
        let count = plan.ports.len();
        let Some(found) = found else {
            self.note_found(Origin::Nothing, 0, count);
            return self.build(plan, Vec::new());
        };
        let mut target = self.target(plan);
        if foreign || !readback::is_ours(&found, plan.family) {
            self.note_found(Origin::OtherLayout, 0, count);
            if self.in_pieces {
                return self.build(plan, vec![Op::DeleteTable]);
            }
            // One transaction deletes it and creates ours, so that every packet passes one of them.
            self.knowledge = Knowledge::Replacing(Box::new(target));
            return;
        }
        let refused = self.refused.keys().filter_map(|key| plan.ports.get(key));
        let refused: Vec<&PortPlan> = refused.map(Arc::as_ref).collect();
        // Until a port is repaired, its elements lead to chains that are otherwise idle.
        target.set_idle(found.chains.keys().filter_map(|name| Pick::parse(name)));
        let repair = readback::compare(found, &mut target, &refused);
        let written = repair.ports.iter().filter(|piece| piece.key.is_some());
        let written = written.count();
        let kept = target.ports().len().saturating_sub(written);
        self.note_found(Origin::SameLayout, kept, written);
        let batches = batches(repair);
        self.repair(target, batches);
    }

    fn note_found(&mut self, origin: Origin, kept: usize, written: usize) {
        let found = Found {
            origin,
            kept,
            written,
        };
        self.found.get_or_insert(found);
    }

    fn repair(&mut self, target: State, batches: VecDeque<Batch>) {
        self.knowledge = Knowledge::Repairing(Box::new(Repairing {
            target,
            batches,
            refused: false,
        }));
    }

    /// Build the table: first its constant part, then the Services.
    fn build(&mut self, plan: &Plan, mut ops: Vec<Op>) {
        let target = State::new(plan.family, self.options, plan.node.clone());
        self.todo.extend(plan.ports.keys().cloned());
        ops.extend(target.install());
        self.repair(target, VecDeque::from([Batch::First(ops)]));
    }

    /// Return the desired table without the refused ports.
    fn target(&self, plan: &Plan) -> State {
        let mut state = State::new(plan.family, self.options, plan.node.clone());
        let wanted = plan.ports.iter();
        let wanted = wanted.filter(|(key, _)| !self.refused.contains(key));
        let targets = wanted.map(|(k, p)| (k.clone(), Some(p.clone())));
        state.apply(targets.collect());
        state
    }

    /// Apply the outcome of a transaction.
    pub fn on_outcome(&mut self, outcome: Outcome) {
        let Some(flight) = self.in_flight.take() else {
            return;
        };
        match (flight, outcome) {
            (InFlight::Change(change), Outcome::Committed) => {
                if let Knowledge::Known(state) = &mut self.knowledge {
                    state.commit(change);
                }
            }
            (InFlight::Replace(state), Outcome::Committed) => {
                self.knowledge = Knowledge::Known(*state);
            }
            (InFlight::Batch(_), Outcome::Committed) => {}
            (InFlight::Replace(_), Outcome::Refused(_)) => {
                self.in_pieces = true;
                self.knowledge = Knowledge::Unknown;
            }
            (InFlight::Batch(batch), Outcome::Refused(why)) => self.split(batch, why),
            (InFlight::Change(change), Outcome::Refused(_)) => {
                self.cannot_sweep |= change.is_sweep();
                self.sweep_failures += u64::from(change.is_sweep());
                self.knowledge = Knowledge::Unknown;
            }
            (_, Outcome::Unknown) => self.knowledge = Knowledge::Unknown,
        }
    }

    /// Split a refused batch of a repair into halves; quarantine a port that is refused on its own.
    fn split(&mut self, batch: Batch, why: String) {
        let Knowledge::Repairing(repairing) = &mut self.knowledge else {
            return;
        };
        match batch {
            Batch::First(_) => {
                self.refused_common = Some(why);
                self.knowledge = Knowledge::Unknown;
            }
            Batch::Last(_) => self.refused_common = Some(why),
            Batch::Pieces(mut pieces) if pieces.len() > 1 => {
                let half = pieces.split_off(pieces.len() / 2);
                repairing.batches.push_front(Batch::Pieces(half));
                repairing.batches.push_front(Batch::Pieces(pieces));
            }
            Batch::Pieces(pieces) => match pieces.into_iter().next().and_then(|p| p.key) {
                Some(key) => {
                    repairing.refused = true;
                    self.refused.reject(key, why);
                }
                None => self.refused_common = Some(why),
            },
        }
    }

    /// Run steps until the table agrees with the plan, but at most `limit`, so that concurrent writers
    /// cannot keep it busy forever. Return the number of steps.
    ///
    /// # Errors
    /// The transport's; the table then counts as unknown.
    pub fn run<T: Transport>(
        &mut self,
        plan: &Plan,
        transport: &mut T,
        limit: usize,
    ) -> Result<usize, T::Error> {
        for count in 0..limit {
            match self.step(plan) {
                Step::Idle => return Ok(count),
                Step::Read => {
                    let found = transport.read(&|set| Self::expected(plan, set))?;
                    let foreign = found.as_ref().is_some_and(|(_, foreign)| *foreign);
                    self.on_read(plan, found.map(|(contents, _)| contents), foreign);
                }
                Step::Commit { ops, guarded } => match transport.commit(&ops, guarded) {
                    Ok(outcome) => self.on_outcome(outcome),
                    Err(error) => {
                        self.on_outcome(Outcome::Unknown);
                        return Err(error);
                    }
                },
            }
        }
        Ok(limit)
    }
}

/// Take as many ports as fit into a transaction. A port that gives up a frontend is in the same
/// transaction as the one that gets it.
fn take_targets(
    todo: &mut BTreeSet<PortKey>,
    ports: &BTreeMap<PortKey, Arc<PortPlan>>,
    refused: &Refusals,
    state: &State,
) -> Vec<super::Target> {
    let mut owners: HashMap<(Option<IpAddr>, u16, Protocol), PortKey> = HashMap::new();
    for key in todo.iter() {
        if let Some(port) = state.ports().get(key) {
            for f in port.frontends() {
                owners.insert((f.ip, f.port.get(), port.protocol), key.clone());
            }
        }
    }
    let mut targets = Vec::new();
    let mut size = 0;
    let mut together: Vec<PortKey> = Vec::new();
    while size < BATCH {
        let Some(key) = together.pop().or_else(|| todo.pop_first()) else {
            break;
        };
        todo.remove(&key);
        if refused.contains(&key) {
            continue;
        }
        let port = ports.get(&key).cloned();
        for port in port.iter().chain(state.ports().get(&key)) {
            let frontends = 1 + port.external_ips.len() + port.load_balancer_ips.len();
            size += 4 + frontends * (port.cluster.len() + port.local.len());
        }
        for f in port.iter().flat_map(|port| port.frontends()) {
            if let Some(owner) = owners.get(&(f.ip, f.port.get(), key.1))
                && todo.remove(owner)
            {
                together.push(owner.clone());
            }
        }
        targets.push((key, port));
    }
    // Ports that belong together are taken whatever the size.
    for key in together {
        let port = ports.get(&key).cloned();
        targets.push((key, port));
    }
    targets
}

/// Return the transactions of a repair.
fn batches(repair: Repair) -> VecDeque<Batch> {
    let mut batches = VecDeque::new();
    if !repair.first.is_empty() {
        batches.push_back(Batch::First(repair.first));
    }
    let mut pieces = Vec::new();
    let mut size = 0;
    for piece in repair.ports {
        size += piece.len();
        pieces.push(piece);
        if size >= BATCH {
            batches.push_back(Batch::Pieces(mem::take(&mut pieces)));
            size = 0;
        }
    }
    if !pieces.is_empty() {
        batches.push_back(Batch::Pieces(pieces));
    }
    if !repair.last.is_empty() {
        batches.push_back(Batch::Last(repair.last));
    }
    batches
}
