//! Properties over generated clusters.

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

/// The rules of a plan on a fresh node, beside another program's.
fn scratch(plan: &Plan, options: Options) -> TableSet {
    let mut tables = foreign(plan.family);
    let mut mode = Mode::new(plan.family, options);
    mode.observe(observe(plan.family, &tables));
    let (_, text) = write(&mut mode, plan, &BTreeSet::new());
    assert_eq!(mode.problems().len(), 0);
    run(&mut tables, &text);
    tables
}

/// The plan with an endpoint count above or below the threshold of large clusters.
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
            assert!(targets.contains(chain), "{table}: no rule jumps to {chain}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_extension_is_probed_at_startup(cluster in cluster(), options in any_options()) {
        let planner = cluster.planner();
        for family in IpFamily::ALL {
            let tables = render(planner.plan(family), &options).unwrap().tables;
            let unlisted = crate::feature::unlisted(&tables, &extensions(family));
            prop_assert_eq!(unlisted, BTreeSet::new());
        }
    }

    #[test]
    fn every_jump_has_a_target_and_every_chain_a_jump(cluster in cluster(), options in any_options(), large: bool) {
        let planner = cluster.planner();
        for family in IpFamily::ALL {
            check_whole(&scratch(&sized(planner.plan(family), large), options));
        }
    }

    #[test]
    fn changes_lead_to_the_state_of_a_fresh_start((settings, events) in history(), options in any_options(), flips in any::<u64>()) {
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
                let changed = &diff.family(family).ports;
                mode.mark_changed(changed.iter().filter_map(plan::PortChange::key));
                let large = flips >> (i % 64) & 1 == 1;
                let plan = sized(planner.plan(family), large);
                let (transaction, text) = write(mode, &plan, &BTreeSet::new());
                run(tables, &text);
                let total = transaction.total;
                mode.committed(&plan, transaction, &[]);
                prop_assert!(mode.problems().is_empty());
                let wanted = scratch(&plan, options);
                prop_assert_eq!(comparable(tables), comparable(&wanted));
                let own = |table: Table| {
                    let chains = tables.tables.get(&table).into_iter().flat_map(|t| &t.chains);
                    let own = chains.filter(|(c, _)| names::is_ours(table, **c));
                    own.map(|(_, state)| state.rules.len()).sum::<usize>()
                };
                prop_assert_eq!(total, RuleCounts { filter: own(Table::Filter), nat: own(Table::Nat) });
                // A mode that reads this state has nothing to write.
                let mut reader = Mode::new(family, options);
                reader.observe(observe(family, tables));
                prop_assert_eq!(write(&mut reader, &plan, &BTreeSet::new()).1, "");
            }
        }
    }

    #[test]
    fn a_change_and_its_reverse_restore_the_state(a in cluster(), b in cluster(), options in any_options()) {
        let (a, b) = (a.planner(), b.planner());
        for family in IpFamily::ALL {
            let mut tables = foreign(family);
            let mut mode = Mode::new(family, options);
            mode.observe(observe(family, &tables));
            let mut states = Vec::new();
            for plan in [&a, &b, &a] {
                let plan = plan.plan(family);
                let both = [a.plan(family), b.plan(family)];
                mode.mark_changed(both.iter().flat_map(|plan| plan.ports.keys().cloned()));
                let (transaction, text) = write(&mut mode, plan, &BTreeSet::new());
                run(&mut tables, &text);
                mode.committed(plan, transaction, &[]);
                states.push(comparable(&tables));
            }
            prop_assert_eq!(&states[0], &states[2]);
            // The same after reading the state.
            let mut reader = Mode::new(family, options);
            reader.observe(observe(family, &tables));
            let (_, text) = write(&mut reader, b.plan(family), &BTreeSet::new());
            run(&mut tables, &text);
            prop_assert_eq!(&comparable(&tables), &states[1]);
            let text = cleanup(&observe(family, &tables));
            run(&mut tables, &text);
            tables.tables.remove(&Table::Mangle);
            prop_assert_eq!(comparable(&tables), comparable(&foreign(family)));
        }
    }
}

/// Ports that are equal but not the same `Arc` are unchanged.
#[test]
fn an_equal_plan_writes_nothing() {
    let planner = super::observed::planner("default");
    let mut mode = Mode::new(IpFamily::V4, Options::default());
    let plan = planner.plan(IpFamily::V4);
    mode.observe(Observation::nothing());
    let (transaction, _) = write(&mut mode, plan, &BTreeSet::new());
    mode.committed(plan, transaction, &[]);
    let mut copy = plan.clone();
    for port in copy.ports.values_mut() {
        *port = Arc::new(plan::PortPlan::clone(port));
    }
    mode.mark_changed(copy.ports.keys().cloned());
    let (transaction, _) = write(&mut mode, &copy, &BTreeSet::new());
    assert!(transaction.is_empty());
}
