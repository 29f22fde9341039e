//! The walk of one packet through the hooks, on every path that it can take.

mod assume;
mod hooks;
mod ipset;
mod ipt;
mod ipvs;
mod nat;
mod nft;
mod route;
mod state;

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use crate::outcome::{Answer, Did, Outcome, Snat, Step, Trace, Verdict};
use crate::packet::{CtState, Endpoint, Flow, Origin, Packet};
use crate::world::World;
use assume::{Assumed, Assumption, Fact};
use hooks::{ChainRef, Entry, EntryKind, Hook};
use state::{Cursor, Frame, Iface, Stage, State, Status};

/// The kernel allows 16 jumps in nf_tables, and in iptables as many as there are chains.
const MAX_DEPTH: usize = 1024;
/// Far above the walk through any acyclic rule set of usual size.
const MAX_JUMPS: u32 = 4_000_000;
const MAX_STEPS: u64 = 1 << 32;
const MAX_OUTCOMES: usize = 1 << 18;
/// Limit on steps and assumptions of all outcomes: a few hundred megabytes.
const MAX_LISTED: usize = 1 << 20;

/// An error in a rule set, or a walk beyond the limits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalkError {
    /// Source and destination are of different families.
    #[error("source {src} and destination {dst} are of different address families")]
    Families {
        /// The source.
        src: std::net::IpAddr,
        /// The destination.
        dst: std::net::IpAddr,
    },
    /// A rule leads to a missing chain: the dump is incomplete.
    #[error(
        "table {table}, chain {chain}: the rule {rule:?} leads to chain {target}, which the dump lacks"
    )]
    NoChain {
        /// The rule's table.
        table: String,
        /// The rule's chain.
        chain: String,
        /// The rule.
        rule: String,
        /// The missing chain.
        target: String,
    },
    /// Jumps form a cycle, which the kernel does not allow.
    #[error(
        "table {table}, chain {chain}: jumps form a cycle, or are nested more than {MAX_DEPTH} deep"
    )]
    Loop {
        /// The table.
        table: String,
        /// The chain.
        chain: String,
    },
    /// Too many possibilities to list.
    #[error(
        "the packet can take more paths than can be listed: too many rules are unknown or fork"
    )]
    TooManyOutcomes,
    /// Too many rules over all possibilities.
    #[error("more than {MAX_STEPS} rules over all paths of the packet")]
    TooLong,
}

/// The decision of a rule.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Then<'w> {
    /// Continue with the next rule.
    Next,
    Jump(ChainRef<'w>),
    Goto(ChainRef<'w>),
    Return,
    Accept,
    Drop,
    Reject(Answer),
    /// The rule set a translation, which ends NAT at this hook.
    Translated,
}

impl Then<'_> {
    /// Return the effect of a step with this decision.
    pub(crate) fn did(&self) -> Did {
        match self {
            Then::Accept => Did::Accepted,
            Then::Drop => Did::Dropped,
            Then::Reject(answer) => Did::Rejected(*answer),
            _ => Did::WentOn,
        }
    }
}

/// One continuation after a rule: the packet, and the rule's decision.
pub(crate) type Branch<'w> = (State<'w>, Then<'w>);

/// The walk of one packet.
pub(crate) struct Walker<'w> {
    pub(crate) world: &'w World,
    entries: [Vec<Entry<'w>>; 7],
    pub(crate) warnings: Vec<String>,
    queue: Vec<State<'w>>,
    outcomes: Vec<Assumed>,
    /// The unknown fact that the rule just evaluated depends on.
    pending: Option<Fact>,
    places: HashMap<OutcomeKey, usize>,
    steps: u64,
    /// Number of steps and assumptions so far.
    listed: usize,
}

type OutcomeKey = (
    Verdict,
    Option<Endpoint>,
    Option<Snat>,
    Vec<Step>,
    Vec<Rc<Assumption>>,
);

/// Walk a packet through everything on this host's hooks.
///
/// The packet is the first of its connection unless [`Packet::ct`] differs.
///
/// # Errors
/// The rules contain a cycle or lack a chain, or the packet can take too many paths.
pub fn walk(world: &World, packet: &Packet) -> Result<Trace, WalkError> {
    if packet.src.is_ipv4() != packet.dst.is_ipv4() {
        return Err(WalkError::Families {
            src: packet.src,
            dst: packet.dst,
        });
    }
    let v6 = packet.dst.is_ipv6();
    let mut walker = Walker {
        world,
        entries: Hook::ALL.map(|hook| hooks::entries(world, hook, v6)),
        warnings: world.warnings.clone(),
        queue: Vec::new(),
        outcomes: Vec::new(),
        pending: None,
        places: HashMap::new(),
        steps: 0,
        listed: 0,
    };
    for text in hooks::not_walked(world) {
        walker.warn(text);
    }
    let mut start = walker.start(packet);
    // Where the packet starts determines whether its source is local.
    start
        .settled
        .push((packet.src, packet.from == Origin::Node));
    walker.take_forks(&mut start);
    walker.queue.push(start);
    while let Some(state) = walker.queue.pop() {
        walker.run(state)?;
    }
    let merged = assume::merge(std::mem::take(&mut walker.outcomes));
    let mut facts: HashSet<&Fact> = HashSet::new();
    for assumption in merged.iter().flat_map(|(_, assuming)| assuming) {
        if facts.insert(&assumption.fact) {
            walker.warn(assumption.fact.question());
        }
    }
    let with_texts = |(outcome, assuming): Assumed| Outcome {
        assuming: assuming.iter().map(|a| a.text.to_string()).collect(),
        ..outcome
    };
    let mut outcomes: Vec<Outcome> = merged.into_iter().map(with_texts).collect();
    // Stable: equally likely outcomes stay in the order of the rules.
    outcomes.sort_by_key(|o| std::cmp::Reverse(o.probability));
    if outcomes.iter().any(|o| !o.probability.is_exact()) {
        let text = "the odds are rounded to 60 bits";
        walker.warnings.push(text.to_owned());
    }
    Ok(Trace {
        outcomes,
        warnings: walker.warnings,
    })
}

impl<'w> Walker<'w> {
    /// Return the packet at its start.
    fn start(&mut self, packet: &Packet) -> State<'w> {
        if !self.world.host.is_known() {
            self.warn("the node's addresses and routes are not known: other addresses than loopback and those in \
                 NodePort rules count as elsewhere, and forwarding as on; pass --facts, or --local IP".to_owned());
        }
        if packet.from == Origin::Node {
            let stages = vec![
                Stage::Send,
                Stage::Hook(Hook::Postrouting),
                Stage::Hook(Hook::Output),
                Stage::RouteOutput,
            ];
            return State::new(packet, Iface::Absent, stages);
        }
        let towards = || self.world.host.iface_towards(packet.src);
        let iif = packet.in_iface.clone().or_else(towards);
        if iif.is_none() {
            self.warn(format!(
                "the interface through which packets from {} enter is not known, because no route leads back: \
                 pass --from INTERFACE",
                packet.src
            ));
        }
        let stages = vec![
            Stage::RouteInput,
            Stage::Hook(Hook::Prerouting),
            Stage::Hook(Hook::Ingress),
        ];
        let mut state = State::new(packet, Iface::named(iif.as_deref()), stages);
        if let Some(bridge) = iif {
            self.past_the_rules(&mut state, &bridge);
        }
        state
    }

    /// Fork for neighbours on a bridge: they reach each other without this host's rules, unless the
    /// bridge calls them. Whether these two send through the host instead is not known. Packets that
    /// bypass the rules are not translated back.
    fn past_the_rules(&mut self, state: &mut State<'w>, bridge: &str) {
        let host = &self.world.host;
        let (src, dst) = (state.src.ip, state.dst.ip);
        let (sysctl, calls) = host.bridge_calls(state.is_v6());
        if calls || !host.are_bridged(bridge, src, dst) {
            return;
        }
        let what = format!(
            "{src} sends to {dst} through {bridge} directly, without rules because {sysctl} is off"
        );
        let (mut past, other) = self.either(state.clone(), Fact::Other(what.into()));
        let (end, did, effect) = match &*past.known {
            CtState::Established(Flow {
                reply: true,
                dnat: Some(dnat),
                ..
            }) => (
                Verdict::Drop,
                Did::Dropped,
                format!(
                    "comes from {} instead of {}: the client refuses it",
                    dnat.after, dnat.before
                ),
            ),
            _ => (Verdict::Accept, Did::WentOn, format!("bridged to {dst}")),
        };
        past.note_as("bridge", bridge, effect, did);
        past.oif = Iface::named(Some(bridge));
        past.finish(end);
        *state = other;
        state.forks.push(past);
    }

    pub(crate) fn warn(&mut self, text: String) {
        if !self.warnings.contains(&text) {
            self.warnings.push(text);
        }
    }

    /// Follow one path to its end; forks are queued.
    fn run(&mut self, mut state: State<'w>) -> Result<(), WalkError> {
        loop {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err(WalkError::TooLong);
            }
            if state.end.is_some() {
                return self.finish(&state);
            }
            if !state.frames.is_empty() {
                let mut branches = self.in_chain(state)?;
                // The first path is followed now, the others later, in order.
                let Some((first, then)) = (!branches.is_empty()).then(|| branches.remove(0)) else {
                    return Ok(());
                };
                for (other, then) in branches.into_iter().rev() {
                    let other = self.apply(other, then)?;
                    self.queue.push(other);
                }
                state = self.apply(first, then)?;
            } else if state.cursor.is_some() {
                self.next_entry(&mut state);
            } else {
                self.next_stage(&mut state);
            }
            self.take_forks(&mut state);
        }
    }

    /// Queue the other paths of a decision.
    fn take_forks(&mut self, state: &mut State<'w>) {
        for fork in state.forks.drain(..).rev() {
            self.queue.push(fork);
        }
    }

    fn finish(&mut self, state: &State<'w>) -> Result<(), WalkError> {
        let Some(verdict) = state.end else {
            return Ok(());
        };
        let c = &state.conn;
        let ended_out = verdict == Verdict::Accept && state.oif.name().is_some();
        let snat = c.snat.map(|r| {
            if c.masquerade {
                Snat::Masquerade((!c.masquerade_unknown).then_some(r.after.ip))
            } else {
                Snat::To(r.after.ip)
            }
        });
        let snat = snat.or(c.masquerade.then_some(Snat::Masquerade(None)));
        let outcome = Outcome {
            probability: state.probability,
            verdict,
            dnat: c.dnat.map(|r| r.after),
            snat,
            hairpin: c
                .dnat
                .is_some_and(|d| d.after.ip == ipt::original_tuple(state).0.ip),
            src: state.src,
            dst: state.dst,
            out_iface: if ended_out {
                state.oif.name().map(str::to_owned)
            } else {
                None
            },
            tracked: state.is_tracked(),
            flow: Flow {
                reply: c.reply,
                dnat: c.dnat,
                snat: c.snat,
                mark: c.mark,
            },
            path: state.path.to_vec().iter().map(|s| (**s).clone()).collect(),
            assuming: Vec::new(),
        };
        let assuming = state.assuming.to_vec();
        let key = (
            outcome.verdict,
            outcome.dnat,
            outcome.snat,
            outcome.path.clone(),
            assuming.clone(),
        );
        if let Some(same) = self
            .places
            .get(&key)
            .and_then(|i| self.outcomes.get_mut(*i))
        {
            same.0.probability = same.0.probability.plus(outcome.probability);
            return Ok(());
        }
        self.listed += outcome.path.len() + assuming.len() * 4;
        if self.outcomes.len() >= MAX_OUTCOMES || self.listed >= MAX_LISTED {
            return Err(WalkError::TooManyOutcomes);
        }
        self.places.insert(key, self.outcomes.len());
        self.outcomes.push((outcome, assuming));
        Ok(())
    }

    fn next_stage(&mut self, state: &mut State<'w>) {
        match state.stages.pop() {
            Some(Stage::Hook(hook)) => {
                state.cursor = Some(Cursor {
                    hook,
                    entry: 0,
                    chain: 0,
                    before: (state.mark, state.src.ip, state.dst.ip),
                });
            }
            Some(Stage::RouteInput) => self.route_input(state),
            Some(Stage::RouteOutput) => self.route_output(state),
            Some(Stage::Send) => route::send(state),
            Some(Stage::Leave) => route::leave(state),
            Some(Stage::Deliver) => {
                let (_, dst) = state.shown_ends();
                let effect = format!("delivered to the listener on {} {dst}", state.proto);
                state.note("local", "deliver", effect);
                state.finish(Verdict::Accept);
            }
            None => state.finish(Verdict::Accept),
        }
    }

    /// Continue with the next entry of the current hook.
    fn next_entry(&mut self, state: &mut State<'w>) {
        let Some(cursor) = state.cursor else { return };
        let Some(entry) = self.entries[cursor.hook as usize].get(cursor.entry) else {
            state.cursor = None;
            return;
        };
        state.jumps = 0;
        let here = (state.mark, state.src.ip, state.dst.ip);
        let done = Cursor {
            entry: cursor.entry + 1,
            chain: 0,
            before: here,
            ..cursor
        };
        match &entry.kind {
            EntryKind::Conntrack => {
                state.cursor = Some(done);
                conntrack(state);
            }
            EntryKind::Chain { chain, reroutes } => {
                if !chain.is_called(cursor.hook, state) {
                    state.cursor = Some(done);
                } else if cursor.chain == 0 {
                    state.cursor = Some(Cursor {
                        chain: 1,
                        before: here,
                        ..cursor
                    });
                    state.frames.push(Frame {
                        chain: *chain,
                        rule: 0,
                    });
                } else {
                    state.cursor = Some(done);
                    if *reroutes && cursor.before != here {
                        self.reroute(state);
                    }
                }
            }
            EntryKind::Nat { .. } => self.next_nat_chain(state, cursor, done),
            EntryKind::Ipvs => {
                state.cursor = Some(done);
                self.ipvs(state);
            }
        }
    }

    /// Call the next chain of NAT, or end NAT at this hook.
    fn next_nat_chain(&mut self, state: &mut State<'w>, cursor: Cursor, done: Cursor) {
        let entry = self.entries[cursor.hook as usize].get(cursor.entry);
        let Some(EntryKind::Nat {
            side,
            chains,
            reversed,
        }) = entry.map(|e| &e.kind)
        else {
            return;
        };
        let side = *side;
        let here = done.before;
        let settled = nat::is_settled(state, side);
        if cursor.chain == 0
            && !settled
            && let Some(fact) = order(chains, reversed)
            && state.assumed(&fact).is_none()
        {
            let (as_listed, other) = self.either(state.clone(), fact);
            *state = as_listed;
            state.forks.push(other);
            return;
        }
        let chain = in_order(state, chains, reversed).get(cursor.chain).copied();
        let is_first = cursor.chain == 0;
        let before = if is_first { here } else { cursor.before };
        match chain {
            Some(chain) if !settled => {
                state.cursor = Some(Cursor {
                    chain: cursor.chain + 1,
                    before,
                    ..cursor
                });
                state.frames.push(Frame { chain, rule: 0 });
            }
            _ => {
                state.cursor = Some(done);
                nat::settle(state, side);
                let moved = state.dst.ip != before.2;
                if cursor.hook == Hook::Output && moved {
                    self.reroute(state);
                }
            }
        }
    }

    /// Evaluate the rules of the innermost chain up to the first that decides something.
    fn in_chain(&mut self, mut state: State<'w>) -> Result<Vec<Branch<'w>>, WalkError> {
        let Some(frame) = state.frames.last().copied() else {
            return Ok(vec![(state, Then::Next)]);
        };
        match frame.chain {
            ChainRef::Ipt { state: chain, .. } => {
                let mut index = frame.rule;
                while let Some(rule) = chain.rules.get(index) {
                    self.steps += 1;
                    index += 1;
                    if let Some(last) = state.frames.last_mut() {
                        last.rule = index;
                    }
                    let matched = self.ipt_matches(&state, rule);
                    if let Some(fact) = self.pending.take() {
                        if let Some(last) = state.frames.last_mut() {
                            last.rule = index - 1;
                        }
                        return Ok(self.fork_on(state, fact));
                    }
                    if let Some(matched) = matched {
                        return self.ipt_rule(state, frame.chain, rule, matched);
                    }
                }
            }
            ChainRef::Nft { chain, .. } => {
                let mut index = frame.rule;
                while let Some(rule) = chain.rules.get(index) {
                    self.steps += 1;
                    index += 1;
                    if let Some(last) = state.frames.last_mut() {
                        last.rule = index;
                    }
                    if self.nft_surely_not(&state, frame.chain, rule) {
                        self.pending = None;
                        continue;
                    }
                    let before = self.warnings.len();
                    let branches = self.nft_rule(state.clone(), frame.chain, rule)?;
                    let Some(fact) = self.pending.take() else {
                        return Ok(branches);
                    };
                    // Warnings of the incomplete evaluation are void.
                    self.warnings.truncate(before);
                    if let Some(last) = state.frames.last_mut() {
                        last.rule = index - 1;
                    }
                    return Ok(self.fork_on(state, fact));
                }
            }
        }
        Ok(vec![(state, Then::Return)])
    }

    /// Apply a rule's decision.
    fn apply(&mut self, mut state: State<'w>, then: Then<'w>) -> Result<State<'w>, WalkError> {
        match then {
            Then::Next => {}
            Then::Jump(chain) | Then::Goto(chain) => {
                if matches!(then, Then::Goto(_)) {
                    state.frames.pop();
                }
                state.frames.push(Frame { chain, rule: 0 });
                state.jumps += 1;
                if state.frames.len() > MAX_DEPTH || state.jumps > MAX_JUMPS {
                    return Err(WalkError::Loop {
                        table: chain.table().to_owned(),
                        chain: chain.name().to_owned(),
                    });
                }
            }
            Then::Return => {
                state.frames.pop();
                if state.frames.is_empty() {
                    self.policy(&mut state);
                }
            }
            Then::Accept | Then::Translated => state.frames.clear(),
            Then::Drop => state.finish(Verdict::Drop),
            Then::Reject(_) => state.finish(Verdict::Reject),
        }
        Ok(state)
    }

    /// Apply the policy at the end of a base chain.
    fn policy(&mut self, state: &mut State<'w>) {
        let Some(cursor) = state.cursor else { return };
        let entry = self.entries[cursor.hook as usize].get(cursor.entry);
        let chain = match entry.map(|e| &e.kind) {
            Some(EntryKind::Chain { chain, .. }) => Some(*chain),
            Some(EntryKind::Nat {
                chains, reversed, ..
            }) => {
                let chains = in_order(state, chains, reversed);
                chains.get(cursor.chain.saturating_sub(1)).copied()
            }
            _ => None,
        };
        if let Some(chain) = chain.filter(ChainRef::drops_by_policy) {
            state.path.push(Rc::new(Step {
                hook: cursor.hook.name(),
                backend: chain.backend(),
                family: chain.family(),
                table: chain.table().to_owned(),
                chain: chain.name().to_owned(),
                rule: "policy".to_owned(),
                effect: "drop".to_owned(),
                did: Did::Dropped,
            }));
            state.finish(Verdict::Drop);
        }
    }
}

/// Return the fact that decides between two orders of NAT chains; `None` if there is only one order.
fn order(chains: &[ChainRef<'_>], reversed: &[ChainRef<'_>]) -> Option<Fact> {
    if reversed.is_empty() {
        return None;
    }
    let labels = |all: &[ChainRef<'_>]| all.iter().map(ChainRef::label).collect::<Vec<_>>();
    let (chains, reversed) = (labels(chains), labels(reversed));
    let mut pairs = chains.iter().zip(&reversed);
    let (first, second) = pairs.find(|(a, b)| a != b)?;
    Some(Fact::Order {
        first: first.as_str().into(),
        second: second.as_str().into(),
    })
}

/// Return the NAT chains in the order that this path assumes.
fn in_order<'a, 'w>(
    state: &State<'w>,
    chains: &'a [ChainRef<'w>],
    reversed: &'a [ChainRef<'w>],
) -> &'a [ChainRef<'w>] {
    match order(chains, reversed).and_then(|fact| state.assumed(&fact)) {
        Some(false) => reversed,
        _ => chains,
    }
}

/// Look the packet up in connection tracking, once.
fn conntrack(state: &mut State<'_>) {
    if state.conn.seen {
        return;
    }
    state.conn.seen = true;
    let known = Rc::clone(&state.known);
    state.conn.status = match &*known {
        CtState::New => Status::New,
        CtState::Invalid => Status::Invalid,
        CtState::Established(flow) | CtState::Related(flow) => {
            state.conn.reply = flow.reply;
            state.conn.dnat = flow.dnat;
            state.conn.snat = flow.snat;
            state.conn.mark = flow.mark;
            if matches!(&*known, CtState::Related(_)) {
                Status::Related
            } else {
                Status::Established
            }
        }
    };
}
