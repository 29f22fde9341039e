//! Damaged dumps: every error names a place, and nothing panics or hangs.
#![allow(missing_docs)]

mod common;

use common::observed;
use proptest::prelude::*;
use trace::{Facts, Origin, Proto, WalkError, World, WorldError, walk};

fn corpus() -> Vec<Vec<u8>> {
    let files = [
        (0, "iptables-default.v4.iptables-save"),
        (0, "ipvs-default.v4.iptables-save"),
        (1, "nftables-default.v4.nft"),
        (2, "ipvs-default.ipset"),
        (3, "ipvs-default.ipvsadm"),
    ];
    files
        .iter()
        .map(|(which, file)| {
            let mut bytes = vec![*which];
            bytes.extend(observed(file).bytes());
            bytes
        })
        .chain([
            [&[1], &*foreign_json()].concat(),
            [&[4], common::node_facts().to_json().as_bytes()].concat(),
        ])
        .collect()
}

/// Output of `nft -j`.
fn foreign_json() -> Vec<u8> {
    let file = "../netfilter/src/nft_lang/testdata/zoo.json";
    std::fs::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// Lines are swapped, doubled or removed, and bytes changed. Dumps that can still be parsed are walked.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let edits = prop::collection::vec(
        (
            any::<prop::sample::Index>(),
            any::<prop::sample::Index>(),
            0..4_u8,
        ),
        1..6,
    );
    (prop::sample::select(corpus()), edits).prop_map(|(whole, edits)| {
        let mut lines: Vec<Vec<u8>> = whole[1..]
            .split_inclusive(|b| *b == b'\n')
            .map(<[u8]>::to_vec)
            .collect();
        for (a, b, how) in edits {
            let (i, j) = (a.index(lines.len()), b.index(lines.len()));
            match how {
                0 => lines.swap(i, j),
                1 => {
                    let line = lines[i].clone();
                    lines.insert(j, line);
                }
                2 if lines.len() > 1 => drop(lines.remove(i)),
                _ => {
                    let at = b.index(lines[i].len());
                    lines[i][at] = lines[j][0];
                }
            }
        }
        let mut out = vec![whole[0]];
        out.extend(lines.concat());
        out
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_input_never_panics(bytes in damaged()) {
        trace::fuzz_one(&bytes);
    }
}

#[test]
fn truncated_input_is_read_or_refused_with_its_place() {
    for whole in corpus() {
        for end in (1..whole.len()).step_by(whole.len() / 60 + 1) {
            trace::fuzz_one(&whole[..end]);
        }
    }
    // Whole, it is a facts file that a string is not closed in.
    trace::fuzz_one(b"\x04{\"hostname\": \"node1\n\"}");
}

#[test]
fn loops_of_chains_are_errors() {
    let nft = "table ip t {\n chain a {\n jump b\n }\n chain b {\n goto a\n }\n chain f {\n type filter hook prerouting priority 0;\n jump a\n }\n}\n";
    let mut world = World::default();
    world.add_nft(nft).unwrap();
    let packet = common::packet(Origin::Outside, "192.0.2.1", "192.0.2.2", Proto::TCP, 80);
    assert!(matches!(walk(&world, &packet), Err(WalkError::Loop { .. })));
    let missing =
        "table ip t {\n chain f {\n type filter hook prerouting priority 0;\n jump a\n }\n}\n";
    let mut world = World::default();
    world.add_nft(missing).unwrap();
    let error = walk(&world, &packet).unwrap_err();
    assert!(
        error.to_string().contains("chain a, which the dump lacks"),
        "{error}"
    );
}

#[test]
fn errors_name_dump_line_and_column() {
    let tell = |dumps: &str| {
        let facts = Facts::parse(&format!("{{\"version\": 1, \"dumps\": {{{dumps}}}}}")).unwrap();
        let error: WorldError = World::from_facts(&facts).unwrap_err();
        error.to_string()
    };
    assert!(
        tell(r#""iptables_save": "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -s 10.0.0.999\nCOMMIT\n""#)
            .starts_with("iptables-save dump, line 3")
    );
    assert!(tell(r#""nft_ruleset": "table ip t {\n""#).starts_with("nft dump, line 1"));
    assert!(tell(r#""ipset_save": "create a b""#).starts_with("ipset dump, line 1, column 10"));
    assert!(tell(r#""ipvsadm_save": "-A -t x""#).starts_with("ipvsadm dump, line 1, column 7"));
    let error = Facts::parse("{\"version\": 1,\n \"interfaces\": 3}").unwrap_err();
    assert!(
        error.to_string().starts_with("facts file, line 2"),
        "{error}"
    );
    assert!(Facts::parse("{\"version\": 2}").is_err());
    let bad_route = Facts::parse("{\"routes\": [{\"dst\": \"here\"}]}").unwrap();
    assert!(
        World::from_facts(&bad_route)
            .unwrap_err()
            .to_string()
            .contains("route 0")
    );
}

#[test]
fn unknown_match_forks_and_is_reported() {
    let rules = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A FORWARD -m u32 --u32 \"0>>22&0x3C@8=1\" -j DROP\nCOMMIT\n";
    let mut world = World::from_facts(&common::node_facts()).unwrap();
    world
        .add_iptables(netfilter::iptables::Family::Ipv4, rules)
        .unwrap();
    let packet = common::packet(Origin::Pod, "10.244.1.5", "8.8.8.8", Proto::UDP, 53);
    let trace = walk(&world, &packet).unwrap();
    assert_eq!(common::shown(&trace), ["accept 1/2", "drop 1/2"]);
    assert!(trace.warnings[0].contains("u32"), "{:?}", trace.warnings);
    assert_eq!(trace.outcomes[0].assuming.len(), 1);
}

#[test]
fn too_many_unknown_matches_are_an_error() {
    let rule = |n: u32| format!("-A FORWARD -m u32 --u32 \"0&0xff={n}\" -j MARK --set-mark {n}\n");
    let rules: String = (0..40).map(rule).collect();
    let mut world = World::from_facts(&common::node_facts()).unwrap();
    let dump = format!("*mangle\n:FORWARD ACCEPT [0:0]\n{rules}COMMIT\n");
    world
        .add_iptables(netfilter::iptables::Family::Ipv4, &dump)
        .unwrap();
    let packet = common::packet(Origin::Pod, "10.244.1.5", "8.8.8.8", Proto::UDP, 53);
    assert_eq!(walk(&world, &packet), Err(WalkError::TooManyOutcomes));
}

#[test]
fn unknown_match_forks_once() {
    let rules = "table ip t {\n chain f {\n type filter hook forward priority 0;\n \
                 meta hour \"08:00\"-\"17:00\" drop\n }\n}\n";
    let mut world = World::from_facts(&common::node_facts()).unwrap();
    world.add_nft(rules).unwrap();
    let packet = common::packet(Origin::Pod, "10.244.1.5", "8.8.8.8", Proto::UDP, 53);
    let trace = walk(&world, &packet).unwrap();
    assert_eq!(common::shown(&trace), ["accept 1/2", "drop 1/2"]);
    // The odds of an assumption are not known, so the tree shows none.
    let tree = trace::render_tree(&packet, &trace, trace::Style::Plain);
    assert_eq!(tree.matches("perhaps").count(), 4, "{tree}");
    assert!(
        tree.contains("assuming ip t f: rule") && !tree.contains("50%"),
        "{tree}"
    );
}

#[test]
fn accepted_sizes_are_just_below_the_limits() {
    let rules = |rule: &str| {
        format!(
            "table ip t {{\n chain f {{\n type filter hook forward priority 0;\n {rule}\n }}\n set s {{\n type ipv4_addr\n flags dynamic\n }}\n}}\n"
        )
    };
    let json = |statement: &str| {
        format!(
            r#"{{"nftables": [{{"table": {{"family": "ip", "name": "t"}}}}, {{"chain": {{"family": "ip", "table": "t", "name": "f", "type": "filter", "hook": "forward", "prio": 0}}}}, {{"rule": {{"family": "ip", "table": "t", "chain": "f", "expr": [{statement}, {{"drop": null}}]}}}}]}}"#
        )
    };
    let packet = common::packet(Origin::Pod, "10.244.1.5", "8.8.8.8", Proto::UDP, 53);
    for (dump, text) in [
        (
            rules("limit rate over 5/second drop"),
            "limit rate over 5/second",
        ),
        (rules("quota over 10 mbytes drop"), "quota over 10 mbytes"),
        (
            rules("update @s { ip saddr limit rate over 5/second } drop"),
            "limit rate over 5/second",
        ),
        (
            json(r#"{"limit": {"rate": 5, "per": "second", "inv": true}}"#),
            "limit rate over 5/second",
        ),
        (
            json(r#"{"quota": {"val": 10, "val_unit": "mbytes", "inv": true}}"#),
            "quota over 10 mbytes",
        ),
        (
            json(
                r#"{"set": {"op": "update", "elem": {"payload": {"protocol": "ip", "field": "saddr"}}, "set": "@s", "stmt": [{"ct count": {"val": 2, "inv": true}}]}}"#,
            ),
            "ct count over 2",
        ),
    ] {
        let mut world = World::from_facts(&common::node_facts()).unwrap();
        world.add_nft(&dump).unwrap();
        let trace = walk(&world, &packet).unwrap();
        assert_eq!(common::shown(&trace), ["accept 1"], "{dump}");
        let warned = format!("{text}: assumed not to be reached yet");
        assert!(trace.warnings.contains(&warned), "{:?}", trace.warnings);
    }
}
