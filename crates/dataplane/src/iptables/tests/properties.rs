//! Whatever the cluster.

use std::sync::Arc;

use plan::Plan;
use plan::testing::{cluster, history};
use proptest::prelude::*;

use super::*;

fn any_options() -> impl Strategy<Value = Options> {
    (0..32u8, any::<[bool; 5]>()).prop_map(|(masquerade_bit, on)| Options {
        masquerade_bit,
        localhost_node_ports: on[0],
        conntrack_tcp_be_liberal: on[1],
        random_fully: on[2],
        nfacct: Nfacct {
            invalid_dropped: on[3],
            localhost_node_ports: on[4],
        },
    })
}

/// The rules of a plan from scratch, beside somebody else's.
fn scratch(plan: &Plan, options: Options) -> TableSet {
    let mut tables = foreign(plan.family);
    let mut mode = Mode::new(plan.family, options);
    mode.replace_plan(plan);
    mode.observe(observe(plan.family, &tables));
    let transaction = mode.transaction(&BTreeSet::new()).unwrap();
    assert_eq!(mode.problems().len(), 0);
    run(&mut tables, &transaction.text);
    tables
}

/// The same plan in a cluster that is large, or is not.
fn sized(plan: &Plan, large: bool) -> Plan {
    Plan {
        endpoint_count: if large { 1001 } else { 1000 },
        ..plan.clone()
    }
}

fn check_whole(tables: &TableSet) {
    for (table, state) in &tables.tables {
        let targets: BTreeSet<Chain> = state
            .chains
            .values()
            .flat_map(|chain| &chain.rules)
            .filter_map(|rule: &Rule| rule.target.as_ref()?.chain())
            .collect();
        for target in &targets {
            assert!(state.chains.contains_key(target), "{table} {target}");
        }
        for chain in state.chains.keys().filter(|c| names::is_service_chain(**c)) {
            assert!(targets.contains(chain), "{table}: nothing leads to {chain}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_jump_leads_somewhere_and_every_chain_is_reached(cluster in cluster(), options in any_options(), large: bool) {
        let planner = cluster.planner();
        for family in IpFamily::ALL {
            check_whole(&scratch(&sized(planner.plan(family), large), options));
        }
    }

    #[test]
    fn a_change_ends_where_a_fresh_start_does((settings, events) in history(), options in any_options(), flips in any::<u64>()) {
        let mut planner = plan::Planner::new(settings);
        let mut modes = IpFamily::ALL.map(|family| {
            let mut mode = Mode::new(family, options);
            let tables = foreign(family);
            mode.observe(observe(family, &tables));
            (mode, tables)
        });
        for (i, events) in events.chunks(3).enumerate() {
            planner.apply_all(events.iter().cloned());
            let diff = planner.take_diff();
            for (mode, tables) in &mut modes {
                let family = mode.family();
                let mut diff = diff.family(family).clone();
                let large = flips >> (i % 64) & 1 == 1;
                diff.endpoint_count = Some(if large { 1001 } else { 1000 });
                mode.apply(&diff);
                let transaction = mode.transaction(&BTreeSet::new()).unwrap();
                run(tables, &transaction.text);
                let total = transaction.total;
                mode.committed(transaction);
                prop_assert!(mode.problems().is_empty());
                let wanted = scratch(&sized(planner.plan(family), large), options);
                prop_assert_eq!(comparable(tables), comparable(&wanted));
                let own = |table: Table| {
                    let chains = tables.tables.get(&table).into_iter().flat_map(|t| &t.chains);
                    let own = chains.filter(|(c, _)| names::is_ours(table, **c));
                    own.map(|(_, state)| state.rules.len()).sum::<usize>()
                };
                prop_assert_eq!(total, RuleCounts { filter: own(Table::Filter), nat: own(Table::Nat) });
                // And a reader finds nothing to do.
                let mut reader = Mode::new(family, options);
                reader.replace_plan(&sized(planner.plan(family), large));
                reader.observe(observe(family, tables));
                prop_assert_eq!(reader.transaction(&BTreeSet::new()).unwrap().text, "");
            }
        }
    }

    #[test]
    fn there_and_back_is_where_it_was(a in cluster(), b in cluster(), options in any_options()) {
        let (a, b) = (a.planner(), b.planner());
        for family in IpFamily::ALL {
            let mut tables = foreign(family);
            let mut mode = Mode::new(family, options);
            mode.observe(observe(family, &tables));
            let mut states = Vec::new();
            for plan in [&a, &b, &a] {
                mode.replace_plan(plan.plan(family));
                let transaction = mode.transaction(&BTreeSet::new()).unwrap();
                run(&mut tables, &transaction.text);
                mode.committed(transaction);
                states.push(comparable(&tables));
            }
            prop_assert_eq!(&states[0], &states[2]);
            // The same by way of reading it back.
            let mut reader = Mode::new(family, options);
            reader.replace_plan(b.plan(family));
            reader.observe(observe(family, &tables));
            run(&mut tables, &reader.transaction(&BTreeSet::new()).unwrap().text);
            prop_assert_eq!(&comparable(&tables), &states[1]);
            let text = cleanup(&observe(family, &tables));
            run(&mut tables, &text);
            tables.tables.remove(&Table::Mangle);
            prop_assert_eq!(comparable(&tables), comparable(&foreign(family)));
        }
    }
}

/// Arcs that are equal but not the same are no change.
#[test]
fn an_equal_plan_is_no_change() {
    let planner = super::observed::planner("default");
    let mut mode = Mode::new(IpFamily::V4, Options::default());
    mode.replace_plan(planner.plan(IpFamily::V4));
    mode.observe(Observation::nothing());
    let transaction = mode.transaction(&BTreeSet::new()).unwrap();
    mode.committed(transaction);
    let mut copy = planner.plan(IpFamily::V4).clone();
    for port in copy.ports.values_mut() {
        *port = Arc::new(plan::PortPlan::clone(port));
    }
    mode.replace_plan(&copy);
    assert!(mode.transaction(&BTreeSet::new()).unwrap().is_empty());
}
