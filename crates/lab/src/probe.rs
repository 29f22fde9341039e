//! Connections from a host of the lab, with typed outcomes.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use model::Protocol;
use nix::errno::Errno;
use socket2::{Domain, Socket, Type};

use crate::echo::Answer;

/// One request to an echo server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The destination.
    pub to: SocketAddr,
    /// The protocol.
    pub how: How,
    /// The source address; the kernel chooses it if `None`.
    pub from: Option<IpAddr>,
    /// The source port; the kernel chooses it if 0.
    pub from_port: u16,
    /// Time limit for connecting, and for each answer.
    pub timeout: Duration,
}

/// The protocol of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// HTTP GET.
    Http,
    /// A connection with an empty line, which is not HTTP.
    Plain(Protocol),
    /// A datagram.
    Udp,
}

/// The result of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An echo server answered.
    Answered(Answer),
    /// A reset, or ICMP port unreachable.
    Refused,
    /// ICMP host or network unreachable.
    Unreachable,
    /// No answer within the time limit.
    TimedOut,
    /// The connection ended before the answer was complete, or another error.
    Failed(String),
}

impl Outcome {
    /// Return the answer, if any.
    pub fn answer(&self) -> Option<&Answer> {
        match self {
            Outcome::Answered(answer) => Some(answer),
            _ => None,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Answered(answer) => write!(f, "{} on {}", answer.pod, answer.node),
            Outcome::Refused => f.write_str("refused"),
            Outcome::Unreachable => f.write_str("unreachable"),
            Outcome::TimedOut => f.write_str("timed out"),
            Outcome::Failed(reason) => write!(f, "failed: {reason}"),
        }
    }
}

impl Probe {
    /// HTTP GET with a limit of two seconds for each step.
    pub fn http(to: SocketAddr) -> Self {
        Self {
            to,
            how: How::Http,
            from: None,
            from_port: 0,
            timeout: Duration::from_secs(2),
        }
    }

    /// Send a datagram.
    pub fn udp(to: SocketAddr) -> Self {
        Self {
            how: How::Udp,
            ..Self::http(to)
        }
    }

    /// Set the source address.
    pub fn from(self, from: IpAddr) -> Self {
        Self {
            from: Some(from),
            ..self
        }
    }

    /// Set the source port of a datagram.
    pub fn from_port(self, from_port: u16) -> Self {
        Self { from_port, ..self }
    }

    /// Set the time limit.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Send the request from the calling thread's namespace.
    pub fn ask(&self) -> Outcome {
        let text = match self.how {
            How::Http => self
                .stream(Protocol::Tcp)
                .and_then(|stream| get(&stream, self.to)),
            How::Plain(protocol) => self.stream(protocol).and_then(|stream| {
                (&stream).write_all(b"\n")?;
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line)?;
                Ok(line)
            }),
            How::Udp => self.datagram(),
        };
        read(text)
    }

    /// Open a TCP connection from the calling thread's namespace. An error is an outcome without an
    /// answer.
    #[expect(
        clippy::result_large_err,
        reason = "an outcome exists once per connection"
    )]
    pub(crate) fn connect(&self) -> Result<TcpStream, Outcome> {
        self.stream(Protocol::Tcp).map_err(|e| outcome_of(&e))
    }

    /// Send HTTP GET on this connection.
    pub(crate) fn get(&self, stream: &TcpStream) -> Outcome {
        read(get(stream, self.to))
    }

    fn stream(&self, protocol: Protocol) -> io::Result<TcpStream> {
        let number = socket2::Protocol::from(i32::from(protocol.number()));
        let socket = Socket::new(Domain::for_address(self.to), Type::STREAM, Some(number))?;
        if let Some(from) = self.from {
            socket.bind(&SocketAddr::new(from, 0).into())?;
        }
        socket.connect_timeout(&self.to.into(), self.timeout)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        Ok(stream)
    }

    fn datagram(&self) -> io::Result<String> {
        let any: IpAddr = if self.to.is_ipv4() {
            std::net::Ipv4Addr::UNSPECIFIED.into()
        } else {
            std::net::Ipv6Addr::UNSPECIFIED.into()
        };
        let socket = self.bind(self.from.unwrap_or(any))?;
        socket.set_read_timeout(Some(self.timeout))?;
        // Connected, so that ICMP errors are reported.
        socket.connect(self.to)?;
        socket.send(b"hello\n")?;
        let mut buffer = [0; 2048];
        let length = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned())
    }

    /// Bind the socket of a datagram. A child that another thread has forked keeps the socket of the last
    /// request open until it executes its program: wait for the port.
    fn bind(&self, from: IpAddr) -> io::Result<UdpSocket> {
        let end = Instant::now() + self.timeout;
        loop {
            match UdpSocket::bind((from, self.from_port)) {
                Err(e) if e.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                bound => return bound,
            }
        }
    }
}

/// Read an answer.
fn read(text: io::Result<String>) -> Outcome {
    match text {
        Err(e) => outcome_of(&e),
        Ok(text) => match serde_json::from_str(&text) {
            Ok(answer) => Outcome::Answered(answer),
            Err(_) if text.is_empty() => Outcome::Failed("closed without an answer".to_owned()),
            Err(e) => Outcome::Failed(format!("not an echo server's answer ({e}): {text:?}")),
        },
    }
}

/// Send a GET and return the body.
fn get(mut stream: &TcpStream, host: SocketAddr) -> io::Result<String> {
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.take(64 * 1024).read_to_string(&mut text)?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok(body.to_owned())
}

fn outcome_of(e: &io::Error) -> Outcome {
    match e.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ECONNREFUSED) => Outcome::Refused,
        Some(Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::EACCES) => Outcome::Unreachable,
        Some(Errno::ETIMEDOUT | Errno::EAGAIN | Errno::EINPROGRESS) => Outcome::TimedOut,
        _ if e.kind() == io::ErrorKind::TimedOut => Outcome::TimedOut,
        _ => Outcome::Failed(e.to_string()),
    }
}
