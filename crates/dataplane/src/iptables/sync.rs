//! The sync of iptables mode: decides when to read, what to write, and which Service ports to leave
//! out after a rejection. The I/O is behind [`Transport`].

use std::collections::BTreeSet;

use model::IpFamily;
use netfilter::iptables::ParseError;
use plan::{Plan, PortKey};

use super::{Mode, Observation, Options, Output, RuleCounts, Transaction};
use crate::{Found, Refusal, Refusals};

/// The number of rules up to which [`Sync::is_disturbed`] compares every rule. Beyond it only the
/// canaries are checked: reading all rules back would keep a core busy for seconds.
const VERIFY_UP_TO: usize = 20_000;
/// How many times the rules are read again because another program changed them.
const ATTEMPTS: usize = 20;

/// Reads and writes the rules of one family.
pub trait Transport {
    /// Why the rules could not be read or written.
    type Error: std::error::Error + Send + std::marker::Sync + 'static;

    /// Read the rules of the tables mangle, filter and nat.
    ///
    /// # Errors
    /// The rules cannot be read.
    fn read(&mut self) -> Result<Observation, ReadError<Self::Error>>;

    /// Begin a write, and return where to write it. If `guarded`, it is refused if another program has
    /// changed rules of this mode since the last read.
    fn begin(&mut self, guarded: bool) -> &mut dyn Output;

    /// Commit the written operations, and return the handles of the tracked rules in order, if the back
    /// end has handles.
    ///
    /// # Errors
    /// The write did not take effect, or only its first parts did.
    fn commit(&mut self) -> Result<Vec<u64>, Failure<Self::Error>>;
}

/// Why rules could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError<E> {
    /// The transport failed.
    #[error(transparent)]
    Transport(E),
    /// The output of `iptables-save` is malformed.
    #[error(transparent)]
    Parse(ParseError),
}

/// A failed write.
#[derive(Debug)]
pub struct Failure<E> {
    /// The cause.
    pub error: E,
    /// The kind.
    pub kind: FailureKind,
    /// Whether nothing of it was committed.
    pub unchanged: bool,
}

/// The kind of a failed write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The content was rejected, so that some Service port may be at fault.
    Rejected,
    /// The known state is not, or may not be, the kernel's: read it again.
    Outdated,
    /// The same write may succeed later.
    Unavailable,
}

/// Why a sync failed. The last committed state stays in force.
#[derive(Debug, thiserror::Error)]
pub enum SyncError<E: std::error::Error + 'static> {
    /// The rules cannot be read.
    #[error("cannot read iptables rules")]
    Read(#[source] E),
    /// The output of `iptables-save` is malformed.
    #[error("cannot parse the output of iptables-save")]
    Parse(#[source] ParseError),
    /// The rules cannot be written, or the kernel rejects rules that belong to no single Service
    /// port.
    #[error("cannot write iptables rules")]
    Write(#[source] E),
    /// Other programs change the rules of this mode faster than they can be read.
    #[error("another program keeps changing rules of kube-proxy's chains")]
    Contended(#[source] E),
}

/// Rules in the kernel and rules written by the last commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Counts {
    pub total: RuleCounts,
    pub written: RuleCounts,
}

/// One family of iptables mode.
#[derive(Debug)]
pub struct Sync {
    mode: Mode,
    /// Service ports that the kernel rejected. They are tried again when they change, and in every
    /// resync.
    rejected: Refusals,
    counts: Option<Counts>,
    found: Option<Found>,
}

/// The result of one restore.
enum Attempt<E: std::error::Error + 'static> {
    Committed,
    /// Rejected; with the state from which the write started.
    Rejected(E, Start),
    Failed(SyncError<E>),
}

/// The state from which a write started.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    Observed,
    Known,
}

impl Sync {
    /// A machine without knowledge of the kernel.
    pub fn new(family: IpFamily, options: Options) -> Self {
        Self {
            mode: Mode::new(family, options),
            rejected: Refusals::default(),
            counts: None,
            found: None,
        }
    }

    /// The Service ports that are left out.
    pub fn refusals(&self) -> Refusals {
        let problems = self.mode.problems().iter();
        let problems = problems.map(|(key, problem)| {
            let refusal = Refusal::Unsupported(problem.to_string());
            (key.clone(), refusal)
        });
        problems.chain(self.rejected.clone()).collect()
    }

    /// Return the state that the first read since the last call found.
    pub fn take_found(&mut self) -> Option<Found> {
        self.found.take()
    }

    /// The rule counts of the last commit; `None` before the first.
    pub fn counts(&self) -> Option<Counts> {
        self.counts
    }

    /// Write the Service ports that changed, and those of earlier failed syncs.
    ///
    /// # Errors
    /// See [`SyncError`]. The next sync includes the same ports.
    pub fn sync<T: Transport>(
        &mut self,
        plan: &Plan,
        changed: &BTreeSet<PortKey>,
        transport: &mut T,
    ) -> Result<(), SyncError<T::Error>> {
        self.mode.mark_changed(changed.iter().cloned());
        self.rejected.retain(|key| !changed.contains(key));
        let suspects: Vec<PortKey> = changed.iter().cloned().collect();
        self.write(plan, &suspects, transport)
    }

    /// Read the kernel's rules, compare them with the plan and write the difference.
    ///
    /// # Errors
    /// See [`SyncError`].
    pub fn resync<T: Transport>(
        &mut self,
        plan: &Plan,
        transport: &mut T,
    ) -> Result<(), SyncError<T::Error>> {
        self.rejected.clear();
        let observation = read(transport)?;
        self.mode.observe(observation);
        let suspects: Vec<PortKey> = plan.ports.keys().cloned().collect();
        self.write(plan, &suspects, transport)
    }

    /// Whether another program changed our rules. An unreadable state is not a disturbance. For back
    /// ends that do not report changes.
    pub fn is_disturbed<T: Transport>(&mut self, plan: &Plan, transport: &mut T) -> bool {
        let Ok(observation) = read(transport) else {
            return false;
        };
        if !observation.has_canaries() {
            return true;
        }
        let total = self.counts.map_or(0, |c| c.total.filter + c.total.nat);
        if total > VERIFY_UP_TO {
            return false;
        }
        self.mode.observe(observation);
        let excluded = self.rejected.keys().cloned().collect();
        let output = transport.begin(true);
        match self.mode.transaction(plan, &excluded, output) {
            Ok(difference) if difference.is_empty() => {
                self.commit(plan, difference, &[]);
                false
            }
            _ => true,
        }
    }

    /// Write the difference to the plan. If the kernel rejects the content, find the Service ports
    /// at fault among `suspects`, leave them out, and write the rest.
    fn write<T: Transport>(
        &mut self,
        plan: &Plan,
        suspects: &[PortKey],
        transport: &mut T,
    ) -> Result<(), SyncError<T::Error>> {
        let mut excluded: BTreeSet<PortKey> = self.rejected.keys().cloned().collect();
        let mut attempt = self.attempt(plan, &excluded, transport);
        if let Attempt::Rejected(_, Start::Known) = attempt {
            // Another program may have deleted what the write refers to.
            self.mode.forget();
            attempt = self.attempt(plan, &excluded, transport);
        }
        let error = match attempt {
            Attempt::Committed => return Ok(()),
            Attempt::Failed(error) => return Err(error),
            Attempt::Rejected(error, _) => error,
        };
        // Rejected without the suspects too: they are not at fault.
        excluded.extend(suspects.iter().cloned());
        match self.attempt(plan, &excluded, transport) {
            Attempt::Committed => self.admit(plan, suspects, &mut excluded, transport),
            Attempt::Rejected(..) | Attempt::Failed(_) => Err(SyncError::Write(error)),
        }
    }

    /// Admit the suspects that the kernel accepts, by halves; the others stay excluded.
    fn admit<T: Transport>(
        &mut self,
        plan: &Plan,
        suspects: &[PortKey],
        excluded: &mut BTreeSet<PortKey>,
        transport: &mut T,
    ) -> Result<(), SyncError<T::Error>> {
        for suspect in suspects {
            excluded.remove(suspect);
        }
        let error = match self.attempt(plan, excluded, transport) {
            Attempt::Committed => return Ok(()),
            Attempt::Failed(error) => return Err(error),
            Attempt::Rejected(error, _) => error,
        };
        excluded.extend(suspects.iter().cloned());
        if let [culprit] = suspects {
            self.rejected.reject(culprit.clone(), error.to_string());
            return Ok(());
        }
        let (first, second) = suspects.split_at(suspects.len() / 2);
        self.admit(plan, first, excluded, transport)?;
        self.admit(plan, second, excluded, transport)
    }

    /// Write the difference to the plan without `excluded`. Read the kernel's state if it is not known,
    /// and again if it is outdated.
    fn attempt<T: Transport>(
        &mut self,
        plan: &Plan,
        excluded: &BTreeSet<PortKey>,
        transport: &mut T,
    ) -> Attempt<T::Error> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            if self.mode.needs_observation() {
                match read(transport) {
                    Ok(observation) => self.mode.observe(observation),
                    Err(error) => return Attempt::Failed(error),
                }
            }
            let output = transport.begin(self.mode.has_observation());
            let Ok(transaction) = self.mode.transaction(plan, excluded, output) else {
                continue;
            };
            self.found = self.found.or(transaction.found);
            if transaction.is_empty() {
                self.commit(plan, transaction, &[]);
                return Attempt::Committed;
            }
            let failure = match transport.commit() {
                Ok(handles) => {
                    self.commit(plan, transaction, &handles);
                    return Attempt::Committed;
                }
                Err(failure) => failure,
            };
            let start = match transaction.observed {
                true => Start::Observed,
                false => Start::Known,
            };
            self.mode.failed(transaction, failure.unchanged);
            match failure.kind {
                FailureKind::Outdated if attempt < ATTEMPTS => self.mode.forget(),
                FailureKind::Outdated => {
                    self.mode.forget();
                    return Attempt::Failed(SyncError::Contended(failure.error));
                }
                FailureKind::Rejected => return Attempt::Rejected(failure.error, start),
                FailureKind::Unavailable => {
                    return Attempt::Failed(SyncError::Write(failure.error));
                }
            }
        }
    }

    fn commit(&mut self, plan: &Plan, transaction: Transaction, handles: &[u64]) {
        self.counts = Some(Counts {
            total: transaction.total,
            written: transaction.written,
        });
        self.mode.committed(plan, transaction, handles);
    }
}

fn read<T: Transport>(transport: &mut T) -> Result<Observation, SyncError<T::Error>> {
    transport.read().map_err(|error| match error {
        ReadError::Transport(error) => SyncError::Read(error),
        ReadError::Parse(error) => SyncError::Parse(error),
    })
}
