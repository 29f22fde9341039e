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

use model::{IpFamily, Protocol};
use netfilter::nft::table::Contents;
use netfilter::nft::{Element, Op};
use plan::{FamilyDiff, NodeFacts, Plan, PortKey, PortPlan};

use super::Options;
use super::elements::PortElements;
use super::names::SetId;
use super::pick::Pick;
use super::readback::{self, Piece, Repair};
use super::state::{Change, State};

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
    /// Read the table and give it to [`Sync::found`].
    Read,
    /// Commit these as one transaction and tell [`Sync::done`] what came of it. If `guarded`, only
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
    family: IpFamily,
    options: Options,
    node: Arc<NodeFacts>,
    ports: BTreeMap<PortKey, Arc<PortPlan>>,
    dirty: BTreeSet<PortKey>,
    refused: BTreeMap<PortKey, String>,
    /// What was refused though it is about no one port.
    refused_common: Option<String>,
    truth: Truth,
    in_flight: Option<InFlight>,
    /// Idle chains could not be swept away.
    cannot_sweep: bool,
    /// A replacement in one transaction was refused: build the table up piece by piece.
    in_pieces: bool,
}

impl Sync {
    /// Of a table that nothing is known of, for a node that knows of no Services.
    pub fn new(family: IpFamily, options: Options) -> Self {
        let plan = Plan::empty(family);
        Self {
            family,
            options,
            node: plan.node,
            ports: plan.ports,
            dirty: BTreeSet::new(),
            refused: BTreeMap::new(),
            refused_common: None,
            truth: Truth::Unknown,
            in_flight: None,
            cannot_sweep: false,
            in_pieces: false,
        }
    }

    /// Sets the plan anew.
    pub fn set_plan(&mut self, plan: &Plan) {
        self.dirty.extend(self.ports.keys().cloned());
        self.dirty.extend(plan.ports.keys().cloned());
        self.node = plan.node.clone();
        self.ports.clone_from(&plan.ports);
        self.forgive();
    }

    /// Takes in a change to the plan. A port that was refused is tried again when it changes.
    pub fn change(&mut self, diff: &FamilyDiff) {
        for change in &diff.ports {
            let Some(key) = change.key() else { continue };
            match &change.after {
                Some(port) => self.ports.insert(key.clone(), port.clone()),
                None => self.ports.remove(&key),
            };
            if self.refused.remove(&key).is_some() {
                // What the table has of it is not known.
                self.distrust();
            }
            self.dirty.insert(key);
        }
        if let Some(node) = &diff.node {
            self.node = node.clone();
        }
    }

    /// Somebody else has changed the table, or may have: it is read before anything else.
    pub fn distrust(&mut self) {
        self.truth = Truth::Unknown;
    }

    /// Tries once more what was refused. To be called now and then.
    pub fn retry(&mut self) {
        self.cannot_sweep = false;
        self.in_pieces = false;
        self.forgive();
        if self.refused_common.take().is_some() {
            self.distrust();
        }
    }

    fn forgive(&mut self) {
        if !mem::take(&mut self.refused).is_empty() {
            self.distrust();
        }
    }

    /// The ports that the kernel refused, with its reason.
    pub fn refused(&self) -> &BTreeMap<PortKey, String> {
        &self.refused
    }

    /// What the kernel refused though it is about no one port, with its reason.
    pub fn refused_common(&self) -> Option<&str> {
        self.refused_common.as_deref()
    }

    /// What is in the kernel, where that is known.
    pub fn state(&self) -> Option<&State> {
        match &self.truth {
            Truth::Known(state) => Some(state),
            Truth::Unknown | Truth::Repairing(_) | Truth::Replacing(_) => None,
        }
    }

    /// What is to be done next. A [`Step::Read`] or [`Step::Commit`] must be answered before the next.
    pub fn step(&mut self) -> Step {
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
                    return self.step();
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
                let change = self.next_change(&mut state);
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
    fn next_change(&mut self, state: &mut State) -> Option<Change> {
        loop {
            let node = (*state.node() != self.node).then(|| self.node.clone());
            if self.dirty.is_empty() && node.is_none() {
                // A port that was refused may have a former version that leads there.
                let can_sweep = !self.cannot_sweep && self.refused.is_empty();
                let sweep = can_sweep && state.idle_chains() > IDLE_CHAINS;
                return sweep.then(|| state.sweep());
            }
            let targets = take_targets(&mut self.dirty, &self.ports, &self.refused, state);
            let change = state.change(targets, node);
            if !change.is_empty() {
                return Some(change);
            }
            state.commit(change);
        }
    }

    /// What the Services should have in the set of a name, for [`Step::Read`].
    pub fn expected(&self, set: &str) -> Vec<Element> {
        let Some(wanted) = SetId::from_name(set) else {
            return Vec::new();
        };
        let mut elements = PortElements::of(wanted);
        for port in self.ports.values() {
            elements.add(port, &self.node);
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
    pub fn found(&mut self, found: Option<Contents>, foreign: bool) {
        self.dirty.clear();
        let Some(found) = found else {
            return self.build(Vec::new());
        };
        let mut target = self.target();
        if foreign || !readback::is_ours(&found, self.family) {
            if self.in_pieces {
                return self.build(vec![Op::DeleteTable]);
            }
            // In the same transaction in which ours comes, so that no packet is without either.
            self.truth = Truth::Replacing(Box::new(target));
            return;
        }
        let refused = self.refused.keys().filter_map(|key| self.ports.get(key));
        let refused: Vec<&PortPlan> = refused.map(Arc::as_ref).collect();
        // Until a port's elements are what they shall be, they lead where they did.
        target.set_idle(found.chains.keys().filter_map(|name| Pick::parse(name)));
        let batches = batches(readback::compare(found, &mut target, &refused));
        self.repair(target, batches);
    }

    fn repair(&mut self, target: State, batches: VecDeque<Batch>) {
        self.truth = Truth::Repairing(Box::new(Repairing {
            target,
            batches,
            refused: false,
        }));
    }

    /// Builds the table from nothing: first what is there without Services, then they.
    fn build(&mut self, mut ops: Vec<Op>) {
        let target = State::new(self.family, self.options, self.node.clone());
        self.dirty.extend(self.ports.keys().cloned());
        ops.extend(target.install());
        self.repair(target, VecDeque::from([Batch::First(ops)]));
    }

    /// The table as it shall be, without what the kernel refuses.
    fn target(&self) -> State {
        let mut state = State::new(self.family, self.options, self.node.clone());
        let wanted = self.ports.iter();
        let wanted = wanted.filter(|(key, _)| !self.refused.contains_key(*key));
        let targets = wanted.map(|(k, p)| (k.clone(), Some(p.clone())));
        state.take_in(targets.collect());
        state
    }

    /// Takes in what came of a transaction.
    pub fn done(&mut self, outcome: Outcome) {
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
                    self.refused.insert(key, why);
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
        transport: &mut T,
        limit: usize,
    ) -> Result<usize, T::Error> {
        for count in 0..limit {
            match self.step() {
                Step::Idle => return Ok(count),
                Step::Read => {
                    let found = transport.read(&|set| self.expected(set))?;
                    let foreign = found.as_ref().is_some_and(|(_, foreign)| *foreign);
                    self.found(found.map(|(contents, _)| contents), foreign);
                }
                Step::Commit { ops, guarded } => match transport.commit(&ops, guarded) {
                    Ok(outcome) => self.done(outcome),
                    Err(error) => {
                        self.done(Outcome::Unknown);
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
    dirty: &mut BTreeSet<PortKey>,
    ports: &BTreeMap<PortKey, Arc<PortPlan>>,
    refused: &BTreeMap<PortKey, String>,
    state: &State,
) -> Vec<super::Target> {
    let mut owners: HashMap<(Option<IpAddr>, u16, Protocol), PortKey> = HashMap::new();
    for key in dirty.iter() {
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
        let Some(key) = together.pop().or_else(|| dirty.pop_first()) else {
            break;
        };
        dirty.remove(&key);
        if refused.contains_key(&key) {
            continue;
        }
        let port = ports.get(&key).cloned();
        for port in port.iter().chain(state.ports().get(&key)) {
            let frontends = 1 + port.external_ips.len() + port.load_balancer_ips.len();
            size += 4 + frontends * (port.cluster.len() + port.local.len());
        }
        for f in port.iter().flat_map(|port| port.frontends()) {
            if let Some(owner) = owners.get(&(f.ip, f.port.get(), key.1))
                && dirty.remove(owner)
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
