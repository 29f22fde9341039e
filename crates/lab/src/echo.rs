//! The server in every pod: it answers with its own name and the client's address.
//!
//! - HTTP: any request is answered with an [`Answer`] as JSON; connections are kept alive.
//! - Plain TCP (and SCTP): a client that sends something other than HTTP, or nothing for
//!   [`PATIENCE`], gets the [`Answer`] as one line, and then an echo of all that it sends.
//! - UDP: each datagram is answered with the [`Answer`].
//!
//! It uses threads and blocking sockets, so that a pod is small and starts in milliseconds.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use model::Protocol;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

/// Time in which a client must begin its HTTP request: long enough for a very busy machine.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// Time after which an idle kept-alive connection is closed.
const IDLE: Duration = Duration::from_secs(60);
/// The line that the server prints when all its ports are open.
pub(crate) const READY: &str = "ready\n";
const STACK: usize = 128 * 1024;

/// The server's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The pod's name.
    pub pod: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's node.
    pub node: String,
    /// The protocol of the transport.
    #[serde(with = "crate::control::protocol")]
    pub protocol: Protocol,
    /// The client's address, as the server sees it.
    pub client: SocketAddr,
    /// The server's own address.
    pub local: SocketAddr,
}

/// The command line of the hidden subcommand `lab-echo`.
#[derive(Clone, Debug, clap::Args)]
pub struct EchoArgs {
    /// The pod's namespace and name
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub pod: String,
    /// The pod's node
    #[arg(long)]
    pub node: String,
    /// A port to open
    #[arg(long = "port", value_name = "PROTOCOL:PORT")]
    pub ports: Vec<EchoPort>,
    /// An address for datagrams, in addition to loopback
    #[arg(long = "address")]
    pub addresses: Vec<IpAddr>,
}

/// A port to open: `TCP:80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoPort {
    /// The transport.
    pub protocol: Protocol,
    /// The number.
    pub port: u16,
}

impl FromStr for EchoPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (protocol, port) = text.split_once(':').unwrap_or(("", text));
        let protocol = crate::control::protocol_of(protocol);
        match (protocol, port.parse()) {
            (Some(protocol), Ok(port)) => Ok(Self { protocol, port }),
            _ => Err(format!("{text:?} is not of the form TCP:80")),
        }
    }
}

/// Open the ports, print `ready`, and serve until killed.
///
/// # Errors
/// A port cannot be opened.
pub fn run(args: &EchoArgs) -> Result<()> {
    let (namespace, pod) = args.pod.split_once('/').unwrap_or(("default", &args.pod));
    let server = Server {
        pod: pod.to_owned(),
        namespace: namespace.to_owned(),
        node: args.node.clone(),
    };
    let server: &'static Server = Box::leak(Box::new(server));
    for port in &args.ports {
        server
            .open(*port, &args.addresses)
            .with_context(|| format!("opening {} port {}", port.protocol, port.port))?;
    }
    let mut stdout = io::stdout();
    stdout.write_all(READY.as_bytes())?;
    stdout.flush()?;
    loop {
        thread::park();
    }
}

#[derive(Debug)]
struct Server {
    pod: String,
    namespace: String,
    node: String,
}

impl Server {
    fn open(&'static self, port: EchoPort, addresses: &[IpAddr]) -> Result<()> {
        if port.protocol == Protocol::Udp {
            let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            for ip in addresses.iter().copied().chain(loopback) {
                // One socket per address, so that an answer comes from the address of the request.
                let socket = UdpSocket::bind((ip, port.port))?;
                spawn(move || self.serve_datagrams(&socket))?;
            }
            return Ok(());
        }
        let listener = listen(port)?;
        spawn(move || {
            loop {
                match listener.accept() {
                    Ok((stream, client)) => {
                        // Without threads or memory only this client fails.
                        let _ =
                            spawn(move || drop(self.serve_stream(&stream, client, port.protocol)));
                    }
                    Err(_) => thread::sleep(Duration::from_millis(10)),
                }
            }
        })
    }

    fn answer(&self, protocol: Protocol, client: SocketAddr, local: SocketAddr) -> String {
        let answer = Answer {
            pod: self.pod.clone(),
            namespace: self.namespace.clone(),
            node: self.node.clone(),
            protocol,
            client: canonical(client),
            local: canonical(local),
        };
        let mut text = serde_json::to_string(&answer).unwrap_or_default();
        text.push('\n');
        text
    }

    fn serve_datagrams(&self, socket: &UdpSocket) {
        let mut buffer = [0; 2048];
        loop {
            // An error here is an ICMP message about an earlier answer.
            if let Ok((_, client)) = socket.recv_from(&mut buffer)
                && let Ok(local) = socket.local_addr()
            {
                let _ =
                    socket.send_to(self.answer(Protocol::Udp, client, local).as_bytes(), client);
            }
        }
    }

    fn serve_stream(
        &self,
        stream: &TcpStream,
        client: SocketAddr,
        protocol: Protocol,
    ) -> io::Result<()> {
        let answer = self.answer(protocol, client, stream.local_addr()?);
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut reader = BufReader::new(stream);
        let mut writer = stream;
        if !looks_like_http(&mut reader) {
            stream.set_read_timeout(None)?;
            writer.write_all(answer.as_bytes())?;
            io::copy(&mut reader, &mut writer)?;
            return Ok(());
        }
        stream.set_read_timeout(Some(IDLE))?;
        while let Some(request) = Request::read(&mut reader)? {
            let connection = if request.keep_alive {
                "keep-alive"
            } else {
                "close"
            };
            let body = if request.head { "" } else { &answer };
            let length = answer.len();
            writer.write_all(
                format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n{body}"
                )
                .as_bytes(),
            )?;
            if !request.keep_alive {
                break;
            }
        }
        Ok(())
    }
}

/// Return whether the first bytes are a method in capitals and a space (RFC 9110).
fn looks_like_http(reader: &mut impl BufRead) -> bool {
    let Ok(start) = reader.fill_buf() else {
        return false;
    };
    let word = start.split(|b| *b == b' ').next().unwrap_or_default();
    word.len() < start.len()
        && (3..=7).contains(&word.len())
        && word.iter().all(u8::is_ascii_uppercase)
}

struct Request {
    head: bool,
    keep_alive: bool,
}

impl Request {
    /// Read one request and skip its body; `None` at the end of the connection.
    fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        // Longer heads get no answer.
        let mut head = reader.take(64 * 1024);
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut request = Self {
            head: line.starts_with("HEAD "),
            keep_alive: line.trim_end().ends_with("HTTP/1.1"),
        };
        let mut length = 0;
        loop {
            line.clear();
            if head.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            if line.trim_end().is_empty() {
                break;
            }
            let (key, value) = line.split_once(':').unwrap_or((&line, ""));
            if key.eq_ignore_ascii_case("connection") && value.trim().eq_ignore_ascii_case("close")
            {
                request.keep_alive = false;
            } else if key.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        io::copy(&mut reader.take(length), &mut io::sink())?;
        Ok(Some(request))
    }
}

fn listen(port: EchoPort) -> io::Result<TcpListener> {
    // One-to-one SCTP sockets (RFC 6458, section 4) work like TCP's.
    let protocol = socket2::Protocol::from(i32::from(port.protocol.number()));
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(protocol))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port.port)).into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

/// Return whether the kernel supports a transport.
pub fn kernel_has(protocol: Protocol) -> bool {
    let kind = if protocol == Protocol::Udp {
        Type::DGRAM
    } else {
        Type::STREAM
    };
    let number = socket2::Protocol::from(i32::from(protocol.number()));
    Socket::new(Domain::IPV4, kind, Some(number)).is_ok()
}

/// Convert an IPv4-mapped IPv6 address to IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn spawn(work: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new().stack_size(STACK).spawn(work)?;
    Ok(())
}
