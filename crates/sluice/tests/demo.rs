//! The lab's demo, as `make demo` runs it.

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

fn every_experiment_passes(mode: Mode) {
    let output = Command::new(SLUICE)
        .args(["lab", "demo", "--patience=5"])
        .args([
            format!("--mode={mode}"),
            format!("--name=demo-{mode}-{}", std::process::id()),
        ])
        .output()
        .unwrap();
    let table = text(&output.stdout);
    println!("{table}\n{}", text(&output.stderr));
    assert!(output.status.success());
    assert!(table.contains(result(mode)));
}

#[test]
fn every_experiment_passes_in_iptables_mode() {
    every_experiment_passes(Mode::Iptables);
}

#[test]
fn every_experiment_passes_in_nftables_mode() {
    every_experiment_passes(Mode::Nftables);
}

#[test]
fn every_experiment_passes_in_userspace_mode() {
    every_experiment_passes(Mode::Userspace);
}
