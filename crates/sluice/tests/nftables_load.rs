//! Faults of the running proxy and of its table under load: connections through unchanged Services
//! continue, and in the end the table matches the objects.

#[path = "support/load.rs"]
mod load;
#[path = "support/overflow.rs"]
mod overflow;
mod support;
#[path = "support/table.rs"]
mod table;
#[path = "../../dataplane/tests/support/traffic.rs"]
mod traffic;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use kernel::nfnetlink::{GenerationInfo, Monitor, Notice};

use load::{kill_while_loading, lose_messages, write_others};
use support::Proxy;
use table::objects::other;
use table::wait_until_right;
use traffic::{Failure, Stage};

/// Start a proxy for the observed objects, and the machines around its node.
fn start() -> (Proxy, Stage) {
    let proxy = table::start(&[]);
    let stage = Stage::around(proxy.host.netns());
    (proxy, stage)
}

#[test]
fn services_change_at_full_speed_while_another_program_writes() {
    let (proxy, stage) = start();
    let load = stage.load();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                proxy.host.sh(
                    "nft 'add table ip theirs; add set ip theirs s { type ipv4_addr; };\
                     add element ip theirs s { 192.0.2.1 }'; nft delete table ip theirs",
                );
            }
        });
        for round in 0..60 {
            write_others(&proxy, round);
            load.wait(30);
        }
        stop.store(true, Ordering::Relaxed);
    });
    wait_until_right(&proxy);
    load.finish(&stage).assert_unharmed();
    assert!(
        !proxy.log().contains("Another program changed"),
        "{}",
        proxy.log()
    );
}

#[test]
fn proxy_killed_while_loading_starts_again() {
    let (mut proxy, stage) = start();
    let load = stage.load();
    // So many Services that loading them takes time.
    kill_while_loading(&mut proxy, &load, 900);
    wait_until_right(&proxy);
    load.finish(&stage).assert_unharmed();
}

/// A foreign change in both families, of which the proxy receives no notification.
const LOST_CHANGE: &str = "for f in ip ip6; do nft add chain $f kube-proxy theirs; done";

#[test]
fn lost_notifications_cause_a_resync() {
    let (proxy, stage) = start();
    let load = stage.load();
    for round in 0..2 {
        lose_messages(&proxy, round, LOST_CHANGE);
        wait_until_right(&proxy);
        load.wait(50);
    }
    load.finish(&stage).assert_unharmed();
}

/// Count the transactions of all programs.
fn commits(monitor: &mut Monitor) -> usize {
    let mut count = 0;
    while let Some(notice) = monitor.receive().unwrap() {
        let Notice::Changes(messages) = notice else {
            panic!("notifications were lost");
        };
        let ends = messages
            .flatten()
            .map(|m| GenerationInfo::read(&m).unwrap());
        count += ends.flatten().count();
    }
    count
}

/// New connections fail while the table is missing; established ones continue through connection
/// tracking.
#[test]
fn table_is_deleted_under_load() {
    let (proxy, stage) = start();
    let load = stage.load();
    load.wait_for_all();
    let mut monitor = proxy.host.run(|| Monitor::open().unwrap());
    let mut whole = Vec::new();
    for deletion in [
        "nft delete table ip kube-proxy",
        "nft delete table ip6 kube-proxy",
        "nft flush ruleset",
    ] {
        commits(&mut monitor);
        let begin = Instant::now();
        proxy.host.sh(deletion);
        let deleted = Instant::now();
        wait_until_right(&proxy);
        let end = Instant::now();
        println!(
            "{deletion} took {:?}; within {:?} and {} transactions everything was there again",
            deleted - begin,
            end - deleted,
            commits(&mut monitor) - 1
        );
        whole.push((begin, end));
        load.wait(500);
    }
    let seen = load.finish(&stage);
    let without_table = |failure: &Failure| {
        let mut times = whole.iter();
        times.any(|(begin, end)| failure.begun <= *end && *begin <= failure.ended)
    };
    let (during, outside): (Vec<_>, Vec<_>) = seen
        .failures
        .iter()
        .partition(|failure| !failure.is_of_existing_connection() && without_table(failure));
    println!(
        "{} new connections failed, {} SYNs were sent again",
        during.len(),
        seen.retransmitted
    );
    assert!(outside.is_empty(), "{outside:#?}");
}
