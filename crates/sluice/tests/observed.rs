//! For every observed configuration of kube-proxy v1.36.2 and both families: in iptables mode the rules
//! equal kube-proxy's, as printed by `render` and as listed by the kernel after `proxy --once`, in both
//! back ends; in nftables mode `render` prints the programmed rules.

#[path = "../../dataplane/tests/support/listing.rs"]
mod listing;
mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use listing::{Blocks, blocks, same};
use model::{IpFamily, Mode};
use netfilter::iptables::{Family, TableSet};
use observed::Configuration;
use support::{Host, SLUICE, assert_same, text};

const CASES: [Configuration; 8] = observed::IPTABLES;

fn expected(case: &Configuration, family: Family) -> TableSet {
    let of = match family {
        Family::Ipv4 => IpFamily::V4,
        Family::Ipv6 => IpFamily::V6,
    };
    TableSet::parse(family, &case.iptables_save("iptables", of)).unwrap()
}

/// `proxy --once` in a mode.
fn proxy(case: &Configuration, host: &Host, mode: Mode) -> Command {
    let mut command = host.command(SLUICE);
    command
        .args(["proxy", "--once"])
        .arg(format!("--proxy-mode={mode}"))
        .arg("--manifests")
        .arg(observed::path("objects.json"))
        .args(case.all_flags());
    command
}

/// The output of `render`.
fn rendered(case: &Configuration, folder: &Path, mode: Mode, family: &str) -> String {
    let config = folder.join("config.yaml");
    fs::write(&config, case.file(mode.name())).unwrap();
    let output = Command::new(SLUICE)
        .args(["render", "--mode", mode.name(), "--node", observed::NODE])
        .args(["--ip-family", family])
        .arg("--config")
        .arg(&config)
        .args(["--interface-addresses", "10.200.1.2,fd00:200:1::2"])
        .arg("-f")
        .arg(observed::path("objects.json"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn render_prints_the_observed_rules() {
    let folder = tempfile::tempdir().unwrap();
    for case in CASES {
        for (family, word) in [(Family::Ipv4, "ipv4"), (Family::Ipv6, "ipv6")] {
            let rendered = rendered(&case, folder.path(), Mode::Iptables, word);
            let ours = TableSet::parse(family, &rendered).unwrap();
            let what = format!("{} {word}", case.name);
            assert_same(&ours, &expected(&case, family), &what);
        }
    }
}

#[test]
fn one_sync_programs_the_observed_rules_nft() {
    once("nft");
}

#[test]
fn one_sync_programs_the_observed_rules_legacy() {
    once("legacy");
}

fn once(backend: &str) {
    for case in CASES {
        let host = Host::new();
        let mut command = proxy(&case, &host, Mode::Iptables);
        command.arg(format!("--iptables-backend={backend}"));
        // The second run must change nothing.
        for run in ["first", "second"] {
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", text(&output.stderr));
            for (family, tool) in [(Family::Ipv4, "iptables"), (Family::Ipv6, "ip6tables")] {
                let ours = host.rules(&format!("{tool}-{backend}-save"), family);
                let what = format!("{} after the {run} run, {tool}-{backend}", case.name);
                assert_same(&ours, &expected(&case, family), &what);
            }
        }
    }
}

/// `proxy --once` of the first configuration with this back end, which must succeed; its log.
fn run_once(host: &Host, backend: &str) -> String {
    let mut command = proxy(&CASES[0], host, Mode::Iptables);
    command.arg(format!("--iptables-backend={backend}"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stderr)
}

/// A node whose iptables back end changes, or on which an old rule set was restored.
#[test]
fn rules_of_an_earlier_proxy_are_removed_from_the_other_back_end() {
    for (before, after) in [("legacy", "nft"), ("nft", "legacy")] {
        let host = Host::new();
        run_once(&host, before);
        host.sh(&format!(
            "iptables-{before} -t nat -N MINE; iptables-{before} -t nat -A PREROUTING -j MINE"
        ));
        let log = run_once(&host, after);
        for (family, tool) in [(Family::Ipv4, "iptables"), (Family::Ipv6, "ip6tables")] {
            let ours = host.rules(&format!("{tool}-{after}-save"), family);
            let what = format!("from {before} to {after}: {tool}");
            assert_same(&ours, &expected(&CASES[0], family), &what);
            let left = host.sh(&format!("{tool}-{before}-save"));
            let mut chains = left.lines().filter(|line| line.starts_with(":KUBE-"));
            // As in a change of the mode: the chain protects loopback addresses.
            assert!(
                chains.all(|chain| chain.starts_with(":KUBE-FIREWALL ")),
                "{what}: {left}{log}"
            );
        }
        let left = host.sh(&format!("iptables-{before}-save -t nat"));
        assert!(left.contains("-A PREROUTING -j MINE"), "{left}");
    }
}

/// Load a table in a namespace of its own, and return the listing of `nft`.
fn reloaded(table: &str, family: &str) -> Blocks {
    let host = Host::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("table.nft");
    fs::write(&file, table).unwrap();
    host.sh(&format!("nft -f {}", file.display()));
    blocks(&host.sh(&format!("nft list table {family} kube-proxy")))
}

/// The exception: learning a client's endpoint from registers cannot be expressed in nft syntax.
fn without_learning(mut blocks: Blocks) -> Blocks {
    for rules in blocks.values_mut() {
        rules.retain(|rule| !rule.contains("affinity {"));
    }
    blocks
}

#[test]
fn nftables_mode_programs_the_rendered_rules_and_nft_can_reload_them() {
    let folder = tempfile::tempdir().unwrap();
    // This configuration requires more than a table can do.
    let cases = CASES.into_iter().filter(|case| case.name != "no-localhost");
    let mut count = 0;
    for case in cases {
        let host = Host::new();
        let output = proxy(&case, &host, Mode::Nftables).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        for (family, word) in [("ip", "ipv4"), ("ip6", "ipv6")] {
            let saved = host.sh(&format!("nft list table {family} kube-proxy"));
            let programmed = blocks(&saved);
            assert!(programmed.len() > 20, "{saved}");
            same(&reloaded(&saved, family), &programmed);
            let rendered = rendered(&case, folder.path(), Mode::Nftables, word);
            let rendered = reloaded(&rendered, family);
            assert_eq!(programmed.len(), rendered.len(), "{}", case.name);
            same(&rendered, &without_learning(programmed));
            let json = host.sh(&format!("nft -j list table {family} kube-proxy"));
            let json: serde_json::Value = serde_json::from_str(&json).unwrap();
            let listed = json["nftables"].as_array().unwrap();
            assert!(listed.iter().any(|object| object.get("rule").is_some()));
            count += 1;
        }
    }
    assert_eq!(count, 14);
}
