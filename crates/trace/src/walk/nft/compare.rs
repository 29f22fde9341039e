//! nf_tables comparisons.

use netfilter::nft_lang::{Ct, Item, Literal, Meta, Op, TableDecl, Term};

use super::super::Walker;
use super::super::assume::Fact;
use super::super::ipt::Holds;
use super::super::state::{Iface, State};
use super::expr::{Evaluated, all_bits};
use super::{set_name, show};
use crate::fraction::Fraction;
use crate::packet::CtState;

/// Return whether a comparison tests `IPS_ASSURED`, which depends on more than one packet.
fn asks_for_assured(right: &Term) -> bool {
    const ASSURED: u64 = 4;
    let bit = |v: &Literal| matches!(v, Literal::Int(n) if n & ASSURED != 0);
    match right {
        Term::Value(v) => bit(v),
        Term::Flags(all) => all.iter().any(bit),
        _ => false,
    }
}

/// Return the fact on which a comparison depends, and whether it is negated: the name of an interface
/// that is not known.
fn interface_fact(state: &State<'_>, left: &Term, op: Op, right: &Term) -> Option<(Fact, bool)> {
    let leaves = match left {
        Term::Meta(Meta::Iif | Meta::Iifname) if state.iif == Iface::Unknown => false,
        Term::Meta(Meta::Oif | Meta::Oifname) if state.oif == Iface::Unknown => true,
        _ => return None,
    };
    let negated = match op {
        Op::Implicit | Op::Eq => false,
        Op::Ne => true,
        _ => return None,
    };
    let pattern = match right {
        Term::Value(Literal::Text(name)) => name.clone(),
        Term::Value(Literal::Wildcard(prefix)) => format!("{prefix}*").into(),
        _ => return None,
    };
    Some((Fact::Interface { leaves, pattern }, negated))
}

impl<'w> Walker<'w> {
    /// Return whether a comparison holds for a packet.
    pub(super) fn nft_match(
        &mut self,
        state: &State<'w>,
        table: &'w TableDecl,
        left: &Term,
        op: Op,
        right: &Term,
    ) -> Holds {
        let flags = left.data_type().is_flags();
        if *left == Term::Ct(Ct::Status) && asks_for_assured(right) && *state.known != CtState::New
        {
            return Holds::Unknown("the other packets of the connection are not known".into());
        }
        if let Some((fact, negated)) = interface_fact(state, left, op, right) {
            // Evaluated again after the fork.
            let is_it = self.ask(state, fact).unwrap_or(!negated);
            return Holds::of(is_it != negated);
        }
        let mut yes = Fraction::ZERO;
        let mut certain = None;
        let lefts = self.evaluate(state, table, left);
        let single = lefts.len() == 1;
        for (odds, value) in lefts {
            let holds = match value {
                Evaluated::Parts(parts) => self.compare(state, table, &parts, op, right, flags),
                Evaluated::Missing => Holds::No,
                Evaluated::Partly(parts, why) => {
                    let set = match right {
                        Term::Set(set) => Some(&**set),
                        Term::SetName(name) => table.set(name),
                        _ => None,
                    };
                    match set {
                        Some(set) if !set.may_find(&parts) => Holds::No.negated_if(op == Op::Ne),
                        _ => Holds::Unknown(why),
                    }
                }
                Evaluated::Unknown(why) => Holds::Unknown(why),
            };
            match &holds {
                Holds::Yes => yes = yes.plus(odds),
                Holds::No => {}
                Holds::Chance(more) => yes = yes.plus(odds.times(*more)),
                Holds::Unknown(_) => return holds,
            }
            certain = Some(holds);
        }
        match certain {
            Some(holds) if single => holds,
            Some(_) if yes.is_one() => Holds::Yes,
            Some(_) if yes.is_zero() => Holds::No,
            Some(_) => Holds::Chance(yes),
            None => Holds::No,
        }
    }

    fn compare(
        &mut self,
        state: &State<'w>,
        table: &'w TableDecl,
        left: &[Literal],
        op: Op,
        right: &Term,
        flags: bool,
    ) -> Holds {
        let negated = op == Op::Ne;
        match right {
            Term::Set(set) => Holds::of(set.find(left).is_some()).negated_if(negated),
            Term::SetName(name) => {
                let learnt = state.learnt(&set_name(table, name), show(left).as_bytes());
                let Some(set) = table.set(name) else {
                    return Holds::Unknown(format!("the dump does not contain set {name}"));
                };
                let there = learnt.unwrap_or_else(|| set.find(left).is_some());
                Holds::of(there).negated_if(negated)
            }
            Term::Range(a, b) => self.item(&Item::Range(a.clone(), b.clone()), left, op),
            Term::Prefix(net) => self.item(&Item::Prefix(*net), left, op),
            Term::Flags(values) => match (all_bits(values), left) {
                (Some(bits), [Literal::Int(n)]) => Holds::of(match op {
                    Op::Implicit => n & bits != 0,
                    Op::Not => n & bits == 0,
                    Op::Ne => *n != bits,
                    _ => *n == bits,
                }),
                _ => Holds::Unknown("a flag is not known by name".into()),
            },
            Term::Value(value) if flags && matches!(op, Op::Implicit | Op::Not) => {
                match (value, left) {
                    (Literal::Int(bits), [Literal::Int(n)]) => {
                        Holds::of(n & bits != 0).negated_if(op == Op::Not)
                    }
                    _ => Holds::Unknown(format!(
                        "{} is not known by name",
                        show(std::slice::from_ref(value))
                    )),
                }
            }
            Term::Value(value) => self.item(&Item::Value(value.clone()), left, op),
            Term::Concat(parts) => self.concat_compare(parts, left, negated),
            other => {
                let mut yes = Fraction::ZERO;
                for (odds, value) in self.evaluate(state, table, other) {
                    match value {
                        Evaluated::Parts(parts) => {
                            let right: Vec<Item> = parts.into_iter().map(Item::Value).collect();
                            let all = right.len() == left.len()
                                && right.iter().zip(left).all(|(r, l)| {
                                    self.item(r, std::slice::from_ref(l), Op::Eq) == Holds::Yes
                                });
                            if all != negated {
                                yes = yes.plus(odds);
                            }
                        }
                        Evaluated::Missing => {}
                        Evaluated::Partly(_, why) | Evaluated::Unknown(why) => {
                            return Holds::Unknown(why);
                        }
                    }
                }
                if yes.is_one() {
                    Holds::Yes
                } else if yes.is_zero() {
                    Holds::No
                } else {
                    Holds::Chance(yes)
                }
            }
        }
    }

    fn concat_compare(&mut self, parts: &[Term], left: &[Literal], negated: bool) -> Holds {
        let mut all = parts.len() == left.len();
        for (part, value) in parts.iter().zip(left) {
            let item = match part {
                Term::Value(v) => Item::Value(v.clone()),
                Term::Range(a, b) => Item::Range(a.clone(), b.clone()),
                Term::Prefix(net) => Item::Prefix(*net),
                _ => {
                    return Holds::Unknown("a concatenation that contains more than values".into());
                }
            };
            match self.item(&item, std::slice::from_ref(value), Op::Eq) {
                Holds::Yes => {}
                Holds::No => all = false,
                unknown => return unknown,
            }
        }
        Holds::of(all).negated_if(negated)
    }

    /// Compare one value with one value, range or prefix.
    fn item(&mut self, right: &Item, left: &[Literal], op: Op) -> Holds {
        let [left] = left else {
            return Holds::No;
        };
        let (left, right) = (self.by_name(left, right), right);
        // The interface of a route: `missing` means none, `exists` means any.
        if let (Literal::Text(l), Item::Value(Literal::Text(r))) = (&left, right)
            && matches!(&**r, "missing" | "exists" | "0")
        {
            let missing = matches!(&**l, "missing" | "");
            return Holds::of(missing != (&**r == "exists")).negated_if(op == Op::Ne);
        }
        let mismatch = matches!(
            (&left, right),
            (Literal::Int(_), Item::Value(Literal::Text(_)))
                | (Literal::Text(_), Item::Value(Literal::Int(_)))
        );
        if mismatch {
            return Holds::Unknown(format!("{right:?} is not known by name"));
        }
        let ordered = |holds: fn(std::cmp::Ordering) -> bool| match (&left, right) {
            (Literal::Int(a), Item::Value(Literal::Int(b))) => Holds::of(holds(a.cmp(b))),
            (Literal::Ip(a), Item::Value(Literal::Ip(b))) => Holds::of(holds(a.cmp(b))),
            _ => Holds::Unknown("values without an order".into()),
        };
        match op {
            Op::Implicit | Op::Eq => Holds::of(right.contains(&left)),
            Op::Ne => Holds::of(!right.contains(&left)),
            Op::Lt => ordered(std::cmp::Ordering::is_lt),
            Op::Gt => ordered(std::cmp::Ordering::is_gt),
            Op::Le => ordered(std::cmp::Ordering::is_le),
            Op::Ge => ordered(std::cmp::Ordering::is_ge),
            Op::Not => match (&left, right) {
                (Literal::Int(a), Item::Value(Literal::Int(b))) => Holds::of(a & b == 0),
                _ => Holds::of(!right.contains(&left)),
            },
        }
    }

    /// Replace the index of an interface by its name.
    fn by_name(&self, left: &Literal, right: &Item) -> Literal {
        if let (Literal::Text(name), Item::Value(Literal::Int(_))) = (left, right)
            && let Some(i) = self.world.host.interface(name)
        {
            return Literal::Int(i.index.into());
        }
        left.clone()
    }
}
