//! Userspace mode: real connections through the relay, from the host and from outside, while objects
//! change, while other programs change the table, and without privileges.

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use lab::probe::{Outcome, Probe};
use model::Mode;
use support::machine::{self, Machine};
use support::{Host, Proxy, Running, SLUICE, eventually, text};

/// A Service with NodePort, load balancer, source ranges and an SCTP port.
const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo}
spec:
  type: LoadBalancer
  clusterIP: 10.96.10.1
  externalTrafficPolicy: POLICY
  loadBalancerSourceRanges: ['10.201.0.2/32']
  ports:
  - {name: http, port: 80, nodePort: 30080}
  - {name: echo, port: 53, nodePort: 30053, protocol: UDP}
  - {name: sctp, port: 99, nodePort: 30099, protocol: SCTP}
status: {loadBalancer: {ingress: [{ip: '10.99.0.1'}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-a, namespace: demo, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports:
- {name: http, port: PORT, protocol: TCP}
- {name: echo, port: DATAGRAMS, protocol: UDP}
endpoints: ENDPOINTS
";

/// Return the same over IPv6.
fn over_ipv6(web: &str) -> String {
    [
        ("10.96.10.1", "fd00:10:96::a"),
        ("10.201.0.2/32", "fd00:201::2/128"),
        ("10.99.0.1", "2001:db8:99::1"),
        ("10.200.1.2", "fd00:200:1::2"),
        ("clusterIP: ", "ipFamilies: [IPv6]\n  clusterIP: "),
        ("addressType: IPv4", "addressType: IPv6"),
    ]
    .into_iter()
    .fold(web.to_owned(), |text, (four, six)| text.replace(four, six))
}

/// Return the Service with this external policy, and its endpoint at this port and on this node.
fn web(policy: &str, port: u16, node: &str) -> String {
    let endpoint =
        format!("[{{addresses: ['10.200.1.2'], conditions: {{ready: true}}, nodeName: {node}}}]");
    let datagrams = if port == 8080 { "8053" } else { "8054" };
    WEB.replace("POLICY", policy)
        .replace("PORT", &port.to_string())
        .replace("DATAGRAMS", datagrams)
        .replace("ENDPOINTS", &endpoint)
}

fn without_endpoints() -> String {
    WEB.replace("POLICY", "Cluster")
        .replace("PORT", "1")
        .replace("DATAGRAMS", "2")
        .replace("ENDPOINTS", "[]")
}

/// Start the proxy on a host with a route to cluster IPs, in place of a default route.
fn start(files: &[(&str, &str)], flags: &[&str]) -> Proxy {
    let proxy = Proxy::start(Mode::Userspace, files, flags);
    proxy
        .host
        .sh("ip route add default dev eth0; ip -6 route add default dev eth0");
    proxy
}

/// Start two servers: `one` at TCP 8080 and UDP 8053, `two` at TCP 8081 and UDP 8054.
fn echo(host: &Host) -> [Running; 2] {
    let addresses = ["10.200.1.2", "fd00:200:1::2"];
    let server = |pod, ports: &[&str]| machine::echo(host.command(SLUICE), pod, &addresses, ports);
    [
        server("one", &["TCP:8080", "UDP:8053"]),
        server("two", &["TCP:8081", "UDP:8054"]),
    ]
}

fn more_addresses(host: &Host) {
    host.sh("ip addr add 10.201.0.1/32 dev lo; ip addr add fd00:201::1/128 dev lo nodad");
}

/// Create a machine next to the host; the link has its own addresses.
fn outside(host: &Host) -> Machine {
    more_addresses(host);
    Machine::outside(host)
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn http(address: &str) -> Probe {
    Probe::http(at(address)).timeout(Duration::from_millis(700))
}

fn udp(address: &str) -> Probe {
    Probe::udp(at(address)).timeout(Duration::from_millis(700))
}

fn pod_of(outcome: &Outcome) -> &str {
    outcome.answer().map_or("none", |answer| &answer.pod)
}

fn wait_until_served(proxy: &Proxy, pod: &str) {
    eventually(&format!("{pod} answers\n{}", proxy.log()), || {
        proxy
            .host
            .run(|| pod_of(&http("10.96.10.1:80").ask()) == pod)
    });
}

/// Return the relay's ports of a protocol, sorted.
fn relay_ports(host: &Host, protocol: &str) -> Vec<String> {
    let set = host.sh("nft list set ip sluice-userspace relay-ports");
    let words = set.split([' ', ',', '\n']).collect::<Vec<_>>();
    let of_protocol = words.windows(3).filter(|w| w[0] == protocol && w[1] == ".");
    let mut ports: Vec<_> = of_protocol.map(|w| w[2].to_owned()).collect();
    ports.sort();
    ports
}

/// A client that keeps its port, so that connection tracking keeps its flow.
struct Datagrams(UdpSocket);

impl Datagrams {
    fn to(host: &Host, address: &str) -> Self {
        let socket = host.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        socket.connect(at(address)).unwrap();
        let soon = Some(Duration::from_millis(300));
        socket.set_read_timeout(soon).unwrap();
        Self(socket)
    }

    fn ask(&self) -> String {
        let mut buffer = [0; 2048];
        // An error here belongs to an earlier request.
        let sent = self.0.send(b"who?");
        match sent.and_then(|_| self.0.recv(&mut buffer)) {
            Ok(length) => text(&buffer[..length]),
            Err(error) => error.kind().to_string(),
        }
    }

    fn wait_for(&self, proxy: &Proxy, word: &str) {
        eventually(&format!("{word}\n{}", proxy.log()), || {
            self.ask().contains(word)
        });
    }
}

#[test]
fn every_frontend_answers_and_source_ranges_hold() {
    let proxy = start(&[("a.yaml", &web("Cluster", 8080, "node2"))], &[]);
    let _servers = echo(&proxy.host);
    wait_until_served(&proxy, "one");
    for to in ["10.96.10.1:80", "127.0.0.1:30080", "10.200.1.2:30080"] {
        assert_eq!(
            proxy.host.run(|| pod_of(&http(to).ask()).to_owned()),
            "one",
            "{to}"
        );
    }
    for to in ["10.96.10.1:53", "127.0.0.1:30053", "10.200.1.2:30053"] {
        assert_eq!(
            proxy.host.run(|| pod_of(&udp(to).ask()).to_owned()),
            "one",
            "{to}"
        );
    }
    let outside = outside(&proxy.host);
    for to in ["10.96.10.1:80", "10.201.0.1:30080", "10.99.0.1:80"] {
        assert_eq!(pod_of(&outside.ask(http(to))), "one", "{to}");
    }
    for to in ["10.96.10.1:53", "10.201.0.1:30053", "10.99.0.1:53"] {
        assert_eq!(pod_of(&outside.ask(udp(to))), "one", "{to}");
    }
    let stranger = at("10.201.0.3:0").ip();
    assert_eq!(
        outside.ask(http("10.99.0.1:80").from(stranger)),
        Outcome::TimedOut
    );
    assert_eq!(
        outside.ask(udp("10.99.0.1:53").from(stranger)),
        Outcome::TimedOut
    );
    let ports = relay_ports(&proxy.host, "tcp");
    assert!(!ports.is_empty());
    for port in ports {
        let way_round = format!("10.200.1.2:{port}");
        assert_eq!(
            outside.ask(http(&way_round)),
            Outcome::Refused,
            "{way_round}"
        );
        assert_eq!(proxy.host.run(|| http(&way_round).ask()), Outcome::Refused);
    }
    let log = proxy.log();
    assert_eq!(log.matches("SCTP cannot be relayed").count(), 1, "{log}");
    assert!(log.contains("demo/web:sctp"), "{log}");
}

#[test]
fn policies_and_missing_endpoints_match_the_other_modes() {
    let proxy = start(&[("a.yaml", &web("Local", 8080, "node2"))], &[]);
    let _servers = echo(&proxy.host);
    let outside = outside(&proxy.host);
    wait_until_served(&proxy, "one");
    // No endpoint on this node: dropped for outside clients, not for the node itself.
    assert_eq!(outside.ask(http("10.201.0.1:30080")), Outcome::TimedOut);
    assert_eq!(outside.ask(http("10.99.0.1:80")), Outcome::TimedOut);
    assert_eq!(pod_of(&outside.ask(http("10.96.10.1:80"))), "one");
    assert_eq!(
        proxy
            .host
            .run(|| pod_of(&http("10.200.1.2:30080").ask()).to_owned()),
        "one"
    );
    proxy.write("a.yaml", &web("Local", 8080, "node1"));
    eventually("an endpoint on this node", || {
        pod_of(&outside.ask(http("10.201.0.1:30080"))) == "one"
    });
    proxy.write("a.yaml", &without_endpoints());
    eventually("refused", || {
        outside.ask(http("10.96.10.1:80")) == Outcome::Refused
    });
    for to in ["10.201.0.1:30080", "10.99.0.1:80"] {
        assert_eq!(outside.ask(http(to)), Outcome::Refused, "{to}");
    }
    assert_eq!(outside.ask(udp("10.96.10.1:53")), Outcome::Refused);
    proxy.write("a.yaml", &web("Cluster", 8081, "node2"));
    eventually("back", || {
        pod_of(&outside.ask(http("10.99.0.1:80"))) == "two"
    });
}

/// Affinity holds for the Service port through all its frontends: with policy Local there is one endpoint,
/// through the others there are five.
#[test]
fn client_keeps_its_endpoint_through_every_frontend() {
    let endpoint = |n: u8| {
        let node = if n == 3 { "node1" } else { "node2" };
        format!("{{addresses: ['10.244.1.{n}'], conditions: {{ready: true}}, nodeName: {node}}}")
    };
    let endpoints: Vec<String> = (1..=5).map(endpoint).collect();
    let object = WEB
        .replace("POLICY", "Local\n  sessionAffinity: ClientIP")
        .replace("PORT", "8080")
        .replace("DATAGRAMS", "8053")
        .replace("ENDPOINTS", &format!("[{}]", endpoints.join(", ")));
    let proxy = start(&[("a.yaml", &object)], &[]);
    let ports = ["TCP:8080", "UDP:8053"];
    let _pods = [1, 2, 3, 4, 5].map(|n| Machine::pod_with(&proxy.host, n, &ports));
    let outside = outside(&proxy.host);
    eventually(&proxy.log(), || {
        pod_of(&outside.ask(http("10.201.0.1:30080"))) == "pod3"
    });
    assert_eq!(pod_of(&outside.ask(udp("10.201.0.1:30053"))), "pod3");
    for _ in 0..4 {
        assert_eq!(pod_of(&outside.ask(http("10.96.10.1:80"))), "pod3");
        assert_eq!(pod_of(&outside.ask(udp("10.96.10.1:53"))), "pod3");
    }
}

#[test]
fn open_connections_survive_changes() {
    let proxy = start(&[("a.yaml", &web("Cluster", 8080, "node1"))], &[]);
    let _servers = echo(&proxy.host);
    wait_until_served(&proxy, "one");
    let open = proxy
        .host
        .run(|| TcpStream::connect(at("10.96.10.1:80")).unwrap());
    open.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    // The server sends its answer to a silent client, then echoes everything.
    let (mut open, mut line) = (BufReader::new(open), String::new());
    open.read_line(&mut line).unwrap();
    assert!(line.contains("\"one\""), "{line}");
    proxy.write("a.yaml", &web("Cluster", 8081, "node1"));
    wait_until_served(&proxy, "two");
    fs::remove_file(proxy.folder.path().join("a.yaml")).unwrap();
    eventually("the Service is gone", || {
        proxy
            .host
            .run(|| http("10.96.10.1:80").ask().answer().is_none())
    });
    open.get_mut().write_all(b"still here\n").unwrap();
    let mut echoed = String::new();
    open.read_line(&mut echoed).unwrap();
    assert_eq!(echoed, "still here\n");
}

#[test]
fn ipv6_is_served_like_ipv4() {
    let object = over_ipv6(&web("Cluster", 8080, "node2"));
    let proxy = start(&[("a.yaml", &object)], &[]);
    let _servers = echo(&proxy.host);
    eventually(&format!("served\n{}", proxy.log()), || {
        proxy
            .host
            .run(|| pod_of(&http("[fd00:10:96::a]:80").ask()) == "one")
    });
    for to in ["[::1]:30080", "[fd00:200:1::2]:30080"] {
        let answer = proxy.host.run(|| pod_of(&http(to).ask()).to_owned());
        assert_eq!(answer, "one", "{to}");
    }
    let outside = outside(&proxy.host);
    // The kernel might choose the source address outside the source ranges.
    let inside = at("[fd00:201::2]:0").ip();
    eventually("neighbours", || {
        pod_of(&outside.ask(http("[fd00:10:96::a]:80"))) == "one"
    });
    for to in ["[fd00:201::1]:30080", "[2001:db8:99::1]:80"] {
        assert_eq!(pod_of(&outside.ask(http(to).from(inside))), "one", "{to}");
    }
    for to in [
        "[fd00:10:96::a]:53",
        "[fd00:201::1]:30053",
        "[2001:db8:99::1]:53",
    ] {
        assert_eq!(pod_of(&outside.ask(udp(to).from(inside))), "one", "{to}");
    }
    let stranger = at("[fd00:201::3]:0").ip();
    let strange = http("[2001:db8:99::1]:80").from(stranger);
    assert_eq!(outside.ask(strange), Outcome::TimedOut);
    proxy.write("a.yaml", &over_ipv6(&without_endpoints()));
    // A socket that is still sending its SYN may miss an answer and get the next one.
    let patient = |probe: Probe| probe.timeout(Duration::from_secs(5));
    eventually("refused", || {
        outside.ask(patient(http("[fd00:201::1]:30080").from(inside))) == Outcome::Refused
    });
    let cluster_ip = patient(http("[fd00:10:96::a]:80"));
    assert_eq!(proxy.host.run(|| cluster_ip.ask()), Outcome::Refused);
    assert_eq!(outside.ask(cluster_ip), Outcome::Refused);
}

#[test]
fn udp_client_that_keeps_its_port_is_served_through_changes_and_a_restart() {
    let mut proxy = start(&[("a.yaml", &web("Cluster", 8080, "node1"))], &[]);
    let _servers = echo(&proxy.host);
    wait_until_served(&proxy, "one");
    let client = Datagrams::to(&proxy.host, "10.96.10.1:53");
    let from_pod = Datagrams::to(&proxy.host, "127.0.0.1:30053");
    for client in [&client, &from_pod] {
        client.wait_for(&proxy, "\"one\"");
    }
    proxy.write("a.yaml", &web("Cluster", 8081, "node1"));
    client.wait_for(&proxy, "\"two\"");
    proxy.write("a.yaml", &without_endpoints());
    client.wait_for(&proxy, "refused");
    proxy.write("a.yaml", &web("Cluster", 8080, "node1"));
    for client in [&client, &from_pod] {
        client.wait_for(&proxy, "\"one\"");
    }
    let ports = ["tcp", "udp"].map(|protocol| relay_ports(&proxy.host, protocol));
    proxy.kill();
    client.wait_for(&proxy, "refused");
    proxy.respawn();
    for client in [&client, &from_pod] {
        client.wait_for(&proxy, "\"one\"");
    }
    wait_until_served(&proxy, "one");
    let after = ["tcp", "udp"].map(|protocol| relay_ports(&proxy.host, protocol));
    assert_eq!(ports, after);
}

#[test]
fn stopping_proxy_serves_until_open_connections_have_ended() {
    let mut proxy = start(&[("a.yaml", &web("Cluster", 8080, "node1"))], &[]);
    let _servers = echo(&proxy.host);
    wait_until_served(&proxy, "one");
    let connect = || TcpStream::connect(at("10.96.10.1:80")).unwrap();
    let mut open = proxy.host.run(connect);
    open.write_all(b"hold").unwrap();
    open.read_exact(&mut [0; 4]).unwrap();
    proxy
        .host
        .sh(&format!("kill -TERM {}", proxy.process.0.id()));
    eventually("it drains", || {
        proxy
            .log()
            .contains("Waiting for open connections and flows to end")
    });
    let meanwhile = proxy.host.run(|| http("10.96.10.1:80").ask());
    assert_eq!(pod_of(&meanwhile), "one");
    open.write_all(b"on").unwrap();
    open.read_exact(&mut [0; 2]).unwrap();
    drop(open);
    assert!(proxy.process.0.wait().unwrap().success());
}

#[test]
fn lost_table_is_restored_and_a_restart_serves_again() {
    let mut proxy = start(
        &[("a.yaml", &web("Cluster", 8080, "node1"))],
        &["--iptables-sync-period=500ms"],
    );
    let _servers = echo(&proxy.host);
    wait_until_served(&proxy, "one");
    proxy.host.sh("nft delete table ip sluice-userspace");
    wait_until_served(&proxy, "one");
    proxy.host.sh("nft flush map ip sluice-userspace frontends");
    wait_until_served(&proxy, "one");
    assert!(proxy.log().contains("Another program changed the rules"));
    proxy.kill();
    // The table stays and leads to a port without a listener.
    assert_eq!(
        proxy.host.run(|| http("10.96.10.1:80").ask()),
        Outcome::Refused
    );
    proxy.respawn();
    wait_until_served(&proxy, "one");
    let client = proxy.host.run(|| udp("10.96.10.1:53").ask());
    assert_eq!(pod_of(&client), "one");
}

#[test]
fn cleanup_removes_the_table_and_nothing_else() {
    let mut proxy = start(&[("a.yaml", &web("Cluster", 8080, "node1"))], &[]);
    let _servers = echo(&proxy.host);
    wait_until_served(&proxy, "one");
    proxy.host.sh("nft add table ip mine");
    proxy.kill();
    let output = proxy.host.sluice(&["cleanup"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let left = proxy.host.sh("nft list tables");
    assert!(
        !left.contains("sluice") && left.contains("table ip mine"),
        "{left}"
    );
}

#[test]
fn once_is_refused() {
    let host = Host::new();
    let output = host.sluice(&[
        "proxy",
        "--proxy-mode=userspace",
        "--once",
        "--manifests=/dev/null",
    ]);
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("--once cannot be used in userspace mode"));
}

/// Start `sluice proxy` as the user nobody.
fn start_unprivileged(host: &Host, folder: &std::path::Path, map: &[&str]) -> Running {
    // The user `nobody` may have no access to the program's folder.
    let program = folder.join("sluice");
    fs::copy(SLUICE, &program).unwrap();
    host.sh(&format!("chmod -R a+rX {}", folder.display()));
    let log = fs::File::create(folder.join(".log")).unwrap();
    let mut command = host.command("setpriv");
    command
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--no-new-privs",
            "--bounding-set=-all",
        ])
        .arg(program)
        .args([
            "proxy",
            "--mode=userspace",
            "--hostname-override=laptop",
            "--manifests",
        ])
        .arg(folder.join("objects"))
        .args(map.iter().map(|spec| format!("--listen-map={spec}")));
    Running(command.stderr(log).spawn().unwrap())
}

#[test]
fn listen_map_needs_no_privilege() {
    let host = Host::new();
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("objects")).unwrap();
    let object = folder.path().join("objects/a.yaml");
    fs::write(&object, web("Cluster", 8080, "node1")).unwrap();
    let list = folder.path().join("map");
    fs::write(&list, "# name service\n10.200.1.2:5353=demo/web:echo\n").unwrap();
    let _servers = echo(&host);
    let maps = [
        "9080=demo/web:http",
        "[::1]:9081=demo/web:80",
        list.to_str().unwrap(),
        "0.0.0.0:5354=demo/web:echo",
        "[::]:5354=demo/web:echo",
    ];
    let _proxy = start_unprivileged(&host, folder.path(), &maps);
    let log = || fs::read_to_string(folder.path().join(".log")).unwrap();
    for to in ["127.0.0.1:9080", "[::1]:9080", "[::1]:9081"] {
        eventually(&format!("{to}\n{}", log()), || {
            host.run(|| pod_of(&http(to).ask()) == "one")
        });
    }
    eventually("UDP", || {
        host.run(|| pod_of(&udp("10.200.1.2:5353").ask()) == "one")
    });
    // With a wildcard listener the answer comes from the destination of the request, although the kernel
    // would choose the client's address.
    more_addresses(&host);
    for (from, to) in [
        ("10.200.1.2:0", "10.201.0.1:5354"),
        ("[fd00:200:1::2]:0", "[fd00:201::1]:5354"),
    ] {
        eventually(to, || {
            host.run(|| pod_of(&udp(to).from(at(from).ip()).ask()) == "one")
        });
    }
    fs::write(&object, web("Cluster", 8081, "node1")).unwrap();
    host.sh(&format!("chmod a+r {}", object.display()));
    eventually("the change", || {
        host.run(|| pod_of(&http("127.0.0.1:9080").ask()) == "two")
    });
    assert_eq!(host.sh("nft list ruleset"), "");
    let log = log();
    let trouble = |line: &str| line.starts_with(['E', 'W']);
    assert!(!log.lines().any(trouble), "{log}");
}

#[test]
fn listen_map_waits_for_services_and_ports_and_reports_it() {
    let host = Host::new();
    let folder = tempfile::tempdir().unwrap();
    let objects = folder.path().join("objects");
    fs::create_dir(&objects).unwrap();
    let taken = host.run(|| TcpListener::bind("127.0.0.1:9080").unwrap());
    let _servers = echo(&host);
    let maps = ["9080=demo/web:http", "9081=demo/web", "9082=demo/web:htp"];
    let _proxy = start_unprivileged(&host, folder.path(), &maps);
    let said = |what: &str| {
        let log = || fs::read_to_string(folder.path().join(".log")).unwrap();
        eventually(&format!("{what}\n{}", log()), || log().contains(what));
    };
    let served = |to: &str| eventually(to, || host.run(|| pod_of(&http(to).ask()) == "one"));
    said("Service demo/web does not exist yet");
    let object = objects.join("a.yaml");
    fs::write(&object, web("Cluster", 8080, "node1")).unwrap();
    host.sh(&format!("chmod a+r {}", object.display()));
    served("[::1]:9080");
    said("cannot listen on 127.0.0.1:9080 for TCP: Address already in use");
    said("Service demo/web has several ports; name one of echo, http, sctp");
    said("port demo/web:htp does not exist yet; existing ports: echo, http, sctp");
    drop(taken);
    served("127.0.0.1:9080");
    fs::write(&object, without_endpoints()).unwrap();
    eventually("no listener", || {
        host.run(|| http("127.0.0.1:9080").ask() == Outcome::Refused)
    });
}

#[test]
fn invalid_listen_map_is_refused_with_its_word() {
    let host = Host::new();
    for (flags, said) in [
        (
            ["--proxy-mode=userspace", "--listen-map=80:demo/web"],
            "cannot read 80:demo/web",
        ),
        (
            ["--proxy-mode=userspace", "--listen-map=80=web"],
            "is not NAMESPACE/SERVICE",
        ),
        (
            ["--proxy-mode=iptables", "--listen-map=80=demo/web"],
            "--proxy-mode=userspace",
        ),
    ] {
        let words = [&["proxy", "--manifests=/dev/null"][..], &flags].concat();
        let output = host.sluice(&words);
        assert!(!output.status.success());
        let stderr = text(&output.stderr);
        assert!(stderr.contains(said), "{flags:?}: {stderr}");
    }
}

#[test]
fn nftables_mode_serves_node_ports_on_loopback_if_enabled() {
    let object = web("Local", 8080, "node2");
    for asked in [
        "--nodeport-addresses=10.200.1.0/24,127.0.0.0/8",
        "--iptables-localhost-nodeports",
    ] {
        let proxy = Proxy::start(Mode::Nftables, &[("a.yaml", &object)], &[asked]);
        let _servers = echo(&proxy.host);
        let served = |probe: Probe, by: &str| {
            let host = &proxy.host;
            eventually(&format!("{probe:?} by {by}\n{}", proxy.log()), || {
                host.run(|| pod_of(&probe.ask()) == by)
            });
        };
        served(http("127.0.0.1:30080"), "one");
        served(udp("127.0.0.1:30053"), "one");
        proxy.write("a.yaml", &web("Cluster", 8081, "node2"));
        served(http("127.0.0.1:30080"), "two");
        proxy.write(
            "a.yaml",
            &web("Cluster", 8081, "node2").replace("30080", "30081"),
        );
        served(http("127.0.0.1:30081"), "two");
        let free = || TcpListener::bind("127.0.0.1:30080").is_ok();
        eventually("the old port is free", || proxy.host.run(free));
        let setting = "cat /proc/sys/net/ipv4/conf/all/route_localnet";
        assert_eq!(proxy.host.sh(setting).trim(), "0");
    }
}

#[test]
fn nftables_mode_does_not_serve_loopback_by_default() {
    let proxy = Proxy::start(
        Mode::Nftables,
        &[("a.yaml", &web("Cluster", 8080, "node2"))],
        &[],
    );
    let _servers = echo(&proxy.host);
    proxy.host.sh("ip route add default dev eth0");
    wait_until_served(&proxy, "one");
    let outcome = proxy.host.run(|| http("127.0.0.1:30080").ask());
    assert_eq!(outcome, Outcome::Refused);
}

#[test]
fn node_port_in_use_on_loopback_is_reported_and_others_are_served() {
    let proxy = Proxy::start(Mode::Nftables, &[], &["--iptables-localhost-nodeports"]);
    let taken = proxy
        .host
        .run(|| TcpListener::bind("127.0.0.1:30080").unwrap());
    let _servers = echo(&proxy.host);
    proxy.write("a.yaml", &web("Cluster", 8080, "node2"));
    let log = || proxy.log();
    eventually(&log(), || {
        log().contains("cannot listen on 127.0.0.1:30080 for TCP")
    });
    let answer = proxy.host.run(|| udp("127.0.0.1:30053").ask());
    assert_eq!(pod_of(&answer), "one");
    drop(taken);
    // It is tried again with the next change of any kind.
    proxy.write("b.yaml", &support::web("api", 9, "10.200.1.2"));
    eventually("served now", || {
        proxy
            .host
            .run(|| pod_of(&http("127.0.0.1:30080").ask()) == "one")
    });
}
