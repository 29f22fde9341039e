//! Operations of `netfilter::nft` on the real kernel.

mod support;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use kernel::Errno;
use kernel::nfnetlink::{NfTables, TableId, TransactionError};
use netfilter::nft::table::Contents;
use netfilter::nft::{
    Chain, DataType, Element, Expr, Family, Fields, Op, Rule, Set, SetData, SetFlags, Value,
    Verdict,
};
use support::{in_namespace, run};

fn address(number: u32) -> Value {
    Value::ip(Ipv4Addr::from_bits(number).into())
}

fn chain(name: &str) -> Op {
    Op::AddChain(Chain {
        name: name.to_owned(),
        base: None,
        comment: None,
    })
}

fn goto(from: &str, to: &str) -> Op {
    Op::AddRule(Rule {
        chain: from.to_owned(),
        exprs: vec![Expr::Verdict(Verdict::Goto(to.to_owned()))],
        comment: Some("why".to_owned()),
    })
}

fn map(name: &str, data: SetData) -> Op {
    Op::AddSet(Set {
        name: name.to_owned(),
        key: Fields::Types(vec![DataType::Ipv4Addr]),
        data,
        flags: SetFlags::default(),
        timeout_ms: None,
        size: None,
        comment: None,
    })
}

fn elements(set: &str, elements: Vec<Element>) -> Op {
    Op::AddElements {
        set: set.to_owned(),
        elements,
    }
}

/// A table with chains, a rule, a verdict map, and a set of enough elements for several
/// messages and several parts of a dump.
fn operations() -> Vec<Op> {
    vec![
        Op::AddTable { comment: None },
        chain("a"),
        chain("b"),
        goto("a", "b"),
        map("vips", SetData::Verdict),
        map("all", SetData::None),
        elements(
            "vips",
            vec![Element::verdict(address(1), Verdict::Goto("b".to_owned()))],
        ),
        elements("all", (0..5000).map(|n| Element::key(address(n))).collect()),
    ]
}

fn made(ops: &[Op]) -> Contents {
    let mut contents = None;
    Contents::apply(&mut contents, ops).unwrap();
    contents.unwrap()
}

#[test]
fn committed_operations_are_read_back() {
    in_namespace(|| {
        let mut nft = NfTables::open().unwrap();
        let table = TableId::new(Family::Ip, "kube-proxy");
        let (none, empty) = nft.read_table(&table).unwrap();
        assert!(none.is_none());
        nft.commit(&table, &operations(), Some(empty)).unwrap();
        // Another family's table of the same name, and another table of the same family.
        run("nft add table ip6 kube-proxy; nft add chain ip6 kube-proxy a");
        run("nft add table ip other; nft add chain ip other c; nft add rule ip other c accept");
        let (read, generation) = nft.read_table(&table).unwrap();
        let read = read.unwrap();
        assert_eq!(read.foreign, [""; 0]);
        assert_eq!(read.contents, made(&operations()));
        assert_eq!(generation, nft.generation().unwrap().generation);
        nft.commit(&table, &[Op::DeleteTable], Some(generation))
            .unwrap();
        assert!(nft.read_table(&table).unwrap().0.is_none());
        assert!(run("nft list tables").contains("table ip other"));
    });
}

#[test]
fn a_refused_operation_is_identified() {
    in_namespace(|| {
        let mut nft = NfTables::open().unwrap();
        let table = TableId::new(Family::Ip, "kube-proxy");
        let mut ops = operations();
        // After one of several messages.
        ops.push(goto("a", "gone"));
        match nft.commit(&table, &ops, None) {
            Err(TransactionError::Refused(faults)) => {
                assert_eq!(
                    (faults[0].at, faults.len()),
                    (ops.len() - 1, 1),
                    "{faults:?}"
                );
                assert_eq!(faults[0].refusal.errno, Errno::ENOENT);
            }
            other => panic!("{other:?}"),
        }
        assert!(nft.read_table(&table).unwrap().0.is_none());
        ops.pop();
        nft.commit(&table, &ops, None).unwrap();
        let again = vec![
            elements("all", vec![Element::key(address(9000))]),
            Op::DeleteElements {
                set: "all".to_owned(),
                elements: vec![Element::key(address(9001))],
            },
            Op::DeleteChain("b".to_owned()),
        ];
        match nft.commit(&table, &again, None) {
            Err(TransactionError::Refused(faults)) => {
                let told: Vec<_> = faults.iter().map(|f| (f.at, f.refusal.errno)).collect();
                assert_eq!(told, [(1, Errno::ENOENT), (2, Errno::EBUSY)]);
            }
            other => panic!("{other:?}"),
        }
        let (read, _) = nft.read_table(&table).unwrap();
        assert_eq!(read.unwrap().contents, made(&operations()));
    });
}

#[test]
fn a_foreign_rule_in_the_table_is_listed_as_foreign() {
    in_namespace(|| {
        let mut nft = NfTables::open().unwrap();
        let table = TableId::new(Family::Ip, "kube-proxy");
        nft.commit(&table, &operations(), None).unwrap();
        run("nft add rule ip kube-proxy a log prefix mine");
        let (read, _) = nft.read_table(&table).unwrap();
        let read = read.unwrap();
        assert_eq!(read.foreign.len(), 1, "{:?}", read.foreign);
        assert!(read.foreign[0].starts_with("a rule of chain a"));
        assert_eq!(read.contents, made(&operations()));
    });
}

#[test]
fn a_table_read_during_foreign_writes_is_consistent() {
    in_namespace(|| {
        let mut nft = NfTables::open().unwrap();
        let mut writer = NfTables::open().unwrap();
        let table = TableId::new(Family::Ip, "kube-proxy");
        nft.commit(&table, &operations(), None).unwrap();
        // Two sets that are equal at every moment.
        let pair = [map("left", SetData::None), map("right", SetData::None)];
        nft.commit(&table, &pair, None).unwrap();
        std::thread::scope(|scope| {
            let written = scope.spawn(|| {
                for number in 0..40 {
                    let element = vec![Element::key(address(number))];
                    let both = [
                        elements("left", element.clone()),
                        elements("right", element),
                    ];
                    writer.commit(&table, &both, None).unwrap();
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            });
            while !written.is_finished() {
                match nft.read_table(&table) {
                    Ok((read, _)) => {
                        let sets: BTreeMap<_, _> = read.unwrap().contents.sets;
                        assert_eq!(sets["left"].elements, sets["right"].elements);
                    }
                    Err(kernel::netlink::Error::Interrupted { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let (read, _) = nft.read_table(&table).unwrap();
        assert_eq!(read.unwrap().contents.sets["left"].elements.len(), 40);
    });
}
