//! The codec of iptables-nft's rules against the kernel and the installed iptables-nft.

mod support;

use std::path::PathBuf;

use kernel::ipset::IpSets;
use kernel::iptables::NftRules;
use kernel::nfnetlink::NfTables;
use netfilter::iptables::{Family, Match, Rule, Table, TableSet, Target};
use netfilter::iptables_nft::{self, nft_family};
use netfilter::nft::{self, Encoder, Message, Op, RulePlace};
use support::{create_objects, in_namespace, is_undecoded, recorded_rules, retain, run};

fn encoder(family: Family, table: &str) -> Encoder<'_> {
    Encoder {
        family: nft_family(family),
        table,
    }
}

fn bytes(messages: &[Message]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages {
        message.append_to(&mut bytes);
    }
    bytes
}

/// Run the program's restore, without flushing.
fn restore(family: Family, input: &str) -> Result<(), String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), input).unwrap();
    let path = file.path().display();
    let line = format!("{}-restore --noflush < {path}", programs(family));
    let output = std::process::Command::new("sh")
        .args(["-c", &line])
        .output();
    let output = output.expect("a shell");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    output.status.success().then_some(()).ok_or(stderr)
}

/// Return the prefix of the programs. The environment variable `IPTABLES_NFT` may name a wrapper that
/// runs the programs of another release.
fn programs(family: Family) -> String {
    let wrapper = std::env::var("IPTABLES_NFT").unwrap_or_default();
    let name = match family {
        Family::Ipv4 => "iptables-nft",
        Family::Ipv6 => "ip6tables-nft",
    };
    format!("{wrapper} {name}")
}

fn save(family: Family) -> String {
    run(&format!("{}-save 2>&1", programs(family)))
}

/// The recorded rule sets of a family that this kernel accepts.
fn rule_sets(family: Family) -> Vec<(PathBuf, TableSet)> {
    let recorded = recorded_rules(family).into_iter().map(|(path, text)| {
        let mut set = TableSet::parse(family, &text).unwrap();
        // The kernel lacks IPVS.
        retain(&mut set, |rule| !rule.to_string().contains("-m ipvs "));
        (path, set)
    });
    recorded.collect()
}

/// Whether the rule has an extension that is not modelled.
fn has_unknown(rule: &Rule) -> bool {
    let mut matches = rule.matches.iter();
    matches.any(|m| matches!(m, Match::Unknown(_)))
        || matches!(rule.target, Some(Target::Unknown(_)))
}

/// Return the set without built-in chains that have no rules, which iptables-nft creates only on
/// demand.
fn trimmed(mut set: TableSet) -> TableSet {
    for (table, state) in &mut set.tables {
        state
            .chains
            .retain(|name, chain| !table.is_built_in(*name) || !chain.rules.is_empty());
    }
    set.tables.retain(|_, state| !state.chains.is_empty());
    set
}

#[test]
fn rules_of_iptables_nft_restore_are_read() {
    for family in [Family::Ipv4, Family::Ipv6] {
        for (path, set) in rule_sets(family) {
            in_namespace(|| {
                create_objects(family, &set.to_string());
                restore(family, &set.to_string()).unwrap();
                let mut rules = NftRules::open(family).unwrap();
                let (read, unsupported) = rules.table_set(&Table::ALL).unwrap();
                let mut saved = TableSet::parse(family, &save(family)).unwrap();
                let undecoded = retain(&mut saved, |rule| !is_undecoded(rule));
                assert_eq!(unsupported.len(), undecoded, "{unsupported:?}");
                assert_eq!(trimmed(read), trimmed(saved), "{}", path.display());
            });
        }
    }
}

#[test]
fn iptables_nft_save_lists_the_rules_that_were_programmed() {
    for family in [Family::Ipv4, Family::Ipv6] {
        for (path, mut set) in rule_sets(family) {
            // Extensions that only other programs use are not written.
            retain(&mut set, |rule| !has_unknown(rule));
            in_namespace(|| {
                create_objects(family, &set.to_string());
                let mut rules = NftRules::open(family).unwrap();
                let programmed = rules.restore(&set.to_string());
                programmed.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                let text = save(family);
                assert!(!text.contains("incompatible"), "{}: {text}", path.display());
                let saved = TableSet::parse(family, &text).unwrap();
                assert_eq!(trimmed(saved), trimmed(set.clone()), "{}", path.display());
                let (read, unsupported) = rules.table_set(&Table::ALL).unwrap();
                assert_eq!(unsupported, []);
                assert_eq!(trimmed(read), trimmed(set.clone()), "{}", path.display());
            });
        }
    }
}

/// A policy that was set counts packets, unlike that of a chain that a rule created.
#[test]
fn counters_of_policies_are_read() {
    in_namespace(|| {
        let family = Family::Ipv4;
        run(&format!("{} -P OUTPUT ACCEPT", programs(family)));
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        socket.send_to(b"12345", address).unwrap();
        let mut rules = NftRules::open(family).unwrap();
        let (read, _) = rules.table_set(&[Table::Filter]).unwrap();
        assert!(read.to_string().contains(":OUTPUT ACCEPT [1:33]"), "{read}");
        let saved = run(&format!("{}-save -c", programs(family)));
        assert!(saved.contains(":OUTPUT ACCEPT [1:33]"), "{saved}");
    });
}

#[test]
fn rules_are_placed_by_handle() {
    in_namespace(|| {
        let family = Family::Ipv4;
        let encoder = encoder(family, "filter");
        let mut nft = NfTables::open().unwrap();
        let parse = |text: &str| Rule::parse(family, text).unwrap();
        let rule = |rule: &Rule| nft::Rule {
            chain: "X".to_owned(),
            exprs: iptables_nft::encode_rule(rule, family).unwrap(),
            comment: None,
        };
        let chain = nft::Chain {
            name: "X".to_owned(),
            base: None,
            comment: None,
        };
        let ops = [Op::AddTable { comment: None }, Op::AddChain(chain)];
        nft.transact(&mut bytes(&encoder.ops(&ops)), None).unwrap();
        let handle_of = |text: &str| {
            let mut rules = NftRules::open(family).unwrap();
            let state = rules.state(&[Table::Filter]).unwrap();
            let chain = netfilter::iptables::Chain::new("X").unwrap();
            let rules = &state.tables[&Table::Filter][&chain].rules;
            let found = rules.iter().find(|r| r.rule == Ok(parse(text)));
            found.unwrap_or_else(|| panic!("{text}: {rules:?}")).handle
        };
        let (a, b, c, d, e) = (
            "-s 10.0.0.1 -j ACCEPT",
            "-p tcp -m tcp --dport 80 -j DROP",
            "-j RETURN",
            "-i eth0 -m comment --comment \"d d\" -j ACCEPT",
            "-m mark --mark 0x1/0x1",
        );
        let put = |nft: &mut NfTables, text: &str, place| {
            let message = encoder.place_rule(&rule(&parse(text)), place);
            nft.transact(&mut bytes(&[message]), None).unwrap();
        };
        put(&mut nft, c, RulePlace::Last);
        put(&mut nft, a, RulePlace::First);
        let at = handle_of(c);
        put(&mut nft, b, RulePlace::Before(at));
        let at = handle_of(a);
        put(&mut nft, d, RulePlace::After(at));
        let at = handle_of(b);
        put(&mut nft, e, RulePlace::Replacing(at));
        let at = handle_of(a);
        nft.transact(&mut bytes(&[encoder.delete_rule("X", at)]), None)
            .unwrap();
        let saved = TableSet::parse(family, &save(family)).unwrap();
        let chain = netfilter::iptables::Chain::new("X").unwrap();
        let rules = &saved.chain(Table::Filter, chain).unwrap().rules;
        assert_eq!(*rules, [d, e, c].map(parse));
        assert_eq!(rules[2].target, Some(Target::Return));
    });
}

/// Inputs of `iptables-restore --noflush`, applied one after the other.
const INPUTS: [&str; 7] = [
    "*filter\n:A - [0:0]\n:B - [0:0]\n-A A -s 10.0.0.1 -j B\n-A A -p tcp --dport 80 -j DROP\n\
     -I INPUT -j A\nCOMMIT\n*nat\n:A - [0:0]\n-A POSTROUTING -j A\nCOMMIT\n",
    "*filter\n-I A 2 -s 10.0.0.2 -j ACCEPT\n-A A -s 10.0.0.3\n-D A -p tcp -m tcp --dport 80 -j DROP\n\
     -R A 1 -s 10.0.0.4 -j B\nCOMMIT\n",
    "*filter\n:B - [0:0]\n-A B -j RETURN\n-A B -j RETURN\n-I INPUT -m mark --mark 1 -j ACCEPT\n\
     -P FORWARD DROP\nCOMMIT\n",
    "*filter\n-D B -j RETURN\n-D A 2\n-N C\n-A C -j B\nCOMMIT\n",
    "*mangle\n:KUBE-PROXY-CANARY - [0:0]\nCOMMIT\n*filter\n-F C\n-X C\n:FORWARD ACCEPT [0:0]\nCOMMIT\n",
    "*filter\n-F A\n-F B\n-D INPUT -j A\n-X A\n-X B\nCOMMIT\n",
    "*nat\n-F\n-X\nCOMMIT\n",
];

/// Inputs that the program refuses on an empty rule set, with the number of tables committed before.
const REFUSED: [(&str, usize); 6] = [
    ("*filter\n-A MISSING -j ACCEPT\nCOMMIT\n", 0),
    ("*nat\n:A - [0:0]\nCOMMIT\n*filter\n-X MISSING\nCOMMIT\n", 1),
    ("*filter\n-D INPUT -j ACCEPT\nCOMMIT\n", 0),
    ("*filter\n:A - [0:0]\n-A A -j MISSING\nCOMMIT\n", 0),
    ("*nat\n:A - [0:0]\n-A A -j REJECT\nCOMMIT\n", 0),
    ("*filter\n-I INPUT 3 -j ACCEPT\nCOMMIT\n", 0),
];

#[test]
fn a_restore_over_netlink_has_the_effect_of_the_program() {
    for family in [Family::Ipv4, Family::Ipv6] {
        let translate = |input: &str| match family {
            Family::Ipv4 => input.to_owned(),
            Family::Ipv6 => input.replace("10.0.0.", "fd00::"),
        };
        in_namespace(|| {
            let mut expected = Vec::new();
            in_namespace(|| {
                for input in INPUTS {
                    restore(family, &translate(input)).unwrap();
                    expected.push(trimmed(TableSet::parse(family, &save(family)).unwrap()));
                }
            });
            let mut rules = NftRules::open(family).unwrap();
            for (input, expected) in INPUTS.into_iter().zip(expected) {
                rules.restore(&translate(input)).unwrap();
                let listed = save(family);
                assert!(!listed.contains("incompatible"), "{listed}");
                let listed = TableSet::parse(family, &listed).unwrap();
                assert_eq!(trimmed(listed), expected, "{input}");
                let (read, unsupported) = rules.table_set(&Table::ALL).unwrap();
                assert_eq!(trimmed(read), expected, "{input}");
                assert_eq!(unsupported, []);
            }
        });
        for (input, committed) in REFUSED {
            in_namespace(|| {
                let refused = restore(family, input);
                assert!(refused.is_err(), "{input}");
                let applied = TableSet::parse(family, &save(family)).unwrap();
                assert_eq!(
                    trimmed(applied).tables.len(),
                    committed,
                    "{input}: {refused:?}"
                );
                run("nft flush ruleset");
                let mut rules = NftRules::open(family).unwrap();
                let refused = rules.restore(input).unwrap_err();
                assert!(refused.is_rejection(), "{refused:?}");
                assert_eq!(
                    refused.tables_committed(),
                    Some(committed),
                    "{input}: {refused}"
                );
                let (left, _) = rules.table_set(&[Table::Filter]).unwrap();
                assert_eq!(trimmed(left), TableSet::new(family), "{input}");
            });
        }
    }
}

#[test]
fn other_writers_do_not_prevent_a_restore() {
    use std::sync::atomic::{AtomicBool, Ordering};
    in_namespace(|| {
        let family = Family::Ipv4;
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut theirs = NftRules::open(family).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let input = "*filter\n:THEIRS - [0:0]\n-A THEIRS -j ACCEPT\nCOMMIT\n";
                    theirs.restore(input).unwrap();
                }
            });
            let mut rules = NftRules::open(family).unwrap();
            for round in 0..50 {
                let input =
                    format!("*filter\n:KUBE-A - [0:0]\n-A KUBE-A -s 10.0.0.{round}\nCOMMIT\n");
                rules.restore(&input).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        });
        let saved = save(family);
        assert!(saved.contains("-A KUBE-A -s 10.0.0.49/32"), "{saved}");
        assert!(saved.contains("-A THEIRS -j ACCEPT"), "{saved}");
    });
}

#[test]
fn listings_of_whole_tables_and_of_single_chains_are_equal() {
    in_namespace(|| {
        let mut rules = NftRules::open(Family::Ipv4).unwrap();
        for input in &INPUTS[..4] {
            rules.restore(input).unwrap();
        }
        run(
            "nft 'table inet t { chain c { type filter hook input priority 0; jump d; }; \
             chain d { tcp dport { 80, 443 } accept; counter drop; }; }'",
        );
        let mut nft = NfTables::open().unwrap();
        let sets = IpSets::open().unwrap().index().unwrap();
        let [whole, by_chain] = [u64::MAX, 0].map(|from| {
            nft.list_by_chain_from(from);
            let ruleset = nft.ruleset(&sets).unwrap();
            assert_eq!(ruleset.problems, [""; 0]);
            let text = ruleset.listing.text(&|_| None);
            (text, ruleset.iptables)
        });
        assert!(whole.0.contains("chain d {\n\t\ttcp dport"), "{}", whole.0);
        assert!(whole == by_chain, "{}\n{}", whole.0, by_chain.0);
    });
}

#[test]
fn rules_about_ipsets_are_restored_and_read() {
    in_namespace(|| {
        let family = Family::Ipv4;
        run("ipset create KUBE-CLUSTER-IP hash:ip,port; ipset create other hash:ip");
        let input = "*nat\n:KUBE-SERVICES - [0:0]\n\
             -A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT\n\
             -A KUBE-SERVICES -m set ! --match-set other src -j SET --add-set other dst\nCOMMIT\n";
        let mut rules = NftRules::open(family).unwrap();
        rules.restore(input).unwrap();
        let expected = TableSet::parse(family, input).unwrap();
        let listed = TableSet::parse(family, &save(family)).unwrap();
        assert_eq!(trimmed(listed), trimmed(expected.clone()));
        let (read, unsupported) = rules.table_set(&[Table::Nat]).unwrap();
        assert_eq!(unsupported, []);
        assert_eq!(trimmed(read), trimmed(expected));
        let missing = rules.restore("*nat\n-A KUBE-SERVICES -m set --match-set none src\nCOMMIT\n");
        assert!(missing.unwrap_err().is_rejection());
    });
}
