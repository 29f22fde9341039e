use netfilter::netlink::Messages;
use proptest::prelude::*;

use super::*;

fn address_message() -> Vec<u8> {
    let [a, b, c, d] = 3_u32.to_ne_bytes();
    Builder::new(RTM_NEWADDR, 2)
        .fixed(&[2, 24, 0x80, 0, a, b, c, d])
        .bytes(IFA_ADDRESS, &[10, 0, 0, 9])
        .bytes(IFA_LOCAL, &[10, 0, 0, 1])
        .bytes(IFA_FLAGS, &0xc0_u32.to_ne_bytes())
        .finish()
}

fn link_message() -> Vec<u8> {
    let mut head = [0; IFINFOMSG];
    head[4..8].copy_from_slice(&3_u32.to_ne_bytes());
    head[8..12].copy_from_slice(&0x1043_u32.to_ne_bytes());
    Builder::new(RTM_NEWLINK, 2)
        .fixed(&head)
        .string(IFLA_IFNAME, "eth0")
        .bytes(IFLA_MASTER, &7_u32.to_ne_bytes())
        .attributes(|w| w.nest(IFLA_LINKINFO, |w| w.string(IFLA_INFO_KIND, "veth")))
        .finish()
}

fn first(bytes: &[u8]) -> Message<'_> {
    Messages::new(bytes).next().unwrap().unwrap()
}

#[test]
fn a_point_to_point_address_is_the_local_end() {
    let address = InterfaceAddress::read(&first(&address_message()))
        .unwrap()
        .unwrap();
    assert_eq!(address.address, "10.0.0.1/24".parse().unwrap());
    assert_eq!((address.index, address.scope), (3, Scope::Global));
    assert!(address.tentative);
}

#[test]
fn a_link_is_read() {
    let link = Link {
        index: 3,
        name: "eth0".to_owned(),
        up: true,
        controller: Some(7),
        kind: Some("veth".to_owned()),
    };
    assert_eq!(Link::read(&first(&link_message())), Ok(link));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn damaged_link_and_address_messages_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        cut in any::<prop::sample::Index>(),
    ) {
        for mut bytes in [address_message(), link_message()] {
            for (at, value) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            bytes.truncate(cut.index(bytes.len()) + 1);
            for message in Messages::new(&bytes).flatten() {
                let _ = InterfaceAddress::read(&message);
                let _ = Link::read(&message);
            }
        }
    }
}
