//! Three hosts as threads in network namespaces of their own: a client, a router, a server.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, socket,
};

use crate::wire::{Probe, Sight, sight};

type Job = Box<dyn FnOnce(&mut Inside) + Send>;

/// What a thread in its namespace works with.
pub struct Inside {
    raw: OwnedFd,
    sniff: OwnedFd,
}

/// A thread in a network namespace of its own, which goes away with it.
pub struct Host {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    pub tid: i32,
}

impl Host {
    pub fn new() -> Self {
        let (jobs, work): (Sender<Job>, Receiver<Job>) = channel();
        let (said, heard) = channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root, to make network namespaces");
            let open = |family, kind, protocol| {
                socket(
                    family,
                    kind,
                    SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
                    protocol,
                )
                .expect("a raw socket")
            };
            let mut inside = Inside {
                raw: open(AddressFamily::Inet, SockType::Raw, SockProtocol::Raw),
                sniff: open(
                    AddressFamily::Packet,
                    SockType::Datagram,
                    SockProtocol::EthAll,
                ),
            };
            said.send(nix::unistd::gettid().as_raw()).unwrap();
            for job in work {
                job(&mut inside);
            }
        });
        Self {
            jobs: Some(jobs),
            thread: Some(thread),
            tid: heard.recv().expect("the thread made its namespace"),
        }
    }

    /// Does something inside, and waits for its answer.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce(&mut Inside) -> T + Send + 'static) -> T {
        let (said, heard) = channel();
        let job: Job = Box::new(move |inside| said.send(job(inside)).unwrap());
        self.jobs.as_ref().unwrap().send(job).unwrap();
        heard.recv().expect("the job did not panic")
    }

    /// Runs a shell script inside; its output.
    pub fn sh(&self, script: &str) -> String {
        self.feed(&["sh", "-ec", script], "")
    }

    /// Runs a program inside with this input; its output. Panics with what it says where it fails.
    pub fn feed(&self, command: &[&str], input: &str) -> String {
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
            child
                .stdin
                .take()
                .unwrap()
                .write_all(input.as_bytes())
                .unwrap();
            let out = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(out.status.success(), "{command:?}: {said}\n{input}");
            String::from_utf8(out.stdout).unwrap()
        })
    }

    /// Sends packets.
    pub fn send(&self, probes: Vec<Probe>) {
        self.run(move |inside| {
            for p in probes {
                let to = SockaddrIn::from(SocketAddrV4::new(p.dst, 0));
                // EPERM is how a drop in OUTPUT shows; it is a result like any other.
                let _ = sendto(inside.raw.as_raw_fd(), &p.bytes(), &to, MsgFlags::empty());
            }
        });
    }

    /// What was seen since last asked, by source port.
    pub fn seen(&self) -> HashMap<u16, Vec<Sight>> {
        self.run(|inside| {
            let mut all: HashMap<u16, Vec<Sight>> = HashMap::new();
            let mut buffer = [0_u8; 2048];
            while let Ok(len) = recv(inside.sniff.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                if let Some((id, what)) = sight(&buffer[..len]) {
                    all.entry(id).or_default().push(what);
                }
            }
            all
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic inside has already been told through the answer that did not come.
            drop(thread.join());
        }
    }
}

/// `client -- (rc) router (rs) -- server`.
pub struct Net {
    pub client: Host,
    pub router: Host,
    pub server: Host,
}

/// The router as the tracer knows it.
pub const FACTS: &str = r#"{
  "version": 1,
  "interfaces": [
    {"name": "lo", "index": 1, "up": true, "addresses": ["127.0.0.1/8"]},
    {"name": "rc", "index": 2, "up": true, "addresses": ["10.77.0.1/24"]},
    {"name": "rs", "index": 3, "up": true, "addresses": ["10.78.0.1/24"]}
  ],
  "routes": [
    {"dst": "default", "via": "10.78.0.2", "dev": "rs"},
    {"dst": "10.77.0.0/24", "dev": "rc"},
    {"dst": "10.78.0.0/24", "dev": "rs"},
    {"dst": "198.51.100.0/24", "via": "10.77.0.2", "dev": "rc"}
  ],
  "sysctls": {"net.ipv4.ip_forward": "1"}
}"#;

impl Net {
    pub fn new() -> Self {
        let net = Self {
            client: Host::new(),
            router: Host::new(),
            server: Host::new(),
        };
        net.router.sh(&format!(
            "ip link set lo up
             ip link add rc type veth peer name c0 netns {}
             ip link add rs type veth peer name s0 netns {}
             ip addr add 10.77.0.1/24 dev rc; ip link set rc up
             ip addr add 10.78.0.1/24 dev rs; ip link set rs up
             sysctl -qw net.ipv4.ip_forward=1 net.ipv4.icmp_ratemask=0 net.ipv4.conf.all.rp_filter=0
             sysctl -qw net.ipv4.conf.rc.rp_filter=0 net.ipv4.conf.rs.rp_filter=0
             sysctl -qw net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.rc.send_redirects=0 net.ipv4.conf.rs.send_redirects=0
             sysctl -qw net.ipv4.icmp_msgs_per_sec=1000000 net.ipv4.icmp_msgs_burst=1000000 || true",
            net.client.tid, net.server.tid
        ));
        for (host, dev, ip, via) in [
            (&net.client, "c0", "10.77.0.2", "10.77.0.1"),
            (&net.server, "s0", "10.78.0.2", "10.78.0.1"),
        ] {
            host.sh(&format!(
                "ip link set lo up; ip addr add {ip}/24 dev {dev}; ip link set {dev} up
                 ip route add default via {via}
                 sysctl -qw net.ipv4.ip_forward=0"
            ));
        }
        net.router.sh("ip route add default via 10.78.0.2 dev rs
             ip route add 198.51.100.0/24 via 10.77.0.2 dev rc");
        // Addresses of the links are known from the start, so that no packet waits for them.
        for (host, dev, peer, peer_dev, ip) in [
            (&net.client, "c0", &net.router, "rc", "10.77.0.1"),
            (&net.server, "s0", &net.router, "rs", "10.78.0.1"),
            (&net.router, "rc", &net.client, "c0", "10.77.0.2"),
            (&net.router, "rs", &net.server, "s0", "10.78.0.2"),
        ] {
            let mac = peer.sh(&format!("cat /sys/class/net/{peer_dev}/address || ip -br link show {peer_dev} | awk '{{print $3}}'"));
            let mac = if mac.trim().contains(':') {
                mac.trim().to_owned()
            } else {
                panic!("no hardware address for {peer_dev}")
            };
            host.sh(&format!(
                "ip neigh replace {ip} lladdr {mac} dev {dev} nud permanent"
            ));
        }
        net.settle();
        net
    }

    fn settle(&self) {
        for host in [&self.client, &self.router, &self.server] {
            host.seen();
        }
    }

    /// Sends from the client (or the router itself), and tells what became of each.
    pub fn try_out(&self, from_router: bool, probes: &[Probe]) -> Vec<Vec<Sight>> {
        self.settle();
        let sender = if from_router {
            &self.router
        } else {
            &self.client
        };
        for some in probes.chunks(32) {
            sender.send(some.to_vec());
        }
        std::thread::sleep(Duration::from_millis(15));
        let mut seen: HashMap<u16, Vec<Sight>> = HashMap::new();
        let hosts: &[&Host] = if from_router {
            &[&self.server, &self.client, &self.router]
        } else {
            &[&self.server, &self.client]
        };
        for host in hosts {
            let is_router = std::ptr::eq(*host, &self.router);
            for (id, mut sights) in host.seen() {
                // A sender sees what it sends, and the router what it forwards; on loopback
                // everything is seen twice.
                sights.retain(|s| match s {
                    Sight::Forwarded { fresh, .. } => !is_router && *fresh == from_router,
                    _ => true,
                });
                if is_router {
                    sights.dedup();
                }
                seen.entry(id).or_default().extend(sights);
            }
        }
        let of = |p: &Probe| seen.get(&p.sport).cloned().unwrap_or_default();
        probes.iter().map(of).collect()
    }
}
