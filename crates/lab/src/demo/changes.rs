//! Experiments with many connections, and with changes under traffic.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use model::IpFamily;

use super::stage::Stage;
use super::{Report, Verdict};
use crate::Host;
use crate::manifest::ObjectName;
use crate::probe::{Outcome, Probe};

pub(super) struct Experiment {
    pub(super) name: &'static str,
    pub(super) run: fn(&mut Stage) -> Result<Report>,
}

pub(super) const EXPERIMENTS: &[Experiment] = &[
    Experiment {
        name: "five replicas share",
        run: share,
    },
    Experiment {
        name: "ClientIP affinity",
        run: affinity,
    },
    Experiment {
        name: "scale one to two under traffic",
        run: scale,
    },
    Experiment {
        name: "move a pod under traffic",
        run: move_pod,
    },
    Experiment {
        name: "SIGKILL all proxies under traffic",
        run: kill,
    },
    Experiment {
        name: "start all proxies under traffic",
        run: restart,
    },
];

/// Count the connections that each pod answered.
fn tally(outcomes: &[Outcome]) -> BTreeMap<&str, usize> {
    let mut tally = BTreeMap::new();
    for answer in outcomes.iter().filter_map(Outcome::answer) {
        *tally.entry(answer.pod.as_str()).or_default() += 1;
    }
    tally
}

fn spelled(tally: &BTreeMap<&str, usize>) -> String {
    let counts = tally.iter().map(|(pod, count)| format!("{pod}:{count}"));
    counts.collect::<Vec<_>>().join(" ")
}

/// Check that five pods share connections evenly. A fair share of 500 connections has a mean of 100 and a
/// standard deviation of √(500 · ⅕ · ⅘) ≈ 9. Bounds of five deviations fail one run in about 350,000.
fn share(stage: &mut Stage) -> Result<Report> {
    const CONNECTIONS: usize = 500;
    const BOUNDS: std::ops::RangeInclusive<usize> = 55..=145;
    let client = stage.pod_host(&stage.nginx()?)?;
    let to = SocketAddr::new(stage.cluster_ip("web", IpFamily::V4)?, 80);
    let outcomes = client.probe_times(stage.patient(Probe::http(to)), CONNECTIONS)?;
    let tally = tally(&outcomes);
    let answered: usize = tally.values().sum();
    let passed =
        tally.len() == 5 && answered == CONNECTIONS && tally.values().all(|n| BOUNDS.contains(n));
    Ok(Report {
        sent: format!("{CONNECTIONS} connections from nginx to {to}"),
        arrived: spelled(&tally),
        source: "-".to_owned(),
        expected: format!("{} to {} each", BOUNDS.start(), BOUNDS.end()),
        verdict: Verdict::of(passed),
    })
}

fn affinity(stage: &mut Stage) -> Result<Report> {
    const CONNECTIONS: usize = 20;
    let client = stage.pod_host(&stage.nginx()?)?;
    let to = SocketAddr::new(stage.cluster_ip("web-sticky", IpFamily::V4)?, 80);
    let outcomes = client.probe_times(stage.patient(Probe::http(to)), CONNECTIONS)?;
    let tally = tally(&outcomes);
    let passed = tally.len() == 1 && tally.values().sum::<usize>() == CONNECTIONS;
    Ok(Report {
        sent: format!("{CONNECTIONS} connections from nginx to {to}"),
        arrived: spelled(&tally),
        source: "-".to_owned(),
        expected: "all at one pod".to_owned(),
        verdict: Verdict::of(passed),
    })
}

/// Sequential connections, until stopped.
struct Traffic {
    stop: Arc<AtomicBool>,
    outcomes: Arc<Mutex<Vec<Outcome>>>,
    threads: Vec<JoinHandle<Result<()>>>,
    /// Longest time until a change is visible.
    patience: Duration,
}

impl Traffic {
    /// Start clients on all hosts.
    fn start(hosts: Vec<Host>, probe: Probe, patience: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let outcomes = Arc::new(Mutex::new(Vec::new()));
        let threads = hosts
            .into_iter()
            .map(|host| {
                let (stop, outcomes) = (Arc::clone(&stop), Arc::clone(&outcomes));
                thread::spawn(move || {
                    host.run(|| {
                        while !stop.load(Ordering::Relaxed) {
                            let outcome = probe.ask();
                            outcomes
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .push(outcome);
                            thread::sleep(Duration::from_millis(2));
                        }
                    })
                })
            })
            .collect();
        Self {
            stop,
            outcomes,
            threads,
            patience,
        }
    }

    /// Wait until the outcomes from `mark` on satisfy a condition.
    fn wait(&self, mark: usize, wish: impl Fn(&[Outcome]) -> bool) -> Result<()> {
        let end = Instant::now() + self.patience;
        loop {
            {
                let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
                if wish(outcomes.get(mark..).unwrap_or_default()) {
                    return Ok(());
                }
            }
            if Instant::now() > end {
                bail!("the change was not visible within {:?}", self.patience);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn mark(&self) -> usize {
        self.outcomes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    fn stop(self) -> Result<Vec<Outcome>> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(outcomes.clone())
    }
}

impl Stage {
    /// Start traffic to the Service cart from a pod and from every node.
    fn cart_traffic(&self) -> Result<(Traffic, SocketAddr)> {
        let to = SocketAddr::new(self.cluster_ip("cart", IpFamily::V4)?, 80);
        let mut hosts = vec![self.pod_host(&self.nginx()?)?];
        for node in self.cluster()?.nodes.keys() {
            hosts.push(self.lab.host(node)?);
        }
        let traffic = Traffic::start(hosts, self.patient(Probe::http(to)), self.patience(15));
        traffic.wait(0, |outcomes| outcomes.len() >= 20)?;
        Ok((traffic, to))
    }
}

/// Report a change under traffic: passed if no connection failed and `also` holds.
fn under_traffic(
    outcomes: &[Outcome],
    to: SocketAddr,
    change: &str,
    also: bool,
    expected: &str,
) -> Report {
    let tally = tally(outcomes);
    let failed: Vec<&Outcome> = outcomes.iter().filter(|o| o.answer().is_none()).collect();
    let mut arrived = format!("{}; {} failed", spelled(&tally), failed.len());
    if let Some(first) = failed.first() {
        arrived += &format!(", first: {first}");
    }
    Report {
        sent: format!("{} connections to {to}; {change}", outcomes.len()),
        arrived,
        source: "-".to_owned(),
        expected: format!("{expected}, none fails"),
        verdict: Verdict::of(failed.is_empty() && also),
    }
}

fn scale(stage: &mut Stage) -> Result<Report> {
    let (traffic, to) = stage.cart_traffic()?;
    let mark = traffic.mark();
    let note = stage.lab.scale(&ObjectName::parse("cart"), 2)?;
    let shown = traffic.wait(mark, |outcomes| tally(outcomes).len() == 2);
    let after = traffic.mark();
    traffic.wait(after, |outcomes| outcomes.len() >= 200)?;
    let outcomes = traffic.stop()?;
    Ok(under_traffic(
        &outcomes,
        to,
        &note,
        shown.is_ok(),
        "both answer",
    ))
}

fn move_pod(stage: &mut Stage) -> Result<Report> {
    let pods = stage.pods("cart")?;
    let Some(pod) = pods.first() else {
        bail!("Deployment cart has no pod");
    };
    let busy: Vec<&str> = pods.iter().map(|p| p.node.as_str()).collect();
    let nodes = stage.cluster()?.nodes.into_keys();
    let free = nodes
        .into_iter()
        .find(|node| !busy.contains(&node.as_str()));
    let node = free.ok_or_else(|| anyhow!("no node without a pod of cart"))?;
    let (traffic, to) = stage.cart_traffic()?;
    let mark = traffic.mark();
    let note = stage.lab.move_pod(&pod.name, &node)?;
    let shown = traffic.wait(mark, |outcomes| {
        outcomes
            .iter()
            .filter_map(Outcome::answer)
            .any(|a| a.node == node)
    });
    // The old pod has ended: connections that are still sent to it would fail.
    let after = traffic.mark();
    traffic.wait(after, |outcomes| outcomes.len() >= 200)?;
    let outcomes = traffic.stop()?;
    let left = outcomes.get(after..).unwrap_or_default();
    let gone = !tally(left).contains_key(pod.name.name.as_str());
    Ok(under_traffic(
        &outcomes,
        to,
        &note,
        shown.is_ok() && gone,
        "the new one answers",
    ))
}

fn kill(stage: &mut Stage) -> Result<Report> {
    let (traffic, to) = stage.cart_traffic()?;
    let nodes: Vec<String> = stage.cluster()?.nodes.into_keys().collect();
    for node in &nodes {
        stage.lab.node_proxy(node)?.kill()?;
    }
    let mark = traffic.mark();
    traffic.wait(mark, |outcomes| outcomes.len() >= 500)?;
    let mut dead = true;
    for node in &nodes {
        dead &= !stage.lab.node_proxy(node)?.is_alive()?;
    }
    // Connections that were in progress have ended.
    let after = mark + 200;
    let outcomes = traffic.stop()?;
    if !stage.abilities.outlives_proxy {
        let left = outcomes.get(after..).unwrap_or_default();
        let refused = left.iter().filter(|o| **o == Outcome::Refused).count();
        return Ok(Report {
            sent: format!("{} connections to {to}; SIGKILL on 3 nodes", left.len()),
            arrived: format!("{refused} refused"),
            source: "-".to_owned(),
            expected: "refused: the proxy carries the traffic".to_owned(),
            verdict: Verdict::of(dead && !left.is_empty() && refused == left.len()),
        });
    }
    Ok(under_traffic(
        &outcomes,
        to,
        "SIGKILL on 3 nodes",
        dead,
        "traffic goes on",
    ))
}

fn restart(stage: &mut Stage) -> Result<Report> {
    let (traffic, to) = stage.cart_traffic()?;
    let nodes: Vec<String> = stage.cluster()?.nodes.into_keys().collect();
    for node in &nodes {
        stage.lab.node_proxy(node)?.start()?;
    }
    let patience = stage.patience(15);
    let synced = stage.lab.wait_synced(patience);
    let mark = traffic.mark();
    traffic.wait(mark, |outcomes| outcomes.len() >= 300)?;
    let outcomes = traffic.stop()?;
    synced?;
    let (counted, expected) = if stage.abilities.outlives_proxy {
        (outcomes.as_slice(), "traffic goes on")
    } else {
        // Earlier connections were refused, and some of them were still in progress.
        let served = outcomes.get(mark + 100..).unwrap_or_default();
        (served, "served again")
    };
    Ok(under_traffic(
        counted,
        to,
        "started on 3 nodes",
        !counted.is_empty(),
        expected,
    ))
}
