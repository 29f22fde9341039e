//! Three hosts as threads in their own network namespaces: a node, its pods, and the outside.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, unshare};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6,
    SockaddrStorage, recv, recvfrom, sendto, setsockopt, socket, sockopt,
};
use nix::unistd::Pid;

use crate::wire::{Sight, delivered, sight};

type Job = Box<dyn FnOnce(&mut Inside) + Send>;

/// The sockets of a thread in its namespace.
pub struct Inside {
    raw4: OwnedFd,
    raw6: OwnedFd,
    link: OwnedFd,
    sniff: OwnedFd,
    given: Vec<(u8, OwnedFd)>,
    links: HashMap<&'static str, LinkAddr>,
    seen: HashMap<u16, Vec<Sight>>,
    fence: u32,
}

/// A frame that is not an IP packet and passes no rule. Everything sent before it on the same processor has
/// arrived when it arrives.
const FENCE: &[u8] = b"\xf5fence";
const PROTOCOLS: [(u8, SockProtocol); 3] = [
    (6, SockProtocol::Tcp),
    (17, SockProtocol::Udp),
    (132, SockProtocol::Sctp),
];

fn open(family: AddressFamily, kind: SockType, protocol: SockProtocol) -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, kind, flags, protocol).expect("a raw socket");
    setsockopt(&fd, sockopt::RcvBufForce, &(64 << 20)).expect("root, for a large buffer");
    fd
}

impl Inside {
    fn new() -> Self {
        use {AddressFamily as A, SockProtocol as P, SockType as T};
        let mut given = Vec::new();
        for family in [A::Inet, A::Inet6] {
            for (number, protocol) in PROTOCOLS {
                given.push((number, open(family, T::Raw, protocol)));
            }
        }
        given.push((1, open(A::Inet, T::Raw, P::Icmp)));
        given.push((58, open(A::Inet6, T::Raw, P::IcmpV6)));
        Self {
            raw4: open(A::Inet, T::Raw, P::Raw),
            raw6: open(A::Inet6, T::Raw, P::Raw),
            link: open(A::Packet, T::Raw, P::EthAll),
            sniff: open(A::Packet, T::Datagram, P::EthAll),
            given,
            links: HashMap::new(),
            seen: HashMap::new(),
            fence: 0,
        }
    }

    fn send(&self, packet: &[u8]) {
        // A drop in OUTPUT appears as EPERM, which is a result, too.
        let array = |at: usize| <[u8; 16]>::try_from(&packet[at..at + 16]).unwrap();
        if packet[0] >> 4 == 4 {
            let dst = <[u8; 4]>::try_from(&packet[16..20]).unwrap();
            let to = SockaddrIn::from(SocketAddrV4::new(dst.into(), 0));
            let _ = sendto(self.raw4.as_raw_fd(), packet, &to, MsgFlags::empty());
        } else {
            let to = SockaddrIn6::from(SocketAddrV6::new(array(24).into(), 0, 0, 0));
            let _ = sendto(self.raw6.as_raw_fd(), packet, &to, MsgFlags::empty());
        }
    }

    /// Put a frame onto a link, without this host's rules.
    fn put(&mut self, link: &'static str, to: [u8; 6], kind: [u8; 2], payload: &[u8]) {
        let here = *self.links.entry(link).or_insert_with(|| {
            let all = nix::ifaddrs::getifaddrs().expect("interfaces");
            let found = all
                .filter(|i| i.interface_name == link)
                .find_map(|i| i.address?.as_link_addr().copied());
            found.unwrap_or_else(|| panic!("no link {link}"))
        });
        let mut frame = to.to_vec();
        frame.extend(here.addr().unwrap());
        frame.extend(kind);
        frame.extend(payload);
        frame.resize(frame.len().max(60), 0);
        sendto(self.link.as_raw_fd(), &frame, &here, MsgFlags::empty()).expect("a frame sent");
    }

    /// Receive everything that has arrived.
    fn look(&mut self) {
        let mut buffer = [0_u8; 4096];
        while let Ok(len) = recv(self.sniff.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            let packet = &buffer[..len];
            if let Some(rest) = packet.strip_prefix(FENCE) {
                let number = u32::from_be_bytes(rest[..4].try_into().unwrap());
                self.fence = self.fence.max(number);
            } else if let Some((id, what)) = sight(packet) {
                self.seen.entry(id).or_default().push(what);
            }
        }
        // The link's own socket receives copies, which are not read.
        while recv(self.link.as_raw_fd(), &mut buffer, MsgFlags::empty()).is_ok() {}
        for (proto, fd) in &self.given {
            while let Ok((len, Some(from))) =
                recvfrom::<SockaddrStorage>(fd.as_raw_fd(), &mut buffer)
            {
                let from = from
                    .as_sockaddr_in()
                    .map(|a| IpAddr::V4(a.ip()))
                    .or_else(|| from.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())));
                let what = from.and_then(|ip| delivered(*proto, ip, &buffer[..len]));
                if let Some((id, what)) = what {
                    self.seen.entry(id).or_default().push(what);
                }
            }
        }
    }

    fn wait(&mut self, number: u32) {
        let patience = PollTimeout::from(20_000_u16);
        loop {
            self.look();
            if self.fence >= number {
                return;
            }
            let mut fds = [PollFd::new(self.sniff.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut fds, patience).unwrap_or(1);
            assert!(ready > 0, "fence {number} never came");
        }
    }
}

/// A thread in its own network namespace, which ends with it.
pub struct Host {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    tid: i32,
    links: &'static [&'static str],
}

impl Host {
    fn new(cpu: usize, links: &'static [&'static str]) -> Self {
        let (jobs, work): (Sender<Job>, Receiver<Job>) = channel();
        let (said, heard) = channel();
        let thread = std::thread::spawn(move || {
            // One processor for all hosts: packets stay in order.
            let mut one = CpuSet::new();
            one.set(cpu).unwrap();
            sched_setaffinity(Pid::from_raw(0), &one).expect("a processor to stay on");
            unshare(CloneFlags::CLONE_NEWNET).expect("root, to make network namespaces");
            let mut inside = Inside::new();
            said.send(nix::unistd::gettid().as_raw()).unwrap();
            for job in work {
                job(&mut inside);
            }
        });
        Self {
            jobs: Some(jobs),
            thread: Some(thread),
            tid: heard.recv().expect("the thread made its namespace"),
            links,
        }
    }

    /// Run something inside and return its result.
    fn run<T: Send + 'static>(&self, job: impl FnOnce(&mut Inside) -> T + Send + 'static) -> T {
        let (said, heard) = channel();
        let job: Job = Box::new(move |inside| said.send(job(inside)).unwrap());
        self.jobs.as_ref().unwrap().send(job).unwrap();
        heard.recv().expect("the job did not panic")
    }

    /// Run a shell script inside and return its output.
    pub fn sh(&self, script: &str) -> String {
        self.feed(&["sh", "-ec", script], "")
    }

    /// Run a program inside with this input and return its output; panic with its errors if it fails.
    pub fn feed(&self, command: &[&str], input: &str) -> String {
        self.try_feed(command, input)
            .unwrap_or_else(|said| panic!("{command:?}: {said}\n{input}"))
    }

    /// As [`Self::feed`], with the errors as a result.
    pub fn try_feed(&self, command: &[&str], input: &str) -> Result<String, String> {
        let command: Vec<String> = command.iter().map(|s| (*s).to_owned()).collect();
        let input = input.to_owned();
        self.run(move |_| {
            let mut child = Command::new(&command[0])
                .args(&command[1..])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap_or_else(|e| panic!("{}: {e}", command[0]));
            let mut stdin = child.stdin.take().unwrap();
            let writing = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
            let out = child.wait_with_output().unwrap();
            drop(writing.join().unwrap());
            if out.status.success() {
                Ok(String::from_utf8(out.stdout).unwrap())
            } else {
                Err(String::from_utf8_lossy(&out.stderr).into_owned())
            }
        })
    }

    fn fence(&self, number: u32) {
        let links = self.links;
        self.run(move |inside| {
            let mut payload = FENCE.to_vec();
            payload.extend(number.to_be_bytes());
            for link in links {
                inside.put(link, [0xff; 6], [0x88, 0xb5], &payload);
            }
        });
    }

    fn wait(&self, number: u32) {
        self.run(move |inside| inside.wait(number));
    }

    /// Return what was seen since the last call, by the probes' ids.
    fn seen(&self) -> HashMap<u16, Vec<Sight>> {
        self.run(|inside| {
            inside.look();
            std::mem::take(&mut inside.seen)
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic inside was already reported by the missing result.
            drop(thread.join());
        }
    }
}

/// Where a packet starts, and where it is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    Pods,
    Node,
    Outside,
}

/// The node of `common::node_facts`, except that its pods are not neighbours and their bridge calls no
/// rules: `pods (p0) -- (veth11) cbr0 node eth0 -- (e0) outside`.
pub struct Net {
    pods: Host,
    pub node: Host,
    outside: Host,
    fences: AtomicUsize,
    macs: [[u8; 6]; 2],
}

const NODE: &str = "
ip link set lo up
ip link add eth0 type veth peer name e0 netns OUTSIDE
ip link add cbr0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0
ip link add veth11 type veth peer name p0 netns PODS
ip link set veth11 master cbr0
cd /proc/sys/net
for f in ipv4/conf/*/rp_filter ipv4/conf/*/send_redirects ipv6/conf/*/accept_dad ipv6/conf/*/accept_ra ipv6/conf/*/router_solicitations; do echo 0 > $f; done
for f in ipv4/icmp_ratemask ipv4/icmp_ratelimit ipv6/icmp/ratelimit; do echo 0 > $f; done
for f in ipv4/icmp_msgs_per_sec ipv4/icmp_msgs_burst; do echo 1000000 > $f || true; done
for f in bridge/bridge-nf-call-iptables bridge/bridge-nf-call-ip6tables; do test ! -e $f || echo 0 > $f; done
for f in ipv4/ip_forward ipv6/conf/all/forwarding ipv4/conf/all/route_localnet netfilter/nf_conntrack_tcp_be_liberal; do echo 1 > $f; done
echo 0 > netfilter/nf_conntrack_tcp_loose
ip addr add 10.200.1.2/24 dev eth0
ip addr add fd00:200:1::2/64 dev eth0 nodad
ip addr add 10.244.1.1/32 dev cbr0
ip addr add fd00:10:244:1::1/128 dev cbr0 nodad
ip link set eth0 up
ip link set veth11 up
ip link set cbr0 up
ip route add 10.244.1.0/24 dev cbr0 src 10.244.1.1
ip route add fd00:10:244:1::/64 dev cbr0
ip route add default via 10.200.1.1 dev eth0
ip route add 10.244.2.0/24 via 10.200.1.3 dev eth0
ip route add 10.244.3.0/24 via 10.200.1.4 dev eth0
ip route add default via fd00:200:1::1 dev eth0
ip route add fd00:10:244:2::/64 via fd00:200:1::3 dev eth0
";

const QUIET: &str = "
echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6
ip link set DEV up
";

fn mac_of(host: &Host, dev: &str) -> String {
    host.sh(&format!("ip -o link show {dev}"))
        .split_whitespace()
        .skip_while(|w| *w != "link/ether")
        .nth(1)
        .expect("a hardware address")
        .to_owned()
}

fn bytes_of(mac: &str) -> [u8; 6] {
    let bytes: Vec<u8> = mac
        .split(':')
        .map(|b| u8::from_str_radix(b, 16).unwrap())
        .collect();
    bytes.try_into().unwrap()
}

impl Net {
    pub fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let allowed = sched_getaffinity(Pid::from_raw(0)).expect("this thread's processors");
        let cpus: Vec<usize> = (0..CpuSet::count())
            .filter(|cpu| allowed.is_set(*cpu).unwrap_or(false))
            .collect();
        let cpu = cpus[NEXT.fetch_add(1, Ordering::Relaxed) % cpus.len()];
        let pods = Host::new(cpu, &["p0"]);
        let node = Host::new(cpu, &["eth0", "cbr0"]);
        let outside = Host::new(cpu, &["e0"]);
        let script = NODE
            .replace("OUTSIDE", &outside.tid.to_string())
            .replace("PODS", &pods.tid.to_string());
        node.sh(&script);
        for (host, dev) in [(&pods, "p0"), (&outside, "e0")] {
            host.sh(&QUIET.replace("DEV", dev));
        }
        let (pod_mac, out_mac) = (mac_of(&pods, "p0"), mac_of(&outside, "e0"));
        // Neighbours are known from the start, so that no packet waits for them.
        let mut batch = String::new();
        for n in 2..255 {
            for (net, dev, mac) in [
                ("10.244.1.", "cbr0", &pod_mac),
                ("10.200.1.", "eth0", &out_mac),
                ("fd00:10:244:1::", "cbr0", &pod_mac),
                ("fd00:200:1::", "eth0", &out_mac),
            ] {
                if net != "10.200.1." && net != "fd00:200:1::" || n != 2 {
                    batch.push_str(&format!(
                        "neigh replace {net}{n} lladdr {mac} dev {dev} nud permanent\n"
                    ));
                }
            }
        }
        for net in ["10.200.1.1", "fd00:200:1::1"] {
            batch.push_str(&format!(
                "neigh replace {net} lladdr {out_mac} dev eth0 nud permanent\n"
            ));
        }
        node.feed(&["ip", "-batch", "-"], &batch);
        let macs = [
            bytes_of(&mac_of(&node, "cbr0")),
            bytes_of(&mac_of(&node, "eth0")),
        ];
        Self {
            pods,
            node,
            outside,
            fences: AtomicUsize::new(0),
            macs,
        }
    }

    /// Wait until all packets have reached their ends.
    fn settle(&self, from: Place) {
        let next = || u32::try_from(self.fences.fetch_add(1, Ordering::Relaxed) + 1).unwrap();
        let sender = match from {
            Place::Pods => Some(&self.pods),
            Place::Outside => Some(&self.outside),
            Place::Node => None,
        };
        if let Some(sender) = sender {
            let number = next();
            sender.fence(number);
            self.node.wait(number);
        }
        // Twice, for the node's packets to itself and then to others.
        for _ in 0..2 {
            let number = next();
            self.node.fence(number);
            self.pods.wait(number);
            self.outside.wait(number);
        }
    }

    /// Send packets and return the fate of each by its id.
    pub fn try_out(&self, from: Place, packets: Vec<Vec<u8>>) -> HashMap<u16, Vec<(Place, Sight)>> {
        for host in [&self.pods, &self.node, &self.outside] {
            host.seen();
        }
        let (sender, link, mac) = match from {
            Place::Pods => (&self.pods, "p0", self.macs[0]),
            Place::Outside => (&self.outside, "e0", self.macs[1]),
            Place::Node => (&self.node, "", [0; 6]),
        };
        sender.run(move |inside| {
            for packet in packets {
                let kind = if packet[0] >> 4 == 4 {
                    [0x08, 0x00]
                } else {
                    [0x86, 0xdd]
                };
                if from == Place::Node {
                    inside.send(&packet);
                } else {
                    inside.put(link, mac, kind, &packet);
                }
            }
        });
        self.settle(from);
        let mut all: HashMap<u16, Vec<(Place, Sight)>> = HashMap::new();
        for (place, host) in [
            (Place::Pods, &self.pods),
            (Place::Node, &self.node),
            (Place::Outside, &self.outside),
        ] {
            for (id, sights) in host.seen() {
                let all = all.entry(id).or_default();
                for s in sights {
                    let counts = match s {
                        // A sender sees what it sends, and the node what it forwards. What IPVS
                        // sends for the node itself counts as forwarded.
                        Sight::Sent { fresh, .. } => {
                            place != Place::Node && (!fresh || from == Place::Node)
                        }
                        Sight::Delivered { .. } => place == Place::Node,
                        Sight::Icmp {
                            ours: true, fresh, ..
                        } => place != Place::Node && !fresh,
                        // The node also sees its packets to others.
                        Sight::Icmp { .. } | Sight::Reset { .. } => place == from,
                    };
                    // On loopback every packet is seen twice.
                    if counts && !all.contains(&(place, s)) {
                        all.push((place, s));
                    }
                }
            }
        }
        all
    }
}
