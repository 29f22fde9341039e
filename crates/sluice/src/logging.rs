//! Logs: text or JSON on standard error, at a verbosity that can change while running.

use std::io::IsTerminal as _;

use anyhow::{Context as _, bail};
use config::LogFormat;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// Changes the verbosity of a running process.
#[derive(Clone)]
pub(crate) struct Verbosity(reload::Handle<EnvFilter, Registry>);

/// What klog's `-v` means here: 0 to 3 what happens, 4 and 5 how, 6 and up everything.
fn filter(v: u32) -> EnvFilter {
    let level = match v {
        0..=3 => "info",
        4..=5 => "debug",
        _ => "trace",
    };
    EnvFilter::new(level)
}

/// Starts logging.
pub(crate) fn start(format: LogFormat, v: u32) -> anyhow::Result<Verbosity> {
    let (filter, handle) = reload::Layer::new(filter(v));
    let registry = tracing_subscriber::registry().with(filter);
    let layer = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    match format {
        LogFormat::Text => registry.with(layer).try_init(),
        LogFormat::Json => registry.with(layer.json()).try_init(),
    }
    .context("cannot start logging")?;
    Ok(Verbosity(handle))
}

impl Verbosity {
    /// Sets the verbosity from the text of a `-v` flag.
    pub(crate) fn set(&self, text: &str) -> anyhow::Result<()> {
        let Ok(v) = text.parse() else {
            bail!("the verbosity is a whole number from 0 to 10, not {text:?}");
        };
        self.0
            .reload(filter(v))
            .context("cannot change the verbosity")
    }
}
