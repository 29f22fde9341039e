//! The flow table against the real kernel, with UDP flows through a rewriting rule.

mod support;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use kernel::Family;
use kernel::conntrack::{Conntrack, Filter, Flow, IpProtocol, StaleFlows, Swept};
use kernel::sysctl::SysctlTree;
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
            body()
        })
    }

    /// Sends a packet to `to` from a port of its own.
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
fn a_sweep_removes_the_stale_ones_of_many_and_no_other() {
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
