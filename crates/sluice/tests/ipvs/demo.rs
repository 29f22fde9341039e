//! The lab's demo, as `make demo MODE=ipvs` runs it.

use std::process::Command;

use crate::support::vm::in_vm;
use crate::support::{SLUICE, ipvs_backend, text};

#[test]
fn every_experiment_passes() {
    in_vm("demo::every_experiment_passes", || {
        let output = Command::new(SLUICE)
            .args(["lab", "demo", "--mode=ipvs", "--patience=5"])
            .args(["--", &format!("--iptables-backend={}", ipvs_backend())])
            .output()
            .unwrap();
        let table = text(&output.stdout);
        println!("{table}\n{}", text(&output.stderr));
        assert!(output.status.success());
        assert!(table.contains("34 passed, 0 failed, 2 not applicable"));
    });
}
