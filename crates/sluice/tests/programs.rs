//! No program of the host is needed: with an empty PATH, sluice gives the same results.

mod support;

use std::process::Output;

use netfilter::ipset::Sets;
use netfilter::iptables::{ChainState, Family, TableSet};
use netfilter::nft_lang::{Ruleset, SetRef, Statement, TableDecl, Term};
use support::{Host, SLUICE, text};
use trace::Facts;

/// Run `sluice` where no program can be found.
fn alone(host: &Host, words: &[&str]) -> Output {
    let mut command = host.command(SLUICE);
    command.args(words).env_clear().env("PATH", "/nonexistent");
    command.output().unwrap()
}

/// kube-proxy's rules and another program's, in the legacy tables of both families.
fn legacy_rules(host: &Host) {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/observed");
    for (program, file) in [
        ("iptables-legacy", "iptables-no-localhost.v4"),
        ("ip6tables-legacy", "iptables-no-localhost.v6"),
    ] {
        host.sh(&format!(
            "grep -v nfacct {root}/{file}.iptables-save | {program}-restore; \
             {program} -N MINE; {program} -I FORWARD 1 -j MINE; \
             {program} -A MINE -m limit --limit 3/min -j LOG --log-prefix mine; \
             {program} -t nat -A PREROUTING -i eth7 -p tcp -m string --string q --algo bm -j RETURN"
        ));
    }
}

fn saved(host: &Host, program: &str) -> String {
    host.sh(&format!(
        "{program}-save -c | grep -v '^#' | grep -v 'ACCEPT \\['"
    ))
}

#[test]
fn cleanup_removes_legacy_rules_of_kube_proxy_and_no_others() {
    let host = Host::new();
    legacy_rules(&host);
    let programs = ["iptables-legacy", "ip6tables-legacy"];
    let expected = programs.map(|program| {
        let saved = saved(&host, program);
        let lines = saved.lines().filter(|line| !line.contains("KUBE-"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    });
    let output = alone(&host, &["cleanup"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for (program, expected) in programs.iter().zip(expected) {
        let left = saved(&host, program);
        assert_eq!(left.lines().collect::<Vec<_>>(), expected, "{program}");
    }
    let rules = host.rules("iptables-legacy-save", Family::Ipv4);
    assert!(rules.to_string().contains("-A FORWARD -j MINE"), "{rules}");
}

/// Return the tables as nft and as sluice without programs list them, without what does not influence
/// packets: texts, positions, the order of elements and of declarations.
fn both(host: &Host) -> [Vec<TableDecl>; 2] {
    let output = alone(host, &["facts"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let facts = Facts::parse(&text(&output.stdout)).unwrap();
    assert_eq!(facts.notes, [] as [String; 0]);
    let ours = facts.dumps.nft_ruleset.unwrap_or_default();
    [host.sh("nft list ruleset"), ours].map(|listing| {
        let parsed = Ruleset::parse(&listing).unwrap_or_else(|e| panic!("{e}\n{listing}"));
        let mut tables = parsed.tables;
        for table in &mut tables {
            table.others.clear();
            for chain in &mut table.chains {
                for rule in &mut chain.rules {
                    (rule.text, rule.line) = ("".into(), 0);
                    rule.statements.iter_mut().for_each(plain);
                }
            }
            for set in &mut table.sets {
                set.elements
                    .edit()
                    .sort_by_key(|element| format!("{element:?}"));
            }
        }
        tables
    })
}

/// Sort the elements of sets in place, and remove positions.
fn plain(statement: &mut Statement) {
    let sort = |set: &mut SetRef| {
        if let SetRef::Anonymous(set) = set {
            set.elements
                .edit()
                .sort_by_key(|element| format!("{element:?}"));
        }
    };
    match statement {
        Statement::Vmap { map, .. } => sort(map),
        Statement::Match {
            right: Term::Set(set),
            ..
        } => set
            .elements
            .edit()
            .sort_by_key(|element| format!("{element:?}")),
        Statement::Unknown(unknown) => (unknown.line, unknown.column) = (0, 0),
        _ => {}
    }
}

#[test]
fn nf_tables_rules_of_any_program_are_read_like_nft_lists_them() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    for file in [
        "testdata/foreign/docker.nft",
        "testdata/foreign/firewalld.nft",
        "testdata/foreign/host-firewall.nft",
        "crates/netfilter/src/nft_lang/testdata/zoo.nft",
    ] {
        let host = Host::new();
        host.sh(&format!("nft -f {root}/{file}"));
        let [theirs, ours] = both(&host);
        assert_eq!(ours.len(), theirs.len(), "{file}");
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours.sets, theirs.sets, "{file}");
            for chain in &theirs.chains {
                let own = ours.chain(&chain.name).unwrap();
                assert_eq!(own.base, chain.base, "{file}: {}", chain.name);
                for (own, rule) in own.rules.iter().zip(&chain.rules) {
                    assert_eq!(own, rule, "{file}: {}", chain.name);
                }
                assert_eq!(own.rules.len(), chain.rules.len(), "{file}: {}", chain.name);
            }
        }
    }
}

/// Tables that iptables-nft-save refuses, although they have names of iptables' tables, are listed as nft
/// lists them.
#[test]
fn tables_with_foreign_chains_are_not_listed_as_iptables_rules() {
    for chains in [
        "chain forward { type filter hook forward priority 0; policy drop; ip daddr 10.0.0.1 accept; };",
        "chain FORWARD { type filter hook forward priority -5; policy accept; };",
        "chain a-name-that-is-longer-than-iptables-permits { ip daddr 10.0.0.1 drop; };",
    ] {
        let host = Host::new();
        host.sh(&format!("nft 'table ip filter {{ {chains} }};'"));
        let output = alone(&host, &["facts"]);
        let facts = Facts::parse(&text(&output.stdout)).unwrap();
        assert_eq!(facts.dumps.iptables_save, None, "{chains}");
        let [theirs, ours] = both(&host);
        assert_eq!(ours, theirs, "{chains}");
    }
}

/// Remove the built-in chains without rules, which a program may create, and counters.
fn trimmed(mut set: TableSet) -> TableSet {
    for (table, state) in &mut set.tables {
        let stays =
            |name: &_, chain: &ChainState| !table.is_built_in(*name) || !chain.rules.is_empty();
        state.chains.retain(|name, chain| stays(name, chain));
    }
    set.tables.retain(|_, state| !state.chains.is_empty());
    set
}

#[test]
fn rules_of_iptables_are_read_from_both_back_ends_like_its_programs_list_them() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata");
    for backend in ["nft", "legacy"] {
        for file in [
            "foreign/docker",
            "observed/ipvs-default.v4",
            "observed/iptables-default.v4",
        ] {
            let host = Host::new();
            // These need objects of other subsystems.
            let rules = host.sh(&format!(
                "grep -v -e nfacct -e ipvs {root}/{file}.iptables-save"
            ));
            let words: Vec<&str> = rules.split_whitespace().collect();
            for named in words.windows(3) {
                if let ["--match-set", name, sides] = named {
                    let kind = ["hash:ip", "hash:ip,port", "hash:ip,port,ip"];
                    let kind = kind[sides.matches(',').count()];
                    host.sh(&format!("ipset -exist create {name} {kind}"));
                }
            }
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("rules");
            std::fs::write(&path, &rules).unwrap();
            host.sh(&format!("iptables-{backend}-restore < {}", path.display()));
            let output = alone(&host, &["facts"]);
            let facts = Facts::parse(&text(&output.stdout)).unwrap();
            assert_eq!(facts.notes, [] as [String; 0]);
            let own = match backend {
                "nft" => &facts.dumps.iptables_save,
                _ => &facts.dumps.iptables_legacy_save,
            };
            let own = TableSet::parse(Family::Ipv4, own.as_ref().unwrap()).unwrap();
            let theirs = host.rules(&format!("iptables-{backend}-save"), Family::Ipv4);
            assert_eq!(trimmed(own), trimmed(theirs), "{backend}: {file}");
            let saved = host.sh("ipset save");
            let sets = facts.dumps.ipset_save.unwrap_or_default();
            assert_eq!(
                Sets::parse(&sets).unwrap().sets.len(),
                saved.matches("create ").count()
            );
        }
    }
}
