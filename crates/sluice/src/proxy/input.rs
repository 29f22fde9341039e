//! What wakes the engine: objects, the host's addresses, signals, its own configuration file.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use config::ConfigFile;
use kernel::address::{AddressWatch, addresses};
use kernel::process::Termination;
use model::IpFamily;
use source::{Batch, Running, Source, What};

use crate::system::spawn;

/// How often a thread that waits for the kernel looks whether anybody still listens.
const LISTENING: Duration = Duration::from_secs(1);

/// Something that the engine has to know.
#[derive(Debug)]
pub(crate) enum Input {
    /// Objects changed.
    Objects(Batch),
    /// The host's addresses changed; these they are now.
    HostAddresses(Vec<IpAddr>),
    /// Somebody else has changed a family's rules.
    Disturbed(IpFamily),
    /// It is time to end, for this reason.
    Stop(Stop),
}

/// Why to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Somebody asked.
    Signal(String),
    /// The configuration file is another one now: kube-proxy ends so that it is started again with
    /// it, and so do we.
    ConfigChanged(PathBuf),
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

    /// Another sender, for a driver that watches its own rules.
    pub(crate) fn sender(&self) -> Sender<Input> {
        self.sender.clone()
    }

    /// The next input, if one comes before `until`.
    pub(crate) fn next(&self, until: Option<Instant>) -> Option<Input> {
        let Some(until) = until else {
            return self.receiver.recv().ok();
        };
        let left = until.saturating_duration_since(Instant::now());
        self.receiver.recv_timeout(left).ok()
    }

    /// Everything that has come already, without waiting.
    pub(crate) fn ready(&self) -> impl Iterator<Item = Input> + '_ {
        self.receiver.try_iter()
    }

    /// Objects from a source.
    pub(crate) fn follow(&mut self, source: impl Source) -> anyhow::Result<()> {
        let sender = self.sender();
        let running = source
            .start(move |batch| {
                report_problems(&batch);
                send(&sender, Input::Objects(batch))
            })
            .context("cannot follow the objects")?;
        self._source = Some(running);
        Ok(())
    }

    /// Signals that ask to end. Has to be called before other threads are made.
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
                        tracing::error!("cannot wait for signals: {error}");
                        return;
                    }
                }
            }
        })
    }

    /// The host's addresses, now and when they change. Returns those of now.
    pub(crate) fn follow_addresses(&self) -> anyhow::Result<Vec<IpAddr>> {
        // Opened before the first look, so that no change falls in between.
        let what = "cannot watch the host's addresses";
        let mut watch = AddressWatch::open().context(what)?;
        // A node with thousands of Services has as many of these.
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
                        tracing::error!("cannot watch the host's addresses: {error}");
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
                    Err(error) => tracing::error!("{error:#}"),
                }
            }
        })?;
        Ok(now)
    }

    /// The configuration file: ends the process when its content is not what was read. Looked at by
    /// its name, which a ConfigMap's volume gives to another file when the ConfigMap changes.
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
                    // A file that is away for a moment is being replaced.
                    Ok(_) | Err(_) => {}
                }
            }
        })
    }
}

/// Whether anybody still listens.
fn send(sender: &Sender<Input>, input: Input) -> ControlFlow<()> {
    match sender.send(input) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

/// The addresses of the host's interfaces, sorted.
pub(crate) fn host_addresses() -> anyhow::Result<Vec<IpAddr>> {
    let found = addresses().context("cannot read the host's addresses")?;
    // The Services' own, in ipvs mode, are none of the node's.
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
