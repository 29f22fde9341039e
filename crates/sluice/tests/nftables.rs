//! The running proxy in nftables mode: its table, its rendered rules, and other programs' tables.

mod support;

use std::fs;

use model::Mode;
use support::{Host, Proxy, eventually, text, web};

fn start(files: &[(&str, &str)]) -> Proxy {
    Proxy::start(Mode::Nftables, files, &[])
}

/// Return the frontend of [`web`]'s Service with this number as a listing shows it.
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
fn table_of_kube_proxy_is_replaced() {
    let proxy = start(&[]);
    drop(proxy.process);
    for version in ["v4", "v6"] {
        let file = observed::path(&format!("nftables-default.{version}.nft"));
        proxy.host.sh(&format!("nft delete table ip kube-proxy 2>/dev/null; nft delete table ip6 kube-proxy 2>/dev/null; nft -f {}", file.display()));
    }
    proxy.host.program_observed(Mode::Nftables);
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
fn restart_writes_nothing_that_exists() {
    let objects = fs::read_to_string(observed::path("objects.json")).unwrap();
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

/// Other programs' tables, some with names like ours.
const FOREIGN: &str = "
    table inet kube-proxy {
        set s { type ipv4_addr . inet_service; flags interval; elements = { 192.0.2.0/24 . 80 } }
        map m { type mark : verdict; elements = { 1 : accept, 2 : drop } }
        map learned { type ipv4_addr : mark; flags dynamic,timeout; timeout 1h; size 100; }
        counter hits { packets 7 bytes 77 }
        chain forward {
            type filter hook forward priority 5; policy drop;
            ip saddr . tcp dport @s counter packets 3 bytes 4 accept
            meta mark vmap @m
            counter name hits jump services
        }
        chain services { ct state established accept; }
    }
    table ip sluice {
        chain nat-prerouting {
            type nat hook prerouting priority -90;
            tcp dport 8081 dnat to 192.0.2.1:80
        }
    }
    table ip6 kube-proxy-canary { chain marks { meta mark set 0x4000; }; }
    table arp kube-proxy { chain c { type filter hook input priority 0; policy accept; }; }
";

#[test]
fn cleanup_removes_all_our_tables_and_no_others() {
    let objects = fs::read_to_string(observed::path("objects.json")).unwrap();
    let mut proxy = start(&[("objects.json", &objects)]);
    let file = proxy.folder.path().join(".foreign");
    fs::write(&file, FOREIGN).unwrap();
    proxy.host.sh(&format!("nft -f {}", file.display()));
    let foreign = |host: &Host| {
        let tables = FOREIGN.lines().filter_map(|line| {
            let line = line.trim().strip_prefix("table ")?;
            line.split_once(" {").map(|(table, _)| table)
        });
        let list = |table| host.sh(&format!("nft -a list table {table}"));
        tables.map(list).collect::<Vec<_>>()
    };
    let before = foreign(&proxy.host);
    assert_eq!(before.len(), 4);
    eventually("both families", || {
        let tables = proxy.host.sh("nft list tables");
        let both = ["table ip kube-proxy\n", "table ip6 kube-proxy\n"];
        both.into_iter().all(|table| tables.contains(table))
    });
    proxy.kill();
    let output = proxy.host.sluice(&["cleanup"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(foreign(&proxy.host), before);
    let tables = proxy.host.sh("nft list tables");
    assert_eq!(tables.lines().count(), before.len(), "{tables}");
}
