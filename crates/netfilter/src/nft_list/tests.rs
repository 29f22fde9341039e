use super::Listing;
use crate::mutate::{mutate, random};
use crate::nft_lang::Ruleset;

/// The objects of a table, as the kernel would list them.
fn messages() -> Vec<(u16, Vec<u8>)> {
    use crate::nft::{
        BaseChain, Chain, ChainKind, CmpOp, DataType, Element, Encoder, Expr, Family, Fields, Hook,
        LookupInto, MetaKey, Op, PayloadBase, Policy, Reg, Rule, Set, SetData, SetFlags, Value,
    };
    let set = Set {
        name: "ports".to_owned(),
        key: Fields::Types(vec![DataType::Ipv4Addr, DataType::InetService]),
        data: SetData::Verdict,
        flags: SetFlags::default(),
        timeout_ms: None,
        size: None,
        comment: None,
    };
    let key = Value::ip("10.0.0.1".parse().unwrap()).with_port(80);
    let load = |base, offset, len, dreg| Expr::Payload {
        base,
        offset,
        len,
        dreg,
    };
    let rule = Rule {
        chain: "c".to_owned(),
        exprs: vec![
            Expr::Meta {
                key: MetaKey::L4proto,
                dreg: Reg::FIRST,
            },
            Expr::Cmp {
                op: CmpOp::Eq,
                sreg: Reg::FIRST,
                value: Value::protocol(6),
            },
            load(PayloadBase::Network, 16, 4, Reg::FIRST),
            load(PayloadBase::Transport, 2, 2, Reg::FIRST.after(4)),
            Expr::Lookup {
                set: "ports".to_owned(),
                sreg: Reg::FIRST,
                into: LookupInto::Verdict,
                inverted: false,
            },
        ],
        comment: Some("a comment".to_owned()),
    };
    let base = BaseChain {
        kind: ChainKind::Filter,
        hook: Hook::Input,
        priority: 5,
        policy: Policy::Drop,
    };
    let encoder = Encoder {
        family: Family::Ip,
        table: "t",
    };
    let ops = encoder.ops(&[
        Op::AddTable { comment: None },
        Op::AddChain(Chain {
            name: "c".to_owned(),
            base: Some(base),
            comment: None,
        }),
        Op::AddSet(set),
        Op::AddElements {
            set: "ports".to_owned(),
            elements: vec![Element::verdict(key, crate::nft::Verdict::Accept)],
        },
        Op::AddRule(rule),
    ]);
    ops.into_iter()
        .map(|message| (message.kind, message.body))
        .collect()
}

fn text(messages: &[(u16, Vec<u8>)]) -> String {
    let mut listing = Listing::default();
    for (kind, body) in messages {
        let _ = listing.add(*kind, body);
    }
    listing.text(&|_| None)
}

#[test]
fn a_table_has_the_text_of_nft() {
    let expected = "table ip t {\n\tmap ports {\n\t\ttype ipv4_addr . inet_service : verdict\n\
        \t\telements = { 10.0.0.1 . 80 : accept }\n\t}\n\n\tchain c {\n\
        \t\ttype filter hook input priority filter + 5; policy drop;\n\
        \t\tip daddr . tcp dport vmap @ports comment \"a comment\"\n\t}\n}\n";
    assert_eq!(text(&messages()), expected);
}

/// Whatever the kernel sends, the text can be read.
#[test]
fn damaged_messages_never_panic() {
    let whole = messages();
    let mut seed = 0xfeed;
    for _ in 0..20_000 {
        let mut messages = whole.clone();
        let at = random(&mut seed) % messages.len();
        let body = &mut messages[at].1;
        if random(&mut seed).is_multiple_of(4) {
            *body = mutate(body, &mut seed);
        } else if !body.is_empty() {
            for _ in 0..1 + random(&mut seed) % 4 {
                let at = random(&mut seed) % body.len();
                body[at] = random(&mut seed) as u8;
            }
        }
        let _ = Ruleset::parse(&text(&messages));
    }
}
