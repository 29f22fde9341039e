//! nf_tables rules.

mod compare;
mod expr;

use std::rc::Rc;

use netfilter::nft_lang::{
    Ct, ElementDecl, Literal, Mapped, Meta, NatStatement, NatType, Op, RuleDecl, SetDecl, SetOp,
    SetRef, Statement, TableDecl, Term, TermType, VerdictStatement,
};

use super::assume::Fact;
use super::hooks::{ChainRef, Side};
use super::ipt::{Holds, PASSING, translated};
use super::nat::{Wanted, share};
use super::state::{Learnt, State, Status};
use super::{Branch, Then, WalkError, Walker};
use crate::fraction::Fraction;
use crate::outcome::{Answer, Step};
use crate::packet::Proto;
use expr::Evaluated;

/// A rule in the middle of its statements.
#[derive(Clone)]
struct Within<'w> {
    state: State<'w>,
    next: usize,
    effects: Vec<String>,
    /// The rule has not changed the packet so far.
    clean: bool,
}

/// The current rule.
#[derive(Clone, Copy)]
struct At<'w> {
    chain: ChainRef<'w>,
    table: &'w TableDecl,
    rule: &'w RuleDecl,
}

impl<'w> Walker<'w> {
    /// Return whether the rule's first statement is a match that fails, where most rules end.
    pub(crate) fn nft_surely_not(
        &mut self,
        state: &State<'w>,
        chain: ChainRef<'w>,
        rule: &RuleDecl,
    ) -> bool {
        let ChainRef::Nft { table, .. } = chain else {
            return true;
        };
        match rule.statements.first() {
            Some(Statement::Match { left, op, right }) => {
                self.nft_match(state, table, left, *op, right) == Holds::No
            }
            Some(_) => false,
            None => true,
        }
    }

    /// Apply a rule.
    pub(crate) fn nft_rule(
        &mut self,
        state: State<'w>,
        chain: ChainRef<'w>,
        rule: &'w RuleDecl,
    ) -> Result<Vec<Branch<'w>>, WalkError> {
        let ChainRef::Nft { table, .. } = chain else {
            return Ok(vec![(state, Then::Next)]);
        };
        let at = At { chain, table, rule };
        let mut branches: Vec<Branch<'w>> = Vec::new();
        // Paths on which the rule ended without a change are one path.
        let mut missed: Option<State<'w>> = None;
        let mut open = vec![Within {
            state,
            next: 0,
            effects: Vec::new(),
            clean: true,
        }];
        while let Some(mut within) = open.pop() {
            let Some(statement) = rule.statements.get(within.next) else {
                branches.push(self.leave(at, within, Then::Next));
                continue;
            };
            within.next += 1;
            let mut made = Vec::new();
            for (within, then) in self.statement(at, within, statement)? {
                match then {
                    None => made.push(within),
                    Some(Then::Next) if within.clean => match &mut missed {
                        Some(m) if m.assuming.iter().eq(within.state.assuming.iter()) => {
                            m.probability = m.probability.plus(within.state.probability);
                        }
                        Some(_) => branches.push((within.state, Then::Next)),
                        None => missed = Some(within.state),
                    },
                    Some(then) => branches.push(self.leave(at, within, then)),
                }
            }
            // The first one is handled first.
            open.extend(made.into_iter().rev());
        }
        branches.extend(missed.map(|m| (m, Then::Next)));
        Ok(branches)
    }

    /// Add the rule's step.
    fn leave(&mut self, at: At<'w>, within: Within<'w>, then: Then<'w>) -> Branch<'w> {
        let mut state = within.state;
        let mut effects = within.effects;
        match &then {
            Then::Next | Then::Translated => {}
            Then::Jump(c) => effects.push(format!("jump {}", c.name())),
            Then::Goto(c) => effects.push(format!("goto {}", c.name())),
            Then::Return => effects.push("return".into()),
            Then::Accept => effects.push("accept".into()),
            Then::Drop => effects.push("drop".into()),
            Then::Reject(_) => effects.push("reject".into()),
        }
        if !effects.is_empty() {
            state.path.push(Rc::new(Step {
                hook: state.hook().name(),
                backend: at.chain.backend(),
                family: at.chain.family(),
                table: at.chain.table().to_owned(),
                chain: at.chain.name().to_owned(),
                rule: at.rule.text.to_string(),
                effect: effects.join(", "),
                did: then.did(),
            }));
        }
        (state, then)
    }

    fn describe(at: At<'_>, why: &str) -> String {
        format!(
            "{} {} {}: rule {:?}: {why}",
            at.chain.family(),
            at.chain.table(),
            at.chain.name(),
            at.rule.text
        )
    }

    /// Apply a statement: continue with the rule (`None`), or the rule's decision.
    #[allow(clippy::type_complexity)]
    fn statement(
        &mut self,
        at: At<'w>,
        mut within: Within<'w>,
        statement: &'w Statement,
    ) -> Result<Vec<(Within<'w>, Option<Then<'w>>)>, WalkError> {
        Ok(match statement {
            Statement::Match { left, op, right } => {
                let holds = self.nft_match(&within.state, at.table, left, *op, right);
                if holds == Holds::Yes && *op != Op::Ne {
                    let set = match right {
                        Term::Set(set) => Some(&**set),
                        Term::SetName(name) => at.table.set(name),
                        _ => None,
                    };
                    let found = self.element_comment(&within.state, at.table, left, set);
                    within.effects.extend(found);
                }
                self.go_on_if(at, within, holds)
            }
            Statement::Inert(_) => vec![(within, None)],
            Statement::Notrack => {
                if !within.state.conn.seen {
                    within.state.conn.seen = true;
                    within.state.conn.status = Status::Untracked;
                }
                within.effects.push("not tracked".into());
                within.clean = false;
                vec![(within, None)]
            }
            Statement::Limit { over, text } => {
                self.warn(format!("{text}: assumed not to be reached yet"));
                let then = over.then_some(Then::Next);
                vec![(within, then)]
            }
            Statement::Unknown(unknown) if is_inert(&unknown.text) => vec![(within, None)],
            Statement::Unknown(unknown) => {
                self.warn_of_target(at, &unknown.text);
                let why = format!("{:?} is unknown", unknown.text);
                self.go_on_if(at, within, Holds::Unknown(why))
            }
            Statement::Verdict(VerdictStatement::Queue) => {
                let why =
                    "whether the program to which it is queued accepts it is not known".to_owned();
                let (mut yes, mut no) = self.fork(at, within, &why);
                yes.effects.push("queued".into());
                no.effects.push("queued".into());
                vec![(yes, Some(Then::Accept)), (no, Some(Then::Drop))]
            }
            Statement::Verdict(verdict) => {
                let then = self.verdict(at, verdict)?;
                vec![(within, Some(then))]
            }
            Statement::Reject(with) => {
                if !with.is_empty() {
                    within.effects.push((**with).to_owned());
                }
                let answer = answer_of(with, within.state.is_v6());
                vec![(within, Some(Then::Reject(answer)))]
            }
            Statement::Assign { field, value } => self.assign(at, &within, field, value),
            Statement::Vmap { key, map } => return self.vmap(at, &within, key, map),
            Statement::Nat(nat) => {
                self.comment_target(at, &mut within, nat);
                self.translation(at, &within, nat)
            }
            Statement::Dynset {
                op,
                set,
                key,
                value,
                condition,
            } => {
                if let Some(text) = condition {
                    self.warn(format!("{text}: assumed not to be reached yet"));
                    if text.contains("over") {
                        return Ok(vec![(within, Some(Then::Next))]);
                    }
                }
                self.dynset(at, &within, *op, set, key, value.as_ref())
            }
        })
    }

    /// Add the comment of the element that contains a translation's target.
    fn comment_target(&mut self, at: At<'w>, within: &mut Within<'w>, nat: &'w NatStatement) {
        for term in nat.address.iter().chain(&nat.port) {
            if let Term::Map { key, map } = term {
                let set = set_of(at.table, map);
                let found = self.element_comment(&within.state, at.table, key, set);
                within.effects.extend(found);
            }
        }
    }

    /// Warn about a target of xtables, which nft lists without its options.
    fn warn_of_target(&mut self, at: At<'w>, text: &str) {
        if text.starts_with("xt target ") {
            let why = "nft does not list the options of xtables targets; pass iptables-save, too";
            self.warn(Self::describe(at, why));
        }
    }

    /// Return the comment of the matching element, which names the Service.
    fn element_comment(
        &mut self,
        state: &State<'w>,
        table: &'w TableDecl,
        key: &Term,
        set: Option<&'w SetDecl>,
    ) -> Option<String> {
        let set = set?;
        let values = self.evaluate(state, table, key);
        let [(_, Evaluated::Parts(parts))] = values.as_slice() else {
            return None;
        };
        let element = set.find(parts).filter(|e| e.comment.is_some())?;
        Some(show_element(set, element, parts))
    }

    fn fork(&mut self, at: At<'w>, within: Within<'w>, why: &str) -> (Within<'w>, Within<'w>) {
        let text = Self::describe(at, why);
        let (yes, no) = self.either(within.state, Fact::Other(text.into()));
        let with = |state| Within {
            state,
            next: within.next,
            effects: within.effects.clone(),
            clean: within.clean,
        };
        (with(yes), with(no))
    }

    fn go_on_if(
        &mut self,
        at: At<'w>,
        within: Within<'w>,
        holds: Holds,
    ) -> Vec<(Within<'w>, Option<Then<'w>>)> {
        match holds {
            Holds::Yes => vec![(within, None)],
            Holds::No => vec![(within, Some(Then::Next))],
            Holds::Chance(odds) => {
                let mut no = within.clone();
                let mut yes = within;
                yes.state.probability = yes.state.probability.times(odds);
                no.state.probability = no.state.probability.times(odds.complement());
                vec![(yes, None), (no, Some(Then::Next))]
            }
            Holds::Unknown(_) if self.surely_ends(at, &within) => vec![(within, Some(Then::Next))],
            Holds::Unknown(why) => {
                let fact = Fact::Other(Self::describe(at, &why).into());
                match within.state.assumed(&fact) {
                    Some(true) => vec![(within, None)],
                    Some(false) => vec![(within, Some(Then::Next))],
                    None => {
                        let (yes, no) = self.fork(at, within, &why);
                        vec![(yes, None), (no, Some(Then::Next))]
                    }
                }
            }
        }
    }

    /// Return whether the rest of the rule has no effect on this packet, whatever the present statement
    /// does: a later match does not hold, and nothing before it has an effect.
    fn surely_ends(&mut self, at: At<'w>, within: &Within<'w>) -> bool {
        let rest = at.rule.statements.get(within.next..).unwrap_or_default();
        let asked = self.pending.clone();
        let mut ends = false;
        for statement in rest {
            match statement {
                Statement::Match { left, op, right } => {
                    let holds = self.nft_match(&within.state, at.table, left, *op, right);
                    if holds == Holds::No {
                        ends = true;
                        break;
                    }
                }
                Statement::Inert(_) | Statement::Unknown(_) => {}
                _ => break,
            }
        }
        self.pending = if ends { None } else { asked };
        ends
    }

    fn verdict(&mut self, at: At<'w>, verdict: &VerdictStatement) -> Result<Then<'w>, WalkError> {
        let to = |name: &str| {
            at.table
                .chain(name)
                .map(|chain| ChainRef::Nft {
                    table: at.table,
                    chain,
                })
                .ok_or_else(|| WalkError::NoChain {
                    table: at.chain.table().to_owned(),
                    chain: at.chain.name().to_owned(),
                    rule: at.rule.text.to_string(),
                    target: name.to_owned(),
                })
        };
        Ok(match verdict {
            VerdictStatement::Accept => Then::Accept,
            VerdictStatement::Drop => Then::Drop,
            VerdictStatement::Continue => Then::Next,
            VerdictStatement::Return => Then::Return,
            VerdictStatement::Jump(name) => Then::Jump(to(name)?),
            VerdictStatement::Goto(name) => Then::Goto(to(name)?),
            VerdictStatement::Queue => {
                self.warn(Self::describe(at, "queued to a program; shown as accepted"));
                Then::Accept
            }
        })
    }

    fn vmap(
        &mut self,
        at: At<'w>,
        within: &Within<'w>,
        key: &'w Term,
        map: &'w SetRef,
    ) -> Result<Vec<(Within<'w>, Option<Then<'w>>)>, WalkError> {
        let Some(set) = set_of(at.table, map) else {
            let why = "the dump does not contain the map".to_owned();
            return Ok(self.go_on_if(at, within.clone(), Holds::Unknown(why)));
        };
        let mut branches = Vec::new();
        for (odds, key) in self.evaluate(&within.state, at.table, key) {
            let mut branch = within.clone();
            branch.state.probability = branch.state.probability.times(odds);
            match key {
                Evaluated::Parts(parts) => {
                    let element = set.find(&parts);
                    match element.and_then(|e| e.data.as_ref().map(|d| (e, d))) {
                        Some((element, Mapped::Verdict(verdict))) => {
                            branch.effects.push(show_element(set, element, &parts));
                            let then = self.verdict(at, verdict)?;
                            branches.push((branch, Some(then)));
                        }
                        // Without an element the rule ends (`nft_lookup`).
                        _ => branches.push((branch, Some(Then::Next))),
                    }
                }
                Evaluated::Missing => branches.push((branch, Some(Then::Next))),
                Evaluated::Partly(parts, _) if !set.may_find(&parts) => {
                    branches.push((branch, Some(Then::Next)));
                }
                Evaluated::Partly(_, why) | Evaluated::Unknown(why) => {
                    self.any_verdict(at, &branch, set, &why, &mut branches)?;
                }
            }
        }
        Ok(branches)
    }

    /// Fork for an unknown key: every verdict of the map, or none.
    fn any_verdict(
        &mut self,
        at: At<'w>,
        within: &Within<'w>,
        set: &'w SetDecl,
        why: &str,
        branches: &mut Vec<(Within<'w>, Option<Then<'w>>)>,
    ) -> Result<(), WalkError> {
        let mut verdicts: Vec<&VerdictStatement> = Vec::new();
        for e in &set.elements {
            if let Some(Mapped::Verdict(v)) = &e.data
                && !verdicts.contains(&v)
            {
                verdicts.push(v);
            }
        }
        let text = Self::describe(at, why);
        self.warn(format!(
            "{text}: every verdict of the map is shown, each with equal odds"
        ));
        let odds = share(verdicts.len() + 1);
        for verdict in verdicts.into_iter().map(Some).chain([None]) {
            let mut branch = within.clone();
            branch.clean = false;
            branch.state.probability = branch.state.probability.times(odds);
            let fact = Fact::Other(text.clone().into());
            let says = format!("{text}: {verdict:?}").into();
            branch.state.assume_answer(fact, branches.len(), says);
            let then = match verdict {
                Some(v) => self.verdict(at, v)?,
                None => Then::Next,
            };
            branches.push((branch, Some(then)));
        }
        Ok(())
    }

    fn assign(
        &mut self,
        at: At<'w>,
        within: &Within<'w>,
        field: &Term,
        value: &'w Term,
    ) -> Vec<(Within<'w>, Option<Then<'w>>)> {
        let mut branches = Vec::new();
        for (odds, value) in self.evaluate(&within.state, at.table, value) {
            let mut branch = within.clone();
            branch.clean = false;
            branch.state.probability = branch.state.probability.times(odds);
            let number = match value {
                Evaluated::Parts(parts) => match parts.as_slice() {
                    [Literal::Int(n)] => Some(*n),
                    _ => None,
                },
                Evaluated::Missing => {
                    branch.clean = within.clean;
                    branches.push((branch, Some(Then::Next)));
                    continue;
                }
                Evaluated::Partly(..) | Evaluated::Unknown(_) => None,
            };
            // Marks have 32 bits.
            let number = number.and_then(|n| u32::try_from(n & u64::from(u32::MAX)).ok());
            match (field, number) {
                (Term::Meta(Meta::Mark), Some(mark)) => {
                    branch.state.mark = mark;
                    branch.effects.push(format!("mark becomes {mark:#x}"));
                }
                (Term::Ct(Ct::Mark), Some(mark)) => {
                    branch.state.conn.mark = mark;
                    branch
                        .effects
                        .push(format!("connection mark becomes {mark:#x}"));
                }
                (Term::Ct(Ct::Zone), Some(zone)) => {
                    branch.state.conn.zone = zone.try_into().unwrap_or(u16::MAX);
                    branch
                        .effects
                        .push(format!("connection zone becomes {zone}"));
                }
                _ => {
                    self.warn(Self::describe(
                        at,
                        "the new value is not known; assumed to be unchanged",
                    ));
                }
            }
            branches.push((branch, None));
        }
        branches
    }

    fn dynset(
        &mut self,
        at: At<'w>,
        within: &Within<'w>,
        op: SetOp,
        set: &str,
        key: &'w Term,
        value: Option<&'w Term>,
    ) -> Vec<(Within<'w>, Option<Then<'w>>)> {
        let mut branches = Vec::new();
        for (odds, key) in self.evaluate(&within.state, at.table, key) {
            let values = match value {
                Some(v) => self.evaluate(&within.state, at.table, v),
                None => vec![(Fraction::ONE, Evaluated::Parts(Vec::new()))],
            };
            for (more, value) in values {
                let mut branch = within.clone();
                branch.state.probability = branch.state.probability.times(odds).times(more);
                let (key, value) = match (&key, value) {
                    (Evaluated::Parts(key), Evaluated::Parts(value)) => (key, value),
                    (Evaluated::Missing, _) | (_, Evaluated::Missing) => {
                        branches.push((branch, Some(Then::Next)));
                        continue;
                    }
                    _ => {
                        let why = format!("the element that it adds to @{set} is not known");
                        self.warn(Self::describe(at, &why));
                        branches.push((branch, None));
                        continue;
                    }
                };
                branch.clean = false;
                let did = if op == SetOp::Delete {
                    "taken from"
                } else {
                    "remembered in"
                };
                branch.effects.push(format!("{} {did} @{set}", show(key)));
                branch.state.learnt.push(Learnt {
                    set: set_name(at.table, set).into(),
                    key: show(key).into_bytes(),
                    value,
                    gone: op == SetOp::Delete,
                });
                branches.push((branch, None));
            }
        }
        branches
    }

    fn translation(
        &mut self,
        at: At<'w>,
        within: &Within<'w>,
        nat: &'w NatStatement,
    ) -> Vec<(Within<'w>, Option<Then<'w>>)> {
        let mut branches = Vec::new();
        let state = &within.state;
        let addresses = match &nat.address {
            Some(Term::Range(Literal::Ip(a), Literal::Ip(b))) => {
                vec![(
                    Fraction::ONE,
                    Evaluated::Parts(vec![Literal::Ip(*a), Literal::Ip(*b)]),
                )]
            }
            Some(expr) => self.evaluate(state, at.table, expr),
            None => vec![(Fraction::ONE, Evaluated::Parts(Vec::new()))],
        };
        let ports = match &nat.port {
            Some(Term::Range(a, b)) => {
                vec![(Fraction::ONE, Evaluated::Parts(vec![a.clone(), b.clone()]))]
            }
            Some(expr) => self.evaluate(state, at.table, expr),
            None => vec![(Fraction::ONE, Evaluated::Parts(Vec::new()))],
        };
        for (odds, address) in addresses {
            for (more, port) in &ports {
                let mut state = within.state.clone();
                state.probability = state.probability.times(odds).times(*more);
                let on = |state| Within {
                    state,
                    next: within.next,
                    effects: within.effects.clone(),
                    clean: within.clean,
                };
                let wanted = match (&address, port) {
                    (Evaluated::Parts(a), Evaluated::Parts(p)) => wanted(a, p).map(|w| Wanted {
                        random: nat.flags.iter().any(|f| f.contains("random")),
                        ..w
                    }),
                    (Evaluated::Missing, _) | (_, Evaluated::Missing) => {
                        branches.push((on(state), Some(Then::Next)));
                        continue;
                    }
                    _ => None,
                };
                let Some(wanted) = wanted else {
                    self.warn(Self::describe(
                        at,
                        "the target of the translation is not known; shown as untranslated",
                    ));
                    branches.push((on(state), Some(Then::Accept)));
                    continue;
                };
                // Does not apply to the other family (`nft_nat_inet_eval`).
                if wanted
                    .addresses
                    .is_some_and(|(a, _)| a.is_ipv6() != state.is_v6())
                {
                    branches.push((on(state), None));
                    continue;
                }
                self.translations(nat.kind, &on(state), wanted, &mut branches);
            }
        }
        branches
    }

    fn translations(
        &mut self,
        kind: NatType,
        within: &Within<'w>,
        wanted: Wanted,
        branches: &mut Vec<(Within<'w>, Option<Then<'w>>)>,
    ) {
        let (state, ports) = (&within.state, wanted.ports);
        let (made, side) = match kind {
            NatType::Dnat => (
                self.rewrite(state, wanted, Side::Destination),
                Side::Destination,
            ),
            NatType::Snat => (self.rewrite(state, wanted, Side::Source), Side::Source),
            NatType::Redirect => (self.redirect(state, ports), Side::Destination),
            NatType::Masquerade => (vec![self.masquerade(state.clone(), wanted)], Side::Source),
        };
        for (state, then) in made {
            let mut effects = within.effects.clone();
            effects.push(translated(&state, side, &then));
            let branch = Within {
                state,
                next: within.next,
                effects,
                clean: false,
            };
            branches.push((branch, Some(then)));
        }
    }
}

/// Return the answer of `reject`: `with icmp host-unreachable`, `with tcp reset`; by default port
/// unreachable.
fn answer_of(with: &str, v6: bool) -> Answer {
    let words: Vec<&str> = with.split_whitespace().collect();
    let reason = words.last().copied().unwrap_or_default();
    if reason == "reset" {
        return Answer::Reset;
    }
    let any = words.contains(&"icmpx");
    let (code4, code6) = match reason {
        "no-route" => (0, 0),
        "net-unreachable" => (0, 0),
        "host-unreachable" => (1, 3),
        "addr-unreachable" => (1, 3),
        "prot-unreachable" => (2, 4),
        "frag-needed" => (4, 4),
        "policy-fail" => (13, 5),
        "reject-route" => (13, 6),
        "net-prohibited" => (9, 1),
        "host-prohibited" => (10, 1),
        "admin-prohibited" => (13, 1),
        // The numbers of `enum nft_reject_inet_code`.
        "0" if any => (0, 0),
        "2" if any => (1, 3),
        "3" if any => (13, 1),
        number => match number.parse() {
            Ok(code) if !any => (code, code),
            _ => (3, 4),
        },
    };
    Answer::unreachable(v6, code4, code6)
}

/// Return a translation's target from its values: `[address]`, `[address, port]`, `[first, last]`.
fn wanted(address: &[Literal], port: &[Literal]) -> Option<Wanted> {
    let as_port = |v: &Literal| match v {
        Literal::Int(n) => u16::try_from(*n).ok(),
        _ => None,
    };
    let (addresses, mut ports) = match address {
        [] => (None, None),
        [Literal::Ip(a)] => (Some((*a, *a)), None),
        [Literal::Ip(a), Literal::Ip(b)] => (Some((*a, *b)), None),
        [Literal::Ip(a), p] => {
            let p = as_port(p)?;
            (Some((*a, *a)), Some((p, p)))
        }
        _ => return None,
    };
    match port {
        [] => {}
        [p] => ports = Some((as_port(p)?, as_port(p)?)),
        [a, b] => ports = Some((as_port(a)?, as_port(b)?)),
        _ => return None,
    }
    Some(Wanted {
        addresses,
        ports,
        random: false,
    })
}

fn set_of<'a>(table: &'a TableDecl, map: &'a SetRef) -> Option<&'a SetDecl> {
    match map {
        SetRef::Name(name) => table.set(name),
        SetRef::Anonymous(set) => Some(set),
    }
}

/// Return the name under which changes of a dynamic set are stored.
fn set_name(table: &TableDecl, set: &str) -> String {
    format!("{}/{}/{set}", table.family.name(), table.name)
}

/// `10.96.0.1 . tcp . 80 (demo/web:http)`.
fn show_element(set: &SetDecl, element: &ElementDecl, parts: &[Literal]) -> String {
    let mut parts = parts.to_vec();
    for (part, of) in parts.iter_mut().zip(&set.key) {
        if let (Literal::Int(n), TermType::InetProto) = (&*part, of)
            && let Ok(n) = u8::try_from(*n)
        {
            *part = Literal::Text(Proto(n).to_string().into());
        }
    }
    match &element.comment {
        Some(comment) => format!("{} ({comment})", show(&parts)),
        None => show(&parts),
    }
}

/// `10.96.0.1 . 6 . 80`.
fn show(parts: &[Literal]) -> String {
    let mut text = String::new();
    for part in parts {
        if !text.is_empty() {
            text.push_str(" . ");
        }
        match part {
            Literal::Ip(ip) => text.push_str(&ip.to_string()),
            Literal::Int(n) => text.push_str(&n.to_string()),
            Literal::Text(t) => text.push_str(t),
            Literal::Wildcard(t) => {
                text.push_str(t);
                text.push('*');
            }
        }
    }
    text
}

/// Return whether an extension of xtables, which nft lists by name only, lets every packet pass.
fn is_inert(text: &str) -> bool {
    const MATCHES: [&str; 2] = ["comment", "nfacct"];
    let named = |kind: &str| {
        let rest = text.strip_prefix("xt ")?.strip_prefix(kind)?;
        Some(rest.trim().trim_matches('"'))
    };
    named("match ").is_some_and(|name| MATCHES.contains(&name))
        || named("target ").is_some_and(|name| PASSING.contains(&name) || name == "LOG")
}
