//! The userspace mode: real connections through the relay, from the host and from outside, as
//! objects change, as others meddle, and without any privilege.

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

use kernel::netns::NetNs;
use lab::probe::{Outcome, Probe};
use support::{Host, Proxy, Running, SLUICE, eventually, text};

/// A Service with everything: NodePort, load balancer with source ranges, an SCTP port beside.
const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo}
spec:
  type: LoadBalancer
  clusterIP: 10.96.10.1
  externalTrafficPolicy: POLICY
  loadBalancerSourceRanges: [10.201.0.2/32]
  ports:
  - {name: http, port: 80, nodePort: 30080}
  - {name: echo, port: 53, nodePort: 30053, protocol: UDP}
  - {name: sctp, port: 99, nodePort: 30099, protocol: SCTP}
status: {loadBalancer: {ingress: [{ip: 10.99.0.1}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-a, namespace: demo, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports:
- {name: http, port: PORT, protocol: TCP}
- {name: echo, port: 8053, protocol: UDP}
endpoints: ENDPOINTS
";

/// The Service with this external policy, and its endpoint at this port, on this node.
fn web(policy: &str, port: u16, node: &str) -> String {
    let endpoint =
        format!("[{{addresses: [10.200.1.2], conditions: {{ready: true}}, nodeName: {node}}}]");
    WEB.replace("POLICY", policy)
        .replace("PORT", &port.to_string())
        .replace("ENDPOINTS", &endpoint)
}

fn without_endpoints() -> String {
    WEB.replace("POLICY", "Cluster")
        .replace("PORT", "1")
        .replace("ENDPOINTS", "[]")
}

/// The proxy, on a host that has a route to cluster IPs as hosts with a default route have.
fn start(files: &[(&str, &str)], flags: &[&str]) -> Proxy {
    let proxy = Proxy::start("userspace", files, flags);
    proxy.host.sh("ip route add default dev eth0");
    proxy
}

/// Two servers: `one` at TCP 8080 and UDP 8053, `two` at TCP 8081.
fn echo(host: &Host) -> [Running; 2] {
    let server = |name: &str, ports: &[&str]| {
        let mut command = host.command(SLUICE);
        command.args(["lab-echo", "--node=node1", "--address=10.200.1.2"]);
        command.arg(format!("--pod=demo/{name}")).args(ports);
        let mut child: Child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 6];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut ready)
            .unwrap();
        Running(child)
    };
    [
        server("one", &["--port=TCP:8080", "--port=UDP:8053"]),
        server("two", &["--port=TCP:8081"]),
    ]
}

/// A machine beside the host that reaches Services through it; gone when dropped.
struct Outside(NetNs);

impl Outside {
    fn beside(host: &Host) -> Self {
        let name = format!("sluice-test-{}-{}", std::process::id(), rand());
        let ns = NetNs::create(&name).unwrap();
        let outside = Self(ns);
        host.sh(&format!(
            "ip link add ext type veth peer name eth0 netns {name}"
        ));
        host.sh("ip link set ext up; ip addr add 10.201.0.1/24 dev ext");
        host.sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
        for line in [
            "ip link set lo up; ip link set eth0 up",
            "ip addr add 10.201.0.2/24 dev eth0; ip addr add 10.201.0.3/24 dev eth0",
            "ip route add default via 10.201.0.1",
        ] {
            let output = outside
                .0
                .command("sh")
                .unwrap()
                .args(["-c", line])
                .output()
                .unwrap();
            assert!(output.status.success(), "{line}: {}", text(&output.stderr));
        }
        outside
    }

    fn ask(&self, probe: Probe) -> Outcome {
        self.0.run(|| probe.ask()).unwrap()
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = NetNs::delete(self.0.name());
    }
}

/// Different for each test of this process.
fn rand() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(1000);
    COUNT.fetch_add(1, Ordering::Relaxed)
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

fn who(outcome: &Outcome) -> &str {
    outcome.answer().map_or("nobody", |answer| &answer.pod)
}

fn wait_until_served(proxy: &Proxy, pod: &str) {
    eventually(&format!("{pod} answers\n{}", proxy.log()), || {
        proxy.host.run(|| who(&http("10.96.10.1:80").ask()) == pod)
    });
}

fn relay_ports(host: &Host) -> Vec<String> {
    let set = host.sh("nft list set ip sluice-userspace relay-ports");
    let words = set.split([' ', ',', '\n']).collect::<Vec<_>>();
    let tcp = words.windows(3).filter(|w| w[0] == "tcp" && w[1] == ".");
    tcp.map(|w| w[2].to_owned()).collect()
}

#[test]
fn every_frontend_answers_and_source_ranges_hold() {
    let proxy = start(&[("a.yaml", &web("Cluster", 8080, "node2"))], &[]);
    let _servers = echo(&proxy.host);
    wait_until_served(&proxy, "one");
    for to in ["10.96.10.1:80", "127.0.0.1:30080", "10.200.1.2:30080"] {
        assert_eq!(
            proxy.host.run(|| who(&http(to).ask()).to_owned()),
            "one",
            "{to}"
        );
    }
    for to in ["10.96.10.1:53", "127.0.0.1:30053", "10.200.1.2:30053"] {
        assert_eq!(
            proxy.host.run(|| who(&udp(to).ask()).to_owned()),
            "one",
            "{to}"
        );
    }
    let outside = Outside::beside(&proxy.host);
    for to in ["10.96.10.1:80", "10.201.0.1:30080", "10.99.0.1:80"] {
        assert_eq!(who(&outside.ask(http(to))), "one", "{to}");
    }
    for to in ["10.96.10.1:53", "10.201.0.1:30053", "10.99.0.1:53"] {
        assert_eq!(who(&outside.ask(udp(to))), "one", "{to}");
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
    let ports = relay_ports(&proxy.host);
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
fn policies_and_missing_endpoints_are_as_in_the_other_modes() {
    let proxy = start(&[("a.yaml", &web("Local", 8080, "node2"))], &[]);
    let _servers = echo(&proxy.host);
    let outside = Outside::beside(&proxy.host);
    wait_until_served(&proxy, "one");
    // Nobody on this node: dropped for those outside, not for the node itself.
    assert_eq!(outside.ask(http("10.201.0.1:30080")), Outcome::TimedOut);
    assert_eq!(outside.ask(http("10.99.0.1:80")), Outcome::TimedOut);
    assert_eq!(who(&outside.ask(http("10.96.10.1:80"))), "one");
    assert_eq!(
        proxy
            .host
            .run(|| who(&http("10.200.1.2:30080").ask()).to_owned()),
        "one"
    );
    proxy.write("a.yaml", &web("Local", 8080, "node1"));
    eventually("somebody on this node", || {
        who(&outside.ask(http("10.201.0.1:30080"))) == "one"
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
    eventually("back", || who(&outside.ask(http("10.99.0.1:80"))) == "two");
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
    // To a silent client the server speaks first, and then sends everything back.
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
fn a_table_that_is_lost_is_put_back_and_a_restart_serves_again() {
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
    assert!(proxy.log().contains("somebody else changed the rules"));
    proxy.kill();
    // The table stays and leads to a port where nobody listens.
    assert_eq!(
        proxy.host.run(|| http("10.96.10.1:80").ask()),
        Outcome::Refused
    );
    proxy.respawn();
    wait_until_served(&proxy, "one");
    let client = proxy.host.run(|| udp("10.96.10.1:53").ask());
    assert_eq!(who(&client), "one");
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

/// `sluice proxy` as nobody.
fn as_nobody(host: &Host, folder: &std::path::Path, map: &[&str]) -> Running {
    // The program may lie where nobody has no way to.
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
            "--proxy-mode=userspace",
            "--hostname-override=laptop",
            "--manifests",
        ])
        .arg(folder.join("objects"))
        .args(map.iter().map(|spec| format!("--listen-map={spec}")));
    Running(command.stderr(log).spawn().unwrap())
}

#[test]
fn a_listen_map_needs_no_privilege() {
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
    ];
    let _proxy = as_nobody(&host, folder.path(), &maps);
    let log = || fs::read_to_string(folder.path().join(".log")).unwrap();
    for to in ["127.0.0.1:9080", "[::1]:9080", "[::1]:9081"] {
        eventually(&format!("{to}\n{}", log()), || {
            host.run(|| who(&http(to).ask()) == "one")
        });
    }
    eventually("UDP", || {
        host.run(|| who(&udp("10.200.1.2:5353").ask()) == "one")
    });
    fs::write(&object, web("Cluster", 8081, "node1")).unwrap();
    host.sh(&format!("chmod a+r {}", object.display()));
    eventually("the change", || {
        host.run(|| who(&http("127.0.0.1:9080").ask()) == "two")
    });
    assert_eq!(host.sh("nft list ruleset"), "");
    let log = log();
    let trouble = |line: &str| line.starts_with(['E', 'W']);
    assert!(!log.lines().any(trouble), "{log}");
}

#[test]
fn a_listen_map_that_is_wrong_is_refused_by_word() {
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
fn nftables_mode_serves_node_ports_on_loopback_where_asked() {
    let asked = "--nodeport-addresses=10.200.1.0/24,127.0.0.0/8";
    let object = web("Local", 8080, "node2");
    let proxy = Proxy::start("nftables", &[("a.yaml", &object)], &[asked]);
    let _servers = echo(&proxy.host);
    eventually("TCP", || {
        proxy
            .host
            .run(|| who(&http("127.0.0.1:30080").ask()) == "one")
    });
    eventually("UDP", || {
        proxy
            .host
            .run(|| who(&udp("127.0.0.1:30053").ask()) == "one")
    });
    proxy.write("a.yaml", &web("Cluster", 8081, "node2"));
    eventually("the change", || {
        proxy
            .host
            .run(|| who(&http("127.0.0.1:30080").ask()) == "two")
    });
    assert_eq!(
        proxy
            .host
            .sh("cat /proc/sys/net/ipv4/conf/all/route_localnet")
            .trim(),
        "0"
    );
}
