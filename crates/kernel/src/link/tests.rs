use super::*;

/// Two namespaces for one test, deleted on drop.
struct Pair {
    names: [String; 2],
    ns: [NetNs; 2],
}

impl Pair {
    fn new(what: &str) -> Self {
        let names =
            ["a", "b"].map(|side| format!("sluice-link-{what}-{side}-{}", std::process::id()));
        let ns = [0, 1].map(|i: usize| NetNs::create(&names[i]).expect("needs root"));
        Self { names, ns }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = NetNs::delete(name);
        }
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// A veth pair between two namespaces, up and with addresses of both families.
fn connected(pair: &Pair) -> [RtNetlink; 2] {
    let [a, b] = &pair.ns;
    let mut left = RtNetlink::open_in(a).unwrap();
    let mut right = RtNetlink::open_in(b).unwrap();
    let mac = Some([2, 0, 0, 0, 0, 7]);
    left.add_veth(
        VethEnd {
            name: "left",
            netns: None,
            mac: None,
        },
        VethEnd {
            name: "right",
            netns: Some(b),
            mac,
        },
    )
    .unwrap();
    for (socket, name, v4, v6) in [
        (&mut left, "left", "10.9.0.1/24", "fd09::1/64"),
        (&mut right, "right", "10.9.0.2/24", "fd09::2/64"),
    ] {
        let index = socket.index(name).unwrap();
        socket.set_up(index, true).unwrap();
        socket.add_address(index, net(v4)).unwrap();
        socket.add_address(index, net(v6)).unwrap();
        assert!(socket.link(name).unwrap().unwrap().up);
        let addresses = socket.addresses().unwrap();
        let own = addresses.iter().filter(|a| a.index == index);
        let own: Vec<IpNet> = own.map(|a| a.address).collect();
        assert!(own.contains(&net(v4)) && own.contains(&net(v6)), "{own:?}");
    }
    [left, right]
}

#[test]
fn packets_of_both_families_cross_a_veth_pair_at_once() {
    let pair = Pair::new("cross");
    let _sockets = connected(&pair);
    for address in ["10.9.0.2:0", "[fd09::2]:0"] {
        let server = pair.ns[1]
            .run(|| std::net::TcpListener::bind(address).unwrap())
            .unwrap();
        let to = server.local_addr().unwrap();
        let second = std::time::Duration::from_secs(5);
        pair.ns[0]
            .run(|| std::net::TcpStream::connect_timeout(&to, second))
            .unwrap()
            .unwrap();
    }
}

/// Connect. The kernel activates a new link some time after it was set up, up to a second on a busy
/// machine; until then no route may exist.
fn reach(from: &NetNs, to: std::net::SocketAddr) {
    let limit = std::time::Duration::from_secs(5);
    let started = std::time::Instant::now();
    loop {
        let connected = from.run(|| std::net::TcpStream::connect_timeout(&to, limit));
        match connected.unwrap() {
            Err(error)
                if error.kind() == std::io::ErrorKind::NetworkUnreachable
                    && started.elapsed() < limit =>
            {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            connected => return drop(connected.unwrap()),
        }
    }
}

#[test]
fn routes_and_neighbours_lead_to_an_address_that_no_link_owns() {
    let pair = Pair::new("route");
    let [mut left, mut right] = connected(&pair);
    let index = left.index("left").unwrap();
    let lo = right.index("lo").unwrap();
    right.set_up(lo, true).unwrap();
    for (far, gateway) in [("10.99.0.1/32", "169.254.1.1"), ("fd99::1/128", "fe80::99")] {
        let gateway: IpAddr = gateway.parse().unwrap();
        right.add_address(lo, net(far)).unwrap();
        let route = Route {
            destination: net(far),
            via: Some(gateway),
            interface: Some(index),
            onlink: true,
            source: None,
            kind: RouteKind::Unicast,
        };
        left.replace_neighbour(index, gateway, [2, 0, 0, 0, 0, 7])
            .unwrap();
        left.replace_route(route).unwrap();
        left.replace_route(route).unwrap();
        let at = net(far).addr();
        let server = pair.ns[1]
            .run(|| std::net::TcpListener::bind((at, 0)).unwrap())
            .unwrap();
        let to = server.local_addr().unwrap();
        reach(&pair.ns[0], to);
        for (route, errno) in [
            (Route::unreachable(net(far)), Errno::EHOSTUNREACH),
            (Route::blackhole(net(far)), Errno::EINVAL),
        ] {
            left.replace_route(route).unwrap();
            let connect = || std::net::TcpStream::connect(to).map(drop);
            let refused = pair.ns[0].run(connect).unwrap().unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(errno as i32), "{route:?}");
        }
    }
}

#[test]
fn a_bridge_gets_a_port_and_a_deleted_veth_takes_its_peer_along() {
    let pair = Pair::new("bridge");
    let mut left = RtNetlink::open_in(&pair.ns[0]).unwrap();
    left.add_bridge("br0").unwrap();
    let bridge = left.index("br0").unwrap();
    let end = |name, netns| VethEnd {
        name,
        netns,
        mac: None,
    };
    left.add_veth(end("one", None), end("two", Some(&pair.ns[1])))
        .unwrap();
    let one = left.index("one").unwrap();
    left.set_controller(one, bridge).unwrap();
    assert_eq!(left.link("one").unwrap().unwrap().controller, Some(bridge));
    let mut right = RtNetlink::open_in(&pair.ns[1]).unwrap();
    assert!(right.link("two").unwrap().is_some());
    left.delete_link(one).unwrap();
    assert_eq!(right.link("two").unwrap(), None);
}

#[test]
fn refusals_contain_the_command_and_the_errno() {
    let pair = Pair::new("refused");
    let mut left = RtNetlink::open_in(&pair.ns[0]).unwrap();
    left.add_bridge("br0").unwrap();
    let taken = left.add_bridge("br0").unwrap_err();
    assert_eq!(taken.errno(), Some(Errno::EEXIST));
    assert!(
        taken
            .to_string()
            .starts_with("ip link add br0 type bridge: "),
        "{taken}"
    );
    assert_eq!(left.index("nope").unwrap_err().errno(), Some(Errno::ENODEV));
    let unreachable =
        left.replace_route(Route::via(net("10.1.0.0/16"), "10.2.0.1".parse().unwrap()));
    assert!(unreachable.is_err());
}
