//! Logs in text or JSON, with a verbosity that can change at runtime.

mod format;
mod recent;
mod streams;

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use config::{LogFormat, Logging};
use tracing::Metadata;
use tracing::metadata::LevelFilter;
use tracing::subscriber::Interest;
use tracing_subscriber::layer::{Context, Filter, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, fmt};

pub(crate) use recent::Recent;
use streams::{Held, Streams};

/// The verbosities from which klog shows details, and everything.
const DEBUG_FROM: u32 = 4;
const TRACE_FROM: u32 = 6;

/// Changes the verbosity of a running process.
#[derive(Clone)]
pub(crate) struct Verbosity(Arc<AtomicU32>);

/// Map klog's `-v` to a level: 0 to 3 events, 4 and 5 details, 6 and up everything.
fn level(v: u32) -> LevelFilter {
    match v {
        ..DEBUG_FROM => LevelFilter::INFO,
        DEBUG_FROM..TRACE_FROM => LevelFilter::DEBUG,
        TRACE_FROM.. => LevelFilter::TRACE,
    }
}

/// Filters by the verbosity, globally and per source file.
struct Chosen {
    verbosity: Verbosity,
    /// `vmodule`: the first matching pattern decides.
    files: Vec<(String, u32)>,
}

impl Chosen {
    fn allows(&self, metadata: &Metadata<'_>) -> bool {
        let of_file = self.of_file(metadata.file());
        *metadata.level()
            <= level(of_file.unwrap_or_else(|| self.verbosity.0.load(Ordering::Relaxed)))
    }

    /// klog's rule: a pattern matches the file name without extension, or with a slash the whole
    /// path. A Rust module `mod.rs` has the name of its folder.
    fn of_file(&self, file: Option<&str>) -> Option<u32> {
        let path = Path::new(file?).with_extension("");
        let path = match path.file_name()?.to_str()? {
            "mod" => path.parent()?,
            _ => &path,
        };
        let (path, name) = (path.to_str()?, path.file_name()?.to_str()?);
        let fits =
            |pattern: &str| matches(pattern, if pattern.contains('/') { path } else { name });
        let found = self.files.iter().find(|(pattern, _)| fits(pattern));
        found.map(|(_, v)| *v)
    }
}

/// Return whether a pattern with `*` (any text) and `?` (any character) matches the whole text.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    // Where to extend the match of the last `*`.
    let (mut p, mut t, mut again) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                again = Some((p + 1, t + 1));
                p += 1;
            }
            Some(c) if *c == '?' || Some(c) == text.get(t) => (p, t) = (p + 1, t + 1),
            _ => {
                let Some((after, next)) = again else {
                    return false;
                };
                (p, t, again) = (after, next, Some((after, next + 1)));
            }
        }
    }
    pattern.iter().skip(p).all(|c| *c == '*')
}

impl<S> Filter<S> for Chosen {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        self.allows(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        // Evaluated again whenever the verbosity changes.
        if self.allows(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let files = self.files.iter().map(|(_, v)| *v);
        let most = files.max().unwrap_or(0);
        Some(level(most.max(self.verbosity.0.load(Ordering::Relaxed))))
    }
}

/// Running logging. Dropping it writes the buffered messages.
pub(crate) struct Logs {
    /// Changes the verbosity.
    pub(crate) verbosity: Verbosity,
    /// The last warnings and errors.
    pub(crate) recent: Recent,
    held: Option<Arc<Held>>,
    flush_frequency: Duration,
}

impl Logs {
    /// Write the buffered messages every `flushFrequency` on a separate thread. Call it after
    /// blocking signals: earlier threads would receive them.
    pub(crate) fn keep_flushing(&self) -> anyhow::Result<()> {
        let Some(held) = self.held.clone() else {
            return Ok(());
        };
        let every = self.flush_frequency;
        crate::system::spawn("log", move || {
            loop {
                std::thread::sleep(every);
                held.flush();
            }
        })
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        if let Some(held) = &self.held {
            held.flush();
        }
    }
}

/// Start logging.
pub(crate) fn start(logging: &Logging) -> anyhow::Result<Logs> {
    let verbosity = Verbosity(Arc::new(AtomicU32::new(logging.verbosity)));
    let chosen = Chosen {
        verbosity: verbosity.clone(),
        files: logging.vmodule.clone(),
    };
    let streams = Streams::new(logging);
    let held = streams.held();
    let layer = fmt::layer::<Registry>()
        .with_writer(streams)
        .with_ansi(false);
    let recent = Recent::default();
    let registry = tracing_subscriber::registry();
    match logging.format {
        LogFormat::Text => {
            let layer = layer.event_format(format::TEXT).with_filter(chosen);
            registry.with(layer).with(recent.clone()).try_init()
        }
        LogFormat::Json => {
            let layer = layer.event_format(format::JSON).with_filter(chosen);
            registry.with(layer).with(recent.clone()).try_init()
        }
    }
    .context("cannot start logging")?;
    Ok(Logs {
        verbosity,
        recent,
        held,
        flush_frequency: logging.flush_frequency,
    })
}

/// Start logging text to standard error, for commands other than the proxy.
pub(crate) fn start_plain() -> anyhow::Result<()> {
    fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init()
        .map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}

impl Verbosity {
    /// Set the verbosity from the value of a `-v` flag.
    pub(crate) fn set(&self, text: &str) -> anyhow::Result<()> {
        let Ok(v) = text.parse() else {
            bail!("the verbosity is a whole number from 0 to 10, not {text:?}");
        };
        self.0.store(v, Ordering::Relaxed);
        tracing::callsite::rebuild_interest_cache();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(files: &[(&str, u32)]) -> Chosen {
        Chosen {
            verbosity: Verbosity(Arc::default()),
            files: files.iter().map(|(p, v)| ((*p).to_owned(), *v)).collect(),
        }
    }

    #[test]
    fn patterns_match_as_in_klog() {
        for (pattern, text, fits) in [
            ("engine", "engine", true),
            ("engine", "engines", false),
            ("eng*", "engine", true),
            ("*e", "engine", true),
            ("e*g*e", "engine", true),
            ("e??ine", "engine", true),
            ("e?ine", "engine", false),
            ("*", "", true),
            ("", "engine", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn the_first_pattern_decides_by_file_or_path() {
        let chosen = chosen(&[("eng*", 4), ("*/proxy/*", 2), ("*", 1), ("watch", 9)]);
        let of = |file| chosen.of_file(Some(file));
        assert_eq!(of("crates/sluice/src/proxy/engine.rs"), Some(4));
        assert_eq!(of("crates/sluice/src/proxy/run.rs"), Some(2));
        assert_eq!(of("crates/source/src/watch/mod.rs"), Some(1));
        assert_eq!(chosen.of_file(None), None);
    }
}
