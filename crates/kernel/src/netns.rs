//! Network namespaces: named ones, compatible with `ip netns`, and operations inside one.
//!
//! A named namespace is a bind mount of a namespace's `nsfs` file on `/run/netns/NAME`
//! (ip-netns(8)), so `ip netns` sees the namespaces created here, and vice versa.

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

/// The folder of named namespaces; `ip netns` calls it `NETNS_RUN_DIR`.
pub const RUN_DIR: &str = "/run/netns";

/// A failed operation on a namespace.
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
        /// The step.
        step: &'static str,
        /// The kernel's reason.
        cause: io::Error,
    },
    /// The thread in the namespace panicked.
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
    /// Create an empty, named namespace. Its loopback is down.
    ///
    /// # Errors
    /// The name is in use or not a file name; not permitted (needs `CAP_SYS_ADMIN`).
    pub fn create(name: &str) -> Result<Self, NetNsError> {
        let path = path_of(name)?;
        let step = |step| move |cause: io::Error| failed(name, step, cause);
        prepare_run_dir().map_err(step("preparing /run/netns"))?;
        File::options()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(step("making its file in /run/netns"))?;
        // On a separate thread, so that the caller stays in its namespace.
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

    /// Open a named namespace.
    ///
    /// # Errors
    /// The namespace does not exist or cannot be read.
    pub fn open(name: &str) -> Result<Self, NetNsError> {
        let file = File::open(path_of(name)?).map_err(|cause| failed(name, "opening it", cause))?;
        Ok(Self {
            name: name.to_owned(),
            file,
        })
    }

    /// Return the calling thread's namespace.
    ///
    /// # Errors
    /// `/proc` does not exist.
    pub fn current() -> Result<Self, NetNsError> {
        let name = "(current)";
        let file = File::open("/proc/thread-self/ns/net")
            .map_err(|cause| failed(name, "opening it", cause))?;
        Ok(Self {
            name: name.to_owned(),
            file,
        })
    }

    /// Delete a name. The namespace itself ends when it is no longer in use. A leftover file without a
    /// namespace is deleted too.
    ///
    /// # Errors
    /// The namespace does not exist; not permitted.
    pub fn delete(name: &str) -> Result<(), NetNsError> {
        let path = path_of(name)?;
        match umount2(&path, MntFlags::MNT_DETACH) {
            // EINVAL: not a mount point, as after a crash between the creation of the file and the mount.
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(e) => return Err(failed(name, "unmounting it", e.into())),
        }
        fs::remove_file(&path).map_err(|cause| failed(name, "removing its file", cause))
    }

    /// Return the names of all named namespaces, sorted; none if `/run/netns` does not exist.
    ///
    /// # Errors
    /// The folder cannot be read.
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

    /// Return the name with which it was created or opened.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Move the calling thread into the namespace until the guard is dropped.
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

    /// Run a closure inside the namespace, on a separate thread.
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

    /// Return a command that will run inside the namespace. The handle may be dropped before the command
    /// is spawned.
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

    /// Return the processes (their main threads) in the namespace, by scanning `/proc`. Processes that end
    /// meanwhile or cannot be inspected are left out.
    ///
    /// # Errors
    /// `/proc` cannot be read.
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

/// Keeps the calling thread inside a namespace; dropping it returns to the previous one. It cannot move
/// to another thread.
#[derive(Debug)]
pub struct Entered {
    home: NetNs,
    not_send: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Err(e) = setns(&self.home.file, CloneFlags::CLONE_NEWNET) {
            // Continuing in the wrong namespace would program the wrong host.
            tracing::error!(error = %e, "Cannot return to the previous network namespace; aborting");
            std::process::abort();
        }
    }
}

/// Make [`RUN_DIR`] a mount point whose mounts propagate, as ip-netns(8) does for the first name. If
/// `ip netns` did this later, it would copy our mounts (`MS_REC`), and a name that is mounted twice
/// cannot be deleted. Holds the lock of `ip netns` meanwhile.
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
