//! sluice's own process: its OOM score, priority, memory, limits, and signals.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// A failed operation on the process.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Outside -1000 to 1000 (proc(5)).
    #[error("oom_score_adj {0} is outside -1000 to 1000")]
    OomScoreAdjRange(i32),
    /// The score cannot be lowered without `CAP_SYS_RESOURCE`.
    #[error("cannot set oom_score_adj to {value}: {cause}")]
    OomScoreAdj {
        /// The desired value.
        value: i32,
        /// The reason.
        cause: io::Error,
    },
    /// The number of open files could not be raised.
    #[error("cannot raise the limit of open files: {0}")]
    OpenFiles(Errno),
    /// The priority of a thread could not be lowered.
    #[error("cannot lower the priority of the thread: {0}")]
    Priority(Errno),
    /// Signals could not be set up or waited for.
    #[error("cannot wait for signals: {0}")]
    Signals(Errno),
}

/// Set how likely the kernel is to kill this process when memory runs out: -1000 (never) to 1000.
/// kube-proxy's default is -999.
///
/// # Errors
/// [`Error::OomScoreAdjRange`], [`Error::OomScoreAdj`].
pub fn set_oom_score_adj(value: i32) -> Result<(), Error> {
    const FILE: &str = "/proc/self/oom_score_adj";
    if !(-1000..=1000).contains(&value) {
        return Err(Error::OomScoreAdjRange(value));
    }
    let failed = |cause| Error::OomScoreAdj { value, cause };
    let current = std::fs::read_to_string(FILE).map_err(failed)?;
    if current.trim_end() == value.to_string() {
        return Ok(());
    }
    std::fs::write(FILE, value.to_string()).map_err(failed)
}

/// Return the processor time of the calling thread and of child processes that have ended: the cost of
/// work that starts programs. Zero where the kernel does not report it.
pub fn processor_time() -> Duration {
    let of = |who| {
        let usage = getrusage(who).ok()?;
        let times = [usage.user_time(), usage.system_time()];
        let micros = times.map(|t| t.tv_sec() * 1_000_000 + t.tv_usec());
        u64::try_from(micros.into_iter().sum::<i64>()).ok()
    };
    let both = [UsageWho::RUSAGE_THREAD, UsageWho::RUSAGE_CHILDREN];
    Duration::from_micros(both.into_iter().filter_map(of).sum())
}

/// Let the calling thread run only when no other thread needs the processor (`SCHED_IDLE`, sched(7)).
///
/// # Errors
/// [`Error::Priority`].
pub fn run_when_idle() -> Result<(), Error> {
    let parameters = nix::libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads `parameters`, which lives until the call returns; 0 is the calling thread.
    let result =
        unsafe { nix::libc::sched_setscheduler(0, nix::libc::SCHED_IDLE, &raw const parameters) };
    Errno::result(result).map(drop).map_err(Error::Priority)
}

/// Return freed memory to the kernel, which the allocator keeps otherwise.
pub fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the function reads and writes only the allocator's own data, under its locks.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// Return how many bytes this process may still use, of the node's memory and of its control group's
/// (`MemAvailable`, cgroup v2); `None` if that is unknown.
pub fn available_memory() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let of_node = kibibytes(&meminfo, "MemAvailable:");
    let of_group = (|| {
        let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let folder = std::path::Path::new("/sys/fs/cgroup").join(path);
        let read = |name: &str| {
            let text = std::fs::read_to_string(folder.join(name)).ok()?;
            text.trim().parse::<u64>().ok()
        };
        Some(read("memory.max")?.saturating_sub(read("memory.current")?))
    })();
    Some(of_group.map_or(of_node, |of_group| of_node.min(of_group)))
}

/// Raise the limit of open files, which includes sockets, to the hard limit. Return the limit.
///
/// # Errors
/// [`Error::OpenFiles`].
pub fn raise_open_files() -> Result<u64, Error> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(Error::OpenFiles)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(Error::OpenFiles)?;
    }
    Ok(hard)
}

/// The resources that this process uses, and their limits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs)] // Bytes, files and seconds.
pub struct Usage {
    pub processor_seconds: f64,
    pub open_files: u64,
    pub max_files: u64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    /// `u64::MAX` if unlimited.
    pub max_virtual_bytes: u64,
    /// Bytes of IP packets received in the network namespace, including traffic over loopback.
    pub received_bytes: u64,
    /// Bytes of IP packets sent, likewise.
    pub sent_bytes: u64,
}

/// Return the resources that this process uses. Unknown values are zero.
pub fn usage() -> Usage {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let status = read("/proc/self/status");
    let octets = octets(&read("/proc/self/net/netstat"));
    let limit = |of| getrlimit(of).map_or(0, |(soft, _)| soft);
    let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let seconds = getrusage(UsageWho::RUSAGE_SELF).map_or(0.0, |used| {
        let times = [used.user_time(), used.system_time()];
        let seconds = times.map(|t| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6);
        seconds.iter().sum()
    });
    Usage {
        processor_seconds: seconds,
        open_files: files as u64,
        max_files: limit(Resource::RLIMIT_NOFILE),
        resident_bytes: kibibytes(&status, "VmRSS:"),
        virtual_bytes: kibibytes(&status, "VmSize:"),
        max_virtual_bytes: limit(Resource::RLIMIT_AS),
        received_bytes: octets.0,
        sent_bytes: octets.1,
    }
}

/// Return the value of a line of `/proc/self/status`, in bytes.
fn kibibytes(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// Return `InOctets` and `OutOctets` of `/proc/self/net/netstat`: a line of names, then one of numbers.
fn octets(netstat: &str) -> (u64, u64) {
    let mut lines = netstat.lines().filter(|line| line.starts_with("IpExt:"));
    let (Some(names), Some(numbers)) = (lines.next(), lines.next()) else {
        return (0, 0);
    };
    let of = |wanted: &str| {
        let mut both = names.split_whitespace().zip(numbers.split_whitespace());
        let found = both.find(|(name, _)| *name == wanted);
        found
            .and_then(|(_, number)| number.parse().ok())
            .unwrap_or(0)
    };
    (of("InOctets"), of("OutOctets"))
}

/// How many processors the machine has, whatever share of them this process may use. kube-proxy
/// counts so: its limits are the node's, not its container's.
pub fn online_processors() -> usize {
    let list = std::fs::read_to_string("/sys/devices/system/cpu/online").ok();
    let counted = list.and_then(|list| count_processors(list.trim()));
    counted.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Of the kernel's form: `0-3,6`.
fn count_processors(list: &str) -> Option<usize> {
    let one = |range: &str| -> Option<usize> {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        let (from, to): (usize, usize) = (from.parse().ok()?, to.parse().ok()?);
        (to + 1).checked_sub(from)
    };
    list.split(',').map(one).sum()
}

/// Ends the process silently when whoever reads its output is gone (`… | head`), as other tools do.
/// Rust's programs ignore SIGPIPE, and panic when they print then. Not for those that carry
/// connections: a client that goes away must not end them.
///
/// # Errors
/// [`Error::Signals`].
pub fn end_with_the_reader() -> Result<(), Error> {
    use nix::sys::signal::{SigHandler, signal};
    // SAFETY: the default action runs no code of ours.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }
        .map(drop)
        .map_err(Error::Signals)
}

/// SIGTERM and SIGINT as something to wait for.
#[derive(Debug)]
pub struct Termination {
    signals: SignalFd,
}

impl Termination {
    /// Takes both signals over from now on. To be called before other threads are started, which
    /// inherit that the signals no longer end them.
    ///
    /// # Errors
    /// [`Error::Signals`].
    pub fn take_over() -> Result<Self, Error> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGTERM);
        set.add(Signal::SIGINT);
        set.thread_block().map_err(Error::Signals)?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals = SignalFd::with_flags(&set, flags).map_err(Error::Signals)?;
        Ok(Termination { signals })
    }

    /// Waits for one of them; `None` when the time is over. Those with an event loop wait for
    /// [`Termination::as_fd`] to be readable and call this with no time.
    ///
    /// # Errors
    /// [`Error::Signals`].
    pub fn wait(&self, limit: Duration) -> Result<Option<Signal>, Error> {
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::Signals(errno)),
        }
        let got = self.signals.read_signal().map_err(Error::Signals)?;
        let number = got.and_then(|info| i32::try_from(info.ssi_signo).ok());
        Ok(number.and_then(|number| Signal::try_from(number).ok()))
    }
}

impl AsFd for Termination {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_reports_processor_time_memory_and_files() {
        let before = usage();
        let _more = std::fs::File::open("/proc/self/status").unwrap();
        let pages = vec![1_u8; 64 << 20];
        let after = usage();
        assert!(pages.iter().all(|byte| *byte == 1));
        assert!(
            after.processor_seconds > 0.0 && after.open_files > 3,
            "{after:?}"
        );
        assert!(after.max_files >= after.open_files && after.max_virtual_bytes > 0);
        let grown = after.resident_bytes.saturating_sub(before.resident_bytes);
        assert!(grown > 32 << 20, "{before:?} {after:?}");
        assert!(after.virtual_bytes > after.resident_bytes);
        assert_eq!(
            octets("IpExt: A InOctets OutOctets\nIpExt: 1 2 3\n"),
            (2, 3)
        );
        assert_eq!(octets(""), (0, 0));
    }

    #[test]
    fn the_oom_score_is_set_within_its_range() {
        // Upwards is always permitted; this process' is the test runner's own.
        let before = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        set_oom_score_adj(500).unwrap();
        let after = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        assert_eq!(after.trim(), "500");
        set_oom_score_adj(before.trim().parse().unwrap()).unwrap();
        assert!(matches!(
            set_oom_score_adj(1001),
            Err(Error::OomScoreAdjRange(1001))
        ));
    }

    #[test]
    fn processors_are_counted() {
        for (list, count) in [
            ("0", Some(1)),
            ("0-3", Some(4)),
            ("0-1,4,6-7", Some(5)),
            ("", None),
            ("3-1", None),
            ("a", None),
        ] {
            assert_eq!(count_processors(list), count, "{list}");
        }
        assert!(online_processors() > 0);
    }

    #[test]
    fn a_blocked_signal_is_received_by_waiting() {
        std::thread::spawn(|| {
            let termination = Termination::take_over().unwrap();
            assert_eq!(termination.wait(Duration::ZERO).unwrap(), None);
            let pid = nix::libc::pid_t::from(nix::unistd::getpid());
            let tid = nix::libc::pid_t::from(nix::unistd::gettid());
            for signal in [Signal::SIGTERM, Signal::SIGINT] {
                // SAFETY: no memory is passed; the signal goes to this thread, which blocks it.
                let result =
                    unsafe { nix::libc::syscall(nix::libc::SYS_tgkill, pid, tid, signal as i32) };
                assert_eq!(result, 0);
                let got = termination.wait(Duration::from_secs(5)).unwrap();
                assert_eq!(got, Some(signal));
            }
        })
        .join()
        .unwrap();
    }
}
