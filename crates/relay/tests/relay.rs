//! The relay with real sockets on loopback.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use model::Protocol;
use relay::{Affinity, Backends, Error, Frontend, Limits, Relay};
use socket2::{Domain, SockRef, Socket, Type};

const SOON: Duration = Duration::from_secs(10);

fn limits() -> Limits {
    Limits {
        dial: Duration::from_millis(500),
        drain: SOON,
        ..Limits::default()
    }
}

fn frontend(protocol: Protocol) -> Frontend {
    Frontend {
        address: ([127, 0, 0, 1], 0).into(),
        protocol,
    }
}

/// A frontend to close and open again: at a port that the system assigns to no other socket meanwhile.
fn fixed(port: u16, protocol: Protocol) -> Frontend {
    Frontend {
        address: ([127, 77, 0, 1], port).into(),
        protocol,
    }
}

fn to(endpoints: &[SocketAddr]) -> Backends {
    Backends {
        endpoints: endpoints.into(),
        affinity: None,
    }
}

/// Serves one frontend and returns its address.
fn serve(relay: &Relay, protocol: Protocol, backends: Backends) -> SocketAddr {
    let (bound, errors) = relay
        .serve(BTreeMap::from([(frontend(protocol), backends)]))
        .unwrap();
    assert!(errors.is_empty(), "{errors:?}");
    bound[0].address
}

/// Sends its name, echoes everything until the end of the stream, and ends.
fn tcp_echo(name: &'static str) -> SocketAddr {
    tcp_echo_at("127.0.0.1:0", name)
}

fn tcp_echo_at(address: &str, name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(address).unwrap();
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
fn endpoint_name(address: SocketAddr) -> std::io::Result<char> {
    let mut name = [0];
    connect(address).read_exact(&mut name)?;
    Ok(char::from(name[0]))
}

/// An address without a listener.
fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "timeout: {what}");
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
    eventually("the place is free", || relay.open_connections() == 0);
}

#[test]
fn connections_are_spread_and_skip_an_endpoint_that_refuses() {
    let relay = Relay::start(limits()).unwrap();
    let endpoints = [tcp_echo("a"), closed_port(), tcp_echo("b")];
    let address = serve(&relay, Protocol::Tcp, to(&endpoints));
    let seen: BTreeSet<char> = (0..60).map(|_| endpoint_name(address).unwrap()).collect();
    assert_eq!(seen, BTreeSet::from(['a', 'b']));
}

#[test]
fn connections_skip_an_endpoint_that_does_not_answer() {
    let relay = Relay::start(limits()).unwrap();
    // Connections beyond a full backlog get no answer.
    let deaf = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    deaf.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    deaf.listen(0).unwrap();
    let endpoint = deaf.local_addr().unwrap().as_socket().unwrap();
    let short = Duration::from_millis(200);
    let mut fill = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&endpoint, short) {
        fill.push(stream);
    }
    let address = serve(&relay, Protocol::Tcp, to(&[endpoint, tcp_echo("a")]));
    for _ in 0..4 {
        assert_eq!(endpoint_name(address).unwrap(), 'a');
    }
    serve(&relay, Protocol::Tcp, to(&[endpoint]));
    let error = endpoint_name(address).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_client_is_reset_if_no_endpoint_accepts() {
    let relay = Relay::start(limits()).unwrap();
    let address = serve(&relay, Protocol::Tcp, to(&[closed_port(), closed_port()]));
    let error = endpoint_name(address).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_frontend_without_endpoints_is_closed() {
    let relay = Relay::start(limits()).unwrap();
    let (endpoint, _) = udp_echo("u");
    let frontends = [Protocol::Tcp, Protocol::Udp].map(|p| fixed(7701, p));
    let change = |backends: [Backends; 2]| {
        let changes = frontends.into_iter().zip(backends.map(Some));
        let errors = relay.change(changes.collect()).unwrap();
        assert!(errors.is_empty(), "{errors:?}");
    };
    let [tcp, udp] = frontends.map(|f| f.address);
    let client = udp_client(udp);
    for _ in 0..20 {
        change([to(&[]), to(&[])]);
        let refused = TcpStream::connect(tcp).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        client.send(b"x").unwrap();
        let refused = client.recv(&mut [0]).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        change([to(&[tcp_echo("t")]), to(&[endpoint])]);
        assert_eq!(endpoint_name(tcp).unwrap(), 't');
        assert_eq!(ask(&client, "x"), "ux");
    }
}

#[test]
fn a_change_does_not_affect_other_frontends() {
    let relay = Relay::start(limits()).unwrap();
    let [one, two] = [7702, 7703].map(|port| fixed(port, Protocol::Tcp));
    let both = [
        (one, Some(to(&[tcp_echo("a")]))),
        (two, Some(to(&[tcp_echo("b")]))),
    ];
    assert!(relay.change(BTreeMap::from(both)).unwrap().is_empty());
    assert!(
        relay
            .change(BTreeMap::from([(one, None)]))
            .unwrap()
            .is_empty()
    );
    assert!(TcpStream::connect(one.address).is_err());
    assert_eq!(endpoint_name(two.address).unwrap(), 'b');
}

#[test]
fn an_endpoint_can_close_its_half_first() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = Relay::start(limits()).unwrap();
    let endpoint = listener.local_addr().unwrap();
    let address = serve(&relay, Protocol::Tcp, to(&[endpoint]));
    let mut client = connect(address);
    let (mut server, _) = listener.accept().unwrap();
    server.write_all(b"bye").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    let mut said = String::new();
    client.read_to_string(&mut said).unwrap();
    assert_eq!(said, "bye");
    client.write_all(b"wait, one more").unwrap();
    drop(client);
    let mut rest = String::new();
    server.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "wait, one more");
    eventually("both directions end", || relay.open_connections() == 0);
}

#[test]
fn a_reset_of_one_end_resets_the_other() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = Relay::start(limits()).unwrap();
    let endpoint = listener.local_addr().unwrap();
    let address = serve(&relay, Protocol::Tcp, to(&[endpoint]));
    for client_first in [true, false] {
        let client = connect(address);
        let (server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(SOON)).unwrap();
        let (goes, mut stays) = if client_first {
            (client, server)
        } else {
            (server, client)
        };
        SockRef::from(&goes)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(goes);
        let error = stays.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[test]
fn ipv6_is_carried() {
    let relay = Relay::start(limits()).unwrap();
    let udp = UdpSocket::bind("[::1]:0").unwrap();
    let six = [Protocol::Tcp, Protocol::Udp].map(|protocol| Frontend {
        address: "[::1]:0".parse().unwrap(),
        protocol,
    });
    let endpoints = [tcp_echo_at("[::1]:0", "6"), udp.local_addr().unwrap()];
    let wanted = six.into_iter().zip(endpoints.map(|e| to(&[e])));
    let (bound, errors) = relay.serve(wanted.collect()).unwrap();
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(endpoint_name(bound[0].address).unwrap(), '6');
    let client = UdpSocket::bind("[::1]:0").unwrap();
    client.send_to(b"question", bound[1].address).unwrap();
    let mut buffer = [0; 64];
    let (_, relayed) = udp.recv_from(&mut buffer).unwrap();
    udp.send_to(b"answer", relayed).unwrap();
    let (length, from) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(
        (&buffer[..length], from),
        (&b"answer"[..], bound[1].address)
    );
}

#[test]
fn affinity_holds_and_ends_with_the_endpoint() {
    let relay = Relay::start(limits()).unwrap();
    let (a, b) = (tcp_echo("a"), tcp_echo("b"));
    let sticky = |endpoints: &[SocketAddr]| Backends {
        endpoints: endpoints.into(),
        affinity: Some(Affinity {
            timeout: Duration::from_secs(600),
            of: "demo/web".into(),
        }),
    };
    let address = serve(&relay, Protocol::Tcp, sticky(&[a, b]));
    let first = endpoint_name(address).unwrap();
    for _ in 0..20 {
        assert_eq!(endpoint_name(address).unwrap(), first);
    }
    let (other, name) = if first == 'a' { (b, 'b') } else { (a, 'a') };
    assert_eq!(serve(&relay, Protocol::Tcp, sticky(&[other])), address);
    assert_eq!(endpoint_name(address).unwrap(), name);
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
fn connections_beyond_the_limit_are_reset() {
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
    assert!(endpoint_name(address).is_err());
    drop(held);
    eventually("a place is free again", || endpoint_name(address).is_ok());
}

#[test]
fn a_slow_receiver_slows_the_sender_down() {
    // The endpoint never reads.
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
    // Bounded by the socket buffers, some megabytes, and one chunk in the relay.
    while sent < 256 {
        if stream.write_all(&chunk).is_err() {
            return;
        }
        sent += 1;
    }
    panic!("{sent} MiB were accepted without a reader");
}

#[test]
fn stop_serves_while_it_waits_for_open_connections() {
    let relay = Relay::start(limits()).unwrap();
    // A port that no other socket uses afterwards.
    let frontend = fixed(7709, Protocol::Tcp);
    let served = relay.serve(BTreeMap::from([(frontend, to(&[tcp_echo("a")]))]));
    assert!(served.unwrap().1.is_empty());
    let address = frontend.address;
    let mut stream = connect(address);
    stream.read_exact(&mut [0]).unwrap();
    let stopper = thread::spawn(move || relay.stop());
    assert_eq!(endpoint_name(address).unwrap(), 'a');
    stream.write_all(b"still here").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "still here");
    stopper.join().unwrap();
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn stop_waits_for_a_bounded_time() {
    let relay = Relay::start(Limits {
        drain: Duration::from_millis(100),
        ..limits()
    })
    .unwrap();
    let address = serve(&relay, Protocol::Tcp, to(&[tcp_echo("a")]));
    let mut stream = connect(address);
    stream.read_exact(&mut [0]).unwrap();
    relay.stop();
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
}

#[test]
fn an_occupied_address_is_reported_and_the_others_are_served() {
    let relay = Relay::start(limits()).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let bad = Frontend {
        address: taken.local_addr().unwrap(),
        protocol: Protocol::Tcp,
    };
    let sctp = frontend(Protocol::Sctp);
    let wanted = [bad, sctp, frontend(Protocol::Tcp)].map(|f| (f, to(&[tcp_echo("a")])));
    let (bound, errors) = relay.serve(BTreeMap::from(wanted)).unwrap();
    assert_eq!(endpoint_name(bound[0].address).unwrap(), 'a');
    assert_eq!(bound.len(), 1);
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert!(matches!(
        &errors[..],
        [Error::Unsupported { .. }, Error::Listen { .. }]
    ));
    assert!(texts[1].starts_with(&format!("cannot listen on {} for TCP: ", bad.address)));
}

/// Answers each datagram with its name and the datagram, and counts its clients.
fn udp_echo(name: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let clients = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&clients);
    thread::spawn(move || {
        let mut seen = BTreeSet::new();
        let mut buffer = [0; 65_535];
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
    let mut buffer = [0; 65_535];
    let length = socket.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

#[test]
fn each_udp_client_has_one_flow() {
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
}

/// Clients ignore replies from another address than the one they sent to.
#[test]
fn a_udp_reply_has_the_requested_address_as_source() {
    let (endpoint, _) = udp_echo("a");
    let relay = Relay::start(limits()).unwrap();
    let wildcard = Frontend {
        address: ([0, 0, 0, 0], 0).into(),
        protocol: Protocol::Udp,
    };
    let served = relay.serve(BTreeMap::from([(wildcard, to(&[endpoint]))]));
    let port = served.unwrap().0[0].address.port();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    // Alternating with one port: each address has its own flow.
    for _ in 0..3 {
        for ip in [[127, 0, 0, 1], [127, 0, 0, 2], [127, 0, 0, 3]] {
            let asked = SocketAddr::from((ip, port));
            client.send_to(b"hello", asked).unwrap();
            let (_, from) = client.recv_from(&mut [0; 100]).unwrap();
            assert_eq!(from, asked);
        }
    }
    assert_eq!(relay.open_connections(), 3);
}

#[test]
fn an_idle_udp_flow_ends_and_the_next_datagram_starts_another() {
    let relay = Relay::start(Limits {
        udp_idle: Duration::from_millis(100),
        ..limits()
    })
    .unwrap();
    let (endpoint, clients) = udp_echo("a");
    let address = serve(&relay, Protocol::Udp, to(&[endpoint]));
    let client = udp_client(address);
    assert_eq!(ask(&client, "1"), "a1");
    eventually("the flow ends", || relay.open_connections() == 0);
    assert_eq!(ask(&client, "2"), "a2");
    assert_eq!(clients.load(Ordering::SeqCst), 2);
}

#[test]
fn a_udp_flow_leaves_a_removed_endpoint() {
    let relay = Relay::start(limits()).unwrap();
    let ((a, _), (b, _)) = (udp_echo("a"), udp_echo("b"));
    let address = serve(&relay, Protocol::Udp, to(&[a]));
    let client = udp_client(address);
    assert_eq!(ask(&client, ""), "a");
    assert_eq!(serve(&relay, Protocol::Udp, to(&[b])), address);
    assert_eq!(ask(&client, ""), "b");
}

#[test]
fn a_udp_flow_leaves_an_endpoint_that_refuses_despite_affinity() {
    let relay = Relay::start(limits()).unwrap();
    let gone = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (here, _) = udp_echo("a");
    let sticky = |endpoints: &[SocketAddr]| Backends {
        endpoints: endpoints.into(),
        affinity: Some(Affinity {
            timeout: Duration::from_secs(600),
            of: "demo/web".into(),
        }),
    };
    let address = serve(&relay, Protocol::Udp, sticky(&[gone]));
    let client = udp_client(address);
    client.send(b"lost").unwrap();
    serve(&relay, Protocol::Udp, sticky(&[gone, here]));
    client
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    eventually("the flow changes its endpoint", || {
        client.send(b"x").unwrap();
        client.recv(&mut [0; 8]).is_ok()
    });
    client.set_read_timeout(Some(SOON)).unwrap();
    client.send(b"y").unwrap();
    // Skip late replies to the datagrams above.
    let mut answer = [0; 2];
    while answer != *b"ay" {
        client.recv(&mut answer).unwrap();
    }
}

#[test]
fn the_largest_datagram_is_carried_both_ways() {
    let relay = Relay::start(limits()).unwrap();
    let (endpoint, _) = udp_echo("a");
    let address = serve(&relay, Protocol::Udp, to(&[endpoint]));
    // 65,507 bytes with the name, the maximum over IPv4.
    let large = "x".repeat(65_506);
    assert_eq!(ask(&udp_client(address), &large), format!("a{large}"));
    assert_eq!(ask(&udp_client(address), ""), "a");
}

#[test]
fn idle_udp_flows_are_replaced_at_the_limit() {
    let relay = Relay::start(Limits {
        flows: 2,
        ..limits()
    })
    .unwrap();
    let (endpoint, _) = udp_echo("a");
    let address = serve(&relay, Protocol::Udp, to(&[endpoint]));
    for _ in 0..4 {
        let client = udp_client(address);
        client
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        eventually("a place", || {
            client.send(b"x").unwrap();
            client.recv(&mut [0; 8]).is_ok()
        });
        assert!(relay.open_connections() <= 2);
    }
}

#[test]
fn a_closed_udp_frontend_frees_its_port() {
    let relay = Relay::start(limits()).unwrap();
    let (endpoint, _) = udp_echo("a");
    let address = serve(&relay, Protocol::Udp, to(&[endpoint]));
    assert_eq!(ask(&udp_client(address), ""), "a");
    relay.serve(BTreeMap::new()).unwrap();
    eventually("the port is free", || UdpSocket::bind(address).is_ok());
    eventually("its flows end", || relay.open_connections() == 0);
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
    assert_eq!(endpoint_name(tcp.address).unwrap(), 'b');
    assert_eq!(ask(&early, "now"), "anow");
}

#[test]
fn a_reserved_port_that_is_not_served_is_freed() {
    let relay = Relay::start(limits()).unwrap();
    let taken = relay.reserve(vec![frontend(Protocol::Udp)]).unwrap();
    let address = taken[0].as_ref().unwrap().address;
    assert!(UdpSocket::bind(address).is_err());
    relay.serve(BTreeMap::new()).unwrap();
    assert!(UdpSocket::bind(address).is_ok());
}
