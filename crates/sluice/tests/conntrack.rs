//! UDP and SCTP clients of the running program: stale flows are deleted, and valid flows stay whatever
//! else changes.

mod support;

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kernel::Family;
use kernel::conntrack::{Conntrack, Filter, IpProtocol};
use model::Mode;
use socket2::{Domain, Protocol, Socket, Type};
use support::{Proxy, eventually};

const CLUSTER_IP: &str = "10.96.10.53:53";
const OTHER_CLUSTER_IP: &str = "10.96.10.54:53";
const NODE_PORT: &str = "10.200.1.2:30053";
const EXTERNAL_IP: &str = "192.0.2.53:53";
const BALANCER_IP: &str = "192.0.2.54:53";
const PODS: [&str; 3] = ["10.244.1.11", "10.244.1.12", "10.244.1.13"];

/// The address of NodePorts in nftables mode.
const NODE: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: node1}\n\
                    status: {addresses: [{type: InternalIP, address: 10.200.1.2}]}\n";

/// Return a UDP Service with these addresses in addition to its cluster IP, and with these endpoints.
fn service(name: &str, last: u8, addresses: &str, pods: &[&str]) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: demo}}\n\
         spec: {{clusterIP: 10.96.10.{last}, {addresses}\n"
    );
    let _ = write!(
        text,
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}-a, namespace: demo, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: IPv4\nports: [{{name: dns, port: 8053, protocol: UDP}}]\nendpoints:\n"
    );
    for pod in pods {
        let _ = writeln!(
            text,
            "- {{addresses: [{pod}], conditions: {{ready: true}}}}"
        );
    }
    if pods.is_empty() {
        text.push_str("  []\n");
    }
    text
}

/// Without external addresses.
const INSIDE: &str = "ports: [{name: dns, port: 53, protocol: UDP}]}";
/// With all kinds of external addresses.
const OUTSIDE: &str = "type: LoadBalancer, externalIPs: [192.0.2.53], \
                       ports: [{name: dns, port: 53, protocol: UDP, nodePort: 30053}]}\n\
                       status: {loadBalancer: {ingress: [{ip: 192.0.2.54}]}}";

/// A server that answers with its own address.
struct Pod {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pod {
    fn start(proxy: &Proxy, ip: &'static str) -> Self {
        let socket = proxy.host.run(|| UdpSocket::bind((ip, 8053)).unwrap());
        let pause = Some(Duration::from_millis(100));
        socket.set_read_timeout(pause).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                if let Ok((_, from)) = socket.recv_from(&mut [0; 16]) {
                    let _ = socket.send_to(ip.as_bytes(), from);
                }
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A client that always sends from one port, as a resolver does.
struct Client {
    socket: UdpSocket,
    to: SocketAddr,
}

impl Client {
    fn new(proxy: &Proxy, to: &str) -> Self {
        let socket = proxy.host.run(|| UdpSocket::bind("10.200.1.2:0").unwrap());
        let patience = Some(Duration::from_millis(300));
        socket.set_read_timeout(patience).unwrap();
        let to = to.parse().unwrap();
        Self { socket, to }
    }

    /// Return the pod that answers; `None` after an error or without an answer.
    fn ask(&self) -> Option<String> {
        let mut buffer = [0; 64];
        self.socket.send_to(b"who", self.to).ok()?;
        let (length, _) = self.socket.recv_from(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    fn until(&self, pod: Option<&str>, when: &str) {
        let what = format!("{when}: {} is answered by {pod:?}", self.to);
        eventually(&what, || self.ask().as_deref() == pod);
    }

    /// Return the id of the client's flow, which a replacement would not have.
    fn flow(&self, proxy: &Proxy) -> Option<u32> {
        let source = self.socket.local_addr().unwrap();
        flow(proxy, IpProtocol::UDP, source, self.to)
    }
}

fn flow(proxy: &Proxy, protocol: IpProtocol, from: SocketAddr, to: SocketAddr) -> Option<u32> {
    proxy.host.run(|| {
        let mut found = None;
        let look = |flow: &kernel::conntrack::Flow| {
            if flow.original.source() == from && flow.original.destination() == to {
                found = flow.id;
            }
        };
        let filter = Filter::protocol(Family::Ipv4, protocol);
        Conntrack::open().unwrap().dump(&filter, look).unwrap();
        found
    })
}

const SCTP: IpProtocol = IpProtocol(132);

/// Associations that a client keeps trying to set up, with handmade packets, because not every kernel has
/// SCTP sockets. Without an answer the first packet is sent repeatedly.
struct Associations {
    client: Socket,
    pods: Vec<(&'static str, Socket)>,
}

impl Associations {
    fn new(proxy: &Proxy) -> Self {
        // By default such a flow expires after seconds.
        for state in ["closed", "cookie_wait"] {
            let timeout = format!("net.netfilter.nf_conntrack_sctp_timeout_{state}=600");
            proxy.host.sh(&format!("sysctl -qw {timeout}"));
        }
        let raw = |ip: &str| {
            let protocol = Some(Protocol::from(i32::from(SCTP.0)));
            let socket = proxy
                .host
                .run(|| Socket::new(Domain::IPV4, Type::RAW, protocol));
            let socket = socket.unwrap();
            let address = SocketAddrV4::new(ip.parse().unwrap(), 0);
            socket.bind(&address.into()).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        Self {
            client: raw("10.200.1.2"),
            pods: PODS.iter().map(|pod| (*pod, raw(pod))).collect(),
        }
    }

    /// Return the pod that receives an INIT from this port.
    fn ask(&mut self, port: u16, to: SocketAddr) -> Option<&'static str> {
        // Ports, no tag yet, no checksum, which loopback does not need; INIT with its length, a tag,
        // window, streams out and in, first TSN.
        let ports = [port.to_be_bytes(), to.port().to_be_bytes()].concat();
        let tag = [[1, 0], [0, 20], [0, 0], port.to_be_bytes()].concat();
        let rest = [0, 0, 255, 255, 0, 1, 0, 1, 0, 0, 0, 1];
        let init = [&ports[..], &[0; 8], &tag, &rest].concat();
        // Rejected without an endpoint.
        let _ = self
            .client
            .send_to(&init, &SocketAddr::new(to.ip(), 0).into());
        let end = Instant::now() + Duration::from_millis(300);
        while Instant::now() < end {
            for (pod, socket) in &mut self.pods {
                let mut packet = [0; 256];
                // Masquerading may change the port, but not the tag, which follows two headers.
                if socket.read(&mut packet).is_ok() && packet[32..].starts_with(&tag) {
                    return Some(*pod);
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    }
}

fn start(mode: Mode) -> (Proxy, Vec<Pod>) {
    let dns = service("dns", 53, OUTSIDE, &PODS[..1]);
    let other = service("other", 54, INSIDE, &PODS[2..]);
    let files = [
        ("node.yaml", NODE),
        ("dns.yaml", &dns),
        ("other.yaml", &other),
    ];
    let proxy = Proxy::start(mode, &files, &[]);
    for pod in PODS {
        proxy.host.sh(&format!("ip addr add {pod}/32 dev lo"));
    }
    proxy.host.sh("ip route add default dev eth0");
    let pods = PODS.iter().map(|pod| Pod::start(&proxy, pod)).collect();
    (proxy, pods)
}

fn stale_flows_are_deleted_and_others_stay(mode: Mode) {
    let (mut proxy, _pods) = start(mode);
    let [first, second, third] = PODS.map(Some);
    let addresses = [CLUSTER_IP, NODE_PORT, EXTERNAL_IP, BALANCER_IP];
    let clients = addresses.map(|to| Client::new(&proxy, to));
    for client in &clients {
        client.until(first, "at start");
    }
    let bystander = Client::new(&proxy, OTHER_CLUSTER_IP);
    bystander.until(third, "at start");
    let kept = bystander.flow(&proxy);
    assert!(kept.is_some());

    // One more endpoint: every flow is still valid.
    let flows = clients.each_ref().map(|client| client.flow(&proxy));
    proxy.write("dns.yaml", &service("dns", 53, OUTSIDE, &PODS[..2]));
    proxy.wait_for(PODS[1], true);
    // A new process finds them and must not delete any.
    proxy.kill();
    proxy.respawn();
    proxy.write("late.yaml", &service("late", 55, INSIDE, &PODS[2..]));
    proxy.wait_for("10.96.10.55", true);
    for (client, flow) in clients.iter().zip(flows) {
        assert_eq!(client.ask().as_deref(), first);
        assert_eq!(client.flow(&proxy), flow, "{}", client.to);
    }

    // An endpoint is removed: clients that keep sending reach the remaining one.
    proxy.write("dns.yaml", &service("dns", 53, OUTSIDE, &PODS[1..2]));
    for client in &clients {
        client.until(second, "an endpoint went");
    }
    // The last one is removed, although its pod would answer, and one is added.
    proxy.write("dns.yaml", &service("dns", 53, OUTSIDE, &[]));
    for client in &clients {
        client.until(None, "no endpoint");
    }
    proxy.write("dns.yaml", &service("dns", 53, OUTSIDE, &PODS[..1]));
    for client in &clients {
        client.until(first, "an endpoint came");
    }
    // The external addresses move to another Service; the cluster IP does not.
    let flow = clients[0].flow(&proxy);
    proxy.write("dns.yaml", &service("dns", 53, INSIDE, &PODS[..1]));
    proxy.write("other.yaml", &service("other", 54, OUTSIDE, &PODS[2..]));
    for client in &clients[1..] {
        client.until(third, "the address changed hands");
    }
    assert_eq!(clients[0].ask().as_deref(), first);
    assert_eq!(clients[0].flow(&proxy), flow);
    // Unrelated to any change.
    assert_eq!(bystander.ask().as_deref(), third);
    assert_eq!(bystander.flow(&proxy), kept);
}

in_each_mode!(
    only_stale_flows_are_removed,
    super::stale_flows_are_deleted_and_others_stay
);

fn stale_associations_are_deleted_and_others_stay(mode: Mode) {
    let sctp = |name, last, pods| service(name, last, INSIDE, pods).replace("UDP", "SCTP");
    let other = sctp("other", 54, &PODS[2..]);
    let files = [("a.yaml", sctp("a", 53, &PODS[..1])), ("other.yaml", other)];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    let proxy = Proxy::start(mode, &files, &[]);
    for pod in PODS {
        proxy.host.sh(&format!("ip addr add {pod}/32 dev lo"));
    }
    proxy.host.sh("ip route add default dev eth0");
    let mut associations = Associations::new(&proxy);
    let [to, of_other] = [CLUSTER_IP, OTHER_CLUSTER_IP].map(|a| a.parse().unwrap());
    let [first, second, third] = PODS.map(Some);
    let mut until = |port, to: SocketAddr, pod: Option<&str>, when: &str| {
        let what = format!("{when}: {to} leads to {pod:?}");
        eventually(&what, || associations.ask(port, to) == pod);
    };
    until(4001, to, first, "at start");
    until(4002, of_other, third, "at start");
    let from = |port| SocketAddr::new("10.200.1.2".parse().unwrap(), port);
    let bystander = || flow(&proxy, SCTP, from(4002), of_other);
    let kept = bystander();
    assert!(kept.is_some());
    let right = flow(&proxy, SCTP, from(4001), to);
    proxy.write("a.yaml", &sctp("a", 53, &PODS[..2]));
    proxy.wait_for(PODS[1], true);
    until(4001, to, first, "one more endpoint");
    assert_eq!(flow(&proxy, SCTP, from(4001), to), right);
    proxy.write("a.yaml", &sctp("a", 53, &PODS[1..2]));
    until(4001, to, second, "the endpoint went");
    proxy.write("a.yaml", &sctp("a", 53, &[]));
    until(4001, to, None, "no endpoint");
    proxy.write("a.yaml", &sctp("a", 53, &PODS[..1]));
    until(4001, to, first, "an endpoint came");
    assert_eq!(bystander(), kept);
}

in_each_mode!(
    only_stale_associations_are_removed,
    super::stale_associations_are_deleted_and_others_stay
);

/// A web server at a pod's address, which greets with it. `dead` drops every SYN to it.
fn web_server(proxy: &Proxy, ip: &'static str) {
    let listener = proxy.host.run(|| TcpListener::bind((ip, 8053)).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || greet(stream, ip));
        }
    });
}

fn greet(mut stream: TcpStream, ip: &str) {
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() && stream.write_all(ip.as_bytes()).is_ok() {}
}

fn ask(stream: &mut TcpStream) -> String {
    stream.write_all(b"?").unwrap();
    let mut answer = vec![0; PODS[0].len()];
    stream.read_exact(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

/// SYNs that the first pod's address has dropped.
fn dropped(proxy: &Proxy) -> u64 {
    let listing = proxy.host.sh("nft list chain inet dead input");
    let counter = listing.split("packets ").nth(1).unwrap();
    counter.split(' ').next().unwrap().parse().unwrap()
}

/// A proxy with a Service of one pod that has stopped answering, an established connection to it,
/// and a client whose first SYN went there.
struct HalfOpen {
    proxy: Proxy,
    established: TcpStream,
    client: JoinHandle<std::io::Result<TcpStream>>,
    source: SocketAddr,
}

impl HalfOpen {
    fn start(mode: Mode, flags: &[&str]) -> Self {
        let tcp = service("web", 53, INSIDE, &PODS[..1]).replace("UDP", "TCP");
        let proxy = Proxy::start(mode, &[("web.yaml", &tcp)], flags);
        for pod in PODS {
            proxy.host.sh(&format!("ip addr add {pod}/32 dev lo"));
        }
        proxy.host.sh("ip route add default dev eth0");
        for pod in PODS {
            web_server(&proxy, pod);
        }
        let to: SocketAddr = CLUSTER_IP.parse().unwrap();
        let mut established = None;
        eventually("the Service answers", || {
            established = proxy.host.run(|| TcpStream::connect(to).ok());
            established.is_some()
        });
        let mut established = established.unwrap();
        assert_eq!(ask(&mut established), PODS[0]);
        let dead = PODS[0];
        proxy.host.sh(&format!(
            "nft add table inet dead; \
             nft add chain inet dead input '{{ type filter hook input priority 300; }}'; \
             nft add rule inet dead input ip daddr {dead} 'tcp flags & (syn | ack) == syn' counter drop"
        ));
        let socket = proxy
            .host
            .run(|| Socket::new(Domain::IPV4, Type::STREAM, None).unwrap());
        socket
            .bind(&"10.200.1.2:0".parse::<SocketAddr>().unwrap().into())
            .unwrap();
        let source = socket.local_addr().unwrap().as_socket().unwrap();
        let client = std::thread::spawn(move || {
            socket.connect(&to.into())?;
            Ok(TcpStream::from(socket))
        });
        eventually("the first SYN is dropped", || dropped(&proxy) > 0);
        HalfOpen {
            proxy,
            established,
            client,
            source,
        }
    }

    /// Replaces the endpoint with another.
    fn replace(&mut self) {
        let web = service("web", 53, INSIDE, &PODS[1..2]).replace("UDP", "TCP");
        self.proxy.write("web.yaml", &web);
        self.proxy.wait_for(PODS[1], true);
    }

    fn flow(&self) -> Option<u32> {
        let to = CLUSTER_IP.parse().unwrap();
        flow(&self.proxy, IpProtocol::TCP, self.source, to)
    }
}

fn repeated_syn_reaches_another_endpoint(mode: Mode) {
    let mut test = HalfOpen::start(mode, &[]);
    test.replace();
    let mut connected = test.client.join().unwrap().unwrap();
    assert_eq!(ask(&mut connected), PODS[1]);
    assert_eq!(
        ask(&mut test.established),
        PODS[0],
        "established connections stay"
    );
}

in_each_mode!(
    a_repeated_syn_reaches_another_endpoint,
    super::repeated_syn_reaches_another_endpoint
);

/// The endpoint is replaced while no proxy runs.
fn restart_deletes_half_open_connections(mode: Mode) {
    let mut test = HalfOpen::start(mode, &[]);
    test.proxy.kill();
    let web = service("web", 53, INSIDE, &PODS[1..2]).replace("UDP", "TCP");
    test.proxy.write("web.yaml", &web);
    test.proxy.respawn();
    let mut connected = test.client.join().unwrap().unwrap();
    assert_eq!(ask(&mut connected), PODS[1]);
    assert_eq!(
        ask(&mut test.established),
        PODS[0],
        "established connections stay"
    );
}

in_each_mode!(
    a_restart_deletes_half_open_connections,
    super::restart_deletes_half_open_connections
);

fn half_open_connections_are_kept_on_request(mode: Mode) {
    let mut test = HalfOpen::start(mode, &["--conntrack-half-open=keep"]);
    let before = test.flow();
    assert!(before.is_some());
    test.replace();
    // The kernel repeats the SYN after one and after three seconds.
    let sent = dropped(&test.proxy);
    eventually("the SYN is repeated", || dropped(&test.proxy) >= sent + 2);
    assert_eq!(test.flow(), before);
    assert!(!test.client.is_finished());
}

in_each_mode!(
    half_open_connections_are_kept_if_the_flag_says_so,
    super::half_open_connections_are_kept_on_request
);
