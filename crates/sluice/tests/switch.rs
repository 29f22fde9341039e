//! Changes of the proxy mode: the new mode's rules are active before the old mode's are removed, no
//! connection fails meanwhile, and other programs' rules stay.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use model::Mode;
use support::{Host, Proxy, SLUICE, eventually, text, web};

/// Longer than several retransmissions take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Sequential connections to a Service.
struct Traffic {
    /// The threads of the client and of the endpoint.
    stop: [Arc<AtomicBool>; 2],
    client: JoinHandle<(usize, Vec<String>)>,
}

impl Traffic {
    /// Start the client, and an endpoint at the host's own address.
    fn start(host: &Host, to: SocketAddr) -> Self {
        let stop: [Arc<AtomicBool>; 2] = Default::default();
        let client = host.run(|| {
            let listener = TcpListener::bind("10.200.1.2:8080").unwrap();
            listener.set_nonblocking(true).unwrap();
            let stopped = Arc::clone(&stop[1]);
            std::thread::spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    match listener.accept() {
                        Ok((mut stream, _)) => drop(stream.write_all(b"x")),
                        Err(_) => std::thread::sleep(Duration::from_millis(1)),
                    }
                }
            });
            let stopped = Arc::clone(&stop[0]);
            std::thread::spawn(move || {
                let (mut count, mut failures) = (0, Vec::new());
                while !stopped.load(Ordering::Relaxed) {
                    match connect(to) {
                        Ok(()) => count += 1,
                        Err(error) => failures.push(error.to_string()),
                    }
                }
                (count, failures)
            })
        });
        Self { stop, client }
    }

    fn end(self) -> (usize, Vec<String>) {
        // The client first: its last connection needs the endpoint.
        let [client, endpoint] = self.stop;
        client.store(true, Ordering::Relaxed);
        let seen = self.client.join().unwrap();
        endpoint.store(true, Ordering::Relaxed);
        seen
    }
}

fn connect(to: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_exact(&mut [0])
}

/// Return kube-proxy's chains, in both families and back ends.
fn chains(host: &Host) -> String {
    host.sh(
        "for save in iptables-nft-save ip6tables-nft-save iptables-legacy-save \
         ip6tables-legacy-save; do $save 2>/dev/null; done | grep ^:KUBE- | sort -u",
    )
}

fn tables(host: &Host) -> String {
    host.sh("nft list tables | grep -e kube-proxy -e sluice || true")
}

/// Add another program's rules, of both kinds, and return them.
fn foreign(host: &Host) -> String {
    host.sh(
        "iptables-nft -t nat -S | grep MINE; iptables-nft -S FORWARD | grep -v KUBE-; \
         nft list table inet mine",
    )
}

#[test]
fn no_connection_fails_from_iptables_to_nftables_and_back() {
    let mut proxy = Proxy::start(
        Mode::Iptables,
        &[("a.yaml", &web("a", 1, "10.200.1.2"))],
        &[],
    );
    let to: SocketAddr = "10.96.10.1:80".parse().unwrap();
    proxy.host.sh(
        "ip route add default dev eth0; iptables-nft -t nat -N MINE; \
         iptables-nft -t nat -A MINE -j RETURN; iptables-nft -t nat -A PREROUTING -j MINE; \
         iptables-nft -A FORWARD -d 192.0.2.1 -j DROP; nft add table inet mine; \
         nft add chain inet mine c",
    );
    proxy.wait_for("demo/a:http", true);
    let others = foreign(&proxy.host);
    let traffic = Traffic::start(&proxy.host, to);
    proxy.switch(Mode::Nftables);
    // As with kube-proxy, the firewall chain that protects loopback addresses stays.
    eventually("only the firewall chain is left", || {
        let left = chains(&proxy.host);
        left.lines()
            .all(|chain| chain.starts_with(":KUBE-FIREWALL "))
    });
    assert!(proxy.rules().contains("demo/a"), "{}", proxy.log());
    assert_eq!(foreign(&proxy.host), others);
    proxy.switch(Mode::Iptables);
    eventually("the table is gone", || tables(&proxy.host).is_empty());
    assert!(proxy.rules().contains("demo/a:http"));
    assert_eq!(foreign(&proxy.host), others);
    let (count, failures) = traffic.end();
    assert!(count > 100, "{count} connections: {failures:?}");
    assert_eq!(failures, [""; 0], "of {count} connections");
    assert!(
        !proxy.log().contains("Cannot remove the rules"),
        "{}",
        proxy.log()
    );
}

#[test]
fn userspace_mode_replaces_other_modes_and_is_replaced_by_them() {
    let mut proxy = Proxy::start(
        Mode::Nftables,
        &[("a.yaml", &web("a", 1, "10.200.1.2"))],
        &[],
    );
    proxy.wait_for("demo/a", true);
    proxy.switch(Mode::Userspace);
    eventually("the table has changed hands", || {
        let tables = tables(&proxy.host);
        !tables.is_empty() && !tables.contains("kube-proxy")
    });
    proxy.switch(Mode::Iptables);
    eventually("all tables are gone", || tables(&proxy.host).is_empty());
    proxy.wait_for("demo/a:http", true);
}

#[test]
fn once_removes_leftovers_and_a_failed_once_does_not() {
    let mut proxy = Proxy::start(
        Mode::Iptables,
        &[("a.yaml", &web("a", 1, "10.200.1.2"))],
        &[],
    );
    proxy.wait_for("demo/a:http", true);
    proxy.kill();
    let once = |flags: &[&str]| {
        let folder = proxy.folder.path().to_str().unwrap();
        let words = ["proxy", "--proxy-mode=nftables", "--once", "--manifests"];
        let output = proxy
            .host
            .sluice(&[&words[..], &[folder, "--hostname-override=node1"], flags].concat());
        (output.status.success(), text(&output.stderr))
    };
    let (ended_well, said) = once(&["--iptables-sync-period=-1s"]);
    assert!(
        !ended_well && chains(&proxy.host).contains("KUBE-SVC-"),
        "{said}"
    );
    let (ended_well, said) = once(&[]);
    assert!(
        ended_well && !chains(&proxy.host).contains("KUBE-SVC-"),
        "{said}"
    );
}

/// As in the image that contains only the program.
#[test]
fn rules_are_removed_without_iptables_programs() {
    let mut proxy = Proxy::start(
        Mode::Iptables,
        &[("a.yaml", &web("a", 1, "10.244.1.1"))],
        &[],
    );
    proxy.wait_for("demo/a:http", true);
    proxy.kill();
    assert!(chains(&proxy.host).contains("KUBE-SVC-"));
    let once = "mount -t tmpfs none /usr/sbin && exec \"$0\" proxy --once --proxy-mode=nftables \
                --hostname-override=node1 --manifests \"$1\"";
    let mut command = proxy.host.command("unshare");
    command.args(["--mount", "sh", "-c", once, SLUICE]);
    let output = command.arg(proxy.folder.path()).output().unwrap();
    let log = text(&output.stderr);
    assert!(output.status.success(), "{log}");
    assert!(!log.contains("could not remove"), "{log}");
    let left = chains(&proxy.host);
    assert!(
        !left.contains("KUBE-SVC-") && !left.contains("KUBE-SERVICES"),
        "{left}"
    );
}
