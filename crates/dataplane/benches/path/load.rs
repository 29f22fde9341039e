//! The load: both ends of connections, driven by one thread.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Instant;

use model::IpFamily;
use nix::sys::socket::{setsockopt, sockopt};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    /// A TCP connection, from `socket` to both ends closed.
    Connection,
    /// A request and a response of one byte on an open connection.
    Request,
    /// A UDP packet of a flow that is never answered.
    Packet,
    /// One MB over an open connection.
    Bulk,
}

impl Column {
    pub(crate) const ALL: [Column; 4] = [
        Column::Connection,
        Column::Request,
        Column::Packet,
        Column::Bulk,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Column::Connection => "connection",
            Column::Request => "TCP_RR",
            Column::Packet => "UDP packet",
            Column::Bulk => "MB",
        }
    }
}

const CONNECTIONS: u32 = 40;
const REQUESTS: u32 = 100;
const PACKETS: u32 = 100;
const MEGABYTES: u32 = 2;
/// Bytes of a write of [`Column::Bulk`]. They fit into the buffers of both ends.
const CHUNK: usize = 1 << 16;
const BUFFER: usize = 1 << 20;

/// The sockets of pods.
pub(crate) struct Server {
    tcp: TcpListener,
    udp: UdpSocket,
}

/// An open connection and a flow to a destination.
pub(crate) struct Path {
    tcp: Vec<SocketAddr>,
    ends: [TcpStream; 2],
    udp: UdpSocket,
}

impl Server {
    /// Listen in the calling thread's namespace.
    pub(crate) fn listen(any: SocketAddr) -> Self {
        let tcp = TcpListener::bind(any).expect("a port");
        setsockopt(&tcp, sockopt::RcvBufForce, &BUFFER).expect("an option");
        let udp = UdpSocket::bind(any).expect("a port");
        udp.set_nonblocking(true).expect("an option");
        Self { tcp, udp }
    }

    fn accept(&self) -> TcpStream {
        self.tcp.accept().expect("a connection").0
    }
}

impl Path {
    /// Open it from the calling thread's namespace.
    pub(crate) fn open(server: &Server, tcp: Vec<SocketAddr>, udp: SocketAddr) -> Self {
        let client = TcpStream::connect(tcp[0]).expect("a connection");
        let ends = [client, server.accept()];
        for end in &ends {
            end.set_nodelay(true).expect("an option");
            setsockopt(end, sockopt::SndBufForce, &BUFFER).expect("an option");
        }
        let any = SocketAddr::new(crate::rules::any(IpFamily::of(udp.ip())), 0);
        let flow = UdpSocket::bind(any).expect("a port");
        flow.connect(udp).expect("a route");
        Path {
            tcp,
            ends,
            udp: flow,
        }
    }

    /// Return the instructions of one unit, from a thread in the client's namespace.
    pub(crate) fn count(&self, server: &Server, column: Column) -> f64 {
        let start = Instant::now();
        let units = match column {
            Column::Connection => self.connections(server),
            Column::Request => self.requests(),
            Column::Packet => self.packets(server),
            Column::Bulk => self.bulk(),
        };
        start.elapsed().as_nanos() as f64 / f64::from(units)
    }

    fn connections(&self, server: &Server) -> u32 {
        for target in self.tcp.iter().cycle().take(CONNECTIONS as usize) {
            let client = TcpStream::connect(target).expect("a connection");
            let mut other = server.accept();
            client.shutdown(Shutdown::Write).expect("a connection");
            assert_eq!(other.read(&mut [0]).expect("the end"), 0);
            drop(other);
            drop(client);
        }
        CONNECTIONS
    }

    fn requests(&self) -> u32 {
        let [mut client, mut other] = [&self.ends[0], &self.ends[1]];
        let mut byte = [0];
        for _ in 0..REQUESTS {
            client.write_all(&byte).expect("a connection");
            other.read_exact(&mut byte).expect("a connection");
            other.write_all(&byte).expect("a connection");
            client.read_exact(&mut byte).expect("a connection");
        }
        REQUESTS
    }

    fn packets(&self, server: &Server) -> u32 {
        for _ in 0..PACKETS {
            self.udp.send(&[0]).expect("a route");
            server.udp.recv(&mut [0]).expect("a packet");
        }
        PACKETS
    }

    fn bulk(&self) -> u32 {
        let [mut client, mut other] = [&self.ends[0], &self.ends[1]];
        let mut chunk = vec![0; CHUNK];
        for _ in 0..MEGABYTES * 16 {
            client.write_all(&chunk).expect("a connection");
            other.read_exact(&mut chunk).expect("a connection");
        }
        MEGABYTES
    }
}
