//! Reads the input of a command: a configuration, and the objects of a source.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use config::{Config, KubeProxyConfiguration};
use model::{Event, Mode};
use source::{Batch, Source};

/// Read the configuration file `path`, or the defaults; `mode` replaces the configured mode.
pub(crate) fn read_config(path: Option<&Path>, mode: Option<Mode>) -> anyhow::Result<Config> {
    let mut file = match path {
        None => KubeProxyConfiguration::defaulted(),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let (file, ignored) = KubeProxyConfiguration::from_yaml_lenient(&text)
                .with_context(|| format!("in {}", path.display()))?;
            if !ignored.is_empty() {
                let fields: Vec<_> = ignored.iter().map(ToString::to_string).collect();
                eprintln!("sluice: {}: ignored {}", path.display(), fields.join(", "));
            }
            file
        }
    };
    if let Some(mode) = mode {
        mode.name().clone_into(&mut file.mode);
    }
    file.set_defaults();
    Ok(Config::from_file(file)?)
}

/// Wait for a source's first complete list.
pub(crate) fn first_list(source: impl Source) -> anyhow::Result<Batch> {
    list(source, None)
}

/// Wait for a source's first complete list, for no longer than `limit` between two batches.
pub(crate) fn first_list_within(source: impl Source, limit: Duration) -> anyhow::Result<Batch> {
    list(source, Some(limit))
}

fn list(source: impl Source, limit: Option<Duration>) -> anyhow::Result<Batch> {
    let (sender, batches) = std::sync::mpsc::channel();
    let _running = source
        .start(move |batch| match sender.send(batch) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        })
        .context("cannot follow the objects")?;
    let mut all = Batch::default();
    while !all.initial_list_complete {
        let batch = match limit {
            None => batches
                .recv()
                .context("the source of objects ended before its first complete list")?,
            Some(limit) => batches.recv_timeout(limit).with_context(|| {
                let problems: Vec<String> = all.problems.iter().map(ToString::to_string).collect();
                format!(
                    "cannot list the objects of the API server: {}",
                    problems.join("; ")
                )
            })?,
        };
        all.events.extend(batch.events);
        all.problems.extend(batch.problems);
        all.initial_list_complete = batch.initial_list_complete;
    }
    Ok(all)
}

/// Refuse a name that no Node has, if the objects contain Nodes.
pub(crate) fn known_node(events: &[Event], name: &str) -> anyhow::Result<()> {
    diagnose::explain::node_name(events, Some(name), String::new(), &[]).map(drop)
}
