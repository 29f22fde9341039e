use proptest::prelude::*;

use super::*;
use crate::iptables::{Match, Rule, TableSet, Target, matches, targets};
use crate::mutate::{mutate, random};
use crate::nft::{Body, CmpOp, Encoder, Expr, MetaKey, Op, PayloadBase, RangeOp, Reg, Value};

/// Encode a rule as a message and decode the message again.
fn round_trip(family: Family, rule: &Rule) -> Result<Rule, Unsupported> {
    let encoder = Encoder {
        family: nft_family(family),
        table: "nat",
    };
    let sets = SetIndex::of_text(&rule.to_string());
    let sent = nft::Rule {
        chain: "X".to_owned(),
        exprs: encode_rule_with(rule, family, &sets)?,
        comment: None,
    };
    let messages = encoder.ops(&[Op::AddRule(sent.clone())]);
    let [message] = &messages[..] else {
        panic!("{} messages", messages.len());
    };
    match message.decode().unwrap().body {
        Body::Rule { rule: Ok(read), .. } => {
            assert_eq!(read, sent);
            decode_rule_with(&read.exprs, family, &sets)
        }
        other => panic!("{other:?}"),
    }
}

fn check(family: Family, text: &str, rule: &Rule) {
    match round_trip(family, rule) {
        Ok(read) => assert_eq!(&read, rule, "{text}"),
        Err(error) => {
            let unknown = |m: &Match| matches!(m, Match::Unknown(_));
            let beyond =
                rule.matches.iter().any(unknown) || matches!(rule.target, Some(Target::Unknown(_)));
            assert!(beyond, "{text}: {error}");
        }
    }
}

#[test]
fn examples_of_every_extension_round_trip() {
    let rows = matches::ROWS.iter().map(|row| row.examples);
    let rows = rows.chain(targets::ROWS.iter().map(|row| row.examples));
    for example in rows.flatten() {
        for family in [Family::Ipv4, Family::Ipv6] {
            // An example may be for one family only.
            let Ok(rule) = Rule::parse(family, example) else {
                continue;
            };
            // The parser accepts the other family's REJECT.
            let reject = matches!(rule.target, Some(Target::Reject(_)));
            if reject && encode_rule(&rule, family).is_err() {
                continue;
            }
            check(family, example, &rule);
        }
    }
}

/// kube-proxy's, CNIs' and other programs' rule sets.
#[test]
fn recorded_rule_sets_round_trip() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata");
    let mut rules = 0;
    for folder in ["observed", "foreign"] {
        for entry in std::fs::read_dir(format!("{root}/{folder}")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let family = match name.as_str() {
                n if n.ends_with("ip6tables-save") || n.ends_with("v6.iptables-save") => {
                    Family::Ipv6
                }
                n if n.ends_with("iptables-save") => Family::Ipv4,
                _ => continue,
            };
            let text = std::fs::read_to_string(&path).unwrap();
            let set = TableSet::parse(family, &text).unwrap();
            for (chain, state) in set.tables.values().flat_map(|table| &table.chains) {
                for rule in &state.rules {
                    check(family, &format!("{name}: {chain} {rule}"), rule);
                    rules += 1;
                }
            }
        }
    }
    assert!(rules > 1000, "only {rules} rules");
}

/// The fuzz target on the stable toolchain: damaged messages of rules with every extension.
#[test]
fn damaged_rules_never_panic() {
    let rows = matches::ROWS.iter().map(|row| row.examples);
    let rows = rows.chain(targets::ROWS.iter().map(|row| row.examples));
    let mut corpus = Vec::new();
    for example in rows.flatten() {
        for family in [Family::Ipv4, Family::Ipv6] {
            let rule = Rule::parse(family, &format!("-i eth0 {example}"));
            let Some(Ok(exprs)) = rule.ok().map(|rule| encode_rule(&rule, family)) else {
                continue;
            };
            let encoder = Encoder {
                family: nft_family(family),
                table: "t",
            };
            let rule = nft::Rule {
                chain: "X".to_owned(),
                exprs,
                comment: None,
            };
            corpus.extend(encoder.ops(&[Op::AddRule(rule)]));
        }
    }
    let mut seed = 0x0ddba11;
    for _ in 0..30_000 {
        let message = &corpus[random(&mut seed) % corpus.len()];
        let mut body = message.body.clone();
        // Bytes inside of structures, which leave the lengths intact, and any damage.
        if random(&mut seed).is_multiple_of(4) {
            body = mutate(&body, &mut seed);
        } else {
            for _ in 0..1 + random(&mut seed) % 4 {
                let at = random(&mut seed) % body.len();
                body[at] = random(&mut seed) as u8;
            }
        }
        fuzz_one(Family::Ipv4, &body);
        fuzz_one(Family::Ipv6, &body);
    }
}

fn header() -> impl Strategy<Value = (bool, String)> {
    let v4 = (any::<[u8; 4]>(), 0..=32_u8, any::<bool>()).prop_map(|(ip, len, not)| {
        let net = format!("{}/{len}", std::net::Ipv4Addr::from(ip));
        (
            false,
            format!("{}-s {net} -d {net}", if not { "! " } else { "" }),
        )
    });
    let v6 = (any::<[u8; 16]>(), 0..=128_u8, any::<bool>()).prop_map(|(ip, len, not)| {
        let net = format!("{}/{len}", std::net::Ipv6Addr::from(ip));
        (true, format!("{}-d {net}", if not { "! " } else { "" }))
    });
    prop_oneof![v4, v6]
}

fn interface() -> impl Strategy<Value = String> {
    ("(|! )", "[a-z]{1,14}", "(|\\+)", "-[io]")
        .prop_map(|(not, name, plus, flag)| format!("{not}{flag} {name}{plus}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Any header, any examples that fit together, any counters.
    #[test]
    fn combined_rules_round_trip(
        (v6, header) in header(),
        interface in interface(),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        target in any::<prop::sample::Index>(),
    ) {
        let family = if v6 { Family::Ipv6 } else { Family::Ipv4 };
        let mut text = format!("{header} {interface} -p tcp");
        let examples: Vec<&str> = matches::ROWS.iter().flat_map(|row| row.examples).copied().collect();
        let fits: Vec<&&str> = examples.iter().filter(|e| e.starts_with("-m ")).collect();
        for pick in &picks {
            text.push_str(&format!(" {}", pick.get(&fits)));
        }
        let examples: Vec<&str> = targets::ROWS.iter().flat_map(|row| row.examples).copied().collect();
        let fits: Vec<&&str> = examples.iter().filter(|e| e.starts_with("-j ")).collect();
        text.push_str(&format!(" {}", target.get(&fits)));
        if let Ok(rule) = Rule::parse(family, &text) {
            // A REJECT may be of the other family.
            if encode_rule(&rule, family).is_ok() {
                let read = round_trip(family, &rule).unwrap();
                let expected = fuzz::canonical(rule);
                prop_assert_eq!(read, expected, "{}", text);
            }
        }
    }

    /// Structures of every length and content, as a damaged or newer kernel could send them.
    #[test]
    fn arbitrary_structures_never_panic(
        info in prop::collection::vec(any::<u8>(), 0..300),
        pick in any::<prop::sample::Index>(),
        revision in 0..4_u32,
        v6 in any::<bool>(),
    ) {
        let family = if v6 { Family::Ipv6 } else { Family::Ipv4 };
        let names: Vec<&str> = matches::ROWS.iter().flat_map(|row| row.names)
            .chain(targets::ROWS.iter().flat_map(|row| row.names)).copied().collect();
        let name: Box<str> = (*pick.get(&names)).into();
        let info: Box<[u8]> = info.into();
        let exprs = [
            Expr::Match { name: name.clone(), revision, info: info.clone() },
            Expr::Target { name, revision, info },
        ];
        for expr in exprs {
            if let Ok(rule) = decode_rule(&[expr], family) {
                let _ = rule.to_string();
                let _ = encode_rule(&rule, family);
            }
        }
    }
}

fn meta(key: MetaKey) -> Expr {
    Expr::Meta {
        key,
        dreg: Reg::FIRST,
    }
}

fn load(base: PayloadBase, offset: u32, len: u32) -> Expr {
    Expr::Payload {
        base,
        offset,
        len,
        dreg: Reg::FIRST,
    }
}

fn cmp(op: CmpOp, value: &[u8]) -> Expr {
    Expr::Cmp {
        op,
        sreg: Reg::FIRST,
        value: Value::new(value).unwrap(),
    }
}

fn mask(mask: &[u8]) -> Expr {
    Expr::Bitwise {
        sreg: Reg::FIRST,
        dreg: Reg::FIRST,
        mask: Value::new(mask).unwrap(),
        xor: Value::new(&vec![0; mask.len()]).unwrap(),
    }
}

/// What 1.8.9 and 1.8.11 send for these rules.
#[test]
fn native_forms_of_newer_releases_are_read() {
    use PayloadBase::{Network, Transport};
    let tcp = || [meta(MetaKey::L4proto), cmp(CmpOp::Eq, &[6])];
    let range = |op, from: [u8; 2], to: [u8; 2]| Expr::Range {
        op,
        sreg: Reg::FIRST,
        from: Value::new(&from).unwrap(),
        to: Value::new(&to).unwrap(),
    };
    let cases: Vec<(&str, Vec<Expr>)> = vec![
        (
            "-p tcp -m tcp --sport 1:2 ! --dport 53",
            vec![
                load(Transport, 0, 2),
                range(RangeOp::Eq, [0, 1], [0, 2]),
                load(Transport, 2, 2),
                cmp(CmpOp::Neq, &[0, 53]),
            ],
        ),
        (
            "-p tcp -m tcp --sport 5 --dport 6",
            vec![load(Transport, 0, 4), cmp(CmpOp::Eq, &[0, 5, 0, 6])],
        ),
        (
            "-p tcp -m tcp ! --sport 0:1023 ! --dport 6:9",
            vec![
                load(Transport, 0, 2),
                cmp(CmpOp::Gt, &[3, 0xff]),
                load(Transport, 2, 2),
                range(RangeOp::Neq, [0, 6], [0, 9]),
            ],
        ),
        (
            "-p tcp -m tcp --tcp-flags SYN,RST SYN",
            vec![load(Transport, 13, 1), mask(&[6]), cmp(CmpOp::Eq, &[2])],
        ),
        (
            "-p tcp -m mark ! --mark 0x8",
            vec![meta(MetaKey::Mark), cmp(CmpOp::Neq, &8_u32.to_ne_bytes())],
        ),
        (
            "-p tcp -m mark --mark 0x4000/0x4000",
            vec![
                meta(MetaKey::Mark),
                mask(&0x4000_u32.to_ne_bytes()),
                cmp(CmpOp::Eq, &0x4000_u32.to_ne_bytes()),
            ],
        ),
    ];
    for (text, native) in cases {
        let expected = Rule::parse(Family::Ipv4, text).unwrap();
        let exprs: Vec<Expr> = tcp().into_iter().chain(native.clone()).collect();
        assert_eq!(
            decode_rule(&exprs, Family::Ipv4),
            Ok(expected.clone()),
            "{text}"
        );
        let ip_protocol = [load(Network, 9, 1), cmp(CmpOp::Eq, &[6])];
        let exprs: Vec<Expr> = ip_protocol.into_iter().chain(native).collect();
        assert_eq!(decode_rule(&exprs, Family::Ipv4), Ok(expected), "{text}");
    }
}
