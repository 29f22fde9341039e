//! The sync of iptables mode: decides when to read, what to write, and which Service ports to leave
//! out after a rejection. The I/O is behind [`Transport`].

use std::collections::BTreeSet;

use model::IpFamily;
use netfilter::iptables::ParseError;
use plan::{Plan, PortKey};

use super::{Mode, Observation, Options, RuleCounts, Transaction};
use crate::{Found, Refusal, Refusals};

/// The number of rules up to which [`Sync::is_disturbed`] compares every rule. Beyond it only the
/// canaries are checked: reading all rules back would keep a core busy for seconds.
const VERIFY_UP_TO: usize = 20_000;

/// Reads and writes the rules of one family.
pub trait Transport {
    /// Why the rules could not be read or written.
    type Error: std::error::Error + Send + std::marker::Sync + 'static;
    /// The generation of the nf_tables rule set.
    type Generation: Copy + PartialEq;

    /// The present generation, which every commit by any program increments; `None` for a back end
    /// without generations.
    fn generation(&mut self) -> Option<Self::Generation>;

    /// The generation after one commit.
    fn next(generation: Self::Generation) -> Self::Generation;

    /// Read the output of `iptables-save` for the tables mangle, filter and nat.
    ///
    /// # Errors
    /// The rules cannot be read.
    fn read(&mut self) -> Result<String, Self::Error>;

    /// Run `iptables-restore --noflush`.
    ///
    /// # Errors
    /// The input did not take effect, or only its first tables did.
    fn restore(&mut self, input: &str) -> Result<(), Failure<Self::Error>>;
}

/// A failed restore.
#[derive(Debug)]
pub struct Failure<E> {
    /// The cause.
    pub error: E,
    /// Whether the content was rejected, so that some Service port may be at fault. Otherwise the
    /// same input may succeed later.
    pub rejected: bool,
    /// Whether no table was committed.
    pub unchanged: bool,
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
}

/// For each family the generation at which its rules last verified clean; verification is skipped
/// while the rule set has this generation. Shared by the families, since a commit of one family
/// increments the generation that the other compares with.
#[derive(Debug)]
pub struct Verified<G>([Option<G>; 2]);

impl<G> Default for Verified<G> {
    fn default() -> Self {
        Self([None, None])
    }
}

impl<G: Copy + PartialEq> Verified<G> {
    /// Record a restore of our own: if no other program committed in between, a family that was
    /// clean before it still is.
    fn on_restore(&mut self, before: Option<G>, after: Option<G>) {
        for own in &mut self.0 {
            if *own == before {
                *own = after;
            }
        }
    }
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
    Rejected(E),
    Failed(SyncError<E>),
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
        verified: &mut Verified<T::Generation>,
        transport: &mut T,
    ) -> Result<(), SyncError<T::Error>> {
        self.mode.mark_changed(changed.iter().cloned());
        self.rejected.retain(|key| !changed.contains(key));
        let suspects: Vec<PortKey> = changed.iter().cloned().collect();
        self.write(plan, &suspects, verified, transport)
    }

    /// Read the kernel's rules, compare them with the plan and write the difference.
    ///
    /// # Errors
    /// See [`SyncError`].
    pub fn resync<T: Transport>(
        &mut self,
        plan: &Plan,
        verified: &mut Verified<T::Generation>,
        transport: &mut T,
    ) -> Result<(), SyncError<T::Error>> {
        self.rejected.clear();
        let generation = transport.generation();
        let observation = self.read(transport)?;
        self.mode.observe(observation);
        // The restore that follows makes the rules at this generation clean.
        verified.0[self.mode.family() as usize] = generation;
        let suspects: Vec<PortKey> = plan.ports.keys().cloned().collect();
        self.write(plan, &suspects, verified, transport)
    }

    /// Whether another program changed our rules. An unreadable state is not a disturbance.
    pub fn is_disturbed<T: Transport>(
        &mut self,
        plan: &Plan,
        verified: &mut Verified<T::Generation>,
        transport: &mut T,
    ) -> bool {
        let own = self.mode.family() as usize;
        let generation = transport.generation();
        if generation.is_some() && generation == verified.0[own] {
            return false;
        }
        let Ok(observation) = self.read(transport) else {
            return false;
        };
        if !observation.has_canaries() {
            return true;
        }
        let total = self.counts.map_or(0, |c| c.total.filter + c.total.nat);
        if total <= VERIFY_UP_TO {
            self.mode.observe(observation);
            let excluded = self.rejected.keys().cloned().collect();
            match self.mode.transaction(plan, &excluded) {
                Ok(difference) if difference.is_empty() => self.commit(plan, difference),
                _ => return true,
            }
        }
        // Unchanged since before the read: the rules of this generation were read.
        verified.0[own] = generation.filter(|_| transport.generation() == generation);
        false
    }

    fn read<T: Transport>(&self, transport: &mut T) -> Result<Observation, SyncError<T::Error>> {
        let save = transport.read().map_err(SyncError::Read)?;
        Observation::read(self.mode.family(), &save).map_err(SyncError::Parse)
    }

    /// Write the difference to the plan. If the kernel rejects the content, find the Service ports
    /// at fault among `suspects`, leave them out, and write the rest.
    fn write<T: Transport>(
        &mut self,
        plan: &Plan,
        suspects: &[PortKey],
        verified: &mut Verified<T::Generation>,
        transport: &mut T,
    ) -> Result<(), SyncError<T::Error>> {
        let mut excluded: BTreeSet<PortKey> = self.rejected.keys().cloned().collect();
        let error = match self.attempt(plan, &excluded, verified, transport) {
            Attempt::Committed => return Ok(()),
            Attempt::Failed(error) => return Err(error),
            Attempt::Rejected(error) => error,
        };
        // Rejected without the suspects too: they are not at fault.
        excluded.extend(suspects.iter().cloned());
        match self.attempt(plan, &excluded, verified, transport) {
            Attempt::Committed => self.admit(plan, suspects, &mut excluded, verified, transport),
            Attempt::Rejected(_) | Attempt::Failed(_) => Err(SyncError::Write(error)),
        }
    }

    /// Admit the suspects that the kernel accepts, by halves; the others stay excluded.
    fn admit<T: Transport>(
        &mut self,
        plan: &Plan,
        suspects: &[PortKey],
        excluded: &mut BTreeSet<PortKey>,
        verified: &mut Verified<T::Generation>,
        transport: &mut T,
    ) -> Result<(), SyncError<T::Error>> {
        for suspect in suspects {
            excluded.remove(suspect);
        }
        let error = match self.attempt(plan, excluded, verified, transport) {
            Attempt::Committed => return Ok(()),
            Attempt::Failed(error) => return Err(error),
            Attempt::Rejected(error) => error,
        };
        excluded.extend(suspects.iter().cloned());
        if let [culprit] = suspects {
            self.rejected.reject(culprit.clone(), error.to_string());
            return Ok(());
        }
        let (first, second) = suspects.split_at(suspects.len() / 2);
        self.admit(plan, first, excluded, verified, transport)?;
        self.admit(plan, second, excluded, verified, transport)
    }

    /// One restore of the difference to the plan without `excluded`.
    fn attempt<T: Transport>(
        &mut self,
        plan: &Plan,
        excluded: &BTreeSet<PortKey>,
        verified: &mut Verified<T::Generation>,
        transport: &mut T,
    ) -> Attempt<T::Error> {
        let transaction = loop {
            match self.mode.transaction(plan, excluded) {
                Ok(transaction) => break transaction,
                Err(super::NeedsObservation) => match self.read(transport) {
                    Ok(observation) => self.mode.observe(observation),
                    Err(error) => return Attempt::Failed(error),
                },
            }
        };
        self.found = self.found.or(transaction.found);
        if transaction.is_empty() {
            self.commit(plan, transaction);
            return Attempt::Committed;
        }
        let before = transport.generation();
        match transport.restore(&transaction.text) {
            Ok(()) => {
                // Each table is one commit.
                let mut commits = transaction.text.matches("COMMIT\n");
                let after = before.map(|before| commits.by_ref().fold(before, |g, _| T::next(g)));
                if transport.generation() == after {
                    verified.on_restore(before, after);
                }
                self.commit(plan, transaction);
                Attempt::Committed
            }
            Err(failure) => {
                self.mode.failed(transaction, failure.unchanged);
                if failure.rejected {
                    Attempt::Rejected(failure.error)
                } else {
                    Attempt::Failed(SyncError::Write(failure.error))
                }
            }
        }
    }

    fn commit(&mut self, plan: &Plan, transaction: Transaction) {
        self.counts = Some(Counts {
            total: transaction.total,
            written: transaction.written,
        });
        self.mode.committed(plan, transaction);
    }
}
