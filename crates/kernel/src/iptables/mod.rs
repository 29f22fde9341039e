//! iptables: the nf_tables back end over netlink ([`NftRules`]), and the programs that save and restore
//! rules of either back end ([`Iptables`]).
//!
//! `netfilter::iptables` defines the rules. [`legacy`] reads and changes the legacy back end's tables
//! without its programs. This module chooses the back end ([`Choice`]), finds the programs, and explains
//! why one refused its input ([`RestoreError`]).

mod choose;
mod extensions;
pub mod legacy;
mod nft_rules;
mod restore;
mod rules;
mod tools;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::{Family, exec, family, netlink};

pub use netfilter::iptables::Table;

pub use choose::{Choice, Evidence, Reason, choose, kube_chains, legacy_tables};
pub use extensions::{ExtensionKind, Extensions};
pub use nft_rules::{Concerns, NftError, NftRules, Undecoded, is_about_chains};
pub use restore::{BadLine, RestoreError};
pub use rules::{Rules, RulesError};
pub use tools::{ParseVersionError, ToolSet, Version};

/// The kernel interface of the tools. Each back end's rules are invisible to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// `iptables-nft`: nf_tables.
    Nft,
    /// `iptables-legacy`: `ip_tables` and `ip6_tables`.
    Legacy,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Nft => "nft",
            Backend::Legacy => "legacy",
        })
    }
}

/// Time limits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest wait of a tool for the xtables lock (its `-w`, whole seconds).
    pub lock_wait: Duration,
    /// Limit of a save.
    pub save: Duration,
    /// Limit of a restore of any size, including the wait for the lock.
    pub restore: Duration,
    /// Additional time for each MiB of its input: `iptables-nft-restore` was measured at 5 s for
    /// 1,000 Services of 10 endpoints, and grows faster than its input.
    pub restore_per_mib: Duration,
}

impl Default for Limits {
    /// kube-proxy waits 5 s for the lock; a save or a small restore gets a minute.
    fn default() -> Self {
        Limits {
            lock_wait: Duration::from_secs(5),
            save: Duration::from_secs(60),
            restore: Duration::from_secs(60),
            restore_per_mib: Duration::from_secs(60),
        }
    }
}

/// Why iptables cannot be used for a family, or a save failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This kernel has no IPv6: a single-family node, not a fault.
    #[error("{0} is disabled in this kernel")]
    FamilyDisabled(Family),
    /// The tools are not installed.
    #[error("no {family} iptables tools found ({wanted}); looked in {searched}")]
    NoTools {
        /// The family.
        family: Family,
        /// The programs that were searched for.
        wanted: String,
        /// The folders that were searched.
        searched: String,
    },
    /// The tools are older than 1.6.2, so that their restore cannot wait for the xtables lock.
    #[error("{program} is version {version}; 1.6.2 or later is needed")]
    TooOld {
        /// The program.
        program: PathBuf,
        /// Its version.
        version: Version,
    },
    /// A tool did not print its version.
    #[error("{program} --version: {cause}")]
    Version {
        /// The program.
        program: PathBuf,
        /// The problem with its answer.
        cause: ParseVersionError,
    },
    /// The legacy tables cannot be accessed.
    #[error(transparent)]
    Legacy(#[from] legacy::LegacyError),
    /// The tool could not be run, or hung.
    #[error(transparent)]
    Exec(#[from] exec::Error),
    /// nf_tables cannot be used.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// The save tool ended with an error.
    #[error("{program} -t {table} failed ({status}): {stderr}")]
    Save {
        /// The program that failed.
        program: PathBuf,
        /// The table.
        table: Table,
        /// The exit status.
        status: std::process::ExitStatus,
        /// Its stderr, trimmed.
        stderr: String,
    },
}

/// The iptables of one family: its tools, back end and version.
#[derive(Clone, Debug)]
pub struct Iptables {
    tools: ToolSet,
    limits: Limits,
    lock_file: Option<PathBuf>,
}

impl Iptables {
    /// Find the family's tools of a given back end.
    ///
    /// # Errors
    /// [`Error::FamilyDisabled`] if the kernel lacks this address family, [`Error::NoTools`] if the
    /// tools are not installed, [`Error::TooOld`].
    pub fn with_backend(family: Family, backend: Backend) -> Result<Self, Error> {
        if !family::in_kernel(family) {
            return Err(Error::FamilyDisabled(family));
        }
        let tools = ToolSet::find(family, backend)?;
        if tools.version < Version::WAITING_RESTORE {
            return Err(Error::TooOld {
                program: tools.restore,
                version: tools.version,
            });
        }
        Ok(Iptables {
            tools,
            limits: Limits::default(),
            lock_file: None,
        })
    }

    /// Use other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Use another lock file than `/run/xtables.lock` (the tools' `XTABLES_LOCKFILE`).
    #[must_use]
    pub fn with_lock_file(mut self, path: PathBuf) -> Self {
        self.lock_file = Some(path);
        self
    }

    /// Return the family.
    pub fn family(&self) -> Family {
        self.tools.family
    }

    /// Return the back end.
    pub fn backend(&self) -> Backend {
        self.tools.backend
    }

    /// Return the version of the tools.
    pub fn version(&self) -> Version {
        self.tools.version
    }

    /// Return whether `-j MASQUERADE` supports `--random-fully` (1.6.2 and later).
    pub fn random_fully(&self) -> bool {
        self.tools.version >= Version::RANDOM_FULLY
    }

    /// Return the rules of a table, as `iptables-save` prints them.
    ///
    /// # Errors
    /// [`Error::Save`] when the tool fails (for example because the kernel lacks the table),
    /// [`Error::Exec`] when it cannot be run or hangs.
    pub fn save(&self, table: Table) -> Result<Vec<u8>, Error> {
        let output = exec::run(
            self.command(&self.tools.save).args(["-t", table.name()]),
            b"",
            self.limits.save,
        )?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(Error::Save {
            program: self.tools.save.clone(),
            table,
            status: output.status,
            stderr: output.stderr.trim().to_owned(),
        })
    }

    /// Apply `input` with one `iptables-restore --noflush -w`: chains that it declares are
    /// emptied and filled, all others are left alone. `--counters` is passed only when the input
    /// has counters to set. The tables of the input are committed one after the other.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub fn restore(&self, input: &[u8]) -> Result<(), RestoreError> {
        let mut command = self.command(&self.tools.restore);
        let wait = self.limits.lock_wait.as_secs().max(1);
        command.args(["--noflush", "-w", &wait.to_string()]);
        if self.tools.version < Version::DEPRECATED_WAIT_INTERVAL {
            // These versions try the lock once a second without an interval (in microseconds).
            command.args(["-W", "100000"]);
        }
        if restore::has_counters(input) {
            command.arg("--counters");
        }
        let mib = u32::try_from(input.len() >> 20).unwrap_or(u32::MAX);
        let limit = self.limits.restore
            + self.limits.lock_wait
            + self.limits.restore_per_mib.saturating_mul(mib);
        let output = exec::run(&mut command, input, limit)?;
        if output.status.success() {
            return Ok(());
        }
        Err(restore::explain(
            &self.tools.restore,
            input,
            &output,
            self.limits.lock_wait,
        ))
    }

    fn command(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new(program);
        if let Some(path) = &self.lock_file {
            command.env("XTABLES_LOCKFILE", path);
        }
        command
    }
}
