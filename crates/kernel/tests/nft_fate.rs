//! The same packets through sluice's table and through what kube-proxy v1.36.2 was observed to
//! program for the same objects and flags meet the same fate: the same set of endpoints, masqueraded
//! or not, or refused, or dropped.
//!
//! A node's namespace has a link to its pods and one to everything else; whole packets are sent from
//! behind the links, or from the node itself, with sources that nobody has. What became of each is
//! read from the node's flow table, and from the errors that come back.

mod support;
#[path = "support/nft.rs"]
mod support_nft;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dataplane::nftables::{Options, Sync};
use kernel::conntrack::{Conntrack, Filter};
use kernel::family::Family;
use kernel::netns::NetNs;
use model::IpFamily;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto,
    setsockopt, socket, sockopt,
};
use plan::{LocalTraffic, NodePortAddresses, Plan, Planner, Settings};

use support::run;
use support_nft::Live;

/// How many packets of each flow are sent in a round. All rounds together miss one endpoint of three
/// once in a hundred million times.
const TRIES: u16 = 10;
const ROUNDS: usize = 5;
const NODE: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 2);

/// Original tuple of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Packet {
    protocol: u8,
    source: SocketAddrV4,
    destination: SocketAddrV4,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// Translated to the endpoint.
    To {
        endpoint: SocketAddrV4,
        masqueraded: bool,
    },
    /// Let through as it was.
    Passed {
        masqueraded: bool,
    },
    Refused,
    Dropped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum From {
    Pod,
    /// A pod that is itself an endpoint of a Service.
    Endpoint(Ipv4Addr),
    Node,
    OtherNode,
    RemotePod,
    Outside,
    OutsideAllowed,
}

impl From {
    /// The source of the packet of this number.
    fn source(self, number: u16) -> Ipv4Addr {
        let last = 100 + number as u8;
        match self {
            From::Pod => Ipv4Addr::new(10, 244, 1, last),
            From::Endpoint(ip) => ip,
            From::Node => NODE,
            From::OtherNode => Ipv4Addr::new(10, 200, 1, last),
            From::RemotePod => Ipv4Addr::new(10, 244, 2, last),
            From::Outside => Ipv4Addr::new(192, 0, 2, last),
            From::OutsideAllowed => Ipv4Addr::new(203, 0, 113, last),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FlowKind {
    from: From,
    protocol: u8,
    destination: SocketAddrV4,
}

/// One way of running kube-proxy, as `testdata/observed/README.md` has them.
struct Configuration {
    name: &'static str,
    local: LocalTraffic,
    masquerade_all: bool,
    node_ports: NodePortAddresses,
    /// The name of the pods' link.
    link: &'static str,
}

fn observed(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../testdata/observed")
        .join(file)
}

fn cluster_cidr() -> LocalTraffic {
    let cidrs = ["10.244.0.0/16", "fd00:10:244::/56"];
    LocalTraffic::ClusterCidr(cidrs.iter().map(|c| c.parse().unwrap()).collect())
}

fn plan(configuration: &Configuration) -> Plan {
    let batch = source::read_once([observed("objects.json")]);
    assert!(batch.initial_list_complete, "{:?}", batch.problems);
    let mut planner = Planner::new(Settings {
        node_name: "node1".to_owned(),
        local_traffic: configuration.local.clone(),
        masquerade_all: configuration.masquerade_all,
        node_port_addresses: configuration.node_ports.clone(),
    });
    planner.set_host_addresses(vec![NODE.into(), "fd00:200:1::2".parse().unwrap()]);
    planner.apply_all(batch.events);
    planner.take_diff();
    planner.plan(IpFamily::V4).clone()
}

/// Every frontend, and what is next to them, from everywhere, by every protocol.
fn flows(plan: &Plan) -> Vec<FlowKind> {
    let mut destinations = BTreeSet::new();
    let mut endpoints = BTreeSet::from([Ipv4Addr::new(10, 244, 1, 11)]);
    for port in plan.ports.values() {
        for frontend in port.frontends() {
            let ip = match frontend.ip {
                Some(IpAddr::V4(ip)) => ip,
                _ => NODE,
            };
            destinations.insert(SocketAddrV4::new(ip, frontend.port.get()));
        }
        let local = port.local.iter().chain(port.cluster.iter());
        endpoints.extend(local.filter(|e| e.is_local).filter_map(|e| match e.ip {
            IpAddr::V4(ip) if ip != NODE => Some(ip),
            _ => None,
        }));
    }
    // A port that no Service has, an address that none has, one that is another proxy's, a port
    // that is no NodePort, and pods themselves.
    for other in [
        "10.96.10.1:81",
        "10.96.77.77:80",
        "10.96.10.16:80",
        "10.200.1.2:31999",
        "10.200.1.9:30008",
        "10.244.1.11:8080",
        "10.244.2.11:8080",
    ] {
        destinations.insert(other.parse().unwrap());
    }
    let mut flows = Vec::new();
    for destination in destinations {
        for protocol in [6, 17, 132] {
            for from in [
                From::Pod,
                From::Node,
                From::OtherNode,
                From::RemotePod,
                From::Outside,
                From::OutsideAllowed,
            ] {
                flows.push(FlowKind {
                    from,
                    protocol,
                    destination,
                });
            }
        }
        for ip in &endpoints {
            flows.push(FlowKind {
                from: From::Endpoint(*ip),
                protocol: 6,
                destination,
            });
        }
    }
    flows
}

/// A whole IPv4 packet that begins a flow; the node does not look at transport checksums.
fn bytes(packet: &Packet) -> Vec<u8> {
    let mut transport = Vec::new();
    transport.extend(packet.source.port().to_be_bytes());
    transport.extend(packet.destination.port().to_be_bytes());
    match packet.protocol {
        // Sequence and acknowledgement numbers, header of five words, SYN, window.
        6 => transport.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]),
        17 => transport.extend([0, 12, 0, 0, b't', b'e', b's', b't']),
        // No tag and no checksum, then an INIT chunk of 20 bytes: tag, window, streams, number.
        _ => transport.extend([
            0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0,
            1,
        ]),
    }
    let length = (20 + transport.len()) as u16;
    let mut ip = vec![0x45, 0];
    ip.extend(length.to_be_bytes());
    // Identification, flags, lifetime; the kernel fills in the checksum.
    ip.extend([0, 0, 0, 0, 64, packet.protocol, 0, 0]);
    ip.extend(packet.source.ip().octets());
    ip.extend(packet.destination.ip().octets());
    ip.extend(transport);
    ip
}

/// Sends the packets from the calling thread's namespace and returns those that an error came back
/// for.
fn send(link: Option<&str>, packets: &[Packet]) -> HashSet<Packet> {
    let raw = |protocol| {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Inet, SockType::Raw, flags, protocol).expect("root");
        if let Some(link) = link {
            let link = std::ffi::OsString::from(link);
            setsockopt(&fd, sockopt::BindToDevice, &link).expect("the link");
        }
        fd
    };
    let errors = raw(SockProtocol::Icmp);
    setsockopt(&errors, sockopt::RcvBufForce, &(64 << 20)).expect("room");
    let out = raw(SockProtocol::Raw);
    for packet in packets {
        let to = SockaddrIn::from(packet.destination);
        // Refused in the output hook, the sender is told so at once.
        let _ = sendto(out.as_raw_fd(), &bytes(packet), &to, MsgFlags::empty());
    }
    std::thread::sleep(Duration::from_millis(150));
    let mut refused = HashSet::new();
    let mut buffer = [0_u8; 2048];
    while let Ok(len) = recv(errors.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
        refused.extend(quoted(&buffer[..len]));
    }
    refused
}

/// The packet that an ICMP "destination unreachable" quotes.
fn quoted(message: &[u8]) -> Option<Packet> {
    let outer = usize::from(message.first()? & 15) * 4;
    let icmp = message.get(outer..)?;
    // Type 3, code 3: port unreachable.
    if icmp.get(..2)? != [3, 3] {
        return None;
    }
    let inner = icmp.get(8..)?;
    let ports = inner.get(usize::from(inner.first()? & 15) * 4..)?;
    let address = |at: usize, port: usize| {
        let ip: [u8; 4] = inner.get(at..at + 4)?.try_into().ok()?;
        let port: [u8; 2] = ports.get(port..port + 2)?.try_into().ok()?;
        Some(SocketAddrV4::new(ip.into(), u16::from_be_bytes(port)))
    };
    Some(Packet {
        protocol: *inner.get(9)?,
        source: address(12, 0)?,
        destination: address(16, 2)?,
    })
}

/// A node with its two links.
struct Fabric {
    node: NetNs,
    pods: NetNs,
    outside: NetNs,
}

impl Fabric {
    fn raise(name: &str, link: &str) -> Self {
        let id = std::process::id();
        let make = |role: &str| NetNs::create(&format!("nft-{name}-{id}-{role}")).expect("root");
        let fabric = Fabric {
            node: make("node"),
            pods: make("pods"),
            outside: make("out"),
        };
        let (pods, outside) = (fabric.pods.name(), fabric.outside.name());
        let node = format!(
            "set -e
            ip link set lo up
            sysctl -qw net.ipv4.ip_forward=1 net.ipv4.icmp_ratemask=0 \
                net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
            ip link add {link} address 02:00:00:00:00:01 type veth \
                peer name wan netns {pods} address 02:00:00:00:00:02
            ip link add eth0 address 02:00:00:00:00:03 type veth \
                peer name wan netns {outside} address 02:00:00:00:00:04
            ip addr add 10.200.1.2/24 dev eth0
            ip link set {link} up
            ip link set eth0 up
            ip neigh add 169.254.9.2 lladdr 02:00:00:00:00:02 dev {link}
            ip neigh add 10.200.1.1 lladdr 02:00:00:00:00:04 dev eth0
            ip route add 10.244.1.0/24 via 169.254.9.2 dev {link} onlink
            ip route add default via 10.200.1.1 dev eth0
            for last in $(seq 9 130); do
                ip neigh add 10.200.1.$last lladdr 02:00:00:00:00:04 dev eth0; done"
        );
        fabric.node.run(|| run(&node)).expect("the node");
        for (ns, mac) in [(&fabric.pods, "01"), (&fabric.outside, "03")] {
            // Whatever comes is for us; what we send leaves by the link, and only by it.
            let script = format!(
                "set -e
                ip link set lo up
                ip link set wan up
                sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.wan.rp_filter=0
                ip neigh add 169.254.9.1 lladdr 02:00:00:00:00:{mac} dev wan
                ip route add default via 169.254.9.1 dev wan onlink
                ip route add local default dev lo table local"
            );
            ns.run(|| run(&script)).expect("a neighbour");
        }
        fabric
    }

    /// The fates of every flow.
    fn fates(&self, flows: &[FlowKind], round: usize) -> BTreeMap<FlowKind, BTreeSet<Fate>> {
        let first = 10_000 + round as u16 * TRIES;
        let packets: Vec<(FlowKind, Packet)> = flows
            .iter()
            .flat_map(|flow| (0..TRIES).map(move |number| (flow, number)))
            .map(|(flow, number)| {
                let source = SocketAddrV4::new(flow.from.source(number), first + number);
                let packet = Packet {
                    protocol: flow.protocol,
                    source,
                    destination: flow.destination,
                };
                (*flow, packet)
            })
            .collect();
        let from = |wanted: fn(From) -> bool| -> Vec<Packet> {
            let wanted = packets.iter().filter(|(flow, _)| wanted(flow.from));
            wanted.map(|(_, packet)| *packet).collect()
        };
        let in_pods = |from| matches!(from, From::Pod | From::Endpoint(_));
        let pods = from(in_pods);
        let node = from(|from| from == From::Node);
        let outside = from(|from| !matches!(from, From::Pod | From::Endpoint(_) | From::Node));
        let mut refused = self.pods.run(|| send(Some("wan"), &pods)).expect("pods");
        refused.extend(
            self.outside
                .run(|| send(Some("wan"), &outside))
                .expect("outside"),
        );
        refused.extend(self.node.run(|| send(None, &node)).expect("the node"));
        let tracked = self.node.run(tracked).expect("the flow table");
        let mut fates: BTreeMap<FlowKind, BTreeSet<Fate>> = BTreeMap::new();
        for (flow, packet) in packets {
            let fate = match tracked.get(&packet) {
                Some(fate) => fate.clone(),
                None if refused.contains(&packet) => Fate::Refused,
                None => Fate::Dropped,
            };
            fates.entry(flow).or_default().insert(fate);
        }
        fates
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        for ns in [&self.node, &self.pods, &self.outside] {
            let _ = NetNs::delete(ns.name());
        }
    }
}

/// What the node's flow table says of each packet.
fn tracked() -> HashMap<Packet, Fate> {
    let mut conntrack = Conntrack::open().expect("conntrack");
    let mut found = HashMap::new();
    let v4 = |address| match address {
        std::net::SocketAddr::V4(address) => address,
        std::net::SocketAddr::V6(address) => panic!("{address}"),
    };
    conntrack
        .dump(&Filter::all(Family::Ipv4), |flow| {
            let packet = Packet {
                protocol: flow.original.protocol.0,
                source: v4(flow.original.source()),
                destination: v4(flow.original.destination()),
            };
            let endpoint = v4(flow.reply.source());
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

/// Collects fates; only where an endpoint was chosen can there be others after the first round.
fn collect(fabric: &Fabric, flows: &[FlowKind]) -> BTreeMap<FlowKind, BTreeSet<Fate>> {
    let mut all = fabric.fates(flows, 0);
    let chosen = |fates: &BTreeSet<Fate>| fates.iter().any(|f| matches!(f, Fate::To { .. }));
    let balanced: Vec<FlowKind> = all
        .iter()
        .filter(|(_, fates)| chosen(fates))
        .map(|(flow, _)| *flow)
        .collect();
    for round in 1..ROUNDS {
        for (flow, fates) in fabric.fates(&balanced, round) {
            all.entry(flow).or_default().extend(fates);
        }
    }
    all
}

fn prepare(fabric: &Fabric) -> TcpListener {
    // The endpoint on the host's own network, so that what comes there is answered.
    fabric
        .node
        .run(|| {
            // By default a flow of SCTP that nobody answers is forgotten after three seconds.
            run("sysctl -qw net.netfilter.nf_conntrack_checksum=0 \
                net.netfilter.nf_conntrack_sctp_timeout_closed=600 \
                net.netfilter.nf_conntrack_sctp_timeout_cookie_wait=600");
            TcpListener::bind((NODE, 9100)).expect("a listener")
        })
        .expect("the node")
}

fn compare(configuration: &Configuration) {
    let plan = plan(configuration);
    let flows = flows(&plan);
    assert!(flows.len() > 300, "{}", flows.len());
    let theirs = {
        let fabric = Fabric::raise(configuration.name, configuration.link);
        let file = observed(&format!("nftables-{}.v4.nft", configuration.name));
        let load = format!("nft -f {}", file.display());
        fabric.node.run(|| run(&load)).expect("what was observed");
        let _listener = prepare(&fabric);
        collect(&fabric, &flows)
    };
    let ours = {
        let fabric = Fabric::raise(configuration.name, configuration.link);
        let program = || {
            let mut sync = Sync::new(IpFamily::V4, Options::default());
            sync.set_plan(&plan);
            sync.run(&mut Live::open(IpFamily::V4), 100)
                .expect("a load");
            assert!(sync.refused().is_empty());
        };
        fabric.node.run(program).expect("the node");
        let _listener = prepare(&fabric);
        collect(&fabric, &flows)
    };
    let sticky = plan.ports.values().find(|port| port.affinity.is_some());
    let sticky = sticky.expect("one with affinity").cluster_ip;
    let mut met = BTreeSet::new();
    for (flow, expected) in &theirs {
        let got = &ours[flow];
        met.extend(
            expected
                .iter()
                .map(std::mem::discriminant)
                .map(|d| format!("{d:?}")),
        );
        // A source that has but one address keeps to one endpoint, whichever.
        let one_address = matches!(flow.from, From::Node | From::Endpoint(_));
        if IpAddr::V4(*flow.destination.ip()) == sticky && one_address {
            assert_eq!(expected.len(), 1, "{flow:?}");
            assert_eq!(got.len(), 1, "{flow:?}: {got:?}");
            continue;
        }
        assert_eq!(got, expected, "{}: {flow:?}", configuration.name);
    }
    assert_eq!(met.len(), 4, "every kind of fate is met");
}

fn configurations() -> Vec<Configuration> {
    let plain = |name, local, link| Configuration {
        name,
        local,
        masquerade_all: false,
        node_ports: NodePortAddresses::Primary,
        link,
    };
    vec![
        plain("default", cluster_cidr(), "pods0"),
        Configuration {
            masquerade_all: true,
            ..plain("masquerade-all", cluster_cidr(), "pods0")
        },
        plain("primary", cluster_cidr(), "pods0"),
        Configuration {
            node_ports: NodePortAddresses::Ranges(vec!["10.200.1.0/24".parse().unwrap()]),
            ..plain("nodeport-cidr", cluster_cidr(), "pods0")
        },
        plain("nodecidr", LocalTraffic::NodeCidr, "pods0"),
        plain(
            "bridge",
            LocalTraffic::BridgeInterface("cbr0".to_owned()),
            "cbr0",
        ),
        plain(
            "prefix",
            LocalTraffic::InterfaceNamePrefix("veth".to_owned()),
            "veth7",
        ),
    ]
}

#[test]
fn every_flow_meets_the_fate_that_was_observed() {
    let configurations = configurations();
    std::thread::scope(|scope| {
        for configuration in &configurations {
            scope.spawn(|| compare(configuration));
        }
    });
}

#[test]
fn a_client_keeps_to_its_endpoint_until_that_is_gone() {
    let configuration = &configurations()[0];
    let before = plan(configuration);
    let (key, port) = before
        .ports
        .iter()
        .find(|(_, port)| port.affinity.is_some())
        .expect("one with affinity");
    let fabric = Fabric::raise("affinity", configuration.link);
    let _listener = prepare_after(&fabric, &before);
    let IpAddr::V4(ip) = port.cluster_ip else {
        panic!("{port:?}");
    };
    let flow = FlowKind {
        from: From::Node,
        protocol: 6,
        destination: SocketAddrV4::new(ip, port.port.get()),
    };
    let kept = |round| {
        let fates = fabric.fates(&[flow], round).remove(&flow).expect("asked");
        assert_eq!(fates.len(), 1, "{fates:?}");
        match fates.into_iter().next() {
            Some(Fate::To { endpoint, .. }) => endpoint,
            other => panic!("{other:?}"),
        }
    };
    let first = kept(0);
    assert_eq!(kept(1), first);
    // It goes, and the client keeps to another; it comes back, and the client stays there.
    let mut without = (**port).clone();
    let others = port
        .cluster
        .iter()
        .filter(|e| e.ip != IpAddr::V4(*first.ip()));
    without.cluster = others.copied().collect();
    assert!(!without.cluster.is_empty());
    let mut after = before.clone();
    after.ports.insert(key.clone(), without.into());
    fabric.node.run(|| bring(&after)).expect("the node");
    let second = kept(2);
    assert_ne!(second, first);
    fabric.node.run(|| bring(&before)).expect("the node");
    assert_eq!(kept(3), second);
}

/// Brings the table in the calling thread's namespace to a plan, as a fresh start does.
fn bring(plan: &Plan) {
    let mut sync = Sync::new(IpFamily::V4, Options::default());
    sync.set_plan(plan);
    sync.run(&mut Live::open(IpFamily::V4), 100)
        .expect("a load");
    assert!(sync.refused().is_empty(), "{:?}", sync.refused());
}

fn prepare_after(fabric: &Fabric, plan: &Plan) -> TcpListener {
    fabric.node.run(|| bring(plan)).expect("the node");
    prepare(fabric)
}
