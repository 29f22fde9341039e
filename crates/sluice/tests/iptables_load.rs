//! Faults of the running proxy and of its rules under load, in iptables mode over nf_tables: connections
//! through unchanged Services continue, and in the end the rules match the objects.

#[path = "../../dataplane/tests/support/ipt.rs"]
mod ipt;
#[path = "support/load.rs"]
mod load;
#[path = "../../dataplane/tests/support/objects.rs"]
mod objects;
#[path = "support/overflow.rs"]
mod overflow;
mod support;
#[path = "../../dataplane/tests/support/traffic.rs"]
mod traffic;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use dataplane::iptables::{Nfacct, Options, render};
use ipt::{TABLES, kernel_family, kube};
use kernel::iptables::NftRules;
use load::{kill_while_loading, lose_messages, write_others};
use model::Mode;
use netfilter::iptables::Family;
use objects::{other, plans};
use support::{Proxy, eventually};
use traffic::Stage;

/// Those of the proxy in the test's namespaces.
const OPTIONS: Options = Options {
    masquerade_bit: 14,
    localhost_node_ports: false,
    conntrack_tcp_be_liberal: false,
    random_fully: true,
    nfacct: Nfacct {
        invalid_dropped: true,
        localhost_node_ports: true,
    },
};

/// Start a proxy for the observed objects, and the machines around its node.
fn start() -> (Proxy, Stage) {
    start_on("nft", wait_until_right)
}

fn start_on(backend: &str, wait_until_right: fn(&Proxy)) -> (Proxy, Stage) {
    let objects = fs::read_to_string(observed::path("objects.json")).unwrap();
    let backend = format!("--iptables-backend={backend}");
    let flags = ["--nodeport-addresses=primary", "--v=4", &backend];
    let proxy = Proxy::start(Mode::Iptables, &[("objects.json", &objects)], &flags);
    wait_until_right(&proxy);
    let stage = Stage::around(proxy.host.netns());
    (proxy, stage)
}

/// Wait until the rules of both families match the objects in the folder.
fn wait_until_right(proxy: &Proxy) {
    for plan in &plans(&[proxy.folder.path().to_owned()]) {
        let expected = kube(&render(plan, &OPTIONS).unwrap().tables);
        let family = kernel_family(plan.family);
        let read = || NftRules::open(family).unwrap().table_set(&TABLES);
        let what = || format!("the {family} rules match the objects\n{}", proxy.log());
        eventually(&what(), || match proxy.host.run(read) {
            Ok((set, unsupported)) => unsupported.is_empty() && kube(&set) == expected,
            Err(_) => false,
        });
    }
}

fn reports(proxy: &Proxy, family: &str) -> usize {
    let log = proxy.log();
    let lines = log.lines().filter(|line| line.contains(family));
    lines
        .filter(|line| line.contains("Another program changed the rules"))
        .count()
}

#[test]
fn services_change_while_another_program_writes_to_the_same_tables() {
    let (proxy, stage) = start();
    let load = stage.load();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                proxy.host.sh(
                    "iptables-nft -t nat -N THEIRS; iptables-nft -t nat -I PREROUTING -s 192.0.2.250 -j THEIRS
                     iptables-nft -t nat -D PREROUTING -s 192.0.2.250 -j THEIRS; iptables-nft -t nat -X THEIRS",
                );
            }
        });
        for round in 0..40 {
            write_others(&proxy, round);
            load.wait(30);
        }
        stop.store(true, Ordering::Relaxed);
    });
    wait_until_right(&proxy);
    load.finish(&stage).assert_unharmed();
    let log = proxy.log();
    assert!(!log.contains("Another program changed"), "{log}");
}

#[test]
fn proxy_killed_while_loading_starts_again() {
    let (mut proxy, stage) = start();
    let load = stage.load();
    // So many Services that loading them takes time.
    kill_while_loading(&mut proxy, &load, 400);
    wait_until_right(&proxy);
    load.finish(&stage).assert_unharmed();
}

/// A foreign change in both families, of which the proxy receives no notification.
const LOST_CHANGE: &str = "for t in iptables ip6tables; do $t-nft -t nat -D KUBE-SERVICES 1; done; \
                           iptables-nft -t filter -D FORWARD 1";

#[test]
fn lost_notifications_and_replies_cause_a_resync() {
    let (proxy, stage) = start();
    let load = stage.load();
    for round in 0..2 {
        lose_messages(&proxy, round, LOST_CHANGE);
        wait_until_right(&proxy);
        load.wait(50);
    }
    let seen = load.finish(&stage);
    let lost = seen.failures.iter();
    let lost: Vec<_> = lost.filter(|f| f.is_of_existing_connection()).collect();
    assert!(lost.is_empty(), "{lost:#?}");
}

/// One change each, harmless for established connections; `T` is the program, `IP` a cluster IP.
const FOREIGN_CHANGES: [&str; 6] = [
    "T -t nat -F KUBE-POSTROUTING",
    "T -t nat -D KUBE-SERVICES 1",
    "T -t nat -A KUBE-SERVICES -d IP -j ACCEPT",
    "T -t nat -F PREROUTING",
    "T -t filter -D FORWARD 1",
    "T -t nat -F",
];

/// `-X` without a chain deletes the base chains too, and thereby the translation of connections.
const HARMFUL_CHANGES: [&str; 4] = [
    "T -t mangle -X KUBE-PROXY-CANARY",
    "T -t filter -I KUBE-FORWARD -j DROP",
    "T -t nat -F; T -t nat -X; true",
    "for t in mangle filter nat; do T -t $t -F; T -t $t -X; done; true",
];

fn change_and_wait(proxy: &Proxy, changes: &[&str]) {
    let families = [
        ("iptables-nft", "10.96.10.15", "IPv4"),
        ("ip6tables-nft", "fd00:10:96::f", "IPv6"),
    ];
    for (program, frontend, family) in families {
        for change in changes {
            let before = reports(proxy, family);
            let change = change.replace("T ", &format!("{program} "));
            proxy.host.sh(&change.replace("IP", frontend));
            eventually(&format!("{change} is noticed\n{}", proxy.log()), || {
                reports(proxy, family) > before
            });
            wait_until_right(proxy);
        }
    }
}

#[test]
fn foreign_changes_are_repaired_and_connections_continue() {
    let (proxy, stage) = start();
    let load = stage.load();
    load.wait_for_all();
    change_and_wait(&proxy, &FOREIGN_CHANGES);
    let seen = load.finish(&stage);
    // Without its rules, a new connection to a Service fails.
    let lost = seen.failures.iter();
    let lost: Vec<_> = lost.filter(|f| f.is_of_existing_connection()).collect();
    assert!(lost.is_empty(), "{lost:#?}");
    change_and_wait(&proxy, &HARMFUL_CHANGES);
}

#[test]
fn chains_of_other_kubernetes_software_are_ignored() {
    let (proxy, _stage) = start();
    let before = reports(&proxy, "IPv4");
    proxy
        .host
        .sh("iptables-nft -N KUBE-ROUTER-X; iptables-nft -A FORWARD -j KUBE-ROUTER-X");
    write_others(&proxy, 1);
    wait_until_right(&proxy);
    assert_eq!(reports(&proxy, "IPv4"), before, "{}", proxy.log());
    let saved = proxy.host.sh("iptables-nft-save");
    assert!(saved.contains("-A FORWARD -j KUBE-ROUTER-X"), "{saved}");
}

/// Wait until the rules of both families in the legacy tables match the objects in the folder.
fn wait_until_legacy_is_right(proxy: &Proxy) {
    for plan in &plans(&[proxy.folder.path().to_owned()]) {
        let expected = kube(&render(plan, &OPTIONS).unwrap().tables);
        let (family, save) = match plan.family {
            model::IpFamily::V4 => (Family::Ipv4, "iptables-legacy-save"),
            model::IpFamily::V6 => (Family::Ipv6, "ip6tables-legacy-save"),
        };
        let what = || format!("the {family:?} rules match the objects\n{}", proxy.log());
        eventually(&what(), || {
            kube(&proxy.host.rules(save, family)) == expected
        });
    }
}

/// Return the commands that write the recorded state of kube-proxy as its restore at a start does. The
/// files are in the folder.
fn restores(folder: &Path, backend: &str) -> [String; 2] {
    ["iptables", "ip6tables"].map(|tool| {
        let case = &observed::IPTABLES[0];
        let family = match tool {
            "iptables" => model::IpFamily::V4,
            _ => model::IpFamily::V6,
        };
        let file = folder.join(tool);
        let saved = case.iptables_save("iptables", family);
        // kube-proxy inserts its jumps one by one, and only missing ones.
        let own = saved.lines().filter(|line| {
            let built_in = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
            // A rule that a proxy without NodePorts on loopback leaves to kubelet.
            if line.starts_with("-A KUBE-FIREWALL ") {
                return false;
            }
            let chain = line.strip_prefix("-A ").or(line.strip_prefix(':'));
            let chain = chain.and_then(|rest| rest.split(' ').next());
            !chain.is_some_and(|chain| built_in.contains(&chain))
        });
        let text: String = own.map(|line| format!("{line}\n")).collect();
        fs::write(&file, text).unwrap();
        format!("{tool}-{backend}-restore --noflush < {}", file.display())
    })
}

/// Replace the proxy's rules by those of kube-proxy and back, under load.
fn assert_replaced_and_restored(backend: &str, wait_until_right: fn(&Proxy)) {
    let (mut proxy, stage) = start_on(backend, wait_until_right);
    let folder = tempfile::tempdir().unwrap();
    let load = stage.load();
    load.wait_for_all();
    for _ in 0..5 {
        proxy.kill();
        for restore in restores(folder.path(), backend) {
            proxy.host.sh(&restore);
        }
        load.wait(100);
        proxy.respawn();
        wait_until_right(&proxy);
        load.wait(100);
    }
    load.finish(&stage).assert_unharmed();
}

#[test]
fn kube_proxy_is_replaced_and_returns_without_a_lost_connection() {
    assert_replaced_and_restored("nft", wait_until_right);
}

#[test]
fn kube_proxy_is_replaced_in_legacy_tables_without_a_lost_connection() {
    assert_replaced_and_restored("legacy", wait_until_legacy_is_right);
}
