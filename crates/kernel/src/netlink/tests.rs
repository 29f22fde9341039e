use proptest::prelude::*;

use super::*;

/// A refusal with a text and an offset, as Linux 6.18 sends it for a capped acknowledgement.
fn refusal(errno: Errno, sequence: u32) -> Vec<u8> {
    let quoted = Builder::new(0xa09, REQUEST).fixed(&[0; 64]).finish();
    let mut bytes = Builder::new(2, 0x300)
        .fixed(&(-(errno as i32)).to_ne_bytes())
        .fixed(&quoted[..16])
        .text(1, "no such thing")
        .attribute(2, &20_u32.to_ne_bytes())
        .finish();
    bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    bytes
}

fn only(bytes: &[u8]) -> Message<'_> {
    let mut messages = Messages::new(bytes);
    let message = messages.next().unwrap().unwrap();
    assert!(messages.next().is_none());
    message
}

#[test]
fn a_refusal_is_read_with_its_text_and_place() {
    let bytes = refusal(Errno::ENOENT, 7);
    let message = only(&bytes);
    assert_eq!(message.sequence, 7);
    let expected = Refusal {
        errno: Errno::ENOENT,
        code: Errno::ENOENT as i32,
        text: Some("no such thing".to_owned()),
        offset: Some(20),
    };
    assert_eq!(
        message.control(),
        Ok(Some(Control::Acknowledged(Some(expected))))
    );
}

#[test]
fn a_refusal_that_quotes_the_whole_message_is_read_too() {
    let quoted = Builder::new(0xa09, REQUEST).fixed(&[0xff; 61]).finish();
    let bytes = Builder::new(2, 0x200)
        .fixed(&(-(Errno::EEXIST as i32)).to_ne_bytes())
        .fixed(&quoted)
        .text(1, "there already")
        .finish();
    match only(&bytes).control() {
        Ok(Some(Control::Acknowledged(Some(refusal)))) => {
            assert_eq!(refusal.errno, Errno::EEXIST);
            assert_eq!(refusal.text.as_deref(), Some("there already"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn nested_attributes_round_trip() {
    let bytes = Builder::new(3000, REQUEST)
        .fixed(&[1, 2, 3])
        .nested(5, |b| {
            b.text(1, "one").nested(2, |b| b.attribute(3, &[9; 7]))
        })
        .attribute(6, &[])
        .finish();
    assert_eq!(bytes.len() % 4, 0);
    let message = only(&bytes);
    let outer: Vec<_> = message.attributes(3).collect::<Result<_, _>>().unwrap();
    assert_eq!(outer.iter().map(|a| a.kind).collect::<Vec<_>>(), [5, 6]);
    let inner: Vec<_> = outer[0].nested().collect::<Result<_, _>>().unwrap();
    assert_eq!(inner[0].text(), "one");
    let last = inner[1].nested().next().unwrap().unwrap();
    assert_eq!((last.kind, last.value), (3, &[9; 7][..]));
}

/// Walks everything that a reader could look at.
fn walk(bytes: &[u8]) -> usize {
    let mut seen = 0;
    for message in Messages::new(bytes) {
        let Ok(message) = message else { break };
        seen += 1;
        let _ = message.control();
        let mut stack = vec![message.attributes(4)];
        while let Some(attributes) = stack.pop() {
            for attribute in attributes.flatten() {
                seen += attribute.text().len() + attribute.be32().is_ok() as usize;
                stack.push(attribute.nested());
            }
        }
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        walk(&bytes);
    }

    /// Valid replies with a few bytes changed and an end cut off.
    #[test]
    fn no_damage_makes_the_reader_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = refusal(Errno::EINVAL, 1);
        bytes.extend(Builder::new(3000, 2).fixed(&[0; 4]).nested(5, |b| b.text(1, "x")).finish());
        prop_assert!(walk(&bytes) > 2);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        walk(&bytes);
    }
}
