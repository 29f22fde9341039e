//! Keeping a table as the plan says: what to do next, and what came of it. No I/O, no clock.
//!
//! ```text
//!            plan, changes                    Step::Read        Step::Commit
//!                 v                               |                 |
//!   unknown --- read ---> nothing there ----> install ---> known <--+
//!      ^          |-----> not ours ---------> replace ------^  |
//!      |          `-----> ours -------------> repair -------^  |
//!      `------ refused, lost, raced, meddled with -------------'
//! ```
//!
//! While the table is known a change is one transaction worked out from the committed state alone. A
//! transaction that fails for whatever reason makes the table unknown: it is read back, and the
//! difference to the plan is sent in pieces, one for each Service port. A piece that is refused on
//! its own is the one at fault: its port is put aside, what the kernel has of it is left alone, and
//! all others go on. Afterwards the table is read once more, since what all rest on may have come for
//! the refused one too.

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

/// How many elements a transaction has at most, single ports aside: so many take the kernel some
/// ten milliseconds, in which it lets other writers wait.
const BATCH: usize = 10_000;
/// From how many idle chains on they are swept away.
const IDLE_CHAINS: usize = 32;

/// What is to be done next.
#[derive(Debug)]
pub enum Step {
    /// Nothing: the table is as the plan says, but for what [`Sync::refused`] says.
    Idle,
    /// Read the table and give it to [`Sync::on_read`].
    Read,
    /// Commit these as one transaction and tell [`Sync::on_outcome`] what came of it. If `guarded`, only
    /// if nobody else has committed since the table was read: the operations rest on that.
    Commit {
        /// The operations.
        ops: Vec<Op>,
        /// Whether to check the generation.
        guarded: bool,
    },
}

/// What came of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel has committed it.
    Committed,
    /// The kernel refused it and has changed nothing; with its reason.
    Refused(String),
    /// It is not known whether it was committed, or somebody else committed first.
    Unknown,
}

/// The elements that should be in the set of a name.
pub type Expected<'a> = dyn Fn(&str) -> Vec<Element> + 'a;

/// What carries steps out; the binary puts the kernel behind it, tests a fake.
pub trait Transport {
    /// Why the table could not be read or nothing be sent.
    type Error;

    /// Reads the table; `None` if it is not there. The second says whether there is anything in it
    /// that could not be decoded. What rules have learned may be left out.
    ///
    /// `expected` says what should be in the set of a name: asking for that is faster than listing
    /// a large set.
    ///
    /// # Errors
    /// The table cannot be read.
    fn read(&mut self, expected: &Expected<'_>) -> Result<Option<(Contents, bool)>, Self::Error>;

    /// Commits a transaction.
    ///
    /// # Errors
    /// Nothing was sent.
    fn commit(&mut self, ops: &[Op], guarded: bool) -> Result<Outcome, Self::Error>;
}

#[derive(Debug)]
enum Truth {
    /// The table has to be read.
    Unknown,
    /// The table is as this says.
    Known(State),
    /// The table is on its way to what it shall be.
    Repairing(Box<Repairing>),
    /// What is there is not ours and shall make room for this.
    Replacing(Box<State>),
}

#[derive(Debug)]
struct Repairing {
    target: State,
    batches: VecDeque<Batch>,
    /// A port was refused, so that the target is not what the table comes to.
    refused: bool,
}

impl Repairing {
    fn next(&mut self) -> Option<Batch> {
        let refused = self.refused;
        // What nothing rests on now, the former version of a refused port may.
        let next = self.batches.pop_front();
        next.filter(|batch| !(refused && matches!(batch, Batch::Last(_))))
    }
}

#[derive(Debug)]
enum Batch {
    /// What everything else rests on.
    First(Vec<Op>),
    /// Elements, by port.
    Pieces(Vec<Piece>),
    /// What nothing rests on.
    Last(Vec<Op>),
}

#[derive(Debug)]
enum InFlight {
    Change(Change),
    Batch(Batch),
    /// The whole table at once, in the place of one that was there.
    Replace(Box<State>),
}

/// The state machine of one family's table.
#[derive(Debug)]
pub struct Sync {
    options: Options,
    /// The ports that the current run has yet to compare with the table.
    todo: BTreeSet<PortKey>,
    refused: Refusals,
    /// What was refused though it is about no one port.
    refused_common: Option<String>,
    truth: Truth,
    in_flight: Option<InFlight>,
    /// Idle chains could not be swept away.
    cannot_sweep: bool,
    /// A replacement in one transaction was refused: build the table up piece by piece.
    in_pieces: bool,
    /// How many transactions that sweep idle chains were refused.
    sweep_failures: u64,
    /// The table that the last read found.
    found: Option<Found>,
}

impl Sync {
    /// A machine that knows nothing of the table.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            todo: BTreeSet::new(),
            refused: Refusals::default(),
            refused_common: None,
            truth: Truth::Unknown,
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

    /// Somebody else has changed the table, or may have: it is read before anything else.
    pub fn mark_unverified(&mut self) {
        self.truth = Truth::Unknown;
    }

    /// Tries once more what was refused. To be called now and then.
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

    /// The quarantined ports.
    pub fn refused(&self) -> &Refusals {
        &self.refused
    }

    /// What the kernel refused though it is about no one port, with its reason.
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

    /// What is in the kernel, where that is known.
    pub fn state(&self) -> Option<&State> {
        match &self.truth {
            Truth::Known(state) => Some(state),
            Truth::Unknown | Truth::Repairing(_) | Truth::Replacing(_) => None,
        }
    }

    /// What is to be done next. A [`Step::Read`] or [`Step::Commit`] must be answered before the next.
    pub fn step(&mut self, plan: &Plan) -> Step {
        match mem::replace(&mut self.truth, Truth::Unknown) {
            // Nothing can be built on a table that refuses its foundations.
            Truth::Unknown if self.refused_common.is_some() => Step::Idle,
            Truth::Unknown => Step::Read,
            Truth::Replacing(target) => {
                let mut ops = vec![Op::DeleteTable];
                ops.extend(target.create());
                self.in_flight = Some(InFlight::Replace(target));
                // Whatever is there goes.
                let guarded = false;
                Step::Commit { ops, guarded }
            }
            Truth::Repairing(mut repairing) => {
                let Some(batch) = repairing.next() else {
                    if !repairing.refused {
                        self.truth = Truth::Known(repairing.target);
                    }
                    return self.step(plan);
                };
                let ops = match &batch {
                    Batch::First(ops) | Batch::Last(ops) => ops.clone(),
                    Batch::Pieces(pieces) => readback::ops(pieces),
                };
                self.in_flight = Some(InFlight::Batch(batch));
                self.truth = Truth::Repairing(repairing);
                Step::Commit { ops, guarded: true }
            }
            Truth::Known(mut state) => {
                let change = self.next_change(plan, &mut state);
                self.truth = Truth::Known(state);
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

    /// The next transaction on a known table; changes for which the kernel has nothing to do are
    /// taken in at once.
    fn next_change(&mut self, plan: &Plan, state: &mut State) -> Option<Change> {
        loop {
            let node = (*state.node() != plan.node).then(|| plan.node.clone());
            if self.todo.is_empty() && node.is_none() {
                // A port that was refused may have a former version that leads there.
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

    /// What the Services should have in the set of a name, for [`Step::Read`].
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

    /// Takes in what was read; `None` if there is no table. `foreign` says whether there is something
    /// in it that could not be decoded.
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
            // In the same transaction in which ours comes, so that no packet is without either.
            self.truth = Truth::Replacing(Box::new(target));
            return;
        }
        let refused = self.refused.keys().filter_map(|key| plan.ports.get(key));
        let refused: Vec<&PortPlan> = refused.map(Arc::as_ref).collect();
        // Until a port's elements are what they shall be, they lead where they did.
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
        self.truth = Truth::Repairing(Box::new(Repairing {
            target,
            batches,
            refused: false,
        }));
    }

    /// Builds the table from nothing: first what is there without Services, then they.
    fn build(&mut self, plan: &Plan, mut ops: Vec<Op>) {
        let target = State::new(plan.family, self.options, plan.node.clone());
        self.todo.extend(plan.ports.keys().cloned());
        ops.extend(target.install());
        self.repair(target, VecDeque::from([Batch::First(ops)]));
    }

    /// The table as it shall be, without what the kernel refuses.
    fn target(&self, plan: &Plan) -> State {
        let mut state = State::new(plan.family, self.options, plan.node.clone());
        let wanted = plan.ports.iter();
        let wanted = wanted.filter(|(key, _)| !self.refused.contains(key));
        let targets = wanted.map(|(k, p)| (k.clone(), Some(p.clone())));
        state.take_in(targets.collect());
        state
    }

    /// Takes in what came of a transaction.
    pub fn on_outcome(&mut self, outcome: Outcome) {
        let Some(flight) = self.in_flight.take() else {
            return;
        };
        match (flight, outcome) {
            (InFlight::Change(change), Outcome::Committed) => {
                if let Truth::Known(state) = &mut self.truth {
                    state.commit(change);
                }
            }
            (InFlight::Replace(state), Outcome::Committed) => self.truth = Truth::Known(*state),
            (InFlight::Batch(_), Outcome::Committed) => {}
            (InFlight::Replace(_), Outcome::Refused(_)) => {
                self.in_pieces = true;
                self.truth = Truth::Unknown;
            }
            (InFlight::Batch(batch), Outcome::Refused(why)) => self.split(batch, why),
            (InFlight::Change(change), Outcome::Refused(_)) => {
                self.cannot_sweep |= change.is_sweep();
                self.sweep_failures += u64::from(change.is_sweep());
                self.truth = Truth::Unknown;
            }
            (_, Outcome::Unknown) => self.truth = Truth::Unknown,
        }
    }

    /// A batch of a repair was refused: its halves are tried, and what is refused alone is put aside.
    fn split(&mut self, batch: Batch, why: String) {
        let Truth::Repairing(repairing) = &mut self.truth else {
            return;
        };
        match batch {
            Batch::First(_) => {
                self.refused_common = Some(why);
                self.truth = Truth::Unknown;
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

    /// Carries out steps until there is nothing left to do, or `limit` of them: somebody who keeps
    /// meddling must not keep us here for ever. Returns how many there were.
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

/// Takes ports to be changed, as many as go into a transaction. One that gives up a frontend goes
/// together with the one that gets it.
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
    // Those that go together go now, whatever the size.
    for key in together {
        let port = ports.get(&key).cloned();
        targets.push((key, port));
    }
    targets
}

/// The transactions of a repair.
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
