//! The rules equal those that kube-proxy was observed to program.

use super::observed::{options, planner, save, without_nfacct};
use super::*;

fn compare(configuration: &str, family: IpFamily, nfacct: bool) {
    let what = format!("{configuration} {family} nfacct: {nfacct}");
    let planner = planner(configuration);
    let options = options(configuration, nfacct);
    let rendered = render(planner.plan(family), &options).unwrap();
    assert_eq!(rendered.problems, [], "{what}");
    let mut observed = save(configuration, family);
    if !nfacct {
        observed = without_nfacct(observed);
    }
    let (is, should) = (comparable(&rendered.tables), comparable(&observed));
    for (key, rules) in &should {
        assert_eq!(is.get(key), Some(rules), "{what}: {key:?}");
    }
    for key in is.keys() {
        assert!(should.contains_key(key), "{what}: {key:?} is too many");
    }
}

#[test]
fn every_configuration_equals_its_observation() {
    for configuration in ::observed::IPTABLES.map(|c| c.name) {
        for family in IpFamily::ALL {
            for nfacct in [true, false] {
                compare(configuration, family, nfacct);
            }
        }
    }
}

/// kube-proxy's state is adopted without a write.
#[test]
fn an_observed_state_is_adopted_without_a_write() {
    for configuration in ::observed::IPTABLES.map(|c| c.name) {
        for family in IpFamily::ALL {
            let mut mode = Mode::new(family, options(configuration, true));
            mode.observe(observe(family, &save(configuration, family)));
            let planner = planner(configuration);
            let (_, text) = write(&mut mode, planner.plan(family), &BTreeSet::new());
            assert_eq!(text, "", "{configuration} {family}");
        }
    }
}

/// The observed values of the metric `sync_proxy_rules_iptables_total`
/// (`iptables-default.metrics`).
#[test]
fn rules_are_counted_as_kube_proxy_counts_them() {
    for (family, filter, nat) in [(IpFamily::V4, 12, 145), (IpFamily::V6, 3, 16)] {
        let mut mode = Mode::new(family, options("default", true));
        mode.observe(Observation::nothing());
        let planner = planner("default");
        let (transaction, _) = write(&mut mode, planner.plan(family), &BTreeSet::new());
        assert_eq!(transaction.total, RuleCounts { filter, nat });
    }
}
