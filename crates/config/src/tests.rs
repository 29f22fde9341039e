//! Every flag, every field, every refusal.

mod damage;
mod fields;
mod flags;
mod refusals;
mod verdicts;

use clap::Command;

use crate::{ConfigError, KubeProxyConfiguration, Resolved, augment, normalize};

/// Resolve a command line.
fn resolve(args: &[&str]) -> Result<Resolved, String> {
    resolve_with(args, false)
}

fn resolve_with(args: &[&str], strict: bool) -> Result<Resolved, String> {
    let args = std::iter::once("kube-proxy").chain(args.iter().copied());
    let matches = augment(Command::new("kube-proxy"))
        .try_get_matches_from(normalize(args.map(Into::into)))
        .map_err(|e| e.to_string())?;
    Resolved::from_matches(&matches, strict).map_err(|e| e.to_string())
}

/// Write a configuration file with these fields; return its path.
fn config_file(stated: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("config.yaml");
    std::fs::write(&path, file(stated)).expect("written");
    let path = path.to_str().expect("a plain path").to_owned();
    (dir, path)
}

fn file(stated: &str) -> String {
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{stated}\n"
    )
}

/// Resolve a file with these fields.
fn from_file(stated: &str) -> Result<crate::Config, ConfigError> {
    let mut file = KubeProxyConfiguration::from_yaml(&file(stated))?;
    file.set_defaults();
    crate::Config::from_file(file)
}
