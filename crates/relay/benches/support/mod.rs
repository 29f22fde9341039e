//! The processes of the bench.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use model::Protocol;
use relay::{Backends, Frontend, Limits, Relay};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The role of this program when the bench starts it again.
pub(crate) enum Role {
    Server,
    Relay(SocketAddr),
}

impl Role {
    pub(crate) fn of_this_process() -> Option<Self> {
        let mut words = std::env::args().skip_while(|w| w != "--role").skip(1);
        match (words.next()?.as_str(), words.next()) {
            ("server", _) => Some(Role::Server),
            ("relay", Some(to)) => to.parse().ok().map(Role::Relay),
            _ => None,
        }
    }

    pub(crate) fn run(self) -> ExitCode {
        match self {
            Role::Server => serve(),
            Role::Relay(to) => relay(to),
        }
        ExitCode::SUCCESS
    }
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Blocks until the parent process ends.
fn wait_for_parent() {
    let _ = std::io::stdin().read(&mut [0]);
}

fn relay(to: SocketAddr) {
    let relay = Relay::start(Limits::default()).expect("a relay");
    let frontend = Frontend {
        address: loopback(),
        protocol: Protocol::Tcp,
    };
    let backends = Backends {
        endpoints: [to].into(),
        affinity: None,
    };
    let (bound, _) = relay
        .serve(BTreeMap::from([(frontend, backends)]))
        .expect("it serves");
    println!("{}", bound[0].address);
    wait_for_parent();
}

/// Echoes requests, and discards data that begins with `!`.
fn serve() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let listener = TcpListener::bind(loopback()).expect("a port");
    println!("{}", listener.local_addr().expect("an address"));
    listener.set_nonblocking(true).expect("non-blocking");
    runtime.spawn(async move {
        let socket = socket2::SockRef::from(&listener);
        socket.listen(4096).expect("a backlog");
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            tokio::spawn(async move {
                stream.set_nodelay(true)?;
                // Idle connections hold no buffer.
                let mut small = [0; 64];
                loop {
                    let length = stream.read(&mut small).await?;
                    match small.get(..length) {
                        None | Some([]) => return Ok(()),
                        Some([b'!', ..]) => break,
                        Some(question) => stream.write_all(question).await?,
                    }
                }
                let mut large = vec![0; 256 * 1024];
                while stream.read(&mut large).await? > 0 {}
                std::io::Result::Ok(())
            });
        }
    });
    wait_for_parent();
}

/// A process that is killed, with its children, on drop.
pub(crate) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        for pid in self.family() {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        let _ = self.0.wait();
    }
}

impl Process {
    /// Starts this program in another role. Returns the address that it prints.
    fn role(words: &[String]) -> (Self, SocketAddr) {
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program)
            .arg("--role")
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("its output");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        (Self(child), line.trim().parse().expect("an address"))
    }

    fn id(&self) -> i32 {
        i32::try_from(self.0.id()).expect("a process id")
    }

    /// The process and its children.
    fn family(&self) -> Vec<i32> {
        let file = format!("/proc/{0}/task/{0}/children", self.id());
        let children = fs::read_to_string(file).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|w| w.parse().ok());
        children.chain([self.id()]).collect()
    }

    /// Processor time including children.
    pub(crate) fn cpu(&self) -> Duration {
        let ticks: u64 = self.family().iter().map(|pid| ticks(*pid)).sum();
        // USER_HZ is 100 on every Linux architecture that this runs on.
        Duration::from_millis(ticks * 10)
    }

    /// Memory in KiB, shared pages counted once.
    pub(crate) fn memory(&self) -> u64 {
        let of = |pid: &i32| {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            let line = rollup.lines().find_map(|l| l.strip_prefix("Pss:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        self.family().iter().filter_map(of).sum()
    }
}

fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // After the name, which may contain any character: user, system, and both for ended children.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let times = fields.split_whitespace().skip(11).take(4);
    times.filter_map(|t| t.parse::<u64>().ok()).sum()
}

/// The server behind all relays.
pub(crate) fn server() -> (Process, SocketAddr) {
    Process::role(&["server".to_owned()])
}

/// One relay.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    /// It creates one process per connection.
    pub(crate) forks: bool,
    to: SocketAddr,
    /// The command that relays from one address to another; `None`: the relay of this crate.
    command: Option<fn(at: SocketAddr, to: SocketAddr) -> Command>,
}

impl Contender {
    pub(crate) fn start(&self) -> (Process, SocketAddr) {
        let Some(command) = self.command else {
            return Process::role(&["relay".to_owned(), self.to.to_string()]);
        };
        let free = TcpListener::bind(loopback()).expect("a port");
        let at = free.local_addr().expect("an address");
        drop(free);
        let child = command(at, self.to).spawn();
        let mut process = Process(child.unwrap_or_else(|e| panic!("{}: {e}", self.name)));
        while TcpStream::connect(at).is_err() {
            let ended = process.0.try_wait().expect("a child");
            assert!(ended.is_none(), "{} does not start: {ended:?}", self.name);
            std::thread::sleep(Duration::from_millis(20));
        }
        (process, at)
    }
}

pub(crate) fn contenders(to: SocketAddr) -> [Contender; 4] {
    let contender = |name, forks, command| Contender {
        name,
        forks,
        to,
        command,
    };
    [
        contender("sluice", false, None),
        contender("HAProxy", false, Some(|at, to| haproxy(at, to, ""))),
        contender(
            "HAProxy, splice",
            false,
            Some(|at, to| haproxy(at, to, "option splice-auto")),
        ),
        contender("socat", true, Some(socat)),
    ]
}

fn socat(at: SocketAddr, to: SocketAddr) -> Command {
    let (ip, port) = (at.ip(), at.port());
    let mut command = Command::new("socat");
    command
        .arg(format!(
            "TCP-LISTEN:{port},bind={ip},reuseaddr,fork,nodelay,backlog=4096"
        ))
        .arg(format!("TCP:{to},nodelay"));
    command
}

fn haproxy(at: SocketAddr, to: SocketAddr, option: &str) -> Command {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let configuration = format!(
        "global\n nbthread {threads}\n maxconn 9900\n maxpipes 16\n\
         defaults\n mode tcp\n {option}\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
         frontend in\n bind {at} backlog 4096\n default_backend out\n\
         backend out\n server one {to}\n"
    );
    let file = std::env::temp_dir().join(format!("relay-bench-{}.cfg", std::process::id()));
    fs::write(&file, configuration).expect("a configuration");
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(file).stderr(Stdio::null());
    command
}
