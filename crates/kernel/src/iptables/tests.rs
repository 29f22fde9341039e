use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use proptest::prelude::*;

use super::restore::{bad_lines, explain, has_counters, line_numbers};
use super::*;

const INPUT: &[u8] = b"*filter\n:KUBE-A - [0:0]\nCOMMIT\n*nat\n:KUBE-B - [0:0]\n-A KUBE-B -j REJECT\n-A KUBE-B -j KUBE-GONE\nCOMMIT\n";

fn failed(code: i32, stderr: &str) -> RestoreError {
    let output = exec::Output {
        status: ExitStatus::from_raw(code << 8),
        stdout: Vec::new(),
        stderr: stderr.to_owned(),
    };
    explain(
        Path::new("/sbin/iptables-restore"),
        INPUT,
        &output,
        Duration::from_secs(5),
    )
}

#[test]
fn versions_are_read_and_compared() {
    let read = |text: &str| text.parse::<Version>();
    assert_eq!(read("iptables v1.8.9 (nf_tables)\n"), Ok(Version(1, 8, 9)));
    assert_eq!(read("ip6tables-restore v1.6.2\n"), Ok(Version(1, 6, 2)));
    assert_eq!(read("iptables v1.10 (legacy)"), Ok(Version(1, 10, 0)));
    assert!(Version(1, 10, 0) > Version::DEPRECATED_WAIT_INTERVAL);
    for bad in [
        "",
        "iptables",
        "iptables v",
        "iptables v1",
        "iptables v1.x.2",
    ] {
        assert_eq!(read(bad), Err(ParseVersionError(bad.to_owned())));
    }
}

#[test]
fn back_end_is_chosen_by_hint_then_other_family_then_chains_then_default() {
    let none = Evidence::default();
    let hints = |nft_hints, legacy_hints| Evidence {
        nft_hints,
        legacy_hints,
        ..none
    };
    let chains = |nft_chains, legacy_chains| Evidence {
        nft_chains,
        legacy_chains,
        ..none
    };
    let plain = Some(Backend::Nft);
    let cases = [
        (hints(0, 1), none, Backend::Legacy, Reason::KubeletHint),
        (hints(1, 1), none, Backend::Nft, Reason::KubeletHint),
        (
            chains(9, 0),
            hints(0, 2),
            Backend::Legacy,
            Reason::KubeletHintOtherFamily,
        ),
        (chains(1, 3), none, Backend::Legacy, Reason::KubeChains),
        (chains(3, 1), none, Backend::Nft, Reason::KubeChains),
        (chains(2, 2), none, Backend::Nft, Reason::PlainTool),
    ];
    for (own, other, backend, reason) in cases {
        let choice = choose(own, other, plain);
        assert_eq!(choice, Choice { backend, reason }, "{own:?} {other:?}");
    }
    assert_eq!(
        choose(none, none, None),
        Choice {
            backend: Backend::Nft,
            reason: Reason::Default
        }
    );
}

#[test]
fn a_held_lock_has_its_own_error() {
    let stderr = "Another app is currently holding the xtables lock. Stopped waiting after 5s.\n";
    assert!(matches!(failed(4, stderr), RestoreError::LockHeld { .. }));
    let old = "Another app is currently holding the xtables lock. Perhaps you want to use the -w option?\n";
    assert!(matches!(failed(4, old), RestoreError::LockHeld { .. }));
}

#[test]
fn the_line_at_fault_is_shown() {
    let error = failed(
        4,
        "iptables-nft-restore v1.8.9 (nf_tables): \nline 6: RULE_APPEND failed (Invalid argument): rule in chain KUBE-B\n",
    );
    assert!(matches!(error, RestoreError::Refused { .. }), "{error}");
    assert_eq!(error.tables_committed(), Some(1));
    let line = BadLine {
        number: 6,
        text: "-A KUBE-B -j REJECT".to_owned(),
        named: true,
    };
    assert_eq!(error.lines(), [line]);
    assert!(error.to_string().contains("line 6: `-A KUBE-B -j REJECT`"));
}

#[test]
fn a_fault_reported_at_the_commit_is_traced_to_its_rule() {
    let error = failed(
        2,
        "iptables-nft-restore v1.8.9 (nf_tables): Chain 'KUBE-GONE' does not exist\nError occurred at line: 8\nTry `iptables-nft-restore -h' or 'iptables-nft-restore --help' for more information.\n",
    );
    assert!(matches!(error, RestoreError::BadInput { .. }), "{error}");
    let lines: Vec<_> = error.lines().iter().map(|l| (l.number, l.named)).collect();
    assert_eq!(lines, [(8, true), (7, false)]);
    assert!(!error.to_string().contains("Try"), "{error}");
}

#[test]
fn a_failure_without_a_line_is_an_error_without_committed_tables() {
    let error = failed(
        1,
        "iptables-restore: Permission denied (you must be root)\n",
    );
    assert!(matches!(error, RestoreError::Failed { .. }), "{error}");
    assert_eq!(error.tables_committed(), None);
}

#[test]
fn restore_keeps_counters_only_if_the_input_has_some() {
    assert!(!has_counters(INPUT));
    assert!(!has_counters(
        b"*nat\n:A - [0:0]\n[0:0] -A A -j ACCEPT\nCOMMIT\n"
    ));
    assert!(has_counters(b"*nat\n:PREROUTING ACCEPT [5:300]\nCOMMIT\n"));
    assert!(has_counters(b"*nat\n[1:60] -A A -j ACCEPT\nCOMMIT\n"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever a tool writes, the error names only lines that the input has.
    #[test]
    fn any_stderr_is_explained(
        parts in prop::collection::vec(
            prop_oneof![
                Just("line 8".to_owned()),
                Just("Error occurred at line: ".to_owned()),
                Just("'KUBE-GONE'".to_owned()),
                Just("`".to_owned()),
                any::<u64>().prop_map(|n| format!("line {n}: ")),
                ".{0,12}",
            ],
            0..8,
        ),
        code in 1_i32..5,
    ) {
        let stderr = parts.concat();
        let lines = INPUT.split(|byte| *byte == b'\n').count();
        for line in bad_lines(INPUT, &line_numbers(&stderr), &stderr) {
            prop_assert!((1..=lines).contains(&line.number));
        }
        prop_assert!(!failed(code, &stderr).to_string().is_empty());
    }
}
