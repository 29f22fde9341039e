//! The iptables tools of both back ends against the real kernel.

mod support;

use std::time::Duration;

use kernel::Family;
use kernel::iptables::{Backend, Error, Iptables, Limits, Reason, RestoreError, Rules, Table};
use nix::fcntl::{Flock, FlockArg};
use support::{in_namespace, run};

const BACKENDS: [Backend; 2] = [Backend::Nft, Backend::Legacy];

fn tools(family: Family, backend: Backend) -> Iptables {
    Iptables::with_backend(family, backend).unwrap()
}

fn each(body: impl Fn(Iptables) + Send + Sync + Copy) {
    for family in [Family::Ipv4, Family::Ipv6] {
        for backend in BACKENDS {
            in_namespace(|| body(tools(family, backend)));
        }
    }
}

#[test]
fn a_restore_is_read_back_and_leaves_the_rest_alone() {
    each(|iptables| {
        let other = b"*nat\n:OTHER - [0:0]\n-A OTHER -j RETURN\nCOMMIT\n";
        iptables.restore(other).unwrap();
        let first = b"*nat\n:KUBE-A - [0:0]\n-A KUBE-A -j ACCEPT\n-A KUBE-A -j RETURN\nCOMMIT\n";
        iptables.restore(first).unwrap();
        let second =
            b"*nat\n:KUBE-A - [0:0]\n-A KUBE-A -m comment --comment \"a b\" -j RETURN\nCOMMIT\n";
        iptables.restore(second).unwrap();
        let saved = String::from_utf8(iptables.save(Table::Nat).unwrap()).unwrap();
        let rules: Vec<&str> = saved.lines().filter(|l| l.starts_with("-A")).collect();
        assert_eq!(rules.len(), 2, "{saved}");
        assert!(rules.contains(&"-A OTHER -j RETURN"), "{saved}");
        assert!(rules.contains(&"-A KUBE-A -m comment --comment \"a b\" -j RETURN"));
        assert!(iptables.random_fully());
    });
}

#[test]
fn restore_sets_the_counters_of_its_input() {
    each(|iptables| {
        let input = b"*filter\n:KUBE-A - [0:0]\n[7:700] -A KUBE-A -j ACCEPT\nCOMMIT\n";
        iptables.restore(input).unwrap();
        let tool = match (iptables.family(), iptables.backend()) {
            (Family::Ipv4, Backend::Nft) => "iptables-nft",
            (Family::Ipv4, Backend::Legacy) => "iptables-legacy",
            // ip6tables-nft 1.8.9 itself drops a rule's counters.
            (Family::Ipv6, Backend::Nft) => return,
            (Family::Ipv6, Backend::Legacy) => "ip6tables-legacy",
        };
        let listed = run(&format!("{tool} -t filter -L KUBE-A -n -v -x"));
        assert!(
            listed
                .lines()
                .any(|l| l.split_whitespace().take(2).eq(["7", "700"])),
            "{listed}"
        );
    });
}

#[test]
fn a_bad_line_is_named_and_its_table_is_not_applied() {
    each(|iptables| {
        let input = b"*filter\n:KUBE-F - [0:0]\nCOMMIT\n*nat\n:KUBE-A - [0:0]\n-A KUBE-A -j ACCEPT\n-A KUBE-A -p tcp --dport 99999 -j ACCEPT\nCOMMIT\n";
        let error = iptables.restore(input).unwrap_err();
        assert!(matches!(error, RestoreError::BadInput { .. }), "{error:?}");
        assert_eq!(error.tables_committed(), Some(1));
        let [line] = error.lines() else {
            panic!("{error:?}")
        };
        assert_eq!(
            (line.number, line.text.as_str()),
            (7, "-A KUBE-A -p tcp --dport 99999 -j ACCEPT")
        );
        let nat = String::from_utf8(iptables.save(Table::Nat).unwrap()).unwrap();
        assert!(!nat.contains("KUBE-A"), "{nat}");
        let filter = String::from_utf8(iptables.save(Table::Filter).unwrap()).unwrap();
        assert!(filter.contains("KUBE-F"), "{filter}");
    });
}

#[test]
fn a_missing_chain_is_traced_to_the_rule_that_jumps_there() {
    each(|iptables| {
        let input = b"*nat\n:KUBE-A - [0:0]\n-A KUBE-A -j ACCEPT\n-A KUBE-A -j KUBE-GONE\nCOMMIT\n";
        let error = iptables.restore(input).unwrap_err();
        assert!(
            error.lines().iter().any(|line| line.number == 4),
            "{error:?}"
        );
    });
}

#[test]
fn a_kernel_refusal_and_a_syntax_error_are_different_errors() {
    each(|iptables| {
        // REJECT is valid, but only in the filter table: only the kernel knows.
        let input = b"*nat\n:KUBE-A - [0:0]\n-A KUBE-A -j REJECT\nCOMMIT\n";
        let error = iptables.restore(input).unwrap_err();
        assert!(matches!(error, RestoreError::Refused { .. }), "{error:?}");
        let number = match iptables.backend() {
            Backend::Nft => 3,
            Backend::Legacy => 4,
        };
        assert_eq!(error.lines().first().map(|line| line.number), Some(number));
        // A chain to delete that does not exist.
        let error = iptables
            .restore(b"*nat\n-X KUBE-GONE\nCOMMIT\n")
            .unwrap_err();
        assert!(matches!(error, RestoreError::Refused { .. }), "{error:?}");
        assert_eq!(error.lines().first().map(|line| line.number), Some(2));
    });
}

#[test]
fn restore_waits_for_a_held_lock_and_then_reports_it() {
    in_namespace(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("xtables.lock");
        let file = std::fs::File::create(&path).unwrap();
        let lock = Flock::lock(file, FlockArg::LockExclusive).unwrap();
        let iptables = tools(Family::Ipv4, Backend::Legacy)
            .with_lock_file(path)
            .with_limits(Limits {
                lock_wait: Duration::from_secs(1),
                ..Limits::default()
            });
        let input = b"*nat\n:KUBE-A - [0:0]\nCOMMIT\n";
        let error = iptables.restore(input).unwrap_err();
        assert!(matches!(error, RestoreError::LockHeld { .. }), "{error:?}");
        drop(lock);
        iptables.restore(input).unwrap();
    });
}

#[test]
fn a_save_past_its_deadline_is_an_error() {
    in_namespace(|| {
        let iptables = tools(Family::Ipv4, Backend::Legacy);
        let held = tools(Family::Ipv4, Backend::Legacy).with_limits(Limits {
            save: Duration::ZERO,
            ..Limits::default()
        });
        assert!(matches!(held.save(Table::Nat), Err(Error::Exec(_))));
        assert!(iptables.save(Table::Raw).is_ok());
    });
}

#[test]
fn the_back_end_with_kubelets_hint_is_chosen() {
    for (family, other, tool) in [
        (Family::Ipv4, Family::Ipv6, "iptables"),
        (Family::Ipv6, Family::Ipv4, "ip6tables"),
    ] {
        for backend in BACKENDS {
            in_namespace(|| {
                run(&format!(
                    "{tool}-{backend} -t mangle -N KUBE-KUBELET-CANARY"
                ));
                let (rules, choice) = Rules::find(family).unwrap();
                assert_eq!(
                    (choice.backend, choice.reason),
                    (backend, Reason::KubeletHint)
                );
                assert_eq!(rules.backend(), backend);
                let (_, found) = Rules::find(other).unwrap();
                assert_eq!(
                    (found.backend, found.reason),
                    (backend, Reason::KubeletHintOtherFamily)
                );
            });
        }
    }
}

#[test]
fn the_back_end_with_the_kube_chains_is_chosen_or_else_the_default() {
    in_namespace(|| {
        let (_, choice) = Rules::find(Family::Ipv4).unwrap();
        assert_eq!(choice.reason, Reason::PlainTool);
        // Reading must not have created legacy tables.
        let names = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap();
        assert_eq!(names, "");
        run("iptables-legacy -t nat -N KUBE-SERVICES");
        let (_, choice) = Rules::find(Family::Ipv4).unwrap();
        assert_eq!(
            (choice.backend, choice.reason),
            (Backend::Legacy, Reason::KubeChains)
        );
        run("iptables-nft -t nat -N KUBE-SERVICES; iptables-nft -t filter -N KUBE-FORWARD");
        let (_, choice) = Rules::find(Family::Ipv4).unwrap();
        assert_eq!(
            (choice.backend, choice.reason),
            (Backend::Nft, Reason::KubeChains)
        );
    });
}
