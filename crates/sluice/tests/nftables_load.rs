//! Faults of the running proxy and of its table under load: connections through unchanged Services
//! continue, and in the end the table matches the objects.

#[path = "support/overflow.rs"]
mod overflow;
mod support;
#[path = "support/table.rs"]
mod table;
#[path = "../../dataplane/tests/support/traffic.rs"]
mod traffic;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kernel::nfnetlink::{GenerationInfo, Monitor, Notice};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use overflow::{fill, netfilter_ports};
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

fn write_others(proxy: &Proxy, round: usize) {
    for number in (0..20).filter(|number| !(number + round).is_multiple_of(3)) {
        let text = other(number, (number + round) % 4);
        proxy.write(&format!("other-{number}.yaml"), &text);
    }
    let gone = format!("other-{}.yaml", round % 20);
    let _ = fs::remove_file(proxy.folder.path().join(gone));
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

/// So many Services that loading them takes time.
fn many(endpoints: usize) -> String {
    (0..900).map(|number| other(number, endpoints)).collect()
}

#[test]
fn proxy_killed_while_loading_starts_again() {
    let (mut proxy, stage) = start();
    let load = stage.load();
    let mut random = std::process::id();
    for round in 0..8 {
        proxy.write("many.yaml", &many(1 + round % 3));
        // Loading begins about when the file has been read; the kill hits a random point of it.
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        std::thread::sleep(Duration::from_millis(u64::from(random >> 16) % 1500));
        proxy.kill();
        load.wait(100);
        proxy.respawn();
        load.wait(100);
    }
    wait_until_right(&proxy);
    load.finish(&stage).assert_unharmed();
}

#[test]
fn lost_notifications_cause_a_resync() {
    let (proxy, stage) = start();
    let load = stage.load();
    let process = Pid::from_raw(proxy.process.0.id() as i32);
    for round in 0..2 {
        kill(process, Signal::SIGSTOP).unwrap();
        let ports = netfilter_ports(&proxy);
        assert!(
            ports.len() >= 4,
            "replies and notifications of both families: {ports:?}"
        );
        proxy.host.run(|| ports.iter().copied().for_each(fill));
        // A foreign change, and one of our own.
        proxy
            .host
            .sh("for f in ip ip6; do nft add chain $f kube-proxy theirs; done");
        write_others(&proxy, round);
        kill(process, Signal::SIGCONT).unwrap();
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
