use proptest::prelude::*;

use super::*;

fn endpoint(ip: IpAddr, port: u16) -> Endpoint {
    Endpoint {
        ip,
        port,
        is_local: false,
    }
}

/// Few distinct values, so that texts often have a common prefix.
fn v4() -> impl Strategy<Value = IpAddr> {
    let octet = prop_oneof![Just(1), Just(10), Just(12), Just(100), Just(9), any::<u8>()];
    [octet.clone(), octet.clone(), octet.clone(), octet].prop_map(IpAddr::from)
}

fn v6() -> impl Strategy<Value = IpAddr> {
    let group = prop_oneof![Just(0), Just(1), Just(0x10), Just(0xa), any::<u16>()];
    prop::array::uniform8(group).prop_map(IpAddr::from)
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![
        Just(0),
        Just(8),
        Just(80),
        Just(8080),
        Just(9),
        any::<u16>()
    ]
}

proptest! {
    #[test]
    fn endpoints_are_ordered_by_their_text(
        a in prop_oneof![v4(), v6()],
        b in prop_oneof![v4(), v6()],
        a_port in port(),
        b_port in port(),
        same_ip: bool,
    ) {
        let b = if same_ip || a.is_ipv4() != b.is_ipv4() { a } else { b };
        let (a, b) = (endpoint(a, a_port), endpoint(b, b_port));
        prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()), "{} {}", a, b);
    }
}

#[test]
fn order_holds_for_every_octet_in_every_position() {
    for place in 0..4 {
        let with = |n| {
            let mut octets = [10, 20, 30, 40];
            octets[place] = n;
            endpoint(IpAddr::from(octets), 80)
        };
        for a in 0..=255 {
            for b in 0..=255 {
                let (a, b) = (with(a), with(b));
                assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()), "{a} {b}");
            }
        }
    }
}

#[test]
fn the_longest_address_fits_into_the_buffer() {
    let mapped = "::ffff:255.255.255.255".parse().unwrap();
    let full = "2001:1db8:8888:7777:6666:5555:4444:3333".parse().unwrap();
    for ip in [mapped, full] {
        let SortKey::V6(text) = SortKey::of(ip, 65535) else {
            panic!("{ip} is IPv6");
        };
        let len = text.iter().position(|b| *b == 0).unwrap_or(text.len());
        assert_eq!(&text[..len], format!("[{ip}]:65535").as_bytes());
    }
}
