//! The relay with real sockets on loopback.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use model::Protocol;
use relay::{Backends, Error, Frontend, Limits, Relay};

const SOON: Duration = Duration::from_secs(10);

fn limits() -> Limits {
    Limits {
        dial: Duration::from_millis(500),
        udp_idle: Duration::from_millis(300),
        drain: Duration::from_secs(2),
        ..Limits::default()
    }
}

fn frontend(protocol: Protocol) -> Frontend {
    Frontend {
        address: ([127, 0, 0, 1], 0).into(),
        protocol,
    }
}

fn to(endpoints: &[SocketAddr]) -> Backends {
    Backends {
        endpoints: endpoints.into(),
        affinity: None,
    }
}

/// Serves one frontend and tells where.
fn serve(relay: &Relay, protocol: Protocol, backends: Backends) -> SocketAddr {
    let (bound, errors) = relay
        .serve(BTreeMap::from([(frontend(protocol), backends)]))
        .unwrap();
    assert!(errors.is_empty(), "{errors:?}");
    bound[0].address
}

/// Sends its name, then everything back that it gets, then ends.
fn tcp_echo(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                stream.write_all(name.as_bytes()).unwrap();
                let mut reader = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut reader, &mut stream);
                let _ = stream.shutdown(Shutdown::Write);
            });
        }
    });
    address
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// Connects and reads the one-letter name of the endpoint.
fn who(address: SocketAddr) -> std::io::Result<char> {
    let mut name = [0];
    connect(address).read_exact(&mut name)?;
    Ok(char::from(name[0]))
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

fn eventually(what: &str, wanted: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !wanted() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn tcp_is_carried_both_ways_and_half_closed() {
    let relay = Relay::start(limits()).unwrap();
    let address = serve(&relay, Protocol::Tcp, to(&[tcp_echo("a")]));
    let mut stream = connect(address);
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let mut writer = stream.try_clone().unwrap();
    let data = sent.clone();
    let sender = thread::spawn(move || {
        writer.write_all(&data).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    sender.join().unwrap();
    assert_eq!(received[0], b'a');
    assert!(received[1..] == sent[..], "the echo differs");
    eventually("the slot is given back", || relay.open_connections() == 0);
}

#[test]
fn connections_are_spread_and_an_endpoint_that_refuses_is_passed_over() {
    let relay = Relay::start(limits()).unwrap();
    let endpoints = [tcp_echo("a"), nobody(), tcp_echo("b")];
    let address = serve(&relay, Protocol::Tcp, to(&endpoints));
    let seen: BTreeSet<char> = (0..60).map(|_| who(address).unwrap()).collect();
    assert_eq!(seen, BTreeSet::from(['a', 'b']));
}

#[test]
fn no_endpoint_means_a_reset() {
    let relay = Relay::start(limits()).unwrap();
    let address = serve(&relay, Protocol::Tcp, to(&[]));
    let error = who(address).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn affinity_holds_and_ends_with_the_endpoint() {
    let relay = Relay::start(limits()).unwrap();
    let (a, b) = (tcp_echo("a"), tcp_echo("b"));
    let sticky = |endpoints: &[SocketAddr]| Backends {
        endpoints: endpoints.into(),
        affinity: Some(Duration::from_secs(600)),
    };
    let address = serve(&relay, Protocol::Tcp, sticky(&[a, b]));
    let first = who(address).unwrap();
    for _ in 0..20 {
        assert_eq!(who(address).unwrap(), first);
    }
    let (other, name) = if first == 'a' { (b, 'b') } else { (a, 'a') };
    assert_eq!(serve(&relay, Protocol::Tcp, sticky(&[other])), address);
    assert_eq!(who(address).unwrap(), name);
}

#[test]
fn open_connections_survive_a_change_and_closed_frontends_accept_nothing() {
    let relay = Relay::start(limits()).unwrap();
    let address = serve(&relay, Protocol::Tcp, to(&[tcp_echo("a")]));
    let mut stream = connect(address);
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    relay.serve(BTreeMap::new()).unwrap();
    eventually("closed", || TcpStream::connect(address).is_err());
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
}

#[test]
fn beyond_the_limit_connections_are_reset() {
    let relay = Relay::start(Limits {
        connections: 2,
        ..limits()
    })
    .unwrap();
    let address = serve(&relay, Protocol::Tcp, to(&[tcp_echo("a")]));
    let mut held: Vec<_> = (0..2).map(|_| connect(address)).collect();
    for stream in &mut held {
        stream.read_exact(&mut [0]).unwrap();
    }
    assert!(who(address).is_err());
    drop(held);
    eventually("there is room again", || who(address).is_ok());
}

#[test]
fn a_slow_receiver_slows_the_sender_down() {
    // An endpoint that never reads.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = Relay::start(limits()).unwrap();
    let endpoint = listener.local_addr().unwrap();
    let address = serve(&relay, Protocol::Tcp, to(&[endpoint]));
    let mut stream = connect(address);
    stream
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let chunk = vec![0; 1 << 20];
    let mut sent = 0;
    // Bounded: the sockets' buffers on the way hold some megabytes, the relay one chunk.
    while sent < 256 {
        if stream.write_all(&chunk).is_err() {
            return;
        }
        sent += 1;
    }
    panic!("{sent} MiB went where nobody reads");
}

#[test]
fn stopping_waits_for_open_connections() {
    let relay = Relay::start(limits()).unwrap();
    let address = serve(&relay, Protocol::Tcp, to(&[tcp_echo("a")]));
    let mut stream = connect(address);
    stream.read_exact(&mut [0]).unwrap();
    let stopper = thread::spawn(move || relay.stop());
    eventually("closed", || TcpStream::connect(address).is_err());
    stream.write_all(b"still here").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "still here");
    stopper.join().unwrap();
}

#[test]
fn a_taken_address_is_an_error_that_names_it_and_the_others_are_served() {
    let relay = Relay::start(limits()).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let bad = Frontend {
        address: taken.local_addr().unwrap(),
        protocol: Protocol::Tcp,
    };
    let sctp = frontend(Protocol::Sctp);
    let wanted = [bad, sctp, frontend(Protocol::Tcp)].map(|f| (f, to(&[tcp_echo("a")])));
    let (bound, errors) = relay.serve(BTreeMap::from(wanted)).unwrap();
    assert_eq!(who(bound[0].address).unwrap(), 'a');
    assert_eq!(bound.len(), 1);
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert!(matches!(
        &errors[..],
        [Error::Unsupported { .. }, Error::Listen { .. }]
    ));
    assert!(texts[1].starts_with(&format!("cannot listen on {} for TCP: ", bad.address)));
}

/// Answers each datagram with its name and the datagram; counts the clients that it has seen.
fn udp_echo(name: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let clients = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&clients);
    thread::spawn(move || {
        let mut seen = BTreeSet::new();
        let mut buffer = [0; 2048];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).unwrap();
            seen.insert(client);
            count.store(seen.len(), Ordering::SeqCst);
            let mut answer = name.as_bytes().to_vec();
            answer.extend_from_slice(&buffer[..length]);
            socket.send_to(&answer, client).unwrap();
        }
    });
    (address, clients)
}

fn udp_client(address: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(address).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

fn ask(socket: &UdpSocket, text: &str) -> String {
    socket.send(text.as_bytes()).unwrap();
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

#[test]
fn a_udp_client_keeps_its_flow_and_two_have_two() {
    let relay = Relay::start(limits()).unwrap();
    let (endpoint, clients) = udp_echo("a");
    let address = serve(&relay, Protocol::Udp, to(&[endpoint]));
    let (one, two) = (udp_client(address), udp_client(address));
    for _ in 0..5 {
        assert_eq!(ask(&one, "1"), "a1");
        assert_eq!(ask(&two, "2"), "a2");
    }
    assert_eq!(clients.load(Ordering::SeqCst), 2);
    assert_eq!(relay.open_connections(), 2);
    eventually("idle flows end", || relay.open_connections() == 0);
    assert_eq!(ask(&one, "again"), "aagain");
    assert_eq!(clients.load(Ordering::SeqCst), 3);
}

#[test]
fn a_udp_flow_leaves_an_endpoint_that_went() {
    let relay = Relay::start(limits()).unwrap();
    let ((a, _), (b, _)) = (udp_echo("a"), udp_echo("b"));
    let address = serve(&relay, Protocol::Udp, to(&[a]));
    let client = udp_client(address);
    assert_eq!(ask(&client, ""), "a");
    assert_eq!(serve(&relay, Protocol::Udp, to(&[b])), address);
    assert_eq!(ask(&client, ""), "b");
}

#[test]
fn a_udp_frontend_that_went_frees_its_port() {
    let relay = Relay::start(limits()).unwrap();
    let (endpoint, _) = udp_echo("a");
    let address = serve(&relay, Protocol::Udp, to(&[endpoint]));
    assert_eq!(ask(&udp_client(address), ""), "a");
    relay.serve(BTreeMap::new()).unwrap();
    eventually("the port is free", || UdpSocket::bind(address).is_ok());
    eventually("its flows are gone", || relay.open_connections() == 0);
}

#[test]
fn a_reserved_port_refuses_until_it_is_served() {
    let relay = Relay::start(limits()).unwrap();
    let ((tcp, udp), (endpoint, _)) = (
        (frontend(Protocol::Tcp), frontend(Protocol::Udp)),
        udp_echo("a"),
    );
    let taken = relay.reserve(vec![tcp, udp, frontend(Protocol::Sctp)]);
    let mut taken = taken.unwrap().into_iter();
    let (tcp, udp) = (
        taken.next().unwrap().unwrap(),
        taken.next().unwrap().unwrap(),
    );
    assert!(matches!(taken.next(), Some(Err(Error::Unsupported { .. }))));
    let refused = TcpStream::connect(tcp.address).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let early = udp_client(udp.address);
    early.send(b"too early").unwrap();
    let wanted = [(tcp, to(&[tcp_echo("b")])), (udp, to(&[endpoint]))];
    let (bound, errors) = relay.serve(BTreeMap::from(wanted)).unwrap();
    assert!(errors.is_empty(), "{errors:?}");
    assert!(bound.iter().all(|b| b.address == b.frontend.address));
    assert_eq!(who(tcp.address).unwrap(), 'b');
    assert_eq!(ask(&early, "now"), "anow");
}

#[test]
fn a_reserved_port_that_is_not_served_is_free_again() {
    let relay = Relay::start(limits()).unwrap();
    let taken = relay.reserve(vec![frontend(Protocol::Udp)]).unwrap();
    let address = taken[0].as_ref().unwrap().address;
    assert!(UdpSocket::bind(address).is_err());
    relay.serve(BTreeMap::new()).unwrap();
    assert!(UdpSocket::bind(address).is_ok());
}
