//! The iptables mode at the kernel: one restore a sync, and what to do when it is refused.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

use dataplane::Refusal;
use dataplane::Refusals;
use dataplane::iptables::{Mode, Observation, Options, Transaction};
use kernel::iptables::{Iptables, RestoreError};
use kernel::nfnetlink::Generation;
use model::IpFamily;
use netfilter::iptables::Table;
use plan::{Plan, PortKey};

use super::driver::{Driver, RuleCount, SyncError, Synced};
use super::pending::diff_of;

/// The tables that this mode writes to.
const TABLES: [Table; 3] = [Table::Mangle, Table::Filter, Table::Nat];

/// Above this many rules only the canaries are looked at between full syncs: reading all rules
/// back would keep a core busy for seconds.
const VERIFY_UP_TO: usize = 20_000;

/// For each family, the back end's generation at which a look at its rules had nothing to object to.
/// As long as it lasts there is no need to look again, which takes seconds with many rules. The
/// families share the generation, so that what one of them writes is no news to the other.
pub(crate) type SharedGood = Rc<Cell<[Option<Generation>; 2]>>;

/// One family of the iptables mode.
pub(crate) struct IptablesDriver {
    family: IpFamily,
    rules: Iptables,
    mode: Mode,
    /// Service ports that the kernel refused, with its words. They are tried again when they
    /// change, and in every full sync.
    refused: Refusals,
    good: SharedGood,
    last: Option<[RuleCount; 2]>,
}

/// Why a transaction did not take effect.
enum Failure {
    /// The kernel does not take what is in it: somebody is at fault.
    Content(String),
    /// Something else; the same transaction may go through later.
    Other(String),
}

impl IptablesDriver {
    /// A driver that knows nothing of the kernel yet.
    pub(crate) fn new(
        family: IpFamily,
        rules: Iptables,
        options: Options,
        good: SharedGood,
    ) -> Self {
        Self {
            family,
            rules,
            mode: Mode::new(family, options),
            refused: Refusals::default(),
            good,
            last: None,
        }
    }

    fn error(reason: String) -> SyncError {
        SyncError::failed("cannot program iptables")(reason)
    }

    /// What is in the kernel now.
    fn read(&mut self) -> Result<Observation, String> {
        let mut text = String::new();
        for table in TABLES {
            let saved = self.rules.save(table).map_err(|e| e.to_string())?;
            text.push_str(&String::from_utf8_lossy(&saved));
        }
        Observation::read(self.family, &text)
            .map_err(|e| format!("cannot understand what iptables-save says: {e}"))
    }

    /// Writes everything that the mode wants. Where the kernel refuses it for its content, looks
    /// for the Service ports at fault among `suspects`, leaves them out, and writes the rest.
    fn write(&mut self, suspects: &[PortKey]) -> Result<Synced, SyncError> {
        let excluded: BTreeSet<PortKey> = self.refused.keys().cloned().collect();
        match self.attempt(&excluded) {
            Ok(()) => {}
            Err(Failure::Other(reason)) => return Err(Self::error(reason)),
            Err(Failure::Content(reason)) => {
                // If it is refused without the suspects too, they are not at fault.
                let mut without = excluded;
                without.extend(suspects.iter().cloned());
                match self.attempt(&without) {
                    Ok(()) => {}
                    Err(Failure::Content(_) | Failure::Other(_)) => {
                        return Err(Self::error(reason));
                    }
                }
                self.admit(suspects, &mut without)?;
            }
        }
        Ok(self.synced())
    }

    /// Admits those suspects that the kernel takes, by halves; the others stay excluded.
    fn admit(
        &mut self,
        suspects: &[PortKey],
        excluded: &mut BTreeSet<PortKey>,
    ) -> Result<(), SyncError> {
        for suspect in suspects {
            excluded.remove(suspect);
        }
        let reason = match self.attempt(excluded) {
            Ok(()) => return Ok(()),
            Err(Failure::Other(reason)) => return Err(Self::error(reason)),
            Err(Failure::Content(reason)) => reason,
        };
        excluded.extend(suspects.iter().cloned());
        if let [culprit] = suspects {
            self.refused.reject(culprit.clone(), reason);
            return Ok(());
        }
        let (first, second) = suspects.split_at(suspects.len() / 2);
        self.admit(first, excluded)?;
        self.admit(second, excluded)
    }

    /// One restore of all that is wanted but for `excluded`.
    fn attempt(&mut self, excluded: &BTreeSet<PortKey>) -> Result<(), Failure> {
        if self.mode.needs_observation() {
            let observation = self.read().map_err(Failure::Other)?;
            self.mode.observe(observation);
        }
        let transaction = self
            .mode
            .transaction(excluded)
            .map_err(|e| Failure::Other(e.to_string()))?;
        if transaction.is_empty() {
            self.commit(transaction);
            return Ok(());
        }
        let before = self.rules.generation();
        match self.rules.restore(transaction.text.as_bytes()) {
            Ok(()) => {
                // The commit of a table is a generation: with no more of them nobody came in between.
                let commits = transaction.text.matches("COMMIT\n");
                let after = commits.fold(before, |generation, _| generation.map(Generation::next));
                if self.rules.generation() == after {
                    let good = self.good.get();
                    let next = |good| if good == before { after } else { good };
                    self.good.set(good.map(next));
                }
                self.commit(transaction);
                Ok(())
            }
            Err(error) => {
                let untouched = error.tables_committed() == Some(0);
                self.mode.refused(transaction, untouched);
                Err(match error {
                    RestoreError::BadInput { .. } | RestoreError::Refused { .. } => {
                        Failure::Content(error.to_string())
                    }
                    _ => Failure::Other(error.to_string()),
                })
            }
        }
    }

    fn commit(&mut self, transaction: Transaction) {
        let count = |table, total, written| RuleCount {
            table,
            total,
            written,
        };
        self.last = Some([
            count(
                "filter",
                transaction.total.filter,
                transaction.written.filter,
            ),
            count("nat", transaction.total.nat, transaction.written.nat),
        ]);
        self.mode.committed(transaction);
    }

    fn synced(&self) -> Synced {
        let problems = self.mode.problems().iter();
        let refused = self.refused.iter();
        Synced {
            quarantined: problems
                .map(|(key, problem)| (key.clone(), Refusal::Unsupported(problem.to_string())))
                .chain(refused.map(|(key, reason)| (key.clone(), reason.clone())))
                .collect(),
            rules: self.last.iter().flatten().cloned().collect(),
        }
    }
}

impl Driver for IptablesDriver {
    fn sync(&mut self, plan: &Plan, changed: &BTreeSet<PortKey>) -> Result<Synced, SyncError> {
        self.mode.apply(&diff_of(plan, self.mode.plan(), changed));
        for key in changed {
            self.refused.remove(key);
        }
        let changed: Vec<PortKey> = changed.iter().cloned().collect();
        self.write(&changed)
    }

    fn resync(&mut self, plan: &Plan) -> Result<Synced, SyncError> {
        self.mode.replace_plan(plan);
        self.refused.clear();
        let generation = self.rules.generation();
        let observation = self.read().map_err(Self::error)?;
        self.mode.observe(observation);
        // What is written next makes the best of what was seen.
        let mut good = self.good.get();
        good[self.family as usize] = generation;
        self.good.set(good);
        let all: Vec<PortKey> = plan.ports.keys().cloned().collect();
        self.write(&all)
    }

    fn disturbed(&mut self, _: &Plan) -> bool {
        let generation = self.rules.generation();
        let mut good = self.good.get();
        let own = &mut good[self.family as usize];
        if generation.is_some() && generation == *own {
            return false;
        }
        // Not being able to look is no sign of anything; the next sync will tell.
        let Ok(observation) = self.read() else {
            return false;
        };
        if !observation.has_canaries() {
            return true;
        }
        let total: usize = self.last.iter().flatten().map(|r| r.total).sum();
        if total <= VERIFY_UP_TO {
            self.mode.observe(observation);
            let excluded = self.refused.keys().cloned().collect();
            match self.mode.transaction(&excluded) {
                Ok(difference) if difference.is_empty() => self.commit(difference),
                _ => return true,
            }
        }
        *own = generation.filter(|_| self.rules.generation() == generation);
        self.good.set(good);
        false
    }
}
