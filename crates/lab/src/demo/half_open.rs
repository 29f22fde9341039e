//! Pods that stop before their endpoint is removed, under load.
//!
//! A client whose SYN reached such a pod repeats it after 1, 3, 7 and 15 s (`tcp_syn_retries`).
//! Connection tracking sends the repetitions to the same pod unless the half-open entry is deleted
//! (`--conntrack-half-open=delete`).

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use model::{IpFamily, Mode};

use super::changes::Experiment;
use super::stage::Stage;
use super::{Report, Verdict};
use crate::Host;
use crate::control::Target;
use crate::manifest::ObjectName;
use crate::probe::{Outcome, Probe};
use crate::state::ProxyCommand;

pub(super) const EXPERIMENTS: &[Experiment] = &[
    Experiment {
        name: "delete pods under load, half-open deleted",
        run: |stage| stop_pods(stage, DELETED, HalfOpen::Delete),
    },
    Experiment {
        name: "rollout without preStop, half-open deleted",
        run: |stage| stop_pods(stage, REPLICAS, HalfOpen::Delete),
    },
    Experiment {
        name: "delete pods under load, half-open kept",
        run: |stage| stop_pods(stage, DELETED, HalfOpen::Keep),
    },
    Experiment {
        name: "rollout without preStop, half-open kept",
        run: |stage| stop_pods(stage, REPLICAS, HalfOpen::Keep),
    },
];

/// The Deployment, and the Service in front of it.
const APP: &str = "cart";
const REPLICAS: usize = 4;
/// Pods that the first experiment deletes. A rollout replaces all of them.
const DELETED: usize = 2;
/// Clients on each host.
const CLIENTS: usize = 2;
const FLAG: &str = "--conntrack-half-open=";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HalfOpen {
    Delete,
    Keep,
}

impl HalfOpen {
    fn value(self) -> &'static str {
        match self {
            HalfOpen::Delete => "delete",
            HalfOpen::Keep => "keep",
        }
    }

    /// The probe of a client. Deleting an entry can take seconds on a slow machine, so the client
    /// repeats its SYN for long. If entries are kept, further repetitions only prolong the demo.
    fn probe(self, stage: &Stage, to: SocketAddr) -> Probe {
        let probe = Probe::http(to);
        match self {
            HalfOpen::Delete => stage.patient(probe.timeout(Duration::from_secs(16))),
            HalfOpen::Keep => probe.timeout(Duration::from_millis(1500)),
        }
    }
}

/// The result of a connection.
enum Attempt {
    Answered,
    /// No SYN was answered.
    Unanswered,
    /// It was refused, or it broke off after a SYN was answered: a repeated SYN changes nothing.
    Failed(Outcome),
}

#[derive(Default)]
struct Counts {
    answered: usize,
    /// Of these, connections that took longer than the first repetition of a SYN.
    repeated: usize,
    unanswered: usize,
    failed: Vec<Outcome>,
    /// When the attempts that wait for an answer to a SYN began, by client.
    waiting: Vec<Option<Instant>>,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts {
            answered,
            repeated,
            unanswered,
            failed,
            ..
        } = self;
        write!(f, "{answered} answered, {repeated} of them after 1 s; ")?;
        write!(f, "{unanswered} unanswered SYNs, {} others", failed.len())?;
        match failed.first() {
            Some(first) => write!(f, ", first: {first}"),
            None => Ok(()),
        }
    }
}

/// The first repetition of a SYN (RFC 6298, `TCP_TIMEOUT_INIT`).
const FIRST_REPETITION: Duration = Duration::from_secs(1);

/// Clients that connect without pause until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    counts: Arc<Mutex<Counts>>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Load {
    fn start(hosts: Vec<Host>, probe: Probe) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let counts = Arc::new(Mutex::new(Counts {
            waiting: vec![None; hosts.len()],
            ..Counts::default()
        }));
        let client = |(number, host): (usize, Host)| {
            let (stop, counts) = (Arc::clone(&stop), Arc::clone(&counts));
            thread::spawn(move || {
                host.run(|| {
                    while !stop.load(Ordering::Relaxed) {
                        attempt(&probe, number, &counts);
                        thread::sleep(Duration::from_millis(10));
                    }
                })
            })
        };
        let threads = hosts.into_iter().enumerate().map(client).collect();
        Self {
            stop,
            counts,
            threads,
        }
    }

    /// Wait until the counts satisfy a condition; return whether they did in time.
    fn wait(&self, patience: Duration, wish: impl Fn(&Counts) -> bool) -> bool {
        let end = Instant::now() + patience;
        loop {
            if wish(&lock(&self.counts)) {
                return true;
            }
            if Instant::now() > end {
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn stop(self) -> Result<Counts> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        Ok(std::mem::take(&mut *lock(&self.counts)))
    }
}

fn lock(counts: &Mutex<Counts>) -> std::sync::MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connect once and count the result.
fn attempt(probe: &Probe, number: usize, counts: &Mutex<Counts>) {
    let began = Instant::now();
    let waits = |since| {
        if let Some(place) = lock(counts).waiting.get_mut(number) {
            *place = since;
        }
    };
    waits(Some(began));
    let connected = probe.connect();
    let took = began.elapsed();
    waits(None);
    let result = match connected {
        Err(Outcome::TimedOut) => Attempt::Unanswered,
        Err(other) => Attempt::Failed(other),
        Ok(stream) => match probe.get(&stream) {
            Outcome::Answered(_) => Attempt::Answered,
            other => Attempt::Failed(other),
        },
    };
    let mut counts = lock(counts);
    match result {
        Attempt::Answered => {
            counts.answered += 1;
            counts.repeated += usize::from(took >= FIRST_REPETITION);
        }
        Attempt::Unanswered => counts.unanswered += 1,
        Attempt::Failed(outcome) => counts.failed.push(outcome),
    }
}

impl Stage {
    /// Restart the proxies if they have another value of the flag.
    fn set_half_open(&mut self, half_open: HalfOpen) -> Result<()> {
        let flag = format!("{FLAG}{}", half_open.value());
        let proxy = self.lab.state()?.proxy;
        let mut argv = proxy.context("the lab has no proxy")?.argv;
        if argv.contains(&flag) {
            return Ok(());
        }
        argv.retain(|argument| !argument.starts_with(FLAG));
        argv.push(flag);
        self.lab.set_proxy(ProxyCommand { argv })?;
        for node in self.cluster()?.nodes.into_keys() {
            let proxy = self.lab.node_proxy(&node)?;
            proxy.kill()?;
            proxy.start()?;
        }
        self.lab.wait_synced(self.patience(30))
    }

    /// Start clients on all nodes and in a pod.
    fn load(&self, half_open: HalfOpen) -> Result<(Load, SocketAddr)> {
        let to = SocketAddr::new(self.cluster_ip(APP, IpFamily::V4)?, 80);
        let mut hosts = Vec::new();
        for _ in 0..CLIENTS {
            hosts.push(self.pod_host(&self.nginx()?)?);
            for node in self.cluster()?.nodes.keys() {
                hosts.push(self.lab.host(node)?);
            }
        }
        Ok((Load::start(hosts, half_open.probe(self, to)), to))
    }
}

/// Stop and delete `count` pods, one after the other. The Deployment replaces each of them.
fn stop_pods(stage: &mut Stage, count: usize, half_open: HalfOpen) -> Result<Report> {
    if stage.mode == Mode::Userspace {
        return Ok(Report::not_applicable(
            "the mode's relay connects to pods itself",
        ));
    }
    stage.set_half_open(half_open)?;
    stage
        .lab
        .scale(&ObjectName::parse(APP), u32::try_from(REPLICAS)?)?;
    let old = stage.pods(APP)?;
    let (load, to) = stage.load(half_open)?;
    let patience = stage.patience(15);
    if !load.wait(patience, |counts| counts.answered >= 50) {
        bail!("Service {APP} does not answer: {}", lock(&load.counts));
    }
    let mut reached = 0;
    for pod in old.iter().take(count) {
        stage.lab.silence_pod(&pod.name)?;
        let silent = Instant::now();
        // A connection that waits for so long has lost its SYN, except on a very slow machine.
        let lost = Duration::from_millis(100);
        let is_lost = |since: &Instant| *since >= silent && since.elapsed() >= lost;
        reached += usize::from(load.wait(patience, |counts| {
            counts.waiting.iter().flatten().any(is_lost)
        }));
        let target = Target {
            kind: "pod".to_owned(),
            name: pod.name.clone(),
        };
        stage.lab.delete(&target, Some(0))?;
    }
    let counts = load.stop()?;
    let saved = half_open == HalfOpen::Keep || counts.unanswered == 0;
    Ok(Report {
        sent: format!("connections to {to}; {count} of {REPLICAS} pods stop, then are removed"),
        arrived: counts.to_string(),
        source: "-".to_owned(),
        expected: match half_open {
            HalfOpen::Delete => "a repeated SYN is always answered".to_owned(),
            HalfOpen::Keep => "any: as kube-proxy".to_owned(),
        },
        verdict: Verdict::of(saved && reached == count && counts.answered > 0),
    })
}
