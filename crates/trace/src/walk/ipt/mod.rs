//! iptables rules.

mod matches;

pub(crate) use matches::{has_snat, original_tuple, reply_tuple, tcp_flags};

use std::rc::Rc;

use netfilter::iptables::{
    ConnmarkAction, Interface, NatTarget, RejectWith, Rule, SetDirection, Target, TproxyTarget,
};

use super::assume::Fact;
use super::hooks::{ChainRef, Side};
use super::nat::Wanted;
use super::state::{Iface, Learnt, State, Status};
use super::{Branch, Then, WalkError, Walker};
use crate::fraction::Fraction;
use crate::outcome::{Answer, Did, Step};

/// Targets known by name that pass packets to the next rule.
pub(crate) const PASSING: [&str; 18] = [
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "CONNSECMARK",
    "DSCP",
    "ECN",
    "HL",
    "IDLETIMER",
    "LED",
    "RATEEST",
    "SECMARK",
    "TCPOPTSTRIP",
    "TEE",
    "TOS",
    "TRACE",
    "TTL",
    "ULOG",
    "NFLOG",
];

/// Whether a condition holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Holds {
    Yes,
    No,
    /// With these odds.
    Chance(Fraction),
    /// Unknown, and why.
    Unknown(String),
}

impl Holds {
    pub(crate) fn of(yes: bool) -> Self {
        if yes { Holds::Yes } else { Holds::No }
    }

    pub(crate) fn negated_if(self, negated: bool) -> Self {
        match self {
            same if !negated => same,
            Holds::Yes => Holds::No,
            Holds::No => Holds::Yes,
            Holds::Chance(odds) => Holds::Chance(odds.complement()),
            unknown @ Holds::Unknown(_) => unknown,
        }
    }
}

/// The conditions of a rule that may hold.
#[derive(Debug)]
pub(crate) struct Matched {
    odds: Fraction,
    unknown: Option<String>,
    learnt: Vec<Learnt>,
}

impl<'w> Walker<'w> {
    /// Evaluate a rule's conditions; `None` if they do not hold.
    pub(crate) fn ipt_matches(&mut self, state: &State<'w>, rule: &Rule) -> Option<Matched> {
        let mut matched = Matched {
            odds: Fraction::ONE,
            unknown: None,
            learnt: Vec::new(),
        };
        let header = matches::header(state, &rule.header);
        let mut holds = header.into_iter().try_for_each(|h| matched.note(h));
        for m in &rule.matches {
            holds = holds.and_then(|()| {
                let holds = self.ipt_match(state, m, &mut matched.learnt);
                matched.note(holds)
            });
        }
        // An unknown fact only matters if everything else holds.
        if holds.is_some()
            && let Some(fact) = self.interface_fact(state, rule)
        {
            self.pending = Some(fact);
        }
        if holds.is_none() {
            self.pending = None;
        }
        holds.map(|()| matched)
    }

    /// Return the interface of the rule that is neither known nor assumed.
    fn interface_fact(&self, state: &State<'w>, rule: &Rule) -> Option<Fact> {
        let header = &rule.header;
        let ends = [
            (false, &state.iif, &header.in_interface),
            (true, &state.oif, &header.out_interface),
        ];
        let mut facts = ends.into_iter().filter_map(|(leaves, at, want)| {
            let want = want.as_ref().filter(|_| *at == Iface::Unknown)?;
            let fact = interface(leaves, &want.value);
            state.assumed(&fact).is_none().then_some(fact)
        });
        facts.next()
    }

    /// Apply a rule whose conditions hold or may hold.
    pub(crate) fn ipt_rule(
        &mut self,
        state: State<'w>,
        chain: ChainRef<'w>,
        rule: &Rule,
        matched: Matched,
    ) -> Result<Vec<Branch<'w>>, WalkError> {
        let mut branches = Vec::new();
        let mut state = state;
        if !matched.odds.is_one() {
            let mut other = state.clone();
            other.probability = other.probability.times(matched.odds.complement());
            state.probability = state.probability.times(matched.odds);
            branches.push((other, Then::Next));
        }
        if let Some(why) = &matched.unknown {
            let text = format!(
                "{} {}: rule {:?}: {why}",
                chain.table(),
                chain.name(),
                rule.to_string()
            );
            let fact = Fact::Other(text.into());
            if let Some(known) = state.assumed(&fact) {
                if !known {
                    branches.insert(0, (state, Then::Next));
                    return Ok(branches);
                }
            } else {
                let (yes, no) = self.either(state, fact);
                state = yes;
                branches.insert(0, (no, Then::Next));
            }
        }
        for learnt in matched.learnt {
            state.learnt.push(learnt);
        }
        let before = branches.len();
        self.target(state, chain, rule, &mut branches)?;
        // The rule's effect comes first, so that outcomes stay in the order of the rules.
        branches.rotate_left(before);
        Ok(branches)
    }

    fn target(
        &mut self,
        mut state: State<'w>,
        chain: ChainRef<'w>,
        rule: &Rule,
        branches: &mut Vec<Branch<'w>>,
    ) -> Result<(), WalkError> {
        let Some(target) = &rule.target else {
            branches.push((state, Then::Next));
            return Ok(());
        };
        let step = |effect: String| step(chain, &state, rule, effect);
        let plain = match target {
            Target::Jump(name) | Target::Goto(name) => {
                let next = chain_of(chain, *name).ok_or_else(|| WalkError::NoChain {
                    table: chain.table().to_owned(),
                    chain: chain.name().to_owned(),
                    rule: rule.to_string(),
                    target: name.to_string(),
                })?;
                if matches!(target, Target::Goto(_)) {
                    (format!("goto {name}"), Then::Goto(next))
                } else {
                    (format!("jump {name}"), Then::Jump(next))
                }
            }
            Target::Accept => ("accept".into(), Then::Accept),
            Target::Drop => ("drop".into(), Then::Drop),
            Target::Return => ("return".into(), Then::Return),
            Target::Reject(with) => {
                let name = RejectWith::NAMES
                    .iter()
                    .find(|(_, w)| w == with)
                    .map_or("", |(n, _)| n);
                (
                    format!("reject with {name}"),
                    Then::Reject(answer_of(*with)),
                )
            }
            Target::Dnat(_) | Target::Snat(_) | Target::Masquerade(_) | Target::Redirect(_) => {
                self.translate(state, chain, rule, target, branches);
                return Ok(());
            }
            Target::Unknown(extension) => {
                self.unknown_target(state, chain, rule, &extension.name, branches);
                return Ok(());
            }
            Target::Tproxy(t) => {
                self.tproxy(state, chain, rule, t, branches);
                return Ok(());
            }
            other => {
                let s = step(String::new());
                let effect = self.passing(&mut state, other);
                state.path.push(Rc::new(Step { effect, ..s }));
                branches.push((state, Then::Next));
                return Ok(());
            }
        };
        let (effect, then) = plain;
        let mut s = step(effect);
        s.did = then.did();
        state.path.push(Rc::new(s));
        branches.push((state, then));
        Ok(())
    }

    /// Apply a target that passes the packet to the next rule, and describe its effect.
    fn passing(&mut self, state: &mut State<'w>, target: &Target) -> String {
        match target {
            Target::Mark(xmark) => {
                state.mark = xmark.apply(state.mark);
                format!("mark becomes {:#x}", state.mark)
            }
            Target::Connmark(_) if !state.is_tracked() => "continues: it has no connection".into(),
            Target::Connmark(action) => match *action {
                ConnmarkAction::Set(xmark) => {
                    state.conn.mark = xmark.apply(state.conn.mark);
                    format!("connection mark becomes {:#x}", state.conn.mark)
                }
                ConnmarkAction::Save { nfmask, ctmask } => {
                    state.conn.mark = (state.conn.mark & !ctmask) ^ (state.mark & nfmask);
                    format!("connection mark becomes {:#x}", state.conn.mark)
                }
                ConnmarkAction::Restore { nfmask, ctmask } => {
                    state.mark = (state.mark & !nfmask) ^ (state.conn.mark & ctmask);
                    format!("mark becomes {:#x}", state.mark)
                }
            },
            Target::Ct(ct) if ct.notrack => notrack(state),
            Target::Ct(ct) => {
                if let Some(zone) = ct.zone {
                    state.conn.zone = zone;
                }
                "goes on".to_owned()
            }
            Target::Set(set) => {
                let key = set_key(state, &set.directions);
                state.learnt.push(Learnt {
                    set: format!("ipset/{}", set.name).into(),
                    key,
                    value: Vec::new(),
                    gone: set.delete,
                });
                let what = if set.delete { "taken from" } else { "added to" };
                format!("{what} ipset {}", set.name)
            }
            Target::Log(_) | Target::Nflog(_) => "logged".to_owned(),
            _ => "goes on".to_owned(),
        }
    }

    /// Apply TPROXY: a listening program receives the packet by the route that the mark selects; without
    /// one the packet is dropped (`xt_TPROXY.c`).
    fn tproxy(
        &mut self,
        state: State<'w>,
        chain: ChainRef<'w>,
        rule: &Rule,
        to: &TproxyTarget,
        branches: &mut Vec<Branch<'w>>,
    ) {
        let text = format!(
            "{} {}: rule {:?}: whether a program listens on port {} is not known",
            chain.table(),
            chain.name(),
            rule.to_string(),
            to.port
        );
        let (mut taken, mut dropped) = self.either(state, Fact::Other(text.into()));
        if let Some(xmark) = to.mark {
            taken.mark = xmark.apply(taken.mark);
        }
        let effect = format!("goes to the program, mark {:#x}: accept", taken.mark);
        for (branch, effect, then) in [
            (&mut taken, effect, Then::Accept),
            (&mut dropped, "drop".to_owned(), Then::Drop),
        ] {
            let mut s = step(chain, branch, rule, effect);
            s.did = then.did();
            branch.path.push(Rc::new(s));
        }
        branches.push((taken, Then::Accept));
        branches.push((dropped, Then::Drop));
    }

    fn translate(
        &mut self,
        state: State<'w>,
        chain: ChainRef<'w>,
        rule: &Rule,
        target: &Target,
        branches: &mut Vec<Branch<'w>>,
    ) {
        let s = step(chain, &state, rule, String::new());
        let ports = |p: Option<netfilter::iptables::PortRange>| p.map(|r| (r.first, r.last));
        let wanted = |nat: &NatTarget| Wanted {
            addresses: nat.addresses,
            ports: ports(nat.ports),
            random: nat.random || nat.random_fully,
        };
        let (made, side) = match target {
            Target::Dnat(nat) => {
                let side = Side::Destination;
                (self.rewrite(&state, wanted(nat), side), side)
            }
            Target::Snat(nat) => (
                self.rewrite(&state, wanted(nat), Side::Source),
                Side::Source,
            ),
            Target::Redirect(redirect) => (
                self.redirect(&state, ports(redirect.ports)),
                Side::Destination,
            ),
            Target::Masquerade(m) => {
                let wanted = Wanted {
                    addresses: None,
                    ports: ports(m.ports),
                    random: m.random || m.random_fully,
                };
                (vec![self.masquerade(state, wanted)], Side::Source)
            }
            _ => return,
        };
        for (mut branch, then) in made {
            let effect = translated(&branch, side, &then);
            branch.path.push(Rc::new(Step {
                effect,
                did: then.did(),
                ..s.clone()
            }));
            branches.push((branch, then));
        }
    }

    /// Apply a target that is known by name only. Unless it is known to pass packets, it may drop them.
    fn unknown_target(
        &mut self,
        mut state: State<'w>,
        chain: ChainRef<'w>,
        rule: &Rule,
        name: &str,
        branches: &mut Vec<Branch<'w>>,
    ) {
        if PASSING.contains(&name) {
            let s = step(chain, &state, rule, "goes on".to_owned());
            state.path.push(Rc::new(s));
            branches.push((state, Then::Next));
            return;
        }
        let text = format!(
            "{} {}: rule {:?}: the effect of target {name} is not known; it may pass the packet",
            chain.table(),
            chain.name(),
            rule.to_string()
        );
        let (mut on, mut kept) = self.either(state, Fact::Other(text.into()));
        let s = step(chain, &on, rule, format!("{name} passes it"));
        on.path.push(Rc::new(s));
        let mut s = step(chain, &kept, rule, format!("{name}: drop"));
        s.did = Did::Dropped;
        kept.path.push(Rc::new(s));
        branches.push((on, Then::Next));
        branches.push((kept, Then::Drop));
    }
}

/// Return the fact that a packet enters or leaves through an interface.
pub(super) fn interface(leaves: bool, want: &Interface) -> Fact {
    Fact::Interface {
        leaves,
        pattern: match want {
            Interface::Name(name) => name.clone(),
            Interface::Prefix(prefix) => format!("{prefix}*").into(),
        },
    }
}

impl Matched {
    fn note(&mut self, holds: Holds) -> Option<()> {
        match holds {
            Holds::Yes => {}
            Holds::No => return None,
            Holds::Chance(odds) => {
                self.odds = self.odds.times(odds);
                if odds.is_zero() {
                    return None;
                }
            }
            Holds::Unknown(why) => {
                self.unknown = Some(match self.unknown.take() {
                    Some(before) => format!("{before}; {why}"),
                    None => why,
                });
            }
        }
        Some(())
    }
}

fn notrack(state: &mut State<'_>) -> String {
    if !state.conn.seen {
        state.conn.seen = true;
        state.conn.status = Status::Untracked;
    }
    "not tracked".to_owned()
}

/// Describe a translation.
pub(crate) fn translated(branch: &State<'_>, side: Side, then: &Then<'_>) -> String {
    if matches!(then, Then::Drop) {
        return "drop".to_owned();
    }
    let (src, dst) = branch.shown_ends();
    if side == Side::Destination {
        format!("destination becomes {dst}")
    } else if branch.conn.masquerade_unknown {
        "source becomes the outgoing interface's address".to_owned()
    } else if branch.random_sport {
        format!("source becomes {src} with a free port")
    } else {
        format!("source becomes {src}")
    }
}

/// Return the key of the element that a packet adds.
pub(crate) fn set_key(state: &State<'_>, directions: &[SetDirection]) -> Vec<u8> {
    let mut text = String::new();
    for d in directions {
        let end = match d {
            SetDirection::Source => state.src,
            SetDirection::Destination => state.dst,
        };
        text.push_str(&format!("{end},"));
    }
    text.into_bytes()
}

fn step(chain: ChainRef<'_>, state: &State<'_>, rule: &Rule, effect: String) -> Step {
    Step {
        hook: state.hook().name(),
        backend: chain.backend(),
        family: chain.family(),
        table: chain.table().to_owned(),
        chain: chain.name().to_owned(),
        rule: rule.to_string(),
        effect,
        did: Did::WentOn,
    }
}

fn answer_of(with: RejectWith) -> Answer {
    let icmp = |code| Answer::Icmp { kind: 3, code };
    let icmp6 = |code| Answer::Icmp { kind: 1, code };
    match with {
        RejectWith::IcmpNetUnreachable => icmp(0),
        RejectWith::IcmpHostUnreachable => icmp(1),
        RejectWith::IcmpProtoUnreachable => icmp(2),
        RejectWith::IcmpPortUnreachable => icmp(3),
        RejectWith::IcmpNetProhibited => icmp(9),
        RejectWith::IcmpHostProhibited => icmp(10),
        RejectWith::IcmpAdminProhibited => icmp(13),
        RejectWith::TcpReset => Answer::Reset,
        RejectWith::Icmp6NoRoute => icmp6(0),
        RejectWith::Icmp6AdmProhibited => icmp6(1),
        RejectWith::Icmp6AddrUnreachable => icmp6(3),
        RejectWith::Icmp6PortUnreachable => icmp6(4),
        RejectWith::Icmp6PolicyFail => icmp6(5),
        RejectWith::Icmp6RejectRoute => icmp6(6),
    }
}

fn chain_of<'w>(from: ChainRef<'w>, name: netfilter::iptables::Chain) -> Option<ChainRef<'w>> {
    match from {
        ChainRef::Ipt {
            set,
            table,
            backend,
            ..
        } => {
            let state = set.chain(table, name)?;
            Some(ChainRef::Ipt {
                set,
                table,
                name,
                state,
                backend,
            })
        }
        ChainRef::Nft { .. } => None,
    }
}
