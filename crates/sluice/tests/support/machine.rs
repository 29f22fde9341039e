//! Machines around the node of a test: pods and an outside client.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use kernel::netns::NetNs;
use lab::echo::Answer;
use lab::probe::{Outcome, Probe};

use super::{Host, Running, SLUICE, text};

/// The addresses of the outside machine.
pub(crate) const OUTSIDE: [&str; 4] = ["10.201.0.2", "10.201.0.3", "fd00:201::2", "fd00:201::3"];

/// A machine with its own link to the host, which is its default gateway. Deleted on drop.
pub(crate) struct Machine {
    pub(crate) netns: NetNs,
    pub(crate) server: Option<Running>,
}

impl Machine {
    pub(crate) fn beside(host: &Host, cable: &str, addresses: &[&str]) -> Self {
        let name = format!("{}-{cable}", host.name);
        let netns = NetNs::create(&name).unwrap();
        let machine = Self {
            netns,
            server: None,
        };
        host.sh(&format!(
            "ip link add {cable} type veth peer name eth0 netns {name}
             echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
             echo 1 >/proc/sys/net/ipv4/conf/{cable}/proxy_arp
             echo 0 >/proc/sys/net/ipv4/neigh/{cable}/proxy_delay
             ip link set {cable} up; ip addr add fe80::1/64 dev {cable} nodad"
        ));
        machine.sh("ip link set lo up; ip link set eth0 up");
        for address in addresses {
            machine.sh(&format!("ip addr add {address} dev eth0 nodad"));
            host.sh(&format!("ip route add {address} dev {cable}"));
        }
        machine.sh("ip route add default dev eth0; ip -6 route add default via fe80::1 dev eth0");
        machine
    }

    /// Create a pod that answers at TCP 8080, UDP 8053 and SCTP 8099.
    pub(crate) fn pod(host: &Host, number: u8) -> Self {
        Self::pod_with(host, number, &["TCP:8080", "UDP:8053", "SCTP:8099"])
    }

    /// Create a pod that answers at these ports.
    pub(crate) fn pod_with(host: &Host, number: u8, ports: &[&str]) -> Self {
        let addresses = [
            format!("10.244.1.{number}"),
            format!("fd00:10:244::{number}"),
        ];
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let name = format!("pod{number}");
        let mut pod = Self::beside(host, &name, &addresses);
        let command = pod.netns.command(SLUICE).unwrap();
        pod.server = Some(echo(command, &name, &addresses, ports));
        pod
    }

    /// Create a machine that is neither node nor pod.
    pub(crate) fn outside(host: &Host) -> Self {
        Self::beside(host, "ext", &OUTSIDE)
    }

    pub(crate) fn sh(&self, line: &str) -> String {
        let mut command = self.netns.command("sh").unwrap();
        let output = command.args(["-c", line]).output().unwrap();
        assert!(output.status.success(), "{line}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    pub(crate) fn ask(&self, probe: Probe) -> Outcome {
        self.netns.run(|| probe.ask()).unwrap()
    }

    /// Return the answer, with a time limit for busy machines.
    pub(crate) fn answer(&self, probe: Probe) -> Answer {
        let outcome = self.ask(probe.timeout(Duration::from_secs(20)));
        let answer = outcome.answer().cloned();
        answer.unwrap_or_else(|| panic!("{probe:?}: {outcome}"))
    }

    /// Return the pods that answer this many connections.
    pub(crate) fn pods(&self, to: SocketAddr, count: usize) -> BTreeSet<String> {
        let answers = (0..count).map(|_| self.answer(Probe::http(to)).pod);
        answers.collect()
    }

    /// Return the pod that answers a connection from this port, which may have been in use just before.
    pub(crate) fn pod_from_port(&self, port: u16, to: SocketAddr) -> Option<String> {
        let line = format!(
            "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -s {} -p {port} -w 20 {} {} || true",
            OUTSIDE[0],
            to.ip(),
            to.port()
        );
        let said = self.sh(&line);
        let answer: Answer = serde_json::from_str(said.lines().last()?).ok()?;
        Some(answer.pod)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = NetNs::delete(self.netns.name());
    }
}

/// Start a server that answers with the pod's name, and wait until it listens.
pub(crate) fn echo(mut command: Command, pod: &str, addresses: &[&str], ports: &[&str]) -> Running {
    command
        .args(["lab-echo", "--node=node1"])
        .arg(format!("--pod=demo/{pod}"))
        .args(ports.iter().map(|port| format!("--port={port}")))
        .args(addresses.iter().map(|ip| format!("--address={ip}")));
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    let stdout = child.stdout.as_mut().unwrap();
    stdout.read_exact(&mut ready).unwrap();
    Running(child)
}

/// A long-lived connection.
pub(crate) struct Conversation {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
    pub(crate) pod: String,
}

impl Conversation {
    pub(crate) fn start(from: &Machine, to: SocketAddr) -> Self {
        let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(20));
        let stream = from.netns.run(connect).unwrap().unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        let mut this = Self {
            stream,
            reader,
            pod: String::new(),
        };
        // An empty line is not HTTP: the server sends its name, then echoes everything.
        (&this.stream).write_all(b"\n").unwrap();
        let answer: Answer = serde_json::from_str(&this.recv()).unwrap();
        this.pod = answer.pod;
        assert_eq!(this.recv(), "\n");
        this
    }

    fn recv(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line
    }

    pub(crate) fn goes_on(&mut self) {
        (&self.stream).write_all(b"still there?\n").unwrap();
        assert_eq!(self.recv(), "still there?\n");
    }

    /// Close the connection with a reset, after which IPVS forgets it soonest: after 10 s.
    pub(crate) fn reset(self) {
        let stream = socket2::Socket::from(self.stream);
        stream.set_linger(Some(Duration::ZERO)).unwrap();
    }
}
