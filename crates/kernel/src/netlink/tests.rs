use netfilter::netlink::{Builder, Message, Messages, NLM_F_REQUEST};
use proptest::prelude::*;

use super::*;

/// A refusal with a text and an offset, as Linux 6.18 sends it for a capped acknowledgement.
fn refusal(errno: Errno, sequence: u32) -> Vec<u8> {
    let quoted = Builder::new(0xa09, NLM_F_REQUEST).fixed(&[0; 64]).finish();
    let mut bytes = Builder::new(2, 0x300)
        .fixed(&(-(errno as i32)).to_ne_bytes())
        .fixed(&quoted[..16])
        .string(1, "no such thing")
        .bytes(2, &20_u32.to_ne_bytes())
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
        Control::read(&message),
        Ok(Some(Control::Acknowledged(Some(expected))))
    );
}

#[test]
fn a_refusal_that_quotes_the_whole_message_is_read_too() {
    let quoted = Builder::new(0xa09, NLM_F_REQUEST)
        .fixed(&[0xff; 61])
        .finish();
    let bytes = Builder::new(2, 0x200)
        .fixed(&(-(Errno::EEXIST as i32)).to_ne_bytes())
        .fixed(&quoted)
        .string(1, "there already")
        .finish();
    match Control::read(&only(&bytes)) {
        Ok(Some(Control::Acknowledged(Some(refusal)))) => {
            assert_eq!(refusal.errno, Errno::EEXIST);
            assert_eq!(refusal.text.as_deref(), Some("there already"));
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// A valid reply with a few bytes changed and its end cut off.
    #[test]
    fn damaged_messages_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = refusal(Errno::EINVAL, 1);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        for message in Messages::new(&bytes).map_while(Result::ok) {
            let _ = Control::read(&message);
        }
    }
}
