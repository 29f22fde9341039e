//! nf_tables transactions, dumps and notifications against the real kernel.

mod support;

use std::time::Duration;

use kernel::Errno;
use kernel::nfnetlink::{Generation, GenerationInfo, Monitor, NfTables, Notice, TransactionError};
use netfilter::netlink::{
    Attributes, Builder, Message, Messages, NFGENMSG_LEN, NFNL_SUBSYS_NFTABLES, NFPROTO_IPV4,
    NLM_F_CREATE, NLM_F_REQUEST, nfgenmsg, nfnl_msg_type,
};
use netfilter::nft::DataType;
use netfilter::nft::consts::*;
use support::{in_namespace, run};

/// Return the type of a message (`NFT_MSG_*`).
fn kind(message: u16) -> u16 {
    nfnl_msg_type(NFNL_SUBSYS_NFTABLES, message as u8)
}

fn message(command: u16, flags: u16) -> Builder {
    Builder::new(kind(command), NLM_F_REQUEST | flags).fixed(&nfgenmsg(NFPROTO_IPV4, 0))
}

fn table(name: &str) -> Vec<u8> {
    message(NFT_MSG_NEWTABLE, NLM_F_CREATE)
        .string(NFTA_TABLE_NAME, name)
        .finish()
}

fn chain(table: &str, name: &str) -> Vec<u8> {
    let message = message(NFT_MSG_NEWCHAIN, NLM_F_CREATE);
    message
        .string(NFTA_CHAIN_TABLE, table)
        .string(NFTA_CHAIN_NAME, name)
        .finish()
}

/// A set of addresses.
fn set(table: &str, name: &str) -> Vec<u8> {
    message(NFT_MSG_NEWSET, NLM_F_CREATE)
        .string(NFTA_SET_TABLE, table)
        .string(NFTA_SET_NAME, name)
        .attributes(|w| w.be32(NFTA_SET_KEY_TYPE, DataType::Ipv4Addr.number()))
        .attributes(|w| w.be32(NFTA_SET_KEY_LEN, 4))
        .attributes(|w| w.be32(NFTA_SET_ID, 1))
        .finish()
}

fn elements(table: &str, set: &str, keys: impl Iterator<Item = u32>) -> Vec<u8> {
    message(NFT_MSG_NEWSETELEM, NLM_F_CREATE)
        .string(NFTA_SET_ELEM_LIST_TABLE, table)
        .string(NFTA_SET_ELEM_LIST_SET, set)
        .attributes(|w| {
            w.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |w| {
                for key in keys {
                    w.nest(NFTA_LIST_ELEM, |w| {
                        w.nest(NFTA_SET_ELEM_KEY, |w| w.be32(NFTA_DATA_VALUE, key));
                    });
                }
            });
        })
        .finish()
}

fn attributes<'a>(message: &Message<'a>) -> Attributes<'a> {
    message.attributes(NFGENMSG_LEN, "nft attributes")
}

fn element_count(nft: &mut NfTables) -> usize {
    let request = message(NFT_MSG_GETSETELEM, 0)
        .string(NFTA_SET_ELEM_LIST_TABLE, "t")
        .string(NFTA_SET_ELEM_LIST_SET, "s")
        .finish();
    let mut count = 0;
    nft.stream(&request, |message| {
        for attribute in attributes(message) {
            let attribute = attribute?;
            if attribute.kind == 3 {
                count += attribute.nested("elements").count();
            }
        }
        Ok(())
    })
    .unwrap();
    count
}

fn tables(nft: &mut NfTables) -> Vec<String> {
    let answer = nft.dump(&message(NFT_MSG_GETTABLE, 0).finish()).unwrap();
    Messages::new(&answer)
        .map(|message| {
            let message = message.unwrap();
            let mut all = attributes(&message).flatten();
            all.find(|a| a.kind == 1).unwrap().string_lossy()
        })
        .collect()
}

#[test]
fn a_transaction_is_committed_and_read_back() {
    in_namespace(|| {
        let mut nft = NfTables::open().unwrap();
        let before = nft.generation().unwrap().generation;
        let mut batch = [
            table("t"),
            chain("t", "c"),
            set("t", "s"),
            elements("t", "s", 1..4),
        ]
        .concat();
        nft.transact(&mut batch, Some(before)).unwrap();
        let after = nft.generation().unwrap();
        assert_eq!(after.generation, before.next());
        assert_eq!(tables(&mut nft), ["t"]);
        let answer = nft
            .get(
                &message(NFT_MSG_GETTABLE, 0)
                    .string(NFTA_TABLE_NAME, "t")
                    .finish(),
            )
            .unwrap();
        assert_eq!(Messages::new(&answer).count(), 1);
        let gone = nft.get(
            &message(NFT_MSG_GETTABLE, 0)
                .string(NFTA_TABLE_NAME, "u")
                .finish(),
        );
        assert_eq!(gone.unwrap_err().errno(), Some(Errno::ENOENT));
        assert_eq!(element_count(&mut nft), 3);
        let listed = run("nft list ruleset");
        assert!(
            listed.contains("elements = { 0.0.0.1, 0.0.0.2,"),
            "{listed}"
        );
        // Nothing to commit commits nothing.
        nft.transact(&mut [], Some(Generation(before.0))).unwrap();
    });
}

#[test]
fn a_refused_message_is_identified_and_nothing_is_committed() {
    in_namespace(|| {
        let mut nft = NfTables::open().unwrap();
        nft.transact(&mut table("t"), None).unwrap();
        for bad in 0..6 {
            let mut batch = Vec::new();
            for at in 0..6 {
                let holder = if at == bad { "gone" } else { "t" };
                batch.extend(chain(holder, &format!("c{at}")));
            }
            match nft.transact(&mut batch, None) {
                Err(TransactionError::Refused(faults)) => {
                    assert_eq!(faults.len(), 1, "{faults:?}");
                    assert_eq!(faults[0].at, bad);
                    assert_eq!(faults[0].refusal.errno, Errno::ENOENT);
                    // The table's name is the first attribute.
                    assert_eq!(faults[0].refusal.offset, Some(20));
                }
                other => panic!("{other:?}"),
            }
            assert!(!run("nft list ruleset").contains("chain"));
        }
    });
}

#[test]
fn every_fault_is_reported_despite_a_small_buffer() {
    in_namespace(|| {
        let mut nft = NfTables::open().unwrap();
        let mut batch = table("t");
        for at in 0..2000 {
            batch.extend(chain("gone", &format!("c{at}")));
        }
        match nft.transact(&mut batch, None) {
            Err(TransactionError::Refused(faults)) => assert_eq!(
                faults.iter().map(|f| f.at).collect::<Vec<_>>(),
                (1..=2000).collect::<Vec<_>>()
            ),
            other => panic!("{other:?}"),
        }
        assert!(tables(&mut nft).is_empty());
    });
}

#[test]
fn a_commit_of_another_program_changes_the_generation() {
    in_namespace(|| {
        let mut nft = NfTables::open().unwrap();
        let seen = nft.generation().unwrap();
        run("nft add table ip other");
        let result = nft.transact(&mut table("t"), Some(seen.generation));
        assert!(
            matches!(result, Err(TransactionError::GenerationChanged)),
            "{result:?}"
        );
        assert_eq!(tables(&mut nft), ["other"]);
        let now = nft.generation().unwrap();
        assert_ne!(now.generation, seen.generation);
        nft.transact(&mut table("t"), Some(now.generation)).unwrap();
    });
}

#[test]
fn an_unknown_command_is_a_fault_of_its_message() {
    in_namespace(|| {
        let mut nft = NfTables::open().unwrap();
        let mut odd = Builder::new(nfnl_msg_type(NFNL_SUBSYS_NFTABLES, 200), NLM_F_REQUEST)
            .fixed(&nfgenmsg(NFPROTO_IPV4, 0))
            .finish();
        match nft.transact(&mut odd, None) {
            Err(TransactionError::Refused(faults)) => assert_eq!(faults[0].at, 0),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn one_batch_carries_a_hundred_thousand_elements() {
    in_namespace(|| {
        let mut nft = NfTables::open().unwrap();
        let mut batch = [table("t"), set("t", "s")].concat();
        for start in (0..100_000_u32).step_by(1000) {
            batch.extend(elements("t", "s", start..start + 1000));
        }
        nft.transact(&mut batch, None).unwrap();
        assert_eq!(element_count(&mut nft), 100_000);
    });
}

#[test]
fn notifications_name_the_process_that_committed() {
    in_namespace(|| {
        let mut monitor = Monitor::open().unwrap();
        let mut nft = NfTables::open().unwrap();
        assert!(monitor.receive().unwrap().is_none());
        let mut batch = [table("t"), chain("t", "c")].concat();
        nft.transact(&mut batch, None).unwrap();
        run("nft delete table ip t");
        assert!(monitor.wait(Duration::from_secs(5)).unwrap());
        let mut own = Vec::new();
        let mut foreign = Vec::new();
        let mut commits = Vec::new();
        while let Some(notice) = monitor.receive().unwrap() {
            let Notice::Changes(messages) = notice else {
                panic!("{notice:?}")
            };
            for message in messages {
                let message = message.unwrap();
                match GenerationInfo::read(&message).unwrap() {
                    Some(commit) => commits.push((message.port, commit)),
                    None if message.port == nft.port() => own.push(message.kind),
                    None => foreign.push(message.kind),
                }
            }
        }
        assert_eq!(own, [kind(NFT_MSG_NEWTABLE), kind(NFT_MSG_NEWCHAIN)]);
        assert!(foreign.contains(&kind(NFT_MSG_DELTABLE)), "{foreign:?}");
        assert_eq!(commits.len(), 2);
        assert_eq!(commits[0].0, nft.port());
        assert_eq!(
            commits[0].1.thread,
            u32::try_from(nix::unistd::gettid().as_raw()).ok()
        );
        assert_eq!(commits[1].1.name.as_deref(), Some("nft"));
        assert_eq!(commits[1].1.generation, commits[0].1.generation.next());
    });
}

#[test]
fn a_slow_monitor_receives_an_overrun() {
    in_namespace(|| {
        let mut monitor = Monitor::with_buffer(4096).unwrap();
        let mut nft = NfTables::open().unwrap();
        for at in 0..50 {
            nft.transact(&mut table(&format!("t{at}")), None).unwrap();
        }
        let mut overruns = 0;
        let mut told = 0;
        while let Some(notice) = monitor.receive().unwrap() {
            match notice {
                Notice::Overrun => overruns += 1,
                Notice::Changes(messages) => told += messages.count(),
            }
        }
        assert!(overruns > 0 && told < 100, "{overruns} {told}");
        // The socket still works.
        nft.transact(&mut table("last"), None).unwrap();
        assert!(matches!(monitor.receive(), Ok(Some(Notice::Changes(_)))));
    });
}

#[test]
fn a_thread_without_net_admin_gets_a_permission_error() {
    in_namespace(|| {
        let mut nft = NfTables::open().unwrap();
        // The kernel checks the capability of both the opener of the socket and the sender.
        let dropped = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                // SAFETY: setresuid of this thread alone (the raw system call), to an unprivileged user.
                let result =
                    unsafe { nix::libc::syscall(nix::libc::SYS_setresuid, 65534, 65534, 65534) };
                assert_eq!(result, 0);
                nft.transact(&mut table("t"), None)
            });
            thread.join().unwrap()
        });
        match dropped {
            Err(TransactionError::RefusedWhole(refusal)) => assert_eq!(refusal.errno, Errno::EPERM),
            other => panic!("{other:?}"),
        }
    });
}
