use proptest::prelude::*;

use super::*;
use crate::iptables::{Match, Rule, Target};

const MATCHES: [(&str, u32); 22] = [
    ("socket", 1),
    ("socket", 3),
    ("pkttype", 0),
    ("length", 0),
    ("tcpmss", 0),
    ("mac", 0),
    ("dscp", 0),
    ("tos", 1),
    ("ttl", 0),
    ("hl", 0),
    ("esp", 0),
    ("rt", 0),
    ("policy", 0),
    ("u32", 0),
    ("bpf", 0),
    ("bpf", 1),
    ("cgroup", 0),
    ("cgroup", 2),
    ("helper", 0),
    ("connlimit", 1),
    ("hashlimit", 3),
    ("nothing", 0),
];

const TARGETS: [(&str, u32); 14] = [
    ("DSCP", 0),
    ("TOS", 1),
    ("CHECKSUM", 0),
    ("NFQUEUE", 0),
    ("NFQUEUE", 1),
    ("NFQUEUE", 3),
    ("AUDIT", 0),
    ("CLASSIFY", 0),
    ("TTL", 0),
    ("HL", 0),
    ("TEE", 1),
    ("NETMAP", 0),
    ("SYNPROXY", 0),
    ("TRACE", 0),
];

/// Structures with few bits set, most of which are valid.
fn info() -> impl Strategy<Value = Vec<u8>> {
    let byte = || prop_oneof![6 => Just(0), 2 => 0..=4_u8, 1 => Just(u8::MAX), 1 => any::<u8>()];
    prop_oneof![
        prop::collection::vec(byte(), 0..64),
        prop::collection::vec(byte(), 568),
        prop::collection::vec(byte(), 1984),
    ]
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)]
}

/// Check that the words are those of the rule's text.
fn read_again(family: Family, rule: &Rule) -> Result<(), TestCaseError> {
    let text = rule.to_string();
    let parsed = Rule::parse(family, &text);
    prop_assert_eq!(parsed.as_ref(), Ok(rule), "{}", text);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn words_of_any_structure_are_parsed_as_the_same_rule(info in info(), family in family()) {
        for (name, revision) in MATCHES {
            if let Some(extension) = read_match(family, name, revision, &info) {
                let matches = vec![Match::Unknown(Box::new(extension))];
                read_again(family, &Rule { matches, ..Rule::default() })?;
            }
        }
        for (name, revision) in TARGETS {
            if let Some(extension) = read_target(family, name, revision, &info) {
                let target = Some(Target::Unknown(Box::new(extension)));
                read_again(family, &Rule { target, ..Rule::default() })?;
            }
        }
    }
}

#[test]
fn short_structures_and_unknown_revisions_are_refused() {
    for (name, revision) in MATCHES {
        assert!(
            read_match(Family::Ipv4, name, revision, &[]).is_none(),
            "{name}"
        );
        assert!(
            read_match(Family::Ipv4, name, revision + 10, &[0; 2000]).is_none(),
            "{name}"
        );
    }
    for (name, revision) in TARGETS {
        let is_empty = name == "TRACE";
        assert_eq!(
            read_target(Family::Ipv4, name, revision, &[]).is_some(),
            is_empty,
            "{name}"
        );
        assert!(
            read_target(Family::Ipv4, name, revision + 10, &[0; 2000]).is_none(),
            "{name}"
        );
    }
}
