//! A lab's files: `/run/sluice-lab/NAME/`.
//!
//! - `state.json`: the cluster and the started processes;
//! - `manifests/`: the objects that each node's proxy follows, one per file;
//! - `logs/`: logs of proxies and echo servers;
//! - `lock`: locked while a command changes the lab.
//!
//! Even if all of it is lost, `lab down` finds the lab by its namespaces.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::control::{Cluster, PodId};
use crate::names::LabName;
use crate::process::Process;

/// The folder of all labs.
pub const STATE_DIR: &str = "/run/sluice-lab";

/// The command that runs on every node, followed by `--manifests DIR --hostname-override NODE`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyCommand {
    /// Program and arguments.
    pub argv: Vec<String>,
}

/// The state of a lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// The control plane.
    pub cluster: Cluster,
    /// Program and first arguments of the echo server.
    pub echo: Vec<String>,
    /// The proxy on each node.
    pub proxy: Option<ProxyCommand>,
    /// The echo server of each pod.
    pub pods: BTreeMap<PodId, Process>,
    /// The proxy of each node.
    pub proxies: BTreeMap<String, Process>,
}

/// A lab's folder.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Return a lab's folder, which need not exist.
    pub fn of(lab: &LabName) -> Self {
        Self(Path::new(STATE_DIR).join(lab.to_string()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Return the folder of the objects.
    pub fn manifests(&self) -> PathBuf {
        self.0.join("manifests")
    }

    /// Return the path of a log.
    pub fn log(&self, of: &str) -> PathBuf {
        self.0.join("logs").join(format!("{of}.log"))
    }

    pub(crate) fn create(&self) -> Result<()> {
        fs::create_dir_all(STATE_DIR).with_context(|| format!("creating {STATE_DIR}"))?;
        fs::create_dir(&self.0).with_context(|| format!("creating {}", self.0.display()))?;
        for folder in ["manifests", "logs"] {
            fs::create_dir(self.0.join(folder))?;
        }
        File::create(self.0.join("lock"))?;
        Ok(())
    }

    /// Delete the folder, and [`STATE_DIR`] if it is empty.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let _ = fs::remove_dir(STATE_DIR);
        Ok(())
    }

    /// Wait until no other command changes the lab, and lock it.
    pub(crate) fn lock(&self) -> Result<Flock<File>> {
        let path = self.0.join("lock");
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, e)| io::Error::from(e))
            .with_context(|| format!("locking {}", path.display()))?;
        if lock.metadata()?.nlink() == 0 {
            bail!("another command took the lab down");
        }
        Ok(lock)
    }

    pub(crate) fn load(&self) -> Result<State> {
        let path = self.0.join("state.json");
        let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
    }

    pub(crate) fn save(&self, state: &State) -> Result<()> {
        self.replace("state.json", &serde_json::to_vec(state)?)
    }

    /// Write the objects into `manifests/`. Unchanged files are not written.
    pub(crate) fn publish(&self, objects: &BTreeMap<String, Value>) -> Result<()> {
        for (file, object) in objects {
            let mut text = serde_json::to_vec_pretty(object)?;
            text.push(b'\n');
            let known = fs::read(self.manifests().join(file));
            if known.map_or(true, |known| known != text) {
                self.replace(&format!("manifests/{file}"), &text)?;
            }
        }
        for entry in fs::read_dir(self.manifests())? {
            let entry = entry?;
            let stale = entry
                .file_name()
                .to_str()
                .is_none_or(|f| !objects.contains_key(f));
            if stale {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Replace a file atomically.
    fn replace(&self, file: &str, text: &[u8]) -> Result<()> {
        let fresh = self.0.join("fresh");
        let path = self.0.join(file);
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, &path))
            .with_context(|| format!("writing {}", path.display()))
    }
}
