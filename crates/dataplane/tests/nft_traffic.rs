//! Connections through unchanged Services lose no packet while the rest of the table changes.

#[path = "../../kernel/tests/support/mod.rs"]
mod support;
#[path = "support/faults.rs"]
mod support_faults;
#[path = "support/nft.rs"]
mod support_nft;
#[path = "support/objects.rs"]
mod support_objects;
#[path = "support/traffic.rs"]
mod traffic;

use std::collections::BTreeMap;

use dataplane::nftables::{Options, Sync, TABLE, Transport, table_family};
use kernel::netlink;
use kernel::netns::NetNs;
use plan::Plan;

use support::run;
use support_faults::{Fault, Faulty, settled};
use support_nft::Live;
use support_objects::{other, plans};
use traffic::Stage;

/// A node's namespace; removed on drop.
struct Node(NetNs);

impl Node {
    fn new(name: &str) -> Self {
        let name = format!("nft-load-{name}-{}", std::process::id());
        let node = NetNs::create(&name).expect("root");
        let addresses = "ip link set lo up; ip addr add 10.200.1.2 dev lo; \
                         ip addr add fd00:200:1::2 dev lo nodad";
        node.run(|| run(addresses)).expect("the node");
        Node(node)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = NetNs::delete(self.0.name());
    }
}

fn bring(sync: &mut Sync, plan: &Plan, transport: &mut impl Transport<Error = netlink::Error>) {
    let known = sync.state().into_iter().flat_map(|s| s.ports().keys());
    let changed = known.chain(plan.ports.keys()).cloned().collect();
    sync.change(&changed);
    sync.run(plan, transport, 1_000)
        .expect("the kernel answers");
}

/// Return kube-proxy's first transaction on a node with an existing table: base chains are deleted,
/// because their priority cannot be changed; then chains and sets are declared, flushed and filled.
fn as_kube_proxy_starts(listing: &str) -> String {
    let (mut deleted, mut declared, mut emptied) = (String::new(), String::new(), String::new());
    let mut lines = listing.lines();
    let mut table = "";
    while let Some(line) = lines.next() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["table", family, name, "{"] => {
                table = family;
                deleted += &format!("add table {family} {name}\n");
                declared += &format!("table {family} {name} {{\n");
            }
            [kind @ ("chain" | "set" | "map"), name, "{"] => {
                emptied += &format!("flush {kind} {table} {TABLE} {name}\n");
                declared += &format!("{line}\n");
                for line in lines.by_ref() {
                    let word = line.split_whitespace().next().unwrap_or_default();
                    if *kind == "chain" && word == "type" {
                        for verb in ["add", "delete"] {
                            deleted += &format!("{verb} chain {table} {TABLE} {name}\n");
                        }
                    }
                    if ["type", "flags", "timeout", "size", "comment", "}"].contains(&word) {
                        declared += &format!("{line}\n");
                    }
                    if line == "\t}" {
                        break;
                    }
                }
            }
            ["}"] => declared += "}\n",
            _ => {}
        }
    }
    deleted + &declared + &emptied + listing
}

/// Return the content of kube-proxy's table by chain and set, independent of the kernel's order.
fn blocks(listing: &str) -> BTreeMap<String, Vec<String>> {
    let mut blocks = BTreeMap::new();
    for block in listing.split("\n\n") {
        let mut lines = block.trim_start_matches(['\n', '}']).lines().map(str::trim);
        let Some(name) = lines.find(|line| line.ends_with('{') && !line.starts_with("table"))
        else {
            continue;
        };
        let words = lines
            .flat_map(|line| line.split([',', '{', '}']))
            .map(str::trim);
        let mut words: Vec<String> = words.map(str::to_owned).filter(|w| !w.is_empty()).collect();
        // The comment of a set is that of the program that declared it first.
        words.retain(|word| !word.starts_with("comment "));
        words.sort();
        blocks.insert(name.to_owned(), words);
    }
    blocks
}

#[test]
fn connections_continue_while_tables_are_replaced() {
    let node = Node::new("hands");
    let stage = Stage::around(&node.0);
    let folder = tempfile::tempdir().expect("a folder");
    let plans = plans(&[observed::path("objects.json")]);
    let tables: Vec<(&Plan, String, String)> = plans
        .iter()
        .zip(["v4", "v6"])
        .map(|(plan, word)| {
            let listing =
                std::fs::read_to_string(observed::path(&format!("nftables-default.{word}.nft")));
            let listing = listing.expect("what was observed");
            let file = folder.path().join(word);
            std::fs::write(&file, as_kube_proxy_starts(&listing)).expect("room");
            (plan, listing, format!("nft -f {}", file.display()))
        })
        .collect();
    let theirs = || tables.iter().for_each(|(_, _, load)| drop(run(load)));
    let ours = || {
        for plan in &plans {
            let mut live = Live::open(plan.family);
            let before = live.nft.generation().expect("a generation").generation;
            let mut sync = Sync::new(Options::default());
            bring(&mut sync, plan, &mut live);
            let after = live.nft.generation().expect("a generation").generation;
            assert_eq!(before.next(), after, "one transaction");
            settled(&sync, &mut live, plan);
        }
    };
    node.0.run(theirs).expect("the node");
    let load = stage.load();
    for _ in 0..30 {
        load.wait(200);
        node.0.run(ours).expect("the node");
        load.wait(200);
        node.0.run(theirs).expect("the node");
    }
    load.finish(&stage).assert_unharmed();
    // kube-proxy's chains and sets are those of a node on which sluice has never run; nothing in them
    // leads to the remaining objects.
    for (plan, listing, _) in &tables {
        let word = table_family(plan.family).word();
        let list = || run(&format!("nft list table {word} {TABLE}"));
        let there = blocks(&node.0.run(list).expect("the node"));
        let wanted = blocks(listing);
        assert!(wanted.len() > 20);
        for (name, wanted) in wanted {
            assert_eq!(there.get(&name), Some(&wanted), "{name}");
        }
    }
}

#[test]
fn connections_continue_while_changes_of_other_services_fail() {
    let node = Node::new("faults");
    let stage = Stage::around(&node.0);
    // Services are added and removed, and get more and fewer endpoints.
    let before: String = (0..6).map(|n| other(n, 1 + n % 3)).collect();
    let after: String = (3..9).map(|n| other(n, 3 - n % 3)).collect();
    let plans = |others: String| {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("others.yaml");
        std::fs::write(&file, others).expect("room");
        plans(&[observed::path("objects.json"), file])
    };
    let (before, after) = (plans(before), plans(after));
    let start = |plan: &Plan| {
        let mut sync = Sync::new(Options::default());
        let start = || bring(&mut sync, plan, &mut Live::open(plan.family));
        node.0.run(start).expect("the node");
        sync
    };
    let mut syncs = before.each_ref().map(start);
    let load = stage.load();
    for (sync, (before, after)) in syncs.iter_mut().zip(before.iter().zip(&after)) {
        let mut change = |fault| {
            let change = || {
                let mut faulty = Faulty::new(Live::open(after.family), 0, fault);
                bring(sync, after, &mut faulty);
                // As after the notification of a foreign change.
                sync.mark_unverified();
                bring(sync, after, &mut faulty);
                settled(sync, &mut faulty.live, after);
                bring(sync, before, &mut faulty.live);
                faulty.refused_last
            };
            let last = node.0.run(change).expect("the node");
            load.wait(50);
            last
        };
        let refused = (0..).take_while(|number| !change(Fault::Refuse(*number)));
        assert!(refused.count() > 5, "a transaction of several operations");
        change(Fault::Lost);
        change(Fault::AnotherWriter);
    }
    load.finish(&stage).assert_unharmed();
}
