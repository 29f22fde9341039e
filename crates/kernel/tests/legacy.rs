//! iptables-legacy's tables against the kernel and the installed iptables-legacy.

mod support;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use kernel::ipset::IpSets;
use kernel::iptables::legacy::{Legacy, LegacyError, tables};
use netfilter::iptables::{Family, Match, Rule, Table, TableSet, Target};
use nix::fcntl::{Flock, FlockArg};
use support::{create_objects, in_namespace, is_undecoded, recorded_rules, retain, run};

const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

fn program(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "iptables-legacy",
        Family::Ipv6 => "ip6tables-legacy",
    }
}

/// Return the tables with counters, without the comments of the listing.
fn saved(family: Family) -> String {
    let text = run(&format!("{}-save -c", program(family)));
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.flat_map(|line| [line, "\n"]).collect()
}

fn restore(family: Family, text: &str, options: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let path = file.path().display();
    run(&format!("{}-restore {options} < {path}", program(family)));
}

fn legacy(family: Family) -> Legacy {
    Legacy::open(family).unwrap()
}

fn read(family: Family) -> (TableSet, Vec<String>) {
    let sets = IpSets::open().unwrap().index().unwrap();
    let mut set = TableSet::new(family);
    let mut problems = Vec::new();
    for table in tables(family) {
        let raw = legacy(family).read(table).unwrap().unwrap();
        let (state, found) = raw.table_state(&sets);
        set.tables.insert(table, state);
        problems.extend(found);
    }
    (set, problems)
}

/// Return the recorded rule sets of a family, without rules that this kernel refuses.
fn rule_sets(family: Family) -> Vec<(PathBuf, String)> {
    // This kernel lacks IPVS.
    let accepted = |text: &str| -> String {
        let lines = text
            .lines()
            .filter(|line| !line.contains("-m ipvs ") && !line.starts_with('#'));
        lines.flat_map(|line| [line, "\n"]).collect()
    };
    let recorded = recorded_rules(family).into_iter();
    recorded
        .map(|(path, text)| (path, accepted(&text)))
        .collect()
}

#[test]
fn tables_read_like_iptables_legacy_save() {
    for family in FAMILIES {
        for (path, text) in rule_sets(family) {
            in_namespace(|| {
                create_objects(family, &text);
                restore(family, &text, "");
                let (set, problems) = read(family);
                assert_eq!(problems, [] as [String; 0], "{}", path.display());
                let mut expected = TableSet::parse(family, &saved(family)).unwrap();
                let mut own = TableSet::parse(family, &set.to_string()).unwrap();
                // Extensions whose words are not known, in their place.
                let count = retain(&mut expected, |rule| !is_undecoded(rule));
                let unknown = retain(&mut own, |rule| !rule.to_string().contains("--revision "));
                assert_eq!(unknown, count, "{}", path.display());
                assert_eq!(own, expected, "{}", path.display());
            });
        }
    }
}

#[test]
fn reading_creates_no_table() {
    in_namespace(|| {
        for family in FAMILIES {
            for table in Table::ALL {
                assert_eq!(legacy(family).read(table).unwrap(), None);
                assert_eq!(legacy(family).remove_chains(table, &|_| true).unwrap(), 0);
            }
            assert_eq!(tables(family), []);
        }
    });
}

#[test]
fn removed_chains_leave_rules_and_counters_of_others() {
    let text = "*filter\n:INPUT DROP [1:2]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [3:4]\n\
        :FOO - [0:0]\n:KUBE-X - [0:0]\n:KUBE-Y - [0:0]\n\
        [5:6] -A INPUT -i eth7 -m comment --comment \"a b\" -j FOO\n\
        [7:8] -A INPUT -j KUBE-X\n\
        [9:10] -A FOO -m limit --limit 7/min -j LOG --log-prefix \"x \"\n\
        [11:12] -A FOO -g KUBE-Y\n\
        [13:14] -A FOO -p tcp -m recent --rcheck --seconds 5 --name R --rsource -j DROP\n\
        [15:16] -A FOO -p udp -m string --string \"q\" --algo bm --to 65535 -j RETURN\n\
        [17:18] -A KUBE-X -j KUBE-Y\n[19:20] -A KUBE-Y -p tcp -j ACCEPT\nCOMMIT\n";
    for family in FAMILIES {
        in_namespace(|| {
            restore(family, text, "-c");
            let before = saved(family);
            let kube = |name: &[u8]| name.starts_with(b"KUBE-");
            assert_eq!(
                legacy(family).remove_chains(Table::Filter, &kube).unwrap(),
                2
            );
            let lines = before.lines().filter(|line| !line.contains("KUBE-"));
            let expected: String = lines.flat_map(|line| [line, "\n"]).collect();
            assert_eq!(saved(family), expected);
            assert!(expected.contains("[15:16] -A FOO"));
            // A second removal changes nothing.
            assert_eq!(
                legacy(family).remove_chains(Table::Filter, &kube).unwrap(),
                0
            );
            assert_eq!(saved(family), expected);
        });
    }
}

#[test]
fn counters_of_packets_during_the_exchange_are_kept() {
    in_namespace(|| {
        let family = Family::Ipv4;
        let text = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
            :KUBE-X - [0:0]\n-A OUTPUT -d 127.0.0.9/32 -p udp\n-A OUTPUT -j KUBE-X\nCOMMIT\n";
        restore(family, text, "");
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..7 {
            socket.send_to(b"x", "127.0.0.9:9").unwrap();
        }
        let kube = |name: &[u8]| name == b"KUBE-X";
        legacy(family).remove_chains(Table::Filter, &kube).unwrap();
        for _ in 0..4 {
            socket.send_to(b"x", "127.0.0.9:9").unwrap();
        }
        let now = saved(family);
        assert!(
            now.contains("[11:319] -A OUTPUT -d 127.0.0.9/32 -p udp"),
            "{now}"
        );
    });
}

#[test]
fn changes_wait_for_the_xtables_lock() {
    in_namespace(|| {
        let family = Family::Ipv4;
        restore(family, "*filter\n:KUBE-X - [0:0]\nCOMMIT\n", "");
        let file = tempfile::NamedTempFile::new().unwrap();
        let with = |wait| legacy(family).with_lock(file.path(), wait);
        let kube = |name: &[u8]| name == b"KUBE-X";
        let lock = Flock::lock(file.reopen().unwrap(), FlockArg::LockExclusive).unwrap();
        let refused = with(Duration::ZERO).remove_chains(Table::Filter, &kube);
        assert!(
            matches!(refused, Err(LegacyError::Locked { .. })),
            "{refused:?}"
        );
        assert!(saved(family).contains("KUBE-X"));
        let patient = with(Duration::from_secs(60));
        let namespace = kernel::netns::NetNs::current().unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let _inside = namespace.enter().unwrap();
                patient.remove_chains(Table::Filter, &kube).unwrap()
            });
            std::thread::sleep(Duration::from_millis(100));
            assert!(!waiting.is_finished());
            drop(lock);
            assert_eq!(waiting.join().unwrap(), 1);
        });
    });
}

/// A program that ignores the lock changes the table all the time.
#[test]
fn changes_of_other_programs_meanwhile_are_not_lost() {
    in_namespace(|| {
        let family = Family::Ipv4;
        let mut text = "*filter\n:FOO - [0:0]\n".to_owned();
        for n in 0..2_000 {
            text.push_str(&format!(
                "-A FOO -s 10.{}.{}.1 -j ACCEPT\n",
                n / 256,
                n % 256
            ));
        }
        restore(family, &(text + "COMMIT\n"), "");
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut other = Command::new("/bin/sh")
            .args([
                "-c",
                "while :; do iptables-legacy -A INPUT -j ACCEPT; done 2>/dev/null",
            ])
            .env("XTABLES_LOCKFILE", file.path())
            .spawn()
            .unwrap();
        let mut removed = 0;
        for n in 0..20 {
            run(&format!(
                "XTABLES_LOCKFILE={} iptables-legacy -N KUBE-{n}",
                file.path().display()
            ));
            let kube = |name: &[u8]| name.starts_with(b"KUBE-");
            // Too many changes meanwhile are reported, and nothing is lost.
            match legacy(family).remove_chains(Table::Filter, &kube) {
                Ok(number) => removed += number,
                Err(LegacyError::Busy { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(removed > 0);
        let now = saved(family);
        assert_eq!(now.matches("-A FOO -s 10.").count(), 2_000);
        let listed = TableSet::parse(family, &now).unwrap();
        assert_eq!(read(family).0, listed);
    });
}

/// Apply the same inputs with iptables-legacy-restore and natively; return both results.
fn both(family: Family, inputs: &[&str]) -> [String; 2] {
    let with = |native: bool| {
        in_namespace(|| {
            for input in inputs {
                create_objects(family, input);
                match native {
                    true => legacy(family).restore(input).unwrap(),
                    false => restore(family, input, "--noflush --counters"),
                }
            }
            saved(family)
        })
    };
    [with(false), with(true)]
}

#[test]
fn restored_tables_equal_those_of_iptables_legacy_restore() {
    for family in FAMILIES {
        for (path, text) in rule_sets(family) {
            // Extensions that only other programs use are not written.
            let lines = text.lines().filter(|line| {
                let rule = line
                    .split_once("-A ")
                    .and_then(|(_, rule)| rule.split_once(' '));
                let rule = rule.map(|(_, rule)| Rule::parse(family, rule).unwrap());
                let is_unknown = |rule: Rule| {
                    let mut matches = rule.matches.iter();
                    matches.any(|m| matches!(m, Match::Unknown(_)))
                        || matches!(rule.target, Some(Target::Unknown(_)))
                };
                !rule.is_some_and(is_unknown)
            });
            let text: String = lines.flat_map(|line| [line, "\n"]).collect();
            let [theirs, own] = both(family, &[&text]);
            assert_eq!(own, theirs, "{}", path.display());
            // A second time: chains are emptied and filled, rules of built-in chains are added again.
            let [theirs, own] = both(family, &[&text, &text]);
            assert_eq!(own, theirs, "{}", path.display());
        }
    }
}

#[test]
fn single_commands_have_the_effect_of_iptables_legacy_restore() {
    // iptables-legacy-restore 1.8.9 loses the counters of policies.
    let start = "*filter\n:INPUT DROP [0:0]\n:Z - [0:0]\n:A - [0:0]\n[1:2] -A INPUT -j A\n\
        [3:4] -A A -p udp -m udp --dport 53 -j ACCEPT\n[5:6] -A A -p tcp -j Z\nCOMMIT\n";
    let change = "*filter\n:M - [0:0]\n-I INPUT 1 -j M\n-I A 2 -i eth0 -j DROP\n\
        -D A -p udp -m udp --dport 53 -j ACCEPT\n[7:8] -A M -j LOG --log-prefix \"x y\"\n-R A 2 -g M\n\
        -F Z\n-X Z\n-P FORWARD DROP\nCOMMIT\n*nat\n:POSTROUTING ACCEPT [0:0]\n\
        -A POSTROUTING -o eth0 -j MASQUERADE --random-fully\nCOMMIT\n";
    for family in FAMILIES {
        let [theirs, own] = both(family, &[start, change]);
        assert_eq!(own, theirs);
        assert!(own.contains("[7:8] -A M -j LOG"), "{own}");
    }
}

#[test]
fn refused_commands_name_their_line_and_change_nothing() {
    in_namespace(|| {
        let family = Family::Ipv4;
        restore(family, "*filter\n:A - [0:0]\n-A INPUT -j A\nCOMMIT\n", "");
        let before = saved(family);
        let refused = |line: &str| {
            let input =
                format!("*nat\n:N - [0:0]\nCOMMIT\n*filter\n-A A -j DROP\n{line}\nCOMMIT\n");
            let error = legacy(family).restore(&input).unwrap_err();
            assert!(error.is_rejection(), "{error}");
            assert_eq!(error.tables_committed, 1, "{error}");
            let LegacyError::Refused(error) = error.cause else {
                panic!("{error}");
            };
            assert_eq!(error.line, 6);
            let now = saved(family);
            let filter = now
                .split_inclusive("COMMIT\n")
                .find(|t| t.starts_with("*filter"));
            assert_eq!(filter, Some(before.as_str()));
            error.reason.to_string()
        };
        assert_eq!(refused("-X A"), "chain A has rules and cannot be deleted");
        assert_eq!(
            refused("-A A -j NONE"),
            "chain A jumps to NONE, which does not exist"
        );
        assert_eq!(refused("-D A -j ACCEPT"), "chain A has no rule like this");
        let unknown = refused("-A A -p tcp -m string --string q --algo bm");
        assert_eq!(unknown, "match string is not modelled");
    });
}
