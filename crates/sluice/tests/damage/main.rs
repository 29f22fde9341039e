//! Damage to a node, one kind after the other: real connections fail or change if and only if
//! `explain` and `verify` report it, and the finding names what was damaged.
//!
//! `table` contains the kinds of damage, `node` the machines and their connections, `family` the IPv6 form of
//! both.

mod family;
mod node;
#[path = "../support/mod.rs"]
mod support;
mod table;

use std::collections::BTreeMap;

use model::{IpFamily, Mode};
use node::{Node, Patience};
use table::{Damage, Effect};

/// Do the damage, compare connections with the findings, and repair it; return every contradiction.
fn check(node: &mut Node, damage: &Damage) -> Vec<String> {
    let names: Vec<String> = damage.names.iter().map(|name| node.text(name)).collect();
    node.harm(&damage.how);
    let verified = node.verify();
    let mut wrong = Vec::new();
    let mut changed_any = false;
    for (service, healthy) in node.healthy.clone() {
        let said = node.explain(&service);
        let patience = if said.problems.is_empty() {
            Patience::Long
        } else {
            Patience::Short
        };
        let change = node.changed(&healthy, patience);
        let what = change
            .clone()
            .unwrap_or_else(|| "nothing changes".to_owned());
        changed_any |= change.is_some();
        if change.is_some() == said.problems.is_empty() {
            wrong.push(format!(
                "{service}: {what}, and explain reports: {}",
                said.text()
            ));
        }
        let unnamed = names.iter().find(|name| !said.names(name));
        if let (true, Some(name)) = (change.is_some(), unnamed) {
            wrong.push(format!(
                "{service}: {what}, and explain does not name {name:?}: {}",
                said.text()
            ));
        }
    }
    if changed_any == verified.problems.is_empty() {
        wrong.push(format!(
            "connections change: {changed_any}, and verify reports: {}",
            verified.text()
        ));
    }
    let unnamed = names.iter().find(|name| !verified.names(name));
    if let (true, Some(name)) = (changed_any, unnamed) {
        wrong.push(format!(
            "verify does not name {name:?}: {}",
            verified.text()
        ));
    }
    if changed_any != (damage.effect == Effect::Harmful) {
        wrong.push(format!(
            "expected to be {:?}; connections change: {changed_any}",
            damage.effect
        ));
    }
    node.repair(damage.undo);
    let after = node.verify();
    assert!(
        after.problems.is_empty(),
        "{}: after the repair: {}",
        damage.name,
        after.text()
    );
    wrong
}

fn check_all(mode: Mode, family: IpFamily) {
    let mut node = Node::start(mode, family);
    let mut failures: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let only = std::env::var("DAMAGE").unwrap_or_default();
    for damage in table::all(mode, family) {
        if !damage.name.contains(&only) {
            continue;
        }
        let wrong = check(&mut node, &damage);
        if !wrong.is_empty() {
            failures.insert(damage.name.to_owned(), wrong);
        }
    }
    for (name, wrong) in &failures {
        eprintln!("## {mode}, {family}: {name}");
        for line in wrong {
            eprintln!("  - {line}");
        }
    }
    assert!(
        failures.is_empty(),
        "{mode}, {family}: {} kinds of damage",
        failures.len()
    );
}

#[test]
fn iptables_mode() {
    check_all(Mode::Iptables, IpFamily::V4);
}

#[test]
fn iptables_mode_ipv6() {
    check_all(Mode::Iptables, IpFamily::V6);
}

#[test]
fn nftables_mode() {
    check_all(Mode::Nftables, IpFamily::V4);
}

#[test]
fn nftables_mode_ipv6() {
    check_all(Mode::Nftables, IpFamily::V6);
}

#[test]
fn userspace_mode() {
    check_all(Mode::Userspace, IpFamily::V4);
}

#[test]
fn userspace_mode_ipv6() {
    check_all(Mode::Userspace, IpFamily::V6);
}
