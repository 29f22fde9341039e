//! Every typed rule is parsed back from its text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn negatable<T: std::fmt::Debug>(
    value: impl Strategy<Value = T>,
) -> impl Strategy<Value = Negatable<T>> {
    (any::<bool>(), value).prop_map(|(negated, value)| Negatable { negated, value })
}

fn addr(family: Family) -> BoxedStrategy<IpAddr> {
    match family {
        Family::Ipv4 => any::<u32>()
            .prop_map(|bits| Ipv4Addr::from_bits(bits).into())
            .boxed(),
        Family::Ipv6 => any::<u128>()
            .prop_map(|bits| Ipv6Addr::from_bits(bits).into())
            .boxed(),
    }
}

/// A range that is not everything: iptables drops a condition that is always true.
fn net(family: Family) -> BoxedStrategy<Net> {
    let masks = prop_oneof![
        3 => (1..=family.host_prefix_len()).prop_map(move |len| match family {
            Family::Ipv4 => Ipv4Addr::from_bits(u32::MAX << (32 - len)).into(),
            Family::Ipv6 => Ipv6Addr::from_bits(u128::MAX << (128 - len)).into(),
        }),
        1 => addr(family).prop_filter("not everything", |mask: &IpAddr| !mask.is_unspecified()),
    ];
    (addr(family), masks)
        .prop_map(|(addr, mask)| Net::new(addr, mask).unwrap())
        .boxed()
}

fn interface() -> impl Strategy<Value = Interface> {
    prop_oneof![
        "[a-z0-9.-]{1,14}".prop_map(|s| Interface::Name(format!("e{s}").into())),
        "[a-z0-9.-]{0,14}".prop_map(|s| Interface::Prefix(s.into())),
    ]
}

fn ports() -> impl Strategy<Value = PortRange> {
    (1..=u16::MAX, 0..3u16).prop_map(|(first, more)| PortRange {
        first,
        last: first.saturating_add(more),
    })
}

fn text() -> impl Strategy<Value = Box<str>> {
    prop_oneof![
        "[ -~]{0,20}".prop_map(Into::into),
        "\\PC{0,8}".prop_map(Into::into),
        select(vec!["", "-j", "!", "\"", "\\", "a b", "'"]).prop_map(Into::into),
    ]
}

fn port_match() -> impl Strategy<Value = PortMatch> {
    (of(negatable(ports())), of(negatable(ports()))).prop_map(|(source, destination)| PortMatch {
        source,
        destination,
    })
}

fn mark() -> impl Strategy<Value = MarkMatch> {
    (any::<u32>(), prop_oneof![Just(u32::MAX), any::<u32>()])
        .prop_map(|(value, mask)| MarkMatch { value, mask })
}

fn states() -> impl Strategy<Value = CtStates> {
    proptest::collection::vec(select(CtState::NAMES.map(|(_, s)| s).to_vec()), 1..4)
        .prop_map(|all| CtStates::of(&all))
}

fn addr_types() -> impl Strategy<Value = AddrTypes> {
    proptest::collection::vec(select(AddrType::NAMES.map(|(_, t)| t).to_vec()), 1..4)
        .prop_map(|all| all.into_iter().fold(AddrTypes::default(), AddrTypes::with))
}

fn directions() -> impl Strategy<Value = Vec<SetDirection>> {
    let one = select(vec![SetDirection::Source, SetDirection::Destination]);
    proptest::collection::vec(one, 1..4)
}

fn conntrack(family: Family) -> impl Strategy<Value = Match> {
    let nets = (
        of(negatable(net(family))),
        of(negatable(net(family))),
        of(negatable(net(family))),
        of(negatable(net(family))),
    );
    let ports = (of(negatable(ports())), of(negatable(ports())));
    let direction = of(select(vec![CtDirection::Original, CtDirection::Reply]));
    (of(negatable(states())), nets, ports, direction).prop_map(|(state, nets, ports, direction)| {
        Match::Conntrack(Box::new(MatchConntrack {
            state,
            original_source: nets.0,
            original_destination: nets.1,
            reply_source: nets.2,
            reply_destination: nets.3,
            original_source_port: ports.0,
            reply_destination_port: ports.1,
            direction,
            ..MatchConntrack::default()
        }))
    })
}

fn recent(family: Family) -> impl Strategy<Value = Match> {
    let actions = vec![
        RecentAction::Set,
        RecentAction::Check,
        RecentAction::Update,
        RecentAction::Remove,
    ];
    (
        negatable(select(actions)),
        of(any::<u32>()),
        any::<[bool; 3]>(),
        addr(family),
    )
        .prop_map(|(action, seconds, [reap, ttl, destination], mask)| {
            Match::Recent(Box::new(MatchRecent {
                action,
                seconds,
                reap,
                hit_count: seconds,
                ttl,
                name: "KUBE-SEP-X".into(),
                mask,
                destination,
            }))
        })
}

fn any_match(family: Family) -> BoxedStrategy<Match> {
    let statistic = prop_oneof![
        (0..=1u32 << 31).prop_map(|p| Statistic::Random(Probability(p))),
        (1..9u32).prop_map(|every| Statistic::Nth {
            every,
            packet: every - 1
        }),
    ];
    prop_oneof![
        text().prop_map(Match::Comment),
        port_match().prop_map(|p| Match::Tcp(p.into())),
        port_match().prop_map(Match::Udp),
        port_match().prop_map(Match::Sctp),
        (proptest::collection::vec(ports(), 1..5), any::<bool>()).prop_map(|(value, negated)| {
            Match::Multiport(Box::new(MatchMultiport {
                side: PortSide::Either,
                ports: Negatable { negated, value },
            }))
        }),
        negatable(mark()).prop_map(Match::Mark),
        negatable(mark()).prop_map(Match::Connmark),
        conntrack(family),
        negatable(states()).prop_map(Match::State),
        (of(negatable(addr_types())), of(negatable(addr_types()))).prop_map(
            |(source, destination)| Match::Addrtype(MatchAddrType {
                source,
                destination,
                ..MatchAddrType::default()
            })
        ),
        negatable(statistic).prop_map(Match::Statistic),
        recent(family),
        text().prop_map(Match::Nfacct),
        (negatable(text()), directions(), any::<bool>()).prop_map(
            |(name, directions, return_nomatch)| Match::Set(Box::new(MatchSet {
                name,
                directions,
                return_nomatch
            }))
        ),
        negatable((any::<u8>(), any::<u8>())).prop_map(move |n| Match::Icmp(Negatable {
            negated: n.negated,
            value: IcmpType {
                v6: family == Family::Ipv6,
                kind: n.value.0,
                code: Some(n.value.1).filter(|_| family == Family::Ipv6 || n.value.0 != 255),
            }
        })),
        (
            text(),
            proptest::collection::vec("[a-z0-9 \"\\\\]{0,6}", 0..3)
        )
            .prop_map(|(_, more)| {
                let mut words: Vec<Box<str>> = vec!["--with".into()];
                words.extend(more.into_iter().map(Box::from));
                Match::Unknown(Box::new(Extension {
                    name: "other".into(),
                    words,
                }))
            }),
    ]
    .boxed()
}

fn target(family: Family) -> BoxedStrategy<Target> {
    let nat = (addr(family), ports(), any::<[bool; 2]>())
        .prop_map(|(ip, ports, flags)| NatTarget {
            addresses: Some((ip, ip)),
            ports: flags[0].then_some(ports),
            random: flags[1],
            ..NatTarget::default()
        })
        .boxed();
    let chain = "[A-Z][A-Z0-9-]{0,27}".prop_filter("a chain", |name| {
        rule(&format!("-j {name}"))
            .target
            .is_some_and(|t| t.chain().is_some())
    });
    prop_oneof![
        chain
            .clone()
            .prop_map(|c| Target::Jump(Chain::new(&c).unwrap())),
        chain.prop_map(|c| Target::Goto(Chain::new(&c).unwrap())),
        Just(Target::Accept),
        Just(Target::Drop),
        Just(Target::Return),
        select(RejectWith::NAMES.map(|(_, w)| w).to_vec()).prop_map(Target::Reject),
        mark().prop_map(|m| Target::Mark(Xmark {
            value: m.value,
            mask: m.mask
        })),
        nat.clone().prop_map(Target::Dnat),
        nat.prop_map(Target::Snat),
        (of(ports()), any::<[bool; 2]>()).prop_map(|(ports, [random, random_fully])| {
            Target::Masquerade(MasqueradeTarget {
                ports,
                random,
                random_fully,
            })
        }),
        (text(), any::<u16>()).prop_map(|(prefix, group)| Target::Nflog(Box::new(NflogTarget {
            prefix: Some(prefix),
            group,
            other: Vec::new(),
        }))),
        Just(Target::Ct(Box::new(CtTarget {
            notrack: true,
            ..CtTarget::default()
        }))),
    ]
    .boxed()
}

fn any_rule(family: Family) -> impl Strategy<Value = Rule> {
    let header = (
        of(negatable(net(family))),
        of(negatable(net(family))),
        of(negatable(interface())),
        of(negatable(interface())),
        of(negatable((1..=255u8).prop_map(Protocol))),
    )
        .prop_map(
            |(source, destination, in_interface, out_interface, protocol)| Header {
                source,
                destination,
                in_interface,
                out_interface,
                protocol,
                fragment: None,
            },
        );
    let matches = proptest::collection::vec(any_match(family), 0..4);
    let counters = of((any::<u64>(), any::<u64>()));
    (header, matches, of(target(family)), counters).prop_map(|(header, matches, target, c)| Rule {
        header,
        matches,
        target,
        counters: c.map(|(packets, bytes)| Counters { packets, bytes }),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn parse_after_write_is_identity(v4 in any_rule(Family::Ipv4), v6 in any_rule(Family::Ipv6)) {
        for (family, rule) in [(Family::Ipv4, v4), (Family::Ipv6, v6)] {
            let section = RestoreTable {
                table: Table::Nat,
                commands: vec![(2, Command::Append { chain: Chain::literal("X"), rule })],
            };
            let restore = Restore { family, tables: vec![section] };
            let text = restore.to_string();
            let again = Restore::parse(family, &text);
            prop_assert_eq!(again.as_ref(), Ok(&restore), "{}", text);
            prop_assert_eq!(again.unwrap().to_string(), text);
        }
    }
}
