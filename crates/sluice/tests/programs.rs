//! No program of the host is needed: with an empty PATH, sluice gives the same results.

mod support;

use std::process::Output;

use netfilter::iptables::Family;
use support::{Host, SLUICE, text};

/// Run `sluice` where no program can be found.
fn alone(host: &Host, words: &[&str]) -> Output {
    let mut command = host.command(SLUICE);
    command.args(words).env_clear().env("PATH", "/nonexistent");
    command.output().unwrap()
}

/// kube-proxy's rules and another program's, in the legacy tables of both families.
fn legacy_rules(host: &Host) {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/observed");
    for (program, file) in [
        ("iptables-legacy", "iptables-no-localhost.v4"),
        ("ip6tables-legacy", "iptables-no-localhost.v6"),
    ] {
        host.sh(&format!(
            "grep -v nfacct {root}/{file}.iptables-save | {program}-restore; \
             {program} -N MINE; {program} -I FORWARD 1 -j MINE; \
             {program} -A MINE -m limit --limit 3/min -j LOG --log-prefix mine; \
             {program} -t nat -A PREROUTING -i eth7 -p tcp -m string --string q --algo bm -j RETURN"
        ));
    }
}

fn saved(host: &Host, program: &str) -> String {
    host.sh(&format!(
        "{program}-save -c | grep -v '^#' | grep -v 'ACCEPT \\['"
    ))
}

#[test]
fn cleanup_removes_legacy_rules_of_kube_proxy_and_no_others() {
    let host = Host::new();
    legacy_rules(&host);
    let programs = ["iptables-legacy", "ip6tables-legacy"];
    let expected = programs.map(|program| {
        let saved = saved(&host, program);
        let lines = saved.lines().filter(|line| !line.contains("KUBE-"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    });
    let output = alone(&host, &["cleanup"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for (program, expected) in programs.iter().zip(expected) {
        let left = saved(&host, program);
        assert_eq!(left.lines().collect::<Vec<_>>(), expected, "{program}");
    }
    let rules = host.rules("iptables-legacy-save", Family::Ipv4);
    assert!(rules.to_string().contains("-A FORWARD -j MINE"), "{rules}");
}
