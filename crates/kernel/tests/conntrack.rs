//! The flow table against the real kernel, with UDP flows through a rewriting rule.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use kernel::conntrack::{Conntrack, Filter, Flow, IpProtocol, StaleFlows, Swept};
use kernel::sysctl::SysctlTree;
use kernel::{Errno, Family};
use socket2::{Domain, Socket, Type};
use support::{in_namespace, run};

struct Network {
    family: Family,
    tool: &'static str,
    client: &'static str,
    frontend: &'static str,
    endpoint: &'static str,
}

const NETWORKS: [Network; 2] = [
    Network {
        family: Family::Ipv4,
        tool: "iptables-nft",
        client: "10.0.0.1",
        frontend: "10.96.0.10:53",
        endpoint: "10.0.0.2:5353",
    },
    Network {
        family: Family::Ipv6,
        tool: "ip6tables-nft",
        client: "fd00::1",
        frontend: "[fd00:96::a]:53",
        endpoint: "[fd00::2]:5353",
    },
];

impl Network {
    /// A namespace in which all addresses are local and the frontend leads to the endpoint.
    fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        in_namespace(|| {
            let frontend: SocketAddr = self.frontend.parse().unwrap();
            let endpoint: SocketAddr = self.endpoint.parse().unwrap();
            for address in [self.client.to_owned(), endpoint.ip().to_string()] {
                run(&format!("ip addr add {address} dev lo"));
            }
            run(&format!("ip route add {} dev lo", frontend.ip()));
            run(&format!(
                "{} -t nat -A OUTPUT -d {} -p udp --dport {} -j DNAT --to-destination {}",
                self.tool,
                frontend.ip(),
                frontend.port(),
                self.endpoint
            ));
            // The default of 30 s is too short for a busy machine.
            run("echo 600 >/proc/sys/net/netfilter/nf_conntrack_udp_timeout");
            body()
        })
    }

    /// Send a packet to `to` from a new port.
    fn send(&self, to: &str) -> SocketAddr {
        let address: IpAddr = self.client.parse().unwrap();
        let socket = UdpSocket::bind((address, 0)).unwrap();
        socket.send_to(b"hello", to).unwrap();
        socket.local_addr().unwrap()
    }

    fn flows(&self, conntrack: &mut Conntrack, filter: &Filter) -> Vec<Flow> {
        let mut flows = Vec::new();
        conntrack.dump(filter, |flow| flows.push(*flow)).unwrap();
        flows
    }
}

#[test]
fn flows_are_listed_and_removed_one_by_one() {
    for network in &NETWORKS {
        network.run(|| {
            let server = UdpSocket::bind(network.endpoint).unwrap();
            let first = network.send(network.frontend);
            let second = network.send(network.frontend);
            network.send(network.endpoint);
            assert_eq!(server.recv_from(&mut [0; 10]).unwrap().1, first);
            let mut conntrack = Conntrack::open().unwrap();
            let udp = Filter::protocol(network.family, IpProtocol::UDP);
            assert_eq!(network.flows(&mut conntrack, &udp).len(), 3);
            let frontend: SocketAddr = network.frontend.parse().unwrap();
            let to_frontend = Filter {
                destination: Some(frontend.ip()),
                destination_port: Some(frontend.port()),
                ..udp
            };
            let flows = network.flows(&mut conntrack, &to_frontend);
            assert_eq!(flows.len(), 2);
            for flow in &flows {
                assert_eq!(flow.original.destination(), frontend);
                assert_eq!(flow.reply.source().to_string(), network.endpoint);
                assert!(flow.status.dnat() && !flow.status.seen_reply());
                assert!(flow.timeout.is_some_and(|seconds| seconds > 0));
            }
            let gone = flows.iter().find(|f| f.original.source() == first).unwrap();
            assert!(conntrack.delete(gone).unwrap());
            assert!(!conntrack.delete(gone).unwrap());
            let left = network.flows(&mut conntrack, &to_frontend);
            assert_eq!(left.len(), 1);
            assert_eq!(left[0].original.source(), second);
            // Same addresses, but not the same flow.
            let other = Flow {
                id: left[0].id.map(|id| id ^ 1),
                ..left[0]
            };
            assert!(!conntrack.delete(&other).unwrap());
            let tcp = Filter::protocol(network.family, IpProtocol::TCP);
            assert!(network.flows(&mut conntrack, &tcp).is_empty());
            let there = Filter::all(match network.family {
                Family::Ipv4 => Family::Ipv6,
                Family::Ipv6 => Family::Ipv4,
            });
            let udp = |flow: &Flow| flow.original.protocol == IpProtocol::UDP;
            assert!(!network.flows(&mut conntrack, &there).iter().any(udp));
        });
    }
}

#[test]
fn a_sweep_removes_only_stale_flows() {
    const MANY: usize = 3000;
    for network in &NETWORKS {
        network.run(|| {
            let mut conntrack = Conntrack::open().unwrap();
            for _ in 0..MANY {
                network.send(network.frontend);
            }
            network.send(network.endpoint);
            let usage = Conntrack::usage(&SysctlTree::default()).unwrap();
            assert!(usage.flows >= 100 && usage.max >= usage.flows, "{usage:?}");
            let udp = Filter::protocol(network.family, IpProtocol::UDP);
            let before = network.flows(&mut conntrack, &udp).len();
            assert!(before > 1000, "{before}");

            let endpoint: SocketAddr = network.endpoint.parse().unwrap();
            let frontend = network.frontend.parse().unwrap();
            let mut filter = StaleFlows::new([]);
            filter.frontend(IpProtocol::UDP, frontend, Arc::new([endpoint].into()));
            let swept = conntrack.sweep(&udp, |flow| filter.is_stale(flow)).unwrap();
            assert_eq!((swept.examined, swept.deleted), (before as u64, 0));

            // The endpoint moves: every flow through the frontend is stale now.
            let moved = SocketAddr::new(endpoint.ip(), 5454);
            filter.frontend(IpProtocol::UDP, frontend, Arc::new([moved].into()));
            let swept = conntrack.sweep(&udp, |flow| filter.is_stale(flow)).unwrap();
            assert_eq!(swept.deleted, before as u64 - 1, "{swept:?}");
            let left = network.flows(&mut conntrack, &udp);
            assert_eq!(left.len(), 1);
            assert_eq!(left[0].original.destination(), endpoint);
            let swept = conntrack.sweep(&udp, |flow| filter.is_stale(flow)).unwrap();
            assert_eq!(
                swept,
                Swept {
                    examined: 1,
                    deleted: 0
                }
            );
        });
    }
}

/// Start a connection to the frontend, and return it: established if something listens at the
/// endpoint.
fn connect(network: &Network) -> Socket {
    let frontend: SocketAddr = network.frontend.parse().unwrap();
    let client: IpAddr = network.client.parse().unwrap();
    let domain = if client.is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    };
    let socket = Socket::new(domain, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(client, 0).into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let started = socket.connect(&frontend.into()).unwrap_err();
    assert_eq!(started.raw_os_error(), Some(Errno::EINPROGRESS as i32));
    socket
}

#[test]
fn half_open_connections_are_found_and_deleted_unless_answered_meanwhile() {
    for network in &NETWORKS {
        network.run(|| {
            let endpoint: SocketAddr = network.endpoint.parse().unwrap();
            let frontend: SocketAddr = network.frontend.parse().unwrap();
            run(&format!(
                "{} -t nat -A OUTPUT -d {} -p tcp --dport {} -j DNAT --to-destination {}",
                network.tool,
                frontend.ip(),
                frontend.port(),
                network.endpoint
            ));
            let server = TcpListener::bind(endpoint).unwrap();
            let established = connect(network);
            let accepted = server.accept().unwrap().0;
            let drop = format!("INPUT -p tcp --dport {} --syn -j DROP", endpoint.port());
            run(&format!("{} -I {drop}", network.tool));
            let [_dead, answered] = [connect(network), connect(network)];

            let mut conntrack = Conntrack::open().unwrap();
            let all = Filter::protocol(network.family, IpProtocol::TCP);
            let count = network.flows(&mut conntrack, &all).len();
            assert_eq!(count, 3);
            let unreplied = Filter {
                unreplied: true,
                ..all
            };
            assert_eq!(network.flows(&mut conntrack, &unreplied).len(), 2);
            let half_open = |conntrack: &mut Conntrack, limit| {
                let to_endpoint = |flow: &Flow| flow.reply.source() == endpoint;
                conntrack
                    .half_open(network.family, limit, to_endpoint)
                    .unwrap()
            };
            assert_eq!(half_open(&mut conntrack, 1).len(), 1);
            let found = half_open(&mut conntrack, 10);
            assert_eq!(found.len(), 2);
            assert!(
                conntrack
                    .half_open(network.family, 10, |_| false)
                    .unwrap()
                    .is_empty()
            );

            // One of them is answered between the list and the deletion: the kernel repeats its SYN.
            let port = answered.local_addr().unwrap().as_socket().unwrap().port();
            run(&format!(
                "{} -I INPUT -p tcp --sport {port} -j ACCEPT",
                network.tool
            ));
            let second = server.accept().unwrap().0;
            assert_eq!(conntrack.delete_half_open(&found).unwrap(), 1);
            assert_eq!(network.flows(&mut conntrack, &all).len(), 2);
            assert!(half_open(&mut conntrack, 10).is_empty());
            // Established connections still work.
            for (mut from, mut to) in [(established, accepted), (answered, second)] {
                from.set_nonblocking(false).unwrap();
                from.write_all(b"x").unwrap();
                to.read_exact(&mut [0]).unwrap();
            }
        });
    }
}
