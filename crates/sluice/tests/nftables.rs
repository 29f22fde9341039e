//! The running proxy in nftables mode: what it programs, what it renders, and what it leaves alone.

mod support;

use std::fs;

use support::{Proxy, observed, text, web};

fn start(files: &[(&str, &str)]) -> Proxy {
    Proxy::start("nftables", files, &[])
}

/// How a listing shows the frontend of [`web`]'s Service with this number.
fn frontend(last: u8) -> String {
    format!("10.96.10.{last} . tcp . 80")
}

#[test]
fn changes_to_files_reach_the_kernel() {
    let proxy = start(&[("a.yaml", &web("a", 1, "10.244.1.1"))]);
    proxy.wait_for("10.244.1.1 . 8080", true);
    proxy.write("b.yaml", &web("b", 2, "10.244.1.2"));
    proxy.wait_for("10.244.1.2 . 8080", true);
    proxy.write("a.yaml", &web("a", 1, "10.244.1.9"));
    proxy.wait_for("10.244.1.9 . 8080", true);
    proxy.wait_for("10.244.1.1 . 8080", false);
    fs::remove_file(proxy.folder.path().join("b.yaml")).unwrap();
    proxy.wait_for(&frontend(2), false);
    assert!(proxy.rules().contains(&frontend(1)));
}

#[test]
fn kube_proxys_own_table_is_replaced() {
    let proxy = start(&[]);
    drop(proxy.process);
    for version in ["v4", "v6"] {
        let file = observed(&format!("nftables-default.{version}.nft"));
        proxy.host.sh(&format!("nft delete table ip kube-proxy 2>/dev/null; nft delete table ip6 kube-proxy 2>/dev/null; nft -f {}", file.display()));
    }
    let objects = observed("objects.json");
    let output = proxy.host.sluice(&[
        "proxy",
        "--once",
        "--proxy-mode=nftables",
        "--hostname-override=node1",
        "--cluster-cidr=10.244.0.0/16,fd00:10:244::/56",
        "--manifests",
        objects.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let rules = proxy
        .host
        .sh("nft list table ip kube-proxy; nft list table ip6 kube-proxy");
    assert!(rules.contains("10.244.1.11 . 8080"), "{rules}");
    assert!(
        !rules.contains("service-AXK6CI2C-demo/web/tcp/http"),
        "{rules}"
    );
    let output = proxy.host.sluice(&["cleanup"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(proxy.host.sh("nft list ruleset"), "");
}

#[test]
fn a_restart_writes_nothing_that_is_there_already() {
    let objects = fs::read_to_string(observed("objects.json")).unwrap();
    let mut proxy = start(&[("objects.json", &objects)]);
    proxy.wait_for("10.244.1.11 . 8080", true);
    proxy.wait_for("10.244.1.25 . 8080", true);
    proxy.kill();
    let handles = proxy.host.sh("nft -a list table ip kube-proxy");
    proxy.respawn();
    proxy.write("new.yaml", &web("new", 99, "10.244.1.99"));
    proxy.wait_for("10.244.1.99 . 8080", true);
    let after = proxy.host.sh("nft -a list table ip kube-proxy");
    for line in handles.lines().filter(|l| l.contains("# handle")) {
        assert!(after.contains(line), "{line} is gone");
    }
}
