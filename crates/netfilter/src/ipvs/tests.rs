use super::*;

fn observed(name: &str) -> String {
    observed::read(&format!("{name}.ipvsadm"))
}

#[test]
fn observed_dumps_round_trip() {
    for name in ["ipvs-default", "ipvs-masquerade-all", "ipvs-lc-strictarp"] {
        let text = observed(name);
        let services = Services::parse(&text).unwrap();
        assert_eq!(services.to_string(), text);
    }
}

#[test]
fn every_option_round_trips() {
    let text = "\
-A -f 7 -6 -s wrr -p 300 -M 64 --pe sip -o -b flag-1
-a -f 7 -6 -r [fd00::1]:0 -i --tun-type gue --tun-port 6080 -w 0 -x 10 -y 5
-A -u 10.0.0.1:53 -s sh -p 10 -M 255.255.255.0
-a -u 10.0.0.1:53 -r 10.0.0.2:53 -g -w 3
";
    let services = Services::parse(text).unwrap();
    assert_eq!(services.to_string(), text);
    assert_eq!(services.services[0].destinations[0].upper, 10);
    assert_eq!(
        services.services[1].id.ip(),
        Some("10.0.0.1".parse().unwrap())
    );
}

#[test]
fn errors_name_line_and_column() {
    let at = |text: &str| {
        let e = Services::parse(text).unwrap_err();
        (e.line, e.column)
    };
    assert_eq!(at("-A -t web:http -s rr"), (1, 7));
    assert_eq!(at("-A -s rr"), (1, 9));
    assert_eq!(at("\n-a -t 10.0.0.1:80 -r 10.0.0.2:80 -m"), (2, 1));
    assert_eq!(at("-A -t 10.0.0.1:80 -s"), (1, 21));
    assert_eq!(at("*nat"), (1, 1));
    assert_eq!(at("-A -t 10.0.0.1:80 -z 1"), (1, 19));
}

#[test]
fn mutated_dumps_never_panic_and_round_trip() {
    let text = observed("ipvs-default");
    let mut seed = 2_u64;
    for _ in 0..3000 {
        let mutated = crate::mutate::mutate(text.as_bytes(), &mut seed);
        if let Ok(text) = std::str::from_utf8(&mutated)
            && let Ok(services) = Services::parse(text)
        {
            let written = services.to_string();
            assert_eq!(Services::parse(&written).as_ref(), Ok(&services), "{text}");
        }
    }
}

fn any_id(n: usize, v6: bool) -> ServiceId {
    let port = u16::try_from(n % 65536).unwrap();
    let address = if v6 {
        format!("[fd00::{port:x}]:{port}").parse().unwrap()
    } else {
        format!("10.0.{}.{}:{port}", port >> 8, port & 255)
            .parse()
            .unwrap()
    };
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp][n % 3];
    match n % 7 {
        0 => ServiceId::Mark {
            mark: u32::from(port) + 1,
            v6,
        },
        _ => ServiceId::Address { protocol, address },
    }
}

fn any_service(n: usize, v6: bool) -> Service {
    let (scheduler, flags) = [
        ("rr", None),
        ("mh", Some("mh-port")),
        ("sh", Some("sh-fallback,sh-port")),
        ("wlc", Some("flag-1,flag-3")),
    ][n % 4];
    let netmask = match (n % 3, v6) {
        (0, false) => Some(Netmask::V4([255, 255, 0, 0].into())),
        (0, true) => Some(Netmask::V6(64)),
        _ => None,
    };
    Service {
        persistent: n.is_multiple_of(2).then_some(600),
        netmask,
        flags: flags.map(Into::into),
        one_packet: n.is_multiple_of(5),
        engine: n.is_multiple_of(11).then(|| "sip".into()),
        ..Service::new(any_id(n, v6), scheduler)
    }
}

fn any_destination(n: usize, v6: bool) -> Destination {
    let ServiceId::Address { address, .. } = any_id(n * 7 + 1, v6) else {
        unreachable!("not a multiple of seven")
    };
    let small = u32::try_from(n % 1000).unwrap();
    Destination {
        method: [Method::Masquerade, Method::Route, Method::Tunnel][n % 3],
        upper: small,
        lower: small / 2,
        ..Destination::new(address, small * 3)
    }
}

#[test]
fn messages_round_trip() {
    for n in 0..2000 {
        let v6 = n % 2 == 1;
        let service = any_service(n, v6);
        for op in [
            Op::AddService(service.clone()),
            Op::SetService(service.clone()),
        ] {
            let read = netlink::decode_service(&op.encode()).unwrap();
            assert_eq!(read.as_ref(), Some(&service));
        }
        let destination = any_destination(n, v6);
        let op = Op::AddDestination(service.id, destination.clone());
        let (read, connections) = netlink::decode_destination(&op.encode(), v6).unwrap();
        assert_eq!(read, destination);
        assert_eq!(connections.total(), 0);
        let id = netlink::decode_service(&op.encode()).unwrap().unwrap().id;
        assert_eq!(id, service.id);
    }
    let timeouts = netlink::Timeouts {
        tcp: 900,
        tcp_fin: 120,
        udp: 300,
    };
    let bytes = netlink::set_timeouts(timeouts);
    assert_eq!(netlink::decode_timeouts(&bytes), Ok(timeouts));
}

/// The bytes that `ipvsadm -A -t 10.0.0.1:80 -s rr` sends, without attributes with default values: an
/// independent check of the layout.
#[test]
fn messages_have_the_layout_of_ipvsadm() {
    let id = ServiceId::Address {
        protocol: Protocol::Tcp,
        address: "10.0.0.1:80".parse().unwrap(),
    };
    let bytes = Op::DeleteService(id).encode();
    let little = cfg!(target_endian = "little");
    assert!(little, "written for a little-endian host");
    let expected: Vec<u8> = [
        &[3, 1, 0, 0][..],
        &[48, 0, 1, 0x80],
        &[6, 0, 1, 0, 2, 0, 0, 0],
        &[6, 0, 2, 0, 6, 0, 0, 0],
        &[20, 0, 3, 0, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[6, 0, 4, 0, 0, 80, 0, 0],
    ]
    .concat();
    assert_eq!(bytes, expected);
}

#[test]
fn mutated_messages_never_panic_and_round_trip() {
    let mut seed = 7_u64;
    for n in 0..3000 {
        let v6 = n % 2 == 1;
        let service = any_service(n, v6);
        let op = Op::AddDestination(service.id, any_destination(n, v6));
        let mutated = crate::mutate::mutate(&op.encode(), &mut seed);
        if let Ok((destination, _)) = netlink::decode_destination(&mutated, v6) {
            let again = Op::AddDestination(service.id, destination.clone()).encode();
            let read = netlink::decode_destination(&again, v6).unwrap().0;
            assert_eq!(read, destination);
        }
        let mutated = crate::mutate::mutate(&Op::AddService(service).encode(), &mut seed);
        if let Ok(Some(service)) = netlink::decode_service(&mutated) {
            let again = Op::AddService(service.clone()).encode();
            let read = netlink::decode_service(&again).unwrap().unwrap();
            assert_eq!(read.id, service.id);
        }
        let _ = netlink::decode_timeouts(&mutated);
    }
}
