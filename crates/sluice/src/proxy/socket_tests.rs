//! Server and client, with clients that do not keep to the protocol.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use model::{Event, IpFamily, Mode};
use observe::{Metrics, Options, Pages, Server};
use plan::Planner;
use plan::testing::{big_cluster, big_cluster_settings};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::engine::Snapshot;
use super::input::Input;
use super::socket_server::{Knowledge, Serving, start};
use crate::logging::Recent;
use crate::socket::client::{Absent, ask};
use crate::socket::protocol::Topic;
use crate::socket::{Board, Status};

/// A server, and the end of the channel that the sync thread reads.
struct Fixture {
    folder: TempDir,
    inputs: Option<Receiver<Input>>,
    board: Board,
    serving: Option<Serving>,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut fixture = Self {
            inputs: None,
            board: Board::new(Status::starting("node1", Mode::Nftables, Value::Null)),
            serving: None,
            folder,
        };
        fixture.serve();
        fixture
    }

    fn serve(&mut self) {
        let (sender, inputs) = channel();
        let knowledge = Knowledge {
            board: self.board.clone(),
            recent: Recent::default(),
            server: server(),
            inputs: sender,
        };
        self.serving = Some(start(self.path(), knowledge).unwrap());
        self.inputs = Some(inputs);
        eventually(|| UnixStream::connect(self.path()).is_ok());
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("run/sluice.sock")
    }

    /// Answer as the sync thread does.
    fn answer_with(&mut self, events: Vec<Event>) {
        let inputs = self.inputs.take().unwrap();
        std::thread::spawn(move || {
            for input in inputs {
                let Input::Snapshot(to) = input else { continue };
                let mut planner = Planner::new(big_cluster_settings());
                planner.apply_all(events.clone());
                planner.take_diff();
                let ports = planner.plan(IpFamily::V4).ports.values().cloned();
                let snapshot = Snapshot {
                    objects: planner.objects(),
                    is_complete: true,
                    is_settled: true,
                    plans: vec![(IpFamily::V4, ports.collect())],
                };
                let _ = to.try_send(snapshot);
            }
        });
    }

    fn send(&self, text: &[u8]) -> UnixStream {
        let mut stream = UnixStream::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(text).unwrap();
        stream
    }

    /// Return the first line of the answer to some bytes.
    fn answer_to(&self, text: &[u8]) -> Value {
        let mut line = String::new();
        BufReader::new(self.send(text))
            .read_line(&mut line)
            .unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line:?}: {e}"))
    }
}

const LIMIT: Duration = Duration::from_secs(60);

fn server() -> Server {
    let options = Options {
        healthz: None,
        metrics: None,
        bind_hard_fail: false,
        health_timeout: Duration::from_secs(60),
        pages: Pages {
            proxy_mode: "nftables".to_owned(),
            configz: Value::Null,
            flags: None,
            statusz: false,
            version: String::new(),
            started: std::time::SystemTime::now(),
        },
        set_verbosity: None,
        before_scrape: Box::new(|_| {}),
        listen_failed: Box::new(|_, _, _| {}),
    };
    Server::start(options, Metrics::new(Mode::Nftables).unwrap()).unwrap()
}

fn eventually(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn request(get: &str) -> Vec<u8> {
    format!("{}\n", json!({"version": 1, "get": get})).into_bytes()
}

#[test]
fn socket_and_folder_are_for_root_only() {
    let fixture = Fixture::new();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&fixture.path()), 0o600);
    assert_eq!(mode(fixture.path().parent().unwrap()), 0o700);
    let left: Vec<_> = fs::read_dir(fixture.path().parent().unwrap())
        .unwrap()
        .collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn client_receives_the_status() {
    let fixture = Fixture::new();
    fixture.board.update(|status| status.services = 7);
    let answer = ask(Some(&fixture.path()), Topic::Status).unwrap();
    let status = &answer.status;
    assert_eq!((&*status.node, status.services), ("node1", 7));
    assert_eq!(status.process, std::process::id());
    assert_eq!(answer.items().unwrap(), Vec::<Value>::new());
}

#[test]
fn client_receives_the_objects_and_the_plan() {
    let mut fixture = Fixture::new();
    let events = big_cluster(200, 3);
    fixture.answer_with(events.clone());
    let answer = ask(Some(&fixture.path()), Topic::Objects).unwrap();
    let keys = |events: &[Event]| {
        let mut keys: Vec<_> = events.iter().map(Event::key).collect();
        keys.sort_unstable();
        keys
    };
    assert_eq!(keys(&answer.objects().unwrap()), keys(&events));
    let answer = ask(Some(&fixture.path()), Topic::Plan).unwrap();
    let ports = answer.items().unwrap();
    assert_eq!(ports.len(), 200);
    for port in &ports {
        assert_eq!(port["family"], "IPv4");
        assert_eq!(port["frontends"][0]["kind"], "ClusterIP", "{port}");
        assert_eq!(port["endpoints"].as_array().unwrap().len(), 3, "{port}");
    }
}

#[test]
fn requests_that_are_not_understood_get_a_reason() {
    let fixture = Fixture::new();
    let long = vec![b'x'; 100_000];
    let cases: [(&[u8], &str); 6] = [
        (b"\n", "cannot read the request"),
        (b"GET / HTTP/1.1\r\n\r\n", "cannot read the request"),
        (b"{\"version\":1,\"get\":\"secrets\"}\n", "unknown variant"),
        (
            b"{\"version\":2,\"get\":\"status\"}\n",
            "protocol version 2 is not supported",
        ),
        (b"\xff\xfe\n", "UTF-8"),
        (&long[..4096], "cannot read the request"),
    ];
    for (text, reason) in cases {
        let answer = fixture.answer_to(text);
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains(reason), "{reason}: {answer}");
    }
    // The server closes the connection before everything is read.
    let mut stream = UnixStream::connect(fixture.path()).unwrap();
    let _ = stream.write_all(&long);
    ask(Some(&fixture.path()), Topic::Status).unwrap();
}

#[test]
fn silent_and_slow_clients_do_not_keep_others_out() {
    let mut fixture = Fixture::new();
    fixture.answer_with(big_cluster(2000, 3));
    // Half a request each; and a client that does not read its answer.
    let mut silent: Vec<UnixStream> = (0..6).map(|_| fixture.send(b"{\"version\":")).collect();
    silent.push(fixture.send(&request("objects")));
    ask(Some(&fixture.path()), Topic::Status).unwrap();
    silent.extend((0..10).map(|_| UnixStream::connect(fixture.path()).unwrap()));
    let answer = fixture.answer_to(b"");
    assert_eq!(answer["error"], "too many clients");
    // Requests that are never sent are given up.
    eventually(|| ask(Some(&fixture.path()), Topic::Status).is_ok());
    drop(silent);
}

#[test]
fn client_that_leaves_in_the_middle_has_no_effect() {
    let mut fixture = Fixture::new();
    fixture.answer_with(big_cluster(2000, 3));
    for _ in 0..20 {
        let mut stream = fixture.send(&request("objects"));
        let mut some = [0; 1000];
        stream.read_exact(&mut some).unwrap();
    }
    eventually(|| {
        ask(Some(&fixture.path()), Topic::Objects).is_ok_and(|answer| answer.objects().is_ok())
    });
}

#[test]
fn objects_are_refused_while_the_proxy_starts() {
    let mut fixture = Fixture::new();
    drop(fixture.inputs.take());
    let error = ask(Some(&fixture.path()), Topic::Objects).err().unwrap();
    assert!(
        format!("{error:#}").contains("the proxy is ending"),
        "{error:#}"
    );
    ask(Some(&fixture.path()), Topic::Status).unwrap();
}

#[test]
fn file_of_a_killed_process_is_replaced() {
    let mut fixture = Fixture::new();
    let path = fixture.path();
    std::mem::forget(fixture.serving.take());
    fs::remove_file(&path).unwrap();
    drop(UnixListener::bind(&path).unwrap());
    let error = ask(Some(&path), Topic::Status).err().unwrap();
    let absent = error.downcast_ref::<Absent>().unwrap();
    assert!(
        absent
            .to_string()
            .contains("was left by a process that has ended"),
        "{absent}"
    );
    // The first server notices that its file was replaced.
    eventually(|| ask(Some(&path), Topic::Status).is_ok());
}

#[test]
fn second_proxy_waits_until_the_first_has_ended() {
    let first = Fixture::new();
    let path = first.path();
    let mut second = Fixture::new();
    let (sender, inputs) = channel();
    second
        .board
        .update(|status| status.node = "second".to_owned());
    let knowledge = Knowledge {
        board: second.board.clone(),
        recent: Recent::default(),
        server: server(),
        inputs: sender,
    };
    second.inputs = Some(inputs);
    let serving = start(path.clone(), knowledge).unwrap();
    assert_eq!(
        ask(Some(&path), Topic::Status).unwrap().status.node,
        "node1"
    );
    // What remains if the first process is killed.
    fs::remove_file(&path).unwrap();
    eventually(|| ask(Some(&path), Topic::Status).is_ok());
    drop(serving);
    drop(first);
}

#[test]
fn file_is_removed_at_the_end() {
    let mut fixture = Fixture::new();
    drop(fixture.serving.take());
    assert!(!fixture.path().exists());
    let error = ask(Some(&fixture.path()), Topic::Status).err().unwrap();
    let text = format!("{error:#}");
    assert!(text.contains("no sluice proxy is running"), "{text}");
    assert!(text.contains("does not exist"), "{text}");
}

#[test]
fn sockets_of_ended_processes_are_removed_and_others_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    drop(UnixListener::bind(path("net-1.sock")).unwrap());
    let _listening = UnixListener::bind(path("net-2.sock")).unwrap();
    // A successor before its rename.
    drop(UnixListener::bind(path("net-3.sock.77")).unwrap());
    fs::write(path("file"), "").unwrap();
    super::socket_server::remove_abandoned(folder.path());
    let left = fs::read_dir(folder.path()).unwrap();
    let mut left: Vec<_> = left.map(|file| file.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["file", "net-2.sock", "net-3.sock.77"]);
}

#[test]
fn permissions_of_other_folders_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    super::socket_server::prepare_folder(&folder.path().join("sock")).unwrap();
    assert_eq!(fs::metadata(folder.path()).unwrap().mode() & 0o777, 0o755);
}
