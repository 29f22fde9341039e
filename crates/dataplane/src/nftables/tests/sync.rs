//! The state machine with a kernel in memory that fails on request.

use std::collections::BTreeSet;
use std::sync::Arc;

use model::IpFamily;
use netfilter::nft::table::Contents;
use netfilter::nft::{Chain, Data, Op, Rule, Value, Verdict};
use plan::testing::{big_cluster, big_cluster_settings, history};
use plan::{FamilyDiff, Plan, PlanDiff, Planner, PortChange, PortKey};
use proptest::prelude::*;

use super::super::*;

/// A kernel with one table.
#[derive(Default)]
pub(super) struct Kernel {
    pub(super) table: Option<Contents>,
    commits: usize,
    /// What happens to the commit of this number.
    fault: Option<(usize, Fault)>,
    /// Refuses operations on this element.
    pub(super) poison: Option<Value>,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Refuse,
    LoseBefore,
    LoseAfter,
    DeleteTable,
    Meddle,
    Die,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Died;

impl Transport for Kernel {
    type Error = Died;

    fn read(&mut self, _: &Expected<'_>) -> Result<Option<(Contents, bool)>, Died> {
        Ok(self.table.clone().map(|contents| (contents, false)))
    }

    fn commit(&mut self, ops: &[Op], guarded: bool) -> Result<Outcome, Died> {
        let number = self.commits;
        self.commits += 1;
        let fault = self.fault.filter(|(at, _)| *at == number).map(|(_, f)| f);
        match fault {
            Some(Fault::Refuse) => return Ok(Outcome::Refused("as told".to_owned())),
            Some(Fault::LoseBefore) => return Ok(Outcome::Unknown),
            Some(Fault::Die) => return Err(Died),
            Some(Fault::DeleteTable) => self.table = None,
            Some(Fault::Meddle) => meddle(&mut self.table),
            Some(Fault::LoseAfter) | None => {}
        }
        if guarded && matches!(fault, Some(Fault::DeleteTable | Fault::Meddle)) {
            return Ok(Outcome::Unknown);
        }
        if self.poison.is_some_and(|key| touches(ops, &key)) {
            return Ok(Outcome::Refused("poisoned".to_owned()));
        }
        match Contents::apply(&mut self.table, ops) {
            Ok(()) if matches!(fault, Some(Fault::LoseAfter)) => Ok(Outcome::Unknown),
            Ok(()) => Ok(Outcome::Committed),
            Err((_, refusal)) => Ok(Outcome::Refused(refusal.to_string())),
        }
    }
}

fn touches(ops: &[Op], key: &Value) -> bool {
    ops.iter().any(|op| match op {
        Op::AddElements { elements, .. } => elements.iter().any(|e| e.key == *key),
        _ => false,
    })
}

/// Make another program's changes: add a rule, a chain and an element, and remove an element.
fn meddle(table: &mut Option<Contents>) {
    let Some(contents) = table else { return };
    if let Some(chain) = contents.chains.get_mut("services") {
        let exprs = vec![netfilter::nft::Expr::Verdict(Verdict::Accept)];
        chain.rules.insert(
            0,
            Rule {
                chain: "services".to_owned(),
                exprs,
                comment: None,
            },
        );
    }
    let name = "theirs".to_owned();
    let chain = Chain {
        name: name.clone(),
        base: None,
        comment: None,
    };
    let op = Op::AddChain(chain);
    Contents::apply(table, &[op]).expect("a chain");
    let Some(contents) = table else { return };
    if let Some(set) = contents.sets.get_mut("cluster-ips") {
        set.elements.pop_first();
    }
    if let Some(set) = contents.sets.get_mut("service-ips")
        && let Some(((key, _), mut e)) = set.elements.pop_first()
    {
        e.key = Value::ip([192, 0, 2, 77].into())
            .with_protocol(6)
            .with_port(7);
        e.data = Data::Verdict(Verdict::Goto(name));
        if e.key.len() == key.len() {
            set.elements.insert((e.key, false), e);
        }
    }
}

/// Return the keys of the changed ports.
pub(super) fn keys(diff: &FamilyDiff) -> BTreeSet<PortKey> {
    diff.ports.iter().filter_map(PortChange::key).collect()
}

fn planner(services: usize) -> (Planner, PlanDiff) {
    let mut planner = Planner::new(big_cluster_settings());
    planner.apply_all(big_cluster(services, 3));
    let diff = planner.take_diff();
    (planner, diff)
}

pub(super) fn settled(sync: &Sync, kernel: &Kernel, plan: &Plan) {
    assert_eq!(sync.refused().len(), 0, "{:?}", sync.refused());
    assert_eq!(sync.refused_common(), None);
    let state = sync.state().expect("known");
    let lowered = State::lower(plan, Options::default());
    assert_eq!(state.contents(), lowered.contents());
    let table = kernel.table.clone().expect("a table");
    assert_eq!(super::swept(table, state), lowered.contents());
}

pub(super) const LIMIT: usize = 10_000;

fn load(plan: &Plan, kernel: &mut Kernel) -> Sync {
    let mut sync = Sync::new(Options::default());
    sync.run(plan, kernel, LIMIT).expect("no death");
    sync
}

#[test]
fn a_second_load_writes_nothing() {
    let (planner, _) = planner(300);
    let plan = planner.plan(IpFamily::V4);
    let mut kernel = Kernel::default();
    let mut sync = load(plan, &mut kernel);
    settled(&sync, &kernel, plan);
    assert!(matches!(sync.step(plan), Step::Idle));
    // A restart reads the table and writes nothing.
    let commits = kernel.commits;
    let again = load(plan, &mut kernel);
    settled(&again, &kernel, plan);
    assert_eq!(kernel.commits, commits);
}

#[test]
fn sync_converges_after_a_fault_in_any_commit() {
    let (planner, _) = planner(40);
    let plan = planner.plan(IpFamily::V4);
    for fault in [
        Fault::Refuse,
        Fault::LoseBefore,
        Fault::LoseAfter,
        Fault::DeleteTable,
        Fault::Meddle,
        Fault::Die,
    ] {
        for number in 0..4 {
            let mut kernel = Kernel {
                fault: Some((number, fault)),
                ..Kernel::default()
            };
            let mut sync = Sync::new(Options::default());
            if sync.run(plan, &mut kernel, LIMIT).is_err() {
                // Killed: the next process starts without knowledge.
                sync = load(plan, &mut kernel);
            }
            // Changes after the last read are only known from notifications.
            sync.mark_unverified();
            sync.retry();
            sync.run(plan, &mut kernel, LIMIT).expect("no more faults");
            settled(&sync, &kernel, plan);
        }
    }
}

#[test]
fn foreign_changes_are_repaired() {
    let (planner, _) = planner(40);
    let plan = planner.plan(IpFamily::V4);
    let mut kernel = Kernel::default();
    let mut sync = load(plan, &mut kernel);
    meddle(&mut kernel.table);
    sync.mark_unverified();
    sync.run(plan, &mut kernel, LIMIT).expect("no death");
    settled(&sync, &kernel, plan);
    kernel.table = None;
    sync.mark_unverified();
    sync.run(plan, &mut kernel, LIMIT).expect("no death");
    settled(&sync, &kernel, plan);
}

#[test]
fn a_table_with_another_layout_is_replaced_in_one_transaction() {
    let (planner, _) = planner(40);
    let plan = planner.plan(IpFamily::V4);
    let theirs = Op::AddChain(Chain {
        name: "nat-prerouting".to_owned(),
        base: None,
        comment: None,
    });
    let mut kernel = Kernel::default();
    Contents::apply(&mut kernel.table, &[Op::AddTable { comment: None }, theirs]).expect("theirs");
    let sync = load(plan, &mut kernel);
    assert_eq!(kernel.commits, 1);
    settled(&sync, &kernel, plan);
}

#[test]
fn a_refused_service_does_not_delay_others() {
    let (planner, _) = planner(60);
    let plan = planner.plan(IpFamily::V4);
    let (key, port) = plan.ports.iter().nth(17).expect("enough");
    let poison = Value::ip(port.cluster_ip)
        .with_protocol(port.protocol.number())
        .with_port(port.port.get());
    let mut kernel = Kernel {
        poison: Some(poison),
        ..Kernel::default()
    };
    let mut sync = load(plan, &mut kernel);
    assert_eq!(sync.refused().keys().collect::<Vec<_>>(), [key]);
    let mut without = plan.clone();
    without.ports.remove(key);
    let state = State::lower(&without, Options::default());
    let known = sync.state().expect("known");
    let table = super::swept(kernel.table.clone().expect("a table"), known);
    assert_eq!(table, state.contents());
    // The kernel accepts it now.
    kernel.poison = None;
    sync.retry();
    sync.run(plan, &mut kernel, LIMIT).expect("no death");
    settled(&sync, &kernel, plan);
}

#[test]
fn after_a_refused_change_the_previous_version_serves() {
    let (planner, _) = planner(20);
    let plan = planner.plan(IpFamily::V4);
    let mut kernel = Kernel::default();
    let mut sync = load(plan, &mut kernel);
    let before = kernel.table.clone();
    let (key, port) = plan.ports.iter().next().expect("a port");
    let mut after = (**port).clone();
    after.cluster = after.cluster[1..].to_vec().into();
    let frontend = Value::ip(port.cluster_ip)
        .with_protocol(port.protocol.number())
        .with_port(port.port.get());
    // The element of its first endpoint.
    kernel.poison = Some(frontend.with_host_u32(0));
    let mut next = plan.clone();
    next.ports.insert(key.clone(), Arc::new(after));
    sync.change(&[key.clone()].into());
    sync.run(&next, &mut kernel, LIMIT).expect("no death");
    assert_eq!(sync.refused().len(), 1);
    let (before, after) = (before.expect("a table"), kernel.table.expect("a table"));
    assert_eq!(after.sets, before.sets);
    // Tests in chain `pick` may have been added.
    for (name, was) in before.chains.iter().filter(|(name, _)| *name != "pick") {
        assert_eq!(after.chains.get(name), Some(was), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Any history with one fault ends in the table of the last plan.
    #[test]
    fn sync_converges_for_any_history_with_faults((settings, events) in history(), number in 0..12_usize, which in 0..5_usize) {
        let fault = [
            Fault::Refuse,
            Fault::LoseBefore,
            Fault::LoseAfter,
            Fault::DeleteTable,
            Fault::Meddle,
        ][which];
        let mut planner = Planner::new(settings);
        let mut syncs: Vec<_> = IpFamily::ALL
            .iter()
            .map(|_| {
                let kernel = Kernel { fault: Some((number, fault)), ..Kernel::default() };
                (Sync::new(Options::default()), kernel)
            })
            .collect();
        for event in events {
            planner.apply(event);
            let diff = planner.take_diff();
            for ((sync, kernel), family) in syncs.iter_mut().zip(IpFamily::ALL) {
                sync.change(&keys(diff.family(family)));
                sync.run(planner.plan(family), kernel, LIMIT).expect("no death");
            }
        }
        for ((sync, kernel), family) in syncs.iter_mut().zip(IpFamily::ALL) {
            // In a history with few commits, the fault occurs only now.
            for _ in 0..2 {
                sync.retry();
                sync.mark_unverified();
                sync.run(planner.plan(family), kernel, LIMIT).expect("no death");
            }
            settled(sync, kernel, planner.plan(family));
        }
    }
}
