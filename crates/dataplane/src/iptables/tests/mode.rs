//! Transactions, failures, excluded ports, drift.

use std::sync::Arc;

use model::{Change, Event};
use plan::testing::{endpoint, service, slice};
use plan::{Plan, Planner, PortKey};

use super::observed::{options, planner};
use super::*;

/// The keys of the Service ports that changed.
fn changed(planner: &mut Planner) -> BTreeSet<PortKey> {
    let ports = planner.take_diff().v4.ports;
    ports.iter().filter_map(plan::PortChange::key).collect()
}

/// A mode that has written the observed cluster into tables with other programs' rules.
fn started() -> (Planner, Mode, TableSet) {
    let planner = planner("default");
    let mut mode = Mode::new(IpFamily::V4, options("default", true));
    let mut tables = foreign(IpFamily::V4);
    mode.observe(observe(IpFamily::V4, &tables));
    sync(&mut mode, planner.plan(IpFamily::V4), &mut tables);
    (planner, mode, tables)
}

fn sync(mode: &mut Mode, plan: &Plan, tables: &mut TableSet) -> String {
    let (transaction, text) = write(mode, plan, &BTreeSet::new());
    run(tables, &text);
    mode.committed(plan, transaction, &[]);
    text
}

fn add_service(planner: &mut Planner, name: &str, cluster_ip: &str, pod: &str) {
    let applied = |s| Event::Service(Change::Applied(Arc::new(s)));
    planner.apply(applied(service(name, &[cluster_ip], &["http:80"])));
    let endpoints = vec![endpoint(pod, "node2")];
    let slice = slice(
        &format!("{}-x", name.replace('/', "-")),
        name,
        &["http:8080"],
        endpoints,
    );
    planner.apply(Event::EndpointSlice(Change::Applied(Arc::new(slice))));
}

fn expected(plan: &Plan) -> Comparable {
    let mut tables = foreign(IpFamily::V4);
    let mut mode = Mode::new(IpFamily::V4, options("default", true));
    mode.observe(observe(IpFamily::V4, &tables));
    sync(&mut mode, plan, &mut tables);
    comparable(&tables)
}

#[test]
fn other_programs_rules_stay_and_jumps_come_first() {
    let (_, _, tables) = started();
    let input = tables
        .chain(Table::Filter, Chain::literal("INPUT"))
        .unwrap();
    assert_eq!(input.rules.len(), 5);
    assert!(input.rules[0].to_string().ends_with("-j KUBE-FIREWALL"));
    assert!(input.rules[4].to_string().ends_with("-j OTHER"));
    assert_eq!(input.policy, Some(netfilter::iptables::Policy::Drop));
}

#[test]
fn a_change_writes_only_its_own_rules() {
    let (mut planner, mut mode, mut tables) = started();
    add_service(&mut planner, "demo/new", "10.96.77.1", "10.244.2.77");
    mode.mark_changed(changed(&mut planner));
    let text = sync(&mut mode, planner.plan(IpFamily::V4), &mut tables);
    assert_eq!(text.lines().count(), 9, "{text}");
    assert_eq!(comparable(&tables), expected(planner.plan(IpFamily::V4)));
    let (nothing, _) = write(&mut mode, planner.plan(IpFamily::V4), &BTreeSet::new());
    assert!(nothing.is_empty());
}

#[test]
fn after_a_failure_the_mode_reads_the_kernel() {
    let (mut planner, mut mode, mut tables) = started();
    add_service(&mut planner, "demo/new", "10.96.77.1", "10.244.2.77");
    mode.mark_changed(changed(&mut planner));
    // All of it took effect, but the reply is lost.
    let (transaction, text) = write(&mut mode, planner.plan(IpFamily::V4), &BTreeSet::new());
    run(&mut tables, &text);
    mode.failed(transaction, false);
    assert!(mode.needs_observation());
    assert_eq!(
        mode.transaction(
            planner.plan(IpFamily::V4),
            &BTreeSet::new(),
            &mut RestoreText::default()
        )
        .unwrap_err(),
        NeedsObservation
    );
    mode.observe(observe(IpFamily::V4, &tables));
    assert_eq!(sync(&mut mode, planner.plan(IpFamily::V4), &mut tables), "");
    assert_eq!(comparable(&tables), expected(planner.plan(IpFamily::V4)));
    // Nothing of it took effect, and the reply says so.
    add_service(&mut planner, "demo/other", "10.96.77.2", "10.244.2.78");
    mode.mark_changed(changed(&mut planner));
    let (transaction, _) = write(&mut mode, planner.plan(IpFamily::V4), &BTreeSet::new());
    mode.failed(transaction, true);
    sync(&mut mode, planner.plan(IpFamily::V4), &mut tables);
    assert_eq!(comparable(&tables), expected(planner.plan(IpFamily::V4)));
}

#[test]
fn a_service_without_valid_rules_affects_no_other() {
    let (mut planner, mut mode, mut tables) = started();
    let namespace = "n".repeat(120);
    let long = format!("{namespace}/{}", "s".repeat(140));
    add_service(&mut planner, &long, "10.96.77.1", "10.244.2.77");
    add_service(&mut planner, "demo/new", "10.96.77.2", "10.244.2.78");
    mode.mark_changed(changed(&mut planner));
    let text = sync(&mut mode, planner.plan(IpFamily::V4), &mut tables);
    assert!(text.contains("demo/new"));
    assert!(!text.contains(&namespace));
    let problems: Vec<_> = mode.problems().values().collect();
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].to_string().contains("the kernel accepts 255"),
        "{}",
        problems[0]
    );
    // The same when everything is written at once.
    mode.forget();
    mode.observe(Observation::nothing());
    let (_, text) = write(&mut mode, planner.plan(IpFamily::V4), &BTreeSet::new());
    assert!(text.contains("demo/new"));
    assert!(!text.contains(&namespace));
    assert_eq!(mode.problems().len(), 1);
}

#[test]
fn excluded_ports_keep_their_state_until_admitted() {
    let (mut planner, mut mode, mut tables) = started();
    add_service(&mut planner, "demo/a", "10.96.77.1", "10.244.2.77");
    add_service(&mut planner, "demo/b", "10.96.77.2", "10.244.2.78");
    let keys = changed(&mut planner);
    let excluded: BTreeSet<PortKey> = keys.iter().take(1).cloned().collect();
    mode.mark_changed(keys);
    let plan = planner.plan(IpFamily::V4);
    for _ in 0..2 {
        let (transaction, text) = write(&mut mode, plan, &excluded);
        run(&mut tables, &text);
        assert!(!text.contains("demo/a"), "{text}");
        mode.committed(plan, transaction, &[]);
    }
    assert!(sync(&mut mode, planner.plan(IpFamily::V4), &mut tables).contains("demo/a"));
    assert_eq!(comparable(&tables), expected(planner.plan(IpFamily::V4)));
}

#[test]
fn repairs_write_only_what_another_program_changed() {
    let (planner, mut mode, mut tables) = started();
    let wanted = comparable(&tables);
    for (damage, most) in [
        ("*nat\n-F KUBE-POSTROUTING\nCOMMIT\n", 6),
        ("*nat\n-D KUBE-SVC-QNETAGAVOXOB7IFC 2\nCOMMIT\n", 7),
        ("*nat\n-D KUBE-SERVICES 3\nCOMMIT\n", 3),
        // A duplicate.
        (
            "*filter\n-I KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment \"default/kubernetes:https has no endpoints\" -m tcp --dport 443 -j REJECT --reject-with icmp-port-unreachable\nCOMMIT\n",
            3,
        ),
        ("*nat\n-A KUBE-SERVICES -j ACCEPT\nCOMMIT\n", 40),
        (
            "*nat\n-F PREROUTING\n-F POSTROUTING\n-A POSTROUTING -j OTHER\nCOMMIT\n",
            4,
        ),
        (
            "*nat\n:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]\n-A KUBE-SEP-AAAAAAAAAAAAAAAA -j ACCEPT\nCOMMIT\n",
            4,
        ),
        (
            "*filter\n-A KUBE-FORWARD -m odd --option -j ACCEPT\nCOMMIT\n",
            6,
        ),
    ] {
        run(&mut tables, damage);
        let first = |c: &str| {
            tables
                .chain(Table::Filter, Chain::new(c).unwrap())
                .map(|s| s.rules.len())
        };
        assert_eq!(first("OTHER"), Some(1));
        mode.observe(observe(IpFamily::V4, &tables));
        let text = sync(&mut mode, planner.plan(IpFamily::V4), &mut tables);
        assert_eq!(comparable(&tables), wanted, "{damage}");
        assert!(text.lines().count() <= most, "{damage}: {text}");
    }
    // Everything flushed, canaries too.
    let mut flushed = foreign(IpFamily::V4);
    assert!(observe(IpFamily::V4, &tables).has_canaries());
    assert!(!observe(IpFamily::V4, &flushed).has_canaries());
    mode.observe(observe(IpFamily::V4, &flushed));
    sync(&mut mode, planner.plan(IpFamily::V4), &mut flushed);
    assert_eq!(comparable(&flushed), wanted);
}

#[test]
fn a_truncated_save_is_an_error() {
    let (_, _, tables) = started();
    let save = tables.to_string();
    let cut = save.rsplit_once("COMMIT").unwrap().0;
    assert!(Observation::read(IpFamily::V4, cut).is_err());
    // Other programs' rules need not be valid.
    let odd = "*broken\n-X y\nCOMMIT\n*nat\n:cilium-and-a-name-much-longer-than-28 - [0:0]\n-A INPUT -s 1.2.3.4,5.6.7.8 -j ACCEPT\nCOMMIT\n";
    assert!(Observation::read(IpFamily::V4, odd).unwrap().is_nothing());
}
