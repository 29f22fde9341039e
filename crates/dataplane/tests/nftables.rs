//! nftables mode on the real kernel, each test in its own network namespace.

#[path = "../../kernel/tests/support/mod.rs"]
mod support;
#[path = "support/listing.rs"]
mod support_listing;

use std::io::Write as _;
use std::process::{Command, Stdio};

use dataplane::nftables::{Options, State, TABLE, render, table_family};
use kernel::nfnetlink::NfTables;
use model::IpFamily;
use netfilter::netlink::Messages;
use netfilter::nft::consts::{
    NFT_MSG_GETCHAIN, NFT_MSG_GETRULE, NFT_MSG_GETSET, NFT_MSG_GETSETELEM,
};
use netfilter::nft::table::Contents;
use netfilter::nft::{Encoder, Message, Op, decode};
use plan::testing::cluster;
use plan::{Plan, Planner};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use support::{in_namespace, run};
use support_listing::{Blocks, blocks, same};

fn bytes(messages: &[Message]) -> Vec<u8> {
    let mut out = Vec::new();
    for message in messages {
        message.append_to(&mut out);
    }
    out
}

fn program(nft: &mut NfTables, family: IpFamily, ops: &[Op]) {
    let encoder = Encoder {
        family: table_family(family),
        table: TABLE,
    };
    let messages = encoder.ops(ops);
    let mut batch = bytes(&messages);
    if let Err(error) = nft.transact(&mut batch, None) {
        let kinds: Vec<u16> = messages.iter().map(|m| m.kind).collect();
        panic!("{error}\n{kinds:?}\n{ops:#?}");
    }
}

fn load(nft: &mut NfTables, plan: &Plan) -> State {
    let mut state = State::new(plan.family, Options::default(), plan.node.clone());
    program(nft, plan.family, &state.install());
    let all = plan.ports.iter().map(|(k, p)| (k.clone(), Some(p.clone())));
    let change = state.change(all.collect(), None);
    program(nft, plan.family, &change.ops);
    state.commit(change);
    state
}

/// Read the table.
fn read(nft: &mut NfTables, family: IpFamily) -> Contents {
    let encoder = Encoder {
        family: table_family(family),
        table: TABLE,
    };
    let mut contents = Contents::default();
    let mut take = |nft: &mut NfTables, request: Message, dump: bool| {
        let request = bytes(&[request]);
        let answer = if dump {
            nft.dump(&request)
        } else {
            nft.get(&request)
        };
        for message in Messages::new(&answer.expect("an answer")) {
            let message = message.expect("whole messages");
            let decoded = decode(message.kind & 0xff, &message.bytes[16..]).expect("ours");
            contents.add(decoded.body);
        }
    };
    take(nft, encoder.get_table(), false);
    take(nft, encoder.dump(NFT_MSG_GETCHAIN, None), true);
    take(nft, encoder.dump(NFT_MSG_GETSET, None), true);
    take(nft, encoder.dump(NFT_MSG_GETRULE, None), true);
    let names: Vec<String> = dataplane::nftables::SetId::ALL
        .iter()
        .map(|id| id.name().to_owned())
        .collect();
    for name in names {
        take(nft, encoder.dump(NFT_MSG_GETSETELEM, Some(&name)), true);
    }
    contents
}

fn nft_load(text: &str) {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nft");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(text.as_bytes()).expect("nft reads");
    drop(stdin);
    let output = child.wait_with_output().expect("nft ends");
    assert!(
        output.status.success(),
        "{}\n{text}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Return `nft`'s listing of the table.
fn text(family: IpFamily) -> String {
    let word = table_family(family).word();
    run(&format!("nft list table {word} {TABLE}"))
}

fn listing(family: IpFamily) -> Blocks {
    blocks(&text(family))
}

fn some_clusters(count: usize) -> Vec<Planner> {
    let mut runner = TestRunner::deterministic();
    (0..count)
        .map(|_| {
            let tree = cluster().new_tree(&mut runner).expect("a cluster");
            tree.current().planner()
        })
        .collect()
}

#[test]
fn programmed_tables_are_read_back_and_listed() {
    for planner in some_clusters(40) {
        in_namespace(|| {
            let mut nft = NfTables::open().expect("nf_tables");
            for family in IpFamily::ALL {
                let plan = planner.plan(family);
                let state = load(&mut nft, plan);
                assert_eq!(read(&mut nft, family), state.contents());
                assert!(!listing(family).is_empty());
            }
        });
    }
}

#[test]
fn nft_creates_the_same_table_from_the_text() {
    for planner in some_clusters(40) {
        for family in IpFamily::ALL {
            let plan = planner.plan(family);
            let sticky = plan.ports.values().any(|port| port.affinity.is_some());
            let saved = in_namespace(|| {
                load(&mut NfTables::open().expect("nf_tables"), plan);
                text(family)
            });
            let programmed = blocks(&saved);
            // nft 1.0.6 aborts when it loads such a listing.
            if !(sticky && family == IpFamily::V6) {
                let again = in_namespace(|| {
                    nft_load(&saved);
                    listing(family)
                });
                same(&again, &programmed);
            }
            let (loaded, reloaded) = in_namespace(|| {
                nft_load(&render(plan, Options::default()));
                let saved = text(family);
                let word = table_family(family).word();
                run(&format!("nft delete table {word} {TABLE}"));
                nft_load(&saved);
                (blocks(&saved), listing(family))
            });
            same(&loaded, &reloaded);
            let without = |mut blocks: Blocks| {
                // The exception: learning a client's endpoint from a register.
                if sticky {
                    blocks.retain(|name, _| !name.contains("-sticky-"));
                }
                blocks
            };
            same(&without(loaded), &without(programmed));
        }
    }
}
