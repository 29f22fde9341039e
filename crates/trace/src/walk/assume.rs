//! Facts that the dumps leave open, and the assumptions made about them.
//!
//! A packet's path makes each assumption once and keeps it: every later rule and every routing
//! decision that depends on the same fact gets the same answer.

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

use super::state::{Iface, State};
use super::{Branch, Then, Walker};
use crate::fraction::Fraction;
use crate::outcome::{Outcome, Snat, Verdict};
use crate::packet::Endpoint;

/// Something that the dumps leave open.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fact {
    /// Whether an address belongs to this node.
    Local(IpAddr),
    /// Whether the interface is one that a rule names, perhaps with `*` at the end.
    Interface { leaves: bool, pattern: Box<str> },
    /// Which of two NAT chains with equal priority is called before the other.
    Order { first: Box<str>, second: Box<str> },
    /// Anything else, described for people.
    Other(Box<str>),
}

impl Fact {
    /// Return the unknown fact, as a warning.
    pub(crate) fn question(&self) -> String {
        let what = match self {
            Fact::Local(ip) => format!("whether {ip} is an address of this node is not known"),
            Fact::Interface { leaves, pattern } => {
                let verb = if *leaves { "leaves" } else { "enters" };
                format!("whether the packet {verb} through {pattern} is not known")
            }
            Fact::Order { first, second } => format!(
                "which of the NAT chains {first} and {second} was registered last, and is called \
                 first, is not known"
            ),
            Fact::Other(what) => what.to_string(),
        };
        format!("{what}: both possibilities are shown")
    }

    fn text(&self, holds: bool) -> String {
        let not = if holds { "" } else { " not" };
        match self {
            Fact::Local(ip) => format!("{ip} is{not} an address of this node"),
            Fact::Interface { leaves, pattern } => {
                let verb = match (*leaves, holds) {
                    (false, true) => "enters",
                    (false, false) => "does not enter",
                    (true, true) => "leaves",
                    (true, false) => "does not leave",
                };
                format!("the packet {verb} through {pattern}")
            }
            Fact::Order { first, second } => {
                let (a, b) = if holds {
                    (first, second)
                } else {
                    (second, first)
                };
                format!("chain {a} is called before chain {b}")
            }
            Fact::Other(what) if holds => format!("{what}: holds"),
            Fact::Other(what) => format!("{what}: does not hold"),
        }
    }
}

/// One assumption of a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Assumption {
    pub(crate) fact: Fact,
    /// 1 if it holds; a number if there are more than two possibilities.
    pub(crate) answer: usize,
    pub(crate) text: Box<str>,
}

impl State<'_> {
    /// Return what this path assumes about a fact.
    pub(crate) fn assumed(&self, fact: &Fact) -> Option<bool> {
        let mut all = self.assuming.iter();
        all.find_map(|a| implied(&a.fact, a.answer == 1, fact))
    }

    pub(crate) fn assume(&mut self, fact: Fact, holds: bool) {
        if let (Fact::Interface { leaves, pattern }, true) = (&fact, holds)
            && !pattern.ends_with('*')
        {
            let at = if *leaves {
                &mut self.oif
            } else {
                &mut self.iif
            };
            *at = Iface::named(Some(pattern));
        }
        let text = fact.text(holds).into();
        self.assume_answer(fact, usize::from(holds), text);
    }

    /// Assume one of several possibilities.
    pub(crate) fn assume_answer(&mut self, fact: Fact, answer: usize, text: Box<str>) {
        self.assuming
            .push(Rc::new(Assumption { fact, answer, text }));
    }
}

/// Return what an assumption says about a fact.
fn implied(assumed: &Fact, holds: bool, fact: &Fact) -> Option<bool> {
    if assumed == fact {
        return Some(holds);
    }
    let (
        Fact::Interface {
            leaves: a,
            pattern: known,
        },
        Fact::Interface {
            leaves: b,
            pattern: asked,
        },
    ) = (assumed, fact)
    else {
        return None;
    };
    // An assumed name is the packet's interface from then on, so that only wildcards are left here.
    let known = known.strip_suffix('*').filter(|_| a == b)?;
    let (asked, is_prefix) = match asked.strip_suffix('*') {
        Some(prefix) => (prefix, true),
        None => (&**asked, false),
    };
    if asked.starts_with(known) {
        (!holds).then_some(false)
    } else if holds {
        Some(is_prefix && known.starts_with(asked))
    } else {
        None
    }
}

impl<'w> Walker<'w> {
    /// Return the known or assumed value of a fact. `None` if the path has to fork: the caller's
    /// rule is then evaluated again on both paths.
    pub(crate) fn ask(&mut self, state: &State<'w>, fact: Fact) -> Option<bool> {
        let answer = state.assumed(&fact);
        if answer.is_none() {
            self.pending.get_or_insert(fact);
        }
        answer
    }

    /// Return whether an address belongs to this node; `None` as in [`Self::ask`].
    pub(crate) fn is_local(&mut self, state: &State<'w>, ip: IpAddr) -> Option<bool> {
        let known = self.known_local(state, ip);
        known.or_else(|| self.ask(state, Fact::Local(ip)))
    }

    /// Return whether an address belongs to this node, if that is known or was settled on this path.
    pub(crate) fn known_local(&self, state: &State<'w>, ip: IpAddr) -> Option<bool> {
        let host = &self.world.host;
        if host.is_known() || ip.is_loopback() || host.is_local(ip) {
            return Some(host.is_local(ip));
        }
        if ip.is_multicast() {
            return Some(false);
        }
        let mut settled = state.settled.iter();
        settled
            .find(|(at, _)| *at == ip)
            .map(|(_, local)| *local)
            .or_else(|| state.assumed(&Fact::Local(ip)))
    }

    /// Fork into a path where the fact holds and one where it does not.
    pub(crate) fn fork_on(&mut self, state: State<'w>, fact: Fact) -> Vec<Branch<'w>> {
        let (yes, no) = self.either(state, fact);
        vec![(yes, Then::Next), (no, Then::Next)]
    }

    /// Fork into a path where the fact holds and one where it does not; each counts as an even chance.
    pub(crate) fn either(&mut self, state: State<'w>, fact: Fact) -> (State<'w>, State<'w>) {
        let (mut yes, mut no) = (state.clone(), state);
        let half = Fraction::new(1, 2).unwrap_or(Fraction::ONE);
        yes.probability = yes.probability.times(half);
        no.probability = no.probability.times(half);
        yes.assume(fact.clone(), true);
        no.assume(fact, false);
        (yes, no)
    }
}

/// An outcome with the assumptions that it rests on.
pub(crate) type Assumed = (Outcome, Vec<Rc<Assumption>>);

/// Merge outcomes that an assumption does not tell apart: if a packet ends in the same places with
/// the same odds whether the assumption holds or not, the assumption is dropped.
pub(crate) fn merge(outcomes: Vec<Assumed>) -> Vec<Assumed> {
    merge_from(outcomes, 0)
}

/// The outcomes of each answer.
type Answers = Vec<(usize, Vec<Assumed>)>;

fn merge_from(outcomes: Vec<Assumed>, depth: usize) -> Vec<Assumed> {
    let mut done = Vec::with_capacity(outcomes.len());
    // By fact, in the order of the outcomes; within a fact, by answer.
    let mut facts: Vec<(Fact, Answers)> = Vec::new();
    let mut places: HashMap<Fact, usize> = HashMap::new();
    for outcome in outcomes {
        let Some(assumption) = outcome.1.get(depth).cloned() else {
            done.push(outcome);
            continue;
        };
        let place = *places.entry(assumption.fact.clone()).or_insert_with(|| {
            facts.push((assumption.fact.clone(), Vec::new()));
            facts.len() - 1
        });
        let Some((_, answers)) = facts.get_mut(place) else {
            continue;
        };
        match answers.iter_mut().find(|(a, _)| *a == assumption.answer) {
            Some((_, all)) => all.push(outcome),
            None => answers.push((assumption.answer, vec![outcome])),
        }
    }
    for (_, answers) in facts {
        let mut answers: Vec<Vec<Assumed>> = answers
            .into_iter()
            .map(|(_, all)| merge_from(all, depth + 1))
            .collect();
        let is_same = answers.len() > 1
            && answers.windows(2).all(|pair| match pair {
                [a, b] => ends(a, depth) == ends(b, depth),
                _ => true,
            });
        if !is_same {
            done.extend(answers.into_iter().flatten());
            continue;
        }
        let count = answers.len();
        for (mut outcome, mut assuming) in answers.pop().unwrap_or_default() {
            if depth < assuming.len() {
                assuming.remove(depth);
            }
            let share = outcome.probability;
            for _ in 1..count {
                outcome.probability = outcome.probability.plus(share);
            }
            done.push((outcome, assuming));
        }
    }
    done
}

/// Where a packet ends, and what else is assumed.
type End = (
    (Verdict, Option<Endpoint>, Option<Snat>),
    (Endpoint, Endpoint),
    Option<String>,
    bool,
    Vec<Rc<Assumption>>,
);

/// Return where outcomes end, with their odds: without the rules that lead there, and without the
/// assumptions up to `depth`.
fn ends(outcomes: &[Assumed], depth: usize) -> HashMap<End, Fraction> {
    let mut all: HashMap<End, Fraction> = HashMap::new();
    for (o, assuming) in outcomes {
        let key = (
            (o.verdict, o.dnat, o.snat),
            (o.src, o.dst),
            o.out_iface.clone(),
            o.tracked,
            assuming.get(depth + 1..).unwrap_or_default().to_vec(),
        );
        let sum = all.entry(key).or_insert(Fraction::ZERO);
        *sum = sum.plus(o.probability);
    }
    all
}
