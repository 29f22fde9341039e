use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::consts::*;
use super::*;
use crate::mutate::{mutate, random};

const ENCODER: Encoder<'static> = Encoder {
    family: Family::Ip,
    table: "kube-proxy",
};

fn reg() -> impl Strategy<Value = Reg> {
    (0_u8..16).prop_filter_map("in range", Reg::new)
}

fn value(len: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Value> {
    vec(any::<u8>(), len).prop_filter_map("short enough", |bytes| super::Value::new(&bytes))
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Drop),
        Just(Verdict::Accept),
        Just(Verdict::Continue),
        Just(Verdict::Return),
        "[a-z][a-z0-9-]{0,20}".prop_map(Verdict::Jump),
        "[a-z][a-z0-9-]{0,20}".prop_map(Verdict::Goto),
    ]
}

fn loads() -> impl Strategy<Value = Expr> {
    use PayloadBase::{LinkLayer, Network, Transport};
    prop_oneof![
        (
            select(vec![LinkLayer, Network, Transport]),
            0..100_u32,
            1..17_u32,
            reg()
        )
            .prop_map(|(base, offset, len, dreg)| Expr::Payload {
                base,
                offset,
                len,
                dreg
            }),
        (
            select(vec![MetaKey::Mark, MetaKey::L4proto, MetaKey::IifName]),
            reg()
        )
            .prop_map(|(key, dreg)| Expr::Meta { key, dreg }),
        (select(vec![MetaKey::Mark, MetaKey::Nfproto]), reg())
            .prop_map(|(key, sreg)| Expr::MetaSet { key, sreg }),
        (
            select(vec![CtKey::State, CtKey::Status, CtKey::ProtoDst]),
            select(vec![
                None,
                Some(CtDirection::Original),
                Some(CtDirection::Reply)
            ]),
            reg()
        )
            .prop_map(|(key, direction, dreg)| Expr::Ct {
                key,
                direction,
                dreg
            }),
        (
            select(vec![FibAddress::Source, FibAddress::Destination]),
            select(vec![
                FibResult::Oif,
                FibResult::OifName,
                FibResult::AddressType
            ]),
            reg()
        )
            .prop_map(|(address, result, dreg)| Expr::Fib {
                address,
                result,
                dreg
            }),
        (
            select(vec![NumgenKind::Incremental, NumgenKind::Random]),
            1..10_000_u32,
            any::<u32>(),
            reg()
        )
            .prop_map(|(kind, modulus, offset, dreg)| Expr::Numgen {
                kind,
                modulus,
                offset,
                dreg
            }),
    ]
}

fn works() -> impl Strategy<Value = Expr> {
    prop_oneof![tests_and_changes(), ends()]
}

fn tests_and_changes() -> impl Strategy<Value = Expr> {
    use CmpOp::{Eq, Gt, Gte, Lt, Lte, Neq};
    let name = || "[a-z][a-z-]{0,20}";
    prop_oneof![
        (
            select(vec![Eq, Neq, Lt, Lte, Gt, Gte]),
            reg(),
            value(1..=16)
        )
            .prop_map(|(op, sreg, value)| Expr::Cmp { op, sreg, value }),
        (reg(), reg(), value(4..=4), value(4..=4)).prop_map(|(sreg, dreg, mask, xor)| {
            Expr::Bitwise {
                sreg,
                dreg,
                mask,
                xor,
            }
        }),
        (
            reg(),
            reg(),
            select(vec![ByteorderOp::NetworkToHost, ByteorderOp::HostToNetwork])
        )
            .prop_map(|(sreg, dreg, op)| Expr::Byteorder {
                sreg,
                dreg,
                op,
                len: 4,
                size: 2
            }),
        (
            name(),
            reg(),
            prop_oneof![
                Just(LookupInto::Nothing),
                Just(LookupInto::Verdict),
                reg().prop_map(LookupInto::Register)
            ],
            any::<bool>()
        )
            .prop_map(|(set, sreg, into, inverted)| Expr::Lookup {
                set,
                sreg,
                into,
                inverted
            }),
        (value(1..=20), reg()).prop_map(|(value, dreg)| Expr::Immediate { value, dreg }),
        verdict().prop_map(Expr::Verdict),
        (
            name(),
            select(vec![DynsetOp::Add, DynsetOp::Update, DynsetOp::Delete]),
            reg(),
            prop::option::of(reg()),
            prop::option::of(1..u64::MAX)
        )
            .prop_map(|(set, op, key, data, timeout_ms)| Expr::Dynset {
                set,
                op,
                key,
                data,
                timeout_ms
            }),
        (
            select(vec![NatKind::Source, NatKind::Destination]),
            prop::option::of(reg()),
            prop::option::of(reg()),
            any::<u32>()
        )
            .prop_map(|(kind, address, port, flags)| Expr::Nat(Nat {
                kind,
                family: Family::Ip6,
                address,
                port,
                flags
            })),
    ]
}

fn ends() -> impl Strategy<Value = Expr> {
    let name = || "[a-z][a-z-]{0,20}";
    prop_oneof![
        any::<u32>().prop_map(|flags| Expr::Masquerade { flags }),
        (prop::option::of(reg()), any::<u32>())
            .prop_map(|(port, flags)| Expr::Redirect { port, flags }),
        any::<u8>().prop_map(|code| Expr::Reject(Reject::Icmp(code))),
        any::<u8>().prop_map(|code| Expr::Reject(Reject::Icmpx(code))),
        Just(Expr::Reject(Reject::TcpReset)),
        (any::<u64>(), any::<u64>()).prop_map(|(packets, bytes)| Expr::Counter { packets, bytes }),
        (any::<u64>(), any::<u32>()).prop_map(|(rate, burst)| Expr::Limit {
            rate,
            unit: 60,
            burst
        }),
        (any::<u32>(), name()).prop_map(|(kind, name)| Expr::Objref { kind, name }),
        (reg(), value(1..=16), value(1..=16), any::<bool>()).prop_map(|(sreg, from, to, eq)| {
            let op = if eq { RangeOp::Eq } else { RangeOp::Neq };
            Expr::Range { op, sreg, from, to }
        }),
        (
            any::<u16>(),
            prop::option::of(name()),
            any::<u32>(),
            any::<u16>()
        )
            .prop_map(|(group, prefix, snaplen, threshold)| Expr::Log {
                group,
                prefix: prefix.map(Into::into),
                snaplen,
                threshold,
            }),
        (
            name(),
            any::<u32>(),
            vec(any::<u8>(), 0..300),
            any::<bool>()
        )
            .prop_map(|(name, revision, info, is_match)| {
                let (name, info) = (name.into(), info.into());
                if is_match {
                    Expr::Match {
                        name,
                        revision,
                        info,
                    }
                } else {
                    Expr::Target {
                        name,
                        revision,
                        info,
                    }
                }
            }),
    ]
}

fn comment() -> impl Strategy<Value = Option<String>> {
    prop::option::of("[ -!#-~]{0,127}")
}

fn rule() -> impl Strategy<Value = Rule> {
    let exprs = vec(prop_oneof![loads(), works()], 0..12);
    ("[a-z]{1,10}", exprs, comment()).prop_map(|(chain, exprs, comment)| Rule {
        chain,
        exprs,
        comment,
    })
}

fn fields() -> impl Strategy<Value = Fields> {
    use DataType::{InetProto, InetService, Ipv4Addr, Ipv6Addr, Mark};
    prop_oneof![
        vec(
            select(vec![Ipv4Addr, Ipv6Addr, InetProto, InetService, Mark]),
            1..=5
        )
        .prop_map(Fields::Types),
        vec(select(Selector::ALL.to_vec()), 1..=5).prop_map(Fields::Typeof),
    ]
}

fn set() -> impl Strategy<Value = Set> {
    let data = prop_oneof![
        Just(SetData::None),
        Just(SetData::Verdict),
        fields().prop_map(SetData::Fields)
    ];
    let flags =
        any::<[bool; 5]>().prop_map(
            |[anonymous, constant, interval, timeout, dynamic]| SetFlags {
                anonymous,
                constant,
                interval,
                timeout,
                dynamic,
            },
        );
    (
        "[a-z-]{1,20}",
        fields(),
        data,
        flags,
        prop::option::of(1..u64::MAX),
        prop::option::of(any::<u32>()),
        comment(),
    )
        .prop_map(|(name, key, data, flags, timeout_ms, size, comment)| Set {
            name,
            key,
            data,
            flags,
            timeout_ms,
            size,
            comment,
        })
}

fn element() -> impl Strategy<Value = Element> {
    let data = prop_oneof![
        Just(Data::None),
        value(1..=20).prop_map(Data::Value),
        verdict().prop_map(Data::Verdict)
    ];
    (
        value(1..=47),
        prop::option::of(value(1..=47)),
        any::<[bool; 2]>(),
        data,
        prop::option::of(1..u64::MAX),
        comment(),
    )
        .prop_map(
            |(key, key_end, [interval_end, open_end], data, timeout_ms, comment)| Element {
                key,
                key_end: key_end.map(Box::new),
                interval_end,
                open_end,
                data,
                timeout_ms,
                comment: comment.map(String::into_boxed_str),
            },
        )
}

fn only(op: &Op) -> Body {
    let messages = ENCODER.ops(std::slice::from_ref(op));
    assert_eq!(messages.len(), 1);
    let decoded = messages[0].decode().unwrap();
    assert_eq!(decoded.family, Some(Family::Ip));
    decoded.body
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn rule_round_trips(rule in rule()) {
        let body = only(&Op::AddRule(rule.clone()));
        let table = "kube-proxy".to_owned();
        prop_assert_eq!(body, Body::Rule { table, handle: 0, rule: Ok(rule) });
    }

    #[test]
    fn set_round_trips(set in set()) {
        let body = only(&Op::AddSet(set.clone()));
        prop_assert_eq!(body, Body::Set { table: "kube-proxy".to_owned(), set: Ok(set), count: None });
    }

    #[test]
    fn elements_round_trip(elements in vec(element(), 1..40)) {
        let set = "service-ips".to_owned();
        let op = Op::AddElements { set: set.clone(), elements: elements.clone() };
        let body = only(&op);
        prop_assert_eq!(body, Body::Elements { table: "kube-proxy".to_owned(), set, elements });
    }

    #[test]
    fn chain_round_trips(
        name in "[a-z-]{1,20}",
        hook in select(vec![
            Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting,
        ]),
        kind in select(vec![ChainKind::Filter, ChainKind::Nat, ChainKind::Route]),
        priority in any::<i32>(),
        policy in select(vec![Policy::Drop, Policy::Accept]),
        is_base in any::<bool>(),
        comment in comment(),
    ) {
        let base = is_base.then_some(BaseChain { kind, hook, priority, policy });
        let chain = Chain { name, base, comment };
        let body = only(&Op::AddChain(chain.clone()));
        prop_assert_eq!(body, Body::Chain { table: "kube-proxy".to_owned(), chain, counters: None });
    }

    #[test]
    fn trace_event_round_trips(
        id in any::<u32>(),
        mark in any::<u32>(),
        kind in prop_oneof![
            (any::<u64>(), prop::option::of(verdict()))
                .prop_map(|(handle, verdict)| TraceKind::Rule { handle, verdict }),
            Just(TraceKind::Return),
            Just(TraceKind::ChainEnd),
            select(vec![Policy::Drop, Policy::Accept]).prop_map(TraceKind::Policy),
        ],
        packet in prop::option::of((
            prop_oneof![
                any::<[[u8; 4]; 2]>().prop_map(|[a, b]| (a.into(), b.into())),
                any::<[[u8; 16]; 2]>().prop_map(|[a, b]| (a.into(), b.into())),
            ],
            any::<(u16, u16)>(),
            prop::option::of(any::<u32>()),
            prop::option::of(any::<u32>()),
        )),
    ) {
        let packet = packet.map(|(addresses, ports, iif, oif)| TracedPacket {
            addresses: Some(addresses),
            ports: Some(ports),
            iif,
            oif,
        });
        let event = TraceEvent { id, mark, packet, ..event_of(kind) };
        let decoded = decode(NFT_MSG_TRACE, &traced(&event)).unwrap();
        prop_assert_eq!(decoded.family, Some(Family::Ip));
        prop_assert_eq!(decoded.body, Body::Trace(event));
    }

    #[test]
    fn shortened_comment_fits(text in ".{0,200}") {
        let comment = fit_comment(&text);
        prop_assert!(comment.len() <= COMMENT_MAX);
        prop_assert!(!comment.contains('"'));
    }

    /// Every register content is either written or reported as inexpressible.
    #[test]
    fn arbitrary_rules_encode_without_panic(rule in rule()) {
        let _ = text::rule_text(Family::Ip, &table::Contents::default(), &rule);
    }
}

#[test]
fn many_elements_take_several_messages() {
    let elements: Vec<Element> = (0..10_000)
        .map(|n| Element::map(Value::EMPTY.with_host_u32(n), Value::port(80)))
        .collect();
    let set = "endpoints".to_owned();
    let messages = ENCODER.ops(&[Op::AddElements {
        set,
        elements: elements.clone(),
    }]);
    assert!(messages.len() > 1);
    let mut seen = Vec::new();
    for message in messages {
        assert!(message.body.len() < usize::from(u16::MAX));
        match message.decode().unwrap().body {
            Body::Elements { elements, .. } => seen.extend(elements),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, elements);
}

#[test]
fn register_numbers_of_4_and_16_bytes_round_trip() {
    let numbers: Vec<u32> = (0..16).filter_map(Reg::new).map(Reg::number).collect();
    assert_eq!(
        numbers,
        [1, 9, 10, 11, 2, 13, 14, 15, 3, 17, 18, 19, 4, 21, 22, 23]
    );
    for number in numbers {
        assert_eq!(Reg::from_number(number).map(Reg::number), Some(number));
    }
    assert_eq!(Reg::from_number(8).map(Reg::unit), Some(0));
    assert_eq!(Reg::from_number(0), None);
    assert_eq!(Reg::new(16), None);
}

fn event_of(kind: TraceKind) -> TraceEvent {
    TraceEvent {
        id: 7,
        table: "nat".to_owned(),
        chain: "PREROUTING".to_owned(),
        kind,
        packet: None,
        mark: 0,
    }
}

/// An event as the kernel writes it (`nft_trace_notify`).
fn traced(event: &TraceEvent) -> Vec<u8> {
    let mut body = vec![2, 0, 0, 0];
    let mut w = crate::netlink::Writer(&mut body);
    w.be32(NFTA_TRACE_ID, event.id);
    w.string(NFTA_TRACE_TABLE, &event.table);
    w.string(NFTA_TRACE_CHAIN, &event.chain);
    match &event.kind {
        TraceKind::Rule { handle, verdict } => {
            w.be32(NFTA_TRACE_TYPE, NFT_TRACETYPE_RULE);
            w.be64(NFTA_TRACE_RULE_HANDLE, *handle);
            match verdict {
                // `NF_QUEUE` (3), with the number of the queue above.
                None => w.nest(NFTA_TRACE_VERDICT, |w| {
                    w.be32(NFTA_VERDICT_CODE, 3 | 5 << 16);
                }),
                Some(verdict) => encode_expr::verdict(&mut w, NFTA_TRACE_VERDICT, verdict),
            }
        }
        TraceKind::ChainEnd => {
            w.be32(NFTA_TRACE_TYPE, NFT_TRACETYPE_RULE);
            encode_expr::verdict(&mut w, NFTA_TRACE_VERDICT, &Verdict::Continue);
        }
        TraceKind::Return => w.be32(NFTA_TRACE_TYPE, NFT_TRACETYPE_RETURN),
        TraceKind::Policy(policy) => {
            w.be32(NFTA_TRACE_TYPE, NFT_TRACETYPE_POLICY);
            w.be32(NFTA_TRACE_POLICY, policy.number());
        }
    }
    if event.mark != 0 {
        w.be32(NFTA_TRACE_MARK, event.mark);
    }
    if let Some(packet) = &event.packet {
        traced_packet(&mut w, packet);
    }
    body
}

#[test]
fn a_rule_that_returns_is_decoded_from_events_of_older_kernels() {
    let rule = TraceKind::Rule {
        handle: 7,
        verdict: Some(Verdict::Return),
    };
    let event = event_of(rule);
    let mut bytes = traced(&event);
    let [kind, returned] = [NFT_TRACETYPE_RULE, NFT_TRACETYPE_RETURN].map(u32::to_be_bytes);
    // The attribute is the first with this value: the id is another.
    let at = bytes.windows(4).position(|word| word == kind).unwrap();
    bytes[at..at + 4].copy_from_slice(&returned);
    let decoded = decode(NFT_MSG_TRACE, &bytes).unwrap();
    assert_eq!(decoded.body, Body::Trace(event));
}

fn traced_packet(w: &mut crate::netlink::Writer<'_>, packet: &TracedPacket) {
    use std::net::IpAddr::{V4, V6};
    match packet.addresses {
        Some((V4(src), V4(dst))) => {
            let rest = [&[0x45; 12][..], &src.octets(), &dst.octets()].concat();
            w.bytes(NFTA_TRACE_NETWORK_HEADER, &rest);
        }
        Some((V6(src), V6(dst))) => {
            let rest = [&[0x60; 8][..], &src.octets(), &dst.octets()].concat();
            w.bytes(NFTA_TRACE_NETWORK_HEADER, &rest);
        }
        _ => {}
    }
    if let Some((sport, dport)) = packet.ports {
        w.bytes(
            NFTA_TRACE_TRANSPORT_HEADER,
            &[sport.to_be_bytes(), dport.to_be_bytes()].concat(),
        );
    }
    for (kind, index) in [(NFTA_TRACE_IIF, packet.iif), (NFTA_TRACE_OIF, packet.oif)] {
        if let Some(index) = index {
            w.be32(kind, index);
        }
    }
}

/// A message of each kind that the kernel sends.
fn corpus() -> Vec<(u16, Vec<u8>)> {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut found = Vec::new();
    for _ in 0..20 {
        let rule = rule().new_tree(&mut runner).unwrap().current();
        let set = set().new_tree(&mut runner).unwrap().current();
        let elements = vec(element(), 1..5)
            .new_tree(&mut runner)
            .unwrap()
            .current();
        let ops = [
            Op::AddTable {
                comment: Some("x".to_owned()),
            },
            Op::AddRule(rule),
            Op::AddSet(set),
            Op::AddElements {
                set: "s".to_owned(),
                elements,
            },
            Op::DeleteSet("s".to_owned()),
        ];
        found.extend(ENCODER.ops(&ops).into_iter().map(|m| (m.kind, m.body)));
    }
    let mut generation = vec![0, 0, 0, 0];
    let mut w = crate::netlink::Writer(&mut generation);
    w.be32(NFTA_GEN_ID, 7);
    w.be32(NFTA_GEN_PROC_PID, 1);
    w.string(NFTA_GEN_PROC_NAME, "nft");
    let event = traced(&event_of(TraceKind::Return));
    found.push((NFT_MSG_TRACE, event));
    found.push((NFT_MSG_NEWGEN, generation));
    found
}

#[test]
fn damaged_messages_never_panic() {
    let corpus = corpus();
    let mut seed = 0x5eed;
    for _ in 0..30_000 {
        let (kind, body) = &corpus[random(&mut seed) % corpus.len()];
        let damaged = mutate(body, &mut seed);
        let kind = if random(&mut seed).is_multiple_of(8) {
            random(&mut seed) as u16 % 20
        } else {
            *kind
        };
        let _ = decode(kind, &damaged);
    }
}

#[test]
fn a_generation_is_read() {
    let (kind, body) = corpus().pop().unwrap();
    let expected = Generation {
        id: 7,
        pid: Some(1),
        process: Some("nft".to_owned()),
    };
    assert_eq!(
        decode(kind, &body).unwrap().body,
        Body::Generation(expected)
    );
}
