//! Runs kubectl, for several nodes at the same time.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::cli::Scope;
use super::pods::Pod;

/// The program in sluice's image. Other commands than `proxy` work under this name too.
const PROGRAM: &str = "kube-proxy";
/// Upper bound on the output of one command in bytes.
const MOST: u64 = 256 << 20;
/// Interval between checks whether a command has ended.
const INTERVAL: Duration = Duration::from_millis(20);
/// Limit on the time for a request to the API server.
const REQUEST: Duration = Duration::from_secs(60);

/// kubectl with the flags of the user.
pub(super) struct Kubectl {
    flags: Vec<String>,
}

/// The result of a command.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// The command ended with a status; kubectl passes on that of the container.
    Ended {
        status: i32,
        stdout: String,
        stderr: String,
    },
    /// The command could not run to its end.
    Failed(String),
}

impl Outcome {
    /// Return why there is no answer.
    pub(super) fn reason(&self) -> String {
        match self {
            Outcome::Failed(reason) => reason.clone(),
            Outcome::Ended { status, stderr, .. } => {
                let lines = stderr.lines().map(str::trim);
                let lines = lines.filter(|line| {
                    !line.is_empty() && !line.starts_with("command terminated with exit code")
                });
                match lines.collect::<Vec<_>>().join("; ") {
                    none if none.is_empty() => format!("the command ended with status {status}"),
                    reason => reason,
                }
            }
        }
    }
}

impl Kubectl {
    pub(super) fn new(scope: &Scope) -> Self {
        let context = scope.context.iter().map(|name| format!("--context={name}"));
        let file = scope.kubeconfig.iter();
        let file = file.map(|path| format!("--kubeconfig={}", path.display()));
        Self {
            flags: context.chain(file).collect(),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new("kubectl");
        command.args(&self.flags);
        command
    }

    /// Return the answer of the API server at a path.
    pub(super) fn get(&self, path: &str) -> anyhow::Result<String> {
        let mut command = self.command();
        self.output(command.args(["get", "--raw", path]))
    }

    /// Return the namespace of the context.
    pub(super) fn namespace(&self) -> anyhow::Result<String> {
        let mut command = self.command();
        command.args(["config", "view", "--minify", "-o", "jsonpath={..namespace}"]);
        let namespace = self.output(&mut command)?;
        Ok(match namespace.trim() {
            "" => "default".to_owned(),
            namespace => namespace.to_owned(),
        })
    }

    fn output(&self, command: &mut Command) -> anyhow::Result<String> {
        match run(command, REQUEST) {
            Outcome::Ended {
                status: 0, stdout, ..
            } => Ok(stdout),
            other => bail!("{}", other.reason()),
        }
    }

    /// Run sluice in a Pod.
    pub(super) fn ask(&self, pod: &Pod, words: &[String], limit: Duration) -> Outcome {
        if let Some(reason) = &pod.unusable {
            return Outcome::Failed(reason.clone());
        }
        let mut command = self.command();
        command.args(["exec", "--namespace", &pod.namespace, &pod.name]);
        command.args(["--container", &pod.container, "--", PROGRAM]);
        run(command.args(words), limit)
    }
}

fn run(command: &mut Command, limit: Duration) -> Outcome {
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    match command
        .spawn()
        .context("cannot run kubectl, which must be in PATH")
    {
        Ok(child) => wait(child, limit),
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}

/// Wait for a command, and kill it after `limit`.
fn wait(mut child: Child, limit: Duration) -> Outcome {
    let stdout = child.stdout.take().map(read);
    let stderr = child.stderr.take().map(read);
    let text = |reader: Option<JoinHandle<Vec<u8>>>| {
        let bytes = reader.and_then(|reader| reader.join().ok());
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    };
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                return Outcome::Ended {
                    status: status.code().unwrap_or(-1),
                    stdout: text(stdout),
                    stderr: text(stderr),
                };
            }
            Ok(None) if Instant::now() < deadline => std::thread::sleep(INTERVAL),
            other => {
                let _ = child.kill();
                let _ = child.wait();
                return Outcome::Failed(match other {
                    Err(error) => format!("cannot wait for kubectl: {error}"),
                    Ok(_) => format!("no answer within {} s (--timeout)", limit.as_secs()),
                });
            }
        }
    }
}

fn read(from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // After an error, the output until then is shown.
        let _ = from.take(MOST).read_to_end(&mut bytes);
        bytes
    })
}

/// Call `ask` for each Pod, for `parallel` of them at the same time; return the results in order.
pub(super) fn all<T: Send>(pods: &[Pod], parallel: u16, ask: impl Fn(&Pod) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<T>>> = pods.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..pods.len().min(parallel.into()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let (Some(pod), Some(result)) = (pods.get(at), results.get(at)) else {
                        return;
                    };
                    let answer = ask(pod);
                    *result
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(answer);
                }
            });
        }
    });
    let results = results.into_iter();
    let results = results.map(|r| {
        r.into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    });
    // Every index was taken by a thread, and the scope has waited for it.
    results.flatten().collect()
}
