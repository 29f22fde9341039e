//! Whatever the cluster.

use std::time::Duration;

use model::IpFamily;
use plan::Plan;
use plan::testing::{cluster, history};
use proptest::prelude::*;

use super::host::{Comparable, Host};
use super::*;

/// The state of a plan from scratch, beside what is somebody else's.
fn scratch(plan: &Plan) -> Comparable {
    let mut host = Host::new(plan.family);
    let mut mode = Mode::new(plan.family, Options::default());
    mode.set_addresses(interface_addresses());
    mode.replace_plan(plan);
    mode.observe(host.observe());
    host.sync(&mut mode, 0);
    host.comparable()
}

/// All destinations that are going have no connections left.
fn let_go(mode: &mut Mode, host: &mut Host) {
    let now = Duration::from_secs(1_000_000);
    for id in mode.due(now) {
        let all = host.services[&id].destinations.iter();
        let none = all.map(|d| (d.address, 0)).collect();
        for op in mode.looked(&id, &none, now) {
            host.server(&op);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_change_ends_where_a_fresh_start_does((settings, events) in history()) {
        let mut planner = Planner::new(settings);
        planner.set_host_addresses(interface_addresses());
        let mut modes = IpFamily::ALL.map(|family| {
            let mut mode = Mode::new(family, Options::default());
            mode.set_addresses(interface_addresses());
            let host = Host::new(family);
            mode.observe(host.observe());
            (mode, host)
        });
        for events in events.chunks(3) {
            planner.apply_all(events.iter().cloned());
            let diff = planner.take_diff();
            for (mode, host) in &mut modes {
                let family = mode.family();
                mode.apply(diff.family(family));
                host.sync(mode, 0);
                let_go(mode, host);
                prop_assert_eq!(host.comparable(), scratch(planner.plan(family)));
                // And a reader finds nothing to do.
                let mut reader = Mode::new(family, Options::default());
                reader.set_addresses(interface_addresses());
                reader.replace_plan(planner.plan(family));
                reader.observe(host.observe());
                prop_assert!(reader.transaction().unwrap().is_empty());
            }
        }
    }

    #[test]
    fn there_and_back_is_where_it_was(a in cluster(), b in cluster()) {
        let (a, b) = (a.planner(), b.planner());
        for family in IpFamily::ALL {
            let mut host = Host::new(family);
            let mut mode = Mode::new(family, Options::default());
            mode.set_addresses(interface_addresses());
            mode.observe(host.observe());
            for plan in [&a, &b, &a] {
                mode.replace_plan(plan.plan(family));
                host.sync(&mut mode, 0);
                let_go(&mut mode, &mut host);
                prop_assert_eq!(host.comparable(), scratch(plan.plan(family)));
            }
            let mut reader = Mode::new(family, Options::default());
            reader.set_addresses(interface_addresses());
            reader.replace_plan(b.plan(family));
            reader.observe(host.observe());
            host.sync(&mut reader, 0);
            let_go(&mut reader, &mut host);
            prop_assert_eq!(host.comparable(), scratch(b.plan(family)));
            let removal = cleanup(family, &host.observe());
            host.clean(&removal);
            prop_assert_eq!(host.comparable(), Host::new(family).comparable());
        }
    }
}
