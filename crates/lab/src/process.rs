//! Processes that outlive the command that started them, and how to end them reliably.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kernel::netns::NetNs;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::os::unix::process::CommandExt;

/// A process. The start time distinguishes it from a later one with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id.
    pub pid: i32,
    /// Start time, clock ticks since boot (proc_pid_stat(5), field 22).
    pub started: u64,
}

impl Process {
    /// Start a command in the background, in its own process group, without input, and with its
    /// errors in a log file.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<(Self, std::process::Child)> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stderr(file)
            // Ctrl-C at the terminal must reach only the foreground command.
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        let pid = i32::try_from(child.id())?;
        let started = started(pid).with_context(|| format!("process {pid} ended at once"))?;
        Ok((Self { pid, started }, child))
    }

    /// Return whether the process runs.
    pub fn is_alive(&self) -> bool {
        matches!(stat(self.pid), Some((state, started)) if state != 'Z' && started == self.started)
    }

    /// Send a signal, unless the process has ended.
    pub fn signal(&self, signal: Signal) {
        if self.is_alive() {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Kill the process and wait until it has ended.
    pub(crate) fn end(&self) -> Result<()> {
        self.signal(Signal::SIGKILL);
        let patience = Instant::now() + Duration::from_secs(5);
        while self.is_alive() {
            if Instant::now() > patience {
                bail!("process {} does not end", self.pid);
            }
            thread::sleep(Duration::from_millis(1));
        }
        reap(self.pid);
        Ok(())
    }
}

/// Reap a child that has ended. Has no effect on processes that are not children.
fn reap(pid: i32) {
    let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
}

/// Return state letter and start time.
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name, in parentheses, may contain any character.
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

fn started(pid: i32) -> Option<u64> {
    stat(pid).map(|(_, started)| started)
}

/// Kill all processes in namespaces, except the caller and its ancestors: a lab may be taken down
/// from a shell inside it. Repeat until none is left, because processes fork.
pub(crate) fn end_all_in(namespaces: &[NetNs]) -> Result<()> {
    let own = own_line();
    let patience = Instant::now() + Duration::from_secs(10);
    loop {
        let mut left = Vec::new();
        for ns in namespaces {
            left.extend(ns.processes()?.into_iter().filter(|pid| !own.contains(pid)));
        }
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > patience {
            bail!("processes {left:?} do not end");
        }
        for &pid in &left {
            match kill(Pid::from_raw(pid), Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(e) => return Err(io::Error::from(e)).with_context(|| format!("killing {pid}")),
            }
        }
        thread::sleep(Duration::from_millis(2));
        left.into_iter().for_each(reap);
    }
}

/// Return this process and its ancestors.
fn own_line() -> BTreeSet<i32> {
    let mut line = BTreeSet::new();
    let mut pid = std::process::id().cast_signed();
    while pid > 0 && line.insert(pid) {
        let parent = fs::read_to_string(format!("/proc/{pid}/stat"))
            .ok()
            .and_then(|text| text.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok());
        pid = parent.unwrap_or(0);
    }
    line
}
