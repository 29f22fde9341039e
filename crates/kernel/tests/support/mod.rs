//! Shared by the tests on the real kernel.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::{Path, PathBuf};
use std::process::Command;

use kernel::nfacct::{Counter, NfAcct};
use netfilter::iptables::{Family, Rule, TableSet};
use nix::sched::{CloneFlags, unshare};

/// Run `body` in a separate thread, inside a new network namespace whose loopback is up. The
/// namespace ends with the thread, and with it everything that `body` programmed.
pub(crate) fn in_namespace<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace (run as root)");
            run("ip link set lo up");
            body()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Return the files and texts of the recorded rule sets of a family (`testdata/observed`, `testdata/foreign`).
pub(crate) fn recorded_rules(family: Family) -> Vec<(PathBuf, String)> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata"));
    let mut found = Vec::new();
    for folder in ["observed", "foreign"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let v6 = name.contains("ip6tables") || name.contains(".v6.");
            if name.ends_with("tables-save") && v6 == (family == Family::Ipv6) {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty());
    found
}

/// Create the counters of kube-proxy and the ipsets that rules name, with the number of dimensions that each
/// rule uses.
pub(crate) fn create_objects(family: Family, text: &str) {
    let family = match family {
        Family::Ipv4 => "inet",
        Family::Ipv6 => "inet6",
    };
    let mut nfacct = NfAcct::open().unwrap().expect("this kernel has nfacct");
    for counter in Counter::ALL {
        nfacct.ensure(counter).unwrap();
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    for named in words.windows(3) {
        let ["--match-set" | "--add-set" | "--del-set", name, sides] = named else {
            continue;
        };
        let kind = ["hash:ip", "hash:ip,port", "hash:ip,port,ip"][sides.matches(',').count()];
        run(&format!(
            "ipset -exist create {name} {kind} family {family}"
        ));
    }
}

/// Whether the rule has one of those extensions in the recorded rules whose words are not known.
pub(crate) fn is_undecoded(rule: &Rule) -> bool {
    let text = rule.to_string();
    text.contains("-m string ") || text.contains("kb/s ")
}

/// Remove rules; return their number.
pub(crate) fn retain(set: &mut TableSet, is_kept: impl Fn(&Rule) -> bool) -> usize {
    let tables = set.tables.values_mut();
    let chains = tables.flat_map(|table| table.chains.values_mut());
    let removed = chains.map(|chain| {
        let before = chain.rules.len();
        chain.rules.retain(&is_kept);
        before - chain.rules.len()
    });
    removed.sum()
}

/// Run a command line in the calling thread's namespace; return its stdout.
pub(crate) fn run(line: &str) -> String {
    let output = Command::new("/bin/sh")
        .args(["-c", line])
        .output()
        .expect("a shell");
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
