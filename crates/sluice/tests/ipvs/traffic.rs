//! Real connections through the kernel's virtual servers.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use lab::probe::{How, Outcome, Probe};
use model::Mode;
use model::Protocol;

use crate::support::machine::{Conversation, Machine, OUTSIDE};
use crate::support::vm::in_vm;
use crate::support::{Proxy, eventually, ipvs_backend};

const TCP: u16 = 80;
const UDP: u16 = 53;
const SCTP: u16 = 99;
/// The cluster IPs of the Service `web`.
const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 10, 1));
const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 1));

/// A Service of both families and all protocols; `more` are further fields of its spec.
fn service(name: &str, last: u8, node_port: u16, more: &str) -> String {
    let [tcp, udp, sctp] = [0, 1, 2].map(|n| node_port + n);
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: demo}}\n\
         spec:\n  clusterIP: 10.96.10.{last}\n  clusterIPs: [10.96.10.{last}, 'fd00:10:96::{last}']\n  \
         ipFamilies: [IPv4, IPv6]\n  type: NodePort\n  ports:\n  \
         - {{name: http, port: {TCP}, nodePort: {tcp}}}\n  \
         - {{name: dns, port: {UDP}, nodePort: {udp}, protocol: UDP}}\n  \
         - {{name: sctp, port: {SCTP}, nodePort: {sctp}, protocol: SCTP}}\n{more}"
    )
}

/// The endpoints: pods by number, each with its node.
fn slices(name: &str, pods: &[(u8, &str)]) -> String {
    let slice = |kind: &str, address: &dyn Fn(u8) -> String| {
        let endpoints: Vec<String> = pods
            .iter()
            .map(|(pod, node)| {
                let address = address(*pod);
                format!(
                    "{{addresses: ['{address}'], nodeName: {node}, conditions: {{ready: true}}}}"
                )
            })
            .collect();
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-{}, namespace: demo, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             addressType: {kind}\nports:\n- {{name: http, port: 8080, protocol: TCP}}\n\
             - {{name: dns, port: 8053, protocol: UDP}}\n- {{name: sctp, port: 8099, protocol: SCTP}}\n\
             endpoints: [{}]\n",
            kind.to_lowercase(),
            endpoints.join(", ")
        )
    };
    let v4 = slice("IPv4", &|pod| format!("10.244.1.{pod}"));
    v4 + &slice("IPv6", &|pod| format!("fd00:10:244::{pod}"))
}

/// Service and endpoints in one file.
pub(crate) fn web(name: &str, last: u8, node_port: u16, more: &str, pods: &[(u8, &str)]) -> String {
    service(name, last, node_port, more) + &slices(name, pods)
}

const HERE: &str = "node1";

fn udp(to: SocketAddr) -> Probe {
    Probe::udp(to)
}

fn sctp(to: SocketAddr) -> Probe {
    Probe {
        how: How::Plain(Protocol::Sctp),
        ..Probe::http(to)
    }
}

fn servers(proxy: &Proxy) -> String {
    proxy.host.sh("ipvsadm-save -n")
}

/// Wait for a line of `ipvsadm-save`.
fn wait_for(proxy: &Proxy, line: &str, there: bool) {
    let what = format!("{line} {there}\n{}\n{}", servers(proxy), proxy.log());
    eventually(&what, || {
        servers(proxy).lines().any(|l| l.trim() == line) == there
    });
}

fn destination(pod: &str, weight: u8) -> String {
    let number = pod.trim_start_matches("pod");
    format!("-a -t 10.96.10.1:80 -r 10.244.1.{number}:8080 -m -w {weight}")
}

/// A proxy that has written the Service `web` with these pods.
fn start(more: &str, pods: &[u8]) -> Proxy {
    let file = web("web", 1, 30080, more, &here(pods));
    let proxy = Proxy::start(Mode::Ipvs, &[("web.yaml", &file)], &[]);
    for pod in pods {
        wait_for(&proxy, &destination(&pod.to_string(), 1), true);
        let v6 = format!("-a -t [fd00:10:96::1]:80 -r [fd00:10:244::{pod}]:8080 -m -w 1");
        wait_for(&proxy, &v6, true);
    }
    proxy
}

pub(crate) fn here(pods: &[u8]) -> Vec<(u8, &'static str)> {
    pods.iter().map(|pod| (*pod, HERE)).collect()
}

fn publish(proxy: &Proxy, more: &str, pods: &[u8]) {
    proxy.write("web.yaml", &web("web", 1, 30080, more, &here(pods)));
}

fn number(pod: &str) -> u8 {
    pod.trim_start_matches("pod").parse().unwrap()
}

/// A removed endpoint has weight 0, keeps its connections, and is deleted when they end. If it returns,
/// the weight never stays 0, also after a restart of the proxy (kubernetes/kubernetes 92019, 108319).
/// UDP and SCTP endpoints are removed at once.
#[test]
fn endpoints_are_removed_when_their_connections_end() {
    in_vm(
        "traffic::endpoints_are_removed_when_their_connections_end",
        || {
            let mut proxy = start("", &[1, 2]);
            let _pods = [1, 2].map(|n| Machine::pod(&proxy.host, n));
            let client = Machine::outside(&proxy.host);
            let to = SocketAddr::new(V4, TCP);
            let mut old = Conversation::start(&client, to);
            let pod = old.pod.clone();
            let other = 3 - number(&pod);
            let leave = |proxy: &Proxy| {
                publish(proxy, "", &[other]);
                wait_for(proxy, &destination(&pod, 0), true);
            };

            leave(&proxy);
            let all = servers(&proxy);
            for protocol in ["-u 10.96.10.1:53", "--sctp-service 10.96.10.1:99"] {
                let line = format!("-a {protocol} -r 10.244.1.{}:", number(&pod));
                assert!(!all.contains(&line), "{all}");
            }
            old.goes_on();
            let only: BTreeSet<_> = [format!("pod{other}")].into();
            assert_eq!(client.pods(to, 6), only);

            publish(&proxy, "", &[1, 2]);
            wait_for(&proxy, &destination(&pod, 1), true);
            let new = [1, 2].map(|_| Conversation::start(&client, to));
            assert_ne!(new[0].pod, new[1].pod);
            new.into_iter().for_each(Conversation::reset);

            leave(&proxy);
            proxy.kill();
            publish(&proxy, "", &[1, 2]);
            proxy.respawn();
            wait_for(&proxy, &destination(&pod, 1), true);

            leave(&proxy);
            proxy.kill();
            proxy.respawn();
            // It is running when it follows changes.
            proxy.write("other.yaml", &web("other", 2, 30090, "", &[]));
            wait_for(&proxy, "-A -t 10.96.10.2:80 -s rr", true);
            assert!(servers(&proxy).contains(&destination(&pod, 0)));
            old.goes_on();
            old.reset();
            wait_for(&proxy, &destination(&pod, 0), false);
            assert!(!servers(&proxy).contains(&destination(&pod, 1)));
            assert_eq!(client.pods(to, 4), only);
        },
    );
}

/// The first SYN reached a pod that no longer answers and is then removed. The next one reaches another
/// pod; an established connection stays.
#[test]
fn repeated_syn_reaches_another_pod() {
    in_vm("traffic::repeated_syn_reaches_another_pod", || {
        let proxy = start("", &[1]);
        let pods = [1, 2].map(|n| Machine::pod(&proxy.host, n));
        let client = Machine::outside(&proxy.host);
        let to = SocketAddr::new(V4, TCP);
        let mut old = Conversation::start(&client, to);
        // From now on, the pod answers the old connection only.
        let program = format!("iptables-{}", ipvs_backend());
        pods[0].sh(&format!(
            "{program} -A OUTPUT -p tcp --tcp-flags SYN,ACK SYN,ACK -j DROP"
        ));
        std::thread::scope(|scope| {
            let repeating = scope.spawn(|| client.answer(Probe::http(to)).pod);
            let half_open = || proxy.host.sh("ipvsadm -Lnc").contains("SYN_RECV");
            eventually("the pod ignores a SYN", half_open);
            publish(&proxy, "", &[2]);
            assert_eq!(repeating.join().unwrap(), "pod2");
        });
        old.goes_on();
    });
}

/// kubernetes/kubernetes 81775 and 71809.
#[test]
fn affinity_holds_and_reused_client_ports_are_balanced() {
    in_vm(
        "traffic::affinity_holds_and_reused_client_ports_are_balanced",
        || {
            let sticky = "  sessionAffinity: ClientIP\n  \
                      sessionAffinityConfig: {clientIP: {timeoutSeconds: 600}}\n";
            let proxy = start(sticky, &[1, 2, 3]);
            let mut pods = [1, 2, 3].map(|n| Some(Machine::pod(&proxy.host, n)));
            let client = Machine::outside(&proxy.host);
            let to = SocketAddr::new(V4, TCP);
            let kept = |client: &Machine| {
                let mut seen = client.pods(to, 4);
                seen.extend((0..4).map(|_| client.pod_from_port(40000, to).unwrap()));
                assert_eq!(seen.len(), 1, "{seen:?}");
                seen.pop_first().unwrap()
            };
            let first = kept(&client);
            // Also over IPv6, and datagrams from changing ports.
            assert_eq!(client.pods(SocketAddr::new(V6, TCP), 4).len(), 1);
            for ip in [V4, V6] {
                let answers = (0..4).map(|_| client.answer(udp((ip, UDP).into())).pod);
                assert_eq!(answers.collect::<BTreeSet<_>>().len(), 1, "UDP {ip}");
            }
            // The pod is removed: its clients get another one and keep it.
            let mut left: Vec<u8> = vec![1, 2, 3];
            left.retain(|n| *n != number(&first));
            publish(&proxy, sticky, &left);
            wait_for(&proxy, &destination(&first, 1), false);
            pods[usize::from(number(&first)) - 1] = None;
            let second = kept(&client);
            assert_ne!(first, second);

            // Without affinity each connection is scheduled, also from a port last used for a removed
            // pod.
            publish(&proxy, "", &left);
            wait_for(&proxy, "-A -t 10.96.10.1:80 -s rr", true);
            let one = client.pod_from_port(40001, to).unwrap();
            left.retain(|n| *n != number(&one));
            publish(&proxy, "", &left);
            wait_for(&proxy, &destination(&one, 1), false);
            pods[usize::from(number(&one)) - 1] = None;
            let answered = || client.pod_from_port(40001, to) == Some(format!("pod{}", left[0]));
            eventually("the port reaches the last pod", answered);
        },
    );
}

/// From a pod to itself, from outside to every address of the node, over both families and all
/// protocols.
#[test]
fn every_frontend_answers_every_client() {
    in_vm("traffic::every_frontend_answers_every_client", || {
        let external = ["192.0.2.80", "2001:db8::80"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let more = format!("  externalIPs: ['{}', '{}']\n", external[0], external[1]);
        let proxy = start(&more, &[1]);
        let host = &proxy.host;
        host.sh("ip addr add 10.201.0.1/32 dev lo");
        let pod = Machine::pod(host, 1);
        let client = Machine::outside(host);
        // Masqueraded: the reply must return through this node.
        let masqueraded = |probe: Probe| {
            let seen = client.answer(probe);
            let source = seen.client.ip().to_string();
            assert!(!OUTSIDE.contains(&&*source), "{seen:?}");
        };
        for ip in external {
            masqueraded(Probe::http((ip, TCP).into()));
            masqueraded(udp((ip, UDP).into()));
            masqueraded(sctp((ip, SCTP).into()));
        }
        for ip in [V4, V6] {
            for (what, probe) in [
                ("TCP", Probe::http((ip, TCP).into())),
                ("UDP", udp((ip, UDP).into())),
                ("SCTP", sctp((ip, SCTP).into())),
            ] {
                // The pod must not see its own address, or it would reply to itself.
                let seen = pod.answer(probe);
                assert_ne!(seen.client.ip(), seen.local.ip(), "{what} {ip}: {seen:?}");
                let seen = client.answer(probe);
                assert_eq!(seen.pod, "pod1", "{what} {ip}");
            }
            let from_node = host.run(|| Probe::http((ip, TCP).into()).ask());
            assert!(from_node.answer().is_some(), "{ip}: {from_node}");
        }
        let node_port = |ip: &str, tcp: u16| {
            wait_for(&proxy, &format!("-A -t {ip}:{tcp} -s rr"), true);
            let ip: IpAddr = ip.trim_matches(['[', ']']).parse().unwrap();
            masqueraded(Probe::http((ip, tcp).into()));
            masqueraded(udp((ip, tcp + 1).into()));
            masqueraded(sctp((ip, tcp + 2).into()));
        };
        for ip in ["10.200.1.2", "10.201.0.1", "[fd00:200:1::2]"] {
            node_port(ip, 30080);
        }
        // Also on an address that the node gets later, while it has it.
        host.sh("ip addr add 10.202.0.7/32 dev eth0");
        node_port("10.202.0.7", 30080);
        host.sh("ip addr del 10.202.0.7/32 dev eth0");
        wait_for(&proxy, "-A -t 10.202.0.7:30080 -s rr", false);
    });
}

/// Local policy keeps the client's address, and falls back to the whole cluster if the node has no
/// endpoint, as in kube-proxy's ipvs mode. Source ranges restrict a load balancer's address.
#[test]
fn local_policy_and_source_ranges_are_enforced() {
    in_vm(
        "traffic::local_policy_and_source_ranges_are_enforced",
        || {
            let local = "  externalTrafficPolicy: Local\n  internalTrafficPolicy: Local\n";
            let ranges = |range: &str| {
                format!(
                    "  loadBalancerSourceRanges: [{range}]\n\
                 status: {{loadBalancer: {{ingress: [{{ip: 10.99.0.1}}]}}}}\n"
                )
            };
            let balanced = |range: &str| {
                let file = web("lb", 3, 30100, &ranges(range), &here(&[1]));
                file.replace("type: NodePort", "type: LoadBalancer")
            };
            let proxy = start(local, &[1]);
            proxy.write("lb.yaml", &balanced("10.201.0.2/32"));
            proxy.write(
                "node.yaml",
                "apiVersion: v1\nkind: Node\nmetadata: {name: node1}\n\
             status: {addresses: [{type: InternalIP, address: 10.200.1.2}]}\n",
            );
            let host = &proxy.host;
            let _pods = [1, 2].map(|n| Machine::pod(host, n));
            let client = Machine::outside(host);
            let to: SocketAddr = "10.200.1.2:30080".parse().unwrap();
            let seen = client.answer(Probe::http(to).from(OUTSIDE[0].parse().unwrap()));
            assert_eq!(
                (&*seen.pod, seen.client.ip().to_string()),
                ("pod1", OUTSIDE[0].into())
            );
            // Both pods, but only one is on this node.
            let two = [(1, "node2"), (2, HERE)];
            proxy.write("web.yaml", &web("web", 1, 30080, local, &two));
            let v4 = format!("-a -t {to} -r 10.244.1.1:8080 -m -w 1");
            wait_for(&proxy, &v4, false);
            let v6 = format!("-a -t [{V6}]:80 -r [fd00:10:244::1]:8080 -m -w 1");
            wait_for(&proxy, &v6, false);
            let ways = [
                to,
                "[fd00:200:1::2]:30080".parse().unwrap(),
                SocketAddr::new(V4, TCP),
                SocketAddr::new(V6, TCP),
            ];
            for to in ways {
                assert_eq!(client.pods(to, 4), ["pod2".to_owned()].into(), "{to}");
            }
            // No endpoint is on this node.
            let elsewhere = [(1, "node2"), (2, "node2")];
            proxy.write("web.yaml", &web("web", 1, 30080, local, &elsewhere));
            wait_for(&proxy, &v4, true);
            wait_for(&proxy, &v6, true);
            for to in ways {
                assert_eq!(client.pods(to, 4).len(), 2, "{to}");
            }

            let lb: SocketAddr = "10.99.0.1:80".parse().unwrap();
            wait_for(
                &proxy,
                "-a -t 10.99.0.1:80 -r 10.244.1.1:8080 -m -w 1",
                true,
            );
            let from = |from: &str| Probe::http(lb).from(from.parse().unwrap());
            let briefly = |probe: Probe| probe.timeout(Duration::from_secs(1));
            let silent = |outcome: Outcome| assert_eq!(outcome, Outcome::TimedOut);
            client.answer(from(OUTSIDE[0]));
            silent(client.ask(briefly(from(OUTSIDE[1]))));
            // No range contains the node, then one does.
            silent(host.run(|| briefly(Probe::http(lb)).ask()));
            proxy.write("lb.yaml", &balanced("10.200.1.0/24"));
            let seen = || {
                host.run(|| briefly(Probe::http(lb)).ask())
                    .answer()
                    .is_some()
            };
            eventually("the node's own connection", seen);
            silent(client.ask(briefly(from(OUTSIDE[0]))));
        },
    );
}

/// A node with strict ARP does not reply to requests for a Service's address on its other interfaces,
/// so that several nodes can have it; a node without strict ARP does.
#[test]
fn strict_arp_controls_replies_for_service_addresses() {
    in_vm(
        "traffic::strict_arp_controls_replies_for_service_addresses",
        || {
            for (flag, answers) in [
                ("--ipvs-strict-arp=false", true),
                ("--ipvs-strict-arp", false),
            ] {
                let file = web("web", 1, 30080, "", &here(&[1]));
                let proxy = Proxy::start(Mode::Ipvs, &[("web.yaml", &file)], &[flag]);
                wait_for(&proxy, &destination("pod1", 1), true);
                let _pod = Machine::pod(&proxy.host, 1);
                let client = Machine::outside(&proxy.host);
                // The host must not reply for other hosts' addresses, as it does in other tests.
                proxy
                    .host
                    .sh("echo 0 >/proc/sys/net/ipv4/conf/ext/proxy_arp");
                let probe = Probe::http((V4, TCP).into()).from(OUTSIDE[0].parse().unwrap());
                let outcome = client.ask(probe.timeout(Duration::from_secs(20)));
                assert_eq!(outcome.answer().is_some(), answers, "{flag}: {outcome}");
                let neighbour = client.sh("ip neigh show 10.96.10.1");
                assert_eq!(neighbour.contains("lladdr"), answers, "{flag}: {neighbour}");
            }
        },
    );
}
