//! The contents of a table: derived, read from the kernel, or made by operations.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use super::decode::Body;
use super::encode::Op;
use super::expr::{Expr, LookupInto};
use super::object::{Chain, Data, Element, Rule, Set, SetData, Verdict};
use super::value::Value;

/// A table's contents. [`Contents::apply`] makes it a model of the kernel, with the kernel's checks of
/// references, duplicates and missing objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// The comment.
    pub comment: Option<String>,
    /// The chains by name.
    pub chains: BTreeMap<String, ChainContents>,
    /// The sets by name.
    pub sets: BTreeMap<String, SetContents>,
}

/// A chain and its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainContents {
    /// The chain.
    pub chain: Chain,
    /// The rules, in order.
    pub rules: Vec<Rule>,
}

/// A set and its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetContents {
    /// The set.
    pub set: Set,
    /// The elements, by key and by whether they end a range.
    pub elements: BTreeMap<(Value, bool), Element>,
}

/// The kernel's rejection of an operation, by its errno.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// `ENOENT`.
    #[error("{0} does not exist")]
    Missing(String),
    /// `EEXIST`.
    #[error("{0} already exists and differs")]
    Exists(String),
    /// `EBUSY`.
    #[error("{0} is in use")]
    Busy(String),
    /// `EINVAL`.
    #[error("{0}")]
    Invalid(String),
}

impl Contents {
    /// Apply all operations, or none, to the table; `None` is a table that does not exist.
    ///
    /// # Errors
    /// The index of the operation that the kernel would reject, and why.
    pub fn apply(table: &mut Option<Contents>, ops: &[Op]) -> Result<(), (usize, Refusal)> {
        let mut next = table.clone();
        for (number, op) in ops.iter().enumerate() {
            apply_one(&mut next, op).map_err(|refusal| (number, refusal))?;
        }
        *table = next;
        Ok(())
    }

    /// Add the object in a decoded message. Objects that cannot be decoded are left out; callers find
    /// them in the messages.
    pub fn add(&mut self, body: Body) {
        match body {
            Body::Table(table) => self.comment = table.comment,
            Body::Chain { chain, .. } => {
                let rules = Vec::new();
                self.chains
                    .insert(chain.name.clone(), ChainContents { chain, rules });
            }
            Body::Rule { rule: Ok(rule), .. } => {
                if let Some(chain) = self.chains.get_mut(&rule.chain) {
                    chain.rules.push(rule);
                }
            }
            Body::Set { set: Ok(set), .. } => {
                let elements = BTreeMap::new();
                self.sets
                    .insert(set.name.clone(), SetContents { set, elements });
            }
            Body::Elements { set, elements, .. } => {
                if let Some(set) = self.sets.get_mut(&set) {
                    let keyed = elements.into_iter().map(|e| ((e.key, e.interval_end), e));
                    set.elements.extend(keyed);
                }
            }
            _ => {}
        }
    }

    /// Return the operations that create the table with all elements.
    pub fn create(&self) -> Vec<Op> {
        let mut ops = vec![Op::AddTable {
            comment: self.comment.clone(),
        }];
        let chains = self.chains.values();
        ops.extend(chains.clone().map(|c| Op::AddChain(c.chain.clone())));
        ops.extend(self.sets.values().map(|s| Op::AddSet(s.set.clone())));
        ops.extend(
            chains
                .flat_map(|c| c.rules.iter())
                .map(|r| Op::AddRule(r.clone())),
        );
        for s in self.sets.values().filter(|s| !s.elements.is_empty()) {
            ops.push(Op::AddElements {
                set: s.set.name.clone(),
                elements: s.elements.values().cloned().collect(),
            });
        }
        ops
    }

    fn chain(&mut self, name: &str) -> Result<&mut ChainContents, Refusal> {
        self.chains
            .get_mut(name)
            .ok_or_else(|| Refusal::Missing(format!("chain {name}")))
    }

    fn set(&mut self, name: &str) -> Result<&mut SetContents, Refusal> {
        self.sets
            .get_mut(name)
            .ok_or_else(|| Refusal::Missing(format!("set {name}")))
    }

    fn need_chain(&self, verdict: &Verdict) -> Result<(), Refusal> {
        match verdict.chain() {
            Some(name) if !self.chains.contains_key(name) => {
                Err(Refusal::Missing(format!("chain {name}")))
            }
            _ => Ok(()),
        }
    }

    fn chain_in_use(&self, name: &str) -> bool {
        let goes_there = |v: &Verdict| v.chain() == Some(name);
        let rules = self.chains.values().flat_map(|c| &c.rules);
        let mut verdicts = rules.flat_map(|r| &r.exprs).filter_map(Expr::verdict);
        let by_rule = verdicts.any(goes_there);
        by_rule
            || self
                .sets
                .values()
                .flat_map(|s| s.elements.values())
                .any(|e| matches!(&e.data, Data::Verdict(v) if goes_there(v)))
    }

    fn add_rule(&mut self, rule: &Rule) -> Result<(), Refusal> {
        for e in &rule.exprs {
            match e.reference() {
                Reference::Nothing => {}
                Reference::Verdict(v) => self.need_chain(v)?,
                Reference::Lookup(set, into) => {
                    let data = &self.set(set)?.set.data;
                    let fits = match into {
                        LookupInto::Nothing => true,
                        LookupInto::Register(_) => matches!(data, SetData::Fields(_)),
                        LookupInto::Verdict => *data == SetData::Verdict,
                    };
                    if !fits {
                        return Err(Refusal::Invalid(format!("a lookup of set {set}'s data")));
                    }
                }
                Reference::Learns(set) => {
                    if !self.set(set)?.set.flags.dynamic {
                        return Err(Refusal::Invalid(format!("set {set} is not dynamic")));
                    }
                }
            }
        }
        self.chain(&rule.chain)?.rules.push(rule.clone());
        Ok(())
    }

    fn add_element(&mut self, name: &str, e: &Element) -> Result<(), Refusal> {
        if let Data::Verdict(v) = &e.data {
            self.need_chain(v)?;
        }
        let s = self.set(name)?;
        let data_len = match &e.data {
            Data::Value(v) => Some(v.len()),
            Data::None | Data::Verdict(_) => None,
        };
        let fits = match &s.set.data {
            SetData::None => e.data == Data::None,
            SetData::Verdict => matches!(e.data, Data::Verdict(_)),
            SetData::Fields(fields) => e.interval_end || data_len == Some(fields.len()),
        };
        if !fits || e.key.len() != s.set.key.len() {
            return Err(Refusal::Invalid(format!(
                "an element of set {name} does not have the set's types: {:?}",
                e.key
            )));
        }
        match s.elements.get(&(e.key, e.interval_end)) {
            Some(old) if old.data == e.data => Ok(()),
            Some(_) => Err(Refusal::Exists(format!("{:?} in set {name}", e.key))),
            None => {
                s.elements.insert((e.key, e.interval_end), e.clone());
                Ok(())
            }
        }
    }
}

fn apply_one(table: &mut Option<Contents>, op: &Op) -> Result<(), Refusal> {
    if let Op::AddTable { comment } = op {
        table.get_or_insert_with(|| Contents {
            comment: comment.clone(),
            ..Contents::default()
        });
        return Ok(());
    }
    let Some(contents) = table else {
        return Err(Refusal::Missing("table".to_owned()));
    };
    match op {
        Op::AddTable { .. } => {}
        Op::DeleteTable => *table = None,
        Op::AddChain(chain) => {
            contents
                .chains
                .entry(chain.name.clone())
                .or_insert_with(|| ChainContents {
                    chain: chain.clone(),
                    rules: Vec::new(),
                });
        }
        Op::FlushChain(name) => contents.chain(name)?.rules.clear(),
        Op::DeleteChain(name) => {
            // The kernel deletes the chain's own rules first.
            contents.chain(name)?.rules.clear();
            if contents.chain_in_use(name) {
                return Err(Refusal::Busy(format!("chain {name}")));
            }
            contents.chains.remove(name);
        }
        Op::AddRule(rule) => contents.add_rule(rule)?,
        Op::AddSet(set) => {
            let there = contents
                .sets
                .entry(set.name.clone())
                .or_insert_with(|| SetContents {
                    set: set.clone(),
                    elements: BTreeMap::new(),
                });
            if there.set.key.number() != set.key.number() || there.set.flags != set.flags {
                return Err(Refusal::Exists(format!("set {}", set.name)));
            }
        }
        Op::DeleteSet(name) => {
            contents.set(name)?;
            let used = contents
                .chains
                .values()
                .flat_map(|c| &c.rules)
                .any(|r| r.exprs.iter().any(|e| e.set() == Some(name.as_str())));
            if used {
                return Err(Refusal::Busy(format!("set {name}")));
            }
            contents.sets.remove(name);
        }
        Op::AddElements { set, elements } => {
            for e in elements {
                contents.add_element(set, e)?;
            }
        }
        Op::DeleteElements { set, elements } => {
            let s = contents.set(set)?;
            for e in elements {
                s.elements
                    .remove(&(e.key, e.interval_end))
                    .ok_or_else(|| Refusal::Missing(format!("{:?} in set {set}", e.key)))?;
            }
        }
        Op::FlushSet(set) => contents.set(set)?.elements.clear(),
    }
    Ok(())
}

/// What an expression refers to in its table.
enum Reference<'a> {
    Nothing,
    Verdict(&'a Verdict),
    Lookup(&'a str, LookupInto),
    /// A set to which it adds elements.
    Learns(&'a str),
}

impl Expr {
    fn reference(&self) -> Reference<'_> {
        match self {
            Expr::Verdict(verdict) => Reference::Verdict(verdict),
            Expr::Lookup { set, into, .. } => Reference::Lookup(set, *into),
            Expr::Dynset { set, .. } => Reference::Learns(set),
            // The objects of `Objref` are not part of the model.
            Expr::Objref { .. }
            | Expr::Payload { .. }
            | Expr::Meta { .. }
            | Expr::MetaSet { .. }
            | Expr::Cmp { .. }
            | Expr::Bitwise { .. }
            | Expr::Byteorder { .. }
            | Expr::Immediate { .. }
            | Expr::Ct { .. }
            | Expr::Fib { .. }
            | Expr::Numgen { .. }
            | Expr::Nat(_)
            | Expr::Masquerade { .. }
            | Expr::Redirect { .. }
            | Expr::Reject(_)
            | Expr::Counter { .. }
            | Expr::Limit { .. }
            | Expr::Range { .. }
            | Expr::Match { .. }
            | Expr::Target { .. }
            | Expr::Log { .. } => Reference::Nothing,
        }
    }

    fn verdict(&self) -> Option<&Verdict> {
        match self.reference() {
            Reference::Verdict(verdict) => Some(verdict),
            Reference::Nothing | Reference::Lookup(..) | Reference::Learns(_) => None,
        }
    }

    fn set(&self) -> Option<&str> {
        match self.reference() {
            Reference::Lookup(set, _) | Reference::Learns(set) => Some(set),
            Reference::Nothing | Reference::Verdict(_) => None,
        }
    }
}

/// Return the target chains of all rules and elements.
pub fn targets(contents: &Contents) -> BTreeSet<&str> {
    let rules = contents.chains.values().flat_map(|c| &c.rules);
    let verdicts = rules.flat_map(|r| &r.exprs).filter_map(Expr::verdict);
    let by_rules = verdicts.filter_map(Verdict::chain);
    let elements = contents.sets.values().flat_map(|s| s.elements.values());
    let by_elements = elements.filter_map(|e| match &e.data {
        Data::Verdict(v) => v.chain(),
        Data::None | Data::Value(_) => None,
    });
    by_rules.chain(by_elements).collect()
}
