//! Shared by the tests on the real kernel.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::process::Command;

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
