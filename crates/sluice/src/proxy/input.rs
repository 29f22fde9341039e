//! The inputs of the engine: objects, the host's addresses, signals, its own configuration file.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use config::ConfigFile;
use kernel::address::{AddressWatch, addresses};
use kernel::process::Termination;
use model::IpFamily;
use source::{Batch, Running, Source, What};

use super::engine::Snapshot;
use super::probe::Unsupported;
use crate::socket::Board;
use crate::socket::status::MOST_PROBLEMS;
use crate::system::spawn;

/// How often a thread that waits for the kernel checks whether it is still needed.
const LISTENING: Duration = Duration::from_secs(1);

/// An input.
pub(crate) enum Input {
    /// Objects changed.
    Objects(Batch),
    /// The host's addresses after a change.
    HostAddresses(Vec<IpAddr>),
    /// Another program changed the rules of a family.
    Disturbed(IpFamily),
    /// Send the objects and the plan to another thread.
    Snapshot(SyncSender<Snapshot>),
    /// The kernel has the features that the mode needs, except those of families that cannot be served.
    Probed(Option<Unsupported>),
    /// End the process.
    Stop(Stop),
}

/// The reason to end the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// A signal, by name.
    Signal(String),
    /// The configuration file changed. As kube-proxy does, the process ends, to be restarted with
    /// the new one.
    ConfigChanged(PathBuf),
    /// The kernel lacks features that the mode needs; nothing has been programmed.
    Unsupported(Unsupported),
}

/// The receiving end, with the threads that feed it.
pub(crate) struct Inputs {
    sender: Sender<Input>,
    receiver: Receiver<Input>,
    _source: Option<Running>,
}

impl Inputs {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = channel();
        Self {
            sender,
            receiver,
            _source: None,
        }
    }

    /// Return a sender for a driver that watches its own rules.
    pub(crate) fn sender(&self) -> Sender<Input> {
        self.sender.clone()
    }

    /// Wait for the next input, at most until `until`.
    pub(crate) fn next(&self, until: Option<Instant>) -> Option<Input> {
        let Some(until) = until else {
            return self.receiver.recv().ok();
        };
        let left = until.saturating_duration_since(Instant::now());
        self.receiver.recv_timeout(left).ok()
    }

    /// Return all inputs that have arrived, without waiting.
    pub(crate) fn ready(&self) -> impl Iterator<Item = Input> + '_ {
        self.receiver.try_iter()
    }

    /// Follow the objects of a source. Problems with them are reported to the log and the status.
    pub(crate) fn follow(&mut self, source: impl Source, board: Board) -> anyhow::Result<()> {
        let sender = self.sender();
        let running = source
            .start(move |batch| {
                report_problems(&batch);
                post_problems(&batch, &board);
                send(&sender, Input::Objects(batch))
            })
            .context("cannot follow the objects")?;
        self._source = Some(running);
        Ok(())
    }

    /// Follow the signals that end the process. Must be called before other threads start.
    pub(crate) fn follow_signals(&self) -> anyhow::Result<()> {
        let termination = Termination::take_over().context("cannot take over signals")?;
        let sender = self.sender();
        spawn("signals", move || {
            loop {
                match termination.wait(LISTENING) {
                    Ok(None) => {}
                    Ok(Some(signal)) => {
                        let stop = Stop::Signal(signal.to_string());
                        if send(&sender, Input::Stop(stop)).is_break() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::error!(%error, "Cannot wait for signals");
                        return;
                    }
                }
            }
        })
    }

    /// Follow the host's addresses. Return the current ones.
    pub(crate) fn follow_addresses(&self) -> anyhow::Result<Vec<IpAddr>> {
        // Opened before the addresses are read, so that no change is missed.
        let what = "cannot watch the host's addresses";
        let mut watch = AddressWatch::open().context(what)?;
        // Thousands of Services mean thousands of such messages.
        watch.ignore(dataplane::ipvs::DEVICE).context(what)?;
        let now = host_addresses()?;
        let sender = self.sender();
        let mut known = now.clone();
        spawn("addresses", move || {
            loop {
                let changed = watch
                    .wait(LISTENING)
                    .and_then(|ready| if ready { watch.changed() } else { Ok(false) });
                match changed {
                    Ok(false) => continue,
                    Ok(true) => {}
                    Err(error) => {
                        tracing::error!(%error, "Cannot watch the host's addresses any more");
                        return;
                    }
                }
                match host_addresses() {
                    Ok(addresses) if addresses != known => {
                        known.clone_from(&addresses);
                        if send(&sender, Input::HostAddresses(addresses)).is_break() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::error!(error = format!("{error:#}"), "Keeping the last addresses");
                    }
                }
            }
        })?;
        Ok(now)
    }

    /// End the process when the content of the configuration file changes. The file is read by name,
    /// because the volume of a ConfigMap replaces the file when the ConfigMap changes.
    pub(crate) fn follow_config(&self, file: ConfigFile) -> anyhow::Result<()> {
        let sender = self.sender();
        spawn("config", move || {
            loop {
                std::thread::sleep(LISTENING);
                match std::fs::read(&file.path) {
                    Ok(content) if content != file.text.as_bytes() => {
                        let stop = Stop::ConfigChanged(file.path);
                        let _ = send(&sender, Input::Stop(stop));
                        return;
                    }
                    // A missing file is being replaced.
                    Ok(_) | Err(_) => {}
                }
            }
        })
    }
}

/// Send an input. Break if the receiver has ended.
fn send(sender: &Sender<Input>, input: Input) -> ControlFlow<()> {
    match sender.send(input) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

/// Return the addresses of the host's interfaces, sorted.
pub(crate) fn host_addresses() -> anyhow::Result<Vec<IpAddr>> {
    let found = addresses().context("cannot read the host's addresses")?;
    // In ipvs mode this interface has the Services' addresses.
    let found = found.into_iter();
    let own = found.filter(|a| a.interface != dataplane::ipvs::DEVICE);
    let mut ips: Vec<IpAddr> = own.map(|a| a.address.addr()).collect();
    ips.sort_unstable();
    ips.dedup();
    Ok(ips)
}

/// Log each problem with what the proxy does now, and each problem that has been resolved.
fn report_problems(batch: &Batch) {
    for problem in &batch.problems {
        let error = problem;
        match problem.what {
            What::Unreadable(_) | What::Malformed(_) => {
                tracing::error!(%error, "Manifests rejected; keeping the objects read earlier");
            }
            What::WrongType { .. } | What::Undecodable { .. } | What::Invalid(_) => {
                tracing::error!(%error, "Object rejected; keeping its last valid version, if any");
            }
            What::Partial(_) => tracing::warn!(%error, "Part of an object ignored"),
            What::Duplicate { .. } => tracing::warn!(%error, "Object defined more than once"),
        }
    }
    for problem in &batch.resolved {
        tracing::info!(error = %problem, "Problem resolved");
    }
}

/// Keep the status up to date.
fn post_problems(batch: &Batch, board: &Board) {
    if batch.problems.is_empty() && batch.resolved.is_empty() && !batch.initial_list_complete {
        return;
    }
    board.update(|status| {
        let source = &mut status.source;
        source.complete |= batch.initial_list_complete;
        for problem in &batch.resolved {
            let text = problem.to_string();
            source.problems.retain(|known| *known != text);
            source.problem_count = source.problem_count.saturating_sub(1);
        }
        for problem in &batch.problems {
            source.problem_count += 1;
            if source.problems.len() < MOST_PROBLEMS {
                source.problems.push(problem.to_string());
            }
        }
    });
}
