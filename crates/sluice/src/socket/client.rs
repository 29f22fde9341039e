//! The asking side.

use std::io::{self, BufRead, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use model::object::Object;
use model::{Event, Interner, Kind};
use serde::Deserialize;
use serde_json::Value;

use super::protocol::{Head, Line, Request, Topic, VERSION};
use super::{FOLDER, Status, default_path};

/// Limit on the time between two lines of an answer. The proxy may be in the middle of a sync.
const PATIENCE: Duration = Duration::from_secs(30);
/// Upper bound on the number of other sockets that a message names.
const MOST: usize = 5;

/// Why no proxy can be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Absent {
    /// No proxy listens.
    #[error("no sluice proxy is running in this network namespace ({place})")]
    NotRunning {
        /// Where it would listen, and other proxies.
        place: String,
    },
    /// The socket cannot be used.
    #[error("cannot ask the proxy at {}", .path.display())]
    Refused { path: PathBuf, source: io::Error },
}

/// An answer in progress.
pub(crate) struct Answer {
    pub(crate) status: Status,
    lines: io::Lines<BufReader<UnixStream>>,
}

/// Send a request to the proxy at `path`, or to that of this network namespace.
pub(crate) fn ask(path: Option<&Path>, get: Topic) -> anyhow::Result<Answer> {
    let path = match path {
        Some(path) => path.to_owned(),
        None => default_path().context("cannot read the network namespace")?,
    };
    let stream = connect(&path)?;
    let asked = talk(stream, get);
    asked.with_context(|| format!("asked the proxy at {}", path.display()))
}

fn connect(path: &Path) -> Result<UnixStream, Absent> {
    UnixStream::connect(path).map_err(|source| {
        let why = match source.kind() {
            io::ErrorKind::NotFound => "does not exist",
            io::ErrorKind::ConnectionRefused => "was left by a process that has ended",
            _ => {
                let path = path.to_owned();
                return Absent::Refused { path, source };
            }
        };
        let place = format!("{} {why}{}", path.display(), others(path));
        Absent::NotRunning { place }
    })
}

/// Name the sockets of other network namespaces.
fn others(path: &Path) -> String {
    let files = std::fs::read_dir(FOLDER).into_iter().flatten().flatten();
    let listens = |file: &PathBuf| file != path && UnixStream::connect(file).is_ok();
    let mut found: Vec<String> = files
        .map(|file| file.path())
        .filter(listens)
        .map(|file| file.display().to_string())
        .collect();
    found.sort();
    let more = found.len().saturating_sub(MOST);
    found.truncate(MOST);
    if more > 0 {
        found.push(format!("{more} more"));
    }
    match found.is_empty() {
        true => String::new(),
        false => format!(
            "; proxies in other network namespaces, for --socket: {}",
            found.join(", ")
        ),
    }
}

fn talk(mut stream: UnixStream, get: Topic) -> anyhow::Result<Answer> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let version = VERSION;
    let mut line = serde_json::to_string(&Request { version, get })?;
    line.push('\n');
    // A proxy that refuses at once has closed the connection, and its reason can be read.
    let _ = stream.write_all(line.as_bytes());
    let mut lines = BufReader::with_capacity(64 << 10, stream).lines();
    let head = lines.next().context("it closed the connection")??;
    let head: Head = serde_json::from_str(&head).context("unknown answer")?;
    if let Some(error) = head.error {
        bail!("it answers: {error}");
    }
    if head.version != VERSION {
        bail!(
            "it speaks version {} of the protocol, not {VERSION}",
            head.version
        );
    }
    let status = *head.status.context("the answer has no status")?;
    Ok(Answer { status, lines })
}

/// The kind of an object, which is read first.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TypeMeta {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    end: Option<usize>,
}

impl Answer {
    /// Read the objects.
    ///
    /// # Errors
    /// The connection ends before the answer does, or an object is malformed.
    pub(crate) fn objects(self) -> anyhow::Result<Vec<Event>> {
        let mut interner = Interner::new();
        let mut events = Vec::new();
        for line in self.lines {
            let line = line?;
            let meta: TypeMeta = serde_json::from_str(&line)?;
            if let Some(end) = meta.end {
                return complete(events, end);
            }
            // A newer proxy may know more kinds.
            let Some(kind) = Kind::of(&meta.api_version, &meta.kind) else {
                bail!(
                    "unknown kind {:?}: use the proxy's version of sluice",
                    meta.kind
                );
            };
            let mut decoder = serde_json::Deserializer::from_str(&line);
            let object = Object::deserialize(kind, &mut decoder)?;
            events.push(object.check(&mut interner)?.value);
        }
        Err(anyhow!(
            "the answer is not complete: the connection was closed"
        ))
    }

    /// Read lines of any kind.
    pub(crate) fn items(self) -> anyhow::Result<Vec<Value>> {
        let mut items = Vec::new();
        for line in self.lines {
            match serde_json::from_str(&line?)? {
                Line::Item(value) => items.push(value),
                Line::End { end } => return complete(items, end),
            }
        }
        Err(anyhow!(
            "the answer is not complete: the connection was closed"
        ))
    }
}

fn complete<T>(items: Vec<T>, end: usize) -> anyhow::Result<Vec<T>> {
    if items.len() == end {
        return Ok(items);
    }
    bail!("the answer has {} lines instead of {end}", items.len())
}
