use std::collections::BTreeMap;

use model::IpFamily;
use netfilter::nft::table::Contents;
use netfilter::nft::{Encoder, Expr, LookupInto, Op, Rule, Verdict};
use plan::testing::{cluster, history};
use plan::{FamilyDiff, Plan, Planner};
use proptest::prelude::*;

use super::*;

mod refused;
mod sync;

fn targets(diff: &FamilyDiff) -> Vec<Target> {
    let changes = diff.ports.iter();
    changes
        .filter_map(|c| Some((c.key()?, c.after.clone())))
        .collect()
}

/// Return a table without its unused chains.
fn swept(mut table: Contents, state: &State) -> Contents {
    let mut there = Some(table);
    Contents::apply(&mut there, &state.sweep().ops).expect("idle chains can go");
    table = there.expect("the table stays");
    table
}

fn install(state: &State) -> Option<Contents> {
    let mut table = None;
    Contents::apply(&mut table, &state.install()).expect("an empty table is taken");
    table
}

fn apply(table: &mut Option<Contents>, state: &mut State, change: Change) {
    if let Err((number, refusal)) = Contents::apply(table, &change.ops) {
        panic!("{refusal}: {:?}", change.ops.get(number));
    }
    state.commit(change);
}

fn programmed(plan: &Plan) -> (Contents, State) {
    let options = Options::default();
    let mut state = State::new(plan.family, options, plan.node.clone());
    let mut table = install(&state);
    let all = plan.ports.iter().map(|(k, p)| (k.clone(), Some(p.clone())));
    let change = state.change(all.collect(), None);
    apply(&mut table, &mut state, change);
    (table.expect("installed"), state)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A sequence of changes leads to the table of the last plan, in a kernel that checks references
    /// and duplicates.
    #[test]
    fn incremental_changes_equal_lowering_the_last_plan((settings, events) in history()) {
        let mut planner = Planner::new(settings);
        let options = Options::default();
        let mut states: Vec<_> = IpFamily::ALL
            .iter()
            .map(|family| {
                let plan = planner.plan(*family);
                let state = State::new(*family, options, plan.node.clone());
                (install(&state), state)
            })
            .collect();
        for event in events {
            planner.apply(event);
            let diff = planner.take_diff();
            for (table, state) in &mut states {
                let family = diff.family(state.family());
                let change = state.change(targets(family), family.node.clone());
                apply(table, state, change);
                let lowered = State::lower(planner.plan(state.family()), options).contents();
                let table = swept(table.clone().expect("installed"), state);
                prop_assert_eq!(&table, &lowered);
                prop_assert_eq!(state.contents(), lowered);
            }
        }
        for (table, state) in &mut states {
            let sweep = state.sweep();
            apply(table, state, sweep);
            prop_assert_eq!(state.idle_chains(), 0);
        }
    }

    #[test]
    fn every_feature_is_probed_at_startup(cluster in cluster()) {
        let planner = cluster.planner();
        for family in IpFamily::ALL {
            let table = State::lower(planner.plan(family), Options::default()).contents();
            let tried = super::features(family);
            prop_assert_eq!(features::untried(&table, &tried), Vec::<&Expr>::new());
        }
    }

    #[test]
    fn every_operation_round_trips_through_netlink(cluster in cluster()) {
        let planner = cluster.planner();
        for family in IpFamily::ALL {
            let state = State::lower(planner.plan(family), Options::default());
            let encoder = Encoder { family: table_family(family), table: TABLE };
            let contents = state.contents();
            let mut read = Contents::default();
            for message in encoder.ops(&contents.create()) {
                let decoded = message.decode().expect("our own message");
                read.add(decoded.body);
            }
            prop_assert_eq!(read, contents);
        }
    }

    #[test]
    fn chain_names_of_picks_round_trip(
        n in 1..5000_u32,
        which in 0..9_usize,
        node_port in any::<bool>(),
        ranged in any::<bool>(),
        affinity in proptest::option::of(1..86400_u32),
    ) {
        let role = [
            Role::Any,
            Role::Local,
            Role::Masquerade,
            Role::LocalPolicy,
            Role::LocalOrDrop,
            Role::Reject,
            Role::Drop,
            Role::OneOf { local: false, n },
            Role::OneOf { local: true, n },
        ][which];
        let at = if node_port { At::NodePort } else { At::Address };
        let pick = Pick {
            at,
            role,
            affinity,
            ranged,
        };
        prop_assert_eq!(Pick::parse(&pick.to_string()), Some(pick));
    }
}

/// Return the chain to which the tests lead a frontend with `n` endpoints.
fn led_to(chains: &BTreeMap<String, Vec<Rule>>, from: &str, n: u32) -> String {
    for rule in chains.get(from).into_iter().flatten() {
        let tested = rule.exprs.iter().find_map(|e| match e {
            Expr::Numgen { offset, .. } => Some(*offset),
            _ => None,
        });
        let goes = rule.exprs.iter().find_map(|e| match e {
            Expr::Verdict(Verdict::Goto(to)) => Some(to),
            _ => None,
        });
        match goes {
            Some(to) if tested.is_none_or(|bit| n & bit != 0) => return led_to(chains, to, n),
            _ => {}
        }
    }
    from.to_owned()
}

proptest! {
    #[test]
    fn every_endpoint_count_in_use_leads_to_its_chain(numbers in proptest::collection::btree_set(1..200_u32, 1..40)) {
        let plan = Plan::empty(IpFamily::V4);
        let role = |n| Role::OneOf { local: false, n };
        let picks = numbers.iter().map(|n| Pick { role: role(*n), ..pick::PLAIN });
        let chains = pick::chains(picks, plan.family, &Options::default(), &plan.node);
        for n in &numbers {
            prop_assert_eq!(led_to(&chains, "pick", *n), format!("pick-{n}"));
        }
        // A chain for each number, and one test less than that to choose among them.
        let lookups = chains.values().flatten().flat_map(|r| &r.exprs);
        let tests = lookups.filter(|e| matches!(e, Expr::Lookup { into: LookupInto::Nothing, .. }));
        prop_assert_eq!(tests.count(), numbers.len() - 1);
    }
}

#[test]
fn other_chain_names_do_not_parse_as_picks() {
    for name in [
        "services",
        "pick-",
        "pick-8-15",
        "pick-policy",
        "pick-local-3",
        "pick-x",
        "pick-1-x",
        "pick-01",
        "pick-1-sticky",
        "",
    ] {
        assert_eq!(Pick::parse(name), None, "{name}");
    }
}

#[test]
fn lowering_equals_programming_an_empty_kernel() {
    let mut planner = Planner::new(plan::testing::big_cluster_settings());
    planner.apply_all(plan::testing::big_cluster(200, 7));
    planner.take_diff();
    let plan = planner.plan(IpFamily::V4).clone();
    let (table, state) = programmed(&plan);
    let lowered = State::lower(&plan, Options::default());
    assert_eq!(state, lowered);
    assert_eq!(table, lowered.contents());
    // The number of rules is independent of the number of Services.
    let rules: usize = table.chains.values().map(|c| c.rules.len()).sum();
    assert!(rules < 60, "{rules}");
}

#[test]
fn replacing_an_endpoint_writes_two_elements() {
    let mut planner = Planner::new(plan::testing::big_cluster_settings());
    planner.apply_all(plan::testing::big_cluster(10, 10));
    planner.take_diff();
    let plan = planner.plan(IpFamily::V4).clone();
    let (_, state) = programmed(&plan);
    let (key, port) = plan.ports.iter().next().expect("a port");
    let mut after = (**port).clone();
    let mut endpoints = after.cluster.to_vec();
    endpoints[9].port += 1;
    after.cluster = endpoints.into();
    let change = state.change(vec![(key.clone(), Some(after.into()))], None);
    let counts: Vec<(bool, usize)> = change
        .ops
        .iter()
        .map(|op| match op {
            Op::AddElements { elements, .. } => (true, elements.len()),
            Op::DeleteElements { elements, .. } => (false, elements.len()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(counts, [(false, 1), (true, 1)]);
}
