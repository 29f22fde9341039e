//! The probes of kernel features at startup: one error that names each missing feature. Probes on stock
//! kernels without a module are part of `cargo xtask test-kernels`.

mod support;

use std::process::Output;

use support::vm::in_vm;
use support::{Host, SLUICE, text};

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: demo}\n\
                       spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}\n";

/// Run the proxy, without capabilities that `setpriv` removes, until it ends.
fn run(host: &Host, mode: &str, setpriv: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let manifest = folder.path().join("a.yaml");
    std::fs::write(&manifest, SERVICE).unwrap();
    let mut command = host.command("setpriv");
    command
        .args(setpriv)
        .args([SLUICE, "proxy", "--hostname-override=node1"])
        .arg(format!("--proxy-mode={mode}"))
        .arg("--manifests")
        .arg(&manifest);
    command.output().unwrap()
}

/// Check that the process ended with one error, and return it.
fn error(output: &Output) -> String {
    let log = text(&output.stderr);
    assert!(!output.status.success(), "{log}");
    let errors = log.lines().filter_map(|line| line.strip_prefix("sluice: "));
    let errors: Vec<&str> = errors.collect();
    assert_eq!(errors.len(), 1, "{log}");
    // No sync was tried.
    assert!(!log.contains("\nE"), "{log}");
    errors[0].to_owned()
}

/// User Mode Linux has nf_tables, but neither IPv4 nor IPv6 tables.
#[test]
fn missing_nf_tables_family_is_named() {
    in_vm("missing_nf_tables_family_is_named", || {
        for mode in ["nftables", "userspace"] {
            let error = error(&run(&Host::new(), mode, &[]));
            for part in [
                format!("this kernel lacks what {mode} mode needs"),
                "nf_tables family ip for IPv4 (nf_tables, CONFIG_NF_TABLES_IPV4)".to_owned(),
                "nf_tables family ip6 for IPv6 (nf_tables, CONFIG_NF_TABLES_IPV6)".to_owned(),
                "no Service was programmed".to_owned(),
                "choose another --proxy-mode".to_owned(),
            ] {
                assert!(error.contains(&part), "{part}\n{error}");
            }
        }
    });
}

#[test]
fn missing_capability_is_named() {
    let host = Host::new();
    let without = ["--bounding-set=-net_admin"];
    let error = error(&run(&host, "nftables", &without));
    assert!(error.contains("NET_ADMIN"), "{error}");
    assert_eq!(host.sh("nft list ruleset"), "");
}
