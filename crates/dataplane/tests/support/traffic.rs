//! A node with pods that answer, clients that connect constantly, and their results.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kernel::netns::NetNs;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};

/// The endpoints of the Services under load: some of `testdata/observed/objects.json`.
const PODS: [(&str, Transport); 8] = [
    ("10.244.1.11:8080", Transport::Tcp),
    ("10.244.2.11:8080", Transport::Tcp),
    ("10.244.1.12:80", Transport::Tcp),
    ("10.244.2.12:80", Transport::Tcp),
    ("10.244.3.12:80", Transport::Tcp),
    ("10.244.1.20:53", Transport::Udp),
    ("[fd00:10:244:1::25]:8080", Transport::Tcp),
    ("[fd00:10:244:2::25]:8080", Transport::Tcp),
];

/// The clients and their destinations. Clients that are not pods are masqueraded.
const CLIENTS: [(&str, &str, Transport); 6] = [
    ("10.244.1.200", "10.96.10.1:80", Transport::Tcp),
    ("10.244.1.200", "10.96.10.10:53", Transport::Udp),
    ("192.0.2.10", "10.200.1.2:30008", Transport::Tcp),
    ("192.0.2.10", "10.96.10.10:53", Transport::Udp),
    ("fd00:10:244:1::200", "[fd00:10:96::f]:80", Transport::Tcp),
    ("2001:db8::10", "[fd00:200:1::2]:30150", Transport::Tcp),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tcp,
    Udp,
}

/// Timeout of an answer or a connection. It is much longer than a retransmission takes; retransmissions
/// are counted separately.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two connections of a client, so that clients do not exhaust their ports.
const PAUSE: Duration = Duration::from_millis(3);

/// The namespaces around a node.
pub(crate) struct Stage {
    pods: NetNs,
    clients: NetNs,
}

impl Stage {
    /// Connect pods and clients to a node: a namespace with the addresses 10.200.1.2 and
    /// fd00:200:1::2.
    pub(crate) fn around(node: &NetNs) -> Self {
        let make = |role| NetNs::create(&format!("{}-{role}", node.name())).expect("root");
        let stage = Stage {
            pods: make("pods"),
            clients: make("clients"),
        };
        shell(node, &stage.node_script());
        shell(&stage.pods, &neighbour_script("01", &pods()));
        shell(&stage.clients, &neighbour_script("03", &clients()));
        for (ns, link) in [
            (node, "pods0"),
            (node, "load0"),
            (&stage.pods, "wan"),
            (&stage.clients, "wan"),
        ] {
            // A link drops packets until the kernel has activated it, which can take a second on a busy
            // machine.
            let up = format!("ip link show {link} | grep -q 'state UP'");
            let wait = format!("for n in $(seq 3000); do {up} && exit 0; sleep 0.02; done; exit 1");
            shell(ns, &wait);
        }
        for (at, transport) in PODS {
            let at = at.parse().expect("an address");
            let serve = || match transport {
                Transport::Tcp => serve_tcp(at),
                Transport::Udp => serve_udp(at),
            };
            stage.pods.run(serve).expect("the pods");
        }
        stage
    }

    fn node_script(&self) -> String {
        let mut script = format!(
            "set -e
            sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
                net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
            ip link add pods0 address 02:00:00:00:00:01 type veth \
                peer name wan netns {} address 02:00:00:00:00:02
            ip link add load0 address 02:00:00:00:00:03 type veth \
                peer name wan netns {} address 02:00:00:00:00:04
            ip addr add 10.244.1.1 dev pods0
            ip addr add 10.244.1.1 dev load0
            ip link set pods0 up
            ip link set load0 up\n",
            self.pods.name(),
            self.clients.name()
        );
        let pods = pods().into_iter().map(|ip| (ip, "pods0", "02"));
        let clients = clients().into_iter().map(|ip| (ip, "load0", "04"));
        for (ip, link, mac) in pods.chain(clients) {
            script += &format!(
                "ip route add {ip} dev {link}\n\
                 ip neigh add {ip} lladdr 02:00:00:00:00:{mac} dev {link} nud permanent\n"
            );
        }
        script
    }

    /// Start the load.
    pub(crate) fn load(&self) -> Load {
        let shared = Arc::new(Shared::default());
        let retransmitted = self.retransmitted();
        let mut threads = Vec::new();
        for (from, to, transport) in CLIENTS {
            let exchanges: [(&str, Exchange); 2] = match transport {
                Transport::Tcp => [
                    ("connections", connections),
                    ("a connection", one_connection),
                ],
                Transport::Udp => [("flows", flows), ("a flow", one_flow)],
            };
            for (name, exchange) in exchanges {
                let client = Client {
                    name: format!("{name} from {from} to {to}"),
                    from: from.parse().expect("an address"),
                    to: to.parse().expect("an address"),
                    shared: Arc::clone(&shared),
                };
                let begin = || thread::spawn(move || exchange(&client));
                threads.push(self.clients.run(begin).expect("the clients"));
            }
        }
        Load {
            shared,
            threads,
            retransmitted,
        }
    }

    /// Return the number of packets retransmitted by either side.
    pub(crate) fn retransmitted(&self) -> u64 {
        let count = |ns: &NetNs| {
            let text = ns.run(|| std::fs::read_to_string("/proc/thread-self/net/netstat"));
            counter(&text.expect("a thread").expect("counters"), "TCPSynRetrans")
        };
        count(&self.pods) + count(&self.clients)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for ns in [&self.pods, &self.clients] {
            let _ = NetNs::delete(ns.name());
        }
    }
}

/// Return a value of `/proc/net/netstat`: a line of names, then one of numbers.
fn counter(text: &str, name: &str) -> u64 {
    let lines: Vec<&str> = text.lines().collect();
    for pair in lines.chunks(2) {
        let mut columns = pair[0].split(' ').zip(pair[1].split(' '));
        if let Some((_, value)) = columns.find(|(column, _)| *column == name) {
            return value.parse().expect("a number");
        }
    }
    panic!("no counter {name}");
}

/// The addresses of all pods.
fn pods() -> BTreeSet<IpAddr> {
    let address = |at: &str| at.parse::<SocketAddr>().expect("an address").ip();
    PODS.iter().map(|(at, _)| address(at)).collect()
}

/// The addresses of all clients.
fn clients() -> BTreeSet<IpAddr> {
    let address = |ip: &str| ip.parse().expect("an address");
    CLIENTS.iter().map(|(ip, ..)| address(ip)).collect()
}

fn shell(ns: &NetNs, script: &str) {
    let output = ns
        .command("sh")
        .expect("a shell")
        .args(["-c", script])
        .output();
    let output = output.expect("a shell");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {error}");
}

fn neighbour_script(mac: &str, addresses: &BTreeSet<IpAddr>) -> String {
    let mut script = format!(
        "set -e
        ip link set lo up
        ip link set wan up
        ip neigh add 10.244.1.1 lladdr 02:00:00:00:00:{mac} dev wan nud permanent
        ip neigh add fd00:10:244:1::1 lladdr 02:00:00:00:00:{mac} dev wan nud permanent
        ip route add default via 10.244.1.1 dev wan onlink
        ip -6 route add default via fd00:10:244:1::1 dev wan onlink\n"
    );
    for ip in addresses {
        let nodad = if ip.is_ipv6() { "nodad" } else { "" };
        script += &format!("ip addr add {ip} dev wan {nodad}\n");
    }
    script
}

/// Echo TCP data until the process ends.
fn serve_tcp(at: SocketAddr) {
    let pod = TcpListener::bind(at).expect("a pod");
    thread::spawn(move || {
        while let Ok((mut connection, _)) = pod.accept() {
            thread::spawn(move || {
                let mut buffer = [0; 16];
                while let Ok(len @ 1..) = connection.read(&mut buffer) {
                    if connection.write_all(&buffer[..len]).is_err() {
                        break;
                    }
                }
            });
        }
    });
}

/// Echo datagrams until the process ends.
fn serve_udp(at: SocketAddr) {
    let pod = UdpSocket::bind(at).expect("a pod");
    thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((len, from)) = pod.recv_from(&mut buffer) {
            let _ = pod.send_to(&buffer[..len], from);
        }
    });
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    rounds: AtomicU64,
    /// The number of clients with at least one answer.
    begun: AtomicUsize,
    failures: Mutex<Vec<Failure>>,
    by_client: Mutex<BTreeMap<String, u64>>,
}

/// A client's loop until it is stopped.
type Exchange = fn(&Client);

struct Client {
    name: String,
    from: IpAddr,
    to: SocketAddr,
    shared: Arc<Shared>,
}

impl Client {
    /// Repeat attempts until the load is stopped.
    fn repeat(&self, mut attempt: impl FnMut() -> io::Result<()>) {
        let mut done = 0;
        while !self.shared.stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            if let Err(error) = attempt() {
                let ended = Instant::now();
                let took = ended - start;
                let what = format!("{}, number {done}, after {took:?}: {error}", self.name);
                let mut failures = self.shared.failures.lock().expect("no panic");
                failures.push(Failure {
                    begun: start,
                    ended,
                    what,
                });
            }
            if done == 0 {
                self.shared.begun.fetch_add(1, Ordering::Relaxed);
            }
            done += 1;
            self.shared.rounds.fetch_add(1, Ordering::Relaxed);
            thread::sleep(PAUSE);
        }
        let mut by_client = self.shared.by_client.lock().expect("no panic");
        by_client.insert(self.name.clone(), done);
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let family = match self.to {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(family, SockType::Stream, flags, None)?;
        let from = SockaddrStorage::from(SocketAddr::new(self.from, 0));
        bind(socket.as_raw_fd(), &from)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        // Also the timeout of `connect`.
        stream.set_write_timeout(Some(PATIENCE))?;
        match connect(stream.as_raw_fd(), &SockaddrStorage::from(self.to)) {
            Err(Errno::EINPROGRESS) => Err(io::ErrorKind::TimedOut.into()),
            other => Ok(other.map(|()| stream)?),
        }
    }

    fn flow(&self) -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind((self.from, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(self.to)?;
        Ok(socket)
    }
}

fn asked(connection: &mut TcpStream) -> io::Result<()> {
    connection.write_all(b"question")?;
    connection.read_exact(&mut [0; 8])
}

fn exchange_datagram(flow: &UdpSocket) -> io::Result<()> {
    flow.send(b"question")?;
    flow.recv(&mut [0; 8]).map(drop)
}

fn connections(client: &Client) {
    client.repeat(|| asked(&mut client.connect()?));
}

fn one_connection(client: &Client) {
    match client.connect() {
        Ok(mut connection) => client.repeat(|| asked(&mut connection)),
        Err(error) => client.repeat(|| Err(error.kind().into())),
    }
}

fn flows(client: &Client) {
    client.repeat(|| exchange_datagram(&client.flow()?));
}

fn one_flow(client: &Client) {
    match client.flow() {
        Ok(flow) => client.repeat(|| exchange_datagram(&flow)),
        Err(error) => client.repeat(|| Err(error.kind().into())),
    }
}

/// A running load.
pub(crate) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    retransmitted: u64,
}

/// A request without an answer.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) begun: Instant,
    pub(crate) ended: Instant,
    pub(crate) what: String,
}

impl Failure {
    /// Whether the request was on an existing connection or flow.
    pub(crate) fn is_of_existing_connection(&self) -> bool {
        self.what.starts_with("a ")
    }
}

/// The results of a load.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The number of requests of each client.
    pub(crate) asked: BTreeMap<String, u64>,
    /// Failures, in the order in which they ended.
    pub(crate) failures: Vec<Failure>,
    /// The number of connections that needed a second SYN or SYN-ACK.
    pub(crate) retransmitted: u64,
}

impl Load {
    /// Wait until this many more requests have been answered.
    pub(crate) fn wait(&self, more: u64) {
        let target = self.shared.rounds.load(Ordering::Relaxed) + more;
        while self.shared.rounds.load(Ordering::Relaxed) < target {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Wait until every client has an answer, so that all long-lived connections exist.
    pub(crate) fn wait_for_all(&self) {
        while self.shared.begun.load(Ordering::Relaxed) < self.threads.len() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether anything has failed so far.
    pub(crate) fn failed(&self) -> bool {
        !self.shared.failures.lock().expect("no panic").is_empty()
    }

    /// End the load.
    pub(crate) fn finish(self, stage: &Stage) -> Seen {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client");
        }
        let failures = std::mem::take(&mut *self.shared.failures.lock().expect("no panic"));
        Seen {
            asked: std::mem::take(&mut *self.shared.by_client.lock().expect("no panic")),
            failures,
            retransmitted: stage.retransmitted() - self.retransmitted,
        }
    }
}

impl Seen {
    /// Check that nothing failed, nothing was lost, and that there was enough load.
    pub(crate) fn assert_unharmed(&self) {
        let failures: Vec<&String> = self
            .failures
            .iter()
            .map(|failure| &failure.what)
            .take(10)
            .collect();
        assert!(
            failures.is_empty(),
            "{} failed: {failures:#?}",
            self.failures.len()
        );
        assert_eq!(self.retransmitted, 0, "lost on the way");
        for (client, asked) in &self.asked {
            assert!(*asked >= 20, "{client}: {asked} is no load");
        }
    }
}
