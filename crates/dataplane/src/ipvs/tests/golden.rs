//! The state equals kube-proxy's observed state.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use model::IpFamily;
use netfilter::ipset::Sets;
use netfilter::iptables::TableSet;
use netfilter::ipvs::Services;

use super::host::{services, sets};
use super::*;
use crate::terms::rule_family;

fn of_family(family: IpFamily, name: &str) -> bool {
    name.starts_with("KUBE-6-") == (family == IpFamily::V6)
}

fn observed_sets(configuration: &str, family: IpFamily) -> Sets {
    let mut all = Sets::parse(&observed(&format!("ipvs-{configuration}.ipset"))).unwrap();
    all.sets.retain(|set| of_family(family, &set.name));
    all
}

fn observed_services(configuration: &str, family: IpFamily) -> Services {
    let mut all = Services::parse(&observed(&format!("ipvs-{configuration}.ipvsadm"))).unwrap();
    all.services
        .retain(|s| s.id.ip().map(IpFamily::of) == Some(family));
    all
}

fn observed_rules(configuration: &str, family: IpFamily) -> TableSet {
    let digit = match family {
        IpFamily::V4 => 4,
        IpFamily::V6 => 6,
    };
    let text = observed(&format!("ipvs-{configuration}.v{digit}.iptables-save"));
    let mut tables = TableSet::parse(rule_family(family), &text).unwrap();
    tables.tables.retain(|t, _| names::TABLES.contains(t));
    tables
}

fn observed_addresses(configuration: &str, family: IpFamily) -> BTreeSet<IpAddr> {
    let text = observed(&format!("ipvs-{configuration}.addr"));
    let line = text.lines().find(|l| l.starts_with(DEVICE)).unwrap();
    let words = line.split_whitespace().skip(2);
    let all = words.map(|w| w.split_once('/').unwrap().0.parse::<IpAddr>().unwrap());
    all.filter(|ip| IpFamily::of(*ip) == family).collect()
}

#[test]
fn every_configuration_equals_its_observation() {
    for configuration in observed::IPVS.map(|c| c.name) {
        let planner = planner(configuration);
        for family in IpFamily::ALL {
            let what = format!("{configuration} {family}");
            let options = options(configuration);
            let rendered = render(planner.plan(family), &options, &interface_addresses()).unwrap();
            assert_eq!(
                sets(rendered.sets.sets.iter()),
                sets(observed_sets(configuration, family).sets.iter()),
                "{what}"
            );
            assert_eq!(
                services(rendered.services.services.iter()),
                services(observed_services(configuration, family).services.iter()),
                "{what}"
            );
            let mut is = rendered.tables;
            let should = observed_rules(configuration, family);
            for (table, state) in &should.tables {
                for (chain, state) in &state.chains {
                    let is = is.tables.get_mut(table).unwrap().chains.remove(chain);
                    let is = is.map(|c| c.rules).unwrap_or_default();
                    assert_eq!(is, state.rules, "{what}: {table} {chain}");
                }
            }
            for (table, state) in &is.tables {
                assert_eq!(
                    state.chains.len(),
                    0,
                    "{what}: unexpected chains in {table}"
                );
            }
            assert_eq!(
                rendered.addresses.into_iter().collect::<BTreeSet<_>>(),
                observed_addresses(configuration, family),
                "{what}"
            );
        }
    }
}

/// kube-proxy's state is adopted without a write.
#[test]
fn an_observed_state_is_adopted_without_a_write() {
    for configuration in observed::IPVS.map(|c| c.name) {
        for family in IpFamily::ALL {
            let mut mode = Mode::new(family, options(configuration));
            let planner = planner(configuration);
            let plan = planner.plan(family);
            mode.set_addresses(plan, interface_addresses());
            mode.update_all(plan);
            let seen = Seen {
                device: Some(
                    observed_addresses(configuration, family)
                        .into_iter()
                        .collect(),
                ),
                sets: observed_sets(configuration, family),
                services: observed_services(configuration, family),
                rules: observed_rules(configuration, family).to_string(),
            };
            mode.observe(Observation::new(family, seen).unwrap());
            let transaction = mode.transaction(plan).unwrap();
            assert!(
                transaction.is_empty(),
                "{configuration} {family}: {transaction:#?}"
            );
            mode.committed(transaction, Duration::ZERO);
            assert!(mode.transaction(plan).unwrap().is_empty());
        }
    }
}

#[test]
fn each_section_is_loadable_by_itself() {
    let planner = planner("default");
    for family in IpFamily::ALL {
        let plan = planner.plan(family);
        let text = render(plan, &options("default"), &interface_addresses())
            .unwrap()
            .to_string();
        let (ipvsadm, rest) = text.split_once("# ipset\n").unwrap();
        let (ipset, iptables) = rest.split_once("# iptables\n").unwrap();
        let ipvsadm = ipvsadm.strip_prefix("# ipvsadm\n").unwrap();
        assert!(!Services::parse(ipvsadm).unwrap().services.is_empty());
        assert_eq!(Sets::parse(ipset).unwrap().sets.len(), 17);
        TableSet::parse(rule_family(family), iptables).unwrap();
    }
}
