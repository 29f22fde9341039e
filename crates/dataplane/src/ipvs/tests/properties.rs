//! Properties over generated clusters.

use std::time::Duration;

use model::IpFamily;
use netfilter::iptables::Table;
use plan::Plan;
use plan::testing::{cluster, history};
use proptest::prelude::*;

use super::host::{Comparable, Host};
use super::*;
use crate::Needed;
use crate::ipvs::sets::SetKind;

/// The state of a plan on a fresh node, beside another program's.
fn scratch(plan: &Plan) -> Comparable {
    let mut host = Host::new(plan.family);
    let mut mode = Mode::new(plan.family, Options::default());
    mode.set_addresses(plan, interface_addresses());
    mode.update_all(plan);
    mode.observe(host.observe());
    host.sync(&mut mode, plan, 0);
    host.comparable()
}

/// Remove all terminating destinations, which have no connections left.
fn terminate(mode: &mut Mode, host: &mut Host) {
    let now = Duration::from_secs(1_000_000);
    for id in mode.due(now) {
        let all = host.services[&id].destinations.iter();
        let none = all.map(|d| (d.address, 0)).collect();
        for op in mode.checked(&id, &none, now) {
            host.server(&op);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_extension_is_probed_at_startup(cluster in cluster()) {
        let planner = cluster.planner();
        for family in IpFamily::ALL {
            let rendered = render(planner.plan(family), &Options::default(), &interface_addresses());
            let mut tables = rendered.unwrap().tables;
            let mut listed = extensions(family);
            let unlisted = crate::feature::unlisted(&tables, &listed);
            prop_assert_eq!(unlisted, Default::default());

            tables.tables.remove(&Table::Filter);
            listed.retain(|extension| extension.needed != Needed::Filter);
            let unlisted = crate::feature::unlisted(&tables, &listed);
            prop_assert_eq!(unlisted, Default::default(), "needed only by the table filter");
            let text = tables.to_string();
            for kind in SetKind::all().filter(|kind| kind.needed() == Needed::Filter) {
                let name = kind.name(family);
                prop_assert!(!text.contains(&format!("--match-set {name} ")), "{}", name);
            }
        }
    }

    #[test]
    fn changes_lead_to_the_state_of_a_fresh_start((settings, events) in history()) {
        let mut planner = Planner::new(settings);
        planner.set_host_addresses(interface_addresses());
        let mut modes = IpFamily::ALL.map(|family| {
            let mut mode = Mode::new(family, Options::default());
            mode.set_addresses(planner.plan(family), interface_addresses());
            let host = Host::new(family);
            mode.observe(host.observe());
            (mode, host)
        });
        for events in events.chunks(3) {
            planner.apply_all(events.iter().cloned());
            let diff = planner.take_diff();
            for (mode, host) in &mut modes {
                let family = mode.family();
                let plan = planner.plan(family);
                let changed = diff.family(family).ports.iter();
                mode.update(plan, &changed.filter_map(plan::PortChange::key).collect());
                host.sync(mode, plan, 0);
                terminate(mode, host);
                prop_assert_eq!(host.comparable(), scratch(plan));
                // A mode that reads this state has nothing to write.
                let mut reader = Mode::new(family, Options::default());
                reader.set_addresses(plan, interface_addresses());
                reader.update_all(plan);
                reader.observe(host.observe());
                prop_assert!(reader.transaction(plan).unwrap().is_empty());
            }
        }
    }

    #[test]
    fn a_change_and_its_reverse_restore_the_state(a in cluster(), b in cluster()) {
        let (a, b) = (a.planner(), b.planner());
        for family in IpFamily::ALL {
            let mut host = Host::new(family);
            let mut mode = Mode::new(family, Options::default());
            mode.set_addresses(a.plan(family), interface_addresses());
            mode.observe(host.observe());
            for planner in [&a, &b, &a] {
                let plan = planner.plan(family);
                mode.update_all(plan);
                host.sync(&mut mode, plan, 0);
                terminate(&mut mode, &mut host);
                prop_assert_eq!(host.comparable(), scratch(plan));
            }
            let mut reader = Mode::new(family, Options::default());
            let plan = b.plan(family);
            reader.set_addresses(plan, interface_addresses());
            reader.update_all(plan);
            reader.observe(host.observe());
            host.sync(&mut reader, plan, 0);
            terminate(&mut reader, &mut host);
            prop_assert_eq!(host.comparable(), scratch(plan));
            let removal = cleanup(family, &host.observe());
            host.clean(&removal);
            prop_assert_eq!(host.comparable(), Host::new(family).comparable());
        }
    }
}
