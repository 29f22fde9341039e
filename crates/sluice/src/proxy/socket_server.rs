//! The serving side of the [`socket`](crate::socket).
//!
//! One thread accepts, and one thread per client answers. No client can delay the proxy: the sync
//! thread only copies references to objects, once per request for them. Clients are limited in number,
//! length of the request and time.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, sync_channel};
use std::time::{Duration, Instant};

use model::Event;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use observe::Server;
use serde::Serialize;

use super::engine::Snapshot;
use super::input::Input;
use crate::logging::Recent;
use crate::socket::protocol::{Head, Line, MAX_REQUEST, Manifest, Request, Topic, VERSION};
use crate::socket::status::{Restriction, Status};
use crate::socket::{Board, FOLDER, plan};
use crate::system::spawn;

/// Interval between attempts to listen, and between checks that the file still exists.
const RETRY: Duration = Duration::from_secs(5);
/// Upper bound on the number of clients that are served at the same time.
const MAX_CLIENTS: usize = 8;
/// Limit on the time in which a client must have sent its request.
const REQUEST: Duration = Duration::from_secs(5);
/// Limit on the time in which a client must read something.
const PROGRESS: Duration = Duration::from_secs(10);
/// Limit on the time in which a client must have read the answer.
const ANSWER: Duration = Duration::from_secs(120);
/// How long to wait for the sync thread, which may be in the middle of a sync.
const SNAPSHOT: Duration = Duration::from_secs(20);

/// The sources of the answers.
#[derive(Clone)]
pub(crate) struct Knowledge {
    pub(crate) board: Board,
    pub(crate) recent: Recent,
    pub(crate) server: Server,
    /// The sync thread, which has the objects and the plan.
    pub(crate) inputs: Sender<Input>,
}

/// Create the folder of a socket, and close the default folder to others.
pub(crate) fn prepare_folder(path: &Path) -> io::Result<()> {
    let Some(folder) = path.parent() else {
        return Ok(());
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    // A volume of a Pod is open to everyone.
    if folder == Path::new(FOLDER) && fs::metadata(folder)?.mode() & 0o777 != 0o700 {
        fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Removes the socket's file when the proxy ends.
pub(crate) struct Serving(PathBuf);

impl Drop for Serving {
    fn drop(&mut self) {
        // A socket of a process that listens belongs to a successor.
        if owner(&self.0).is_none_or(|process| process == std::process::id()) {
            let _ = fs::remove_file(&self.0);
        }
    }
}

/// Return the process that listens on a socket, if any; 0 if it is in another process namespace.
fn owner(path: &Path) -> Option<u32> {
    let stream = UnixStream::connect(path).ok()?;
    let peer = getsockopt(&stream, PeerCredentials).ok()?;
    u32::try_from(peer.pid()).ok()
}

/// Serve on a thread of its own until the process ends.
pub(crate) fn start(path: PathBuf, knowledge: Knowledge) -> anyhow::Result<Serving> {
    let serving = Serving(path.clone());
    spawn("socket", move || {
        let mut reported = None;
        loop {
            match listen(&path) {
                Ok(listener) => {
                    tracing::debug!(path = %path.display(), "Listening for other commands");
                    reported = None;
                    serve(&path, &listener, &knowledge);
                }
                Err(error) => {
                    let error = error.to_string();
                    if reported.as_ref() != Some(&error) {
                        tracing::warn!(
                            path = %path.display(),
                            error,
                            retry_in = ?RETRY,
                            "Socket for other commands not available; retrying"
                        );
                        reported = Some(error);
                    }
                }
            }
            std::thread::sleep(RETRY);
        }
    })?;
    Ok(serving)
}

/// Remove the sockets that killed processes of other network namespaces have left in the default folder.
/// A socket that can be seen there is listening until its process ends, see [`listen`].
pub(super) fn remove_abandoned(folder: &Path) {
    let is_socket = |path: &PathBuf| path.extension().is_some_and(|e| e == "sock");
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    for path in files.map(|file| file.path()).filter(is_socket) {
        let refused = UnixStream::connect(&path).err();
        if refused.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            let _ = fs::remove_file(&path);
        }
    }
}

/// Listen. A file that a killed process left is replaced, without a moment in which it is missing or
/// open to others.
fn listen(path: &Path) -> io::Result<UnixListener> {
    prepare_folder(path)?;
    if let Some(process) = owner(path) {
        let process = match process {
            0 => "a process in another container".to_owned(),
            process => format!("process {process}"),
        };
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("another proxy serves it: {process}"),
        ));
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let new = path.with_file_name(name);
    let _ = fs::remove_file(&new);
    let listener = UnixListener::bind(&new)?;
    let renamed = fs::set_permissions(&new, Permissions::from_mode(0o600))
        .and_then(|()| listener.set_nonblocking(true))
        .and_then(|()| fs::rename(&new, path));
    if renamed.is_err() {
        let _ = fs::remove_file(&new);
    }
    if path.starts_with(FOLDER) {
        remove_abandoned(Path::new(FOLDER));
    }
    renamed.map(|()| listener)
}

/// Accept clients until the socket's file is removed or replaced.
fn serve(path: &Path, listener: &UnixListener, knowledge: &Knowledge) {
    let file = |path: &Path| fs::symlink_metadata(path).map(|m| (m.dev(), m.ino())).ok();
    let own = file(path);
    let clients = Arc::new(AtomicUsize::new(0));
    let timeout = PollTimeout::try_from(RETRY).unwrap_or(PollTimeout::MAX);
    while own.is_some() && file(path) == own {
        let _ = poll(
            &mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)],
            timeout,
        );
        let Ok((stream, _)) = listener.accept() else {
            continue;
        };
        let client = Client::new(&clients);
        if clients.load(Ordering::Relaxed) > MAX_CLIENTS {
            refuse(&stream, "too many clients");
            continue;
        }
        let knowledge = knowledge.clone();
        // If no thread can be created, the connection is closed.
        let _ = std::thread::Builder::new()
            .name("socket-client".to_owned())
            .spawn(move || {
                let _client = client;
                // A client that went away or is too slow has no other effect.
                let _ = answer(stream, &knowledge);
            });
    }
}

/// Counts a client while it exists.
struct Client(Arc<AtomicUsize>);

impl Client {
    fn new(all: &Arc<AtomicUsize>) -> Self {
        all.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(all))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Send a refusal, if it fits into the socket's buffer.
fn refuse(stream: &UnixStream, error: &str) {
    let _ = stream.set_nonblocking(true);
    let _ = write_line(&mut &*stream, &Head::refusal(error));
}

fn write_line(to: &mut impl Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *to, line)?;
    to.write_all(b"\n")
}

/// Read one request and answer it.
fn answer(stream: UnixStream, knowledge: &Knowledge) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let peer = getsockopt(&stream, PeerCredentials)?;
    if peer.uid() != 0 && peer.uid() != nix::unistd::geteuid().as_raw() {
        refuse(&stream, "only root may ask");
        return Ok(());
    }
    let request = match read_request(&stream) {
        Ok(request) => request,
        Err(error) => {
            refuse(&stream, &error.to_string());
            return Ok(());
        }
    };
    stream.set_write_timeout(Some(PROGRESS))?;
    let mut to = BufWriter::with_capacity(64 << 10, Patient::new(stream, ANSWER));
    let snapshot = match request.get {
        Topic::Status => None,
        Topic::Objects | Topic::Plan => match snapshot(knowledge) {
            Ok(snapshot) => Some(snapshot),
            Err(error) => {
                write_line(&mut to, &Head::refusal(error))?;
                return to.flush();
            }
        },
    };
    let head = Head {
        version: VERSION,
        error: None,
        status: Some(Box::new(status(knowledge))),
    };
    write_line(&mut to, &head)?;
    let end = match (request.get, snapshot) {
        (Topic::Objects, Some(snapshot)) => write_objects(&mut to, snapshot.objects)?,
        (Topic::Plan, Some(snapshot)) => write_plan(&mut to, &snapshot)?,
        _ => 0,
    };
    write_line(&mut to, &Line::End { end })?;
    to.flush()
}

fn read_request(stream: &UnixStream) -> io::Result<Request> {
    let timed = Patient::new(stream.try_clone()?, REQUEST);
    let mut line = String::new();
    BufReader::new(timed.take(MAX_REQUEST)).read_line(&mut line)?;
    let request: Request = serde_json::from_str(&line)
        .map_err(|error| io::Error::other(format!("cannot read the request: {error}")))?;
    if request.version != VERSION {
        let version = request.version;
        return Err(io::Error::other(format!(
            "protocol version {version} is not supported, only {VERSION}: use the same version of \
             sluice as the running proxy"
        )));
    }
    Ok(request)
}

/// Ask the sync thread.
fn snapshot(knowledge: &Knowledge) -> Result<Snapshot, String> {
    let (to, from) = sync_channel(1);
    let ended = "the proxy is ending".to_owned();
    knowledge
        .inputs
        .send(Input::Snapshot(to))
        .map_err(|_| ended.clone())?;
    from.recv_timeout(SNAPSHOT).map_err(|error| match error {
        std::sync::mpsc::RecvTimeoutError::Timeout => {
            let troubles = knowledge.board.get().troubles().join("; ");
            format!(
                "the proxy has been busy with a sync for {} s: {troubles}",
                SNAPSHOT.as_secs()
            )
        }
        std::sync::mpsc::RecvTimeoutError::Disconnected => {
            "the proxy is starting; try again".to_owned()
        }
    })
}

fn status(knowledge: &Knowledge) -> Status {
    let mut status = knowledge.board.get();
    status.healthy = knowledge.server.is_healthy();
    status.warnings = knowledge.recent.get();
    let restrictions = knowledge.server.restrictions().into_iter();
    status.sandbox = restrictions
        .map(|r| Restriction {
            name: r.name.to_owned(),
            enforced: r.enforced,
            detail: r.detail,
        })
        .collect();
    status
}

/// Write all objects, and release each as soon as it is written.
fn write_objects(to: &mut impl Write, objects: Vec<Event>) -> io::Result<usize> {
    let mut count = 0;
    for object in objects.into_iter().filter_map(|event| event.restate()) {
        write_line(to, &Manifest::of(&object))?;
        count += 1;
    }
    Ok(count)
}

fn write_plan(to: &mut impl Write, snapshot: &Snapshot) -> io::Result<usize> {
    let mut count = 0;
    for (family, ports) in &snapshot.plans {
        for port in ports {
            write_line(to, &plan::port(*family, port))?;
            count += 1;
        }
    }
    Ok(count)
}

/// A stream that fails when its time is up.
struct Patient {
    stream: UnixStream,
    until: Instant,
}

impl Patient {
    fn new(stream: UnixStream, limit: Duration) -> Self {
        let until = Instant::now() + limit;
        Self { stream, until }
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(left)
    }
}

impl io::Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer)
    }
}

impl Write for Patient {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.left()?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
