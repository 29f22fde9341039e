//! Finds the iptables tools and their version.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use super::{Backend, Error};
use crate::{Family, exec};

/// Time limit for `--version`.
const VERSION_LIMIT: Duration = Duration::from_secs(10);

/// Folders searched after `$PATH`, which may be incomplete in a container or a systemd unit.
const FOLDERS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/sbin",
    "/sbin",
    "/usr/local/bin",
    "/usr/bin",
    "/bin",
];

/// A version of the iptables tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// The first version whose `iptables-restore` supports `-w`.
    pub const WAITING_RESTORE: Version = Version(1, 6, 2);
    /// The first version whose `MASQUERADE` supports `--random-fully`.
    pub const RANDOM_FULLY: Version = Version(1, 6, 2);
    /// The first version that ignores `-W` with a warning: the wait ends as soon as the lock is free.
    pub const DEPRECATED_WAIT_INTERVAL: Version = Version(1, 8, 8);
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A text without a version.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no version found in {0:?}")]
pub struct ParseVersionError(pub String);

impl FromStr for Version {
    type Err = ParseVersionError;

    /// Parse the output of `iptables --version`: `iptables v1.8.9 (nf_tables)`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let word = text
                .split_whitespace()
                .find_map(|word| word.strip_prefix('v'))?;
            let mut numbers = word.split('.').map(|part| part.parse::<u32>().ok());
            let major = numbers.next()??;
            let minor = numbers.next()??;
            let patch = numbers.next().unwrap_or(Some(0))?;
            Some(Version(major, minor, patch))
        };
        parse().ok_or_else(|| ParseVersionError(text.trim().to_owned()))
    }
}

/// The tools of one family and back end.
#[derive(Clone, Debug)]
pub struct ToolSet {
    /// The family.
    pub family: Family,
    /// The back end.
    pub backend: Backend,
    /// The save tool, such as `iptables-save`.
    pub save: PathBuf,
    /// The restore tool, such as `iptables-restore`.
    pub restore: PathBuf,
    /// The version of the restore tool.
    pub version: Version,
}

impl ToolSet {
    /// Find the tools, first by the back end's own names (`iptables-nft-save`), then by the plain names if
    /// these are of that back end.
    ///
    /// # Errors
    /// [`Error::NoTools`] if they are not installed, or the failure to read their version.
    pub fn find(family: Family, backend: Backend) -> Result<Self, Error> {
        let prefix = prefix(family);
        let own = (
            format!("{prefix}-{backend}-save"),
            format!("{prefix}-{backend}-restore"),
        );
        if let (Some(save), Some(restore)) = (find(&own.0), find(&own.1)) {
            let (version, _) = ask_version(&restore)?;
            return Ok(ToolSet {
                family,
                backend,
                save,
                restore,
                version,
            });
        }
        let plain = (format!("{prefix}-save"), format!("{prefix}-restore"));
        if let (Some(save), Some(restore)) = (find(&plain.0), find(&plain.1)) {
            let (version, of) = ask_version(&restore)?;
            if of == backend {
                return Ok(ToolSet {
                    family,
                    backend,
                    save,
                    restore,
                    version,
                });
            }
        }
        Err(Error::NoTools {
            family,
            wanted: format!("{} and {}, or {} of that back end", own.0, own.1, plain.1),
            searched: folders()
                .iter()
                .map(|folder| folder.display().to_string())
                .collect::<Vec<_>>()
                .join(":"),
        })
    }
}

fn prefix(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "iptables",
        Family::Ipv6 => "ip6tables",
    }
}

fn folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .collect();
    for folder in FOLDERS.map(PathBuf::from) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

fn find(name: &str) -> Option<PathBuf> {
    folders()
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// Return a tool's version and back end. Tools before 1.8 report no back end; they are legacy.
fn ask_version(program: &Path) -> Result<(Version, Backend), Error> {
    let output = exec::run(Command::new(program).arg("--version"), b"", VERSION_LIMIT)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.parse().map_err(|cause| Error::Version {
        program: program.to_owned(),
        cause,
    })?;
    let backend = if text.contains("(nf_tables)") {
        Backend::Nft
    } else {
        Backend::Legacy
    };
    Ok((version, backend))
}
