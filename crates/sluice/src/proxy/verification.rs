//! Repeats the check of `sluice verify` while the proxy runs (`--verify-period`).
//!
//! One thread reads the kernel's rules with normal priority, because the kernel holds locks meanwhile;
//! another evaluates them when the processors are idle. Neither delays a sync: the sync thread only copies
//! references to its objects. A problem is reported if two checks in a row find it, since the first may
//! have seen a change on its way to the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Sender, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, anyhow, bail};
use diagnose::explain::{Cause, Given, Inspector};
use diagnose::verify::{Group, Verification, verify};
use kernel::process::{available_memory, release_memory, run_when_idle};
use model::Event;
use observe::Server;
use plan::Settings;
use source::apiserver::{EventType, Recorder};
use trace::{Dumps, Facts, World};

use super::engine::Snapshot;
use super::input::Input;
use super::own_node::node_event;
use crate::system::spawn;

/// Limit on the wait for changes on their way to the kernel, before a check.
const SETTLING: Duration = Duration::from_secs(30);
/// Interval between questions whether the kernel contains everything.
const ASK: Duration = Duration::from_secs(1);
/// Memory for a check, in multiples of the size of the rules' text.
const MEMORY_FACTOR: u64 = 8;
/// Memory for a check in addition: the plan of all objects.
const MEMORY_BASE: u64 = 32 << 20;
/// Upper bound on the length of an example in an Event, whose note has at most 1 KiB.
const MAX_EXAMPLE: usize = 700;

/// What a verification needs.
pub(super) struct Verifier {
    /// The time between two checks.
    pub(super) period: Duration,
    /// The settings of the plan.
    pub(super) settings: Settings,
    /// The longest delay of a change on its way to the kernel.
    pub(super) delay: Duration,
    /// The sync thread, which has the objects.
    pub(super) inputs: Sender<Input>,
    /// Sends Events, if the source is an API server.
    pub(super) recorder: Option<Recorder>,
}

/// The proxy is ending.
#[derive(Debug, thiserror::Error)]
#[error("the proxy is ending")]
struct Ending;

impl Verifier {
    /// Check on a thread of its own until the process ends.
    pub(super) fn start(self, server: Server) -> anyhow::Result<()> {
        spawn("verify", move || self.run(&server))
    }

    fn run(&self, server: &Server) {
        let mut known = BTreeSet::new();
        loop {
            std::thread::sleep(self.period);
            let started = Instant::now();
            match self.check_twice() {
                Ok(Some(answer)) => {
                    tracing::debug!(
                        count = answer.services,
                        took = ?started.elapsed(),
                        "Verified the rules"
                    );
                    self.report(server, &mut known, &answer);
                }
                Ok(None) => {}
                Err(error) if error.is::<Ending>() => return,
                Err(error) => tracing::warn!(
                    error = format!("{error:#}"),
                    retry_in = ?self.period,
                    "Cannot verify the rules; retrying"
                ),
            }
            release_memory();
        }
    }

    /// Return the confirmed problems; `None` before the first complete sync.
    fn check_twice(&self) -> anyhow::Result<Option<Verification>> {
        let Some(first) = self.check()? else {
            return Ok(None);
        };
        if first.is_healthy() {
            return Ok(Some(first));
        }
        std::thread::sleep(self.delay + ASK);
        let mut second = self.check()?;
        if let Some(second) = &mut second {
            second.confirm(&first);
        }
        Ok(second)
    }

    fn check(&self) -> anyhow::Result<Option<Verification>> {
        let Some(events) = self.objects()? else {
            return Ok(None);
        };
        let facts = diagnose::facts::collect()?;
        let text = facts.dumps.size() as u64;
        let needed = MEMORY_BASE + text * MEMORY_FACTOR;
        if let Some(available) = available_memory().filter(|available| *available < needed) {
            bail!(
                "{} MiB of memory are available, and up to {} MiB are needed",
                available >> 20,
                needed >> 20
            );
        }
        let settings = self.settings.clone();
        let thread = std::thread::Builder::new().name("verify-idle".to_owned());
        let thread = thread.spawn(move || evaluate(events, settings, facts))?;
        let answer = thread.join().map_err(|_| anyhow!("the check failed"))??;
        Ok(Some(answer))
    }

    /// Return the objects, if possible when the kernel contains everything; `None` before the first
    /// complete sync.
    fn objects(&self) -> anyhow::Result<Option<Vec<Event>>> {
        let deadline = Instant::now() + SETTLING;
        loop {
            let (to, from) = sync_channel(1);
            self.inputs.send(Input::Snapshot(to)).map_err(|_| Ending)?;
            let snapshot: Snapshot = from.recv_timeout(SETTLING).context("a sync is running")?;
            if snapshot.is_settled || (snapshot.is_complete && Instant::now() >= deadline) {
                return Ok(Some(snapshot.objects));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(ASK);
        }
    }

    /// Report the problems as metric, and new and former kinds of them in the log and as Events.
    fn report(&self, server: &Server, known: &mut BTreeSet<Cause>, answer: &Verification) {
        let metrics = server.metrics();
        let mut counts: BTreeMap<Cause, usize> = BTreeMap::new();
        for group in &answer.problems {
            // A group without Services concerns the node.
            *counts.entry(group.cause).or_default() += group.count.max(1);
        }
        let set = |cause: Cause, count: usize| {
            let gauge = &metrics.verify_problems;
            let gauge = gauge.with_label_values(&[&cause.to_string()]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        for cause in known.iter().filter(|cause| !counts.contains_key(cause)) {
            set(*cause, 0);
            tracing::info!(%cause, "Verification no longer finds the problem");
        }
        for (cause, count) in &counts {
            set(*cause, *count);
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs_f64();
        let last = metrics.verify_last_timestamp.with_label_values::<&str>(&[]);
        last.set(now);
        let is_new = |group: &&Group| !known.contains(&group.cause);
        for group in answer.problems.iter().filter(is_new) {
            tracing::warn!(
                cause = %group.cause,
                count = group.count,
                error = group.example,
                fix = group.change,
                "Verification found a problem"
            );
        }
        let had_problems = !known.is_empty();
        let first = answer.problems.iter().find(is_new).map(note);
        *known = counts.into_keys().collect();
        match first {
            Some(note) => self.event(EventType::Warning, "VerifyFoundProblem", &note),
            None if had_problems && known.is_empty() => {
                let note = "the rules do what the objects state again";
                self.event(EventType::Normal, "VerifyFoundNoProblem", note);
            }
            None => {}
        }
    }

    fn event(&self, kind: EventType, reason: &str, note: &str) {
        if let Some(recorder) = &self.recorder {
            let node = &self.settings.node_name;
            recorder.record(node_event(node, kind, reason, "Verify", note));
        }
    }
}

/// Compare the rules with the objects, with the lowest priority.
fn evaluate(
    events: Vec<Event>,
    settings: Settings,
    mut facts: Facts,
) -> anyhow::Result<Verification> {
    run_when_idle()?;
    let world = World::from_facts(&facts)?;
    facts.dumps = Dumps::default();
    let inspector = Inspector::new(Given {
        events,
        settings,
        facts,
        world,
        is_partial: false,
        is_configured: true,
        // The metric sluice_quarantined_services counts them.
        refused: Vec::new(),
    });
    // The threads that this starts have the same priority.
    verify(&inspector, |_, _| {})
}

/// Return the note of an Event about a problem.
fn note(group: &Group) -> String {
    let of = match group.services.first() {
        None => String::new(),
        Some(first) if group.count == 1 => format!(" in Service {first}"),
        Some(first) => format!(" in {} Services, such as {first}", group.count),
    };
    let example: String = group.example.chars().take(MAX_EXAMPLE).collect();
    format!("{}{of}: {example}", group.cause)
}
