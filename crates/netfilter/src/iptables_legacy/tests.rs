use proptest::prelude::*;

use super::*;
use crate::iptables::{
    Chain, Family, Flush, Match, Restore, Rule, Table, TableSet, TableState, Target, matches,
    targets,
};
use crate::iptables_nft::SetIndex;
use crate::mutate::{mutate, random};

fn folder(name: &str) -> Vec<(String, Family, String)> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(format!("{root}/{name}")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.ends_with("tables-save") {
            continue;
        }
        let v6 = name.contains("ip6tables") || name.contains(".v6.");
        let family = if v6 { Family::Ipv6 } else { Family::Ipv4 };
        found.push((name, family, std::fs::read_to_string(path).unwrap()));
    }
    assert!(!found.is_empty());
    found
}

fn encoded(family: Family, table: Table, state: &TableState, sets: &SetIndex) -> Option<Blob> {
    let raw = RawTable::from_state(family, table, state, sets).ok()?;
    Some(raw.encode())
}

fn decoded(family: Family, blob: &Blob, sets: &SetIndex) -> TableState {
    let raw = RawTable::decode(family, &blob.info, &blob.bytes).unwrap();
    assert_eq!(raw.encode().bytes, blob.bytes);
    let (state, problems) = raw.table_state(sets);
    assert_eq!(problems, [] as [String; 0]);
    state
}

/// Remove rules that cannot be encoded.
fn known(family: Family, table: Table, mut state: TableState, sets: &SetIndex) -> TableState {
    let chains: Vec<Chain> = state.chains.keys().copied().collect();
    for chain in state.chains.values_mut() {
        chain.rules.retain(|rule| {
            let mut one = TableState::default();
            for chain in &chains {
                one.chains.insert(*chain, Default::default());
            }
            one.chains
                .values_mut()
                .next()
                .unwrap()
                .rules
                .push(rule.clone());
            let is_known = encoded(family, table, &one, sets).is_some();
            let unknown = |m: &Match| matches!(m, Match::Unknown(_));
            assert!(
                is_known
                    || rule.matches.iter().any(unknown)
                    || matches!(rule.target, Some(Target::Unknown(_))),
                "{rule}"
            );
            is_known
        });
    }
    state
}

#[test]
fn recorded_tables_round_trip() {
    let mut rules = 0;
    for (name, family, text) in folder("observed").into_iter().chain(folder("foreign")) {
        let sets = SetIndex::of_text(&text);
        for (table, state) in TableSet::parse(family, &text).unwrap().tables {
            let state = known(family, table, state, &sets);
            let blob = encoded(family, table, &state, &sets).unwrap();
            let mut read = decoded(family, &blob, &sets);
            // Built-in chains that a part of a dump lacks exist in every table.
            read.chains
                .retain(|chain, _| state.chains.contains_key(chain));
            for (chain, state) in &state.chains {
                assert_eq!(read.chains[chain], *state, "{name}, {table} {chain}");
            }
            assert!(read == state, "{name}, {table}");
            rules += state
                .chains
                .values()
                .map(|chain| chain.rules.len())
                .sum::<usize>();
        }
    }
    assert!(rules > 2000, "only {rules} rules");
}

/// The blob of a table with every modelled extension.
fn corpus(family: Family, table: Table) -> Blob {
    let rows = matches::ROWS.iter().map(|row| row.examples);
    let rows = rows.chain(targets::ROWS.iter().map(|row| row.examples));
    let mut text = format!("*{table}\n:KUBE-A - [0:0]\n:B - [0:0]\n");
    text.push_str("-A KUBE-A -i eth0 -o cali+ -g B\n-A B -j KUBE-A\n-A B\n");
    let examples: Vec<&str> = rows.flatten().copied().collect();
    let sets = SetIndex::of_text(&examples.join(" "));
    for example in examples {
        let line = format!("-A KUBE-A -p tcp {example}\n");
        let Ok(rule) = Rule::parse(family, &format!("-p tcp {example}")) else {
            continue;
        };
        let mut one = TableState::default();
        let chain = Chain::new("X").unwrap();
        one.chains.entry(chain).or_default().rules.push(rule);
        if encoded(family, table, &one, &sets).is_some() {
            text.push_str(&line);
        }
    }
    text.push_str("COMMIT\n");
    let set = TableSet::parse(family, &text).unwrap();
    let blob = encoded(family, table, &set.tables[&table], &sets).unwrap();
    let read = decoded(family, &blob, &sets);
    for (chain, state) in &set.tables[&table].chains {
        assert_eq!(read.chains[chain], *state);
    }
    blob
}

/// `struct ipt_getinfo` and the blob.
fn message(blob: &Blob) -> Vec<u8> {
    let info = &blob.info;
    let mut fields = vec![info.valid_hooks];
    fields.extend(info.hook_entry);
    fields.extend(info.underflow);
    fields.extend([info.entries, info.size]);
    let fields = fields.iter().flat_map(|field| field.to_ne_bytes());
    let mut bytes = vec![0; 32];
    bytes.extend(fields);
    assert_eq!(bytes.len(), Info::LEN);
    bytes.extend_from_slice(&blob.bytes);
    bytes
}

/// The fuzz target's stable twin.
#[test]
fn damaged_tables_never_panic() {
    let mut seed = 0xdecaf;
    for family in [Family::Ipv4, Family::Ipv6] {
        let whole = message(&corpus(family, Table::Nat));
        fuzz_one(family, &whole);
        for _ in 0..3_000 {
            let mut bytes = whole.clone();
            if random(&mut seed).is_multiple_of(4) {
                bytes = mutate(&bytes, &mut seed);
            } else {
                for _ in 0..1 + random(&mut seed) % 4 {
                    let at = random(&mut seed) % bytes.len();
                    bytes[at] = random(&mut seed) as u8;
                }
            }
            fuzz_one(family, &bytes);
        }
    }
}

#[test]
fn removed_chains_leave_other_rules_as_they_are() {
    for family in [Family::Ipv4, Family::Ipv6] {
        let text = "*nat\n:PREROUTING DROP [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
            :POSTROUTING ACCEPT [0:0]\n:KUBE-A - [0:0]\n:OTHER - [0:0]\n:KUBE-B - [0:0]\n:LAST - [0:0]\n\
            -A PREROUTING -j KUBE-A\n-A PREROUTING -i eth1\n-A PREROUTING -g LAST\n-A KUBE-A -j KUBE-B\n\
            -A OTHER -j LAST\n-A OTHER -j KUBE-B\n-A OTHER -j RETURN\nCOMMIT\n";
        let state = TableSet::parse(family, text).unwrap();
        let state = &state.tables[&Table::Nat];
        let blob = encoded(family, Table::Nat, state, &SetIndex::default()).unwrap();
        let mut raw = RawTable::decode(family, &blob.info, &blob.bytes).unwrap();
        assert_eq!(raw.remove_chains(&|name| name.starts_with(b"KUBE-")), 2);
        let less = raw.encode();
        let mut read = TableSet::new(family);
        let (table, _) = RawTable::decode(family, &less.info, &less.bytes)
            .unwrap()
            .table_state(&SetIndex::default());
        read.tables.insert(Table::Nat, table);
        let expected = "*nat\n:PREROUTING DROP [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
            :POSTROUTING ACCEPT [0:0]\n:LAST - [0:0]\n:OTHER - [0:0]\n\
            [0:0] -A PREROUTING -i eth1\n[0:0] -A PREROUTING -g LAST\n\
            [0:0] -A OTHER -j LAST\n[0:0] -A OTHER -j RETURN\nCOMMIT\n";
        assert_eq!(read.to_string(), expected);
        // Every entry comes from the table that was read.
        assert!(
            less.origins
                .iter()
                .all(|origin| matches!(origin, Origin::Kept(_)))
        );
    }
}

/// A structure that is not known does not become a match with fewer conditions.
#[test]
fn unknown_revisions_are_kept_as_unknown_matches() {
    let text = "-p tcp -m tcp --dport 80 -j MARK --set-xmark 0x1/0x1";
    let rule = Rule::parse(Family::Ipv4, text).unwrap();
    let mut state = TableState::default();
    let chain = Chain::new("INPUT").unwrap();
    state.chains.entry(chain).or_default().rules.push(rule);
    let blob = encoded(Family::Ipv4, Table::Filter, &state, &SetIndex::default()).unwrap();
    let mut bytes = blob.bytes.clone();
    // The revisions of `tcp`, which follows the entry, and of `MARK`, which follows `tcp`.
    bytes[112 + 31] = 9;
    bytes[112 + 48 + 31] = 9;
    let raw = RawTable::decode(Family::Ipv4, &blob.info, &bytes).unwrap();
    let (state, problems) = raw.table_state(&SetIndex::default());
    assert_eq!(problems, [] as [String; 0]);
    let [rule] = &state.chains[&chain].rules[..] else {
        panic!("{state:?}");
    };
    let printed = rule.to_string();
    assert!(
        matches!(&rule.matches[..], [Match::Unknown(m)] if &*m.name == "tcp"),
        "{printed}"
    );
    assert!(
        matches!(&rule.target, Some(Target::Unknown(t)) if &*t.name == "MARK"),
        "{printed}"
    );
    assert_eq!(Rule::parse(Family::Ipv4, &printed).unwrap(), *rule);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Chains with rules of every modelled extension, jumps among them, and any policies.
    #[test]
    fn generated_tables_round_trip(
        v6 in any::<bool>(),
        drops in any::<bool>(),
        rules in prop::collection::vec(
            (0..4_usize, any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<[u8; 4]>()),
            0..30,
        ),
    ) {
        let family = if v6 { Family::Ipv6 } else { Family::Ipv4 };
        let examples = |all: Vec<&'static str>, option: &str| -> Vec<&'static str> {
            all.into_iter().filter(|e| e.starts_with(option)).collect()
        };
        let all = matches::ROWS.iter().flat_map(|row| row.examples).copied().collect();
        let conditions = examples(all, "-m ");
        let all = targets::ROWS.iter().flat_map(|row| row.examples).copied().collect();
        let mut actions = examples(all, "-j ");
        actions.extend(["", "-j C1", "-g C2", "-j C3", "-j RETURN", "-j ACCEPT", "-j DROP"]);
        let sets = SetIndex::of_text(&conditions.join(" "));
        let mut state = TableState::default();
        let names = ["INPUT", "C1", "C2", "C3"].map(|name| Chain::new(name).unwrap());
        for name in names {
            state.chains.entry(name).or_default();
        }
        let policy = if drops { crate::iptables::Policy::Drop } else { crate::iptables::Policy::Accept };
        state.chains.get_mut(&names[0]).unwrap().policy = Some(policy);
        for (chain, condition, action, octets) in rules {
            let source = if v6 { "fd00::/17".to_owned() } else { format!("{}/23", std::net::Ipv4Addr::from(octets)) };
            let text = format!("-s {source} {} {}", condition.get(&conditions), action.get(&actions));
            let Ok(rule) = Rule::parse(family, &text) else { continue };
            let chain = state.chains.get_mut(&names[chain]).unwrap();
            chain.rules.push(rule);
        }
        let state = known(family, Table::Filter, state, &sets);
        let blob = encoded(family, Table::Filter, &state, &sets).unwrap();
        let mut read = decoded(family, &blob, &sets);
        read.chains.retain(|chain, _| state.chains.contains_key(chain));
        prop_assert_eq!(read, state);
    }
}

/// Any line of a restore's input about a few chains, valid or not.
fn line() -> impl Strategy<Value = String> {
    let chain = || prop::sample::select(vec!["INPUT", "A", "B", "C", "NEW"]);
    let rule = || {
        prop::sample::select(vec![
            "-j A",
            "-g B",
            "-j NEW",
            "-j INPUT",
            "-p tcp -m tcp --dport 80 -j ACCEPT",
            "-s 10.0.0.0/8 -j DROP",
            "-i eth0",
            "-j RETURN",
            "-m comment --comment \"a b\" -j MARK --set-xmark 0x1/0x1",
        ])
    };
    let counted = || prop::sample::select(vec!["", "[3:4] "]);
    prop_oneof![
        4 => (counted(), chain(), rule()).prop_map(|(n, c, r)| format!("{n}-A {c} {r}")),
        3 => (chain(), 1..4, rule()).prop_map(|(c, at, r)| format!("-I {c} {at} {r}")),
        3 => (chain(), rule()).prop_map(|(c, r)| format!("-D {c} {r}")),
        1 => (chain(), 1..4).prop_map(|(c, at)| format!("-D {c} {at}")),
        1 => (chain(), 1..4, rule()).prop_map(|(c, at, r)| format!("-R {c} {at} {r}")),
        2 => chain().prop_map(|c| format!(":{c} - [0:0]")),
        1 => Just(":INPUT DROP [0:0]".to_owned()),
        1 => chain().prop_map(|c| format!("-N {c}")),
        1 => chain().prop_map(|c| format!("-F {c}")),
        1 => chain().prop_map(|c| format!("-X {c}")),
        1 => Just("-P INPUT DROP".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The kernel's blob and the model of iptables-restore change in the same steps, with the same refusals.
    #[test]
    fn restores_change_a_blob_like_the_model(
        inputs in prop::collection::vec(prop::collection::vec(line(), 1..8), 1..10),
    ) {
        let family = Family::Ipv4;
        let start = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
            :A - [0:0]\n:B - [0:0]\n:C - [0:0]\n-A INPUT -j A\n-A A -j B\n-A B -j C\nCOMMIT\n";
        let mut model = TableSet::parse(family, start).unwrap();
        let sets = SetIndex::default();
        let mut blob = encoded(family, Table::Filter, &model.tables[&Table::Filter], &sets).unwrap();
        for lines in inputs {
            let text = format!("*filter\n{}\nCOMMIT\n", lines.join("\n"));
            let Ok(restore) = Restore::parse(family, &text) else { continue };
            let mut raw = RawTable::decode(family, &blob.info, &blob.bytes).unwrap();
            let applied = raw.apply(&restore.tables[0], &sets);
            let expected = model.apply(restore, Flush::Nothing);
            prop_assert_eq!(&applied, &expected, "{}", text);
            if applied.is_ok() {
                blob = raw.encode();
            }
            let read = decoded(family, &blob, &sets);
            prop_assert_eq!(&read, &model.tables[&Table::Filter], "{}", text);
        }
    }
}
