use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::*;

fn policy() -> Policy {
    Policy {
        sockets_only: false,
        writable: Vec::new(),
        credential_plugin: None,
    }
}

/// Run in a thread of its own, which the restrictions end with.
fn in_thread<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(run).join().unwrap())
}

fn status(field: &str) -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(field)).unwrap();
    line.trim().to_owned()
}

#[test]
fn a_thread_keeps_two_capabilities() {
    in_thread(|| {
        let sandbox = Sandbox::enter(&policy()).unwrap();
        let names: Vec<_> = sandbox.restrictions.iter().map(|r| r.name).collect();
        assert_eq!(names, ["capabilities", "no_new_privs", "landlock"]);
        // NET_BIND_SERVICE 10, NET_ADMIN 12.
        let expected = format!("{:016x}", 1_u64 << 10 | 1 << 12);
        for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
            assert_eq!(status(set), expected, "{set}");
        }
        assert_eq!(status("NoNewPrivs:"), "1");
    });
    let sockets = Policy {
        sockets_only: true,
        ..policy()
    };
    let expected = CapsHashSet::from([Capability::CAP_NET_BIND_SERVICE]);
    assert_eq!(sockets.kept(), expected);
}

#[test]
fn only_a_credential_plugin_is_started() {
    let start = |policy: Policy| {
        in_thread(|| {
            let _sandbox = Sandbox::enter(&policy).unwrap();
            std::process::Command::new("/bin/true").status().is_ok()
        })
    };
    assert!(!start(policy()));
    assert!(start(Policy {
        credential_plugin: Some("/bin/true".into()),
        ..policy()
    }));
}

#[test]
fn files_can_be_read_but_only_some_written() {
    let folder = tempfile::tempdir().unwrap();
    let writable = folder.path().join("writable");
    std::fs::create_dir(&writable).unwrap();
    let policy = Policy {
        writable: vec![writable.clone()],
        ..policy()
    };
    in_thread(|| {
        let sandbox = Sandbox::enter(&policy).unwrap();
        let landlock = &sandbox.restrictions[2];
        assert!(
            landlock.enforced,
            "needs a kernel with Landlock: {landlock:?}"
        );
        assert!(std::fs::read("/proc/self/status").is_ok());
        std::fs::write(writable.join("state.tmp"), "1").unwrap();
        std::fs::rename(writable.join("state.tmp"), writable.join("state")).unwrap();
        let refused = std::fs::write(folder.path().join("other"), "1").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    });
}

/// The filter is tried in a thread too: it is applied to all threads, so this test runs itself again
/// as a process.
#[test]
fn the_filter_refuses_programs_namespaces_and_packet_sockets() {
    const CHILD: &str = "SLUICE_TEST_FILTER";
    let Ok(programs) = std::env::var(CHILD) else {
        for programs in ["true", "false"] {
            let name = "sandbox::tests::the_filter_refuses_programs_namespaces_and_packet_sockets";
            let output = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", name, "--nocapture"])
                .env(CHILD, programs)
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        return;
    };
    let programs = programs == "true";
    filter::apply(programs).unwrap();
    assert_eq!(status("Seccomp:"), "2");
    assert_eq!(unshare(CloneFlags::CLONE_NEWNET), Err(Errno::EPERM));
    let netns = std::fs::File::open("/proc/self/ns/net").unwrap();
    let entered = nix::sched::setns(&netns, CloneFlags::CLONE_NEWNET);
    assert_eq!(entered, Err(Errno::EPERM));
    let (kind, none) = (SockType::Datagram, SockFlag::empty());
    for family in [
        AddressFamily::Unix,
        AddressFamily::Inet,
        AddressFamily::Inet6,
    ] {
        assert!(socket(family, kind, none, None).is_ok(), "{family:?}");
    }
    let packets = socket(AddressFamily::Packet, kind, none, None);
    assert_eq!(packets.err(), Some(Errno::EPERM));
    let run = std::process::Command::new("/bin/true").status();
    assert_eq!(run.is_ok(), programs, "{run:?}");
    // Threads can still be started.
    in_thread(|| assert_eq!(status("Seccomp:"), "2"));
}
