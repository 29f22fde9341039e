//! A node's namespace with a link to its pods and one to everything else. Whole packets are sent from
//! behind the links, or from the node itself, with unassigned source addresses. The fate of each is
//! read from the node's flow table and from the replies.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use kernel::conntrack::{Conntrack, Filter};
use kernel::family::Family;
use kernel::netns::NetNs;
use model::IpFamily;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::unistd::Pid;

use crate::flows::{Flow, From, Side};
use crate::packet::{self, Answer, ICMP, ICMPV6, Packet, Refusal, TCP};
use crate::support::run;
use crate::world::{NODE_ADDRESSES, World};

/// How many packets of each flow are sent in a round. All rounds together miss one endpoint of three
/// once in a hundred million times.
const TRIES: u16 = 10;
const ROUNDS: usize = 5;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// Translated to the endpoint.
    To {
        endpoint: SocketAddr,
        masqueraded: bool,
    },
    /// Let through as it was.
    Passed {
        masqueraded: bool,
    },
    Refused(Refusal),
    Dropped,
}

pub(crate) type Fates = BTreeMap<Flow, BTreeSet<Fate>>;

pub(crate) struct Fabric {
    pub(crate) node: NetNs,
    pods: NetNs,
    outside: NetNs,
    world: World,
    /// The endpoint on the host's own network, so that packets to it are answered.
    _host_endpoint: TcpListener,
}

impl Fabric {
    pub(crate) fn raise(name: &str, link: &str, world: World) -> Self {
        let id = std::process::id();
        let name = format!("nft-{name}-{world:?}-{id}");
        let make = |role: &str| NetNs::create(&format!("{name}-{role}")).expect("root");
        let (node, pods, outside) = (make("node"), make("pods"), make("out"));
        node.run(|| run(&node_script(link, pods.name(), outside.name(), world)))
            .expect("the node");
        for (ns, mac) in [(&pods, "01"), (&outside, "03")] {
            ns.run(|| run(&neighbour_script(mac, world)))
                .expect("a neighbour");
        }
        let listen = || TcpListener::bind((world.address(NODE_ADDRESSES[0]), 9100));
        let listener = node.run(listen).expect("the node").expect("a listener");
        Fabric {
            node,
            pods,
            outside,
            world,
            _host_endpoint: listener,
        }
    }

    /// Return the fates of every flow. Only flows that reached an endpoint can have other fates after
    /// the first round.
    pub(crate) fn collect(&self, flows: &[Flow]) -> Fates {
        let mut all = self.fates(flows, 0);
        let chosen = |fates: &BTreeSet<Fate>| fates.iter().any(|f| matches!(f, Fate::To { .. }));
        let balanced = all.iter().filter(|(_, fates)| chosen(fates));
        let balanced: Vec<Flow> = balanced.map(|(flow, _)| *flow).collect();
        for round in 1..ROUNDS {
            for (flow, fates) in self.fates(&balanced, round) {
                all.entry(flow).or_default().extend(fates);
            }
        }
        all
    }

    pub(crate) fn fates(&self, flows: &[Flow], round: usize) -> Fates {
        let numbers = round as u16 * TRIES..(round as u16 + 1) * TRIES;
        let packets: Vec<(Flow, Packet)> = flows
            .iter()
            .flat_map(|flow| numbers.clone().map(|n| (*flow, flow.packet(n, self.world))))
            .collect();
        let mut fates: Fates = BTreeMap::new();
        for (flow, _, fate) in self.send(packets) {
            fates.entry(flow).or_default().insert(fate);
        }
        fates
    }

    /// Send every packet and return its fate.
    pub(crate) fn send(&self, packets: Vec<(Flow, Packet)>) -> Vec<(Flow, Packet, Fate)> {
        let mut refused = HashMap::new();
        for (ns, link, side, fence) in [
            (&self.pods, Some("wan"), Side::Pods, From::Pod),
            (&self.outside, Some("wan"), Side::Outside, From::Outside),
            (&self.node, None, Side::Node, From::Node),
        ] {
            let packets = packets.iter().filter(|(flow, _)| flow.from.side() == side);
            let packets: Vec<Packet> = packets.map(|(_, packet)| *packet).collect();
            let fence = fence.source(0, self.world);
            let sent = ns.run(|| send(link, &packets, fence, self.world));
            refused.extend(sent.expect("a thread in the namespace"));
        }
        let tracked = || tracked(self.world.family());
        let tracked = self.node.run(tracked).expect("the flow table");
        let fate = |packet: &Packet| match (tracked.get(packet), refused.get(packet)) {
            // A rule in the hook `input` refuses after the hook `postrouting` has recorded a flow of the
            // node to itself. Without such a rule, TCP answers with a reset.
            (Some(_), Some(refusal @ Refusal::Icmp(..))) if packet.protocol == TCP => {
                Fate::Refused(refusal.clone())
            }
            (Some(fate), _) => fate.clone(),
            (None, Some(refusal)) => Fate::Refused(refusal.clone()),
            (None, None) => Fate::Dropped,
        };
        packets
            .into_iter()
            .map(|(flow, packet)| (flow, packet, fate(&packet)))
            .collect()
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        for ns in [&self.node, &self.pods, &self.outside] {
            let _ = NetNs::delete(ns.name());
        }
    }
}

/// Return `ip`'s flag for the family, and the number of bits of an address.
fn family_words(world: World) -> (&'static str, u8) {
    match world.family() {
        IpFamily::V4 => ("-4", 32),
        IpFamily::V6 => ("-6", 128),
    }
}

/// Return the hop on the other side of a link, which belongs to neither a node nor a pod.
fn hop(number: u8, world: World) -> IpAddr {
    world.address(Ipv4Addr::new(10, 9, 9, number))
}

fn node_script(link: &str, pods: &str, outside: &str, world: World) -> String {
    let (f, bits) = family_words(world);
    let at = |ip: [u8; 4]| world.address(ip.into());
    let [primary, second, gateway] = NODE_ADDRESSES.map(|ip| world.address(ip));
    let pod = at([10, 244, 1, 0]);
    let (pods_hop, outside_hop) = (hop(2, world), hop(4, world));
    let nodad = if bits == 128 { "nodad" } else { "" };
    let (node_range, pod_range) = if bits == 128 { (64, 64) } else { (24, 24) };
    let nodes: String = (9..160)
        .map(|last| at([10, 200, 1, last]))
        .map(|node| format!("ip {f} neigh add {node} lladdr 02:00:00:00:00:04 dev eth0\n"))
        .collect();
    format!(
        "set -e
        ip link set lo up
        sysctl -qw net.ipv4.ip_forward=1 net.ipv4.icmp_ratemask=0 \
            net.ipv6.conf.all.forwarding=1 net.ipv6.icmp.ratemask=129 \
            net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
        ip link add {link} address 02:00:00:00:00:01 type veth \
            peer name wan netns {pods} address 02:00:00:00:00:02
        ip link add eth0 address 02:00:00:00:00:03 type veth \
            peer name wan netns {outside} address 02:00:00:00:00:04
        ip link set {link} up
        ip link set eth0 up
        ip {f} addr add {primary}/{node_range} dev eth0 {nodad}
        ip {f} addr add {second}/{node_range} dev eth0 {nodad}
        ip {f} addr add {gateway}/{bits} dev {link} {nodad}
        ip {f} neigh add {pods_hop} lladdr 02:00:00:00:00:02 dev {link}
        ip {f} neigh add {outside_hop} lladdr 02:00:00:00:00:04 dev eth0
        ip {f} route add {pod}/{pod_range} via {pods_hop} dev {link} onlink
        ip {f} route add default via {outside_hop} dev eth0 onlink
        {nodes}
        # By default an unanswered SCTP flow expires after three seconds.
        sysctl -qw net.netfilter.nf_conntrack_sctp_timeout_closed=600 \
            net.netfilter.nf_conntrack_sctp_timeout_cookie_wait=600"
    )
}

/// Return the commands that set up a neighbour: it accepts every packet without an answer, and sends
/// only through the link.
fn neighbour_script(mac: &str, world: World) -> String {
    let (f, bits) = family_words(world);
    let (own, node) = (hop(2, world), hop(1, world));
    let nodad = if bits == 128 { "nodad" } else { "" };
    format!(
        "set -e
        ip link set lo up
        ip link set wan up
        sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.wan.rp_filter=0
        ip {f} addr add {own}/{bits} dev wan {nodad}
        ip {f} neigh add {node} lladdr 02:00:00:00:00:{mac} dev wan
        ip {f} route add default via {node} dev wan onlink
        ip {f} route add local default dev lo table local
        nft 'add table inet deaf; add chain inet deaf in {{ type filter hook input priority 0; policy drop; }}'"
    )
}

/// A socket that captures every packet in the calling thread's namespace.
struct Capture(OwnedFd);

impl Capture {
    fn open() -> Self {
        let flags = SockFlag::SOCK_CLOEXEC;
        let every = SockProtocol::EthAll;
        let fd = socket(AddressFamily::Packet, SockType::Datagram, flags, every).expect("root");
        setsockopt(&fd, sockopt::RcvBufForce, &(64 << 20)).expect("room");
        Capture(fd)
    }

    /// Receive all available packets; return whether the fence was among them.
    fn drain(&self, refused: &mut HashMap<Packet, Refusal>) -> bool {
        let mut fence = false;
        let mut buffer = [0; 2048];
        while let Ok(len) = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            match packet::answer(&buffer[..len]) {
                Some(Answer::Refused(packet, refusal)) => drop(refused.insert(packet, refusal)),
                Some(Answer::Fence) => fence = true,
                None => {}
            }
        }
        fence
    }
}

/// Send the packets from the calling thread's namespace and return those that were refused.
fn send(
    link: Option<&str>,
    packets: &[Packet],
    fence: IpAddr,
    world: World,
) -> HashMap<Packet, Refusal> {
    // On one CPU packets keep their order: when the node has answered the last one, all earlier ones
    // have been processed.
    let mut cpu = CpuSet::new();
    cpu.set(sched_getcpu().expect("a CPU")).expect("its number");
    sched_setaffinity(Pid::from_raw(0), &cpu).expect("this thread");
    let capture = Capture::open();
    let (family, icmp) = match world.family() {
        IpFamily::V4 => (AddressFamily::Inet, ICMP),
        IpFamily::V6 => (AddressFamily::Inet6, ICMPV6),
    };
    let flags = SockFlag::SOCK_CLOEXEC;
    let out = socket(family, SockType::Raw, flags, SockProtocol::Raw).expect("root");
    if let Some(link) = link {
        setsockopt(&out, sockopt::BindToDevice, &link.into()).expect("the link");
    }
    let mut refused = HashMap::new();
    let send = |packet: &Packet, number| {
        let to = SockaddrStorage::from(SocketAddr::new(packet.destination.ip(), 0));
        // A packet refused in the output hook is an error here; the fence detects other errors.
        let _ = sendto(
            out.as_raw_fd(),
            &packet.bytes(number),
            &to,
            MsgFlags::empty(),
        );
    };
    for some in packets.chunks(64) {
        some.iter()
            .for_each(|packet| send(packet, packet.source.port()));
        capture.drain(&mut refused);
    }
    let last = Packet {
        protocol: icmp,
        source: SocketAddr::new(fence, 0),
        destination: SocketAddr::new(world.address(NODE_ADDRESSES[0]), 0),
    };
    send(&last, packet::FENCE);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !capture.drain(&mut refused) {
        assert!(
            Instant::now() < deadline,
            "the node does not answer {last:?}"
        );
        let mut wait = [PollFd::new(capture.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut wait, PollTimeout::from(1000_u16)).expect("a packet");
    }
    refused
}

/// Return the fate of each packet from the node's flow table.
fn tracked(family: IpFamily) -> HashMap<Packet, Fate> {
    let family = match family {
        IpFamily::V4 => Family::Ipv4,
        IpFamily::V6 => Family::Ipv6,
    };
    let mut conntrack = Conntrack::open().expect("conntrack");
    let mut found = HashMap::new();
    conntrack
        .dump(&Filter::all(family), |flow| {
            let packet = Packet {
                protocol: flow.original.protocol.0,
                source: flow.original.source(),
                destination: flow.original.destination(),
            };
            let endpoint = flow.reply.source();
            let masqueraded = flow.reply.destination != flow.original.source;
            let fate = if endpoint == packet.destination {
                Fate::Passed { masqueraded }
            } else {
                Fate::To {
                    endpoint,
                    masqueraded,
                }
            };
            found.insert(packet, fate);
        })
        .expect("the flows");
    found
}
