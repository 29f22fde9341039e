//! The lab's demo, as `make demo` runs it, on a host without the programs that could write rules.

mod support;

use std::process::Command;

use model::Mode;
use support::{SLUICE, text};

/// The end of the demo's last line, without the duration.
fn result(mode: Mode) -> &'static str {
    match mode {
        Mode::Iptables | Mode::Nftables => " passed, 0 failed, 0 not applicable",
        Mode::Userspace => " passed, 0 failed, 7 not applicable",
        Mode::Ipvs => unreachable!("tests/ipvs/demo.rs, in a virtual machine"),
    }
}

/// Hide iptables, nft, ipset and ipvsadm in a mount namespace, and run the arguments without a PATH.
const WITHOUT_PROGRAMS: &str = "mount -t tmpfs none /usr/sbin || exit
    for name in iptables ip6tables iptables-nft iptables-legacy nft ipset ipvsadm; do
      if command -v $name; then exit 1; fi
    done
    PATH=/nonexistent exec \"$@\"";

fn every_experiment_passes(mode: Mode, flags: &[&str]) {
    let name = format!("demo-{mode}{}-{}", flags.len(), std::process::id());
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", WITHOUT_PROGRAMS, "sh", SLUICE])
        .args(["lab", "demo", "--patience=5"])
        .args([format!("--mode={mode}"), format!("--name={name}")])
        .arg("--")
        .args(flags)
        .output()
        .unwrap();
    let table = text(&output.stdout);
    println!("{table}\n{}", text(&output.stderr));
    assert!(output.status.success());
    assert!(table.contains(result(mode)));
}

#[test]
fn every_experiment_passes_in_iptables_mode() {
    every_experiment_passes(Mode::Iptables, &[]);
}

#[test]
fn every_experiment_passes_in_iptables_mode_with_legacy_tables() {
    every_experiment_passes(Mode::Iptables, &["--iptables-backend=legacy"]);
}

#[test]
fn every_experiment_passes_in_nftables_mode() {
    every_experiment_passes(Mode::Nftables, &[]);
}

#[test]
fn every_experiment_passes_in_userspace_mode() {
    every_experiment_passes(Mode::Userspace, &[]);
}
