//! Network namespaces: named ones as `ip netns` keeps them, and doing things inside one.
//!
//! A named namespace is a bind mount of a namespace's `nsfs` file on `/run/netns/NAME`
//! (ip-netns(8)), so what is made here is seen by `ip netns` and the other way round.

use std::fs::{self, File};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

#[cfg(test)]
mod tests;

/// Where named namespaces live; `ip netns` calls it `NETNS_RUN_DIR`.
pub const RUN_DIR: &str = "/run/netns";

/// What can go wrong with a namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetNsError {
    /// The name cannot be a file name below [`RUN_DIR`].
    #[error(
        "{0:?} cannot name a network namespace: it must be 1 to 255 bytes without '/', and not '.' or '..'"
    )]
    BadName(String),
    /// A step failed.
    #[error("network namespace {name}: {step}: {cause}")]
    Step {
        /// The namespace's name, or `(current)`.
        name: String,
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        cause: io::Error,
    },
    /// The thread that was to work in the namespace panicked.
    #[error("network namespace {0}: the thread working in it panicked")]
    Panicked(String),
}

/// A handle on a network namespace. The namespace lives as long as a handle, a mount or a process
/// holds it.
#[derive(Debug)]
pub struct NetNs {
    name: String,
    file: File,
}

impl NetNs {
    /// Makes a new, empty namespace under a name. Its loopback is down.
    ///
    /// # Errors
    /// The name is taken or no file name; not permitted (needs `CAP_SYS_ADMIN`).
    pub fn create(name: &str) -> Result<Self, NetNsError> {
        let path = path_of(name)?;
        let step = |step| move |cause: io::Error| failed(name, step, cause);
        prepare_run_dir().map_err(step("preparing /run/netns"))?;
        File::options()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(step("making its file in /run/netns"))?;
        // A thread of its own, so that the caller's namespace stays what it is.
        let made = in_thread(name, || {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|e| failed(name, "unshare", e.into()))?;
            mount(
                Some("/proc/thread-self/ns/net"),
                &path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .map_err(|e| failed(name, "mounting it in /run/netns", e.into()))
        });
        if let Err(e) = made {
            let _ = fs::remove_file(&path);
            return Err(e);
        }
        Self::open(name)
    }

    /// Opens a named namespace.
    ///
    /// # Errors
    /// The namespace does not exist or may not be read.
    pub fn open(name: &str) -> Result<Self, NetNsError> {
        let file = File::open(path_of(name)?).map_err(|cause| failed(name, "opening it", cause))?;
        Ok(Self {
            name: name.to_owned(),
            file,
        })
    }

    /// The calling thread's namespace.
    ///
    /// # Errors
    /// `/proc` is not there.
    pub fn current() -> Result<Self, NetNsError> {
        let name = "(current)";
        let file = File::open("/proc/thread-self/ns/net")
            .map_err(|cause| failed(name, "opening it", cause))?;
        Ok(Self {
            name: name.to_owned(),
            file,
        })
    }

    /// Takes a name away. The namespace itself goes once nothing else holds it; a name that is a
    /// leftover file without a namespace goes too.
    ///
    /// # Errors
    /// The namespace does not exist; not permitted.
    pub fn delete(name: &str) -> Result<(), NetNsError> {
        let path = path_of(name)?;
        match umount2(&path, MntFlags::MNT_DETACH) {
            // EINVAL: not a mount point, as after a crash between making the file and the mount.
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(e) => return Err(failed(name, "unmounting it", e.into())),
        }
        fs::remove_file(&path).map_err(|cause| failed(name, "removing its file", cause))
    }

    /// The names of all named namespaces, sorted. None where `/run/netns` is not there.
    ///
    /// # Errors
    /// The folder may not be read.
    pub fn list() -> Result<Vec<String>, NetNsError> {
        let entries = match fs::read_dir(RUN_DIR) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(failed("(all)", "listing /run/netns", e)),
        };
        let mut names: Vec<String> = entries
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The name it was made or opened under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Moves the calling thread into the namespace until the guard is dropped.
    ///
    /// # Errors
    /// Not permitted.
    pub fn enter(&self) -> Result<Entered, NetNsError> {
        let home = Self::current()?;
        setns(&self.file, CloneFlags::CLONE_NEWNET)
            .map_err(|e| failed(&self.name, "entering it", e.into()))?;
        Ok(Entered {
            home,
            not_send: PhantomData,
        })
    }

    /// Runs a closure inside the namespace, on a thread of its own.
    ///
    /// # Errors
    /// Not permitted, or the closure panicked.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, NetNsError> {
        in_thread(&self.name, || {
            setns(&self.file, CloneFlags::CLONE_NEWNET)
                .map_err(|e| failed(&self.name, "entering it", e.into()))?;
            Ok(f())
        })
    }

    /// A command that will run inside the namespace. The handle may be dropped before it is
    /// spawned.
    ///
    /// # Errors
    /// No file descriptor left.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command, NetNsError> {
        let file = self
            .file
            .try_clone()
            .map_err(|cause| failed(&self.name, "duplicating its handle", cause))?;
        let mut command = Command::new(program);
        // SAFETY: runs between fork and exec; setns(2) is a bare system call, it neither allocates
        // nor takes a lock, and the descriptor is owned by the closure.
        unsafe {
            command
                .pre_exec(move || setns(&file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from));
        }
        Ok(command)
    }

    /// The processes (their main threads) that are in the namespace now, by scanning `/proc`.
    /// What vanishes meanwhile, and what may not be looked at, is left out.
    ///
    /// # Errors
    /// `/proc` may not be read.
    pub fn processes(&self) -> Result<Vec<i32>, NetNsError> {
        let step = |step| move |cause| failed(&self.name, step, cause);
        let own = self.file.metadata().map_err(step("reading its inode"))?;
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")
            .map_err(step("listing /proc"))?
            .flatten()
        {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            if let Ok(other) = fs::metadata(entry.path().join("ns/net"))
                && (other.dev(), other.ino()) == (own.dev(), own.ino())
            {
                found.push(pid);
            }
        }
        Ok(found)
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The calling thread is inside a namespace; dropping this takes it back. Stays on its thread.
#[derive(Debug)]
pub struct Entered {
    home: NetNs,
    not_send: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Err(e) = setns(&self.home.file, CloneFlags::CLONE_NEWNET) {
            // Going on in the wrong namespace would program the wrong machine.
            tracing::error!("cannot return from a network namespace: {e}");
            std::process::abort();
        }
    }
}

/// Makes [`RUN_DIR`] a mount point of its own whose mounts propagate, as ip-netns(8) does with the
/// first name. Left to `ip netns`, that would come after our mounts and copy them (`MS_REC`); a
/// name mounted twice cannot be deleted. Holds the same lock as `ip netns` meanwhile.
fn prepare_run_dir() -> io::Result<()> {
    fs::create_dir_all(RUN_DIR)?;
    let folder = File::open(RUN_DIR)?;
    let _lock = Flock::lock(folder, FlockArg::LockExclusive).map_err(|(_, e)| e)?;
    let none = None::<&str>;
    let share = || {
        mount(
            none,
            RUN_DIR,
            none,
            MsFlags::MS_SHARED | MsFlags::MS_REC,
            none,
        )
    };
    match share() {
        // Not a mount point yet.
        Err(Errno::EINVAL) => {
            let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(RUN_DIR), RUN_DIR, none, bind, none)?;
            Ok(share()?)
        }
        other => Ok(other?),
    }
}

fn in_thread<T: Send>(
    name: &str,
    f: impl FnOnce() -> Result<T, NetNsError> + Send,
) -> Result<T, NetNsError> {
    thread::scope(|scope| scope.spawn(f).join())
        .map_err(|_| NetNsError::Panicked(name.to_owned()))?
}

fn path_of(name: &str) -> Result<PathBuf, NetNsError> {
    if name.is_empty()
        || name.len() > 255
        || name.contains(['/', '\0'])
        || name == "."
        || name == ".."
    {
        return Err(NetNsError::BadName(name.to_owned()));
    }
    Ok(Path::new(RUN_DIR).join(name))
}

fn failed(name: &str, step: &'static str, cause: io::Error) -> NetNsError {
    NetNsError::Step {
        name: name.to_owned(),
        step,
        cause,
    }
}
