//! Whatever happens to the running proxy and to its table, connections through Services that are not
//! changed go on, and in the end the table is as the objects say.

#[path = "../../kernel/tests/support/objects.rs"]
mod objects;
mod support;
#[path = "../../kernel/tests/support/traffic.rs"]
mod traffic;

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dataplane::nftables::{Options, Pick, State, TABLE, table_family};
use kernel::nfnetlink::{NfTables, TableId};
use netfilter::nft::table::Contents;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sendto, socket,
};
use nix::unistd::Pid;

use objects::{observed, other, plans};
use support::{Proxy, eventually};
use traffic::Stage;

/// A proxy for the observed objects, and the world around its node.
fn start() -> (Proxy, Stage) {
    let objects = fs::read_to_string(observed("objects.json")).unwrap();
    let proxy = Proxy::start("nftables", &[("objects.json", &objects)], &[]);
    wait_until_right(&proxy);
    let stage = Stage::around(proxy.host.netns());
    (proxy, stage)
}

/// Waits until both families' tables are what the objects in the folder mean.
fn wait_until_right(proxy: &Proxy) {
    let plans = plans(&[proxy.folder.path().to_owned()]);
    for plan in &plans {
        let mut state = State::lower(plan, Options::default());
        let id = TableId::new(table_family(plan.family), TABLE);
        let what = || format!("{id} as the objects say\n{}", proxy.log());
        eventually(&what(), || {
            let read = || NfTables::open().unwrap().read_table(&id);
            let Ok((Some(read), _)) = proxy.host.run(read) else {
                return false;
            };
            // Chains that no frontend leads to any more stay for a while, and so do the ways to them.
            let chains = read.contents.chains.keys();
            state.set_idle(chains.filter_map(|name| Pick::parse(name)));
            let sweep = state.sweep().ops;
            let mut table = Some(read.contents);
            let swept = Contents::apply(&mut table, &sweep).is_ok();
            swept && read.foreign.is_empty() && table == Some(state.contents())
        });
    }
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
fn others_come_and_go_at_full_speed_and_somebody_else_writes_too() {
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
    assert!(!proxy.log().contains("somebody else"), "{}", proxy.log());
}

/// So many Services that loading them takes its time.
fn many(endpoints: usize) -> String {
    (0..900).map(|number| other(number, endpoints)).collect()
}

#[test]
fn killed_while_it_loads_and_started_again() {
    let (mut proxy, stage) = start();
    let load = stage.load();
    let mut random = std::process::id();
    for round in 0..8 {
        proxy.write("many.yaml", &many(1 + round % 3));
        // The load begins about when the file has been read; where in it the end comes is chance.
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

/// The ports of a process's netfilter netlink sockets.
fn netfilter_ports(proxy: &Proxy) -> Vec<u32> {
    let process = format!("/proc/{}", proxy.process.0.id());
    let files = fs::read_dir(format!("{process}/fd")).unwrap();
    let links = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    let sockets: BTreeSet<String> = links
        .filter_map(|link| {
            let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect();
    let table = fs::read_to_string(format!("{process}/net/netlink")).unwrap();
    let rows = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    // Protocol, port and, last, the inode; 12 is NETLINK_NETFILTER.
    rows.filter(|row| row[1] == "12" && row.last().is_some_and(|inode| sockets.contains(*inode)))
        .map(|row| row[2].parse().unwrap())
        .collect()
}

/// Fills the receive buffer of a netlink socket, as a privileged process may; what the kernel has
/// to say to it is lost.
fn fill(port: u32) {
    let flags = SockFlag::SOCK_CLOEXEC;
    let netfilter = SockProtocol::NetlinkNetFilter;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, netfilter).unwrap();
    let to = NetlinkAddr::new(port, 0);
    for size in [64 << 10, 16] {
        let noise = vec![0; size];
        loop {
            match sendto(socket.as_raw_fd(), &noise, &to, MsgFlags::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(Errno::EAGAIN) => break,
                Err(errno) => panic!("{errno}"),
            }
        }
    }
}

#[test]
fn what_the_kernel_says_is_lost_for_want_of_room() {
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
        // Something to be told of, and something to do.
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
