//! The body of the fuzz targets (`fuzz/fuzz_targets`), which a test here also runs.

use netfilter::netlink::Messages;

use crate::link::routing::{ListedRoute, ListedRule};
use crate::netlink::Control;
use crate::rtnetlink::{InterfaceAddress, Link};
use crate::{conntrack, nfacct, nfnetlink};

/// Read `bytes` as a datagram from the kernel with every reader.
pub fn netlink_replies(bytes: &[u8]) {
    nfnetlink::fuzz_verdict(bytes);
    for message in Messages::new(bytes) {
        let Ok(message) = message else { return };
        // Any result is fine, as long as they return.
        let _ = Control::read(&message);
        let _ = nfnetlink::GenerationInfo::read(&message);
        let _ = nfacct::Counted::read(&message);
        let _ = conntrack::Flow::read(&message);
        let _ = Link::read(&message);
        let _ = InterfaceAddress::read(&message);
        let _ = ListedRoute::read(&message);
        let _ = ListedRule::read(&message);
        let _ = netfilter::nft::decode(message.kind & 0xff, message.payload);
    }
}

#[cfg(test)]
mod tests {
    use netfilter::netlink::Builder;
    use proptest::prelude::*;

    use super::netlink_replies;

    /// Messages of the supported kinds, with randomly nested attributes.
    fn message() -> impl Strategy<Value = Vec<u8>> {
        let kind = prop_oneof![
            1_u16..5,
            Just(16),
            Just(20),
            Just(0x100),
            Just(0x700),
            0xa00_u16..0xa20,
        ];
        let attribute = (
            1_u16..30,
            prop::collection::vec(any::<u8>(), 0..20),
            0..4_u8,
        );
        let attributes = prop::collection::vec(attribute, 0..8);
        let head = prop_oneof![Just(4_usize), Just(8), Just(12), Just(16), Just(20)];
        (
            kind,
            any::<u16>(),
            head,
            prop_oneof![Just(2_u8), Just(10), any::<u8>()],
            attributes,
        )
            .prop_map(|(kind, flags, head, family, attributes)| {
                let mut fixed = vec![0; head];
                fixed[0] = family;
                let mut message = Builder::new(kind, flags).fixed(&fixed);
                for (kind, value, depth) in attributes {
                    message = match depth {
                        0 => message.bytes(kind, &value),
                        1 => message.attributes(|w| {
                            w.nest(kind, |w| {
                                w.bytes(1, &value);
                                w.bytes(2, &value);
                            });
                        }),
                        _ => message.attributes(|w| {
                            w.nest(kind, |w| {
                                w.nest(1, |w| {
                                    w.bytes(1, &value);
                                    w.bytes(3, &value);
                                });
                                w.nest(2, |w| {
                                    w.bytes(1, &[17]);
                                    w.bytes(2, &value);
                                });
                            });
                        }),
                    };
                }
                message.finish()
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn arbitrary_replies_never_panic(
            messages in prop::collection::vec(message(), 1..4),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let mut bytes = messages.concat();
            netlink_replies(&bytes);
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            netlink_replies(&bytes);
        }
    }
}
