//! Runs a program with a deadline.
//!
//! One `poll` loop feeds stdin and gathers stdout and stderr, so no thread is needed and a tool
//! that neither reads nor writes cannot hang the caller: at the deadline its process group is
//! killed.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Interval between checks for the exit of a child that closed its outputs.
const EXIT_POLL: Duration = Duration::from_millis(1);
/// Time until a killed child is left to a thread that reaps it.
const KILL_GRACE: Duration = Duration::from_millis(500);

/// The result of a program that ended.
#[derive(Debug)]
pub struct Output {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its stdout.
    pub stdout: Vec<u8>,
    /// Its stderr, as text.
    pub stderr: String,
}

/// A program that could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be started, or reading from or writing to it failed.
    #[error("cannot run {program}: {cause}")]
    Io {
        /// The program's path.
        program: String,
        /// The reason.
        cause: io::Error,
    },
    /// It did not end by its deadline and was killed.
    #[error("{program} did not end within {after:?} and was killed; it wrote: {stderr:?}")]
    TimedOut {
        /// The program's path.
        program: String,
        /// The time it was given.
        after: Duration,
        /// Its stderr until then.
        stderr: String,
    },
}

/// Run `command` with `input` on its stdin, for at most `limit`, and return its output.
///
/// The tool runs in its own process group and in the C locale, since its messages are parsed.
///
/// # Errors
/// See [`Error`]. A non-zero exit status is not an error here: see [`Output::status`].
pub fn run(command: &mut Command, input: &[u8], limit: Duration) -> Result<Output, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let deadline = Instant::now() + limit;
    let io = |cause| Error::Io {
        program: program.clone(),
        cause,
    };
    let mut child = command
        .env("LC_ALL", "C")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(io)?;
    let mut out = Vec::new();
    let mut err = Vec::new();
    let finished = match converse(&mut child, input, deadline, &mut out, &mut err) {
        Ok(true) => wait_until(&mut child, deadline),
        Ok(false) => Ok(None),
        Err(error) => Err(error),
    };
    let stderr = String::from_utf8_lossy(&err).into_owned();
    match finished {
        Ok(Some(status)) => Ok(Output {
            status,
            stdout: out,
            stderr,
        }),
        Ok(None) => {
            kill(child);
            Err(Error::TimedOut {
                program,
                after: limit,
                stderr,
            })
        }
        Err(error) => {
            kill(child);
            Err(io(error))
        }
    }
}

/// Write to and read from the child until it has closed both outputs; `false` at the deadline.
fn converse(
    child: &mut Child,
    input: &[u8],
    deadline: Instant,
    out: &mut Vec<u8>,
    err: &mut Vec<u8>,
) -> io::Result<bool> {
    let mut stdin = child.stdin.take();
    let mut stdout = child.stdout.take();
    let mut stderr = child.stderr.take();
    if let Some(pipe) = &stdin {
        non_blocking(pipe)?;
    }
    if let Some(pipe) = &stdout {
        non_blocking(pipe)?;
    }
    if let Some(pipe) = &stderr {
        non_blocking(pipe)?;
    }
    let mut rest = input;
    while stdout.is_some() || stderr.is_some() {
        if rest.is_empty() {
            stdin = None;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let mut waiting = Vec::with_capacity(3);
        if let Some(pipe) = &stdin {
            waiting.push(PollFd::new(pipe.as_fd(), PollFlags::POLLOUT));
        }
        if let Some(pipe) = &stdout {
            waiting.push(PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
        }
        if let Some(pipe) = &stderr {
            waiting.push(PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut waiting, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if let Some(pipe) = &mut stdin {
            match pipe.write(rest) {
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                // The program ended early; stderr and exit status show the reason.
                Err(e) if e.kind() == ErrorKind::BrokenPipe => rest = &[],
                Err(e) if is_transient(&e) => {}
                Err(e) => return Err(e),
            }
        }
        drain(&mut stdout, out)?;
        drain(&mut stderr, err)?;
    }
    Ok(true)
}

/// Read all available bytes; drop the pipe at its end.
fn drain<R: Read>(pipe: &mut Option<R>, into: &mut Vec<u8>) -> io::Result<()> {
    let Some(reader) = pipe else { return Ok(()) };
    let mut chunk = [0_u8; 64 * 1024];
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => {
                *pipe = None;
                return Ok(());
            }
            Ok(n) => into.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn non_blocking(pipe: &impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(pipe, FcntlArg::F_GETFL)?);
    fcntl(pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Wait until the child ends; `None` at the deadline.
fn wait_until(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(EXIT_POLL);
    }
}

/// Kill the child's process group and reap it; in the background if it is inside an uninterruptible
/// system call.
fn kill(mut child: Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // The group may already have ended.
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
    if !matches!(
        wait_until(&mut child, Instant::now() + KILL_GRACE),
        Ok(Some(_))
    ) {
        std::thread::spawn(move || child.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn large_input_and_output_do_not_deadlock() {
        let input = vec![b'x'; 3 << 20];
        let output = run(&mut Command::new("cat"), &input, Duration::from_secs(30)).unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout, input);
    }

    #[test]
    fn exit_status_and_stderr_are_kept() {
        let output = run(
            &mut shell("echo no >&2; exit 4"),
            b"",
            Duration::from_secs(30),
        );
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(4));
        assert_eq!(output.stderr, "no\n");
    }

    #[test]
    fn unread_input_is_not_an_error() {
        let output = run(
            &mut shell("exit 3"),
            &vec![0; 1 << 20],
            Duration::from_secs(30),
        );
        assert_eq!(output.unwrap().status.code(), Some(3));
    }

    #[test]
    fn a_hung_tool_is_killed_with_its_children() {
        let error = run(
            &mut shell("echo so far >&2; sleep 600 & wait"),
            b"",
            Duration::from_millis(200),
        );
        match error {
            Err(Error::TimedOut { stderr, .. }) => assert_eq!(stderr, "so far\n"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(
            &mut Command::new("/nowhere/iptables-restore"),
            b"",
            Duration::from_secs(1),
        );
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("/nowhere/iptables-restore")
        );
    }
}
