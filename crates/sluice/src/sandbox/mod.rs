//! Gives up privileges of this process that the proxy does not need.
//!
//! | restriction | when | still possible |
//! |---|---|---|
//! | capabilities | before the first object is read | programming the kernel's networking; ports below 1024 |
//! | `no_new_privs` | likewise | everything but gaining privileges through a program file |
//! | Landlock (Linux 5.13) | likewise | reading files; writing log files, the xtables lock and state; starting a kubeconfig's credential plugin |
//! | seccomp | once the kernel has everything and other modes' leftovers are removed | no program starts, except a kubeconfig's credential plugin; no namespaces, mounts, modules, tracing; only Unix, IP and netlink sockets |
//!
//! Capabilities and Landlock apply to a thread and those that it starts, so [`Sandbox::enter`] runs
//! before there are others. The seccomp filter applies to all threads. Each restriction is applied
//! where the kernel supports it; the result is in the log, in `/statusz` and in a metric.

mod filter;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use caps::{CapSet, Capability, CapsHashSet};
use landlock::{
    ABI, AccessFs, PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr as _,
    RulesetCreated, RulesetCreatedAttr as _, RulesetError, RulesetStatus,
};
use nix::sys::signal::SigSet;
use observe::{Restriction, Server};

use crate::system::spawn;

/// Folders of programs.
const PROGRAMS: [&str; 6] = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/opt"];
/// The xtables lock, and the folder in which iptables creates it.
const XTABLES_LOCK: &str = "/run/xtables.lock";

/// The operations that the proxy still needs.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// `--listen-map`: the kernel is not programmed.
    pub(crate) sockets_only: bool,
    /// Files that are written, and folders in which files are replaced.
    pub(crate) writable: Vec<PathBuf>,
    /// The program that a kubeconfig names for credentials. It runs whenever these expire.
    pub(crate) credential_plugin: Option<PathBuf>,
}

impl Policy {
    /// Return whether the process keeps starting programs.
    fn runs_programs(&self) -> bool {
        self.credential_plugin.is_some()
    }

    /// Return the capabilities that the process keeps, if it has them.
    fn kept(&self) -> CapsHashSet {
        // For health check ports and --listen-map below 1024.
        let mut kept = CapsHashSet::from([Capability::CAP_NET_BIND_SERVICE]);
        if !self.sockets_only {
            kept.insert(Capability::CAP_NET_ADMIN);
        }
        kept
    }
}

/// Return whether this thread may make the kernel load modules that no request for a feature loads.
pub(crate) fn may_load_modules() -> bool {
    caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_MODULE).unwrap_or(false)
}

/// The restrictions of this process.
pub(crate) struct Sandbox {
    restrictions: Vec<Restriction>,
    sender: Sender<Settled>,
}

impl Sandbox {
    /// Restrict the calling thread and all that it starts from now on. The thread that removes other
    /// modes' leftovers restricts itself.
    pub(crate) fn enter(policy: &Policy) -> anyhow::Result<Self> {
        let (sender, settled) = channel();
        let of_thread = policy.clone();
        spawn("leftovers", move || finish(&of_thread, &settled))?;
        let restrictions = restrict_thread(policy);
        Ok(Sandbox {
            restrictions,
            sender,
        })
    }

    /// Return the restrictions so far.
    pub(crate) fn restrictions(&self) -> Vec<Restriction> {
        let pending = missing("seccomp", "follows when the kernel has everything");
        let mut restrictions = self.restrictions.clone();
        restrictions.push(pending);
        restrictions
    }

    /// Remove what other modes have left, then filter the system calls of all threads, on another
    /// thread: no sync waits for it.
    pub(crate) fn settled(self, server: Server, leftovers: impl FnOnce() + Send + 'static) {
        // The receiver waits for this.
        let _ = self.sender.send(Settled {
            restrictions: self.restrictions,
            server,
            remove_leftovers: Box::new(leftovers),
        });
    }
}

/// The kernel contains everything.
struct Settled {
    restrictions: Vec<Restriction>,
    server: Server,
    remove_leftovers: Box<dyn FnOnce() + Send>,
}

fn finish(policy: &Policy, settled: &Receiver<Settled>) {
    // Another thread handles signals.
    let _ = SigSet::all().thread_block();
    restrict_thread(policy);
    let Ok(settled) = settled.recv() else {
        return;
    };
    (settled.remove_leftovers)();
    let mut restrictions = settled.restrictions;
    restrictions.push(filter(policy));
    tracing::info!(restrictions = %summary(&restrictions), "Restricted this process");
    settled.server.set_restrictions(restrictions);
}

/// Filter the system calls of all threads.
fn filter(policy: &Policy) -> Restriction {
    let programs = policy.runs_programs();
    match filter::apply(programs) {
        Ok(()) if programs => enforced("seccomp", "filter"),
        Ok(()) => enforced("seccomp", "filter without execve"),
        Err(error) => missing("seccomp", error),
    }
}

/// Return the restrictions in one line.
fn summary(restrictions: &[Restriction]) -> String {
    let one = restrictions.iter().map(ToString::to_string);
    one.collect::<Vec<_>>().join(", ")
}

fn enforced(name: &'static str, detail: impl Into<String>) -> Restriction {
    Restriction {
        name,
        enforced: true,
        detail: detail.into(),
    }
}

fn missing(name: &'static str, reason: impl std::fmt::Display) -> Restriction {
    Restriction {
        name,
        enforced: false,
        detail: reason.to_string(),
    }
}

fn restrict_thread(policy: &Policy) -> Vec<Restriction> {
    let no_new_privs = match nix::sys::prctl::set_no_new_privs() {
        Ok(()) => enforced("no_new_privs", "set"),
        Err(errno) => missing("no_new_privs", errno),
    };
    let landlock = match write_and_run_only(policy) {
        Ok(status) => match status.ruleset {
            RulesetStatus::FullyEnforced => enforced("landlock", "files"),
            RulesetStatus::PartiallyEnforced => enforced("landlock", "files, partly"),
            RulesetStatus::NotEnforced => missing("landlock", "not supported by this kernel"),
        },
        Err(error) => missing("landlock", error),
    };
    let capabilities = match drop_capabilities(&policy.kept()) {
        Ok(left) => enforced("capabilities", left),
        Err(error) => missing("capabilities", error),
    };
    vec![capabilities, no_new_privs, landlock]
}

/// Drop all capabilities except those to keep, and return the names of those that are left.
fn drop_capabilities(kept: &CapsHashSet) -> Result<String, caps::errors::CapsError> {
    let has = caps::read(None, CapSet::Permitted)?;
    if has.contains(&Capability::CAP_SETPCAP) {
        // Children get no more than this either.
        for bounding in caps::read(None, CapSet::Bounding)?.difference(kept) {
            caps::drop(None, CapSet::Bounding, *bounding)?;
        }
    }
    let left: CapsHashSet = has.intersection(kept).copied().collect();
    let inheritable = caps::read(None, CapSet::Inheritable)?;
    let inheritable = inheritable.intersection(kept).copied().collect();
    caps::set(None, CapSet::Effective, &left)?;
    caps::set(None, CapSet::Permitted, &left)?;
    caps::set(None, CapSet::Inheritable, &inheritable)?;
    let mut names: Vec<_> = left.iter().map(ToString::to_string).collect();
    names.sort_unstable();
    Ok(if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(" ")
    })
}

/// Allow writing to some files and starting only a credential plugin.
fn write_and_run_only(policy: &Policy) -> Result<RestrictionStatus, RulesetError> {
    let abi = ABI::V5;
    let writing = AccessFs::from_write(abi);
    let mut rules = Ruleset::default()
        .handle_access(writing | AccessFs::Execute)?
        .create()?;
    let lock = Path::new(XTABLES_LOCK);
    let lock = if lock.exists() {
        lock
    } else {
        Path::new("/run")
    };
    let files = policy.writable.iter().map(PathBuf::as_path);
    for path in files.chain([Path::new("/dev/null"), lock]) {
        let Ok(file) = PathFd::new(path) else {
            continue;
        };
        // Rights that only make sense for a folder cannot be granted on a file.
        let rights = if path.is_dir() {
            writing
        } else {
            writing & AccessFs::from_file(abi)
        };
        rules = rules.add_rule(PathBeneath::new(file, rights))?;
    }
    if policy.runs_programs() {
        rules = allow_programs(rules, policy)?;
    }
    rules.restrict_self()
}

/// Allow to start a credential plugin, and the programs that it starts.
fn allow_programs(
    mut rules: RulesetCreated,
    policy: &Policy,
) -> Result<RulesetCreated, RulesetError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = PROGRAMS.into_iter().map(PathBuf::from);
    let plugin = policy.credential_plugin.iter().cloned();
    for folder in folders.chain(std::env::split_paths(&path)).chain(plugin) {
        if let Ok(folder) = PathFd::new(folder) {
            rules = rules.add_rule(PathBeneath::new(folder, AccessFs::Execute))?;
        }
    }
    Ok(rules)
}
