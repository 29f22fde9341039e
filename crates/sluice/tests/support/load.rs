//! Steps of the tests that change Services of a running proxy under load. The test's root imports
//! `other`, the text of a Service with endpoints.

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::other;
use crate::overflow::{fill, netfilter_ports};
use crate::support::Proxy;
use crate::traffic::Load;

/// Write, change and remove some of twenty Services, others in each round.
pub(crate) fn write_others(proxy: &Proxy, round: usize) {
    for number in (0..20).filter(|number| !(number + round).is_multiple_of(3)) {
        let text = other(number, (number + round) % 4);
        proxy.write(&format!("other-{number}.yaml"), &text);
    }
    let gone = format!("other-{}.yaml", round % 20);
    let _ = fs::remove_file(proxy.folder.path().join(gone));
}

/// Kill the proxy at random points of loading this many Services, and start it again.
pub(crate) fn kill_while_loading(proxy: &mut Proxy, load: &Load, services: usize) {
    let many = |endpoints| -> String { (0..services).map(|n| other(n, endpoints)).collect() };
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
}

/// Overflow the stopped proxy's netlink sockets, make a foreign change and one of our own, and let the proxy
/// continue.
pub(crate) fn lose_messages(proxy: &Proxy, round: usize, foreign_change: &str) {
    let process = Pid::from_raw(proxy.process.0.id() as i32);
    kill(process, Signal::SIGSTOP).unwrap();
    let ports = netfilter_ports(proxy);
    assert!(
        ports.len() >= 4,
        "replies and notifications of both families: {ports:?}"
    );
    proxy.host.run(|| ports.iter().copied().for_each(fill));
    proxy.host.sh(foreign_change);
    write_others(proxy, round);
    kill(process, Signal::SIGCONT).unwrap();
}
