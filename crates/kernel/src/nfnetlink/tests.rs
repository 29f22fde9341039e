use nix::errno::Errno;
use proptest::prelude::*;

use super::transaction::{count, number};
use super::*;
use netfilter::netlink::{Builder, Messages};

fn reply(errno: i32, sequence: u32) -> Vec<u8> {
    let mut bytes = Builder::new(2, 0x100)
        .fixed(&(-errno).to_ne_bytes())
        .fixed(&[0; 16])
        .finish();
    transaction::set_sequence(&mut bytes, sequence);
    bytes
}

fn verdict(replies: &[Vec<u8>], lost: bool) -> Result<(), TransactionError> {
    // Sequence numbers: 10 begins, 11 to 13 are the messages, 14 ends.
    let mut verdict = Verdict::new(10, 3);
    for reply in replies {
        verdict.read(reply);
    }
    if lost {
        verdict.lost();
    }
    verdict.conclude().map(drop)
}

#[test]
fn messages_are_numbered_and_the_last_is_acknowledged() {
    let mut batch = Vec::new();
    for _ in 0..3 {
        batch.extend(Builder::new(0xa00, 1).fixed(&[0; 9]).finish());
    }
    assert_eq!(count(&batch).unwrap(), 3);
    number(&mut batch, 10);
    let seen: Vec<_> = Messages::new(&batch)
        .map(|m| m.map(|m| (m.sequence, m.flags)))
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(seen, [(11, 1), (12, 1), (13, 5)]);
}

#[test]
fn a_malformed_batch_is_not_sent() {
    let mut batch = Builder::new(0xa00, 1).fixed(&[0; 8]).finish();
    batch.extend([1, 2, 3]);
    match count(&batch) {
        Err(TransactionError::Malformed { at, .. }) => assert_eq!(at, 24),
        other => panic!("{other:?}"),
    }
    let mut short = 19_u32.to_ne_bytes().to_vec();
    short.resize(19, 0);
    assert!(matches!(
        count(&short),
        Err(TransactionError::Malformed { at: 19, .. })
    ));
}

#[test]
fn replies_decide_the_verdict() {
    assert!(verdict(&[reply(0, 13)], false).is_ok());
    // Acknowledgements of other requests do not count.
    assert!(matches!(
        verdict(&[reply(0, 9)], false),
        Err(TransactionError::LostReply)
    ));
    assert!(matches!(
        verdict(&[], false),
        Err(TransactionError::LostReply)
    ));
    // The last message's acknowledgement is sent also when another's refusal was lost.
    assert!(matches!(
        verdict(&[reply(0, 13)], true),
        Err(TransactionError::LostReply)
    ));
    assert!(matches!(
        verdict(&[reply(Errno::ERESTART as i32, 10)], false),
        Err(TransactionError::GenerationChanged)
    ));
    match verdict(&[reply(Errno::EPERM as i32, 10)], false) {
        Err(TransactionError::RefusedWhole(refusal)) => assert_eq!(refusal.errno, Errno::EPERM),
        other => panic!("{other:?}"),
    }
    match verdict(&[reply(Errno::EEXIST as i32, 12), reply(0, 13)], true) {
        Err(TransactionError::Refused(faults)) => {
            assert_eq!(faults.len(), 1);
            assert_eq!(faults[0].at, 1);
            assert_eq!(faults[0].refusal.errno, Errno::EEXIST);
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// For any replies, a fault names an existing message, and only an acknowledgement without faults is
    /// a success.
    #[test]
    fn arbitrary_replies_never_give_a_wrong_verdict(
        replies in prop::collection::vec(
            prop_oneof![
                (0_i32..200, 5_u32..20).prop_map(|(errno, sequence)| reply(errno, sequence)),
                prop::collection::vec(any::<u8>(), 0..60),
            ],
            0..5,
        ),
        cut in 0_usize..40,
    ) {
        let mut replies = replies;
        if let Some(last) = replies.last_mut() {
            last.truncate(cut);
        }
        match verdict(&replies, false) {
            Ok(()) => prop_assert!(replies.contains(&reply(0, 13))),
            Err(TransactionError::Refused(faults)) => {
                prop_assert!(faults.iter().all(|fault| fault.at < 3));
            }
            Err(_) => {}
        }
    }

    #[test]
    fn arbitrary_batches_are_numbered_without_panic(mut batch in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = count(&batch);
        number(&mut batch, 1);
        for message in Messages::new(&batch).flatten() {
            let _ = GenerationInfo::read(&message);
            let _ = crate::nfacct::Counted::read(&message);
        }
    }
}

/// Kernels without owners; other kernels delete the table in any case.
#[test]
fn a_tracing_table_is_removed_with_its_owner() {
    use netfilter::nft::{Chain, Family, Op};
    use nix::sched::{CloneFlags, unshare};
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace (run as root)");
        let mut nft = NfTables::open().unwrap();
        let table = TableId::new(Family::Ip6, "traces");
        let chain = Op::AddChain(Chain {
            name: "c".to_owned(),
            base: None,
            comment: None,
        });
        let ops = std::slice::from_ref(&chain);
        for owned in [false, true] {
            let generation = nft.generation().unwrap().generation;
            let tracing = Tracing::attempt(&table, "why", ops, Some(generation), owned).unwrap();
            let (chains, now) = nft.chains().unwrap();
            assert_eq!(chains.len(), 1);
            assert_eq!((&chains[0].table, &*chains[0].name), (&table, "c"));
            assert_eq!(now, generation.next());
            // No other program may change a table that has an owner.
            assert_eq!(nft.commit(&table, ops, None).is_err(), owned);
            let stale = Tracing::attempt(&table, "why", ops, Some(generation), owned);
            assert!(matches!(stale, Err(TransactionError::GenerationChanged)));
            drop(tracing);
            assert_eq!(nft.chains().unwrap().0, []);
        }
    });
    thread.join().unwrap();
}
