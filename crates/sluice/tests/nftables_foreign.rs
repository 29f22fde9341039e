//! Other programs' changes to the running proxy's tables are repaired and reported once; their changes to
//! their own tables are ignored.

mod support;
#[path = "support/table.rs"]
mod table;

use support::{Proxy, eventually, web};
use table::wait_until_right;

/// The families as nft and the log name them.
const FAMILIES: [(&str, &str); 2] = [("ip", "IPv4"), ("ip6", "IPv6")];

/// Count the log lines of a family that contain a text.
fn said(proxy: &Proxy, family: &str, what: &str) -> usize {
    let log = proxy.log();
    let lines = log.lines().filter(|line| line.contains(family));
    lines.filter(|line| line.contains(what)).count()
}

fn reports(proxy: &Proxy, family: &str) -> usize {
    said(proxy, family, "Another program changed the rules")
}

/// Start a proxy and wait until its watches have begun.
fn start() -> Proxy {
    let proxy = table::start(&["--v=4"]);
    for (word, family) in FAMILIES {
        eventually("the watch has begun", || {
            proxy.host.sh(&format!(
                "nft 'add table {word} kube-proxy; add chain {word} kube-proxy first'"
            ));
            wait_until_right(&proxy);
            reports(&proxy, family) > 0
        });
    }
    proxy
}

/// One transaction each. `F` is the family, `D` a cluster IP, `O` an unused address.
const MEDDLING: [&str; 18] = [
    "nft delete rule F kube-proxy services handle $(nft -a list chain F kube-proxy services | \
     sed -n 's/.*handle //p' | tail -1)",
    "nft insert rule F kube-proxy services F daddr O accept",
    "nft 'delete element F kube-proxy cluster-ip-ports { D . tcp . 80 }'",
    "nft 'add element F kube-proxy cluster-ip-ports { O . tcp . 80 }'",
    "nft 'delete element F kube-proxy endpoints { D . tcp . 80 . 0 }'",
    "nft 'add element F kube-proxy endpoints { D . tcp . 80 . 9 : O . 9 }'",
    "nft 'delete element F kube-proxy service-nodeports { tcp . 30150 }'",
    "nft 'add element F kube-proxy service-nodeports { udp . 30150 : drop }'",
    "nft 'delete element F kube-proxy endpoints { D . tcp . 80 . 0 };
     add element F kube-proxy endpoints { D . tcp . 80 . 0 : O . 9 }'",
    "nft flush chain F kube-proxy services",
    "nft flush set F kube-proxy cluster-ips",
    "nft flush map F kube-proxy endpoints",
    "nft 'add chain F kube-proxy theirs; add rule F kube-proxy theirs drop'",
    "nft 'add set F kube-proxy theirs { type mark; }'",
    "nft 'add chain F kube-proxy nat-output { policy drop; }'",
    "nft 'flush chain F kube-proxy nat-output; delete chain F kube-proxy nat-output'",
    "nft delete table F kube-proxy",
    "nft 'delete table F kube-proxy; add table F kube-proxy'",
];

#[test]
fn foreign_changes_are_repaired_and_reported_once() {
    let proxy = start();
    let mut expected = FAMILIES.map(|(_, family)| reports(&proxy, family));
    let addresses = [
        ("10.96.10.15", "192.0.2.77"),
        ("fd00:10:96::f", "2001:db8::77"),
    ];
    let mut mended = |meddling: &str, families: &[usize]| {
        proxy.host.sh(meddling);
        for number in families {
            expected[*number] += 1;
            let family = FAMILIES[*number].1;
            eventually(&format!("{meddling} is noticed"), || {
                reports(&proxy, family) >= expected[*number]
            });
        }
        wait_until_right(&proxy);
        let now = FAMILIES.map(|(_, family)| reports(&proxy, family));
        assert_eq!(now, expected, "{meddling}\n{}", proxy.log());
    };
    for (number, (word, _)) in FAMILIES.into_iter().enumerate() {
        let (frontend, other) = addresses[number];
        for meddling in MEDDLING {
            let meddling = meddling
                .replace("F ", &format!("{word} "))
                .replace("D ", &format!("{frontend} "))
                .replace("O ", &format!("{other} "));
            mended(&meddling, &[number]);
        }
    }
    mended("nft flush ruleset", &[0, 1]);
}

#[test]
fn changes_to_other_tables_are_ignored() {
    let proxy = start();
    let read = || FAMILIES.map(|(_, family)| said(&proxy, family, "work=\"resync\""));
    let before = read();
    assert!(before.iter().all(|count| *count > 0));
    for number in 0..20 {
        proxy.host.sh(&format!(
            "nft 'add table inet kube-proxy; add table ip theirs-{number}; \
             add chain ip theirs-{number} c; add rule ip theirs-{number} c accept; \
             add table ip6 kube; add set ip6 kube s {{ type ipv6_addr; }}; \
             add element ip6 kube s {{ ::{number} }}'; nft delete table inet kube-proxy"
        ));
        // A change of our own in between.
        proxy.write("b.yaml", &web("b", 200, &format!("10.244.1.{number}")));
        proxy.wait_for(&format!("10.244.1.{number} . 8080"), true);
    }
    wait_until_right(&proxy);
    assert_eq!(read(), before, "{}", proxy.log());
    let theirs = proxy.host.sh("nft list tables | grep -c theirs");
    assert_eq!(theirs.trim(), "20");
}
