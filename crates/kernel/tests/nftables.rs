//! The nftables mode against the real kernel, each test in a network namespace of its own.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use dataplane::nftables::{Options, State, TABLE, render, table_family};
use kernel::netlink::Messages;
use kernel::nfnetlink::NfTables;
use model::IpFamily;
use netfilter::nft::consts::msg;
use netfilter::nft::table::Contents;
use netfilter::nft::{Encoder, Message, Op, decode};
use plan::testing::cluster;
use plan::{Plan, Planner};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use support::{in_namespace, run};

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

/// Reads the table back.
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
            contents.take_in(decoded.body);
        }
    };
    take(nft, encoder.get_table(), false);
    take(nft, encoder.dump(msg::GETCHAIN, None), true);
    take(nft, encoder.dump(msg::GETSET, None), true);
    take(nft, encoder.dump(msg::GETRULE, None), true);
    let names: Vec<String> = dataplane::nftables::SetId::ALL
        .iter()
        .map(|id| id.name().to_owned())
        .collect();
    for name in names {
        take(nft, encoder.dump(msg::GETSETELEM, Some(&name)), true);
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

/// What `nft` lists, as chains and sets with sorted elements and without what differs from one
/// kernel to the next: the order of elements, and of chains.
fn listing(family: IpFamily) -> BTreeMap<String, Vec<String>> {
    let word = table_family(family).word();
    let text = run(&format!("nft list table {word} {TABLE}"));
    let mut blocks = BTreeMap::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = line.trim();
        let is_block = ["set ", "map ", "chain "]
            .iter()
            .any(|word| line.starts_with(word));
        if !is_block {
            continue;
        }
        let mut body = Vec::new();
        let mut elements = Vec::new();
        let mut in_elements = false;
        for line in lines.by_ref() {
            let mut line = line.trim();
            if line == "}" {
                break;
            }
            if let Some(rest) = line.strip_prefix("elements = {") {
                in_elements = true;
                line = rest;
            }
            if in_elements {
                let rest = line.strip_suffix('}').unwrap_or(line);
                elements.extend(rest.split(',').map(|e| e.trim().to_owned()));
                in_elements = rest == line;
            } else {
                body.push(line.to_owned());
            }
        }
        elements.retain(|e| !e.is_empty());
        elements.sort();
        body.extend(elements);
        blocks.insert(line.to_owned(), body);
    }
    blocks
}

/// Shows only what differs.
fn same(left: &BTreeMap<String, Vec<String>>, right: &BTreeMap<String, Vec<String>>) {
    let names: BTreeSet<_> = left.keys().chain(right.keys()).collect();
    for name in names {
        assert_eq!(left.get(name), right.get(name), "{name}");
    }
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
fn what_is_programmed_is_read_back_and_listed() {
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
fn the_text_makes_the_same_table() {
    for planner in some_clusters(40) {
        for family in IpFamily::ALL {
            let plan = planner.plan(family);
            let sticky = plan.ports.values().any(|port| port.affinity.is_some());
            let programmed = in_namespace(|| {
                load(&mut NfTables::open().expect("nf_tables"), plan);
                listing(family)
            });
            let (loaded, reloaded) = in_namespace(|| {
                nft_load(&render(plan, Options::default()));
                let loaded = listing(family);
                let word = table_family(family).word();
                let saved = run(&format!("nft list table {word} {TABLE}"));
                run(&format!("nft delete table {word} {TABLE}"));
                nft_load(&saved);
                (loaded, listing(family))
            });
            same(&loaded, &reloaded);
            let without = |mut blocks: BTreeMap<String, Vec<String>>| {
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
