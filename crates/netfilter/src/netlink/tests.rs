use proptest::prelude::*;

use super::*;

fn sample() -> Vec<u8> {
    Builder::new(3000, NLM_F_REQUEST)
        .fixed(&[1, 2, 3])
        .attributes(|w| {
            w.nest(5, |w| {
                w.string(1, "one");
                w.nest(2, |w| w.bytes(3, &[9; 7]));
            });
        })
        .bytes(6, &[])
        .finish()
}

#[test]
fn nested_attributes_round_trip() {
    let bytes = sample();
    assert_eq!(bytes.len() % 4, 0);
    let mut messages = Messages::new(&bytes);
    let message = messages.next().unwrap().unwrap();
    assert!(messages.next().is_none());
    let outer: Vec<_> = message.attributes(3, "outer").map(Result::unwrap).collect();
    assert_eq!(outer.iter().map(|a| a.kind).collect::<Vec<_>>(), [5, 6]);
    let inner: Vec<_> = outer[0].nested("inner").map(Result::unwrap).collect();
    assert_eq!(inner[0].string(), Ok("one"));
    assert_eq!(inner[0].string_lossy(), "one");
    let last = inner[1].nested("last").next().unwrap().unwrap();
    assert_eq!((last.kind, last.value), (3, &[9; 7][..]));
    assert_eq!(last.u8(), Err(last.size_error()));
}

#[test]
fn overlong_value_is_cut_and_the_next_attribute_stays_readable() {
    let mut bytes = Vec::new();
    let mut w = Writer(&mut bytes);
    w.bytes(1, &vec![7; 70_000]);
    w.be16(2, 3);
    let read: Vec<_> = Attributes::new(&bytes, "test")
        .map(Result::unwrap)
        .collect();
    assert_eq!(read[0].value.len(), usize::from(u16::MAX) - NLA_HDRLEN);
    assert_eq!(read[1].be16(), Ok(3));
}

/// Walk everything that a reader could look at.
fn walk(bytes: &[u8]) -> usize {
    let mut seen = 0;
    for message in Messages::new(bytes).map_while(Result::ok) {
        seen += 1;
        let mut stack = vec![message.attributes(4, "any")];
        while let Some(attributes) = stack.pop() {
            for attribute in attributes.flatten() {
                seen += attribute.string_lossy().len() + usize::from(attribute.be32().is_ok());
                stack.push(attribute.nested("any"));
            }
        }
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        walk(&bytes);
    }

    /// A valid message with a few bytes changed and its end cut off.
    #[test]
    fn damaged_messages_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = sample();
        prop_assert!(walk(&bytes) > 2);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        walk(&bytes);
    }
}
